//! Linears: which kernels a fused linear becomes, by its rows.
//!
//! | rows | dispatches |
//! |---|---|
//! | one | `gemv`: prologue, product and epilogue in one |
//! | few: decode of several sequences, rows whose logits are asked for | `prepare` into the scratch, `gemv_rows` |
//! | many: prefill | `prepare` into the scratch, `gemm` ([`crate::gemm`]) |
//!
//! A matrix in several pieces has a dispatch of the product for each.

pub(crate) mod activations;
mod gemv;
mod gemv_rows;
mod matrix;
mod prepare;
mod prologue;
#[cfg(test)]
mod tests;
mod tuning;

pub use tuning::{GemvShape, GemvTuning};

use crate::attention::Partials;
use crate::error::LowerError;
use crate::gemm;
use crate::lowering::Lowering;
use gembin_bundle::cpu::{LinearStep, activation_bytes};
use gembin_bundle::manifest::{Phase, RowSet};

/// Candidates kept of each row of logits.
pub const CANDIDATES: u32 = 64;
/// Bytes a row for what the search for candidates keeps between its dispatches.
const CANDIDATE_PARTS_BYTES: u64 = 64 << 10;
/// Most rows of a program whose linears read the weights once for every eight rows rather than through `gemm`.
const FEW_ROWS: u32 = 16;

/// Bytes of working memory of a linear over `rows` x `cols` activations; `is_head`: it makes the logits.
pub fn scratch_bytes(rows: u32, cols: u32, is_head: bool) -> u64 {
    let candidates = match is_head {
        true => candidates_bytes(rows),
        false => 0,
    };
    prepared_bytes(rows, cols) + candidates
}

/// Bytes of prepared rows, in the widest form.
fn prepared_bytes(rows: u32, cols: u32) -> u64 {
    activation_bytes(rows, cols)
}

/// Bytes at the end of the head's scratch for the candidates of its rows, two words each, and what leads to them.
pub fn candidates_bytes(rows: u32) -> u64 {
    u64::from(rows) * (u64::from(CANDIDATES) * 8 + CANDIDATE_PARTS_BYTES)
}

/// Lowers a linear; `parts` is its input if that is still in parts.
pub(crate) fn linear(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    parts: Option<Partials>,
) -> Result<(), LowerError> {
    let max_rows = l.max_rows(step.out.rows);
    if max_rows == 1 && gemv::gemv(l, label, step, parts)? {
        return Ok(());
    }
    let many = match (step.out.rows, l.program.phase) {
        (RowSet::Seq, Phase::Prefill) => max_rows > FEW_ROWS,
        (RowSet::Seq, Phase::Decode) | (RowSet::Out, _) => false,
    };
    match many {
        true => {
            let activations = prepare::many(l, label, step, parts)?;
            gemm::gemm(l, label, step, &activations)
        }
        false => gemv_rows::gemv_rows(l, label, step, parts),
    }
}
