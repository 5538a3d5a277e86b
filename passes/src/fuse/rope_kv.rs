//! What lies between the merged projection and the attention becomes one `rope_kv`.
//!
//! Matches a `kv_write` of k and v where q, k and v are the columns of one value, in that order and all of it; q and k
//! may pass a norm per head, and are rotated by the same table. Refuses if a value in between has another user, the
//! two norms have different epsilons, or q is used before the write. The fused op stands where the write stood, so
//! the order of ops that touch a cache stays.

use super::norm_at;
use crate::graph::{Uses, new_op, splice, types, until_done};
use gembin_ir::{Function, Module, OpKind, ValueId, WeightId};

/// Fuses all matching cache writes of `function`.
pub(crate) fn fuse_rope_kv(module: &mut Module, function: &mut Function) {
    until_done(module, function, |module, function, uses, at| {
        fuse_at(module, function, uses, at).is_some()
    });
}

fn fuse_at(module: &mut Module, function: &mut Function, uses: &Uses, write: usize) -> Option<()> {
    let op = &function.ops[write];
    let (&OpKind::KvWrite { cache }, &[k, v, pos, slot]) = (&op.kind, op.operands.as_slice())
    else {
        return None;
    };
    uses.sole_user(k)?;
    let k = rotated(function, uses, uses.def(k)?)?;
    let v = part(function, uses, v)?;
    if v.of != k.part.of {
        return None;
    }
    let qkv = v.of;
    let q = q_of(function, uses, &k)?;
    if uses.users(q.to).iter().any(|&user| user < write) {
        return None;
    }
    let (_, width) = function.value(qkv).ty.as_matrix()?;
    let in_order = q.part.start == 0
        && k.part.start == q.part.len
        && v.start == k.part.start.checked_add(k.part.len)?
        && v.start.checked_add(v.len)? == width
        && v.len == k.part.len;
    if !in_order || uses.users(qkv).len() != 3 || uses.returned(qkv) {
        return None;
    }
    let eps = match (q.norm, k.norm) {
        (Some((_, a)), Some((_, b))) if a.to_bits() != b.to_bits() => return None,
        (Some((_, eps)), _) | (None, Some((_, eps))) => eps,
        (None, None) => 0.0,
    };
    let head_dim = module.cache(cache).head_dim;
    if q.head_dim != head_dim || k.head_dim != head_dim {
        return None;
    }
    let kind = OpKind::RopeKv {
        cache,
        q_heads: q.part.len / head_dim,
        q_norm: q.norm.map(|(weight, _)| weight),
        k_norm: k.norm.map(|(weight, _)| weight),
        eps,
    };
    let operands = vec![qkv, k.table, pos, slot];
    if kind.infer(module, &types(function, &operands)).ok()? != types(function, &[q.to]) {
        return None;
    }
    let mut remove = vec![write, v.op];
    remove.extend(q.ops);
    remove.extend(k.ops);
    let fused = new_op(kind, operands, vec![q.to]);
    splice(function, &remove, write, vec![fused]);
    Some(())
}

/// Columns of a value, read by one op only.
struct Part {
    op: usize,
    of: ValueId,
    start: u32,
    len: u32,
}

fn part(function: &Function, uses: &Uses, v: ValueId) -> Option<Part> {
    uses.sole_user(v)?;
    let def = uses.def(v)?;
    let op = &function.ops[def];
    match (&op.kind, op.operands.as_slice()) {
        (&OpKind::Columns { start, len }, &[of]) => Some(Part {
            op: def,
            of,
            start,
            len,
        }),
        _ => None,
    }
}

/// Columns of a value that are normed (perhaps) and rotated.
struct Rotated {
    /// All ops, columns to rope.
    ops: Vec<usize>,
    part: Part,
    norm: Option<(WeightId, f32)>,
    head_dim: u32,
    table: ValueId,
    to: ValueId,
}

fn rotated(function: &Function, uses: &Uses, rope: usize) -> Option<Rotated> {
    let op = &function.ops[rope];
    let (&OpKind::Rope { head_dim }, &[x, table], &[to]) =
        (&op.kind, op.operands.as_slice(), op.results.as_slice())
    else {
        return None;
    };
    let mut ops = vec![rope];
    let norm = uses.def(x).and_then(|def| norm_at(function, def));
    let part = match norm {
        Some(norm) => {
            uses.sole_user(x)?;
            ops.push(norm.op);
            part(function, uses, norm.x)?
        }
        None => part(function, uses, x)?,
    };
    ops.push(part.op);
    Some(Rotated {
        ops,
        part,
        norm: norm.map(|norm| (norm.weight, norm.eps)),
        head_dim,
        table,
        to,
    })
}

/// The other columns of k's source that are rotated by k's table.
fn q_of(function: &Function, uses: &Uses, k: &Rotated) -> Option<Rotated> {
    uses.users(k.table)
        .iter()
        .filter_map(|&user| rotated(function, uses, user))
        .find(|q| q.part.of == k.part.of && q.part.op != k.part.op && q.table == k.table)
}
