//! Chooses the storage format of matrices and caches.
//!
//! Every matrix that a linear uses gets [`QuantOptions::matrices`]; the tables that `embed` reads and the matrices
//! whose products a function returns (one and the same weight where the head is tied) get [`QuantOptions::head`].
//! Vectors, and weights that only feed the expressions of others, keep their format. The ops stay as they are: only
//! the values that a weight can hold change.

use gembin_ir::{DType, Function, Module, OpKind, ValueId, WeightId};

/// Storage formats asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuantOptions {
    /// Of the matrices inside the layers; `None`: as in the checkpoint (parts of unequal formats were merged as f32).
    pub matrices: Option<DType>,
    /// Of the embedding table and the output head; `None`: as in the checkpoint.
    pub head: Option<DType>,
    /// Of keys and values: f32 or f16.
    pub cache: DType,
}

/// Sets the formats.
pub fn quantize(module: &mut Module, options: &QuantOptions) {
    let heads: Vec<WeightId> = module.functions.iter().flat_map(heads_of).collect();
    let inner: Vec<WeightId> = module
        .functions
        .iter()
        .flat_map(linear_weights)
        .filter(|id| !heads.contains(id))
        .collect();
    for (ids, dtype) in [(inner, options.matrices), (heads, options.head)] {
        let Some(dtype) = dtype else { continue };
        for id in ids {
            module.weights[id.index()].dtype = dtype;
        }
    }
    for cache in &mut module.caches {
        cache.dtype = options.cache;
    }
}

/// Matrices of the function's linears.
fn linear_weights(function: &Function) -> Vec<WeightId> {
    let weight = |kind: &OpKind| match kind {
        OpKind::Linear { weight } | OpKind::FusedLinear { weight, .. } => Some(*weight),
        OpKind::Embed { .. }
        | OpKind::RmsNorm { .. }
        | OpKind::RopeTable { .. }
        | OpKind::Rope { .. }
        | OpKind::KvWrite { .. }
        | OpKind::Attention { .. }
        | OpKind::Gelu
        | OpKind::Mul
        | OpKind::Add
        | OpKind::Softcap { .. }
        | OpKind::SelectRows
        | OpKind::SelectIndex
        | OpKind::Columns { .. }
        | OpKind::RopeKv { .. } => None,
    };
    function
        .ops
        .iter()
        .filter_map(|op| weight(&op.kind))
        .collect()
}

/// Embedding tables, and matrices whose products are returned.
fn heads_of(function: &Function) -> Vec<WeightId> {
    let mut heads: Vec<WeightId> = function
        .results
        .iter()
        .filter_map(|result| head_behind(function, *result))
        .collect();
    for op in &function.ops {
        if let OpKind::Embed { table, .. } = op.kind {
            heads.push(table);
        }
    }
    heads
}

/// The matrix whose product, capped or selected at most, is `result`.
fn head_behind(function: &Function, result: ValueId) -> Option<WeightId> {
    let mut v = result;
    for op in function.ops.iter().rev() {
        let Some(position) = op.results.iter().position(|r| *r == v) else {
            continue;
        };
        match &op.kind {
            OpKind::Linear { weight } => return Some(*weight),
            // The last result is the product, the one before it the residual stream.
            OpKind::FusedLinear { weight, .. } => {
                return (position + 1 == op.results.len()).then_some(*weight);
            }
            OpKind::Softcap { .. } | OpKind::SelectRows => v = *op.operands.first()?,
            OpKind::Embed { .. }
            | OpKind::RmsNorm { .. }
            | OpKind::RopeTable { .. }
            | OpKind::Rope { .. }
            | OpKind::KvWrite { .. }
            | OpKind::Attention { .. }
            | OpKind::Gelu
            | OpKind::Mul
            | OpKind::Add
            | OpKind::SelectIndex
            | OpKind::Columns { .. }
            | OpKind::RopeKv { .. } => return None,
        }
    }
    None
}
