//! Rules 6 to 11: signatures, SSA form, types, and the order of cache accesses.

use super::{At, Verifier};
use crate::module::Function;
use crate::ops::{Attr, Epilogue};
use crate::types::{DType, Dim, TensorType};

impl Verifier<'_> {
    /// Checks a function but for its memory; whether ids and types are sound enough to go on.
    pub(super) fn function(&mut self, index: usize) -> bool {
        let before = self.faults.len();
        if !self.ids_in_range(index) {
            return false;
        }
        self.signature(index);
        self.value_types(index);
        self.definitions(index);
        self.op_types(index);
        self.cache_order(index);
        self.faults.len() == before
    }

    fn ids_in_range(&mut self, index: usize) -> bool {
        let module = self.module;
        let function = &module.functions[index];
        let count = function.values.len();
        let before = self.faults.len();
        let missing = |ids: &[crate::ValueId]| ids.iter().find(|id| id.index() >= count).copied();
        if let Some(id) = missing(&function.params) {
            self.fault(At::Function(index), format!("there is no {id}"));
        }
        for (i, op) in function.ops.iter().enumerate() {
            for id in [missing(&op.operands), missing(&op.results)]
                .into_iter()
                .flatten()
            {
                self.fault(At::Op(index, i), format!("there is no {id}"));
            }
            for (name, attr) in op.kind.attributes() {
                let declared = match attr {
                    Attr::Weight(id) | Attr::OptionalWeight(Some(id)) => {
                        id.index() < module.weights.len()
                    }
                    Attr::Cache(id) => id.index() < module.caches.len(),
                    Attr::F32(_)
                    | Attr::U32(_)
                    | Attr::Epilogue(_)
                    | Attr::OptionalWeight(None) => true,
                };
                if !declared {
                    self.fault(At::Op(index, i), format!("{name} is not declared"));
                }
            }
        }
        if let Some(id) = missing(&function.results) {
            self.fault(At::Results(index), format!("there is no {id}"));
        }
        self.faults.len() == before
    }

    fn signature(&mut self, index: usize) {
        let function = &self.module.functions[index];
        let (seq, out) = (TensorType::index(Dim::Seq), TensorType::index(Dim::Out));
        let (want, rows) = match function.name.as_str() {
            "prefill" => (vec![seq.clone(), seq.clone(), seq, out], Dim::Out),
            "decode" => (vec![seq.clone(), seq.clone(), seq], Dim::Seq),
            _ => return,
        };
        let types = |ids: &[crate::ValueId]| -> Vec<TensorType> {
            ids.iter()
                .map(|id| function.value(*id).ty.clone())
                .collect()
        };
        let params = types(&function.params);
        let results = types(&function.results);
        if params != want {
            let want: Vec<String> = want.iter().map(ToString::to_string).collect();
            self.fault(
                At::Function(index),
                format!("its parameters must be {}", want.join(", ")),
            );
        }
        let fits =
            matches!(results.as_slice(), [ty] if ty.as_matrix().is_some_and(|(r, _)| r == rows));
        if !fits {
            self.fault(
                At::Results(index),
                format!("must be one value of type f32[{rows}, n]"),
            );
        }
    }

    fn value_types(&mut self, index: usize) {
        let module = self.module;
        let function = &module.functions[index];
        for (i, value) in function.values.iter().enumerate() {
            let id = crate::ValueId::new(i);
            let ty = &value.ty;
            if ty.as_matrix().is_none() && ty.as_index().is_none() {
                let what = format!("{ty} is neither f32[rows, n] nor i32[rows]");
                self.fault(At::Value(index, id), what);
            } else if ty.shape.contains(&Dim::Const(0)) {
                self.fault(At::Value(index, id), format!("a dimension of {ty} is 0"));
            } else if module.bounds.value_bytes(&function.name, ty).is_none() {
                self.fault(At::Value(index, id), format!("the size of {ty} overflows"));
            }
        }
    }

    /// SSA form.
    fn definitions(&mut self, index: usize) {
        let function = &self.module.functions[index];
        let mut defined = vec![false; function.values.len()];
        for id in &function.params {
            if std::mem::replace(&mut defined[id.index()], true) {
                self.fault(At::Function(index), format!("{id} is two parameters"));
            }
        }
        for (i, op) in function.ops.iter().enumerate() {
            for id in op.operands.iter().filter(|id| !defined[id.index()]) {
                self.fault(
                    At::Op(index, i),
                    format!("{id} is used before it is defined"),
                );
            }
            for id in &op.results {
                if std::mem::replace(&mut defined[id.index()], true) {
                    self.fault(At::Op(index, i), format!("{id} is defined a second time"));
                }
            }
        }
        for id in &function.results {
            if !defined[id.index()] {
                self.fault(At::Results(index), format!("{id} is never defined"));
            }
        }
    }

    fn op_types(&mut self, index: usize) {
        let module = self.module;
        let function = &module.functions[index];
        let types = |ids: &[crate::ValueId]| -> Vec<TensorType> {
            ids.iter()
                .map(|id| function.value(*id).ty.clone())
                .collect()
        };
        for (i, op) in function.ops.iter().enumerate() {
            let at = At::Op(index, i);
            for (name, attr) in op.kind.attributes() {
                let number = match attr {
                    Attr::F32(x) | Attr::Epilogue(Epilogue::Softcap { cap: x }) => x,
                    Attr::U32(_)
                    | Attr::Weight(_)
                    | Attr::OptionalWeight(_)
                    | Attr::Cache(_)
                    | Attr::Epilogue(Epilogue::None | Epilogue::Geglu { .. }) => continue,
                };
                if !number.is_finite() {
                    self.fault(at, format!("{name} is {number}"));
                }
            }
            match op.kind.infer(module, &types(&op.operands)) {
                Err(fault) => self.fault(at, fault.what),
                Ok(inferred) => {
                    let declared = types(&op.results);
                    if declared != inferred {
                        self.fault(at, format!("its results are {}", listed(&inferred)));
                    }
                }
            }
        }
    }

    fn cache_order(&mut self, index: usize) {
        let module = self.module;
        let function: &Function = &module.functions[index];
        let mut written = vec![false; module.caches.len()];
        for (i, op) in function.ops.iter().enumerate() {
            if let Some(id) = op.kind.cache_read()
                && !written[id.index()]
            {
                let name = &module.cache(id).name;
                self.fault(
                    At::Op(index, i),
                    format!("@{name} is read before this function writes it"),
                );
            }
            if let Some(id) = op.kind.cache_written()
                && std::mem::replace(&mut written[id.index()], true)
            {
                let name = &module.cache(id).name;
                self.fault(
                    At::Op(index, i),
                    format!("@{name} is written a second time"),
                );
            }
        }
    }
}

fn listed(types: &[TensorType]) -> String {
    if types.is_empty() {
        return "none".to_owned();
    }
    let types: Vec<String> = types.iter().map(ToString::to_string).collect();
    types.join(", ")
}

/// Whether values of this type must have a place once memory is planned.
pub(super) fn needs_place(ty: &TensorType) -> bool {
    match ty.dtype {
        DType::F32 => true,
        DType::F16 | DType::Bf16 | DType::I32 | DType::Q8 | DType::Q4 => false,
    }
}
