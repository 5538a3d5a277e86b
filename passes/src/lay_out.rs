//! Chooses how the bytes of each weight are arranged.
//!
//! Matrices that ops use become [`Layout::Rows16`], which every device reads in place; vectors stay row by row.
//! Weights that only feed the expressions of others are never stored and keep their layout. Values do not change.

use gembin_ir::{Function, Layout, Module, Op, WeightId};

/// Lays out all weights that ops use.
pub fn lay_out(module: &mut Module) {
    let used: Vec<WeightId> = module.functions.iter().flat_map(weights_of).collect();
    for id in used {
        let weight = &mut module.weights[id.index()];
        weight.layout = match weight.shape.len() {
            2 => Layout::Rows16,
            _ => Layout::RowMajor,
        };
    }
}

/// Weights named by the ops of `function`, with repetitions.
pub fn weights_of(function: &Function) -> Vec<WeightId> {
    let weights = |op: &Op| op.kind.weights();
    function.ops.iter().flat_map(weights).collect()
}
