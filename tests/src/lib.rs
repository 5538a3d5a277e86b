//! What the tests of the whole product share: where things are, the two commands, the goldens, the source tree.
//!
//! Owns no test: each file in `tests/tests/` is one subject and asserts for itself. Helpers here panic with one
//! line that says what is missing, because a test that cannot prepare its input has failed.

pub mod commands;
pub mod goldens;
pub mod mesa;
pub mod random_model;
pub mod source_tree;
pub mod workspace;

pub use commands::{Output, gemc, gemrun};
pub use goldens::{Golden, goldens, relative_l2};

use std::path::{Path, PathBuf};

/// The repository's root folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the repository")
}

/// The folder of fixtures and small checkpoints.
pub fn testdata() -> PathBuf {
    repository().join("testdata")
}

/// The checkpoint folder `testdata/models/<name>`.
pub fn model_dir(name: &str) -> PathBuf {
    let dir = testdata().join("models").join(name);
    assert!(dir.is_dir(), "no checkpoint at {}", dir.display());
    dir
}

/// The checkpoints of one decoder of text whose goldens must be met, with or without a tokenizer.
pub const GOLDEN_MODELS: [&str; 7] = [
    "gemma1-mqa",
    "gemma2-gqa",
    "gemma3-text",
    "gemma3-ropescale",
    "gemma3-multimodal",
    "story-gemma3",
    "story-gemma3-draft",
];

/// A new folder that vanishes with the returned guard.
pub fn scratch_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("gembin-test-")
        .tempdir()
        .expect("a temporary folder can be made")
}
