//! `rms_norm` with an offset becomes one without: `offset + weight` is computed once, when the bundle is packed.
//!
//! Matches every `rms_norm` whose offset is not zero. Its weight becomes an f32 [`WeightExpr::Offset`] of the old one;
//! ops that share a weight and an offset share the folded weight. The sum was made in f32 before and is made in f32
//! now, so every value stays the same to the last bit.

use crate::derived::derive;
use crate::graph::each_function;
use gembin_ir::{DType, Module, OpKind, WeightExpr};

/// Folds the offsets of all norms into their weights. After it every `rms_norm` has offset 0.
pub fn fold_norm_offsets(module: &mut Module) {
    each_function(module, |module, function| {
        for op in &mut function.ops {
            let OpKind::RmsNorm { weight, offset, .. } = &mut op.kind else {
                continue;
            };
            if *offset == 0.0 {
                continue;
            }
            let of = module.weight(*weight);
            let (name, shape) = (format!("{}.folded", of.name), of.shape.clone());
            let expr = WeightExpr::Offset {
                of: *weight,
                add: *offset,
            };
            *weight = derive(module, name, DType::F32, shape, expr);
            *offset = 0.0;
        }
    });
}
