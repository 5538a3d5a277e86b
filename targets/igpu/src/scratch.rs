//! What the GPU's dispatches need of memory beside what the processor's steps need.

use crate::{attention, linear};
use gembin_bundle::manifest::RowSet;
use gembin_ir::{Dim, Function, Module, Op, OpKind, ValueId};
use gembin_passes::Scratch;

/// Working memory of the GPU's dispatches.
pub struct IgpuScratch;

impl Scratch for IgpuScratch {
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        match &op.kind {
            OpKind::FusedLinear { .. } => {
                let Some((rows, cols)) = function.value(op.operands[0]).ty.as_matrix() else {
                    return 0;
                };
                let (rows, _) = max_rows(module, function, rows);
                let is_head = op.results.last() == function.results.first();
                linear::scratch_bytes(rows, cols, is_head)
            }
            _ => 0,
        }
    }

    fn late_reads(&self, function: &Function, index: usize) -> Vec<ValueId> {
        // In decode, norms, rotation and storing are part of the attention's dispatch.
        let op = &function.ops[index];
        match &op.kind {
            OpKind::Attention { .. } if function.name == "decode" => function.ops[..index]
                .iter()
                .filter(|earlier| matches!(earlier.kind, OpKind::RopeKv { .. }))
                .filter(|earlier| earlier.results.contains(&op.operands[0]))
                .flat_map(|earlier| earlier.operands.iter().copied())
                .collect(),
            _ => Vec::new(),
        }
    }

    fn result_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        match &op.kind {
            OpKind::Attention { cache, heads, .. } => {
                let Some((rows, _)) = function.value(op.results[0]).ty.as_matrix() else {
                    return 0;
                };
                let (rows, set) = max_rows(module, function, rows);
                let in_parts = function.name == "decode" || set == RowSet::Out;
                match in_parts {
                    true => {
                        let words = attention::part_words(*heads, module.cache(*cache).head_dim);
                        u64::from(rows) * u64::from(words) * 4
                    }
                    false => 0,
                }
            }
            _ => 0,
        }
    }
}

fn max_rows(module: &Module, function: &Function, rows: Dim) -> (u32, RowSet) {
    match rows {
        Dim::Const(n) => (n, RowSet::Seq),
        Dim::Seq if function.name == "decode" => (module.bounds.slots, RowSet::Seq),
        Dim::Seq => (module.bounds.chunk, RowSet::Seq),
        Dim::Out => (module.bounds.outs, RowSet::Out),
    }
}
