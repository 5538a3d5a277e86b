//! Gives every value, every op's scratch and every cache its bytes in the arena.
//!
//! A value lives from the op that defines it to the last op that reads it, both included, so an op's results share no
//! byte with its operands: kernels run in parallel over rows. Its scratch lives for that op alone. Functions never run
//! at once and share one area for their values; the caches follow it, since they outlive calls. Offsets are multiples
//! of [`PLACE_ALIGN`]. Dimensions count with their bounds.
//!
//! A sliding-window cache is a ring: the rows of a chunk are written before its attention reads, so it holds the window
//! of the chunk's first row and the whole chunk, `window + chunk - 1` positions, or the context if that is less.
//!
//! What the ops compute stays the same.

mod pack;

use gembin_ir::verify::PLACE_ALIGN;
use gembin_ir::{Cache, DimBounds, Function, Module, Op, Place, ValueId};
use pack::Interval;
use std::fmt;

/// The largest arena that is planned: 1 TiB, beyond which a size is a mistake.
pub const ARENA_LIMIT_BYTES: u64 = 1 << 40;

/// Positions that a ring's capacity is a multiple of, unless the context is shorter.
const RING_STEP: u32 = 16;

/// What a target needs beside an op's operands and results.
pub trait Scratch {
    /// Bytes of working memory that `op` of `function` needs while it runs.
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64;

    /// Values that the target reads at the op at `index` of `function` though they are no operands of it: those of an
    /// earlier op that it does together with this one.
    fn late_reads(&self, _: &Function, _index: usize) -> Vec<ValueId> {
        Vec::new()
    }

    /// Bytes that `op`'s first result needs if the target keeps it in a larger form than the value itself.
    fn result_bytes(&self, _: &Module, _: &Function, _: &Op) -> u64 {
        0
    }
}

/// A target whose ops need nothing.
pub struct NoScratch;

impl Scratch for NoScratch {
    fn scratch_bytes(&self, _: &Module, _: &Function, _: &Op) -> u64 {
        0
    }
}

/// How good a plan is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanReport {
    /// Each function's values, in order.
    pub functions: Vec<FunctionPlan>,
    /// The area that functions share: the largest peak.
    pub value_bytes: u64,
    /// All caches.
    pub cache_bytes: u64,
}

