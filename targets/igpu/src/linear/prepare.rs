//! Many rows through a linear's prologue, into its scratch.

use super::activations::{F32Activations, Int8Activations, ManyRows};
use super::prologue::{Prologue, Use, VECTOR_COLS, extended};
use crate::attention::Partials;
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Constants, Spec, VariantSpec};
use crate::lowering::Lowering;
use crate::rows::set_name;
use gembin_bundle::cpu::LinearStep;
use gembin_bundle::gpu::{Extent, Needs};

/// Prepares rows as int8 groups.
pub(crate) fn int8(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<Int8Activations, LowerError> {
    let to = Int8Activations::place(step.scratch, step.out.rows, step.x.cols);
    let form = Form {
        name: "int8",
        padded_cols: to.groups * gembin_bundle::layout::GROUP,
        two_passes: false,
    };
    prepare(l, label, step, parts, form, |bindings| {
        let b_out = bindings.write(to.data);
        constants! { b_out: b_out, out_words: to.data.cols }
    })?;
    Ok(to)
}

/// Prepares rows for a multiplication of many: as f16 with a scale a row, and beside it as int8 groups where the weight
/// is quantized, so that a device may take either variant of the multiplication.
pub(crate) fn many(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<ManyRows, LowerError> {
    let max_rows = l.max_rows(step.out.rows);
    let is_quantized = l.weight(step.weight).format.is_quantized();
    let to = ManyRows::place(
        step.scratch,
        step.out.rows,
        max_rows,
        step.x.cols,
        is_quantized,
    );
    let form = Form {
        name: if is_quantized { "f16 and int8" } else { "f16" },
        padded_cols: to.f16.padded_cols,
        two_passes: true,
    };
    prepare(l, label, step, parts, form, |bindings| {
        let b_out = bindings.write(to.f16.data);
        let b_row_scale = bindings.write(to.f16.scale);
        let (b_int8, int8_words) = match to.int8 {
            Some(int8) => (bindings.write(int8.data), int8.data.cols),
            None => (0, 0),
        };
        constants! {
            b_out: b_out,
            b_row_scale: b_row_scale,
            with_int8: is_quantized,
            b_int8: b_int8,
            int8_words: int8_words,
        }
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
    let form = Form {
        name: "f32",
        padded_cols: to.data.cols,
        two_passes: false,
    };
    prepare(l, label, step, parts, form, |bindings| {
        let b_out = bindings.write(to.data);
        constants! { b_out: b_out }
    })?;
    Ok(to)
}

/// A form of prepared rows.
struct Form {
    name: &'static str,
    padded_cols: u32,
    /// Whether it needs a row's greatest magnitude first.
    two_passes: bool,
}

fn prepare(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
    form: Form,
    bind_results: impl FnOnce(&mut Bindings) -> Constants,
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
    let stored_vectors = form.padded_cols / VECTOR_COLS;
    let mut bindings = Bindings::default();
    let used = Use {
        threads: (stored_vectors / 4).next_power_of_two().clamp(64, 256),
        stored_vectors,
        two_passes: form.two_passes,
        stores_sum: true,
    };
    let prologue = Prologue::new(l, step, parts, used, &mut bindings);
    let results = bind_results(&mut bindings);
    let constants = extended(prologue.constants, &results);
    let constants = extended(constants, &constants! { form: form.name, subgroup: 0 });
    let spec = Spec {
        name: format!("prepare {} {} {}", form.name, prologue.name, set_name(set)),
        bindings: bindings.needs,
        variants: vec![VariantSpec {
            name: "portable",
            template: "prepare",
            constants,
            needs: Needs::default(),
            subgroup: None,
            tile: [1, 1, 1],
        }],
    };
    let work = [Extent::Rows(set), Extent::Fixed(1), Extent::Fixed(1)];
    l.dispatch(label, spec, bindings.resources, Vec::new(), work)
}
