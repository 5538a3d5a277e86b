//! How much of a matrix a workgroup of the kernels over few rows takes.

use super::matrix::Units;
use gembin_bundle::layout::{self, Format};

/// Invocations of a workgroup: fewer would take longer for the prologue, which every workgroup repeats; more leave less
/// room for the next workgroup.
const THREADS: u32 = 256;
/// Invocations where a workgroup has one block of long rows: more of them are loaded at once.
const DEEP_THREADS: u32 = 512;
/// Units of a long row.
const LONG_ROW_UNITS: u32 = 128;
/// Workgroups that keep a large device busy: below this, smaller ones are better.
const ENOUGH_GROUPS: u32 = 100;
/// Most blocks of a workgroup.
const MOST_BLOCKS: u32 = 8;

/// Shape of a matrix, as far as tuning is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GemvShape {
    /// Format of its values.
    pub format: Format,
    /// Rows, or rows of the piece.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Whether blocks belong together in pairs.
    pub geglu: bool,
    /// Rows of activations that are multiplied at once: their sums fill an invocation's registers.
    pub rows_tile: u32,
}

/// How a workgroup's invocations are laid over a matrix: four a block of 16 rows, each with four neighbouring rows, and
/// as many such slices of the columns.
///
/// The default, [`GemvTuning::for_shape`]: blocks so many that the row's prologue, which every workgroup repeats, is
/// amortised, but at least `ENOUGH_GROUPS` workgroups remain; as many slices as make `THREADS` invocations, or
/// `DEEP_THREADS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GemvTuning {
    /// Blocks of 16 rows of a workgroup; even for GeGLU.
    pub blocks: u32,
    /// Slices of the columns, a power of two.
    pub slices: u32,
    /// Units (32 columns of a quantized row quad) that an invocation has on their way: 8 loads of 16 bytes for q8, 4 for q4.
    pub depth: u32,
}

impl GemvTuning {
    /// The default for a shape.
    pub fn for_shape(shape: GemvShape) -> Self {
        let row_blocks = layout::row_blocks(shape.rows) as u32;
        let least = if shape.geglu { 2 } else { 1 };
        let mut blocks = least;
        while blocks < MOST_BLOCKS && row_blocks / (2 * blocks) >= ENOUGH_GROUPS {
            blocks *= 2;
        }
        let units = Units::new(shape.format, shape.cols).count;
        // Places of the units of a slice, of which the last turn leaves some empty.
        let places = |threads: u32| units.next_multiple_of(threads / (4 * blocks));
        let fills = places(DEEP_THREADS) <= places(THREADS);
        let threads = match shape.rows_tile == 1 && blocks == 1 && units >= LONG_ROW_UNITS && fills
        {
            true => DEEP_THREADS,
            false => THREADS,
        };
        let slices = threads / (4 * blocks);
        let depth = match shape.format {
            Format::Q4 => 2,
            Format::Q8 | Format::F32 | Format::F16 | Format::Bf16 => 1,
        };
        Self {
            blocks,
            slices,
            depth,
        }
    }

    /// Invocations of a workgroup.
    pub fn threads(self) -> u32 {
        4 * self.blocks * self.slices
    }

    /// What distinguishes it in a kernel's name.
    pub(crate) fn name(self) -> String {
        format!("tile {}x{}x{}", self.blocks, self.slices, self.depth)
    }
}