/// The plan of one function's values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionPlan {
    /// The function's name.
    pub name: String,
    /// End of the last value in use.
    pub peak_bytes: u64,
    /// What no plan can undercut: the most bytes alive at one op.
    pub lower_bound_bytes: u64,
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for plan in &self.functions {
            writeln!(
                f,
                "{}: peak {} bytes, lower bound {} bytes",
                plan.name, plan.peak_bytes, plan.lower_bound_bytes
            )?;
        }
        write!(
            f,
            "arena: values {} bytes, caches {} bytes",
            self.value_bytes, self.cache_bytes
        )
    }
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// A size does not fit 64 bits.
    #[error("{what} needs more than 2^64 bytes; lower the context, the chunk or the slots")]
    Overflow {
        /// What was being sized.
        what: String,
    },
    /// The arena would be larger than [`ARENA_LIMIT_BYTES`].
    #[error(
        "{what} brings the arena to {bytes} bytes, over the limit of {limit_bytes}; lower the context, the chunk or the slots"
    )]
    TooLarge {
        /// What went over the limit.
        what: String,
        /// The size it would have.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

/// Plans the arena and sets every place in the module.
///
/// # Errors
/// When a size overflows or the arena would exceed [`ARENA_LIMIT_BYTES`]; the module is then unchanged.
pub fn plan_memory(module: &mut Module, scratch: &dyn Scratch) -> Result<PlanReport, PlanError> {
    let mut functions = module.functions.clone();
    let mut plans = Vec::with_capacity(functions.len());
    for function in &mut functions {
        plans.push(plan_function(module, function, scratch)?);
    }
    let value_bytes = plans.iter().map(|plan| plan.peak_bytes).max().unwrap_or(0);
    let mut caches = module.caches.clone();
    let mut end = value_bytes;
    for cache in &mut caches {
        let what = format!("cache @{}", cache.name);
        let capacity = ring_capacity(&module.bounds, cache);
        let bytes = cache
            .bytes(module.bounds.slots, capacity)
            .ok_or(PlanError::Overflow { what: what.clone() })?;
        cache.capacity = Some(capacity);
        cache.place = Some(Place { offset: end, bytes });
        end = grown(end, bytes, &what)?;
    }
    module.functions = functions;
    module.caches = caches;
    module.arena_bytes = Some(end);
    Ok(PlanReport {
        functions: plans,
        value_bytes,
        cache_bytes: end - value_bytes,
    })
}

/// Positions planned for a slot of `cache`: what a call needs, rounded up to whole steps within the context.
fn ring_capacity(bounds: &DimBounds, cache: &Cache) -> u32 {
    cache
        .capacity_needed(bounds)
        .checked_next_multiple_of(RING_STEP)
        .map_or(bounds.context, |ring| ring.min(bounds.context))
}

fn plan_function(
    module: &Module,
    function: &mut Function,
    scratch: &dyn Scratch,
) -> Result<FunctionPlan, PlanError> {
    let end = function.ops.len();
    let mut last_uses = function.last_uses();
    for i in 0..end {
        for value in scratch.late_reads(function, i) {
            let last = &mut last_uses[value.index()];
            *last = (*last).max(i);
        }
    }
    let mut intervals = Vec::new();
    let mut owners = Vec::new();
    for (i, op) in function.ops.iter().enumerate() {
        for (nth, v) in op.results.iter().enumerate() {
            let larger = match nth {
                0 => scratch.result_bytes(module, function, op),
                _ => 0,
            };
            let what = || format!("{} of {}", v, function.name);
            let ty = &function.value(*v).ty;
            let bytes = module
                .bounds
                .value_bytes(&function.name, ty)
                .and_then(|bytes| aligned(bytes.max(larger)))
                .ok_or_else(|| PlanError::Overflow { what: what() })?;
            within_limit(bytes, &what())?;
            let last = last_uses[v.index()].min(end).max(i);
            intervals.push(Interval {
                first: i,
                last,
                bytes,
            });
            owners.push(Owner::Value(*v));
        }
        let bytes = scratch.scratch_bytes(module, function, op);
        let what = || format!("scratch of {} in {}", op.kind.name(), function.name);
        let bytes = aligned(bytes).ok_or_else(|| PlanError::Overflow { what: what() })?;
        within_limit(bytes, &what())?;
        if bytes > 0 {
            intervals.push(Interval {
                first: i,
                last: i,
                bytes,
            });
            owners.push(Owner::Scratch(i));
        }
    }
    // Every interval is at most 2^40 bytes, so sums over fewer than 2^23 of them fit.
    let packing = pack::pack(&intervals).ok_or_else(|| PlanError::Overflow {
        what: format!("the values of {}", function.name),
    })?;
    within_limit(
        packing.peak_bytes,
        &format!("the values of {}", function.name),
    )?;
    for v in &mut function.values {
        v.place = None;
    }
    for op in &mut function.ops {
        op.scratch = None;
    }
    for ((owner, offset), interval) in owners.iter().zip(&packing.offsets).zip(&intervals) {
        let place = |bytes| {
            Some(Place {
                offset: *offset,
                bytes,
            })
        };
        match owner {
            Owner::Value(v) => {
                let ty = &function.value(*v).ty;
                let bytes = module.bounds.value_bytes(&function.name, ty);
                // Without the padding, unless the target asked for more than the value.
                let bytes = bytes.filter(|&bytes| aligned(bytes) == Some(interval.bytes));
                function.values[v.index()].place = place(bytes.unwrap_or(interval.bytes));
            }
            Owner::Scratch(i) => function.ops[*i].scratch = place(interval.bytes),
        }
    }
    Ok(FunctionPlan {
        name: function.name.clone(),
        peak_bytes: packing.peak_bytes,
        lower_bound_bytes: packing.lower_bound_bytes,
    })
}

/// Whose bytes an interval is.
enum Owner {
    Value(ValueId),
    Scratch(usize),
}

fn aligned(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PLACE_ALIGN)
}

fn within_limit(bytes: u64, what: &str) -> Result<(), PlanError> {
    if bytes > ARENA_LIMIT_BYTES {
        return Err(PlanError::TooLarge {
            what: what.into(),
            bytes,
            limit_bytes: ARENA_LIMIT_BYTES,
        });
    }
    Ok(())
}

/// The arena's end after `bytes` more, aligned.
fn grown(end: u64, bytes: u64, what: &str) -> Result<u64, PlanError> {
    let end = end
        .checked_add(bytes)
        .and_then(aligned)
        .ok_or_else(|| PlanError::Overflow { what: what.into() })?;
    within_limit(end, what)?;
    Ok(end)
}
