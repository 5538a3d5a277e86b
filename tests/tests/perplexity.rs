//! Accuracy of the weight formats on text: negative log-likelihood of the story model's validation documents.

use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};

/// From `eval.json`, made by the reference in f32.
const TOKENS: u64 = 37_823;
const NLL: f64 = 11_820.441_370;

fn nll(quant: &str) -> (u64, f64, f64) {
    nll_of(quant, "cpu", 300)
}

/// Tokens, their negative log-likelihood and perplexity, of the first `documents` on a device.
fn nll_of(quant: &str, device: &str, documents: u32) -> (u64, f64, f64) {
    let dir = scratch_dir();
    let (model, bundle) = (model_dir("story-gemma3"), dir.path().join("story.gembin"));
    gemc([
        "compile",
        model.to_str().unwrap(),
        "-o",
        bundle.to_str().unwrap(),
        "--quant",
        quant,
    ])
    .success();
    let text = model.join("valid.txt");
    let out = gemrun([
        "eval",
        bundle.to_str().unwrap(),
        "--text",
        text.to_str().unwrap(),
        "--device",
        device,
        "--max-docs",
        &documents.to_string(),
        "--json",
    ])
    .success();
    let v: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    (
        v["tokens"].as_u64().expect("tokens"),
        v["nll"].as_f64().expect("nll"),
        v["perplexity"].as_f64().expect("perplexity"),
    )
}

fn within(quant: &str, bar: f64) {
    let (tokens, nll, perplexity) = nll(quant);
    let off = (nll - NLL) / NLL;
    eprintln!(
        "{quant}: nll {nll:.2} ({:+.4} %), perplexity {perplexity:.6}",
        off * 100.0
    );
    assert_eq!(tokens, TOKENS);
    assert!(
        off.abs() <= bar,
        "{quant}: nll {nll} is {:+.4} % off {NLL}",
        off * 100.0
    );
}

#[test]
fn unquantized_weights_reproduce_the_reference() {
    let (tokens, nll, perplexity) = nll("none");
    assert_eq!(tokens, TOKENS);
    assert_eq!(format!("{perplexity:.4}"), "1.3669");
    assert!((nll - NLL).abs() / NLL < 1e-5, "nll {nll}");
}

#[test]
fn eight_bits_stay_within_two_hundredths_of_a_percent() {
    within("q8", 0.0002);
}

#[test]
fn four_bits_stay_within_a_tenth_of_a_percent() {
    within("q4", 0.001);
}

/// A GPU rounds other intermediate values than the processor, whose formats are held to their bars above; the two must
/// not be apart by more than a fraction of those. Some documents only: the device of the tests is a slow one.
fn gpu_is_near(quant: &str) {
    const DOCUMENTS: u32 = 20;
    let (tokens, want, _) = nll_of(quant, "cpu", DOCUMENTS);
    let (gpu_tokens, got, _) = nll_of(quant, "vulkan", DOCUMENTS);
    assert_eq!(gpu_tokens, tokens);
    let off = (got - want) / want;
    eprintln!(
        "{quant}: {tokens} tokens, vulkan {:+.4} % off the processor",
        off * 100.0
    );
    assert!(off.abs() <= 0.0005, "{quant}: {got} against {want}");
}

#[test]
fn eight_bits_on_a_gpu_are_those_of_the_processor() {
    gpu_is_near("q8");
}

#[test]
fn four_bits_on_a_gpu_are_those_of_the_processor() {
    gpu_is_near("q4");
}
