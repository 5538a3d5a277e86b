//! `gemrun logits` over a tiny model: what is in the file, and what is left alone when there cannot be one.

mod support;

use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use std::process::Command;
use support::VOCAB;
use support::command::{Fixture, error, json, stdout};

#[test]
fn logits_are_written_as_one_tensor() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("out.safetensors");
    let output = fixture.run("logits", &["--ids", "2,17,9", "-o", path.to_str().unwrap()]);
    stdout(&output);
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("logits").unwrap();
    assert_eq!(tensor.shape(), [3, VOCAB as usize]);
    let mut engine = Engine::open(&fixture.bundle, &OpenOptions::default()).unwrap();
    let want = engine.prefill(0, &[2, 17, 9], Wanted::Last).unwrap();
    let got: Vec<f32> = tensor
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let last = &got[2 * VOCAB as usize..];
    for (got, want) in last.iter().zip(want) {
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }
    // Nothing but the result is left.
    let names = std::fs::read_dir(fixture.dir.path()).unwrap().count();
    assert_eq!(names, 2);
}

#[test]
fn logits_that_cannot_be_written_leave_the_old_file() {
    let fixture = Fixture::new();
    let missing = fixture.dir.path().join("nowhere/out.safetensors");
    let output = fixture.run("logits", &["--ids", "2", "-o", missing.to_str().unwrap()]);
    assert!(error(&output, 1).contains("nowhere"));
    let directory = fixture.dir.path().to_str().unwrap();
    let output = fixture.run("logits", &["--ids", "2", "-o", directory]);
    assert!(error(&output, 1).contains("is a directory"));
    let bundle = fixture.bundle.to_str().unwrap();
    let before = std::fs::read(bundle).unwrap();
    let output = fixture.run("logits", &["--ids", "2", "-o", bundle]);
    assert!(error(&output, 1).contains("is the same file as the bundle"));
    assert!(std::fs::read(bundle).unwrap() == before);
    // Wrong ids are told before the old file is touched.
    let old = fixture.dir.path().join("old");
    std::fs::write(&old, "old").unwrap();
    let output = fixture.run("logits", &["--ids", "2,1030", "-o", old.to_str().unwrap()]);
    assert!(error(&output, 1).contains("token id 1030 is out of range"));
    assert_eq!(std::fs::read(&old).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 2);
}

#[test]
fn logits_past_the_size_limit_of_files_are_one_error_and_leave_nothing() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("out.safetensors");
    let ids = vec!["3"; 90].join(",");
    // 90 rows of 4 KiB against 100 blocks of at most 1 KiB.
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_gemrun"))
        .arg("logits")
        .arg(&fixture.bundle)
        .args(["--ids", &ids, "-o", path.to_str().unwrap()])
        .output()
        .unwrap();
    let line = error(&output, 1);
    assert!(
        line.contains("cannot write") && line.contains("out.safetensors"),
        "{line}"
    );
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 1);
}

#[test]
fn logits_go_straight_through_a_pipe() {
    let fixture = Fixture::new();
    let pipe = fixture.dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    stdout(&fixture.run("logits", &["--ids", "2,17,9", "-o", pipe.to_str().unwrap()]));
    let piped = reader.join().unwrap();
    let file = fixture.dir.path().join("file");
    stdout(&fixture.run("logits", &["--ids", "2,17,9", "-o", file.to_str().unwrap()]));
    assert!(piped == std::fs::read(file).unwrap());
    assert!(
        !std::fs::metadata(pipe).unwrap().is_file(),
        "the pipe is still one"
    );
}

#[test]
fn logits_that_are_no_numbers_are_refused() {
    let fixture = Fixture::new();
    let sections = json(&fixture.run("info", &["--json"]))["sections"].clone();
    let weights = sections[1]["offset"].as_u64().unwrap() as usize;
    let mut bytes = std::fs::read(&fixture.bundle).unwrap();
    for word in bytes[weights..weights + 4096].as_chunks_mut::<4>().0 {
        *word = f32::NAN.to_le_bytes();
    }
    std::fs::write(&fixture.bundle, bytes).unwrap();
    let path = fixture.dir.path().join("out");
    let output = fixture.run("logits", &["--ids", "2,17", "-o", path.to_str().unwrap()]);
    let line = error(&output, 1);
    assert!(
        line.contains("position 0 (token id 2)") && line.contains("NaN"),
        "{line}"
    );
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 1);
}
