//! Linears of the same input become one over their concatenated rows, and `columns` of its result.
//!
//! Matches two or more `linear` ops with the same operand; the rows keep the order of the ops. One pass over the input
//! instead of several, and the norm before it has one user left, so that it can be fused too.

use crate::derived::{common_dtype, derive, joined_name};
use crate::graph::{Uses, new_op, new_value, splice, types, until_done};
use gembin_ir::{Function, Module, OpKind, WeightExpr, WeightId};

/// Merges all sibling linears of `function`.
pub(crate) fn merge_siblings(module: &mut Module, function: &mut Function) {
    until_done(module, function, |module, function, uses, at| {
        merge_at(module, function, uses, at).is_some()
    });
}

fn merge_at(module: &mut Module, function: &mut Function, uses: &Uses, at: usize) -> Option<()> {
    let first = &function.ops[at];
    let (OpKind::Linear { .. }, &[x]) = (&first.kind, first.operands.as_slice()) else {
        return None;
    };
    let mut ops = Vec::new();
    let mut parts: Vec<WeightId> = Vec::new();
    for &user in uses.users(x) {
        if let OpKind::Linear { weight } = function.ops[user].kind {
            ops.push(user);
            parts.push(weight);
        }
    }
    if ops.len() < 2 {
        return None;
    }
    let (_, cols) = module.weight(parts[0]).rows_cols();
    let mut starts = Vec::with_capacity(parts.len());
    let mut rows = 0u32;
    for id in &parts {
        starts.push(rows);
        rows = rows.checked_add(module.weight(*id).rows_cols().0)?;
    }
    let dtype = common_dtype(module, &parts)?;
    let name = joined_name(module, &parts);
    let expr = WeightExpr::ConcatRows(parts.clone());
    let weight = derive(module, name, dtype, vec![rows, cols], expr);
    let kind = OpKind::Linear { weight };
    let ty = kind.infer(module, &types(function, &[x])).ok()?.pop()?;
    let merged = new_value(function, ty);
    let mut added = vec![new_op(kind, vec![x], vec![merged])];
    for ((&op, part), start) in ops.iter().zip(&parts).zip(starts) {
        let (len, _) = module.weight(*part).rows_cols();
        let results = function.ops[op].results.clone();
        added.push(new_op(
            OpKind::Columns { start, len },
            vec![merged],
            results,
        ));
    }
    // The first of the linears is where all of their common input is known.
    splice(function, &ops, at, added);
    Some(())
}
