//! What kernels over few rows share: how a matrix is cut into units, blocks and slices, and what happens to the sums.

use super::tuning::GemvTuning;
use crate::bindings::Bindings;
use crate::constants;
use crate::kernel::Constants;
use crate::lowering::Piece;
use crate::rows::literal;
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::Needs;
use gembin_bundle::layout::{self, Format};
use gembin_bundle::manifest::WeightEntry;

/// Units of a row of a matrix: as many neighbouring words as are in flight together, a group of a quantized one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Units {
    /// Words of a unit.
    pub(crate) words: u32,
    /// Units of a row.
    pub(crate) count: u32,
    /// Vectors of four activations that a unit of a float format meets.
    pub(crate) vectors: u32,
}

impl Units {
    /// Of rows of `cols` columns.
    pub(crate) fn new(format: Format, cols: u32) -> Self {
        let words = match format {
            Format::Q8 | Format::F32 | Format::F16 | Format::Bf16 => 8,
            Format::Q4 => 4,
        };
        Self {
            words,
            count: (format.words(cols) as u32).div_ceil(words),
            vectors: words * format.values_per_word() / 4,
        }
    }
}

/// The name and the template constants of an epilogue: whether it is GeGLU, the soft cap or zero.
pub(crate) fn epilogue(epilogue: Epilogue) -> (String, bool, f32) {
    match epilogue {
        Epilogue::None => (String::new(), false, 0.0),
        Epilogue::Geglu => (" geglu".to_owned(), true, 0.0),
        Epilogue::Softcap { cap } => (format!(" softcap {cap:?}"), false, cap),
    }
}

/// Binds a piece of the matrix and the result; constants of the templates `unit`, `turns` and `finish`.
pub(crate) fn constants(
    step: &LinearStep,
    weight: &WeightEntry,
    piece: &Piece,
    tuning: GemvTuning,
    rows_tile: u32,
    bindings: &mut Bindings,
) -> Constants {
    let format = weight.format;
    let units = Units::new(format, weight.cols);
    let b_data = bindings.data(step.weight, piece, false);
    let b_scales = match format.is_quantized() {
        true => bindings.scales(step.weight, piece, false),
        false => 0,
    };
    let b_out = bindings.write(step.out);
    let (_, geglu, cap) = epilogue(step.epilogue);
    let turns = units.count.div_ceil(tuning.slices);
    constants! {
        threads: tuning.threads(),
        blocks: tuning.blocks,
        slices: tuning.slices,
        depth: tuning.depth.min(turns),
        turns: turns,
        rows_tile: rows_tile,
        format: format.name(),
        quantized: format.is_quantized(),
        units: units.count,
        unit_words: units.words,
        unit_vectors: units.vectors,
        words: format.words(weight.cols),
        row_blocks: layout::row_blocks(piece.rows),
        pieces: piece.rows != weight.rows,
        geglu: geglu,
        has_cap: cap != 0.0,
        cap: literal(cap),
        out_cols: step.out.cols,
        b_data: b_data,
        b_scales: b_scales,
        b_out: b_out,
    }
}

/// Push constants of a dispatch over a piece: its first row, if the matrix has more.
pub(crate) fn immediates(weight: &WeightEntry, piece: &Piece) -> Vec<u32> {
    match piece.rows == weight.rows {
        true => Vec::new(),
        false => vec![piece.first_row],
    }
}

/// Ways to multiply in a format, best first: their names and what they need.
pub(crate) fn variants(format: Format) -> Vec<(&'static str, Needs)> {
    let portable = ("portable", Needs::default());
    let dot4 = Needs {
        int_dot: true,
        ..Needs::default()
    };
    match format {
        Format::Q8 | Format::Q4 => vec![("dot4", dot4), portable],
        Format::F32 | Format::F16 | Format::Bf16 => vec![portable],
    }
}
