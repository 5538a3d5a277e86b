//! Memory plans: nothing alive shares bytes, little is wasted, hostile sizes are errors.

use crate::fixtures::{CopyOfInput, load};
use crate::gemma::Gemma;
use crate::random::program;
use gembin_ir::{DType, Function, Module, Op, Place};
use gembin_passes::plan_memory::{ARENA_LIMIT_BYTES, NoScratch};
use gembin_passes::{
    PlanError, QuantOptions, Scratch, Stage, fold_norm_offsets, fuse, plan_memory, run_until,
    sink_select,
};
use proptest::prelude::*;

fn overlap(a: Place, b: Place) -> bool {
    a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Everything that must keep its bytes while op `i` runs.
fn alive_at(function: &Function, i: usize) -> Vec<Place> {
    let mut alive = Vec::new();
    for (v, value) in function.values.iter().enumerate() {
        let is = |ids: &[gembin_ir::ValueId]| ids.iter().any(|id| id.index() == v);
        let born = function.ops.iter().position(|op| is(&op.results));
        let read = function.ops.iter().rposition(|op| is(&op.operands));
        let Some(born) = born else { continue };
        let last = if is(&function.results) {
            function.ops.len()
        } else {
            read.unwrap_or(born)
        };
        if (born..=last).contains(&i) {
            alive.push(value.place.expect("every op's result has a place"));
        }
    }
    alive.extend(function.ops[i].scratch);
    alive
}

fn check_plan(module: &Module) {
    let arena = module.arena_bytes.unwrap();
    let caches: Vec<Place> = module.caches.iter().map(|c| c.place.unwrap()).collect();
    for function in &module.functions {
        for i in 0..function.ops.len() {
            let mut alive = alive_at(function, i);
            alive.extend(&caches);
            for (n, a) in alive.iter().enumerate() {
                assert_eq!(a.offset % 64, 0);
                assert!(a.offset + a.bytes <= arena);
                for b in &alive[..n] {
                    assert!(
                        !overlap(*a, *b),
                        "{a:?} and {b:?} at op {i} of {}",
                        function.name
                    );
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_alive_shares_bytes(seed: u64, steps in 1usize..60, fused: bool) {
        let mut module = program(seed, steps);
        if fused {
            fold_norm_offsets(&mut module);
            sink_select(&mut module);
            fuse(&mut module);
        }
        let report = plan_memory(&mut module, &CopyOfInput).unwrap();
        check_plan(&module);
        prop_assert_eq!(report.value_bytes + report.cache_bytes, module.arena_bytes.unwrap());
    }
}

#[test]
fn a_gemma_plan_is_near_its_lower_bound() {
    let options = QuantOptions {
        matrices: None,
        head: None,
        cache: DType::F16,
    };
    for generation in 1..=3 {
        let mut gemma = Gemma::tiny(generation);
        gemma.layers = 12;
        let mut module = gemma.module();
        run_until(&mut module, Stage::Layout, &options, &CopyOfInput).unwrap();
        let report = plan_memory(&mut module, &CopyOfInput).unwrap();
        for plan in &report.functions {
            let bound = plan.lower_bound_bytes;
            assert!(plan.peak_bytes >= bound);
            assert!(
                10 * plan.peak_bytes <= 13 * bound,
                "gemma {generation}: {report}"
            );
        }
    }
}

#[test]
fn rings_hold_the_window_and_a_chunk() {
    let mut module = load("plan_memory", "gemma3");
    plan_memory(&mut module, &NoScratch).unwrap();
    let capacities: Vec<_> = module.caches.iter().map(|c| c.capacity).collect();
    // Window 6 and chunk 8: 13 positions, in steps of 16. The other layer sees the context of 32.
    assert_eq!(capacities, [Some(16), Some(32)]);
}

#[test]
fn a_ring_is_never_longer_than_the_context() {
    let mut gemma = Gemma::tiny(2);
    gemma.bounds.context = 14;
    let mut module = gemma.module();
    plan_memory(&mut module, &NoScratch).unwrap();
    assert!(module.caches.iter().all(|c| c.capacity == Some(14)));
}

#[test]
fn a_context_too_long_for_the_arena_is_named_with_its_size() {
    let mut gemma = Gemma::tiny(1);
    gemma.bounds.context = u32::MAX / 2;
    gemma.bounds.slots = 64;
    let mut module = gemma.module();
    let before = module.clone();
    let error = plan_memory(&mut module, &NoScratch).unwrap_err();
    // 2 (k, v) x 64 slots x 2 heads x 2147483647 positions x 8 values x 4 bytes, after the values.
    let PlanError::TooLarge {
        what,
        bytes,
        limit_bytes,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(what, "cache @l0.kv");
    assert!(bytes >= 2 * 64 * 2 * 2_147_483_647 * 8 * 4);
    assert_eq!(limit_bytes, ARENA_LIMIT_BYTES);
    assert_eq!(module, before, "a failed plan changes nothing");
}

#[test]
fn sizes_beyond_64_bits_are_errors() {
    struct Hostile;
    impl Scratch for Hostile {
        fn scratch_bytes(&self, _: &Module, _: &Function, _: &Op) -> u64 {
            u64::MAX
        }
    }
    let mut module = Gemma::tiny(1).module();
    let error = plan_memory(&mut module, &Hostile).unwrap_err();
    assert!(matches!(error, PlanError::Overflow { .. }), "{error}");

    let mut module = Gemma::tiny(1).module();
    module.caches[0].kv_heads = u32::MAX;
    module.caches[0].head_dim = u32::MAX;
    let error = plan_memory(&mut module, &NoScratch).unwrap_err();
    assert!(matches!(error, PlanError::Overflow { .. }), "{error}");
}
