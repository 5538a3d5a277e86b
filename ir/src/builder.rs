//! Builds functions op by op; result types come from each op's own inference.

use crate::entity::ValueId;
use crate::module::{Function, Module, Op, Value};
use crate::ops::{OpKind, TypeFault};
use crate::types::TensorType;

/// Appends ops to a function of `module`.
pub struct FunctionBuilder<'m> {
    module: &'m Module,
    function: Function,
}

impl<'m> FunctionBuilder<'m> {
    /// Starts a function. Weights and caches it uses must be declared in `module` before.
    pub fn new(module: &'m Module, name: impl Into<String>) -> Self {
        let function = Function {
            name: name.into(),
            values: vec![],
            params: vec![],
            ops: vec![],
            results: vec![],
        };
        Self { module, function }
    }

    /// Adds a parameter.
    pub fn param(&mut self, ty: TensorType) -> ValueId {
        let id = self.value(ty);
        self.function.params.push(id);
        id
    }

    /// Appends an op and returns its results.
    ///
    /// # Errors
    /// The fault if the op cannot take these operands.
    pub fn op(&mut self, kind: OpKind, operands: &[ValueId]) -> Result<Vec<ValueId>, TypeFault> {
        let types: Vec<TensorType> = operands
            .iter()
            .map(|v| self.function.value(*v).ty.clone())
            .collect();
        let result_types = kind.infer(self.module, &types)?;
        let results: Vec<ValueId> = result_types.into_iter().map(|ty| self.value(ty)).collect();
        let op = Op {
            kind,
            operands: operands.to_vec(),
            results: results.clone(),
            scratch: None,
        };
        self.function.ops.push(op);
        Ok(results)
    }

    /// Appends an op that has exactly one result.
    ///
    /// # Errors
    /// As [`FunctionBuilder::op`].
    pub fn op1(&mut self, kind: OpKind, operands: &[ValueId]) -> Result<ValueId, TypeFault> {
        let name = kind.name();
        match self.op(kind, operands)?.as_slice() {
            [one] => Ok(*one),
            other => panic!("{name} has {} results, not one", other.len()),
        }
    }

    /// Ends the function.
    pub fn finish(mut self, results: &[ValueId]) -> Function {
        self.function.results = results.to_vec();
        self.function
    }

    fn value(&mut self, ty: TensorType) -> ValueId {
        self.function.values.push(Value { ty, place: None });
        ValueId::new(self.function.values.len() - 1)
    }
}
