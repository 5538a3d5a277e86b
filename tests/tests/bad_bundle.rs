//! Broken bundles and bad requests, through the real `gemrun`: one clear line, exit code 1, no crash. Bad values of
//! options are wrong usage, exit code 2.

use gembin_tests::commands::{gemrun_path, kernel_sets, run};
use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A small bundle with a tokenizer, compiled once for the whole file.
fn bundle() -> &'static Path {
    static BUNDLE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUNDLE.get_or_init(|| {
        let dir = scratch_dir();
        let path = dir.path().join("story.gembin");
        let model = model_dir("story-gemma3-draft");
        gemc([
            "compile",
            model.to_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
            "--context",
            "64",
        ])
        .success();
        (dir, path)
    });
    path
}

#[track_caller]
fn one_line(stderr: &str, needles: &[&str]) {
    // What runs without a GPU says so first.
    let is_notice = |line: &&str| line.starts_with("note: running on cpu; vulkan: ");
    let lines: Vec<&str> = stderr.lines().skip_while(is_notice).collect();
    assert_eq!(lines.len(), 1, "one line: {stderr}");
    assert!(lines[0].starts_with("error: "), "{stderr}");
    for needle in needles {
        assert!(lines[0].contains(needle), "{needle:?} is not in: {stderr}");
    }
}

/// Writes `bytes` as a bundle and runs `info` on it, which must fail with one line.
#[track_caller]
fn refuse(bytes: &[u8], needles: &[&str]) {
    let dir = scratch_dir();
    let path = dir.path().join("bad.gembin");
    fs::write(&path, bytes).unwrap();
    one_line(
        &gemrun(["info", path.to_str().unwrap()]).failure(1),
        needles,
    );
}

#[test]
fn files_that_are_no_bundles() {
    one_line(
        &gemrun(["info", "/nonexistent.gembin"]).failure(1),
        &["/nonexistent.gembin"],
    );
    let dir = scratch_dir();
    one_line(
        &gemrun(["info", dir.path().to_str().unwrap()]).failure(1),
        &["directory"],
    );
    refuse(b"", &["empty"]);
    refuse(b"GGUF and then some", &["not a gembin"]);
    refuse(&[0; 4096], &["not a gembin"]);
}

#[test]
fn truncated_and_newer_and_damaged() {
    let good = fs::read(bundle()).unwrap();
    for keep in [1, 7, 8, 63, 64, 100, 4096, good.len() / 2, good.len() - 1] {
        refuse(&good[..keep], &[]);
    }
    let mut longer = good.clone();
    longer.push(0);
    refuse(&longer, &["too long"]);
    let mut newer = good.clone();
    newer[8] = 99;
    refuse(&newer, &["needs gemrun"]);
    let mut damaged = good.clone();
    damaged[700] ^= 1;
    refuse(&damaged, &["damaged"]);
}

#[test]
fn verify_names_a_damaged_weight_and_check_refuses_to_run_it() {
    let mut bytes = fs::read(bundle()).unwrap();
    let at = bytes.len() - 20_000;
    bytes[at] ^= 0x10;
    let dir = scratch_dir();
    let path = dir.path().join("damaged.gembin");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let out = gemrun(["verify", path]);
    assert_eq!(out.code, Some(1), "{out:?}");
    assert!(out.stderr.contains("weight"), "{out:?}");
    let stderr = gemrun([
        "generate",
        path,
        "--prompt",
        "a",
        "--max-tokens",
        "1",
        "--check",
    ])
    .failure(1);
    assert!(stderr.contains("weight"), "{stderr}");
}

#[test]
fn verify_passes_on_every_format_and_every_instruction_set() {
    let isas = kernel_sets();
    let dir = scratch_dir();
    for model in ["story-gemma3", "gemma1-mqa"] {
        for quant in ["none", "q8", "q4"] {
            let path = dir.path().join("m.gembin");
            let path = path.to_str().unwrap();
            gemc([
                "compile",
                model_dir(model).to_str().unwrap(),
                "-o",
                path,
                "--quant",
                quant,
            ])
            .success();
            for isa in &isas {
                let out = gemrun(["verify", path, "--isa", isa]);
                assert_eq!(out.code, Some(0), "{model} {quant} {isa}: {}", out.stderr);
            }
        }
    }
}

#[test]
fn requests_that_cannot_be_served() {
    let b = bundle().to_str().unwrap();
    let fail = |args: &[&str]| gemrun(args).failure(1);
    let dir = scratch_dir();
    let never = dir.path().join("never.safetensors");
    let never = never.to_str().unwrap();
    one_line(
        &fail(&[
            "logits", b, "--ids", "2,99999", "-o", never, "--device", "cpu",
        ]),
        &["99999"],
    );
    one_line(
        &fail(&["generate", b, "--prompt-file", "/nonexistent.txt"]),
        &["/nonexistent.txt"],
    );
    let long = "word ".repeat(200);
    one_line(&fail(&["generate", b, "--prompt", &long]), &["64"]);
    one_line(
        &fail(&["eval", b, "--text", "/nonexistent.txt"]),
        &["/nonexistent.txt"],
    );
    let mut invalid = Command::new(gemrun_path());
    invalid.args(["generate", b]);
    one_line(&run(&mut invalid, b"caf\xe9 ol\xe9").failure(1), &["UTF-8"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn options_with_bad_values() {
    let b = bundle().to_str().unwrap();
    one_line(
        &gemrun(["generate"]).failure(2),
        &["required", "<BUNDLE>", "--help"],
    );
    one_line(
        &gemrun(["generate", b, "--device", "quantum"]).failure(1),
        &["unknown device quantum; known: auto, cpu"],
    );
    for (args, reason) in [
        (["--temperature", "-1"], "temperature is -1; it must be 0"),
        (["--temperature", "nan"], "temperature is NaN; it must be 0"),
        (["--top-p", "1.5"], "top-p is 1.5; it must be above 0"),
        (["--min-p", "inf"], "min-p is inf; it must be from 0 to 1"),
        (
            ["--repetition-penalty", "0"],
            "penalty is 0; it must be above 0",
        ),
        (["--stop", ""], "an empty one would stop at once"),
        (["--ids", "2,x"], "token id 2 is \"x\""),
    ] {
        let stderr = gemrun(["generate", b].into_iter().chain(args)).failure(2);
        one_line(&stderr, &[reason]);
    }
}

#[test]
fn a_bundle_without_tokenizer_says_so_and_runs_on_ids() {
    let dir = scratch_dir();
    let path = dir.path().join("m.gembin");
    let path = path.to_str().unwrap();
    gemc([
        "compile",
        model_dir("gemma1-mqa").to_str().unwrap(),
        "-o",
        path,
    ])
    .success();
    one_line(
        &gemrun(["generate", path, "--prompt", "hello", "--device", "cpu"]).failure(1),
        &["tokenizer", "--ids"],
    );
    one_line(
        &gemrun(["generate", path, "--chat", "--prompt", "hello"]).failure(1),
        &["tokenizer"],
    );
    gemrun(["generate", path, "--ids", "2,5", "--max-tokens", "3"]).success();
}
