//! gembin's tensor IR: what a model computes, before and after every pass.
//!
//! A [`Module`] declares symbolic dimensions, weights, KV caches and functions. A [`Function`] is a list of ops in
//! SSA form over tensors. Every stage of the compiler is a `Module`; it prints to `.gir` text that parses back to the
//! same module, is checked by the verifier after every pass, and can be evaluated by a slow f32 interpreter that is
//! the oracle of every numeric test.
//!
//! Knows nothing of files, devices or model configurations.

pub mod builder;
pub mod entity;
pub mod interp;
pub mod module;
pub mod ops;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;

pub use builder::FunctionBuilder;
pub use entity::{CacheId, ValueId, WeightId};
pub use module::{
    Cache, DimBounds, Function, Layout, Module, Op, Place, Value, Weight, WeightExpr,
};
pub use ops::{Attr, Epilogue, OpKind, TypeFault};
pub use types::{DType, Dim, TensorType};
pub use verify::Verified;
