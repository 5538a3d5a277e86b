//! The manifest: everything about a bundle but the bytes of its weights, tokenizer and reference data.
//!
//! Serialized with bincode (little endian, fixed-width integers) under a size limit.

use crate::cpu::CpuStep;
use crate::format::WEIGHTS_ALIGN;
use crate::gpu::{GpuStep, Kernel};
use crate::layout::{self, Format, PLANE_ALIGN};
use crate::npu::{Npu, NpuStep};
use serde::{Deserialize, Serialize};

/// The manifest.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// For people.
    pub model: ModelFacts,
    /// Where everything came from.
    pub provenance: Provenance,
    /// Tokens and text around the model.
    pub text: TextFacts,
    /// Limits of what this bundle can run.
    pub limits: Limits,
    /// The arena's plan.
    pub arena: Arena,
    /// The weights' table.
    pub weights: Vec<WeightEntry>,
    /// Compute kernels of the plans' GPU steps.
    pub kernels: Vec<Kernel>,
    /// Designs and instruction streams of the plans' NPU steps.
    pub npu: Npu,
    /// Ways to run the model, best first. A plan is usable where all its devices are.
    pub plans: Vec<Plan>,
}

/// What the model is, for `info`; nothing is computed from it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ModelFacts {
    /// The checkpoint's directory name.
    pub name: String,
    /// The configuration's `model_type`.
    pub architecture: String,
    /// Values in the checkpoint's tensors that were compiled.
    pub parameters: u64,
    /// Layers.
    pub layers: u32,
    /// Width of the hidden state.
    pub hidden: u32,
    /// What `--quant` was, and what each kind of weight got: `q4 (embedding and head q8)`.
    pub quantization: String,
    /// Remarks of the importer, one line each ("vision tensors left out").
    pub notes: Vec<String>,
}

/// Where a bundle came from. Holds nothing that differs between two compiles of the same input.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the compiler.
    pub compiler: String,
    /// Options that decided the bytes, as `--name value`.
    pub options: Vec<String>,
    /// The files read.
    pub sources: Vec<SourceFile>,
}

/// A file of the checkpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name, relative to the checkpoint's directory.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// XXH3-128 of the content.
    pub xxh3_128: [u8; 16],
}

/// What turns text into tokens and back, and how to sample by default.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TextFacts {
    /// Whether there is a tokenizer section. Without one the model runs on token ids alone.
    pub has_tokenizer: bool,
    /// Token put before a text, if any.
    pub bos: Option<u32>,
    /// Token after a document, used when scoring.
    pub eos: Option<u32>,
    /// Tokens that end a generation.
    pub stop_tokens: Vec<u32>,
    /// Jinja template of a chat, if the checkpoint has one.
    pub chat_template: Option<String>,
    /// Spelling of the special tokens that templates name: `bos_token`, `eos_token`, ...
    pub special_tokens: Vec<(String, String)>,
    /// Sampling defaults of the checkpoint's generation_config.
    pub sampling: SamplingDefaults,
}

/// Defaults; `None` where the checkpoint is silent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SamplingDefaults {
    /// False: greedy.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens.
    pub top_k: Option<u32>,
    /// Keep the most likely tokens up to this probability mass.
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one.
    pub min_p: Option<f32>,
    /// Divide (or multiply) the logits of seen tokens.
    pub repetition_penalty: Option<f32>,
}

/// Limits of what this bundle can run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Tokens the model knows; ids are below it.
    pub vocab: u32,
    /// Positions a sequence can have.
    pub context: u32,
    /// Sequences held at once.
    pub slots: u32,
}

/// The arena: one block of zeroed memory for values, scratch and caches, planned at compile time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Arena {
    /// Size.
    pub bytes: u64,
    /// The part that caches take, at the end.
    pub cache_bytes: u64,
    /// The KV caches.
    pub caches: Vec<Cache>,
}

/// One layer's keys and values.
///
/// Keys lie at `offset` as `[slots][kv_heads][capacity][head_dim]`, values right behind them alike. Position `p` lies
/// in row `p % capacity`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cache {
    /// For `info` and errors.
    pub name: String,
    /// F32 or F16.
    pub format: Format,
    /// Heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Positions held.
    pub capacity: u32,
    /// Positions a query sees, itself included; `None`: all.
    pub window: Option<u32>,
    /// First byte in the arena.
    pub offset: u64,
    /// Length: keys and values.
    pub bytes: u64,
}

/// A weight's place in the weights section.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WeightEntry {
    /// Unique.
    pub name: String,
    /// Storage format.
    pub format: Format,
    /// Outputs; 1 for a vector.
    pub rows: u32,
    /// Reduction length, or the vector's length.
    pub cols: u32,
    /// A vector (f32, unpadded) or a matrix (blocks of 16 rows, see [`crate::layout`]).
    pub kind: WeightKind,
    /// Data plane, in bytes from the start of the weights section.
    pub data: Span,
    /// Scale plane; empty unless quantized.
    pub scales: Span,
    /// XXH3-64 over the data plane, then the scale plane.
    pub checksum: u64,
}

