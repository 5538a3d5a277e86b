//! The valid sample passes; every single change that breaks a rule is refused in its own words.

mod gpu;
mod npu;
mod steps;

use super::*;
use crate::cpu::{CpuStep, LinearStep};
use crate::format::{decode_manifest, encode_manifest};
use crate::manifest::{Buffer, Program, RowSet, Work};
use crate::sample;
use proptest::prelude::*;

fn check_changed(change: impl FnOnce(&mut Manifest)) -> Result<Checked, CheckError> {
    let (mut manifest, weights_bytes) = sample::manifest();
    change(&mut manifest);
    check(manifest, weights_bytes)
}

/// A change, and words of the error it must lead to.
#[track_caller]
fn refuse(expect: &str, change: impl FnOnce(&mut Manifest)) {
    match check_changed(change) {
        Ok(_) => panic!("accepted, expected: {expect}"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains(expect),
                "expected: {expect}\n     got: {text}"
            );
            assert!(!text.contains('\n'), "{text}");
        }
    }
}

#[track_caller]
fn accept(change: impl FnOnce(&mut Manifest)) {
    if let Err(error) = check_changed(change) {
        panic!("{error}");
    }
}

fn prefill(m: &mut Manifest) -> &mut Program {
    &mut m.plans[0].programs[0]
}

fn decode(m: &mut Manifest) -> &mut Program {
    &mut m.plans[0].programs[1]
}

/// The step of the prefill program with this label.
fn step<'a>(m: &'a mut Manifest, label: &str) -> &'a mut CpuStep {
    let mut steps = prefill(m).steps.iter_mut();
    let Work::Cpu(work) = &mut steps.find(|step| step.label == label).unwrap().work else {
        panic!("the sample is the processor's")
    };
    work
}

