//! Steps of the CPU driver: the ops of a fused program, with buffers and weights resolved.
//!
//! The meaning of each step is that of the compiler's op of the same name. Weight fields index the manifest's weights
//! table, cache fields the arena's caches. Row-wise inputs that are not buffers (token ids, positions, slots, rows
//! asked for) come from the call.
//!
//! Row `r` of a buffer over [`RowSet::Seq`] belongs to row `r` of the call, row `o` of a buffer over [`RowSet::Out`] to
//! row `outs[o]`: its token, position and slot are those of `rows[outs[o]]`. Embedding, rotating and attending may be
//! done for the wanted rows alone; keys and values are stored for every row, so `RopeKv` and `KvWrite` take `Seq` only.
//!
//! Aliasing: what a step writes (results and scratch) shares no byte with anything else that the step reads or writes;
//! what it only reads may share bytes. The element-wise steps alone may write onto their first operand: `out` of
//! `Gelu` and `Softcap` may be the same buffer as `x`, `out` of `Mul` and `Add` the same as `a`, never a part of it.
//! [`crate::check`] holds programs to this, counting every buffer with the most rows its program can have.

use crate::manifest::{Buffer, RowSet, Span};
use serde::{Deserialize, Serialize};

/// Index into [`crate::manifest::Manifest::weights`].
pub type WeightIdx = u32;
/// Index into [`crate::manifest::Arena::caches`].
pub type CacheIdx = u32;

/// One step. See the module's words on rows and aliasing.
#[allow(missing_docs, reason = "the variants' formulas name their fields")]
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum CpuStep {
    /// `out[r] = scale * table[id[r]]`.
    Embed {
        table: WeightIdx,
        scale: f32,
        out: Buffer,
    },
    /// Cosines and sines of the rows' positions: `out[r] = [cos.., sin..]`, `head_dim` columns.
    RopeTable {
        theta: f32,
        factor: f32,
        out: Buffer,
    },
    /// A linear with what was fused into it.
    Linear(LinearStep),
    /// Norms and rotates heads of q and k, stores k and v, writes q to `out`.
    RopeKv {
        qkv: Buffer,
        table: Buffer,
        cache: CacheIdx,
        q_heads: u32,
        q_norm: Option<WeightIdx>,
        k_norm: Option<WeightIdx>,
        eps: f32,
        out: Buffer,
    },
    /// Attention of `q` over the cache.
    Attention {
        q: Buffer,
        cache: CacheIdx,
        heads: u32,
        scale: f32,
        softcap: f32,
        out: Buffer,
    },
    /// `out[o] = x[outs[o]]`.
    SelectRows { x: Buffer, out: Buffer },
    /// `out = rms_norm(x) * (offset + weight)`, over runs of the weight's length.
    RmsNorm {
        x: Buffer,
        weight: WeightIdx,
        eps: f32,
        offset: f32,
        out: Buffer,
    },
    /// Rotates the heads of `x`.
    Rope {
        x: Buffer,
        table: Buffer,
        out: Buffer,
    },
    /// Stores k and v.
    KvWrite {
        k: Buffer,
        v: Buffer,
        cache: CacheIdx,
    },
    /// `out = x[:, start..start + out.cols]`.
    Columns { x: Buffer, start: u32, out: Buffer },
    /// `out = gelu(x)`, tanh approximation.
    Gelu { x: Buffer, out: Buffer },
    /// `out = a * b`.
    Mul { a: Buffer, b: Buffer, out: Buffer },
    /// `out = a + b`.
    Add { a: Buffer, b: Buffer, out: Buffer },
    /// `out = cap * tanh(x / cap)`.
    Softcap { x: Buffer, cap: f32, out: Buffer },
}

/// A linear with its fused neighbours:
///
/// ```text
/// t = post_norm ? rms_norm(x, post_norm) : x
/// s = residual ? residual + t : t              (written to `residual.to` if there is one)
/// a = norm ? rms_norm(s, norm) : s
/// y = epilogue(a w^T)
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinearStep {
    /// Input.
    pub x: Buffer,
    /// Norm weight applied to `x` first.
    pub post_norm: Option<WeightIdx>,
    /// Residual stream and where its new value goes.
    pub residual: Option<Residual>,
    /// Norm weight applied last.
    pub norm: Option<WeightIdx>,
    /// Epsilon of both norms.
    pub eps: f32,
    /// The matrix.
    pub weight: WeightIdx,
    /// What happens to the sums.
    pub epilogue: Epilogue,
    /// Result.
    pub out: Buffer,
    /// Working memory of [`activation_bytes`] (max rows, columns) bytes for the activations as the kernel wants them.
    pub scratch: Span,
}

/// The residual stream of a [`LinearStep`].
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Residual {
    /// Added to the input.
    pub from: Buffer,
    /// Receives the sum; disjoint from every other buffer of the step.
    pub to: Buffer,
}

/// What a [`LinearStep`] does with its sums.
#[allow(missing_docs, reason = "the variants' formulas name their fields")]
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Rows of the weight alternate in blocks of 16 between gate and up: `gelu(gate) * up`, `out.cols` columns.
    Geglu,
    /// `cap * tanh(y / cap)`.
    Softcap { cap: f32 },
}

/// Bytes of working memory that a linear over `rows` x `cols` activations needs, whatever its weight's format: per row
/// the normed activations as f32 padded to 64 columns, or quantized: int8 values, an f32 scale and an i32 sum a group.
pub fn activation_bytes(rows: u32, cols: u32) -> u64 {
    u64::from(rows) * u64::from(cols).next_multiple_of(64) * 4
}

/// The count a row set stands for in a call of `seq` rows and `outs` wanted rows.
pub fn rows_of(set: RowSet, seq: usize, outs: usize) -> usize {
    match set {
        RowSet::Seq => seq,
        RowSet::Out => outs,
    }
}
