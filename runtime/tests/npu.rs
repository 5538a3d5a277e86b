//! `gemrun` on a bundle with a plan for an NPU, on whatever machine this is: the plan's design was not built, so that
//! it runs nowhere. What the driver does on an NPU is tested beside it.

mod support;

use std::path::Path;
use std::process::Command;
use support::command::{error, gemrun, json, stdout};
use tempfile::TempDir;

/// Why the plan does not run: without an NPU that one is missing, with one that the plan was not built.
#[track_caller]
fn expect_reason(line: &str) {
    let known = [
        "npu: this machine has no AMD NPU",
        "npu: an NPU is there",
        "npu: cannot open",
        "KiB of memory may be locked",
        "npu: not built",
    ];
    assert!(known.iter().any(|reason| line.contains(reason)), "{line}");
}

fn bundle(dir: &TempDir) -> std::path::PathBuf {
    support::write_with_npu(dir.path())
}

fn generate(bundle: &Path, args: &[&str]) -> std::process::Output {
    let args = [&["--ids", "2,7", "-n", "3"], args].concat();
    gemrun("generate", bundle, &args)
}

#[test]
fn auto_falls_back_with_one_notice() {
    let dir = TempDir::new().unwrap();
    let output = generate(&bundle(&dir), &[]);
    stdout(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("note: running on cpu; npu: "), "{said}");
    expect_reason(&said);
}

#[test]
fn asked_for_or_strict_it_is_an_error_that_names_device_and_cause() {
    let dir = TempDir::new().unwrap();
    let bundle = bundle(&dir);
    for args in [&["--device", "npu"][..], &["--strict"]] {
        expect_reason(&error(&generate(&bundle, args), 1));
    }
    stdout(&generate(&bundle, &["--device", "cpu", "--strict"]));
}

#[test]
fn there_is_one_npu_and_its_modes_are_known() {
    let dir = TempDir::new().unwrap();
    let bundle = bundle(&dir);
    let text = error(&generate(&bundle, &["--device", "npu:0"]), 1);
    assert!(
        text.contains("unknown device npu:0; known: auto, cpu, vulkan, npu"),
        "{text}"
    );
    let text = error(&generate(&bundle, &["--npu-power-mode", "fast"]), 2);
    assert!(
        text.contains("it must be one of default, powersaver, balanced, performance, turbo"),
        "{text}"
    );
    stdout(&generate(
        &bundle,
        &["--device", "cpu", "--npu-power-mode", "turbo"],
    ));
}

#[test]
fn info_says_what_was_not_built() {
    let dir = TempDir::new().unwrap();
    let bundle = bundle(&dir);
    let text = stdout(&gemrun("info", &bundle, &["--steps"]));
    assert!(text.contains("plan npu (devices: npu)"), "{text}");
    assert!(
        text.contains("npu: not built: designs one for all; compile where"),
        "{text}"
    );
    assert!(text.contains("everything decode_1"), "{text}");
    let info = json(&gemrun("info", &bundle, &["--json"]));
    assert_eq!(info["plans"][0]["not_built"][0], "one for all");
    assert!(info["plans"][1].get("not_built").is_none());
}

#[test]
fn devices_lists_the_npu_or_why_it_cannot_be_used() {
    let output = Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .args(["devices", "--json"])
        .output()
        .unwrap();
    let devices = json(&output);
    let npu = devices
        .as_array()
        .unwrap()
        .iter()
        .find(|device| device["name"] == "npu")
        .expect("an entry");
    let about = npu["about"].as_str().unwrap();
    if npu["usable"] == true {
        assert!(about.starts_with("XDNA"), "{about}");
    } else {
        expect_reason(&format!("npu: {about}"));
    }
}
