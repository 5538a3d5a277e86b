//! The compiled models compute what the reference implementation computes.
//!
//! Every checkpoint is compiled without quantization, from both styles of configuration, and compared with logits and
//! greedy continuations that were made in f32 by the reference.

use gembin_tests::commands::{Output, kernel_sets};
use gembin_tests::goldens::read_logits;
use gembin_tests::{GOLDEN_MODELS, gemc, gemrun, goldens, model_dir, relative_l2, scratch_dir};
use std::path::Path;

/// How close a device must come.
#[derive(Clone, Copy)]
struct Bar {
    /// Largest relative distance of a prompt's logits.
    logits: f64,
    /// Whether the greedy continuation must be the reference's.
    greedy: bool,
}

/// Only the order of f32 sums differs from the reference.
const PROCESSOR: Bar = Bar {
    logits: 1e-4,
    greedy: true,
};

/// Activations of a prefill are rounded to f16.
const GPU: Bar = Bar {
    logits: 2e-3,
    greedy: false,
};

fn compile(model: &str, out: &Path, extra: &[&str]) -> Output {
    let dir = model_dir(model);
    let mut args = vec![
        "compile",
        dir.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
        "--quant",
        "none",
    ];
    args.extend(extra);
    gemc(args)
}

fn ids(tokens: &[u32]) -> String {
    tokens
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Logits and greedy continuations of every prompt, with these extra arguments for gemrun.
fn check_goldens(model: &str, bundle: &Path, extra: &[&str], bar: Bar) {
    let dir = scratch_dir();
    let bundle = bundle.to_str().unwrap();
    for golden in goldens(model) {
        let out = dir.path().join("logits.safetensors");
        let prompt = ids(&golden.input_ids);
        let mut args = vec![
            "logits",
            bundle,
            "--ids",
            &prompt,
            "-o",
            out.to_str().unwrap(),
        ];
        args.extend(extra);
        gemrun(args).success();
        let (logits, shape) = read_logits(&out);
        assert_eq!(
            shape,
            [golden.input_ids.len(), golden.vocab],
            "{}",
            golden.name
        );
        let distance = relative_l2(&logits, &golden.logits);
        assert!(
            distance <= bar.logits,
            "{}: logits differ by {distance:e}",
            golden.name
        );
        eprintln!("{} {extra:?}: logits differ by {distance:.1e}", golden.name);
        if !bar.greedy {
            continue;
        }

        let count = golden.greedy.len().to_string();
        let mut args = vec![
            "generate",
            bundle,
            "--ids",
            &prompt,
            "--greedy",
            "--ignore-eos",
        ];
        args.extend(["--max-tokens", &count, "--json"]);
        args.extend(extra);
        let json: serde_json::Value =
            serde_json::from_str(&gemrun(args).success()).expect("one JSON object");
        let got: Vec<u32> = json["ids"]
            .as_array()
            .expect("ids")
            .iter()
            .map(|v| v.as_u64().expect("an id") as u32)
            .collect();
        assert_eq!(got, golden.greedy, "{}: greedy continuation", golden.name);
    }
}

#[test]
fn logits_and_greedy_text_equal_the_reference() {
    for model in GOLDEN_MODELS {
        let dir = scratch_dir();
        let bundle = dir.path().join("m.gembin");
        compile(model, &bundle, &[]).success();
        check_goldens(model, &bundle, &[], PROCESSOR);
    }
}

#[test]
fn the_older_style_of_configuration_gives_the_same_model() {
    for model in GOLDEN_MODELS {
        let older = model_dir(model).join("config.v4.json");
        if !older.exists() {
            // The draft model was never written in the older style.
            assert_eq!(model, "story-gemma3-draft");
            continue;
        }
        let dir = scratch_dir();
        let (new, old) = (dir.path().join("new.gembin"), dir.path().join("old.gembin"));
        compile(model, &new, &[]).success();
        compile(model, &old, &["--config", older.to_str().unwrap()]).success();
        let emit = |extra: &[&str]| {
            let dir = model_dir(model);
            let mut args = vec![
                "emit",
                dir.to_str().unwrap(),
                "--stage",
                "plan",
                "--quant",
                "none",
            ];
            args.extend(extra);
            gemc(args).success()
        };
        assert_eq!(
            emit(&[]),
            emit(&["--config", older.to_str().unwrap()]),
            "{model}"
        );
        check_goldens(model, &old, &[], PROCESSOR);
    }
}

#[test]
fn every_instruction_set_meets_the_goldens() {
    let usable = kernel_sets();
    assert!(
        usable.contains(&"scalar".to_owned()),
        "scalar runs everywhere: {usable:?}"
    );
    eprintln!("instruction sets tried: {usable:?}");
    for model in ["gemma2-gqa", "gemma3-ropescale"] {
        let dir = scratch_dir();
        let bundle = dir.path().join("m.gembin");
        compile(model, &bundle, &[]).success();
        for isa in &usable {
            check_goldens(
                model,
                &bundle,
                &["--isa", isa, "--device", "cpu"],
                PROCESSOR,
            );
        }
    }
}

#[test]
fn chunks_threads_and_sequences_do_not_change_the_result() {
    let model = "gemma3-text";
    for (compile_args, run_args) in [
        (&["--chunk", "5"][..], &["--threads", "1"][..]),
        (&["--chunk", "1"], &["--threads", "2"]),
        (&["--chunk", "64", "--sequences", "3"], &["--threads", "3"]),
        (&["--context", "64"], &[]),
    ] {
        let dir = scratch_dir();
        let bundle = dir.path().join("m.gembin");
        compile(model, &bundle, compile_args).success();
        check_goldens(model, &bundle, run_args, PROCESSOR);
    }
}

#[test]
fn a_gpu_meets_the_goldens() {
    for model in GOLDEN_MODELS {
        let dir = scratch_dir();
        let bundle = dir.path().join("m.gembin");
        compile(model, &bundle, &[]).success();
        // The small random models' best logits lie too close together to ask for the same text.
        let greedy = model.starts_with("story");
        check_goldens(
            model,
            &bundle,
            &["--device", "vulkan"],
            Bar { greedy, ..GPU },
        );
    }
}
