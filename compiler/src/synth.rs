//! Writes a random checkpoint with the exact shapes of a published model, for measuring speed and memory where the
//! real weights are not at hand.
//!
//! The result is a Hugging Face directory like any other: configuration, sharded bf16 weights, a tokenizer of full
//! size, a chat template. The same preset, layers and seed give the same bytes, with any number of threads. The
//! directory appears complete or not at all; its files are not forced to the disk, since they can be made again.
//! Nothing outside this module knows that a checkpoint was made and not trained.

mod noise;
mod preset;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vocabulary;
mod weights;

pub use preset::Preset;

use crate::import::{Config, ImportError};
use crate::progress::Progress;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SynthOptions {
    /// Which model's shapes.
    pub preset: Preset,
    /// Decides every value.
    pub seed: u64,
    /// Only so many of its layers, the first ones.
    pub layers: Option<u32>,
    /// The directory to write: must not exist, or be empty.
    pub dir: PathBuf,
}

/// What was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Files of weights.
    pub shards: usize,
    /// Bytes of weights.
    pub bytes: u64,
}

/// Why a checkpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The directory holds something.
    #[error("{}: exists and is not empty; give a new directory", dir.display())]
    NotEmpty {
        /// As given.
        dir: PathBuf,
    },
    /// There is no directory to put it in.
    #[error("{}: no such directory to put the checkpoint in", parent.display())]
    NoParent {
        /// Directory of the output.
        parent: PathBuf,
    },
    /// The model has no such number of layers.
    #[error("layers {layers} must be from 1 to {most}, which {preset} has")]
    Layers {
        /// As given.
        layers: u32,
        /// The model's.
        most: u32,
        /// The model.
        preset: &'static str,
    },
    /// No room.
    #[error("{}: the disk is full; nothing was kept", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted; nothing was kept")]
    Interrupted,
    /// The importer refuses the configuration just made: a bug of gembin.
    #[error("internal error, please report it: {0}")]
    Internal(#[from] ImportError),
}

impl SynthError {
    fn io(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, cause },
        }
    }
}

/// Makes a checkpoint.
///
/// # Errors
/// When the output is taken or cannot be written, or `cancel` was set; the output then is as it was.
pub fn synth(
    options: &SynthOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Made, SynthError> {
    let preset = options.preset;
    let most = preset.layers();
    let layers = options.layers.unwrap_or(most);
    if !(1..=most).contains(&layers) {
        return Err(SynthError::Layers {
            layers,
            most,
            preset: preset.name(),
        });
    }
    refuse_if_taken(&options.dir)?;
    let parent = match options.dir.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => &options.dir,
    };
    if !parent.is_dir() {
        return Err(SynthError::NoParent {
            parent: parent.to_owned(),
        });
    }
    // Vanishes with all that was written when this function returns early.
    let hidden = tempfile::Builder::new()
        .prefix(".gemc-synth-")
        .tempdir_in(parent)
        .map_err(|e| SynthError::io(parent, e))?;
    // A directory of its own inside, for the usual permissions: the hidden one is private.
    let dir = hidden.path().join("checkpoint");
    fs::create_dir(&dir).map_err(|e| SynthError::io(&dir, e))?;

    let config = preset.config(layers);
    write_json(&dir.join("config.json"), &config)?;
    let Value::Object(config) = config else {
        unreachable!("a configuration is an object");
    };
    // The importer's own reading of the configuration says which tensors there are.
    let config = Config::read("config.json", &config)?;
    tokenizer::write(&dir, preset, options.seed)?;
    let made = weights::write(&dir, &config, options.seed, progress, cancel)?;
    fs::rename(&dir, &options.dir).map_err(|e| SynthError::io(&options.dir, e))?;
    Ok(Made {
        shards: made.shards,
        bytes: made.bytes,
    })
}

/// Writes a checkpoint of a preset's shapes into `dir`, which must be empty, with holes in place of values: what the
/// compiler needs to lower it, on next to no disk. It has no tokenizer.
///
/// # Errors
/// When a file cannot be written.
pub fn shapes(preset: Preset, dir: &Path) -> Result<(), SynthError> {
    let config = preset.config(preset.layers());
    write_json(&dir.join("config.json"), &config)?;
    let Value::Object(config) = config else {
        unreachable!("a configuration is an object");
    };
    weights::write_holes(dir, &Config::read("config.json", &config)?)
}

/// An existing empty directory is as good as none: it is replaced in one step.
fn refuse_if_taken(dir: &Path) -> Result<(), SynthError> {
    let taken = || SynthError::NotEmpty {
        dir: dir.to_owned(),
    };
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(taken()),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(taken()),
        Err(e) => Err(SynthError::io(dir, e)),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), SynthError> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(|e| SynthError::io(path, e))
}
