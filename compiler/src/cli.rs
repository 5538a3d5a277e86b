//! gemc's commands and their arguments.

mod isa;
mod npu;

use anyhow::Result;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use gembin_compiler::pipeline::{self, CompileOptions, KvFormat, Progress, Quant};
use gembin_compiler::synth;
use gembin_passes::Stage;
use gembin_target_npu::array::Array;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Compiles Gemma checkpoints ahead of time into one file that gemrun executes.
#[derive(Parser)]
#[command(
    name = "gemc",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  gemc compile gemma-3-1b-it -o gemma.gembin --quant q4
  gemc emit gemma-3-1b-it --stage fuse
  gemc synth --preset gemma-3-1b --seed 7 -o synth-1b
  gemc isa gemma.gembin --device phoenix"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(Compile),
    Emit(Emit),
    Simulate(npu::Simulate),
    Synth(Synth),
    Isa(isa::Isa),
    /// The process that `gemc isa` compiles in.
    #[command(hide = true)]
    IsaWorker,
}

/// Compile a Hugging Face checkpoint into a .gembin file.
///
/// The directory holds config.json, one model.safetensors or shards with an index, and usually tokenizer.json,
/// tokenizer_config.json and generation_config.json. The output appears complete or not at all.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  gemc compile gemma-3-1b-it -o gemma.gembin
  gemc compile gemma-3-1b-it -o gemma.gembin --quant q4 --context 8192
  gemc compile gemma-2-2b -o exact.gembin --quant none
  gemc compile gemma-2-2b -o small.gembin --quant q4 --head q4 --sequences 8")]
struct Compile {
    /// The checkpoint's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The file to write; an existing one is replaced when the new one is complete.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
    /// No progress bar and no summary.
    #[arg(short, long)]
    quiet: bool,
}

/// Print what the compiler makes of a checkpoint, at any stage.
///
/// The last stage, npu, is a folder: one module of MLIR-AIE for each configuration of the NPU's array, and a table of
/// what is predicted of it.
#[derive(ClapArgs)]
#[command(after_help = format!("\
Stages, in order: {}.

Examples:
  gemc emit gemma-3-1b-it --stage import
  gemc emit gemma-3-1b-it --stage plan --quant q4 -o plan.gir
  gemc emit --preset gemma-3-4b --stage npu --quant q4 -o designs", stage_names()))]
struct Emit {
    /// The checkpoint's directory.
    #[arg(
        value_name = "DIR",
        required_unless_present = "preset",
        conflicts_with = "preset"
    )]
    dir: Option<PathBuf>,
    /// A model's shapes in place of a checkpoint; its weights are not needed.
    #[arg(long, value_name = "NAME", value_parser = parse_preset)]
    preset: Option<synth::Preset>,
    /// The stage to print.
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    stage: EmitStage,
    /// Write to a file, or for npu into a folder, instead of standard output.
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// The array that the stage npu is for: npu1 (Phoenix, Hawk Point), npu2 (Strix Point, Krackan Point).
    #[arg(long, value_name = "ARRAY", default_value = "npu1", value_parser = npu::parse_array)]
    array: &'static Array,
    /// Numbers of tokens that the stage npu makes sequences for.
    #[arg(
        long,
        value_name = "TOKENS,..",
        value_delimiter = ',',
        default_value = "1,32,64,256,512",
        value_parser = clap::value_parser!(u32).range(1..=4096)
    )]
    tokens: Vec<u32>,
    /// The text of the AIE dialect that the vendor's compiler at hand reads: until August 2026, or later.
    #[arg(long, value_enum, default_value_t = npu::DialectArg::Subviews)]
    aie_dialect: npu::DialectArg,
    /// The vendor's compiler for the stage npu, aiecc of mlir-aie [default: $AIECC, else aiecc in PATH].
    #[arg(long, value_name = "PATH")]
    aiecc: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Write a random checkpoint with the exact shapes of a real model.
///
/// For measuring speed and memory without the real weights: config, sharded weights and a tokenizer of full size.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  gemc synth --preset gemma-3-1b --seed 7 -o synth-1b
  gemc synth --preset gemma-3-27b --layers 8 --seed 7 -o synth-27b-cut")]
struct Synth {
    /// Which model's shapes.
    #[arg(long, value_name = "NAME", value_parser = parse_preset)]
    preset: synth::Preset,
    /// Same seed, same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Fewer layers than the model has.
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// The directory to write; must not exist or be empty.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(ClapArgs)]
struct Options {
    /// Format of the layers' matrices: as in the checkpoint, 8.5 or 4.5 bits a weight.
    #[arg(long, value_enum, default_value_t = QuantArg::Q8)]
    quant: QuantArg,
    /// Format of the embedding and output head [default: q8, or none with --quant none].
    #[arg(long, value_enum, value_name = "FORMAT")]
    head: Option<QuantArg>,
    /// Format of the KV cache [default: f16, or f32 with --quant none].
    #[arg(long, value_enum, value_name = "FORMAT")]
    kv: Option<KvArg>,
    /// Tokens a conversation can have [default: the model's limit, at most 4096].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Conversations held at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    sequences: u32,
    /// Tokens of a prompt computed together [default: 128 on the processor, 512 on a GPU].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    chunk: Option<u32>,
    /// Devices to make plans for; the processor, on which every bundle runs, is always one.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "DEVICE,..",
        default_value = "cpu,vulkan"
    )]
    devices: Vec<DeviceArg>,
    /// Compile weights that hold NaN or infinity.
    #[arg(long)]
    allow_nonfinite: bool,
    /// Use this configuration instead of DIR/config.json.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum QuantArg {
    None,
    Q8,
    Q4,
}

