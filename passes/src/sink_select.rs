//! Row selection moves up towards the rows' origin, so that rows nobody asked for are not computed.
//!
//! Matches `select_rows` by a parameter. Every row-wise op above it (norms, linears, elementwise ops, attention, whose
//! row reads the cache but no other row) computes only the wanted rows if all users of all its results want only those:
//! they are such ops themselves, or a selection by the same parameter. Where the wanted rows begin, the operand passes
//! a `select_rows` or `select_index`. Cache writes stay as they are: every row's key and value is needed later. So do
//! rotations of q and k, see below. In a Gemma prefill this leaves, of the last layer's attention and feed-forward part
//! and of the head, only the wanted rows.
//!
//! Row `o` of the new value is row `rows[o]` of the old one, computed by the same op: nothing else changes.
//!
//! Right before or after [`crate::fuse()`]. Before is better: a selection between the last norm and the head would
//! keep the two from being fused.

use crate::graph::{Uses, each_function, new_op, new_value, types};
use gembin_ir::{Function, Module, Op, OpKind, TypeFault, ValueId};

/// Moves all selections by a parameter as far up as they go.
pub fn sink_select(module: &mut Module) {
    each_function(module, |module, function| {
        for rows in function.params.clone() {
            // Each op keeps its type rule, so this cannot fail; if an op's rule ever says otherwise, the function
            // stays as it was.
            if let Ok(sunk) = sink(module, function, rows) {
                *function = sunk;
            }
        }
    });
}

/// Whether an op may compute some of its rows only: row `r` of every result depends on row `r` of the operands alone
/// (and on weights and cache), and nothing is lost by it.
fn row_wise(kind: &OpKind) -> bool {
    match kind {
        OpKind::Embed { .. }
        | OpKind::RmsNorm { .. }
        | OpKind::Linear { .. }
        | OpKind::RopeTable { .. }
        | OpKind::Attention { .. }
        | OpKind::Gelu
        | OpKind::Mul
        | OpKind::Add
        | OpKind::Softcap { .. }
        | OpKind::Columns { .. }
        | OpKind::FusedLinear { .. } => true,
        // What is rotated here is q or k. Were q narrowed up to its projection, that could not be merged with k's and
        // v's in this function while it is in others, and its matrix would be stored twice.
        OpKind::Rope { .. } => false,
        // These write the cache: all of their rows count.
        OpKind::KvWrite { .. } | OpKind::RopeKv { .. } => false,
        // These have rows of their own.
        OpKind::SelectRows | OpKind::SelectIndex => false,
    }
}

/// The value that `op` selects from, if it selects by `rows`.
fn selected(op: &Op, rows: ValueId) -> Option<ValueId> {
    match (&op.kind, op.operands.as_slice()) {
        (OpKind::SelectRows | OpKind::SelectIndex, &[x, by]) if by == rows && x != rows => Some(x),
        _ => None,
    }
}

fn sink(module: &Module, function: &Function, rows: ValueId) -> Result<Function, TypeFault> {
    let narrow = narrow_ops(function, rows);
    let uses = Uses::of(function);
    let is_narrow = |v: ValueId| uses.def(v).is_some_and(|def| narrow[def]);
    let mut new = function.clone();
    new.ops.clear();
    // By value of the old function: what holds its wanted rows, and what stands for it where all its rows are meant.
    let mut selection: Vec<Option<ValueId>> = vec![None; function.values.len()];
    let mut alias: Vec<ValueId> = (0..function.values.len()).map(ValueId::new).collect();
    for (op, narrow) in function.ops.iter().zip(&narrow) {
        if let (Some(x), &[result]) = (selected(op, rows), op.results.as_slice()) {
            let at_hand = if is_narrow(x) {
                Some(x)
            } else {
                selection[x.index()]
            };
            if let Some(at_hand) = at_hand {
                alias[result.index()] = at_hand;
                continue;
            }
            selection[x.index()] = Some(result);
        }
        let mut operands = Vec::with_capacity(op.operands.len());
        for &v in &op.operands {
            let operand = if !narrow {
                alias[v.index()]
            } else if is_narrow(v) {
                v
            } else if let Some(at_hand) = selection[v.index()] {
                at_hand
            } else {
                let made = select(module, &mut new, alias[v.index()], rows)?;
                selection[v.index()] = Some(made);
                made
            };
            operands.push(operand);
        }
        if *narrow {
            let result_types = op.kind.infer(module, &types(&new, &operands))?;
            for (v, ty) in op.results.iter().zip(result_types) {
                new.values[v.index()].ty = ty;
            }
        }
        new.ops.push(Op {
            operands,
            ..op.clone()
        });
    }
    for v in &mut new.results {
        *v = alias[v.index()];
    }
    Ok(new)
}

/// For each op, whether it is to compute the wanted rows only.
fn narrow_ops(function: &Function, rows: ValueId) -> Vec<bool> {
    let uses = Uses::of(function);
    let mut narrow = vec![false; function.ops.len()];
    for (i, op) in function.ops.iter().enumerate().rev() {
        let wanted = |v: &ValueId| {
            !uses.returned(*v)
                && uses
                    .users(*v)
                    .iter()
                    .all(|&user| narrow[user] || selected(&function.ops[user], rows) == Some(*v))
        };
        let used = op.results.iter().any(|v| !uses.users(*v).is_empty());
        narrow[i] = row_wise(&op.kind) && used && op.results.iter().all(wanted);
    }
    narrow
}

/// Appends a selection of `v` by `rows`.
fn select(
    module: &Module,
    function: &mut Function,
    v: ValueId,
    rows: ValueId,
) -> Result<ValueId, TypeFault> {
    let kind = match function.value(v).ty.as_index() {
        Some(_) => OpKind::SelectIndex,
        None => OpKind::SelectRows,
    };
    let fault = |what: &str| TypeFault {
        op: kind.name(),
        what: what.into(),
    };
    let ty = kind
        .infer(module, &types(function, &[v, rows]))?
        .pop()
        .ok_or_else(|| fault("has no result"))?;
    let made = new_value(function, ty);
    function.ops.push(new_op(kind, vec![v, rows], vec![made]));
    Ok(made)
}
