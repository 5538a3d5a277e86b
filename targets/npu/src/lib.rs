//! The NPU target: linear algebra of a model as designs for the AI Engine array of AMD's NPUs, emitted as MLIR-AIE.
//!
//! [`mod@array`] is the array as data, [`cost`] predicts products on it. With the feature `mlir`: `regions` finds what of
//! a program becomes designs, `design` holds the designs, `aie` builds ops of the AIE dialects; `module` reads a module's
//! text back, `irdl` and `legality` hold it to the dialects and to the array's limits, `simulator` executes it. The last
//! four take text alone: nothing that wrote it is trusted. Nothing here knows the runtime or a model.

#[cfg(feature = "mlir")]
pub mod aie;
#[cfg(feature = "mlir")]
pub mod allocation;
pub mod array;
pub mod cost;
#[cfg(feature = "mlir")]
pub mod design;
#[cfg(feature = "mlir")]
pub mod irdl;
#[cfg(feature = "mlir")]
pub mod legality;
#[cfg(feature = "mlir")]
pub mod mlir;
#[cfg(feature = "mlir")]
pub mod module;
#[cfg(feature = "mlir")]
pub mod regions;
#[cfg(feature = "mlir")]
pub mod simulator;
