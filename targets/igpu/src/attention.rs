//! Attention and what surrounds it: head norms, rotation, storing keys and values.

use crate::error::LowerError;
use crate::lowering::Lowering;
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::manifest::Buffer;

/// Parts that a row's positions are split into.
pub const SPLITS: u32 = 16;

/// A result of attention that is still in parts, one a split: to be merged by whoever reads it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Partials {
    /// The merged result: `[rows, heads * head_dim]`.
    pub result: Buffer,
    /// `[rows, part_words]`: sums `[SPLITS][heads][head_dim]` of values times `exp(score - m)`, then maxima `m`
    /// `[SPLITS][heads]`, then sums of exponentials `l` `[SPLITS][heads]`, all f32. An empty split has `m = -inf`, `l = 0`.
    pub parts: Buffer,
    /// Query heads.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
}

/// Words of a row of parts.
pub fn part_words(heads: u32, head_dim: u32) -> u32 {
    SPLITS * heads * (head_dim + 2)
}

/// One sequence a row: norms, rotation, storing and attention in one dispatch.
pub(crate) fn rope_attention(
    l: &mut Lowering<'_>,
    label: &str,
    rope_kv: &CpuStep,
    attention: &CpuStep,
) -> Result<Partials, LowerError> {
    let _ = (l, rope_kv, attention);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "rope_attention".into(),
    })
}

/// Norms and rotates q and k, stores k and v.
pub(crate) fn rope_kv(l: &mut Lowering<'_>, label: &str, step: &CpuStep) -> Result<(), LowerError> {
    let _ = (l, step);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "rope_kv".into(),
    })
}

/// Attention of many rows of one sequence, or of the rows asked for; the latter leaves its result in parts.
pub(crate) fn attention(
    l: &mut Lowering<'_>,
    label: &str,
    step: &CpuStep,
) -> Result<Option<Partials>, LowerError> {
    let _ = (l, step);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "attention".into(),
    })
}
