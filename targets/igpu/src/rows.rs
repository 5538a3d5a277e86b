//! Kernels over whole rows: embedding gather, rope tables, selection of the rows asked for.

use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Constants, Spec, VariantSpec};
use crate::lowering::{Lowering, Piece, pieces};
use gembin_bundle::cpu::WeightIdx;
use gembin_bundle::gpu::{Extent, MAX_BINDINGS, Needs};
use gembin_bundle::layout;
use gembin_bundle::manifest::{Buffer, RowSet};

/// Invocations of these kernels' workgroups, along the columns.
const THREADS: u32 = 64;
/// Pieces of a table in one dispatch: each has data and scales, beside the call and the result.
const TABLE_PIECES: usize = (MAX_BINDINGS - 2) / 2;
/// Beyond this an f32 has no fraction, and the kernel's reduction no bits.
const MAX_ANGLE: f64 = 16_777_216.0;

/// The name a template has for a row set.
pub(crate) fn set_name(set: RowSet) -> &'static str {
    match set {
        RowSet::Seq => "seq",
        RowSet::Out => "out",
    }
}

/// `out[r] = scale * table[token of r]`.
pub(crate) fn embed(
    l: &mut Lowering<'_>,
    label: &str,
    table: WeightIdx,
    scale: f32,
    out: Buffer,
) -> Result<(), LowerError> {
    let pieces = pieces(l.weight(table));
    // Each dispatch does the tokens of its pieces.
    for some in pieces.chunks(TABLE_PIECES) {
        embed_from(l, label, table, some, scale, out)?;
    }
    Ok(())
}

fn embed_from(
    l: &mut Lowering<'_>,
    label: &str,
    table: WeightIdx,
    pieces: &[Piece],
    scale: f32,
    out: Buffer,
) -> Result<(), LowerError> {
    let weight = l.weight(table);
    let format = weight.format;
    let used_words = weight.cols.div_ceil(format.values_per_word());
    let mut bindings = Bindings::default();
    let b_call = bindings.call();
    let b_out = bindings.write(out);
    let mut bound = Vec::new();
    for piece in pieces {
        let data = bindings.data(table, piece, true);
        let scales = match format.is_quantized() {
            true => bindings.scales(table, piece, true),
            false => 0,
        };
        bound.push(vec![
            piece.first_row,
            piece.first_row + piece.rows,
            data,
            scales,
        ]);
    }
    let (first, last) = (pieces[0], pieces[pieces.len() - 1]);
    let set = set_name(out.rows);
    let spec = Spec {
        name: format!(
            "embed {} {}x{} rows {}..{} scale {scale:?} {set}",
            format.name(),
            weight.rows,
            weight.cols,
            first.first_row,
            last.first_row + last.rows,
        ),
        bindings: bindings.needs,
        variants: vec![portable(
            "embed",
            constants! {
                call_binding: b_call,
                rows: set,
                b_out: b_out,
                pieces: bound,
                whole: last.first_row + last.rows == weight.rows && first.first_row == 0,
                format: format.name(),
                quantized: format.is_quantized(),
                values_per_word: format.values_per_word(),
                words: format.words(weight.cols),
                used_words: used_words,
                groups: layout::groups(weight.cols),
                cols: weight.cols,
                scale: literal(scale),
            },
        )],
    };
    let work = [
        Extent::Fixed(used_words),
        Extent::Rows(out.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}

/// Cosines and sines of the rows' positions.
pub(crate) fn rope_table(
    l: &mut Lowering<'_>,
    label: &str,
    theta: f32,
    factor: f32,
    out: Buffer,
) -> Result<(), LowerError> {
    let frequencies = inverse_frequencies(theta, factor, out.cols);
    let greatest = frequencies.iter().copied().fold(0.0, f32::max);
    if f64::from(greatest) * f64::from(l.limits().context) > MAX_ANGLE {
        return Err(LowerError::Unsupported {
            step: label.to_owned(),
            what: format!(
                "a rotation by {greatest} a position leaves the kernel's range at the context of {}",
                l.limits().context
            ),
        });
    }
    let half = out.cols / 2;
    let set = set_name(out.rows);
    let mut bindings = Bindings::default();
    let b_call = bindings.call();
    let b_out = bindings.write(out);
    let spec = Spec {
        name: format!(
            "rope_table {} theta {theta:?} factor {factor:?} {set}",
            out.cols
        ),
        bindings: bindings.needs,
        variants: vec![portable(
            "rope_table",
            constants! {
                call_binding: b_call,
                rows: set,
                b_out: b_out,
                half: half,
                frequencies: frequencies.iter().map(|f| f.to_bits()).collect::<Vec<_>>(),
            },
        )],
    };
    let work = [
        Extent::Fixed(half),
        Extent::Rows(out.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}

/// Frequencies of the pairs: `theta^(-2i/d) / factor`, rounded to f32 where the processor's driver rounds.
fn inverse_frequencies(theta: f32, factor: f32, head_dim: u32) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            let power = f64::from(theta).powf(f64::from(exponent)) as f32;
            1.0 / power / factor
        })
        .collect()
}

/// `out[o] = x[outs[o]]`.
pub(crate) fn select_rows(
    l: &mut Lowering<'_>,
    label: &str,
    x: Buffer,
    out: Buffer,
) -> Result<(), LowerError> {
    let set = set_name(out.rows);
    let mut bindings = Bindings::default();
    let b_call = bindings.call();
    let b_x = bindings.read(x);
    let b_out = bindings.write(out);
    let spec = Spec {
        name: format!("select_rows {} {set}", out.cols),
        bindings: bindings.needs,
        variants: vec![portable(
            "select_rows",
            constants! {
                call_binding: b_call,
                rows: set,
                b_x: b_x,
                b_out: b_out,
                cols: out.cols,
            },
        )],
    };
    let work = [
        Extent::Fixed(out.cols),
        Extent::Rows(out.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}

fn portable(template: &'static str, constants: Constants) -> VariantSpec {
    VariantSpec {
        name: "portable",
        template,
        constants,
        needs: Needs::default(),
        subgroup: None,
        tile: [THREADS, 1, 1],
        activations: None,
    }
}

/// A number as WGSL writes it.
pub(crate) fn literal(value: f32) -> String {
    format!("{value:?}")
}