impl From<QuantArg> for Quant {
    fn from(arg: QuantArg) -> Self {
        match arg {
            QuantArg::None => Quant::None,
            QuantArg::Q8 => Quant::Q8,
            QuantArg::Q4 => Quant::Q4,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum KvArg {
    F32,
    F16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DeviceArg {
    Cpu,
    Vulkan,
}

impl Options {
    fn compile(&self) -> CompileOptions {
        CompileOptions {
            quant: self.quant.into(),
            head: self.head.map(Into::into),
            kv: self.kv.map(|kv| match kv {
                KvArg::F32 => KvFormat::F32,
                KvArg::F16 => KvFormat::F16,
            }),
            context: self.context,
            sequences: self.sequences,
            chunk: self.chunk,
            vulkan: self.devices.contains(&DeviceArg::Vulkan),
            allow_nonfinite: self.allow_nonfinite,
            config: self.config.clone(),
        }
    }
}

/// What `gemc emit` prints.
#[derive(Clone, Copy)]
enum EmitStage {
    /// The IR after a stage of the passes.
    Ir(Stage),
    /// The NPU's modules.
    Npu,
}

fn stage_names() -> String {
    format!("{}, npu", Stage::ALL.map(Stage::name).join(", "))
}

fn parse_stage(name: &str) -> Result<EmitStage, String> {
    match (Stage::from_name(name), name) {
        (Some(stage), _) => Ok(EmitStage::Ir(stage)),
        (None, "npu") => Ok(EmitStage::Npu),
        (None, _) => Err(format!("the stages are {}", stage_names())),
    }
}

fn parse_preset(name: &str) -> Result<synth::Preset, String> {
    synth::Preset::from_name(name).ok_or_else(|| {
        format!(
            "the presets are {}",
            synth::Preset::names().collect::<Vec<_>>().join(", ")
        )
    })
}

/// Set by Ctrl-C; long work looks at it and ends, leaving nothing behind.
static CANCEL: AtomicBool = AtomicBool::new(false);

/// Runs one command.
pub fn run(args: Args) -> Result<()> {
    ctrlc::set_handler(|| {
        // A second request means now.
        if CANCEL.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| anyhow::anyhow!("cannot install the Ctrl-C handler: {e}"))?;
    match args.command {
        Command::Compile(c) => compile(&c),
        Command::Emit(e) => emit(&e),
        Command::Simulate(s) => npu::simulate(&s),
        Command::Synth(s) => synthesize(&s),
        Command::Isa(i) => isa::run(&i),
        Command::IsaWorker => Ok(gembin_compiler::isa::worker()?),
    }
}

fn compile(args: &Compile) -> Result<()> {
    let options = args.options.compile();
    let started = Instant::now();
    let bar = Bar::new(args.quiet);
    let compiled = pipeline::compile(&args.dir, &args.output, &options, &bar, &CANCEL);
    bar.finish();
    let compiled = compiled?;
    let m = &compiled.manifest;
    for note in &m.model.notes {
        eprintln!("note: {note}");
    }
    if !args.quiet {
        eprintln!(
            "{}: {} {}, {:.1} M parameters as {}, {:.1} MB, in {:.1} s",
            args.output.display(),
            m.model.architecture,
            m.model.name,
            m.model.parameters as f64 / 1e6,
            m.model.quantization,
            compiled.bytes as f64 / 1e6,
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn emit(args: &Emit) -> Result<()> {
    let shapes = args.preset.map(preset_folder).transpose()?;
    let dir = match (&args.dir, &shapes) {
        (Some(dir), _) => dir.as_path(),
        (None, Some(folder)) => folder.path(),
        (None, None) => anyhow::bail!("give a checkpoint's directory or --preset"),
    };
    let stage = match args.stage {
        EmitStage::Ir(stage) => stage,
        EmitStage::Npu => return npu::emit(args, dir),
    };
    let imported = pipeline::import_and_run(dir, &args.options.compile(), stage)?;
    let text = gembin_ir::text::print(&imported.module);
    match &args.output {
        Some(path) => {
            let mut file = gembin_compiler::atomic_file::AtomicFile::create(path)?;
            file.refuse_inputs(imported.sources.iter().map(|source| source.path.as_path()))?;
            file.file()
                .write_all(text.as_bytes())
                .map_err(|e| file.error(e))?;
            file.commit()?;
        }
        None => print(&text)?,
    }
    Ok(())
}

/// A preset's shapes as a checkpoint without values, in a folder that goes when it is dropped.
fn preset_folder(preset: synth::Preset) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()
        .map_err(|error| anyhow::anyhow!("cannot make a temporary folder: {error}"))?;
    synth::shapes(preset, folder.path())?;
    Ok(folder)
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| anyhow::anyhow!("cannot write to standard output: {e}")),
    }
}

fn synthesize(args: &Synth) -> Result<()> {
    let bar = Bar::new(false);
    let result = synth::synth(
        &synth::SynthOptions {
            preset: args.preset,
            seed: args.seed,
            layers: args.layers,
            dir: args.output.clone(),
        },
        &bar,
        &CANCEL,
    );
    bar.finish();
    let made = result?;
    eprintln!(
        "{}: {} shards, {:.2} GB",
        args.output.display(),
        made.shards,
        made.bytes as f64 / 1e9
    );
    Ok(())
}

/// A progress bar on a terminal, nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new(quiet: bool) -> Self {
        let hidden = quiet || !std::io::stderr().is_terminal();
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self(ProgressBar::with_draw_target(None, target))
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn stage(&self, name: &str, total: u64) {
        let template = match total {
            0 => "{msg} {spinner} {elapsed}",
            _ => "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.0.set_style(style);
        self.0.set_length(total);
        self.0.set_position(0);
        self.0.set_message(name.to_owned());
        self.0.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}
