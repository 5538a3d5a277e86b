//! `gemrun` on a Vulkan device, as a user meets it: the same text as on the processor, the choice of a device, what is
//! said when there is none, and being stopped. The device is the one in software that the set-up installs.

use gembin_tests::commands::{Output, gemrun_path, run};
use gembin_tests::{gemc, model_dir, scratch_dir};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The story model, unquantized, with plans for GPU and processor; compiled once for the whole file. And a folder for
/// caches, so that the user's own stays as it is.
fn story() -> &'static (tempfile::TempDir, PathBuf) {
    static BUNDLE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let dir = scratch_dir();
        let path = dir.path().join("story.gembin");
        let model = model_dir("story-gemma3");
        gemc([
            "compile",
            model.to_str().expect("UTF-8"),
            "-o",
            path.to_str().expect("UTF-8"),
            "--quant",
            "none",
            "--context",
            "512",
        ])
        .success();
        (dir, path)
    })
}

/// `gemrun generate` of the story, greedily.
fn command(args: &[&str]) -> Command {
    let (dir, bundle) = story();
    let mut command = Command::new(gemrun_path());
    command
        .arg("generate")
        .arg(bundle)
        .args(["--prompt", "Once upon a time", "--greedy", "--ignore-eos"])
        .args(args)
        .env("XDG_CACHE_HOME", dir.path());
    command
}

fn generate(args: &[&str]) -> Output {
    run(&mut command(args), b"")
}

/// As on a machine without any Vulkan driver.
fn without_drivers(command: &mut Command) -> &mut Command {
    command
        .env("VK_DRIVER_FILES", "/nothing/here.json")
        .env("VK_ICD_FILENAMES", "/nothing/here.json")
}

#[test]
fn the_text_is_the_processors() {
    let args = ["-n", "40", "--device"];
    let on = |device: &str| generate(&[&args[..], &[device]].concat()).success();
    let text = on("cpu");
    assert!(text.len() > 40, "{text}");
    assert_eq!(on("vulkan"), text);
    assert_eq!(on("vulkan:0"), text);
}

#[test]
fn the_validation_layer_has_nothing_to_say() {
    let mut checked = command(&["-n", "3", "--device", "vulkan"]);
    let output = run(checked.env("GEMBIN_VULKAN_VALIDATION", "sync"), b"");
    assert_eq!(output.stderr, "");
    assert!(!output.success().is_empty());
}

#[test]
fn compiled_pipelines_are_kept_in_the_users_cache() {
    generate(&["-n", "1", "--device", "vulkan"]).success();
    let folder = story().0.path().join("gembin");
    let kept = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder of pipelines");
        entries.flatten().count()
    };
    assert!(kept(&folder) > 0);
}

#[test]
fn a_processor_in_a_gpus_clothes_is_not_taken_by_itself() {
    let output = generate(&["-n", "2", "--stats"]);
    assert!(
        output.stderr.starts_with("note: running on cpu; vulkan: ")
            && output
                .stderr
                .contains("is the processor in a GPU's clothes"),
        "{}",
        output.stderr
    );
    assert_eq!(output.stderr.matches("note: ").count(), 1);
    assert!(
        output.stderr.contains("device:    cpu: "),
        "{}",
        output.stderr
    );
    output.success();
    let said = generate(&["-n", "2", "--strict"]).failure(1);
    assert!(
        said.contains("is the processor in a GPU's clothes"),
        "{said}"
    );
}

#[test]
fn a_missing_gpu_is_told_and_only_auto_does_without() {
    let run_without = |args: &[&str]| run(without_drivers(&mut command(args)), b"");
    let output = run_without(&["-n", "2"]);
    assert!(
        output
            .stderr
            .starts_with("note: running on cpu; vulkan: no "),
        "{}",
        output.stderr
    );
    assert!(!output.success().is_empty());
    for args in [
        &["--device", "vulkan"][..],
        &["--device", "vulkan", "--strict"],
        &["--device", "vulkan:0"],
        &["--strict"],
    ] {
        let said = run_without(args).failure(1);
        assert!(
            said.starts_with("error: no plan of the bundle can run here: vulkan: no "),
            "{args:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_gpu_of_another_name_is_an_error_that_lists_them() {
    let said = generate(&["--device", "vulkan:voodoo"]).failure(1);
    assert!(
        said.contains("no GPU \"voodoo\"; this machine has vulkan:0 ("),
        "{said}"
    );
}

#[test]
fn an_option_of_the_environment_that_means_nothing_is_an_error() {
    let mut odd = command(&["--device", "vulkan"]);
    let said = run(odd.env("GEMBIN_VULKAN_VALIDATION", "maybe"), b"").failure(1);
    assert!(said.contains("it must be 0, 1 or sync"), "{said}");
}

#[test]
fn a_stopped_generation_finishes_what_the_gpu_has_begun() {
    for presses in [1, 2] {
        let mut child = command(&["-n", "400", "--device", "vulkan"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gemrun starts");
        let mut first = [0; 8];
        let mut stdout = child.stdout.take().expect("piped");
        stdout.read_exact(&mut first).expect("text comes");
        for _ in 0..presses {
            let kill = format!("kill -INT {}", child.id());
            let sent = Command::new("sh").args(["-c", &kill]).status();
            assert!(sent.expect("sh starts").success());
        }
        let start = Instant::now();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("UTF-8");
        let code = child.wait().expect("it ends").code();
        assert_eq!(code, Some(130));
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(rest.len() < 2000, "it did not stop: {rest}");
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("UTF-8");
        assert_eq!(said, "");
    }
}