impl WeightEntry {
    /// Bytes of the data plane and of the scale plane that the shape and the format ask for.
    pub fn plane_bytes(&self) -> (u64, u64) {
        match self.kind {
            WeightKind::Vector => (u64::from(self.cols) * 4, 0),
            WeightKind::Matrix => (
                layout::data_bytes(self.format, self.rows, self.cols),
                layout::scale_bytes(self.format, self.rows, self.cols),
            ),
        }
    }
}

/// Gives every weight its place in the weights section: in the order of the table, data plane, then scale plane, each
/// aligned to [`PLANE_ALIGN`]. Returns the length of the section, whole pages of [`WEIGHTS_ALIGN`] bytes.
pub fn place_weights(entries: &mut [WeightEntry]) -> u64 {
    let mut end: u64 = 0;
    let mut place = |bytes: u64| {
        if bytes == 0 {
            return Span::default();
        }
        let offset = end.next_multiple_of(PLANE_ALIGN);
        end = offset + bytes;
        Span { offset, bytes }
    };
    for entry in entries {
        let (data, scales) = entry.plane_bytes();
        entry.data = place(data);
        entry.scales = place(scales);
    }
    end.next_multiple_of(WEIGHTS_ALIGN)
}

/// Shape class of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WeightKind {
    /// `[cols]`, f32.
    Vector,
    /// `[rows, cols]` in blocks of 16 rows.
    Matrix,
}

/// A byte range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl Span {
    /// Whether the two share a byte; neither reaches beyond 2^64.
    pub fn overlaps(self, other: Span) -> bool {
        self.bytes > 0
            && other.bytes > 0
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// One way to run the model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `cpu`, ...
    pub name: String,
    /// Devices its steps name.
    pub devices: Vec<Device>,
    /// Programs. A call of `r` rows takes the first of its phase with `max_rows >= r`; longer prompts go in chunks of
    /// the largest.
    pub programs: Vec<Program>,
}

/// A kind of device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A GPU, through Vulkan.
    Vulkan,
    /// An NPU of AMD's, through its kernel driver.
    Xdna,
}

impl Device {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Vulkan => "vulkan",
            Device::Xdna => "npu",
        }
    }
}

/// A function compiled for up to `max_rows` rows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// `prefill`, `decode`: shown by `info`.
    pub name: String,
    /// What it serves.
    pub phase: Phase,
    /// Rows a call can have.
    pub max_rows: u32,
    /// Rows whose logits a call can return.
    pub max_outs: u32,
    /// Where the logits are after the last step: f32 `[outs, vocab]`.
    pub logits: Buffer,
    /// Where the most likely tokens of each logits row are afterwards, if the program finds them: words `[outs, 2 k]`,
    /// each candidate its token and its f32 logit, best first, equal logits by token.
    pub candidates: Option<Buffer>,
    /// In order.
    pub steps: Vec<Step>,
}

impl Program {
    /// The most rows that a buffer over `set` has.
    pub fn most_rows(&self, set: RowSet) -> u32 {
        match set {
            RowSet::Seq => self.max_rows,
            RowSet::Out => self.max_outs,
        }
    }
}

/// Phase of inference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Many tokens of one sequence; logits of the rows in the call's `outs`.
    Prefill,
    /// One token of each of several sequences; logits of every row, in order.
    Decode,
}

/// One step: a kernel of one device over buffers of the arena.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What it is, for profiles and errors: `l3.qkv`.
    pub label: String,
    /// The device's own form of the work.
    pub work: Work,
}

/// Work in the form of the device that does it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Runs on the processor.
    Cpu(CpuStep),
    /// A dispatch on the GPU.
    Gpu(GpuStep),
    /// A run of an instruction stream on the NPU.
    Npu(NpuStep),
}

impl Work {
    /// The device that does it.
    pub fn device(&self) -> Device {
        match self {
            Work::Cpu(_) => Device::Cpu,
            Work::Gpu(_) => Device::Vulkan,
            Work::Npu(_) => Device::Xdna,
        }
    }
}

/// An f32 matrix in the arena: `rows` x `cols`, rows one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Buffer {
    /// First byte, a multiple of 64.
    pub offset: u64,
    /// Which of the call's counts gives the rows.
    pub rows: RowSet,
    /// Columns.
    pub cols: u32,
}

impl Buffer {
    /// Where it lies with the most rows it can have in `program`.
    pub fn span(&self, program: &Program) -> Span {
        Span {
            offset: self.offset,
            bytes: u64::from(program.most_rows(self.rows)) * u64::from(self.cols) * 4,
        }
    }
}

/// Rows of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum RowSet {
    /// Every row of the call.
    Seq,
    /// The rows whose logits are asked for.
    Out,
}
