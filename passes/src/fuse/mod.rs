//! Fusion: neighbouring ops become the ops that targets have one kernel for.
//!
//! A Gemma layer becomes six ops: the merged q, k, v projection with the previous layer's post norm, residual add and
//! this layer's norm; `rope_kv`; `attention`; the output projection; gate and up with GELU and product, again with
//! norms and residual; the down projection. The order of the steps matters:
//!
//! 1. `geglu` takes gate and up projections before anything else can merge them.
//! 2. `siblings` merges what other linears share an input, so that the norm before them has one user left.
//! 3. `rope_kv` takes the merged projection's columns up to the cache.
//! 4. `linear` turns every `linear` into a `fused_linear` and lets it take the soft cap behind it, then the norm,
//!    the residual add and the post norm before it.
//!
//! Every step refuses, and leaves the ops as they are, when a value that would vanish has another user, when two
//! epsilons that would become one differ, or when the fused op's own type rule says no. No step changes what the
//! module computes by more than the order of additions that the op's definition leaves open.
//!
//! Norms with an offset are never taken: run [`crate::fold_norm_offsets()`] before.

pub(crate) mod geglu;
pub(crate) mod linear;
pub(crate) mod rope_kv;
pub(crate) mod siblings;

use crate::graph::each_function;
use gembin_ir::{Function, Module, OpKind, ValueId, WeightId};

/// Fuses every function. After it no `linear` is left.
pub fn fuse(module: &mut Module) {
    each_function(module, |module, function| {
        geglu::fuse_geglu(module, function);
        siblings::merge_siblings(module, function);
        rope_kv::fuse_rope_kv(module, function);
        linear::fuse_linears(module, function);
    });
}

/// A `rms_norm` without offset.
#[derive(Clone, Copy)]
struct Norm {
    /// Its index.
    op: usize,
    x: ValueId,
    weight: WeightId,
    eps: f32,
}

/// The op at `at` as a norm that may be fused.
fn norm_at(function: &Function, at: usize) -> Option<Norm> {
    let op = &function.ops[at];
    let OpKind::RmsNorm {
        weight,
        eps,
        offset,
    } = op.kind
    else {
        return None;
    };
    match (op.operands.as_slice(), offset == 0.0) {
        (&[x], true) => Some(Norm {
            op: at,
            x,
            weight,
            eps,
        }),
        _ => None,
    }
}
