//! Made checkpoints as a whole.

use super::*;
use crate::import::{ImportOptions, import};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Adds up what it is told; sets the flag after so many bytes.
struct Counter<'a> {
    total: AtomicU64,
    done: AtomicU64,
    stop_after: u64,
    cancel: &'a AtomicBool,
}

impl<'a> Counter<'a> {
    fn new(cancel: &'a AtomicBool, stop_after: u64) -> Self {
        Self {
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stop_after,
            cancel,
        }
    }
}

impl Progress for Counter<'_> {
    fn stage(&self, _: &str, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if done > self.stop_after {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

fn options(dir: &Path, seed: u64) -> SynthOptions {
    SynthOptions {
        preset: Preset::from_name("gemma-3-270m").expect("the smallest preset"),
        seed,
        layers: Some(1),
        dir: dir.to_owned(),
    }
}

fn make(dir: &Path, seed: u64) -> Made {
    let cancel = AtomicBool::new(false);
    let progress = Counter::new(&cancel, u64::MAX);
    let made = synth(&options(dir, seed), &progress, &cancel).expect("made");
    assert_eq!(progress.total.into_inner(), made.bytes);
    assert_eq!(progress.done.into_inner(), made.bytes);
    made
}

fn hashes(dir: &Path) -> BTreeMap<String, u128> {
    let entries = fs::read_dir(dir).expect("directory");
    let hash = |entry: io::Result<fs::DirEntry>| {
        let path = entry.expect("entry").path();
        let name = path
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        (
            name,
            xxhash_rust::xxh3::xxh3_128(&fs::read(path).expect("file")),
        )
    };
    entries.map(hash).collect()
}

#[test]
fn a_made_checkpoint_imports_and_its_bytes_follow_from_the_seed_alone() {
    let dir = TempDir::new().expect("temporary directory");
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    make(&a, 5);
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("pool");
    one_thread.install(|| make(&b, 5));
    assert_eq!(hashes(&a), hashes(&b));
    let a_hashes = hashes(&a);

    let model = import(&a, &ImportOptions::default()).expect("valid");
    assert_eq!(model.vocab, 262_144);
    assert_eq!(model.text.stop_tokens, [1, 106]);
    assert!(model.text.has_tokenizer && model.text.chat_template.is_some());
    assert!(model.facts.notes.is_empty(), "{:?}", model.facts.notes);
    let mut row = vec![0.0; 640];
    let tensor = "model.layers.0.self_attn.q_proj.weight";
    model
        .checkpoint
        .read_rows(tensor, 3, &mut row)
        .expect("row");
    let rms = (row.iter().map(|x| x * x).sum::<f32>() / 640.0).sqrt();
    assert!((rms * 640f32.sqrt() - 1.0).abs() < 0.15, "{rms}");

    let again = synth(
        &options(&a, 5),
        &Counter::new(&AtomicBool::new(false), 0),
        &AtomicBool::new(false),
    );
    let got = again.expect_err("the directory is taken").to_string();
    assert!(got.contains("exists and is not empty"), "{got}");
    assert_eq!(hashes(&a), a_hashes);
}

#[test]
fn an_interrupt_leaves_nothing() {
    let dir = TempDir::new().expect("temporary directory");
    let cancel = AtomicBool::new(false);
    let progress = Counter::new(&cancel, 1);
    let got = synth(&options(&dir.path().join("a"), 1), &progress, &cancel);
    assert!(matches!(got, Err(SynthError::Interrupted)), "{got:?}");
    assert!(progress.done.into_inner() < progress.total.into_inner());
    assert_eq!(hashes(dir.path()), BTreeMap::new());
}

#[test]
fn outputs_and_layers_that_cannot_be_are_named() {
    let dir = TempDir::new().expect("temporary directory");
    let fault = |change: &dyn Fn(&mut SynthOptions)| {
        let mut options = options(&dir.path().join("a"), 1);
        change(&mut options);
        let cancel = AtomicBool::new(false);
        let got = synth(&options, &Counter::new(&cancel, 0), &cancel);
        got.expect_err("must be refused").to_string()
    };
    let got = fault(&|o| o.layers = Some(19));
    assert_eq!(
        got,
        "layers 19 must be from 1 to 18, which gemma-3-270m has"
    );
    assert!(fault(&|o| o.layers = Some(0)).contains("layers 0 must be"));
    let got = fault(&|o| o.dir = dir.path().join("none/a"));
    assert!(
        got.contains("no such directory to put the checkpoint in"),
        "{got}"
    );
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("write");
    assert!(fault(&|o| o.dir.clone_from(&file)).contains("exists"));
}

#[test]
fn every_preset_has_the_size_it_is_named_for() {
    // Millions of parameters, as published (text half).
    let published = [
        ("gemma-2b", 2506),
        ("gemma-7b", 8538),
        ("gemma-2-2b", 2614),
        ("gemma-2-9b", 9242),
        ("gemma-2-27b", 27_227),
        ("gemma-3-270m", 268),
        ("gemma-3-1b", 1000),
        ("gemma-3-4b", 3880),
        ("gemma-3-12b", 11_766),
        ("gemma-3-27b", 27_009),
    ];
    assert_eq!(Preset::names().count(), published.len());
    for (name, millions) in published {
        let preset = Preset::from_name(name).expect(name);
        let Value::Object(map) = preset.config(preset.layers()) else {
            panic!()
        };
        let config = Config::read("config.json", &map).expect("valid");
        let parameters: u64 = crate::import::tensor_shapes(&config)
            .map(|t| t.shape.iter().map(|n| u64::from(*n)).product::<u64>())
            .sum();
        assert_eq!(
            (parameters + 500_000) / 1_000_000,
            millions,
            "{name}: {parameters}"
        );
    }
}
