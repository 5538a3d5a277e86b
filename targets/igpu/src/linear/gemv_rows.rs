//! A few prepared rows by a matrix, whose words are read once for them.

use super::matrix;
use super::prologue::extended;
use super::tuning::{GemvShape, GemvTuning};
use super::{activations, prepare};
use crate::attention::Partials;
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::Spec;
use crate::lowering::{Lowering, Piece, pieces};
use crate::rows::set_name;
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::Extent;
use gembin_bundle::layout;
use gembin_bundle::manifest::Buffer;

/// Most rows that share a pass over the weights.
const MAX_ROWS_TILE: u32 = 8;

/// Prepares the rows and multiplies them.
pub(crate) fn gemv_rows(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<(), LowerError> {
    let weight = l.weight(step.weight);
    let rows = match weight.format.is_quantized() {
        true => {
            let int8 = prepare::int8(l, label, step, parts)?;
            Rows {
                data: int8.data,
                padded_groups: int8.groups,
            }
        }
        false => Rows {
            data: prepare::f32(l, label, step, parts)?.data,
            padded_groups: 0,
        },
    };
    for piece in &pieces(weight) {
        dispatch(l, label, step, &rows, piece)?;
    }
    Ok(())
}

/// Prepared rows, in the form that the weight's format asks for.
struct Rows {
    data: Buffer,
    /// Groups of a row of int8.
    padded_groups: u32,
}

fn dispatch(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    rows: &Rows,
    piece: &Piece,
) -> Result<(), LowerError> {
    let weight = l.weight(step.weight);
    let tuning = GemvTuning::for_shape(GemvShape {
        format: weight.format,
        rows: piece.rows,
        cols: weight.cols,
        geglu: step.epilogue == Epilogue::Geglu,
        // Two and more are alike.
        rows_tile: 2,
    });
    let set = step.out.rows;
    let rows_tile = l.max_rows(set).min(MAX_ROWS_TILE);
    let mut bindings = Bindings::default();
    let b_call = bindings.call();
    let b_x = bindings.read(rows.data);
    let matrix = matrix::constants(
        step,
        weight,
        piece,
        tuning,
        rows_tile,
        matrix::Result::Whole,
        &mut bindings,
    );
    let constants = extended(
        matrix,
        &constants! {
            call_binding: b_call,
            rows: set_name(set),
            b_x: b_x,
            row_vectors: rows.data.cols / 4,
            padded_groups: rows.padded_groups,
        },
    );
    let (epilogue, ..) = matrix::epilogue(step.epilogue);
    let name = format!(
        "gemv_rows {rows_tile} {} {} {} of {}x{}{epilogue} out {} {}",
        set_name(set),
        weight.format.name(),
        piece.rows,
        weight.rows,
        weight.cols,
        step.out.cols,
        tuning.name(),
    );
    let variants = matrix::ways(weight.format)
        .iter()
        .map(|way| way.variant("gemv_rows", &constants, [tuning.blocks, rows_tile, 1]))
        .collect();
    let spec = Spec {
        name,
        bindings: bindings.needs,
        variants,
    };
    let work = [
        Extent::Fixed(layout::row_blocks(piece.rows) as u32),
        Extent::Rows(set),
        Extent::Fixed(1),
    ];
    let immediates = matrix::immediates(weight, piece);
    l.dispatch(label, spec, bindings.resources, immediates, work)
}

// The kernel reads rows in vectors of four words.
const _: () = assert!(activations::PAD.is_multiple_of(4));
