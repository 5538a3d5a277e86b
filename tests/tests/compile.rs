//! What `gemc compile` promises about its output: the same bytes for the same input, a whole file or none.

use gembin_tests::commands::{gemc_path, peak_memory_bytes, run};
use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_second_compile_gives_the_same_bytes_whatever_the_threads() {
    let dir = scratch_dir();
    let model = model_dir("story-gemma3");
    for quant in ["none", "q8", "q4"] {
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (path, threads) in [(&a, "1"), (&b, "3")] {
            let mut command = Command::new(gemc_path());
            command.env("RAYON_NUM_THREADS", threads);
            command.args([
                "compile",
                model.to_str().unwrap(),
                "-o",
                path.to_str().unwrap(),
                "--quant",
                quant,
            ]);
            run(&mut command, b"").success();
        }
        assert!(
            fs::read(&a).unwrap() == fs::read(&b).unwrap(),
            "{quant}: the bundles differ"
        );
    }
}

#[test]
fn a_copy_of_the_checkpoint_elsewhere_gives_the_same_bytes() {
    let dir = scratch_dir();
    let model = model_dir("gemma2-gqa");
    let copy = dir.path().join("gemma2-gqa");
    fs::create_dir(&copy).unwrap();
    for name in names(&model) {
        fs::copy(model.join(&name), copy.join(&name)).unwrap();
    }
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for (from, to) in [(&model, &a), (&copy, &b)] {
        gemc([
            "compile",
            from.to_str().unwrap(),
            "-o",
            to.to_str().unwrap(),
        ])
        .success();
    }
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
}

#[test]
fn an_existing_file_is_replaced_and_nothing_else_is_left() {
    let dir = scratch_dir();
    let out = dir.path().join("m.gembin");
    fs::write(&out, "old").unwrap();
    let model = model_dir("gemma1-mqa");
    gemc([
        "compile",
        model.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
    ])
    .success();
    assert_eq!(names(dir.path()), ["m.gembin"]);
    gemrun(["verify", out.to_str().unwrap()]).success();
}

#[test]
fn an_interrupted_compile_leaves_the_old_file_and_nothing_else() {
    let dir = scratch_dir();
    let synth = dir.path().join("synth");
    gemc([
        "synth",
        "--preset",
        "gemma-3-270m",
        "--layers",
        "2",
        "-o",
        synth.to_str().unwrap(),
    ])
    .success();
    for signal in ["INT", "TERM", "KILL"] {
        let out_dir = scratch_dir();
        let out = out_dir.path().join("m.gembin");
        fs::write(&out, "old").unwrap();
        let mut child = Command::new(gemc_path())
            .args([
                "compile",
                synth.to_str().unwrap(),
                "-o",
                out.to_str().unwrap(),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150));
        let kill = format!("kill -{signal} {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let started = Instant::now();
        let status = child.wait().unwrap();
        assert!(
            !status.success(),
            "signal {signal}: the compile ended before it was interrupted"
        );
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "signal {signal}: took too long to stop"
        );
        assert_eq!(fs::read(&out).unwrap(), b"old", "signal {signal}");
        assert_eq!(names(out_dir.path()), ["m.gembin"], "signal {signal}");
    }
}

#[test]
fn every_stage_prints_text_that_the_parser_reads_back() {
    let model = model_dir("gemma2-gqa");
    for stage in gembin_passes::Stage::ALL.map(gembin_passes::Stage::name) {
        let text = gemc([
            "emit",
            model.to_str().unwrap(),
            "--stage",
            stage,
            "--quant",
            "q4",
        ])
        .success();
        let module = gembin_ir::text::parse(&text).unwrap_or_else(|e| panic!("{stage}: {e}"));
        assert_eq!(gembin_ir::text::print(&module), text, "{stage}");
        gembin_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{stage}: {e}"));
    }
}

#[test]
fn memory_does_not_grow_with_the_checkpoint() {
    let dir = scratch_dir();
    let synth = dir.path().join("synth");
    let flags = ["--preset", "gemma-3-270m", "--layers", "3", "-o"];
    gemc(
        ["synth"]
            .iter()
            .chain(&flags)
            .copied()
            .chain([synth.to_str().unwrap()]),
    )
    .success();
    let weights = fs::metadata(synth.join("model.safetensors")).unwrap().len();
    let mut command = Command::new(gemc_path());
    command
        .arg("compile")
        .arg(&synth)
        .arg("-o")
        .arg(dir.path().join("m.gembin"));
    command.args(["--quant", "q4"]);
    let anonymous = peak_memory_bytes(&mut command, "RssAnon");
    // What it needs is the tokenizer's JSON and a batch of rows; the checkpoint is mapped.
    assert!(
        weights > 350 << 20,
        "too small a checkpoint to tell: {weights} bytes"
    );
    assert!(
        anonymous < 256 << 20,
        "{anonymous} bytes of anonymous memory for {weights} of weights"
    );
}
