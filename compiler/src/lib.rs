//! gemc's library: from a checkpoint's directory to a bundle.
//!
//! [`pipeline::compile`] reads as the whole story: import, passes, lowering, packing, reference run, commit to disk.

pub mod aiecc;
pub mod assemble;
pub mod atomic_file;
pub mod import;
pub mod isa;
pub mod pack;
pub mod pipeline;
pub mod progress;
pub mod reference;
pub mod synth;
