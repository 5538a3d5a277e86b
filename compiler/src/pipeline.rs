//! The compiler, start to end, as one readable function: [`compile`].
//!
//! Owns the options, the order of things, and cancellation; each step's work is its own module's.

use crate::assemble::{self, Devices, WeightTable};
use crate::atomic_file::{AtomicFile, OutputError};
use crate::import::{self, ImportError, ImportOptions, Imported};
use crate::pack;
pub use crate::progress::Progress;
use crate::reference::{self, PackedWeights};
use gembin_bundle::format::{References, WriteError, Writer};
use gembin_bundle::manifest::{Manifest, ModelFacts, Provenance, SourceFile};
use gembin_ir::verify::verify;
use gembin_ir::{DType, Function, Module, Op, ValueId};
use gembin_passes::{QuantOptions, Scratch, Stage};
use gembin_target_cpu::CpuScratch;
use gembin_target_igpu::IgpuScratch;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Weight format of the matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quant {
    /// As in the checkpoint.
    None,
    /// 8-bit integers in groups of 32: 8.5 bits a weight.
    Q8,
    /// 4-bit integers in groups of 32: 4.5 bits a weight.
    Q4,
}

impl Quant {
    /// The spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quant::None => "none",
            Quant::Q8 => "q8",
            Quant::Q4 => "q4",
        }
    }

    fn dtype(self) -> Option<DType> {
        match self {
            Quant::None => None,
            Quant::Q8 => Some(DType::Q8),
            Quant::Q4 => Some(DType::Q4),
        }
    }
}

/// Element type of the KV caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvFormat {
    /// Full precision.
    F32,
    /// Half the memory and traffic.
    F16,
}

impl KvFormat {
    /// The spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
        }
    }
}

/// What decides a bundle's bytes, besides the checkpoint.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Format of the layers' matrices.
    pub quant: Quant,
    /// Format of the embedding and output head; by default q8 wherever the matrices are quantized.
    pub head: Option<Quant>,
    /// Format of the KV caches; by default f32 for `Quant::None`, else f16.
    pub kv: Option<KvFormat>,
    /// Positions a sequence can have; by default the model's own limit, at most 4096.
    pub context: Option<u32>,
    /// Sequences held at once.
    pub sequences: u32,
    /// Tokens of a prefill chunk; by default what each device computes best.
    pub chunk: Option<u32>,
    /// Make a plan for a GPU too.
    pub vulkan: bool,
    /// Let NaN and infinity in weights pass.
    pub allow_nonfinite: bool,
    /// A configuration to use instead of the checkpoint's own config.json.
    pub config: Option<PathBuf>,
}

/// Tokens of a chunk on the processor: its activations stay in the caches.
const CPU_CHUNK: u32 = 128;
/// Tokens of a chunk on a GPU: enough work for all its units in every matrix.
const GPU_CHUNK: u32 = 512;

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            quant: Quant::Q8,
            head: None,
            kv: None,
            context: None,
            sequences: 1,
            chunk: None,
            vulkan: true,
            allow_nonfinite: false,
            config: None,
        }
    }
}

impl CompileOptions {
    fn head(&self) -> Quant {
        // Four bits on the embedding cost more accuracy than on any other matrix, and it is the output head too.
        self.head.unwrap_or(match self.quant {
            Quant::None => Quant::None,
            Quant::Q8 | Quant::Q4 => Quant::Q8,
        })
    }

    fn kv(&self) -> KvFormat {
        self.kv.unwrap_or(match self.quant {
            Quant::None => KvFormat::F32,
            Quant::Q8 | Quant::Q4 => KvFormat::F16,
        })
    }

    fn import(&self) -> ImportOptions {
        ImportOptions {
            context: self.context,
            slots: self.sequences,
            chunk: self.chunk.unwrap_or(match self.vulkan {
                true => GPU_CHUNK,
                false => CPU_CHUNK,
            }),
            allow_nonfinite: self.allow_nonfinite,
            config: self.config.clone(),
        }
    }

