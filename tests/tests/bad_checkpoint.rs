//! Broken checkpoints and outputs, through the real `gemc`: one clear line, exit code 1, nothing written.

use gembin_tests::{gemc, gemrun, model_dir, scratch_dir};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A private copy of a small checkpoint, to be broken.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(model: &str) -> Self {
        let dir = scratch_dir();
        for entry in fs::read_dir(model_dir(model)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            let mut p = fs::metadata(dir.path().join(entry.file_name()))
                .unwrap()
                .permissions();
            p.set_mode(0o644);
            fs::set_permissions(dir.path().join(entry.file_name()), p).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        edit(&mut value);
        fs::write(self.path(name), serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Multiplies a bf16 tensor of model.safetensors.
    fn scale_tensor(&self, name: &str, factor: f32) {
        let mut file = fs::read(self.path("model.safetensors")).unwrap();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
        let at = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize + 8 + len;
        for value in file[at(0)..at(1)].as_chunks_mut::<2>().0 {
            let scaled = half::bf16::from_le_bytes(*value).to_f32() * factor;
            *value = half::bf16::from_f32(scaled).to_le_bytes();
        }
        fs::write(self.path("model.safetensors"), file).unwrap();
    }

    /// Rewrites the header of model.safetensors; offsets keep meaning the same bytes.
    fn edit_header(&self, edit: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let file = fs::read(self.path("model.safetensors")).unwrap();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
        edit(header.as_object_mut().unwrap());
        let mut text = serde_json::to_vec(&header).unwrap();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(&text);
        out.extend(&file[8 + len..]);
        fs::write(self.path("model.safetensors"), out).unwrap();
    }
}

/// Compiles `dir`, which must fail with exactly one line that holds every one of `needles`.
#[track_caller]
fn refuse(dir: &Path, extra: &[&str], needles: &[&str]) {
    let out_dir = scratch_dir();
    let out = out_dir.path().join("m.gembin");
    fs::write(&out, "old").unwrap();
    let mut args = vec![
        "compile",
        dir.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
    ];
    args.extend(extra);
    let stderr = gemc(args).failure(1);
    one_line(&stderr, needles);
    assert_eq!(
        fs::read(&out).unwrap(),
        b"old",
        "the old output was touched"
    );
    assert_eq!(
        fs::read_dir(out_dir.path()).unwrap().count(),
        1,
        "something was left behind"
    );
}

#[track_caller]
fn one_line(stderr: &str, needles: &[&str]) {
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {stderr}");
    assert!(lines[0].starts_with("error: "), "{stderr}");
    for needle in needles {
        assert!(lines[0].contains(needle), "{needle:?} is not in: {stderr}");
    }
}

#[test]
fn directories_and_files_that_are_not_there() {
    refuse(
        Path::new("/nonexistent/model"),
        &[],
        &["/nonexistent/model", "not a directory"],
    );
    let empty = scratch_dir();
    refuse(empty.path(), &[], &["config.json"]);
    let c = Copy::of("gemma1-mqa");
    fs::remove_file(c.path("model.safetensors")).unwrap();
    refuse(c.dir.path(), &[], &["model.safetensors"]);
    let c = Copy::of("story-gemma3");
    fs::remove_file(c.path("model-00002-of-00005.safetensors")).unwrap();
    refuse(c.dir.path(), &[], &["model-00002-of-00005.safetensors"]);
}

#[test]
fn configurations() {
    let cases: [(&str, Value, &[&str]); 7] = [
        (
            "model_type",
            json!("llama"),
            &["llama", "gemma", "gemma2", "gemma3"],
        ),
        ("model_type", json!(7), &["model_type"]),
        ("hidden_size", json!(0), &["hidden_size"]),
        ("hidden_size", json!(-96), &["hidden_size"]),
        ("num_hidden_layers", json!(1e15), &["num_hidden_layers"]),
        (
            "num_attention_heads",
            json!("four"),
            &["num_attention_heads"],
        ),
        ("hidden_activation", json!("relu"), &["relu"]),
    ];
    for (key, value, needles) in cases {
        let c = Copy::of("gemma1-mqa");
        c.edit_json("config.json", |v| v[key] = value);
        refuse(c.dir.path(), &[], needles);
    }
    let c = Copy::of("gemma1-mqa");
    fs::write(c.path("config.json"), "{ not json").unwrap();
    refuse(c.dir.path(), &[], &["config.json"]);
    let c = Copy::of("gemma1-mqa");
    fs::write(c.path("config.json"), "[1, 2]").unwrap();
    refuse(c.dir.path(), &[], &["config.json"]);
}

#[test]
fn tensors_missing_extra_misshapen_or_of_another_type() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let c = Copy::of("gemma1-mqa");
    c.edit_header(|h| {
        let t = h.remove(name).unwrap();
        h.insert("model.layers.1.mlp.other.weight".into(), t);
    });
    // Either of the two faults may be told first.
    refuse(c.dir.path(), &[], &["model.layers.1.mlp."]);

    let c = Copy::of("gemma1-mqa");
    c.edit_header(|h| drop(h.remove(name)));
    refuse(c.dir.path(), &[], &[name, "missing"]);

    let c = Copy::of("gemma1-mqa");
    c.edit_json("config.json", |v| v["num_hidden_layers"] = json!(4));
    refuse(c.dir.path(), &[], &["model.layers.3."]);

    let c = Copy::of("gemma1-mqa");
    c.edit_json("config.json", |v| v["num_hidden_layers"] = json!(2));
    refuse(c.dir.path(), &[], &["model.layers.2."]);

    let c = Copy::of("gemma1-mqa");
    c.edit_json("config.json", |v| v["intermediate_size"] = json!(161));
    refuse(c.dir.path(), &[], &["mlp", "160", "161"]);

    let c = Copy::of("gemma1-mqa");
    c.edit_header(|h| h[name]["dtype"] = json!("I16"));
    refuse(c.dir.path(), &[], &[name, "I16"]);
}

#[test]
fn safetensors_cut_or_corrupt() {
    for keep in [0, 4, 8, 100] {
        let c = Copy::of("gemma1-mqa");
        let file = fs::read(c.path("model.safetensors")).unwrap();
        fs::write(c.path("model.safetensors"), &file[..keep]).unwrap();
        refuse(c.dir.path(), &[], &["model.safetensors"]);
    }
    let c = Copy::of("gemma1-mqa");
    let file = fs::read(c.path("model.safetensors")).unwrap();
    fs::write(c.path("model.safetensors"), &file[..file.len() - 1000]).unwrap();
    refuse(c.dir.path(), &[], &["model.safetensors"]);

    let c = Copy::of("gemma1-mqa");
    let mut hostile = u64::MAX.to_le_bytes().to_vec();
    hostile.extend(b"{}");
    fs::write(c.path("model.safetensors"), hostile).unwrap();
    refuse(c.dir.path(), &[], &["model.safetensors"]);
}

#[test]
fn nan_and_infinity_are_named_and_can_be_allowed() {
    for bits in [0x7fc0u16, 0x7f80] {
        let c = Copy::of("gemma1-mqa");
        let mut file = fs::read(c.path("model.safetensors")).unwrap();
        let at = file.len() - 2;
        file[at..].copy_from_slice(&bits.to_le_bytes());
        fs::write(c.path("model.safetensors"), file).unwrap();
        refuse(c.dir.path(), &[], &["model.", "--allow-nonfinite"]);
        let out_dir = scratch_dir();
        let out = out_dir.path().join("m.gembin");
        let (dir, out) = (c.dir.path().to_str().unwrap(), out.to_str().unwrap());
        for quant in ["none", "q8", "q4"] {
            gemc([
                "compile",
                dir,
                "-o",
                out,
                "--allow-nonfinite",
                "--quant",
                quant,
            ])
            .success();
            // There is nothing to replay, but every byte can be checked.
            gemrun(["verify", out]).success();
        }
    }
}

#[test]
fn an_index_that_leaves_the_directory_is_refused() {
    let c = Copy::of("story-gemma3");
    c.edit_json("model.safetensors.index.json", |v| {
        v["weight_map"]["model.norm.weight"] = json!("../../etc/passwd");
    });
    refuse(c.dir.path(), &[], &["../../etc/passwd"]);
}

#[test]
fn tokenizers_and_templates() {
    let c = Copy::of("story-gemma3");
    fs::write(c.path("tokenizer.json"), "{}").unwrap();
    refuse(c.dir.path(), &[], &["tokenizer.json"]);

    let c = Copy::of("story-gemma3");
    c.edit_json("tokenizer.json", |v| v["model"]["type"] = json!("Unigram"));
    refuse(c.dir.path(), &[], &["tokenizer.json", "Unigram"]);

    let c = Copy::of("story-gemma3");
    c.edit_json("tokenizer_config.json", |v| {
        v["chat_template"] = json!("{% for m in %}")
    });
    refuse(c.dir.path(), &[], &["chat template"]);

    let c = Copy::of("story-gemma3");
    c.edit_json("tokenizer_config.json", |v| {
        v["chat_template"] = json!("{{ nosuch(messages) }}")
    });
    refuse(c.dir.path(), &[], &["chat template", "nosuch"]);

    // Weights are of use without a text side only when the user asks for it by giving token ids.
    let c = Copy::of("story-gemma3");
    fs::remove_file(c.path("tokenizer.json")).unwrap();
    fs::remove_file(c.path("tokenizer.model")).unwrap();
    refuse(c.dir.path(), &[], &["tokenizer"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let model = model_dir("gemma1-mqa");
    let model = model.to_str().unwrap();
    let dir = scratch_dir();
    let missing = dir.path().join("no/such/m.gembin");
    one_line(
        &gemc(["compile", model, "-o", missing.to_str().unwrap()]).failure(1),
        &["does not exist"],
    );
    one_line(
        &gemc(["compile", model, "-o", dir.path().to_str().unwrap()]).failure(1),
        &["is a directory"],
    );
    one_line(
        &gemc(["compile", model, "-o", "/proc/m.gembin"]).failure(1),
        &["/proc"],
    );
}

#[test]
fn a_checkpoint_file_is_not_replaced_by_the_output() {
    let c = Copy::of("gemma1-mqa");
    let weights = c.path("model.safetensors");
    let before = fs::read(&weights).unwrap();
    let args = [
        "compile",
        c.dir.path().to_str().unwrap(),
        "-o",
        weights.to_str().unwrap(),
    ];
    one_line(
        &gemc(args).failure(1),
        &["model.safetensors", "another name"],
    );
    assert!(
        fs::read(&weights).unwrap() == before,
        "the checkpoint changed"
    );
}

#[test]
fn pipes_in_a_checkpoint_are_refused_without_waiting() {
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        let c = Copy::of("gemma1-mqa");
        let _ = fs::remove_file(c.path(name));
        let made = std::process::Command::new("mkfifo")
            .arg(c.path(name))
            .status()
            .unwrap();
        assert!(made.success());
        refuse(c.dir.path(), &[], &[name, "not a regular file"]);
    }
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    // A limit on the size of files stands for the disk: the same error path, and no rights are needed.
    let dir = scratch_dir();
    let out = dir.path().join("m.gembin");
    fs::write(&out, "old").unwrap();
    let script = format!(
        "ulimit -f 64; exec '{}' compile '{}' -o '{}'",
        gembin_tests::commands::gemc_path().display(),
        model_dir("gemma1-mqa").display(),
        out.display()
    );
    let mut command = std::process::Command::new("sh");
    let stderr = gembin_tests::commands::run(command.args(["-c", &script]), b"").failure(1);
    let told: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(told.len(), 1, "{stderr}");
    assert!(told[0].contains("no room"), "{stderr}");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn values_too_large_for_the_cache_are_found_when_compiling() {
    // The values' projection, a hundred thousand times larger: beyond f16, yet finite.
    let c = Copy::of("gemma1-mqa");
    c.scale_tensor("model.layers.0.self_attn.v_proj.weight", 1e5);
    let out_dir = scratch_dir();
    let out = out_dir.path().join("m.gembin");
    let args = [
        "compile",
        c.dir.path().to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
    ];
    // Saturated values are wrong but finite: either way, what is written can be verified.
    let compiled = gemc(args);
    if compiled.code == Some(0) {
        gemrun(["verify", out.to_str().unwrap()]).success();
    } else {
        one_line(&compiled.failure(1), &["--kv f32"]);
    }
}

#[test]
fn usage_errors_are_one_line_with_code_two() {
    let cases: [(&[&str], &str); 4] = [
        (&["compile"], "<DIR>"),
        (&["compile", "x", "-o", "y", "--quant", "q5"], "q5"),
        (&["emit", "x", "--stage", "nowhere"], "nowhere"),
        (&["synth", "--preset", "gemma-9", "-o", "y"], "gemma-3-1b"),
    ];
    for (args, needle) in cases {
        one_line(&gemc(args).failure(2), &[needle, "--help"]);
    }
}
