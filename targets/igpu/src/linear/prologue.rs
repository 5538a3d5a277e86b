//! What a linear does to a row before it is multiplied, as the templates `prologue` and `prologue_row` want it.

use crate::attention::{Partials, SPLITS};
use crate::bindings::Bindings;
use crate::kernel::Constants;
use crate::lowering::Lowering;
use crate::rows::literal;
use gembin_bundle::cpu::LinearStep;
use minijinja::Value;

/// Vectors of four columns that an invocation can hold in registers where it need not.
const HELD_VECTORS: u32 = 8;
/// Columns of a vector that invocations load and hold.
pub(crate) const VECTOR_COLS: u32 = 4;

/// A step's prologue with its bindings.
pub(crate) struct Prologue {
    /// Constants of the templates.
    pub(crate) constants: Constants,
    /// What distinguishes it in a kernel's name.
    pub(crate) name: String,
}

/// How a kernel runs a prologue.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    /// Invocations of the workgroup.
    pub(crate) threads: u32,
    /// Vectors of four columns that are consumed, padding included.
    pub(crate) stored_vectors: u32,
    /// Whether the row's greatest magnitude is asked for before its values.
    pub(crate) two_passes: bool,
    /// Whether it stores the sum with the residual: one of several dispatches does.
    pub(crate) stores_sum: bool,
}

impl Prologue {
    /// Of a step whose input may be in parts; binds what it reads.
    pub(crate) fn new(
        l: &Lowering<'_>,
        step: &LinearStep,
        parts: Option<Partials>,
        used: Use,
        bindings: &mut Bindings,
    ) -> Self {
        let cols = step.x.cols;
        let vectors = cols.div_ceil(VECTOR_COLS);
        let normed = step.post_norm.is_some() || step.norm.is_some();
        let steps = vectors.max(used.stored_vectors).div_ceil(used.threads);
        let in_registers = normed || parts.is_some() || steps <= HELD_VECTORS;

        let b_x = bindings.read(parts.map_or(step.x, |parts| parts.parts));
        let vector = |bindings: &mut Bindings, weight: Option<u32>| {
            weight.map_or(0, |weight| bindings.vector(weight, l.weight(weight)))
        };
        let b_post_norm = vector(bindings, step.post_norm);
        let b_norm = vector(bindings, step.norm);
        let (b_residual, b_sum) = step.residual.map_or((0, 0), |residual| {
            let b_sum = match used.stores_sum {
                true => bindings.write(residual.to),
                false => 0,
            };
            (bindings.read(residual.from), b_sum)
        });

        let mut name = format!("{cols}");
        let present = [
            ("post_norm", step.post_norm.is_some()),
            ("residual", step.residual.is_some()),
            ("norm", step.norm.is_some()),
        ];
        for (what, _) in present.iter().filter(|(_, is_there)| *is_there) {
            name += &format!(" {what}");
        }
        if step.residual.is_some() && !used.stores_sum {
            name += " sum kept elsewhere";
        }
        if normed {
            name += &format!(" eps {:?}", step.eps);
        }
        let (heads, head_dim) = parts.map_or((0, 0), |parts| (parts.heads, parts.head_dim));
        if parts.is_some() {
            name += &format!(" parts {SPLITS}x{heads}x{head_dim}");
        }
        let constants = crate::constants! {
            cols: cols,
            vectors: vectors,
            threads: used.threads,
            stored_vectors: used.stored_vectors,
            two_passes: used.two_passes,
            steps: if in_registers { steps } else { steps.next_multiple_of(4) },
            in_registers: in_registers,
            post_norm: step.post_norm.is_some(),
            residual: step.residual.is_some(),
            stores_sum: step.residual.is_some() && used.stores_sum,
            norm: step.norm.is_some(),
            eps: literal(step.eps),
            parts: parts.is_some(),
            heads: heads,
            head_dim: head_dim,
            splits: SPLITS,
            b_x: b_x,
            b_post_norm: b_post_norm,
            b_norm: b_norm,
            b_residual: b_residual,
            b_sum: b_sum,
        };
        Self { constants, name }
    }
}

// Splits are merged by twelve, six or four.
const _: () = assert!(SPLITS.is_multiple_of(12));

/// Adds constants to others.
pub(crate) fn extended(mut constants: Constants, more: &Constants) -> Constants {
    constants.extend(
        more.iter()
            .map(|(name, value): (_, &Value)| (*name, value.clone())),
    );
    constants
}
