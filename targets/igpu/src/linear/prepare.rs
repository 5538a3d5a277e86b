//! Many rows through a linear's prologue, into its scratch.

use super::activations::{F16Activations, F32Activations, Int8Activations};
use super::prologue::{Prologue, Use, VECTOR_COLS, extended};
use crate::attention::Partials;
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Constants, Spec, VariantSpec};
use crate::lowering::Lowering;
use crate::rows::set_name;
use gembin_bundle::cpu::LinearStep;
use gembin_bundle::gpu::{Activations, Extent, Form, Needs};

/// Prepares rows as int8 groups.
pub(crate) fn int8(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<Int8Activations, LowerError> {
    let to = Int8Activations::place(step.scratch, step.out.rows, step.x.cols);
    let rows = PreparedRows {
        name: "int8",
        padded_cols: to.groups * gembin_bundle::layout::GROUP,
        two_passes: false,
    };
    prepare(l, label, step, parts, rows, |bindings| {
        let b_out = bindings.write(to.data);
        vec![(
            "portable",
            None,
            constants! { form: "int8", many: false, b_out: b_out, out_words: to.data.cols },
        )]
    })?;
    Ok(to)
}

/// Prepares rows for a multiplication of many: as f16 with a scale a row, or, where the weight is quantized and the
/// device multiplies so, as int8 groups in the same place.
pub(crate) fn many(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<F16Activations, LowerError> {
    let max_rows = l.max_rows(step.out.rows);
    let to = F16Activations::place(step.scratch, step.out.rows, max_rows, step.x.cols);
    let is_quantized = l.weight(step.weight).format.is_quantized();
    let rows = PreparedRows {
        name: if is_quantized { "f16 or int8" } else { "f16" },
        padded_cols: to.padded_cols,
        two_passes: true,
    };
    prepare(l, label, step, parts, rows, |bindings| {
        let b_out = bindings.write(to.data);
        let b_row_scale = bindings.write(to.scale);
        let f16 = constants! { form: "f16", b_out: b_out, b_row_scale: b_row_scale };
        if !is_quantized {
            return vec![("portable", None, f16)];
        }
        let int8 = constants! {
            form: "int8",
            two_passes: false,
            many: true,
            b_out: b_out,
            b_row_scale: b_row_scale,
            out_words: Int8Activations::row_words(step.x.cols),
        };
        vec![
            ("f16", Some(Form::F16), f16),
            ("int8", Some(Form::Int8), int8),
        ]
    })?;
    Ok(to)
}

/// Prepares rows as f32.
pub(crate) fn f32(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<F32Activations, LowerError> {
    let to = F32Activations::place(step.scratch, step.out.rows, step.x.cols);
    let rows = PreparedRows {
        name: "f32",
        padded_cols: to.data.cols,
        two_passes: false,
    };
    prepare(l, label, step, parts, rows, |bindings| {
        let b_out = bindings.write(to.data);
        vec![("portable", None, constants! { form: "f32", b_out: b_out })]
    })?;
    Ok(to)
}

/// Rows to be prepared.
struct PreparedRows {
    /// Their form, or the forms that there are variants for.
    name: &'static str,
    padded_cols: u32,
    /// Whether a form needs a row's greatest magnitude first.
    two_passes: bool,
}

/// A variant's name, the form that it writes if there are several, and the constants of its results.
type Results = (&'static str, Option<Form>, Constants);

fn prepare(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
    rows: PreparedRows,
    bind_results: impl FnOnce(&mut Bindings) -> Vec<Results>,
) -> Result<(), LowerError> {
    let set = step.out.rows;
    if super::prepared_bytes(l.max_rows(set), step.x.cols) > step.scratch.bytes {
        return Err(LowerError::Unsupported {
            step: label.to_owned(),
            what: format!(
                "its scratch of {} bytes has no room for {} prepared rows; plan memory for the gpu",
                step.scratch.bytes,
                l.max_rows(set)
            ),
        });
    }
    let stored_vectors = rows.padded_cols / VECTOR_COLS;
    let mut bindings = Bindings::default();
    let used = Use {
        threads: (stored_vectors / 4).next_power_of_two().clamp(64, 256),
        stored_vectors,
        two_passes: rows.two_passes,
        stores_sum: true,
    };
    let prologue = Prologue::new(l, step, parts, used, &mut bindings);
    let results = bind_results(&mut bindings);
    let constants = extended(prologue.constants, &constants! { subgroup: 0 });
    let variants = results
        .into_iter()
        .map(|(name, form, results)| VariantSpec {
            name,
            template: "prepare",
            constants: extended(constants.clone(), &results),
            needs: Needs::default(),
            subgroup: None,
            tile: [1, 1, 1],
            activations: form.map(Activations::Prepares),
        })
        .collect();
    let spec = Spec {
        name: format!("prepare {} {} {}", rows.name, prologue.name, set_name(set)),
        bindings: bindings.needs,
        variants,
    };
    let work = [Extent::Rows(set), Extent::Fixed(1), Extent::Fixed(1)];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}
