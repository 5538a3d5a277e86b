//! gemrun's library: maps a bundle, proves it safe, and executes its programs of steps.
//!
//! Knows nothing of the compiler's IR and of any model family: a model is its programs.
//!
//! [`loader`] opens a file, [`engine`] runs it on [`drivers`], [`sampler`] picks tokens, [`stream`] turns them into
//! text and [`chat`] turns a conversation into a prompt.

pub mod arena;
pub mod chat;
pub mod drivers;
pub mod engine;
pub mod error;
pub mod loader;
pub mod sampler;
pub mod stream;
