//! Who defines and who uses a value, and the few edits that rewrites are made of.
//!
//! Knows no op. A rewrite keeps the ids of the values that stay, replaces ops, and ends with
//! [`Function::compact`], so that values are numbered in order of definition again.

use gembin_ir::{Function, Module, Op, OpKind, TensorType, Value, ValueId};

/// Definitions and uses of a function's values; valid until the function changes.
pub(crate) struct Uses {
    defs: Vec<Option<usize>>,
    users: Vec<Vec<usize>>,
    returned: Vec<bool>,
}

impl Uses {
    /// Of `function` as it is now.
    pub(crate) fn of(function: &Function) -> Self {
        let n = function.values.len();
        let mut uses = Self {
            defs: vec![None; n],
            users: vec![Vec::new(); n],
            returned: vec![false; n],
        };
        for (i, op) in function.ops.iter().enumerate() {
            for v in &op.operands {
                uses.users[v.index()].push(i);
            }
            for v in &op.results {
                uses.defs[v.index()] = Some(i);
            }
        }
        for v in &function.results {
            uses.returned[v.index()] = true;
        }
        uses
    }

    /// Index of the op that defines `v`; none for a parameter.
    pub(crate) fn def(&self, v: ValueId) -> Option<usize> {
        self.defs[v.index()]
    }

    /// Indices of the ops that read `v`, in order, once for every operand that is `v`.
    pub(crate) fn users(&self, v: ValueId) -> &[usize] {
        &self.users[v.index()]
    }

    /// Whether the function returns `v`.
    pub(crate) fn returned(&self, v: ValueId) -> bool {
        self.returned[v.index()]
    }

    /// The one op that reads `v`, if it does so once and nothing else needs `v`.
    pub(crate) fn sole_user(&self, v: ValueId) -> Option<usize> {
        match (self.users(v), self.returned(v)) {
            ([one], false) => Some(*one),
            _ => None,
        }
    }
}

/// A new value, defined by no op yet.
pub(crate) fn new_value(function: &mut Function, ty: TensorType) -> ValueId {
    function.values.push(Value { ty, place: None });
    ValueId::new(function.values.len() - 1)
}

/// An op that is not planned yet.
pub(crate) fn new_op(kind: OpKind, operands: Vec<ValueId>, results: Vec<ValueId>) -> Op {
    Op {
        kind,
        operands,
        results,
        scratch: None,
    }
}

/// Types of `values`.
pub(crate) fn types(function: &Function, values: &[ValueId]) -> Vec<TensorType> {
    values
        .iter()
        .map(|v| function.value(*v).ty.clone())
        .collect()
}

/// Puts `ops` before the op now at `at` and drops the ops now at `remove`.
pub(crate) fn splice(function: &mut Function, remove: &[usize], at: usize, ops: Vec<Op>) {
    let old = std::mem::take(&mut function.ops);
    let mut added = Some(ops);
    for (i, op) in old.into_iter().enumerate() {
        if i == at {
            function.ops.extend(added.take().unwrap_or_default());
        }
        if !remove.contains(&i) {
            function.ops.push(op);
        }
    }
    function.ops.extend(added.unwrap_or_default());
}

/// Runs `rewrite` on every function, with the rest of the module at hand, and compacts the functions.
pub(crate) fn each_function(
    module: &mut Module,
    mut rewrite: impl FnMut(&mut Module, &mut Function),
) {
    let mut functions = std::mem::take(&mut module.functions);
    for function in &mut functions {
        rewrite(module, function);
        function.compact();
    }
    module.functions = functions;
}

/// Applies `step` to a function until it finds nothing more to do; each application must shrink what it looks for.
pub(crate) fn until_done(
    module: &mut Module,
    function: &mut Function,
    step: impl Fn(&mut Module, &mut Function, &Uses, usize) -> bool,
) {
    let mut at = 0;
    let mut uses = Uses::of(function);
    while at < function.ops.len() {
        if step(module, function, &uses, at) {
            uses = Uses::of(function);
            // A rewrite may move an op up to where an operand of it was made; a rescan finds all there is.
            at = 0;
        } else {
            at += 1;
        }
    }
}
