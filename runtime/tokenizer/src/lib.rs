//! The tokenizer of a bundle: byte-pair encoding over flat little-endian tables.
//!
//! A tokenizer.json of a large vocabulary takes about a second to parse, so the compiler does it once ([`compile()`]) and the
//! bundle holds tables that are used where they lie in the mapped file ([`Tokenizer::load`]); loading reads a header.
//! The tables are untrusted: every index is checked where it is used, so that damaged ones give wrong tokens at worst,
//! never a panic, an access out of bounds or an endless loop.
//!
//! Ids are those of the `tokenizers` library for the same tokenizer.json, without the tokens that its post-processor
//! adds around a text; whoever runs a model adds those.
//!
//! Knows nothing of files, bundles, models and chat templates.

mod added;
mod bpe;
#[cfg(feature = "compile")]
mod compile;
mod decode;
mod tables;
mod tokenizer;

#[cfg(feature = "compile")]
pub use compile::{CompileError, compile, compile_sentencepiece};
pub use decode::Decoder;
pub use tables::LoadError;
pub use tokenizer::{SharedBytes, Tokenizer};
