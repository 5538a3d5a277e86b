//! Kernels are compiled without checks of their bounds, because shapes and the bundle's check keep them inside. Here the
//! same kernels are compiled with checks, which move what is outside to the last element: were anything outside, results
//! would differ.

use gembin_bundle::manifest::{Device, Manifest, Phase};
use gembin_runtime::arena::Arena;
use gembin_runtime::drivers::vulkan::{CacheFolder, Pick, VulkanDriver, VulkanOptions};
use gembin_runtime::drivers::{Call, Driver, LoadContext, Row};
use gembin_runtime::loader::{Bundle, Integrity};
use gembin_target_igpu::kernel::Kernels;
use gembin_target_igpu::{Guards, lower_with};
use gembin_tests::{gemc, model_dir, scratch_dir};
use std::sync::Arc;

const PROMPT: usize = 37;

/// Logits of the last token of a prompt, then of three decoded ones.
fn logits(manifest: Manifest, bundle: &Bundle) -> Vec<Vec<u32>> {
    let plan = manifest
        .plans
        .iter()
        .position(|plan| plan.devices == [Device::Vulkan])
        .expect("a plan for a GPU");
    let arena = Arc::new(Arena::new(manifest.arena.bytes as usize).expect("memory"));
    let context = LoadContext {
        manifest: Arc::new(manifest),
        plan,
        weights: bundle.weights(),
        arena: Arc::clone(&arena),
        threads: 0,
    };
    let options = VulkanOptions {
        cache: CacheFolder::None,
        // The device's own checks would hide what is looked for.
        robust: false,
        ..VulkanOptions::default()
    };
    let mut driver = VulkanDriver::load(&context, &Pick::Best, &options).expect("a device");
    let programs = &context.manifest.plans[plan].programs;
    let vocab = context.manifest.limits.vocab;
    let mut all = Vec::new();
    let mut pos = 0;
    for rows in [PROMPT, 1, 1, 1] {
        let phase = match rows {
            1 => Phase::Decode,
            _ => Phase::Prefill,
        };
        let index = programs
            .iter()
            .position(|p| p.phase == phase)
            .expect("a program");
        let call: Vec<Row> = (0..rows as u32)
            .map(|row| Row {
                token: ((pos + row) * 7919 + 13) % vocab,
                pos: pos + row,
                slot: 0,
            })
            .collect();
        let outs = [rows as u32 - 1];
        let steps = 0..programs[index].steps.len();
        driver
            .submit(
                index,
                steps,
                Call {
                    rows: &call,
                    outs: &outs,
                },
            )
            .and_then(|()| driver.wait())
            .expect("the device runs");
        let buffer = programs[index].logits;
        driver
            .fetch(buffer.offset, u64::from(buffer.cols) * 4)
            .expect("logits come back");
        // SAFETY: the driver is idle, and nobody else has the arena.
        let values = unsafe { arena.f32s(buffer.offset, buffer.cols as usize) };
        all.push(values.iter().map(|v| v.to_bits()).collect());
        pos += rows as u32;
    }
    all
}

#[test]
fn checks_of_bounds_change_nothing() {
    for (model, quant) in [
        ("gemma2-gqa", "none"),
        ("gemma3-text", "q8"),
        ("gemma3-ropescale", "q4"),
    ] {
        let dir = scratch_dir();
        let path = dir.path().join("m.gembin");
        let from = model_dir(model);
        gemc([
            "compile",
            from.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
            "--quant",
            quant,
        ])
        .success();
        let bundle = Bundle::open(&path, Integrity::Structure).expect("a sound bundle");
        let unguarded = bundle.manifest().clone();
        let mut guarded = unguarded.clone();
        guarded.plans.retain(|plan| plan.devices == [Device::Cpu]);
        // The processor's programs take fewer rows; places were planned for the GPU's.
        for (program, gpu) in guarded.plans[0]
            .programs
            .iter_mut()
            .zip(&unguarded.plans[0].programs)
        {
            (program.max_rows, program.max_outs) = (gpu.max_rows, gpu.max_outs);
        }
        let mut kernels = Kernels::new(Guards::On);
        let plan = lower_with(&guarded, &mut kernels).expect("lowers");
        guarded.kernels = kernels.finish();
        guarded.plans.push(plan);
        let words = |m: &Manifest| -> usize {
            m.kernels
                .iter()
                .flat_map(|k| &k.variants)
                .map(|v| v.code.len())
                .sum()
        };
        assert!(words(&guarded) > words(&unguarded), "guards add code");
        assert_eq!(
            logits(guarded, &bundle),
            logits(unguarded, &bundle),
            "{model} {quant}"
        );
    }
}
