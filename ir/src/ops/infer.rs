//! Checks of operands and attributes that ops share when they infer their result types, with messages in one voice.

use crate::entity::{CacheId, WeightId};
use crate::module::Module;
use crate::ops::TypeFault;
use crate::types::{DType, Dim, TensorType};

/// Result types of an op, or why it has none.
pub(super) type Inferred = Result<Vec<TensorType>, TypeFault>;

/// Operand checks with messages in one voice.
pub(super) struct Infer<'a> {
    pub op: &'static str,
    pub module: &'a Module,
    pub operands: &'a [TensorType],
}

impl Infer<'_> {
    pub fn fault(&self, what: String) -> TypeFault {
        TypeFault { op: self.op, what }
    }

    pub fn arity(&self, want: usize) -> Result<(), TypeFault> {
        match self.operands.len() {
            n if n == want => Ok(()),
            n => Err(self.fault(format!("takes {want} operands, not {n}"))),
        }
    }

    pub fn matrix(&self, i: usize, name: &str) -> Result<(Dim, u32), TypeFault> {
        let ty = &self.operands[i];
        ty.as_matrix()
            .ok_or_else(|| self.fault(format!("{name} must be an f32 matrix, not {ty}")))
    }

    pub fn index(&self, i: usize, name: &str) -> Result<Dim, TypeFault> {
        let ty = &self.operands[i];
        ty.as_index()
            .ok_or_else(|| self.fault(format!("{name} must be an i32 vector, not {ty}")))
    }

    pub fn expect_matrix(
        &self,
        i: usize,
        name: &str,
        rows: Dim,
        cols: u32,
    ) -> Result<(), TypeFault> {
        let want = TensorType::matrix(rows, cols);
        match &self.operands[i] {
            ty if *ty == want => Ok(()),
            ty => Err(self.fault(format!("{name} must be {want}, not {ty}"))),
        }
    }

    pub fn expect_index(&self, i: usize, name: &str, rows: Dim) -> Result<(), TypeFault> {
        let want = TensorType::index(rows);
        match &self.operands[i] {
            ty if *ty == want => Ok(()),
            ty => Err(self.fault(format!("{name} must be {want}, not {ty}"))),
        }
    }

    pub fn weight_vector(&self, id: WeightId) -> Result<u32, TypeFault> {
        let w = self
            .module
            .weights
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        match (w.dtype, w.shape.as_slice()) {
            (DType::F32 | DType::F16 | DType::Bf16, [n]) => Ok(*n),
            _ => Err(self.fault(format!("@{} must be a float vector", w.name))),
        }
    }

    pub fn weight_matrix(&self, id: WeightId) -> Result<(u32, u32), TypeFault> {
        let w = self
            .module
            .weights
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        match (w.dtype, w.shape.as_slice()) {
            (DType::I32, _) => Err(self.fault(format!("@{} is of integers", w.name))),
            (_, [n, k]) => Ok((*n, *k)),
            _ => Err(self.fault(format!("@{} must be a matrix", w.name))),
        }
    }

    pub fn reduce(&self, weight: WeightId, cols: u32) -> Result<u32, TypeFault> {
        let (n, k) = self.weight_matrix(weight)?;
        if k != cols {
            let name = &self.module.weights[weight.index()].name;
            return Err(self.fault(format!("x has {cols} columns, @{name} is [{n}, {k}]")));
        }
        Ok(n)
    }

    pub fn cache_width(&self, id: CacheId) -> Result<u32, TypeFault> {
        let c = self
            .module
            .caches
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        c.kv_heads
            .checked_mul(c.head_dim)
            .ok_or_else(|| self.fault(format!("@{} is too wide", c.name)))
    }

    /// Head dimension of the cache, if `heads` query heads can share its KV heads evenly.
    pub fn heads(&self, id: CacheId, heads: u32) -> Result<u32, TypeFault> {
        let c = self
            .module
            .caches
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        if heads == 0 || c.kv_heads == 0 || !heads.is_multiple_of(c.kv_heads) {
            return Err(self.fault(format!(
                "{heads} query heads do not divide over {} KV heads",
                c.kv_heads
            )));
        }
        Ok(c.head_dim)
    }

    pub fn even_head(&self, head_dim: u32) -> Result<(), TypeFault> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(self.fault(format!("head_dim {head_dim} must be even and positive")));
        }
        Ok(())
    }

    pub fn cap(&self, cap: f32) -> Result<(), TypeFault> {
        if !(cap.is_finite() && cap > 0.0) {
            return Err(self.fault(format!("cap {cap} must be positive")));
        }
        Ok(())
    }

    pub fn eps(&self, eps: f32) -> Result<(), TypeFault> {
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(self.fault(format!("eps {eps} must be finite and not negative")));
        }
        Ok(())
    }
}
