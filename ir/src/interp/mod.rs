//! The reference interpreter: evaluates a function op by op in f32. It is the oracle of every numeric test, so it is
//! plain first and fast second: matrices are streamed in slabs of rows over all threads, everything else is a loop.
//!
//! It owns the KV caches, so calls in sequence (prefill, decode, decode, ..) see what earlier calls stored. When the
//! module's memory is planned, caches have the planned capacity and ring semantics; before that they hold the whole
//! context. What an op means is in [`crate::ops`]; this file only walks.

pub(crate) mod cache;
pub(crate) mod frame;
pub(crate) mod math;

#[cfg(test)]
mod tests;

pub use frame::Tensor;

use crate::entity::WeightId;
use crate::module::{Function, Module};
use crate::types::{Dim, TensorType};
use crate::verify;
use cache::KvCache;
use frame::{Datum, Frame};

/// Where the interpreter reads weights.
pub trait WeightSource: Sync {
    /// Fills `out` with whole rows of weight `id`, from `first_row` on; a vector is one row. The values are those that
    /// the weight's storage format can hold.
    ///
    /// # Errors
    /// One line saying which weight cannot be read, and why.
    fn read_rows(&self, id: WeightId, first_row: usize, out: &mut [f32]) -> Result<(), String>;
}

/// Arguments of a call: one entry a row (token) of the call.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Inputs<'a> {
    /// Token ids.
    pub ids: &'a [i32],
    /// Positions in their sequences, from 0.
    pub pos: &'a [i32],
    /// Sequence slots.
    pub slot: &'a [i32],
    /// Rows whose logits are wanted; for functions with that parameter only.
    pub out: &'a [i32],
}

/// Why a call has no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// The module breaks the rules of the IR.
    #[error("the module is not valid: {0}")]
    Invalid(String),
    /// There is no such function.
    #[error("no function named {0}")]
    NoFunction(String),
    /// The function has other parameters or results than calls have.
    #[error("{function} cannot be called: {what}")]
    Signature {
        /// The function.
        function: String,
        /// Parameter or result in question.
        what: String,
    },
    /// The arguments do not fit.
    #[error("arguments of {function}: {what}")]
    Input {
        /// The function.
        function: String,
        /// Argument in question.
        what: String,
    },
    /// An op cannot be evaluated: an id or position out of range, or a weight that cannot be read.
    #[error("{function}, op {index} ({op}): {what}")]
    Op {
        /// The function.
        function: String,
        /// Index of the op.
        index: usize,
        /// Name of the op.
        op: &'static str,
        /// The reason.
        what: String,
    },
}

/// Evaluates functions of a module and keeps its caches between calls.
pub struct Interpreter<'a> {
    module: &'a Module,
    weights: &'a dyn WeightSource,
    caches: Vec<KvCache>,
    faults: Option<String>,
    int8_activations: bool,
}

impl<'a> Interpreter<'a> {
    /// An interpreter with empty caches. A module that breaks the rules of the IR is refused by the first call.
    pub fn new(module: &'a Module, weights: &'a dyn WeightSource) -> Self {
        Self {
            module,
            weights,
            caches: module
                .caches
                .iter()
                .map(|cache| KvCache::new(cache, &module.bounds))
                .collect(),
            faults: verify::verify(module)
                .err()
                .map(|faults| faults.to_string()),
            int8_activations: false,
        }
    }

    /// Rounds what meets a quantized weight to 8 bits in groups, as devices with integer dot products do,
    /// so that their results can be compared closely; without it, linears are exact f32 whatever the weight.
    pub fn with_int8_activations(mut self) -> Self {
        self.int8_activations = true;
        self
    }

    /// Calls a function and returns its results.
    ///
    /// # Errors
    /// See [`EvalError`]. After an error the caches may hold part of what the call would have stored.
    pub fn call(&mut self, function: &str, inputs: &Inputs<'_>) -> Result<Vec<Tensor>, EvalError> {
        if let Some(faults) = &self.faults {
            return Err(EvalError::Invalid(faults.clone()));
        }
        let module = self.module;
        let f = module
            .function(function)
            .ok_or_else(|| EvalError::NoFunction(function.to_owned()))?;
        let mut values = bind(module, f, inputs)?;
        let last_use = f.last_uses();
        for (index, op) in f.ops.iter().enumerate() {
            let fail = |what: String| EvalError::Op {
                function: f.name.clone(),
                index,
                op: op.kind.name(),
                what,
            };
            let operands = op
                .operands
                .iter()
                .map(|id| values[id.index()].as_ref())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| fail("an operand has no value".to_owned()))?;
            let mut frame = Frame {
                module,
                weights: self.weights,
                caches: &mut self.caches,
                operands,
                int8_activations: self.int8_activations,
            };
            let results = op.kind.eval(&mut frame).map_err(fail)?;
            for (id, result) in op.results.iter().zip(results) {
                values[id.index()] = Some(result);
            }
            for id in op.operands.iter().chain(&op.results) {
                if last_use[id.index()] <= index {
                    values[id.index()] = None;
                }
            }
        }
        f.results
            .iter()
            .map(|id| match &values[id.index()] {
                Some(Datum::Matrix(tensor)) => Ok(tensor.clone()),
                Some(Datum::Index(_)) | None => Err(EvalError::Signature {
                    function: f.name.clone(),
                    what: format!("result {id} is not an f32 matrix"),
                }),
            })
            .collect()
    }
}

/// Values of the function with the parameters filled in.
fn bind(
    module: &Module,
    f: &Function,
    inputs: &Inputs<'_>,
) -> Result<Vec<Option<Datum>>, EvalError> {
    let arguments = [
        ("ids", inputs.ids, Dim::Seq),
        ("pos", inputs.pos, Dim::Seq),
        ("slot", inputs.slot, Dim::Seq),
        ("out", inputs.out, Dim::Out),
    ];
    let input = |what: String| EvalError::Input {
        function: f.name.clone(),
        what,
    };
    let fits = f.params.len() == 3 || f.params.len() == 4;
    let typed = f
        .params
        .iter()
        .zip(&arguments)
        .all(|(id, (_, _, dim))| f.value(*id).ty == TensorType::index(*dim));
    if !(fits && typed) {
        return Err(EvalError::Signature {
            function: f.name.clone(),
            what: "its parameters are not ids, pos, slot: i32[?seq] and perhaps out: i32[?out]"
                .to_owned(),
        });
    }
    let mut values = vec![None; f.values.len()];
    for (i, (name, argument, dim)) in arguments.into_iter().enumerate() {
        let Some(id) = f.params.get(i) else {
            if !argument.is_empty() {
                return Err(input(format!("it takes no `{name}`")));
            }
            continue;
        };
        if dim == Dim::Seq && argument.len() != inputs.ids.len() {
            return Err(input(format!(
                "`{name}` has {} entries, `ids` {}",
                argument.len(),
                inputs.ids.len()
            )));
        }
        let bound = module.bounds.rows(&f.name, dim);
        if argument.is_empty() || argument.len() > bound as usize {
            return Err(input(format!(
                "`{name}` has {} entries, {dim} must be 1 to {bound}",
                argument.len()
            )));
        }
        values[id.index()] = Some(Datum::Index(argument.to_vec()));
    }
    Ok(values)
}
