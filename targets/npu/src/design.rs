//! Designs: what the array computes, as data first and as modules second.
//!
//! All designs speak of activations in **panels**: 8 tokens side by side, feature after feature, `[tokens/8][features]
//! [8]`. With the weights as the left operand of the matrix unit and a panel as the right one, neither operand is ever
//! transposed: a block of weights as it lies in the bundle is `[rows][depth]`, a piece of a panel `[depth][tokens]`, and
//! what comes out is a piece of a panel again. What works along features (norms, gates, rotation) works on whole vectors
//! of 8 tokens.

pub mod attention;
pub mod gelu;
pub mod linear;
pub mod prepare;
mod random;
pub mod rope;
#[cfg(test)]
mod snapshot;
pub mod vector;

#[cfg(test)]
mod layer_tests;
