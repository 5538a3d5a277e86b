//! One row by a matrix in one dispatch.

use super::matrix;
use super::prologue::{Prologue, Use, extended};
use super::tuning::{GemvShape, GemvTuning};
use crate::attention::{Partials, SPLITS};
use crate::bindings::Bindings;
use crate::error::LowerError;
use crate::kernel::Spec;
use crate::lowering::{Lowering, Piece, pieces};
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::Extent;
use gembin_bundle::manifest::Buffer;

/// Workgroup memory that a kernel may take.
const MAX_WORKGROUP_BYTES: u32 = 32 << 10;

/// Lowers a step of one row; false if its row does not fit into workgroup memory, and nothing was done.
pub(crate) fn gemv(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<bool, LowerError> {
    let weight = l.weight(step.weight);
    let stored = stored_vectors(l, step, parts);
    let tuning = |piece: &Piece| {
        GemvTuning::for_shape(GemvShape {
            format: weight.format,
            rows: piece.rows,
            cols: weight.cols,
            geglu: step.epilogue == Epilogue::Geglu,
            rows_tile: 1,
        })
    };
    let fits = |piece: &Piece| {
        let bytes = workgroup_bytes(tuning(piece), stored, weight.format.is_quantized(), parts);
        bytes <= MAX_WORKGROUP_BYTES
    };
    let pieces = pieces(weight);
    if !pieces.iter().all(fits) {
        return Ok(false);
    }
    for piece in &pieces {
        dispatch(l, label, step, parts, piece, tuning(piece), stored)?;
    }
    Ok(true)
}

/// Vectors of four activations that are kept in workgroup memory: none if they can be read as they are.
fn stored_vectors(l: &Lowering<'_>, step: &LinearStep, parts: Option<Partials>) -> u32 {
    let weight = l.weight(step.weight);
    let units = matrix::Units::new(weight.format, weight.cols);
    if weight.format.is_quantized() {
        return units.count * 8;
    }
    let as_they_are = parts.is_none()
        && step.post_norm.is_none()
        && step.residual.is_none()
        && step.norm.is_none();
    match as_they_are {
        true => 0,
        false => units.count * units.vectors,
    }
}

/// What the template declares.
fn workgroup_bytes(
    tuning: GemvTuning,
    stored_vectors: u32,
    quantized: bool,
    parts: Option<Partials>,
) -> u32 {
    let row = match quantized {
        true => stored_vectors * 4 + stored_vectors / 8 * 4,
        false => stored_vectors * 16,
    };
    let threads = tuning.threads();
    let totals = 3 * threads / 8 * 4;
    let sums = threads / 2 * 16;
    let factors = parts.map_or(0, |parts| (SPLITS + 1) * parts.heads * 4);
    row + totals + sums + factors
}

fn dispatch(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
    piece: &Piece,
    tuning: GemvTuning,
    stored_vectors: u32,
) -> Result<(), LowerError> {
    let weight = l.weight(step.weight);
    let mut bindings = Bindings::default();
    let used = Use {
        threads: tuning.threads(),
        stored_vectors,
        two_passes: false,
        // All pieces compute the same; were each to store it, they would wait for each other.
        stores_sum: piece.first_row == 0,
    };
    let prologue = Prologue::new(l, step, parts, used, &mut bindings);
    // One row: what belongs to a piece lies together, and pieces need not wait for each other.
    let columns = |rows: u32| match step.epilogue {
        Epilogue::Geglu => rows / 2,
        Epilogue::None | Epilogue::Softcap { .. } => rows,
    };
    let first = columns(piece.first_row);
    let out = Buffer {
        offset: step.out.offset + u64::from(first) * 4,
        cols: columns(piece.rows).min(step.out.cols - first),
        ..step.out
    };
    let result = matrix::Result::Own(out);
    let matrix = matrix::constants(step, weight, piece, tuning, 1, result, &mut bindings);
    let (epilogue, ..) = matrix::epilogue(step.epilogue);
    let name = format!(
        "gemv {} {} of {}x{}{epilogue} out {} {}",
        weight.format.name(),
        piece.rows,
        weight.rows,
        prologue.name,
        out.cols,
        tuning.name(),
    );
    let constants = extended(prologue.constants, &matrix);
    let variants = matrix::ways(weight.format)
        .iter()
        .map(|way| way.variant("gemv", &constants, [tuning.blocks, 1, 1]))
        .collect();
    let spec = Spec {
        name,
        bindings: bindings.needs,
        variants,
    };
    let work = [
        Extent::Fixed(gembin_bundle::layout::row_blocks(piece.rows) as u32),
        Extent::Rows(step.out.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}
