//! Reads a Hugging Face checkpoint of Gemma 1, 2 or 3: a directory becomes a [`Module`] of primitive ops, a
//! [`Checkpoint`] that its weights come from, and the text facts that the runtime needs.
//!
//! Every dimension comes from `config.json` and is checked against the tensors. Nothing is computed from weights here
//! and no tensor is read whole; values are decoded, and checked for NaN and infinity, when packing asks for rows.
//! Does not parse tokenizers or chat templates, and knows nothing of passes, targets and bundles' bytes.

mod checkpoint;
mod config;
mod error;
mod graph;
mod header;
mod json;
mod tensors;
#[cfg(test)]
mod tests;
mod text;

pub use checkpoint::Checkpoint;
pub(crate) use checkpoint::map_file;
pub use config::{Config, Family, Layer, Rope, Span};
pub use error::ImportError;
pub use tensors::{TensorShape, tensor_shapes};

use gembin_bundle::manifest::{ModelFacts, SourceFile, TextFacts};
use gembin_ir::{DimBounds, Module};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// What a caller decides about an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportOptions {
    /// Positions a sequence can have; `None`: the model's own, but at most [`DEFAULT_CONTEXT`].
    pub context: Option<u32>,
    /// Sequences held at once.
    pub slots: u32,
    /// Tokens of a prefill call; never more than the context.
    pub chunk: u32,
    /// Another configuration file than the directory's `config.json`.
    pub config: Option<PathBuf>,
    /// Compile weights that hold NaN or infinity.
    pub allow_nonfinite: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            context: None,
            slots: 1,
            chunk: DEFAULT_CHUNK,
            config: None,
            allow_nonfinite: false,
        }
    }
}

/// Positions planned for when the user does not say: a KV cache for the 131,072 that some models allow would take
/// more memory than their weights.
pub const DEFAULT_CONTEXT: u32 = 4096;
/// Tokens of a prefill call when the user does not say.
pub const DEFAULT_CHUNK: u32 = 128;
/// Most sequences held at once.
const MOST_SLOTS: u32 = 4096;
/// Memory that the logits of one prefill call may take: with a large vocabulary, fewer rows are returned a call.
const LOGITS_BYTES: u64 = 16 << 20;

/// A checkpoint, understood.
pub struct Imported {
    /// What the model computes.
    pub module: Module,
    /// Where its weights come from.
    pub checkpoint: Checkpoint,
    /// The configuration it was made from.
    pub config: Config,
    /// Token ids that the model knows.
    pub vocab: u32,
    /// Facts for people. `quantization` is left empty, for whoever decides it.
    pub facts: ModelFacts,
    /// Tokens and text around the model.
    pub text: TextFacts,
    /// `tokenizer.json`, if there is one.
    pub tokenizer_json: Option<PathBuf>,
    /// `tokenizer.model`, if that is the only tokenizer there is.
    pub tokenizer_model: Option<PathBuf>,
    /// Every file that the import rests on, for provenance; see [`hash_sources`].
    pub sources: Vec<Source>,
}

/// A file that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Relative to the checkpoint's directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Reads the checkpoint in `dir`.
///
/// # Errors
/// What is wrong with the checkpoint or the options, on one line that names the file, key or tensor.
pub fn import(dir: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    if !dir.is_dir() {
        return Err(ImportError::NotADirectory {
            path: dir.to_owned(),
        });
    }
    let config_path = match &options.config {
        Some(path) => path.clone(),
        None => dir.join("config.json"),
    };
    let map = json::read_object(&config_path)?.ok_or_else(|| ImportError::NoConfig {
        path: config_path.clone(),
    })?;
    let config = Config::read(&json::file_name(&config_path), &map)?;
    let bounds = bounds(&config, options)?;
    let checkpoint = Checkpoint::open(dir, options.allow_nonfinite)?;
    let parts = tensors::bind(&config, &checkpoint)?;
    checkpoint.refuse_unclaimed()?;
    let name = model_name(dir);
    let module = graph::build(&name, bounds, &config, &parts)?;
    let text = text::read(dir, &config)?;

    let parameters = parts
        .bound
        .iter()
        .map(|b| b.shape.iter().map(|n| u64::from(*n)).product::<u64>())
        .sum();
    let facts = ModelFacts {
        name,
        architecture: config.model_type.clone(),
        parameters,
        layers: u32::try_from(config.layers.len()).expect("the configuration's u32"),
        hidden: config.hidden,
        quantization: String::new(),
        notes: [parts.notes, text.notes].concat(),
    };
    let sources = std::iter::once(&config_path)
        .chain(&text.files)
        .chain(checkpoint.files())
        .map(|path| Source {
            name: text::source_name(dir, path),
            path: path.clone(),
        })
        .collect();
    Ok(Imported {
        module,
        checkpoint,
        vocab: config.vocab,
        config,
        facts,
        text: text.facts,
        tokenizer_json: text.tokenizer_json,
        tokenizer_model: text.tokenizer_model,
        sources,
    })
}

/// Hashes the content of every file that the import rests on, several at a time.
///
/// # Errors
/// A file that can no longer be read.
pub fn hash_sources(imported: &Imported) -> Result<Vec<SourceFile>, ImportError> {
    imported
        .sources
        .par_iter()
        .map(|source| {
            let map = map_file(&source.path)?;
            Ok(SourceFile {
                name: source.name.clone(),
                bytes: map.len() as u64,
                xxh3_128: xxhash_rust::xxh3::xxh3_128(&map).to_be_bytes(),
            })
        })
        .collect()
}

/// The directory's name, also of `.` and `model/..`.
fn model_name(dir: &Path) -> String {
    let resolved = dir.canonicalize();
    json::file_name(resolved.as_deref().unwrap_or(dir))
}

fn bounds(config: &Config, options: &ImportOptions) -> Result<DimBounds, ImportError> {
    let fault = |option, value: u32, what: String| ImportError::Option {
        option,
        value: value.into(),
        what,
    };
    let most = config.max_positions;
    let context = match options.context {
        None => most.min(DEFAULT_CONTEXT),
        Some(0) => return Err(fault("context", 0, "must be at least 1".into())),
        Some(n) if n > most => {
            let what = format!("is more than the model's max_position_embeddings {most}");
            return Err(fault("context", n, what));
        }
        Some(n) => n,
    };
    if options.chunk == 0 {
        return Err(fault("chunk", 0, "must be at least 1".into()));
    }
    if !(1..=MOST_SLOTS).contains(&options.slots) {
        let what = format!("must be from 1 to {MOST_SLOTS}");
        return Err(fault("slots", options.slots, what));
    }
    let chunk = options.chunk.min(context);
    let rows = LOGITS_BYTES / (4 * u64::from(config.vocab));
    let outs = u32::try_from(rows).unwrap_or(u32::MAX).clamp(1, chunk);
    Ok(DimBounds {
        chunk,
        outs,
        context,
        slots: options.slots,
    })
}
