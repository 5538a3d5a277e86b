//! Everything that can go wrong between a file name and logits, one line each.

use crate::drivers::DriverError;
use std::path::PathBuf;

/// Why a bundle could not be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused the file.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `open`, `map`, ...
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is something else by that name.
    #[error("{} is {what}, not a .gembin file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// `a directory`, ...
        what: &'static str,
    },
    /// Nothing in it.
    #[error("{} is empty; compile the model again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not a bundle, damaged, or of another version.
    #[error("{}: {reason}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// The first fault found.
        reason: String,
    },
    /// Weights whose checksums do not match.
    #[error("{}: damaged weights: {names}; copy or compile the bundle again", path.display())]
    DamagedWeights {
        /// The file.
        path: PathBuf,
        /// The weights' names, some of them if there are many.
        names: String,
    },
    /// No such device in this program.
    #[error("unknown device {name}; known: {known}")]
    UnknownDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The bundle was not compiled for the device asked for.
    #[error("the bundle has no plan that runs on {device} alone; its plans: {plans}")]
    NoPlanForDevice {
        /// The device asked for.
        device: String,
        /// The plans' names.
        plans: String,
    },
    /// Devices that the plans need.
    #[error("no plan of the bundle can run here: {reasons}")]
    DevicesMissing {
        /// Each missing device and why.
        reasons: String,
    },
    /// A plan without a program for a phase.
    #[error("plan {plan} has no program for {phase}; compile the bundle again")]
    NoProgram {
        /// The plan.
        plan: String,
        /// `prefill` or `decode`.
        phase: &'static str,
    },
    /// The memory plan does not fit this machine.
    #[error("cannot reserve {bytes} bytes for the arena: {source}")]
    Arena {
        /// The size.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A device failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// More tokens than the bundle was planned for.
    #[error("{tokens} tokens do not fit the context of {context} that the bundle was compiled for")]
    ContextFull {
        /// Length that the sequence would have.
        tokens: usize,
        /// Longest one possible.
        context: usize,
    },
    /// Not a token of the model.
    #[error("token id {id} is out of range: the model has {vocab} tokens, 0 to {}", vocab.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Number of tokens.
        vocab: u32,
    },
    /// Not a slot of the bundle.
    #[error("sequence slot {slot} is out of range: the bundle was compiled for {slots}")]
    SlotOutOfRange {
        /// The slot.
        slot: usize,
        /// Number of slots.
        slots: usize,
    },
    /// A decode call with two tokens for one sequence.
    #[error("sequence slot {slot} occurs twice in one decode call")]
    SlotTwice {
        /// The slot.
        slot: usize,
    },
    /// A decode call with more sequences than any program takes.
    #[error("{sequences} sequences in one decode call, but the bundle was compiled for {most}")]
    TooManySequences {
        /// In the call.
        sequences: usize,
        /// Rows of the largest decode program.
        most: usize,
    },
    /// A call without tokens.
    #[error("no tokens to run")]
    NoTokens,
}
