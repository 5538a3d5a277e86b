//! gembin's passes: rewrites of the IR, a file or folder each, and the pipeline that orders them.
//!
//! A pass is a free function over `&mut Module`. It expects a module that verifies and leaves one that does, does the
//! same for the same module every time, and says in its own file what it matches and what it keeps. Every pass but
//! [`quantize()`] keeps what the module computes; that one changes only the values weights and caches can hold.
//!
//! [`quant`] holds the arithmetic of the quantized formats; the packer calls it when weights are written.
//!
//! Knows nothing of files, devices or kernels: what a target needs from planning comes through [`Scratch`].

mod derived;
mod graph;

pub mod fold_norm_offsets;
pub mod fuse;
pub mod lay_out;
pub mod pipeline;
pub mod plan_memory;
pub mod quant;
pub mod quantize;
pub mod sink_select;

pub use fold_norm_offsets::fold_norm_offsets;
pub use fuse::fuse;
pub use lay_out::lay_out;
pub use pipeline::{PASSES, Pass, PassError, Stage, run_until};
pub use plan_memory::{PlanError, PlanReport, Scratch, plan_memory};
pub use quantize::{QuantOptions, quantize};
pub use sink_select::sink_select;