    fn passes(&self) -> QuantOptions {
        QuantOptions {
            matrices: self.quant.dtype(),
            head: self.head().dtype(),
            cache: match self.kv() {
                KvFormat::F32 => DType::F32,
                KvFormat::F16 => DType::F16,
            },
        }
    }

    fn devices(&self) -> Devices {
        Devices {
            cpu_chunk: self.chunk.unwrap_or(CPU_CHUNK),
            vulkan: self.vulkan,
        }
    }

    /// The options as a user would type them, for the bundle's provenance.
    fn spelled(&self, module: &Module) -> Vec<String> {
        let mut all = vec![
            format!("--quant {}", self.quant.name()),
            format!("--head {}", self.head().name()),
            format!("--kv {}", self.kv().name()),
            format!("--context {}", module.bounds.context),
            format!("--sequences {}", self.sequences),
            format!("--chunk {}", module.bounds.chunk),
            format!(
                "--devices {}",
                if self.vulkan { "cpu,vulkan" } else { "cpu" }
            ),
        ];
        if self.allow_nonfinite {
            all.push("--allow-nonfinite".into());
        }
        all
    }

    /// How far a device's logits may be from the interpreter's, as `||a - b|| / ||b||`.
    ///
    /// With weights as in the checkpoint only the order of f32 sums differs. Where activations are rounded to eight
    /// bits, which the reference run imitates, small models agree to 1e-6; but a sum that comes out the other side of
    /// a half moves an activation by a whole step, and through many layers such steps grow to the size of the rounding
    /// itself, a few percent. A wrong kernel is off by about one.
    fn reference_tolerance(&self) -> f32 {
        match (self.quant, self.head()) {
            (Quant::None, Quant::None) => 1e-3,
            _ => 0.15,
        }
    }

    fn quantization(&self) -> String {
        match (self.quant, self.head()) {
            (a, b) if a == b => a.name().to_owned(),
            (a, b) => format!("{} (embedding and head {})", a.name(), b.name()),
        }
    }
}

/// Why a compile failed.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The checkpoint cannot be compiled.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The bundle cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The tokenizer cannot be compiled.
    #[error("{file}: {reason}")]
    Tokenizer {
        /// The tokenizer's file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint's other files speak of a tokenizer that is not there.
    #[error(
        "{0}: tokenizer_config.json is there, but neither tokenizer.json nor tokenizer.model; add one of them"
    )]
    TokenizerMissing(String),
    /// The chat template does not parse, or not render the simplest conversation.
    #[error(transparent)]
    ChatTemplate(#[from] gembin_chat::ChatError),
    /// The packed model computes NaN or infinity.
    #[error("the compiled model's logits are not finite{0}")]
    NonFinite(&'static str),
    /// Interrupted by the user.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// A weight cannot be read or used.
    #[error("{0}")]
    Weights(String),
    /// The caches and values of the planned context need more memory than a machine can have.
    #[error(transparent)]
    Plan(#[from] gembin_passes::PlanError),
    /// Ours: a pass or target broke its own rules.
    #[error("internal error, please report: {0}")]
    Internal(String),
}

impl From<String> for CompileError {
    fn from(message: String) -> Self {
        Self::Weights(message)
    }
}

impl From<gembin_passes::PassError> for CompileError {
    fn from(e: gembin_passes::PassError) -> Self {
        match e {
            gembin_passes::PassError::Plan(e) => Self::Plan(e),
            gembin_passes::PassError::Input(_) | gembin_passes::PassError::Broken { .. } => {
                Self::Internal(e.to_string())
            }
        }
    }
}

impl From<assemble::LowerError> for CompileError {
    fn from(e: assemble::LowerError) -> Self {
        Self::Internal(e.to_string())
    }
}

/// What a compile made.
pub struct Compiled {
    /// The manifest as written.
    pub manifest: Manifest,
    /// Length of the file.
    pub bytes: u64,
}

/// Working memory for every target that gets a plan: they share the arena's places.
struct TargetScratch {
    vulkan: bool,
}

impl Scratch for TargetScratch {
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        let cpu = CpuScratch.scratch_bytes(module, function, op);
        match self.vulkan {
            true => cpu.max(IgpuScratch.scratch_bytes(module, function, op)),
            false => cpu,
        }
    }

    fn late_reads(&self, function: &Function, index: usize) -> Vec<ValueId> {
        match self.vulkan {
            true => IgpuScratch.late_reads(function, index),
            false => Vec::new(),
        }
    }

    fn result_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        match self.vulkan {
            true => IgpuScratch.result_bytes(module, function, op),
            false => 0,
        }
    }
}

