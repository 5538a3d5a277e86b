//! Typed builders of MLIR-AIE modules: one place for each op.
//!
//! [`Device`] makes what stands on the array (tiles, object FIFOs, links, cores, run-time sequences), [`Body`] what runs
//! inside a core. They own how ops are spelled, and how that differs between versions of the dialect; what a design
//! consists of is `design`'s.

mod body;
mod choices;
mod device;
mod lanes;
mod ops;

pub use body::{Body, Element};
pub use device::{Device, EmitError, Fifo, Port, Sequence, TileRef, Transfer, emit};
pub use lanes::Compare;
pub use ops::Step;

/// Which text of the dialect is written: it changes, and the vendor's compiler reads one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DialectVersion {
    /// Until August 2026: acquiring returns a view whose elements are then accessed.
    #[default]
    Subviews,
    /// Later: acquiring one element returns its memory.
    Elements,
}
