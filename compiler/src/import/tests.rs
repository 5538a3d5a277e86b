//! The importer against whole checkpoints: those of testdata, and copies of them changed in one place.

mod bad_input;
mod golden;
mod model;
mod text;

use super::*;
use gembin_ir::{DType, OpKind, WeightExpr};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

const ALL: [&str; 7] = [
    "gemma1-mqa",
    "gemma2-gqa",
    "gemma3-text",
    "gemma3-ropescale",
    "gemma3-multimodal",
    "story-gemma3",
    "story-gemma3-draft",
];

fn model_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/models")
        .join(name)
}

fn load(name: &str) -> Imported {
    import(&model_dir(name), &ImportOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A tensor of a copy.
struct Tensor {
    dtype: &'static str,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// A copy of a checkpoint of one weights file, to be damaged.
struct Copy {
    dir: TempDir,
    tensors: BTreeMap<String, Tensor>,
}

impl Copy {
    fn of(name: &str) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        for file in ["config.json", "config.v4.json", "generation_config.json"] {
            if let Ok(bytes) = fs::read(model_dir(name).join(file)) {
                fs::write(dir.path().join(file), bytes).expect("write");
            }
        }
        let bytes = fs::read(model_dir(name).join("model.safetensors")).expect("weights");
        let parsed = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
        let tensors = parsed
            .iter()
            .map(|(name, view)| {
                assert_eq!(view.dtype(), safetensors::Dtype::BF16);
                let tensor = Tensor {
                    dtype: "BF16",
                    shape: view.shape().iter().map(|n| *n as u64).collect(),
                    data: view.data().to_vec(),
                };
                (name.to_owned(), tensor)
            })
            .collect();
        let copy = Self { dir, tensors };
        copy.save();
        copy
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn edit(&mut self, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
        change(&mut self.tensors);
        self.save();
    }

    fn save(&self) {
        self.save_some("model.safetensors", |_| true);
    }

    fn save_some(&self, file: &str, keep: impl Fn(&str) -> bool) {
        let mut header = Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, t) in self.tensors.iter().filter(|(name, _)| keep(name)) {
            let start = data.len();
            data.extend(&t.data);
            header.insert(
                name.clone(),
                json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, data.len()]}),
            );
        }
        let header = Value::Object(header).to_string();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(data);
        fs::write(self.path(file), out).expect("write");
    }

    /// Splits the weights into two shards and returns the index's map.
    fn shard(&self) -> Map<String, Value> {
        fs::remove_file(self.path("model.safetensors")).expect("remove");
        let first = |name: &str| name < "model.layers.1";
        self.save_some("a.safetensors", first);
        self.save_some("b.safetensors", |name| !first(name));
        let file = |name: &str| {
            if first(name) {
                "a.safetensors"
            } else {
                "b.safetensors"
            }
        };
        self.tensors
            .keys()
            .map(|name| (name.clone(), json!(file(name))))
            .collect()
    }

    fn write_index(&self, map: Map<String, Value>) {
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(self.path("model.safetensors.index.json"), index.to_string()).expect("write");
    }

    fn write_json(&self, file: &str, value: &Value) {
        fs::write(self.path(file), value.to_string()).expect("write");
    }

    fn config(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let text = fs::read(self.path("config.json")).expect("config");
        let Value::Object(mut map) = serde_json::from_slice(&text).expect("json") else {
            panic!("an object");
        };
        change(&mut map);
        self.write_json("config.json", &Value::Object(map));
    }

    fn set(&self, key: &str, value: Value) {
        self.config(|map| {
            map.insert(key.to_owned(), value);
        });
    }

    fn import(&self) -> Result<Imported, ImportError> {
        import(self.dir.path(), &ImportOptions::default())
    }

    fn fault(&self) -> String {
        match self.import() {
            Ok(_) => panic!("must be refused"),
            Err(e) => e.to_string(),
        }
    }
}

/// Adds a copy of a tensor under another name.
fn copy_tensor(tensors: &mut BTreeMap<String, Tensor>, from: &str, to: &str) {
    let t = &tensors[from];
    let copy = Tensor {
        dtype: t.dtype,
        shape: t.shape.clone(),
        data: t.data.clone(),
    };
    tensors.insert(to.to_owned(), copy);
}

/// Checks a message: that it names what is wrong, on one line.
fn assert_says(got: &str, want: &str) {
    assert!(got.contains(want), "want: {want}\n got: {got}");
    assert!(!got.contains('\n'), "one line: {got}");
}
