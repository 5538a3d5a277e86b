//! Linears: which kernels a fused linear becomes, by its rows.

pub(crate) mod activations;

use crate::attention::Partials;
use crate::error::LowerError;
use crate::lowering::Lowering;
use gembin_bundle::cpu::LinearStep;

/// Bytes of working memory of a linear over `rows` x `cols` activations; `is_head`: it makes the logits.
pub fn scratch_bytes(rows: u32, cols: u32, is_head: bool) -> u64 {
    let _ = is_head;
    u64::from(rows) * u64::from(cols).next_multiple_of(64) * 4
}

/// Lowers a linear; `parts` is its input if that is still in parts.
pub(crate) fn linear(
    lowering: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<(), LowerError> {
    let _ = (lowering, step, parts);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "linear".into(),
    })
}
