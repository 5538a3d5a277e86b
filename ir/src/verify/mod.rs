//! The verifier: what every module must satisfy, at every stage. It reports all faults at once, each with its place and
//! the printed op. Back ends take a [`Verified`], the proof that it ran and found nothing.
//!
//! The module:
//!  1. Bounds are positive and fit i32 (positions, slots and row indices are i32).
//!  2. Weights and caches share one space of unique names; function names are unique.
//!
//! Weights and caches:
//!  3. A weight has one or two positive dimensions, and its size in bytes fits u64. Its dtype is not i32; quantized
//!     dtypes and the `rows16` layout are for matrices only.
//!  4. A weight expression names declared weights, does not lead back to itself, and is nested at most
//!     [`MAX_EXPR_DEPTH`] deep. `concat` takes at least one part, all matrices as wide as the result, whose rows add up
//!     to the result's. `interleave` takes two matrices of one shape and positive blocks, and has
//!     `2 * block * ceil(rows / block)` rows. `offset` keeps the shape and adds a finite number.
//!  5. A cache is f32 or f16; heads, head dimension, window and capacity are positive. A capacity holds every position
//!     that a query of the largest call may see ([`Cache::capacity_needed`]).
//!
//! Functions:
//!  6. `prefill` takes `ids, pos, slot: i32[?seq], out: i32[?out]` and returns `f32[?out, n]`; `decode` takes the first
//!     three and returns `f32[?seq, n]`. Other functions are free.
//!  7. All ids are in range. A value is defined at most once, by a parameter or an op; an operand is defined before the
//!     op, a result of the function somewhere. Entries of the value table that nothing defines or uses are allowed
//!     ([`Function::compact`] removes them).
//!  8. Values are f32 matrices of known width or i32 vectors, constant dimensions positive, their size at the bounds
//!     fits u64.
//!  9. Operands suit the op, and its results have the types that the op infers.
//! 10. Attributes that are numbers are finite.
//! 11. A function writes a cache at most once, and reads it only after writing it.
//!
//! Memory, once planned (the module has an arena size):
//! 12. Every f32 result of an op has a place, every cache a capacity and a place; parameters have none. Before planning
//!     nothing has a place. (i32 results may or may not: targets may resolve them to arguments of the call.)
//! 13. A place lies in the arena, starts at a multiple of [`PLACE_ALIGN`] and holds the value at its bounds, or the
//!     cache at its capacity.
//! 14. Places of things alive at once do not overlap. A value lives from the op that defines it to the last op that
//!     reads it, results of the function to its end; scratch while its op runs; caches always. A result may take the
//!     very place of an operand that dies at its op if the op works element by element ([`OpKind::works_in_place`]).

mod functions;
mod memory;
mod weights;

#[cfg(test)]
mod tests;

use crate::entity::{CacheId, ValueId, WeightId};
use crate::module::Module;
#[cfg(doc)]
use crate::module::{Cache, Function};
#[cfg(doc)]
use crate::ops::OpKind;
use crate::text;
#[cfg(doc)]
use crate::weights::MAX_EXPR_DEPTH;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

/// Alignment of every place in the arena, in bytes: a cache line, and the widest vector.
pub const PLACE_ALIGN: u64 = 64;

/// Faults printed in full; a broken module can have one an op.
const FAULTS_SHOWN: usize = 100;

/// A module that obeys all rules of the IR.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'m>(&'m Module);

impl<'m> Verified<'m> {
    /// The module, for as long as it was borrowed.
    pub fn module(self) -> &'m Module {
        self.0
    }
}

impl Deref for Verified<'_> {
    type Target = Module;

    fn deref(&self) -> &Module {
        self.0
    }
}

/// Part of a module. Functions and ops are given by index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// The module's header.
    Module,
    /// A weight.
    Weight(WeightId),
    /// A cache.
    Cache(CacheId),
    /// A function's signature.
    Function(usize),
    /// A value of a function.
    Value(usize, ValueId),
    /// An op of a function.
    Op(usize, usize),
    /// A function's results.
    Results(usize),
}

/// One broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where.
    pub at: At,
    /// The place in words, and the printed op if it is one.
    pub place: String,
    /// Which rule, and what breaks it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// All faults of a module; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults, module first, then weights, caches and functions in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().take(FAULTS_SHOWN).enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        if self.0.len() > FAULTS_SHOWN {
            write!(f, "\nand {} more", self.0.len() - FAULTS_SHOWN)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Checks every rule.
///
/// # Errors
/// All faults.
pub fn verify(module: &Module) -> Result<Verified<'_>, Faults> {
    let mut v = Verifier {
        module,
        faults: Vec::new(),
    };
    v.bounds();
    v.names();
    v.weights();
    v.caches();
    v.cache_places();
    // Everything further follows ids into the tables: shapes and memory are looked at where ids and types hold.
    for index in 0..module.functions.len() {
        if v.function(index) {
            v.memory(index);
        }
    }
    if v.faults.is_empty() {
        Ok(Verified(module))
    } else {
        Err(Faults(v.faults))
    }
}

struct Verifier<'m> {
    module: &'m Module,
    faults: Vec<Fault>,
}

impl Verifier<'_> {
    fn fault(&mut self, at: At, what: impl Into<String>) {
        let module = self.module;
        let name = |i: usize| module.functions[i].name.as_str();
        let place = match at {
            At::Module => "module".to_owned(),
            At::Weight(id) => format!("weight @{}", module.weight(id).name),
            At::Cache(id) => format!("cache @{}", module.cache(id).name),
            At::Function(i) => format!("function {}", name(i)),
            At::Value(i, id) => format!("function {}, {id}", name(i)),
            At::Op(i, op) => {
                let function = &module.functions[i];
                let printed = text::print_op(module, function, &function.ops[op]);
                format!("function {}, op {op}, `{printed}`", function.name)
            }
            At::Results(i) => format!("function {}, return", name(i)),
        };
        let what = what.into();
        self.faults.push(Fault { at, place, what });
    }

    fn bounds(&mut self) {
        let b = self.module.bounds;
        for (name, bound) in [
            ("chunk", b.chunk),
            ("outs", b.outs),
            ("context", b.context),
            ("slots", b.slots),
        ] {
            if bound == 0 || i32::try_from(bound).is_err() {
                self.fault(
                    At::Module,
                    format!("{name} is {bound}, must be 1 to {}", i32::MAX),
                );
            }
        }
    }

    fn names(&mut self) {
        let module = self.module;
        let weights = (0..module.weights.len()).map(|i| At::Weight(WeightId::new(i)));
        let caches = (0..module.caches.len()).map(|i| At::Cache(CacheId::new(i)));
        let functions = (0..module.functions.len()).map(At::Function);
        let mut seen = HashMap::new();
        for at in weights.chain(caches).chain(functions) {
            let key = match at {
                At::Weight(id) => (true, &module.weight(id).name),
                At::Cache(id) => (true, &module.cache(id).name),
                At::Function(i) => (false, &module.functions[i].name),
                At::Module | At::Value(..) | At::Op(..) | At::Results(_) => continue,
            };
            if seen.insert(key, at).is_some() {
                self.fault(at, "the name is taken");
            }
        }
    }
}
