//! From a tokenizer's description to its tables.
//!
//! The two readers (`json`, `sentencepiece`) give a [`Source`]; what they do not understand they refuse by name, because
//! a tokenizer that is almost right spoils every text without a sign. Writing is deterministic.

mod json;
mod sentencepiece;
mod writer;

/// Why a tokenizer cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Not JSON, or not of the expected form.
    #[error("tokenizer.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A part that this runtime does not implement.
    #[error("tokenizer: {component} is not supported; {supported}")]
    Unsupported {
        /// The part, and what it says.
        component: String,
        /// What could be there instead.
        supported: &'static str,
    },
    /// The parts contradict each other.
    #[error("tokenizer: {0}")]
    Inconsistent(String),
    /// Not a SentencePiece model, or cut.
    #[error("tokenizer.model: damaged at byte {0}")]
    Protobuf(usize),
}

/// Compiles a tokenizer.json of the `tokenizers` library.
///
/// Its post-processor, truncation and padding are left out on purpose: they concern what surrounds a text, which the
/// runtime decides.
///
/// # Errors
/// When it holds anything that would not be encoded and decoded exactly.
pub fn compile(json: &[u8]) -> Result<Vec<u8>, CompileError> {
    writer::write(json::read(json)?)
}

/// Compiles a SentencePiece tokenizer.model of the BPE kind, giving the ids that its conversion to tokenizer.json gives.
///
/// # Errors
/// When it is damaged, or of a kind whose ids would differ.
pub fn compile_sentencepiece(model: &[u8]) -> Result<Vec<u8>, CompileError> {
    writer::write(sentencepiece::read(model)?)
}

/// A tokenizer as described.
struct Source {
    /// Spelling and id, ascending by id.
    vocab: Vec<(String, u32)>,
    /// Left, right and merged id, by rank.
    merges: Vec<(u32, u32, u32)>,
    added: Vec<AddedToken>,
    normalizer: Vec<Step>,
    /// Pieces end behind it.
    split: Option<String>,
    unk: Option<u32>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    decoder: DecoderRules,
}

struct AddedToken {
    id: u32,
    content: String,
    special: bool,
    normalized: bool,
    lstrip: bool,
    rstrip: bool,
}

enum Step {
    Replace { from: String, to: String },
    Prepend(String),
}

#[derive(Default)]
struct DecoderRules {
    replace: Vec<(String, String)>,
    byte_fallback: bool,
    /// Leading characters taken off the whole text.
    strip: Option<(char, u32)>,
}
