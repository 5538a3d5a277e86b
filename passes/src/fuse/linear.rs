//! Every `linear` becomes a `fused_linear`, which takes the elementwise and row-wise ops around it.
//!
//! In this order:
//! - the `softcap` behind it, if that is its result's only user: [`Epilogue::Softcap`];
//! - the `rms_norm` before it, if the norm spans the row and has no other user: `norm`;
//! - the `add` before that: `residual`, and the fused op's first result takes the sum's place. The sum may have other
//!   users; the fused op moves up to where the sum was made, so all of them come after it;
//! - with the add, the `rms_norm` of one of its operands (a post norm), under the conditions of `norm` and with the
//!   same epsilon: `post_norm`.

use super::{Norm, norm_at};
use crate::graph::{Uses, new_op, splice, types, until_done};
use gembin_ir::{Epilogue, Function, Module, Op, OpKind, ValueId};

/// Turns the linears of `function` into fused ones.
pub(crate) fn fuse_linears(module: &mut Module, function: &mut Function) {
    for op in &mut function.ops {
        if let OpKind::Linear { weight } = op.kind {
            op.kind = OpKind::FusedLinear {
                weight,
                post_norm: None,
                norm: None,
                eps: 0.0,
                epilogue: Epilogue::None,
            };
        }
    }
    until_done(module, function, |module, function, uses, at| {
        take_softcap(module, function, uses, at).is_some()
    });
    until_done(module, function, |module, function, uses, at| {
        take_norm(module, function, uses, at).is_some()
    });
    until_done(module, function, |module, function, uses, at| {
        take_residual(module, function, uses, at).is_some()
    });
}

fn take_softcap(
    module: &mut Module,
    function: &mut Function,
    uses: &Uses,
    at: usize,
) -> Option<()> {
    let mut op = function.ops[at].clone();
    let OpKind::FusedLinear { epilogue, .. } = &mut op.kind else {
        return None;
    };
    if *epilogue != Epilogue::None {
        return None;
    }
    let y = *op.results.last()?;
    let capper = uses.sole_user(y)?;
    let OpKind::Softcap { cap } = function.ops[capper].kind else {
        return None;
    };
    *epilogue = Epilogue::Softcap { cap };
    *op.results.last_mut()? = *function.ops[capper].results.first()?;
    well_typed(module, function, &op)?;
    splice(function, &[at, capper], at, vec![op]);
    Some(())
}

fn take_norm(module: &mut Module, function: &mut Function, uses: &Uses, at: usize) -> Option<()> {
    let mut op = function.ops[at].clone();
    let (
        OpKind::FusedLinear {
            post_norm: None,
            norm: norm @ None,
            eps,
            ..
        },
        &[x],
    ) = (&mut op.kind, op.operands.as_slice())
    else {
        return None;
    };
    let before = fusable_norm(module, function, uses, x)?;
    *norm = Some(before.weight);
    *eps = before.eps;
    op.operands = vec![before.x];
    well_typed(module, function, &op)?;
    splice(function, &[before.op, at], at, vec![op]);
    Some(())
}

fn take_residual(
    module: &mut Module,
    function: &mut Function,
    uses: &Uses,
    at: usize,
) -> Option<()> {
    let op = &function.ops[at];
    let (
        OpKind::FusedLinear {
            weight,
            post_norm: None,
            norm,
            eps,
            epilogue,
        },
        &[sum],
        &[y],
    ) = (&op.kind, op.operands.as_slice(), op.results.as_slice())
    else {
        return None;
    };
    let add = uses.def(sum)?;
    let (OpKind::Add, &[a, b]) = (
        &function.ops[add].kind,
        function.ops[add].operands.as_slice(),
    ) else {
        return None;
    };
    let post = |v: ValueId| {
        fusable_norm(module, function, uses, v)
            .filter(|post| norm.is_none() || post.eps.to_bits() == eps.to_bits())
    };
    // Importers write the stream first and the branch second.
    let (post, x, residual) = if let Some(post) = post(b) {
        (Some(post), post.x, a)
    } else if let Some(post) = post(a) {
        (Some(post), post.x, b)
    } else {
        (None, b, a)
    };
    let kind = OpKind::FusedLinear {
        weight: *weight,
        post_norm: post.map(|post| post.weight),
        norm: *norm,
        eps: post.map_or(*eps, |post| post.eps),
        epilogue: *epilogue,
    };
    let fused = new_op(kind, vec![x, residual], vec![sum, y]);
    well_typed(module, function, &fused)?;
    let mut remove = vec![add, at];
    remove.extend(post.map(|post| post.op));
    splice(function, &remove, add, vec![fused]);
    Some(())
}

/// The norm that makes `v` for one user only and spans whole rows.
fn fusable_norm(module: &Module, function: &Function, uses: &Uses, v: ValueId) -> Option<Norm> {
    uses.sole_user(v)?;
    let norm = norm_at(function, uses.def(v)?)?;
    let (_, cols) = function.value(v).ty.as_matrix()?;
    (module.weight(norm.weight).rows_cols() == (1, cols)).then_some(norm)
}

/// `Some` if the op's own type rule gives its results the types they have.
fn well_typed(module: &Module, function: &Function, op: &Op) -> Option<()> {
    let inferred = op.kind.infer(module, &types(function, &op.operands)).ok()?;
    (inferred == types(function, &op.results)).then_some(())
}
