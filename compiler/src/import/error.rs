//! Why a checkpoint cannot be imported.
//!
//! Messages are one line, whatever a hostile file puts into names and values: see [`one_line`].

use std::path::PathBuf;

/// Why a checkpoint cannot be imported. Every case but [`ImportError::Internal`] is about the input.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The path is no directory.
    #[error("{}: not a directory; give the directory that holds config.json", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// The directory lacks a configuration.
    #[error("{}: no such file; a checkpoint directory needs a config.json", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The directory lacks weights.
    #[error("{}: no model.safetensors and no model.safetensors.index.json{hint}", dir.display())]
    NoWeights {
        /// The checkpoint.
        dir: PathBuf,
        /// What to do about weights in another format, if there are any.
        hint: &'static str,
    },
    /// A directory, pipe or device where a file is expected.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A small file is far too big to be what its name says.
    #[error("{file}: {bytes} bytes are too many, at most {limit} are read")]
    TooLarge {
        /// File name.
        file: String,
        /// Its length.
        bytes: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A JSON file does not parse, or is not an object.
    #[error("{file}: {what}")]
    Json {
        /// File name.
        file: String,
        /// Parser's message.
        what: String,
    },
    /// A key of a JSON file has a value that cannot be used.
    #[error("{file}: {key} {what}")]
    Key {
        /// File name.
        file: String,
        /// The key, with the objects that hold it: `text_config.hidden_size`.
        key: String,
        /// What it must be and what it is.
        what: String,
    },
    /// Another model family.
    #[error(
        "{file}: model_type {found} is not supported; supported: gemma, gemma2, gemma3_text, gemma3"
    )]
    UnsupportedModel {
        /// File name.
        file: String,
        /// Its value, quoted, or `is absent`.
        found: String,
    },
    /// A safetensors file is damaged.
    #[error("{file}: {what}")]
    Safetensors {
        /// File name.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The index names a shard that is not there.
    #[error("{shard}: missing shard, named by {index}")]
    MissingShard {
        /// File name.
        shard: String,
        /// The index.
        index: String,
    },
    /// The index names a file outside the checkpoint.
    #[error("{index}: shard {shard:?} lies outside the checkpoint's directory")]
    ShardPath {
        /// The path, as in the index.
        shard: String,
        /// The index.
        index: String,
    },
    /// The index and a shard disagree.
    #[error("{shard}: tensor {tensor} {what}")]
    IndexMismatch {
        /// The shard.
        shard: String,
        /// The tensor.
        tensor: String,
        /// How they disagree.
        what: &'static str,
    },
    /// Two tensors that are the same part of the model.
    #[error("tensors {first} and {second} are the same part of the model; remove one")]
    Duplicate {
        /// Where one is.
        first: String,
        /// Where the other is.
        second: String,
    },
    /// A tensor the configuration asks for is not there.
    #[error("missing tensor {tensor} of shape {}{why}", shape_text(shape))]
    MissingTensor {
        /// Its name.
        tensor: String,
        /// Shape it should have.
        shape: Vec<u64>,
        /// Which setting asks for it, where that is not plain.
        why: &'static str,
    },
    /// A tensor that is no part of the model.
    #[error("unexpected tensor {tensor}: a {model_type} of {layers} layers has none of that name")]
    UnexpectedTensor {
        /// Its name.
        tensor: String,
        /// The configuration's model type.
        model_type: String,
        /// The configuration's layers.
        layers: usize,
    },
    /// A tensor's shape does not agree with the configuration.
    #[error(
        "tensor {tensor} has shape {}, the configuration asks for {}",
        shape_text(got),
        shape_text(want)
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// By the configuration.
        want: Vec<u64>,
        /// In the file.
        got: Vec<u64>,
    },
    /// A tensor's element type cannot be read.
    #[error("tensor {tensor} has dtype {dtype}; supported: BF16, F16, F32")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// As spelled in the file.
        dtype: String,
    },
    /// An option that does not fit the model.
    #[error("{option} {value} {what}")]
    Option {
        /// Name.
        option: &'static str,
        /// As given.
        value: u64,
        /// What it must be.
        what: String,
    },
    /// The importer built an op that the IR refuses: a bug of gembin.
    #[error("internal error, please report it: {0}")]
    Internal(#[from] gembin_ir::TypeFault),
}

/// `[320, 96]`.
fn shape_text(shape: &[u64]) -> String {
    format!("{shape:?}")
}

/// Text from a file as it may appear in a message: control characters escaped, long text cut.
pub(crate) fn one_line(text: &str) -> String {
    const KEPT: usize = 160;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == KEPT {
            out.push_str("...");
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn hostile_text_stays_on_one_short_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 163);
    }
}
