//! What kernels over few rows share: how a matrix is cut into units, blocks and slices, and what happens to the sums.

use super::prologue::extended;
use super::tuning::GemvTuning;
use crate::bindings::Bindings;
use crate::constants;
use crate::kernel::{Constants, VariantSpec};
use crate::lowering::Piece;
use crate::rows::literal;
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::Needs;
use gembin_bundle::layout::{self, Format};
use gembin_bundle::manifest::{Buffer, WeightEntry};

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

/// Loads of an invocation that are written out one after the other; a loop keeps registers for fewer.
const UNROLLED_LOADS: u32 = 32;

/// The name and the template constants of an epilogue: whether it is GeGLU, the soft cap or zero.
pub(crate) fn epilogue(epilogue: Epilogue) -> (String, bool, f32) {
    match epilogue {
        Epilogue::None => (String::new(), false, 0.0),
        Epilogue::Geglu => (" geglu".to_owned(), true, 0.0),
        Epilogue::Softcap { cap } => (format!(" softcap {cap:?}"), false, cap),
    }
}

/// What a dispatch over a piece writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Result {
    /// The whole result, from the piece's first row on, which push constants tell.
    Whole,
    /// What belongs to the piece, as a buffer of its own.
    Own(Buffer),
}

/// Binds a piece of the matrix and the result; constants of the templates `unit`, `turns` and `finish`.
pub(crate) fn constants(
    step: &LinearStep,
    weight: &WeightEntry,
    piece: &Piece,
    tuning: GemvTuning,
    rows_tile: u32,
    result: Result,
    bindings: &mut Bindings,
) -> Constants {
    let format = weight.format;
    let units = Units::new(format, weight.cols);
    let b_data = bindings.data(step.weight, piece, false);
    let b_scales = match format.is_quantized() {
        true => bindings.scales(step.weight, piece, false),
        false => 0,
    };
    let (out, is_own) = match result {
        Result::Whole => (step.out, false),
        Result::Own(out) => (out, true),
    };
    let b_out = bindings.write(out);
    let (_, geglu, cap) = epilogue(step.epilogue);
    let turns = units.count.div_ceil(tuning.slices);
    constants! {
        threads: tuning.threads(),
        blocks: tuning.blocks,
        slices: tuning.slices,
        depth: tuning.depth.min(turns),
        turns: turns,
        unrolled: rows_tile == 1 && turns * units.words <= UNROLLED_LOADS,
        rows_tile: rows_tile,
        format: format.name(),
        quantized: format.is_quantized(),
        units: units.count,
        unit_words: units.words,
        unit_vectors: units.vectors,
        words: format.words(weight.cols),
        row_blocks: layout::row_blocks(piece.rows),
        pieces: !is_own && piece.rows != weight.rows,
        geglu: geglu,
        has_cap: cap != 0.0,
        cap: literal(cap),
        out_cols: out.cols,
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

/// A way to compile a kernel.
pub(crate) struct Way {
    name: &'static str,
    needs: Needs,
    /// Subgroup size, if it is made for one.
    subgroup: Option<u32>,
}

/// Subgroups that twice as many fit of as of the widest, with the same registers an invocation; NVIDIA has no other.
const NARROW: u32 = 32;

/// Ways to multiply in a format, best first.
pub(crate) fn ways(format: Format) -> Vec<Way> {
    let dot4 = Needs {
        int_dot: true,
        ..Needs::default()
    };
    let way = |name, needs, subgroup| Way {
        name,
        needs,
        subgroup,
    };
    match format {
        Format::Q8 | Format::Q4 => vec![
            way("dot4-32", dot4, Some(NARROW)),
            way("dot4", dot4, None),
            way("portable", Needs::default(), None),
        ],
        Format::F32 | Format::F16 | Format::Bf16 => vec![
            way("portable-32", Needs::default(), Some(NARROW)),
            way("portable", Needs::default(), None),
        ],
    }
}

impl Way {
    /// The variant of a template over such tiles.
    pub(crate) fn variant(
        &self,
        template: &'static str,
        constants: &Constants,
        tile: [u32; 3],
    ) -> VariantSpec {
        let constants = extended(
            constants.clone(),
            &constants! { subgroup: self.subgroup.unwrap_or(0) },
        );
        VariantSpec {
            name: self.name,
            template,
            constants,
            needs: self.needs,
            subgroup: self.subgroup,
            tile,
            activations: None,
        }
    }
}