/// Imports a checkpoint and runs the passes up to `stage`.
///
/// # Errors
/// When the checkpoint is not usable.
pub fn import_and_run(
    dir: &Path,
    options: &CompileOptions,
    stage: Stage,
) -> Result<Imported, CompileError> {
    let mut imported = import::import(dir, &options.import())?;
    let scratch = TargetScratch {
        vulkan: options.vulkan,
    };
    gembin_passes::run_until(&mut imported.module, stage, &options.passes(), &scratch)?;
    Ok(imported)
}

/// Lowers the checkpoint in `dir` and reads none of its weights: the manifest, without checksums and sources.
///
/// # Errors
/// When the checkpoint is not usable.
pub fn lower(dir: &Path, options: &CompileOptions) -> Result<Manifest, CompileError> {
    let imported = import_and_run(dir, options, Stage::Plan)?;
    let mut table = WeightTable::of(&imported.module);
    manifest(&imported, options, &mut table, Vec::new())
}

/// The manifest of an imported checkpoint that has been through all passes.
fn manifest(
    imported: &Imported,
    options: &CompileOptions,
    table: &mut WeightTable,
    sources: Vec<SourceFile>,
) -> Result<Manifest, CompileError> {
    let module = &imported.module;
    let proof = verify(module).map_err(|e| CompileError::Internal(e.to_string()))?;
    let provenance = Provenance {
        compiler: concat!("gemc ", env!("CARGO_PKG_VERSION")).to_owned(),
        options: options.spelled(module),
        sources,
    };
    let model = ModelFacts {
        quantization: options.quantization(),
        ..imported.facts.clone()
    };
    Ok(assemble::manifest(
        proof,
        table,
        model,
        imported.text.clone(),
        provenance,
        imported.vocab,
        options.devices(),
    )?)
}

