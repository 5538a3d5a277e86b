//! What the GPU's dispatches need of memory beside what the processor's steps need.

use crate::{attention, linear};
use gembin_ir::{Dim, Function, Module, Op, OpKind, ValueId};
use gembin_passes::Scratch;

/// Working memory of the GPU's dispatches.
pub struct IgpuScratch;

impl Scratch for IgpuScratch {
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        let OpKind::FusedLinear { .. } = &op.kind else {
            return 0;
        };
        let Some((rows, cols)) = function.value(op.operands[0]).ty.as_matrix() else {
            return 0;
        };
        let rows = module.bounds.rows(&function.name, rows);
        let is_head = op.results.last() == function.results.first();
        linear::scratch_bytes(rows, cols, is_head)
    }

    fn late_reads(&self, function: &Function, index: usize) -> Vec<ValueId> {
        // In decode, norms, rotation and storing are part of the attention's dispatch.
        let op = &function.ops[index];
        let OpKind::Attention { .. } = &op.kind else {
            return Vec::new();
        };
        if function.name != "decode" {
            return Vec::new();
        }
        function.ops[..index]
            .iter()
            .filter(|earlier| matches!(earlier.kind, OpKind::RopeKv { .. }))
            .filter(|earlier| earlier.results.contains(&op.operands[0]))
            .flat_map(|earlier| earlier.operands.iter().copied())
            .collect()
    }

    fn result_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        let OpKind::Attention { cache, heads, .. } = &op.kind else {
            return 0;
        };
        let Some((rows, _)) = function.value(op.results[0]).ty.as_matrix() else {
            return 0;
        };
        if function.name != "decode" && rows != Dim::Out {
            return 0;
        }
        let words = attention::part_words(*heads, module.cache(*cache).head_dim);
        u64::from(module.bounds.rows(&function.name, rows)) * u64::from(words) * 4
    }
}
