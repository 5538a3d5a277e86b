//! `gemc isa`: what kernels become on an AMD chip.

use super::{Options, parse_preset, preset_folder};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use gembin_bundle::gpu::{MAX_BINDINGS, MAX_IMMEDIATES, Needs};
use gembin_compiler::isa::{self, Chip, Job, Mesa, Outcome};
use gembin_compiler::{pipeline, synth};
use std::fs;
use std::path::{Path, PathBuf};

/// First word of SPIR-V.
const SPIRV_MAGIC: u32 = 0x0723_0203;

/// Show what kernels become on an AMD chip, which need not be there.
///
/// Compiles every kernel's every variant with Mesa's RADV for that chip and counts registers, spills, occupancy and
/// instructions. Takes a bundle, a checkpoint's directory, a model's name for its shapes alone, or SPIR-V.
#[derive(ClapArgs)]
#[command(after_help = "\
Columns: wave is the subgroup size, with * where the driver chose it; LDS and scratch are bytes; in `12 (8)` eight of
twelve stand in loops; loads are of vector memory, `128x4` four of 128 bits, and narrow ones have less than 32;
latency and 1/thr are the driver's estimate of cycles, of each loop's body once. Of a kernel's variants the chip runs
the first that is listed.

Examples:
  gemc isa gemma.gembin
  gemc isa --preset gemma-3-1b --quant q4 --chosen --device navi31
  gemc isa gemma.gembin --kernel gemv --json
  gemc isa gemma.gembin --kernel 'gemv q4 1152x6912' --asm
  gemc isa kernel.spv --subgroup 32")]
pub struct Isa {
    /// A .gembin file, a checkpoint's directory, or a .spv file.
    #[arg(
        value_name = "BUNDLE|DIR|SPV",
        required_unless_present = "preset",
        conflicts_with = "preset"
    )]
    input: Option<PathBuf>,
    /// A model's shapes in place of a file; its weights are not needed.
    #[arg(long, value_name = "NAME", value_parser = parse_preset)]
    preset: Option<synth::Preset>,
    /// The chip to compile for: phoenix (Radeon 780M), navi31, navi33, gfx1150, gfx1151.
    #[arg(long, value_name = "CHIP", default_value = "phoenix", value_parser = parse_chip)]
    device: Chip,
    /// Folder with the Mesa to use [default: what .ci/mesa has unpacked].
    #[arg(long, value_name = "DIR")]
    mesa: Option<PathBuf>,
    /// Only kernels whose name contains this.
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,
    /// Only what the chip runs: of each kernel the first variant for it, as the driver likes it.
    #[arg(long)]
    chosen: bool,
    /// Print the disassembly too.
    #[arg(long, conflicts_with = "json")]
    asm: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Subgroup size that SPIR-V from a file must run with.
    #[arg(long, value_name = "SIZE")]
    subgroup: Option<u32>,
    #[command(flatten)]
    options: Options,
}

fn parse_chip(name: &str) -> Result<Chip, String> {
    Chip::from_name(name).ok_or_else(|| {
        let names = Chip::ALL.map(Chip::name).join(", ");
        format!("the chips are {names}")
    })
}

/// Runs the command.
pub fn run(args: &Isa) -> Result<()> {
    let mesa = Mesa::find(args.mesa.as_deref())?;
    let mut jobs = jobs(args)?;
    if let Some(part) = &args.kernel {
        jobs.retain(|job| job.kernel.contains(part.as_str()));
        if jobs.is_empty() {
            bail!("no kernel has {part:?} in its name; see the table without --kernel");
        }
    }
    let mut report = isa::examine(&jobs, args.device, &mesa)?;
    if args.chosen {
        report.keep_chosen();
    }
    let mut text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => isa::table::render(&report),
    };
    if args.asm {
        for row in &report.rows {
            if let Outcome::Code(figures) = &row.outcome {
                text += &format!(
                    "\n== {} {} wave{}\n{}",
                    row.kernel, row.variant, figures.subgroup, figures.assembly
                );
            }
        }
    }
    super::print(&text)?;
    let failed = |row: &&isa::Row| matches!(row.outcome, Outcome::Failed(_));
    match report.rows.iter().filter(failed).count() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} variants do not compile for {}",
            report.rows.len(),
            args.device.name()
        ),
    }
}

fn jobs(args: &Isa) -> Result<Vec<Job>> {
    let (manifest, from) = match (&args.input, args.preset) {
        (Some(path), _) if path.extension().is_some_and(|ending| ending == "spv") => {
            return Ok(vec![spirv(path, args.subgroup)?]);
        }
        (Some(path), _) => (
            match path.is_dir() {
                true => pipeline::lower(path, &args.options.compile())?,
                false => isa::manifest_of_bundle(path).map_err(anyhow::Error::msg)?,
            },
            path.display().to_string(),
        ),
        (None, Some(preset)) => {
            let folder = preset_folder(preset)?;
            (
                pipeline::lower(folder.path(), &args.options.compile())?,
                preset.name().to_owned(),
            )
        }
        (None, None) => bail!("give a bundle, a checkpoint's directory, a .spv file or --preset"),
    };
    if manifest.kernels.is_empty() {
        // The compiler leaves the reason where `info` shows it.
        let note = manifest
            .model
            .notes
            .iter()
            .find(|note| note.contains("vulkan"));
        let why = note.map_or("compile with --devices vulkan", String::as_str);
        bail!("{from}: has no kernels for a GPU; {why}");
    }
    Ok(isa::jobs(&manifest.kernels))
}

/// SPIR-V from a file, as a kernel with all the bindings and push constants that one may have.
fn spirv(path: &Path, subgroup: Option<u32>) -> Result<Job> {
    let bytes = fs::read(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let (words, rest) = bytes.as_chunks::<4>();
    let code: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    if code.first() != Some(&SPIRV_MAGIC) || !rest.is_empty() {
        bail!("{}: is not SPIR-V", path.display());
    }
    Ok(Job {
        kernel: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        variant: "file".into(),
        code,
        bindings: MAX_BINDINGS as u32,
        immediates: MAX_IMMEDIATES as u32,
        needs: Needs::default(),
        subgroup,
    })
}