/// Compiles the checkpoint in `dir` into the bundle `output`.
///
/// The bundle appears complete or not at all; an existing file is replaced in one step at the very end.
///
/// # Errors
/// When the checkpoint is not usable, the output cannot be written, or `cancel` was set.
pub fn compile(
    dir: &Path,
    output: &Path,
    options: &CompileOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Compiled, CompileError> {
    let mut file = AtomicFile::create(output)?;
    let imported = import_and_run(dir, options, Stage::Plan)?;
    file.refuse_inputs(imported.sources.iter().map(|source| source.path.as_path()))?;
    let tokenizer = compile_tokenizer(dir, &imported)?;
    if let Some(template) = &imported.text.chat_template {
        gembin_chat::check_template(template, &imported.text.special_tokens)?;
    }

    let module = &imported.module;
    let mut table = WeightTable::of(module);
    let vocab = imported.vocab;
    let sources = import::hash_sources(&imported)?;
    let manifest = manifest(&imported, options, &mut table, sources)?;

    let prompt = reference::prompt(module, vocab, imported.text.bos);
    // A model that may compute NaN has no outputs to compare with.
    let references_bytes = (!options.allow_nonfinite)
        .then(|| References::section_bytes(prompt.tokens.len() as u32, vocab));
    let out = file.file().try_clone().map_err(|e| file.error(e))?;
    let mut writer = Writer::new(out, &manifest, tokenizer.as_deref(), references_bytes)
        .map_err(|e| write_error(&file, e))?;
    // What the runtime would refuse to run must not leave the compiler.
    let weights_bytes = writer.file_bytes() - writer.weights_offset();
    gembin_bundle::check::check(manifest.clone(), weights_bytes)
        .map_err(|e| CompileError::Internal(e.to_string()))?;
    file.reserve(writer.file_bytes())?;

    progress.stage(
        "packing weights",
        table
            .entries
            .iter()
            .map(|e| e.data.bytes + e.scales.bytes)
            .sum(),
    );
    for (id, entry) in table.ids.iter().zip(&table.entries) {
        pack::pack_weight(module, &imported.checkpoint, *id, entry, |piece| {
            if cancel.load(Ordering::Relaxed) {
                return Err(CompileError::Interrupted);
            }
            writer.write(piece).map_err(|e| write_error(&file, e))?;
            progress.advance(piece.len() as u64);
            Ok(())
        })?;
        for tensor in pack::tensors_of(module, *id) {
            imported.checkpoint.advise_done(tensor);
        }
    }
    writer.end_weights().map_err(|e| write_error(&file, e))?;

    let references = match references_bytes {
        None => None,
        Some(_) => {
            progress.stage("reference run", 0);
            let map = file.map()?;
            let weights = PackedWeights {
                table: &table,
                bytes: &map[writer.weights_offset() as usize..],
            };
            let outputs =
                reference::run(module, &weights, &prompt).map_err(CompileError::Internal)?;
            let mut logits = outputs.prefill_logits.iter().chain(&outputs.decode_logits);
            if !logits.all(|logit| logit.is_finite()) {
                return Err(CompileError::NonFinite(match options.kv() {
                    KvFormat::F16 => {
                        "; its values may be too large for the f16 cache: try --kv f32"
                    }
                    KvFormat::F32 => {
                        "; its weights are not usable (--allow-nonfinite compiles them all the same)"
                    }
                }));
            }
            Some(References {
                tokens: prompt.tokens,
                prefill_logits: outputs.prefill_logits,
                decode_token: prompt.next,
                decode_logits: outputs.decode_logits,
                tolerance: options.reference_tolerance(),
            })
        }
    };
    if cancel.load(Ordering::Relaxed) {
        return Err(CompileError::Interrupted);
    }
    let bytes = writer.file_bytes();
    writer
        .finish(manifest.clone(), references.as_ref())
        .map_err(|e| write_error(&file, e))?;
    file.commit()?;
    Ok(Compiled { manifest, bytes })
}

/// The tokenizer in the form that the runtime maps; none for a checkpoint that never had one: it runs on token ids.
fn compile_tokenizer(dir: &Path, imported: &Imported) -> Result<Option<Vec<u8>>, CompileError> {
    let (path, sentencepiece) = match (&imported.tokenizer_json, &imported.tokenizer_model) {
        (Some(json), _) => (json, false),
        (None, Some(model)) => (model, true),
        (None, None) if dir.join("tokenizer_config.json").exists() => {
            return Err(CompileError::TokenizerMissing(dir.display().to_string()));
        }
        (None, None) => return Ok(None),
    };
    let fail = |reason: String| CompileError::Tokenizer {
        file: path.display().to_string(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let compiled = match sentencepiece {
        false => gembin_tokenizer::compile(&bytes),
        true => gembin_tokenizer::compile_sentencepiece(&bytes),
    };
    compiled.map(Some).map_err(|e| fail(e.to_string()))
}

/// Failures of the file system are the user's to mend; anything else the writer refuses is our fault.
fn write_error(file: &AtomicFile, error: WriteError) -> CompileError {
    match error {
        WriteError::Io(e) => file.error(e).into(),
        WriteError::Manifest(_)
        | WriteError::Placement { .. }
        | WriteError::PlaneOverrun { .. }
        | WriteError::NoPlaneLeft { .. }
        | WriteError::PlaneUnfinished { .. }
        | WriteError::PlanChanged(_)
        | WriteError::References { .. } => CompileError::Internal(error.to_string()),
    }
}
