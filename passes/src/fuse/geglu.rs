//! Gate and up projections, GELU and product become one `fused_linear` with [`Epilogue::Geglu`].
//!
//! Matches `mul(gelu(linear(x, gate)), linear(x, up))`, factors in either order, where gate and up have equal shapes
//! and no value in between has another user. The weight interleaves blocks of gate rows and up rows, so that a kernel
//! has both sums of a column at hand when it applies GELU and product.

use crate::derived::{common_dtype, derive, joined_name};
use crate::graph::{Uses, new_op, splice, types, until_done};
use gembin_ir::ops::GEGLU_BLOCK;
use gembin_ir::{Epilogue, Function, Module, OpKind, ValueId, WeightExpr, WeightId};

/// Fuses all gate/up pairs of `function`.
pub(crate) fn fuse_geglu(module: &mut Module, function: &mut Function) {
    until_done(module, function, |module, function, uses, at| {
        fuse_at(module, function, uses, at).is_some()
    });
}

fn fuse_at(module: &mut Module, function: &mut Function, uses: &Uses, mul: usize) -> Option<()> {
    let op = &function.ops[mul];
    if op.kind != OpKind::Mul {
        return None;
    }
    let &[a, b] = op.operands.as_slice() else {
        return None;
    };
    let pair = gelu_operand(function, uses, a).map(|(gelu, g)| (gelu, g, b));
    let (gelu, g, u) =
        pair.or_else(|| gelu_operand(function, uses, b).map(|(gelu, g)| (gelu, g, a)))?;
    let gate = linear_of(function, uses, g)?;
    let up = linear_of(function, uses, u)?;
    let shape = module.weight(gate.weight).shape.clone();
    if gate.x != up.x || shape != module.weight(up.weight).shape {
        return None;
    }
    let &[width, cols] = shape.as_slice() else {
        return None;
    };
    let rows = width.div_ceil(GEGLU_BLOCK).checked_mul(2 * GEGLU_BLOCK)?;
    let parts = [gate.weight, up.weight];
    let dtype = common_dtype(module, &parts)?;
    let name = joined_name(module, &parts);
    let expr = WeightExpr::InterleaveRows {
        a: gate.weight,
        b: up.weight,
        block: GEGLU_BLOCK,
    };
    let kind = OpKind::FusedLinear {
        weight: derive(module, name, dtype, vec![rows, cols], expr),
        post_norm: None,
        norm: None,
        eps: 0.0,
        epilogue: Epilogue::Geglu { width },
    };
    let results = function.ops[mul].results.clone();
    if kind.infer(module, &types(function, &[gate.x])).ok()? != types(function, &results) {
        return None;
    }
    let fused = new_op(kind, vec![gate.x], results);
    splice(function, &[gate.op, up.op, gelu, mul], mul, vec![fused]);
    Some(())
}

/// The op and operand of a GELU that makes `v` for one user only.
fn gelu_operand(function: &Function, uses: &Uses, v: ValueId) -> Option<(usize, ValueId)> {
    uses.sole_user(v)?;
    let def = uses.def(v)?;
    let op = &function.ops[def];
    match (&op.kind, op.operands.as_slice()) {
        (OpKind::Gelu, &[x]) => Some((def, x)),
        _ => None,
    }
}

struct Projection {
    op: usize,
    x: ValueId,
    weight: WeightId,
}

/// The plain linear that makes `v` for one user only.
fn linear_of(function: &Function, uses: &Uses, v: ValueId) -> Option<Projection> {
    uses.sole_user(v)?;
    let def = uses.def(v)?;
    let op = &function.ops[def];
    match (&op.kind, op.operands.as_slice()) {
        (&OpKind::Linear { weight }, &[x]) => Some(Projection { op: def, x, weight }),
        _ => None,
    }
}