fn linear<'a>(m: &'a mut Manifest, label: &str) -> &'a mut LinearStep {
    match step(m, label) {
        CpuStep::Linear(linear) => linear,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sample_is_accepted() {
    accept(|_| {});
}

#[test]
fn limits() {
    refuse("limits: vocab is 0", |m| m.limits.vocab = 0);
    refuse("vocab is 16777217", |m| m.limits.vocab = MAX_VOCAB + 1);
    refuse("context is 0", |m| m.limits.context = 0);
    refuse("context is 16777217", |m| {
        m.limits.context = MAX_CONTEXT + 1
    });
    refuse("slots is 0", |m| m.limits.slots = 0);
    refuse("slots is 4097", |m| m.limits.slots = MAX_SLOTS + 1);
}

#[test]
fn texts() {
    refuse("text: bos 40 is not below the vocabulary of 40", |m| {
        m.text.bos = Some(40)
    });
    refuse("eos 4294967295", |m| m.text.eos = Some(u32::MAX));
    refuse("stop token 41", |m| m.text.stop_tokens.push(41));
    refuse("control character", |m| m.model.name = "a\u{1b}[2J".into());
    refuse("note has 5000 bytes", |m| {
        m.model.notes.push("x".repeat(5000))
    });
    refuse("provenance: option", |m| {
        m.provenance.options.push("\n".into())
    });
    refuse("provenance: compiler", |m| m.provenance.compiler.push('\r'));
    refuse("source file name", |m| {
        m.provenance.sources[0].name = "\0".into()
    });
    refuse("sampling: temperature is NaN", |m| {
        m.text.sampling.temperature = Some(f32::NAN)
    });
    refuse("temperature is -1", |m| {
        m.text.sampling.temperature = Some(-1.0)
    });
    refuse("top_p is 1.5", |m| m.text.sampling.top_p = Some(1.5));
    refuse("min_p is inf", |m| {
        m.text.sampling.min_p = Some(f32::INFINITY)
    });
    refuse("repetition_penalty is 0", |m| {
        m.text.sampling.repetition_penalty = Some(0.0)
    });
}

#[test]
fn weights() {
    refuse("weights: empty name", |m| m.weights[0].name.clear());
    refuse("the name is used twice", |m| {
        m.weights[1].name = "embedding".into()
    });
    refuse("weight \"norm\": cols is 0", |m| m.weights[1].cols = 0);
    refuse("rows is 268435457", |m| m.weights[0].rows = MAX_DIM + 1);
    refuse("one row of f32, not 2 of f32", |m| m.weights[1].rows = 2);
    refuse("one row of f32, not 1 of bf16", |m| {
        m.weights[1].format = Format::Bf16
    });
    refuse("data plane has 1536 bytes, its shape needs 3072", |m| {
        m.weights[0].rows = 96
    });
    refuse("scale plane has 95 bytes", |m| {
        m.weights[0].scales.bytes -= 1
    });
    refuse("data plane at 64 is not aligned", |m| {
        m.weights[2].data.offset = 64
    });
    refuse("leaves the weights section", |m| {
        m.weights[2].data.offset = 1 << 20
    });
    refuse("leaves the weights section", |m| {
        m.weights[2].data.offset = u64::MAX - 255
    });
    refuse("scale plane is empty but lies at 256", |m| {
        m.weights[2].scales.offset = 256
    });
    refuse(
        "weights: \"embedding\", 1536 bytes at 0, and \"qkv\" at 256 overlap",
        |m| m.weights[2].data.offset = 256,
    );
}

#[test]
fn arena_and_caches() {
    refuse("arena: 1099511627777 bytes", |m| {
        m.arena.bytes = MAX_ARENA_BYTES + 1
    });
    refuse("arena: caches of", |m| {
        m.arena.cache_bytes = m.arena.bytes + 1
    });
    refuse("caches: empty name", |m| m.arena.caches[0].name.clear());
    refuse("cache \"l0\": the name is used twice", |m| {
        m.arena.caches[1].name = "l0".into()
    });
    refuse("must be f32 or f16", |m| {
        m.arena.caches[0].format = Format::Bf16
    });
    refuse("not empty", |m| m.arena.caches[0].kv_heads = 0);
    refuse("below 2^64 bytes", |m| {
        m.arena.caches[0].kv_heads = u32::MAX;
        m.arena.caches[0].capacity = u32::MAX;
    });
    refuse("cache \"l0\": 4096 bytes, its shape needs 8192", |m| {
        m.arena.caches[0].head_dim = 8
    });
    refuse("4096 bytes, its shape needs 6144", |m| m.limits.slots = 3);
    refuse(
        "capacity 64 is below 65, needed for the context of 65",
        |m| m.limits.context = 65,
    );
    refuse("a window of 0", |m| m.arena.caches[1].window = Some(0));
    refuse("needed for a window of 9 and prefill by 16 rows", |m| {
        m.arena.caches[1].window = Some(9)
    });
    refuse("needed for a window of 4294967295", |m| {
        m.arena.caches[1].window = Some(u32::MAX)
    });
    // A ring never needs more than the context.
    accept(|m| m.arena.caches[0].window = Some(u32::MAX));
    refuse("not aligned to 64", |m| m.arena.caches[0].offset += 32);
    refuse("leaves the arena's cache area", |m| {
        m.arena.caches[1].offset += 64
    });
    refuse("leaves the arena's cache area", |m| {
        m.arena.caches[0].offset -= 64
    });
    refuse("leaves the arena's cache area", |m| {
        m.arena.caches[0].offset = u64::MAX - 63
    });
    refuse("caches: \"l0\"", |m| {
        m.arena.caches[1].offset = m.arena.caches[0].offset + 64
    });
}

#[test]
fn plans_and_programs() {
    refuse("plans: there is none", |m| m.plans.clear());
    refuse("plan \"cpu\": the name is used twice", |m| {
        m.plans.push(m.plans[0].clone())
    });
    refuse("plans: empty name", |m| m.plans[0].name.clear());
    refuse("steps use cpu, which is not listed", |m| {
        m.plans[0].devices.clear()
    });
    refuse("a device is listed twice", |m| {
        m.plans[0].devices.push(Device::Cpu)
    });
    refuse("lists cpu, which no step uses", |m| {
        for program in &mut m.plans[0].programs {
            program.steps.clear();
        }
    });
    refuse("has no decode program", |m| {
        m.plans[0].programs.pop();
    });
    refuse("has no prefill program", |m| {
        m.plans[0].programs.remove(0);
    });
    refuse("program \"prefill\": max_rows is 0", |m| {
        prefill(m).max_rows = 0
    });
    refuse("max_rows is 65537", |m| prefill(m).max_rows = MAX_ROWS + 1);
    refuse("max_outs is 17, must be in 1..=16", |m| {
        prefill(m).max_outs = 17
    });
    refuse("max_outs is 0", |m| prefill(m).max_outs = 0);
    refuse("program \"decode\": max_rows is 3, must be in 1..=2", |m| {
        decode(m).max_rows = 3
    });
    refuse("max_outs 1 must be max_rows 2", |m| decode(m).max_outs = 1);
    refuse("empty program name", |m| prefill(m).name.clear());
    refuse("empty step label", |m| prefill(m).steps[0].label.clear());
    refuse("control character", |m| {
        prefill(m).steps[0].label = "\u{7}".into()
    });
    refuse("logits have 39 columns, the vocabulary 40", |m| {
        prefill(m).logits.cols = 39
    });
    refuse("not for every row", |m| {
        prefill(m).logits.rows = RowSet::Seq
    });
    refuse("no step leaves the logits", |m| {
        prefill(m).logits.offset = 0
    });
    refuse("no step leaves the logits", |m| {
        let first = prefill(m).steps[0].clone();
        let logits = prefill(m).logits.offset;
        prefill(m).steps.push(first);
        let Work::Cpu(last) = &mut prefill(m).steps.last_mut().unwrap().work else {
            panic!("the sample is the processor's")
        };
        match last {
            CpuStep::Embed { out, .. } => out.offset = logits,
            other => panic!("{other:?}"),
        }
    });
}

/// The buffers that a step reads, then those that it writes.
fn operands(step: &mut CpuStep) -> (Vec<&mut Buffer>, Vec<&mut Buffer>) {
    match step {
        CpuStep::Embed { out, .. } | CpuStep::RopeTable { out, .. } => (vec![], vec![out]),
        CpuStep::Linear(l) => {
            let (mut reads, mut writes) = (vec![&mut l.x], vec![&mut l.out]);
            if let Some(residual) = &mut l.residual {
                reads.push(&mut residual.from);
                writes.push(&mut residual.to);
            }
            (reads, writes)
        }
        CpuStep::RopeKv {
            qkv, table, out, ..
        } => (vec![qkv, table], vec![out]),
        CpuStep::Attention { q, out, .. } => (vec![q], vec![out]),
        CpuStep::SelectRows { x, out }
        | CpuStep::RmsNorm { x, out, .. }
        | CpuStep::Columns { x, out, .. }
        | CpuStep::Gelu { x, out }
        | CpuStep::Softcap { x, out, .. } => (vec![x], vec![out]),
        CpuStep::Rope { x, table, out } => (vec![x, table], vec![out]),
        CpuStep::KvWrite { k, v, .. } => (vec![k, v], vec![]),
        CpuStep::Mul { a, b, out } | CpuStep::Add { a, b, out } => (vec![a, b], vec![out]),
    }
}

/// Whether all that an executor addresses is in bounds, computed apart from the checker.
fn in_bounds(m: &Manifest, weights_bytes: u64) -> bool {
    let end = |offset: u64, bytes: u64| u128::from(offset) + u128::from(bytes);
    let caches_start = u128::from(m.arena.bytes - m.arena.cache_bytes);
    let programs = m.plans.iter().flat_map(|plan| &plan.programs);
    let programs_are = programs.into_iter().all(|program| {
        let inside = |buffer: Buffer| {
            let rows = match buffer.rows {
                RowSet::Seq => program.max_rows,
                RowSet::Out => program.max_outs,
            };
            end(buffer.offset, u64::from(rows) * u64::from(buffer.cols) * 4) <= caches_start
        };
        let mut steps = program.steps.clone();
        let steps_are = steps.iter_mut().all(|step| {
            let Work::Cpu(work) = &mut step.work else {
                panic!("the sample is the processor's")
            };
            let scratch = if let CpuStep::Linear(l) = work {
                end(l.scratch.offset, l.scratch.bytes)
            } else {
                0
            };
            let (reads, writes) = operands(work);
            scratch <= caches_start && reads.into_iter().chain(writes).all(|b| inside(*b))
        });
        steps_are && inside(program.logits)
    });
    let caches_are = m.arena.caches.iter().all(|cache| {
        u128::from(cache.offset) >= caches_start
            && end(cache.offset, cache.bytes) <= u128::from(m.arena.bytes)
    });
    let weights_are = m.weights.iter().all(|weight| {
        [weight.data, weight.scales]
            .iter()
            .all(|span| end(span.offset, span.bytes) <= u128::from(weights_bytes))
    });
    programs_are && caches_are && weights_are
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of an encoded manifest replaced, and numbers shifted, at random: decoding and checking never panic or
    /// overflow, and what is accepted stays in bounds.
    #[test]
    fn forged_manifests_are_refused_or_stay_in_bounds(
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4),
    ) {
        let (manifest, weights_bytes) = sample::manifest();
        let mut bytes = encode_manifest(&manifest).unwrap();
        for (at, edit) in edits {
            let at = at.index(bytes.len() - 4);
            let word: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let word = u32::from_le_bytes(word);
            let word = match edit {
                Edit::Byte(value) => word & !0xff | u32::from(value),
                Edit::Shift(by) => word.wrapping_add_signed(by),
            };
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(forged) = decode_manifest(&bytes)
            && let Ok(checked) = check(forged, weights_bytes)
        {
            prop_assert!(in_bounds(&checked, weights_bytes));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    Byte(u8),
    Shift(i32),
}

fn edit() -> impl Strategy<Value = Edit> {
    let shifts = [1, 4, 16, 64, 256, 4096].map(|by| [by, -by]).concat();
    prop_oneof![
        any::<u8>().prop_map(Edit::Byte),
        prop::sample::select(shifts).prop_map(Edit::Shift),
    ]
}
