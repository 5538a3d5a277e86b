//! The imported modules, evaluated by the interpreter, against logits that transformers computed.

use super::*;
use gembin_ir::interp::{Inputs, Interpreter};
use gembin_ir::verify::verify;
use gembin_ir::weights::ExprWeights;

/// `||got - want|| / ||want||` that two f32 evaluations in another order stay below.
const TOLERANCE: f64 = 1e-4;

fn golden_error(name: &str) {
    let options = ImportOptions {
        chunk: 512,
        ..ImportOptions::default()
    };
    let model = import(&model_dir(name), &options).expect("valid");
    verify(&model.module).unwrap_or_else(|faults| panic!("{name}: {faults}"));
    let text = gembin_ir::text::print(&model.module);
    assert_eq!(gembin_ir::text::parse(&text).expect("parses"), model.module);

    let source = ExprWeights {
        module: &model.module,
        source: &model.checkpoint,
    };
    let bytes = fs::read(model_dir(name).join("golden.safetensors")).expect("goldens");
    let golden = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
    let prompts = golden
        .names()
        .iter()
        .filter(|n| n.starts_with("input_ids."))
        .count();
    assert!(prompts > 0);
    for n in 0..prompts {
        let data = |kind: &str| {
            golden
                .tensor(&format!("{kind}.{n}"))
                .expect("golden")
                .data()
        };
        let ids: Vec<i32> = data("input_ids")
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i32::try_from(i64::from_le_bytes(*b)).expect("token"))
            .collect();
        let want = data("logits")
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        let rows: Vec<i32> = (0..).take(ids.len()).collect();
        let mut interpreter = Interpreter::new(&model.module, &source);
        let mut got = Vec::new();
        for out in rows.chunks(model.module.bounds.outs as usize) {
            let inputs = Inputs {
                ids: &ids,
                pos: &rows,
                slot: &vec![0; ids.len()],
                out,
            };
            let results = interpreter.call("prefill", &inputs).expect("evaluates");
            got.extend_from_slice(&results[0].data);
        }
        assert_eq!(got.len(), want.len());
        let (mut off, mut norm) = (0.0, 0.0);
        for (a, b) in got.iter().zip(want) {
            off += (f64::from(*a) - f64::from(b)).powi(2);
            norm += f64::from(b).powi(2);
        }
        let error = (off / norm).sqrt();
        assert!(error <= TOLERANCE, "{name}, prompt {n}: {error:e}");
        println!("{name}, prompt {n}: {error:.1e}");
    }
}

#[test]
fn gemma_1_computes_what_the_reference_does() {
    golden_error("gemma1-mqa");
}

#[test]
fn gemma_2_computes_what_the_reference_does() {
    golden_error("gemma2-gqa");
}

#[test]
fn gemma_3_computes_what_the_reference_does() {
    golden_error("gemma3-text");
}

#[test]
fn gemma_3_with_scaled_positions_computes_what_the_reference_does() {
    golden_error("gemma3-ropescale");
}

#[test]
fn the_text_half_of_a_multimodal_gemma_3_computes_what_the_reference_does() {
    golden_error("gemma3-multimodal");
}

#[test]
fn the_trained_draft_model_computes_what_the_reference_does() {
    golden_error("story-gemma3-draft");
}
