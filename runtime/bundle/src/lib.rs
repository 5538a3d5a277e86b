//! The `.gembin` file format, shared by the compiler that writes it and the runtime that executes it.
//!
//! A bundle is untrusted input: [`mod@format`] finds sections without believing a length, [`manifest`] is decoded with a
//! size limit, and [`check`] proves that no program of the manifest can address a byte outside the arena or the
//! weights. Nothing in here knows a model's name, a device's API or the compiler's IR.

pub mod check;
pub mod cpu;
pub mod format;
pub mod gpu;
pub mod layout;
pub mod manifest;
pub mod npu;

#[cfg(test)]
mod sample;
