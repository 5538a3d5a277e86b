//! Passes keep what models compute, for models of many shapes.

use crate::fixtures::CopyOfInput;
use crate::gemma::Gemma;
use crate::weights::assert_same_meaning;
use gembin_ir::{DType, DimBounds, Module, OpKind, WeightExpr, WeightId, verify::verify};
use gembin_passes::lay_out::weights_of;
use gembin_passes::{PASSES, QuantOptions, Stage, fold_norm_offsets, fuse, run_until, sink_select};
use proptest::prelude::*;

/// Formats that keep all values.
const AS_IS: QuantOptions = QuantOptions {
    matrices: None,
    head: None,
    cache: DType::F32,
};

fn gemma() -> impl Strategy<Value = Gemma> {
    let heads = (1u32..3, 1u32..3, 1u32..5);
    let widths = (1u32..40, 1u32..40, 2u32..30);
    let bounds = (1u32..10, 1u32..4, 1u32..3);
    let rest = (
        1u32..4,
        0usize..4,
        prop::option::of(1u32..12),
        any::<bool>(),
    );
    (heads, widths, bounds, rest).prop_map(|(heads, widths, bounds, rest)| Gemma {
        generation: rest.0,
        layers: rest.1,
        hidden: widths.0,
        ffn: widths.1,
        heads: heads.0 * heads.1,
        kv_heads: heads.0,
        head_dim: 2 * heads.2,
        vocab: widths.2,
        window: rest.2,
        tied: rest.3,
        bounds: DimBounds {
            chunk: bounds.0,
            outs: bounds.1,
            context: 24,
            slots: bounds.2,
        },
    })
}

fn names(module: &Module, function: &str) -> Vec<&'static str> {
    let function = module.function(function).unwrap();
    function.ops.iter().map(|op| op.kind.name()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_pass_keeps_the_meaning(gemma in gemma()) {
        let mut module = gemma.module();
        for pass in &PASSES {
            let before = module.clone();
            (pass.run)(&mut module, &AS_IS, &CopyOfInput).unwrap();
            prop_assert!(verify(&module).is_ok(), "{:?}", verify(&module).err());
            assert_same_meaning(&before, &module);
        }
    }

    #[test]
    fn select_may_come_after_fuse(gemma in gemma()) {
        let before = gemma.module();
        let mut after = before.clone();
        fold_norm_offsets(&mut after);
        fuse(&mut after);
        sink_select(&mut after);
        fuse(&mut after);
        prop_assert!(verify(&after).is_ok(), "{:?}", verify(&after).err());
        assert_same_meaning(&before, &after);
    }

    #[test]
    fn a_second_run_finds_nothing_more(gemma in gemma()) {
        let mut once = gemma.module();
        run_until(&mut once, Stage::Layout, &AS_IS, &CopyOfInput).unwrap();
        let mut twice = once.clone();
        run_until(&mut twice, Stage::Layout, &AS_IS, &CopyOfInput).unwrap();
        prop_assert_eq!(once, twice);
    }
}

#[test]
fn a_decoded_layer_is_six_ops() {
    for generation in 1..=3 {
        let mut gemma = Gemma::tiny(generation);
        gemma.layers = 5;
        let mut module = gemma.module();
        run_until(&mut module, Stage::Fuse, &AS_IS, &CopyOfInput).unwrap();
        let ops = names(&module, "decode");
        let ops: Vec<&str> = ops.into_iter().skip_while(|op| *op != "embed").collect();
        let layer = [
            "fused_linear",
            "rope_kv",
            "attention",
            "fused_linear",
            "fused_linear",
            "fused_linear",
        ];
        let mut want = vec!["embed"];
        want.extend(layer.repeat(5));
        want.push("fused_linear");
        assert_eq!(ops, want, "gemma {generation}");
    }
}

#[test]
fn prefill_ends_in_fused_ops_over_the_wanted_rows() {
    for generation in 1..=3 {
        let mut module = Gemma::tiny(generation).module();
        run_until(&mut module, Stage::Fuse, &AS_IS, &CopyOfInput).unwrap();
        let ops = names(&module, "prefill");
        let tail = ["fused_linear", "fused_linear", "fused_linear"];
        assert!(ops.ends_with(&tail), "gemma {generation}: {ops:?}");
        let prefill = module.function("prefill").unwrap();
        let wide = prefill.ops.iter().rev().take(4).flat_map(|op| &op.results);
        for v in wide {
            let ty = &prefill.value(*v).ty;
            assert_eq!(
                ty.shape[0],
                gembin_ir::Dim::Out,
                "gemma {generation}: {v}: {ty}"
            );
        }
    }
}

#[test]
fn functions_share_derived_weights() {
    let mut module = Gemma::tiny(3).module();
    run_until(&mut module, Stage::Fuse, &AS_IS, &CopyOfInput).unwrap();
    let merged = module
        .weights
        .iter()
        .filter(|w| w.name.contains("qkv"))
        .count();
    assert_eq!(merged, 2, "one merged projection a layer");
    let plain = module.functions.iter().flat_map(|f| &f.ops);
    assert!(
        plain
            .into_iter()
            .all(|op| !matches!(op.kind, OpKind::Linear { .. }))
    );
}

#[test]
fn every_tensor_is_stored_once() {
    for generation in 1..=3 {
        let mut module = Gemma::tiny(generation).module();
        run_until(&mut module, Stage::Layout, &AS_IS, &CopyOfInput).unwrap();
        let mut stored: Vec<WeightId> = module.functions.iter().flat_map(weights_of).collect();
        stored.sort();
        stored.dedup();
        let mut tensors: Vec<WeightId> = Vec::new();
        while let Some(id) = stored.pop() {
            match &module.weight(id).expr {
                WeightExpr::Tensor(_) => tensors.push(id),
                WeightExpr::ConcatRows(parts) => stored.extend(parts),
                WeightExpr::InterleaveRows { a, b, .. } => stored.extend([a, b]),
                WeightExpr::Offset { of, .. } => stored.push(*of),
            }
        }
        tensors.sort();
        let count = tensors.len();
        tensors.dedup();
        assert_eq!(
            tensors.len(),
            count,
            "gemma {generation} stores a tensor twice"
        );
        assert_eq!(count, Gemma::tiny(generation).module().weights.len());
    }
}

#[test]
fn many_layers_take_little_time() {
    let mut gemma = Gemma::tiny(3);
    gemma.layers = 62;
    let mut module = gemma.module();
    let start = std::time::Instant::now();
    run_until(&mut module, Stage::Plan, &AS_IS, &CopyOfInput).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    // Ten times what it takes on a slow machine, unoptimised: this catches a pass that got cubic.
    assert!(seconds < 10.0, "{seconds} s");
}
