//! Attention and what surrounds it: head norms, rotation, storing keys and values.
//!
//! Three kernels, by how many rows share a sequence. `split` serves rows one by one and spreads a row's positions over
//! workgroups; `tile` serves many rows of one sequence, which share what they read of the cache; `rope_kv` fills
//! the cache for the latter. What a softmax in parts looks like is here ([`Partials`]); merging is its reader's.

mod chunk;
mod rope_kv;
mod split;
#[cfg(test)]
mod tests;
mod tile;

use crate::error::LowerError;
use crate::lowering::Lowering;
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::manifest::{Buffer, Cache, Phase, RowSet};

pub(crate) use rope_kv::rope_kv;
pub(crate) use split::rope_attention;

/// Parts that a row's positions are split into.
pub const SPLITS: u32 = 12;

// Rows of parts are read in vectors of four: `SPLITS * heads * (head_dim + 2)` words.
const _: () = assert!(SPLITS.is_multiple_of(2));

/// A result of attention that is still in parts, one a split: to be merged by whoever reads it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Partials {
    /// The merged result: `[rows, heads * head_dim]`.
    pub result: Buffer,
    /// `[rows, part_words]`: sums `[SPLITS][heads][head_dim]` of values times `exp(score - m)`, then maxima `m`
    /// `[SPLITS][heads]`, then sums of exponentials `l` `[SPLITS][heads]`, all f32. Splits are used from the first on,
    /// and how many depends on the row's positions alone. An empty split has `m = -inf`, `l = 0` and sums of 0.
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

/// Attention of many rows of one sequence, or of the rows asked for; the latter leaves its result in parts.
pub(crate) fn attention(
    l: &mut Lowering<'_>,
    label: &str,
    step: &CpuStep,
) -> Result<Option<Partials>, LowerError> {
    let attend = Attend::of(l, label, step)?;
    if l.program.phase == Phase::Decode || attend.q.rows == RowSet::Out {
        return split::attend_rows(l, label, &attend).map(Some);
    }
    tile::attend_sequence(l, label, &attend)?;
    Ok(None)
}

/// A step of attention with its cache.
struct Attend<'a> {
    q: Buffer,
    out: Buffer,
    cache: u32,
    shape: &'a Cache,
    heads: u32,
    scale: f32,
    /// 0: none.
    softcap: f32,
}

impl<'a> Attend<'a> {
    fn of(l: &Lowering<'a>, label: &str, step: &CpuStep) -> Result<Self, LowerError> {
        let CpuStep::Attention {
            q,
            cache,
            heads,
            scale,
            softcap,
            out,
        } = step
        else {
            return Err(unsupported(label, "this is no attention"));
        };
        let shape = l.cache(*cache);
        if !heads.is_multiple_of(shape.kv_heads) {
            return Err(unsupported(label, "heads do not divide among kv heads"));
        }
        if !shape.head_dim.is_multiple_of(2) || !(2..=512).contains(&shape.head_dim) {
            return Err(unsupported(
                label,
                "the gpu takes heads of an even dimension of at most 512",
            ));
        }
        Ok(Self {
            q: *q,
            out: *out,
            cache: *cache,
            shape,
            heads: *heads,
            scale: *scale,
            softcap: *softcap,
        })
    }

    fn group(&self) -> u32 {
        self.heads / self.shape.kv_heads
    }

    /// Where parts lie: where the result would, with more room.
    fn partials(&self) -> Partials {
        let head_dim = self.shape.head_dim;
        Partials {
            result: self.out,
            parts: Buffer {
                cols: part_words(self.heads, head_dim),
                ..self.out
            },
            heads: self.heads,
            head_dim,
        }
    }

    /// What kernels over this cache are made for, as a part of their names.
    fn name(&self, l: &Lowering<'_>) -> String {
        let c = self.shape;
        let window = c.window.map_or("all".to_owned(), |w| w.to_string());
        format!(
            "{} {}x{}/{} of {window} in {} slots x {}{}, scale {:?}, cap {:?}",
            c.format.name(),
            self.heads,
            c.head_dim,
            c.kv_heads,
            l.limits().slots,
            c.capacity,
            if wraps(l, c) { " ring" } else { "" },
            self.scale,
            self.softcap,
        )
    }
}

/// Whether positions can exceed the capacity, so that rows of the cache are reused.
fn wraps(l: &Lowering<'_>, cache: &Cache) -> bool {
    cache.capacity < l.limits().context
}

/// Workgroups that share a KV head's query heads evenly, at most `most` each: as few as there can be.
fn batches(group: u32, most: u32) -> u32 {
    (group.div_ceil(most)..=group)
        .find(|&batches| group.is_multiple_of(batches))
        .unwrap_or(group)
}

fn unsupported(label: &str, what: &str) -> LowerError {
    LowerError::Unsupported {
        step: label.to_owned(),
        what: what.to_owned(),
    }
}
