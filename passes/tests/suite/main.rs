//! The passes from outside: text in and text out, and what modules compute before and after.

mod fixtures;
mod gemma;
mod meaning;
mod plans;
mod random;
mod weights;
