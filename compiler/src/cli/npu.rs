//! The NPU on the command line: `gemc emit --stage npu`, `gemc simulate`.

use super::{Emit, Options, parse_preset};
#[cfg(not(feature = "mlir"))]
use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use gembin_compiler::synth;
use gembin_target_npu::array::Array;
use std::path::PathBuf;

/// Spellings of the AIE dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DialectArg {
    /// Until August 2026.
    Subviews,
    /// Later.
    Elements,
}

/// Execute designs for the NPU on a model of its array.
///
/// Of a model: makes the designs of its matrix products, holds them to the array's limits, and runs each on random
/// numbers; every bit must be what plain arithmetic gives. Of a file with a module of MLIR-AIE: holds it to the dialects
/// and to the array's limits, and runs one of its sequences on bytes from files.
#[derive(ClapArgs)]
#[command(after_help = "\
Columns: cycles are the simulator's estimate for the whole product, predicted those of the cost model; busy is the
cycles of the busiest core.

Examples:
  gemc simulate gemma-3-1b-it --quant q4
  gemc simulate --preset gemma-3-4b --tokens 64,512
  gemc simulate design.mlir
  gemc simulate design.mlir --sequence add --input a.bin --input b.bin --results out")]
pub struct Simulate {
    /// A checkpoint's directory, or a file with a module.
    #[arg(
        value_name = "DIR|MLIR",
        required_unless_present = "preset",
        conflicts_with = "preset"
    )]
    input: Option<PathBuf>,
    /// A model's shapes in place of a checkpoint; its weights are not needed.
    #[arg(long, value_name = "NAME", value_parser = parse_preset)]
    preset: Option<synth::Preset>,
    /// The array of a model's designs: npu1 (Phoenix, Hawk Point), npu2 (Strix Point, Krackan Point). A module says
    /// its own.
    #[arg(long, value_name = "ARRAY", default_value = "npu1", value_parser = parse_array)]
    array: &'static Array,
    /// Numbers of tokens of a model's products.
    #[arg(
        long,
        value_name = "TOKENS,..",
        value_delimiter = ',',
        default_value = "64",
        value_parser = clap::value_parser!(u32).range(1..=4096)
    )]
    tokens: Vec<u32>,
    /// Seed of a model's random numbers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The sequence of a module to run.
    #[arg(long, value_name = "NAME", conflicts_with = "preset")]
    sequence: Option<String>,
    /// Contents of the sequence's buffers, in order; those without a file are results.
    #[arg(long = "input", value_name = "FILE", requires = "sequence")]
    inputs: Vec<PathBuf>,
    /// Write the buffers after the run into this folder.
    #[arg(long, value_name = "DIR", requires = "sequence")]
    results: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

pub fn parse_array(name: &str) -> Result<&'static Array, String> {
    Array::ALL
        .into_iter()
        .map(|array| array())
        .find(|array| array.name == name)
        .ok_or_else(|| {
            let names = Array::ALL.map(|array| array().name.as_str()).join(", ");
            format!("the arrays are {names}")
        })
}

#[cfg(not(feature = "mlir"))]
pub fn emit(_: &Emit, _: &std::path::Path) -> Result<()> {
    anyhow::bail!(
        "this gemc was built without MLIR and cannot make modules for the NPU: install LLVM and MLIR 22 and build it \
         with its default features"
    )
}

#[cfg(not(feature = "mlir"))]
pub fn simulate(_: &Simulate) -> Result<()> {
    anyhow::bail!(
        "this gemc was built without MLIR and cannot read modules for the NPU: install LLVM and MLIR 22 and build it \
         with its default features"
    )
}

#[cfg(feature = "mlir")]
pub use with_mlir::{emit, simulate};

#[cfg(feature = "mlir")]
mod with_mlir {
    use super::{DialectArg, Emit, Simulate};
    use anyhow::{Result, bail};
    use comfy_table::{CellAlignment, Table, presets};
    use gembin_compiler::aiecc::{Aiecc, Source, VARIABLE};
    use gembin_compiler::atomic_file::AtomicFile;
    use gembin_compiler::pipeline;
    use gembin_target_npu::aie::DialectVersion;
    use gembin_target_npu::array::Array;
    use gembin_target_npu::design::linear::trial::Trial;
    use gembin_target_npu::legality;
    use gembin_target_npu::module::Module;
    use gembin_target_npu::regions::{self, Configuration};
    use gembin_target_npu::simulator::{HostBuffer, Simulator};
    use rayon::prelude::*;
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    /// Writes the modules of the checkpoint in `dir` into the folder that was asked for, and prints their figures.
    pub fn emit(args: &Emit, dir: &Path) -> Result<()> {
        let Some(folder) = &args.output else {
            bail!("the stage npu is several files: give a folder for them with -o DIR");
        };
        let version = match args.aie_dialect {
            DialectArg::Subviews => DialectVersion::Subviews,
            DialectArg::Elements => DialectVersion::Elements,
        };
        let manifest = pipeline::lower(dir, &args.options.compile())?;
        let configurations = regions::configurations(args.array, version, &manifest, &args.tokens)?;
        fs::create_dir_all(folder).map_err(|error| {
            anyhow::anyhow!("{}: cannot make the folder: {error}", folder.display())
        })?;
        for configuration in &configurations {
            let path = folder.join(format!("{}.mlir", configuration.name));
            let mut file = AtomicFile::create(&path)?;
            file.file()
                .write_all(configuration.text.as_bytes())
                .map_err(|error| file.error(error))?;
            file.commit()?;
        }
        super::super::print(&table(args.array, &configurations))?;
        match Aiecc::find(args.aiecc.as_deref())? {
            Some(aiecc) => build(&aiecc, &configurations, folder),
            None => {
                eprintln!(
                    "note: npu: not built: the vendor's compiler is not there; give aiecc of mlir-aie with --aiecc PATH, \
                     or in {VARIABLE} or PATH"
                );
                Ok(())
            }
        }
    }

    /// Builds the modules, side by side, and writes configurations and instruction streams beside them.
    fn build(aiecc: &Aiecc, configurations: &[Configuration], folder: &Path) -> Result<()> {
        configurations.par_iter().try_for_each(|configuration| {
            let sequences: Vec<String> = configuration
                .products
                .iter()
                .map(|product| product.sequence.clone())
                .collect();
            let built = aiecc.build(
                Source {
                    name: &configuration.name,
                    text: &configuration.text,
                    sequences: &sequences,
                },
                &super::super::CANCEL,
            )?;
            let streams = sequences.iter().zip(&built.instructions);
            let files = streams
                .map(|(sequence, bytes)| {
                    (format!("{}_{sequence}.insts", configuration.name), bytes)
                })
                .chain([(format!("{}.pdi", configuration.name), &built.pdi)]);
            for (name, bytes) in files {
                let mut file = AtomicFile::create(&folder.join(name))?;
                file.file()
                    .write_all(bytes)
                    .map_err(|error| file.error(error))?;
                file.commit()?;
            }
            Ok(())
        })
    }

    /// Runs the command.
    pub fn simulate(args: &Simulate) -> Result<()> {
        match (&args.input, args.preset) {
            (Some(path), _) if !path.is_dir() => module(args, path),
            (Some(dir), _) => model(args, dir),
            (None, Some(preset)) => model(args, super::super::preset_folder(preset)?.path()),
            (None, None) => {
                bail!("give a checkpoint's directory, a file with a module, or --preset")
            }
        }
    }

    /// Runs every product of the model in `dir`.
    fn model(args: &Simulate, dir: &Path) -> Result<()> {
        let array = args.array;
        let manifest = pipeline::lower(dir, &args.options.compile())?;
        let version = DialectVersion::default();
        let configurations = regions::configurations(array, version, &manifest, &args.tokens)?;
        let mut wrong = 0;
        for configuration in &configurations {
            let design = &configuration.design;
            let module = Module::read(&configuration.text)?;
            refuse_faults(&configuration.name, &module, array)?;
            let mut simulator = Simulator::new(&module, array)?;
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header([
                "matrix",
                "tokens",
                "depth",
                "outputs",
                "cycles",
                "predicted",
                "busy",
                "DDR MB",
                "bits",
            ]);
            for product in &configuration.products {
                let shape = product.shape;
                let trial = Trial::new(design.form, shape, args.seed);
                let (results, report) = trial
                    .run(design, array, &mut simulator)
                    .map_err(|error| anyhow::anyhow!("{}: {error}", product.sequence))?;
                let is_exact = results.as_ref() == Some(&trial.expected(design));
                wrong += usize::from(!is_exact);
                let busy = report.cores.iter().map(|core| core.busy_cycles).max();
                let predicted = product.figures.seconds() * array.clock_hz;
                let bytes = report.host_bytes_read + report.host_bytes_written;
                table.add_row([
                    product.matrix.clone(),
                    shape.tokens.to_string(),
                    shape.depth.to_string(),
                    shape.outputs.to_string(),
                    report.cycles.to_string(),
                    format!("{predicted:.0}"),
                    busy.unwrap_or(0).to_string(),
                    format!("{:.1}", bytes as f64 / 1e6),
                    (if is_exact { "exact" } else { "WRONG" }).to_owned(),
                ]);
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            super::super::print(&format!("{}: legal\n{table}\n\n", configuration.name))?;
        }
        match wrong {
            0 => Ok(()),
            count => bail!("{count} products differ from plain arithmetic"),
        }
    }

    /// Holds a module to the limits of its array, and runs the sequence that was asked for.
    fn module(args: &Simulate, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        let name = path.display().to_string();
        let module = Module::read(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        let array = i32::try_from(module.device)
            .ok()
            .and_then(Array::of_mlir_device)
            .unwrap_or(args.array);
        refuse_faults(&name, &module, array)?;
        let names: Vec<&str> = module
            .sequences
            .iter()
            .map(|sequence| sequence.name.as_str())
            .collect();
        let Some(wanted) = &args.sequence else {
            return super::super::print(&format!(
                "{name}: legal on {}; its sequences: {}\n",
                array.title,
                names.join(", ")
            ));
        };
        let Some(sequence) = module
            .sequences
            .iter()
            .find(|sequence| sequence.name == *wanted)
        else {
            bail!(
                "{name}: no sequence {wanted:?}; it has {}",
                names.join(", ")
            );
        };
        if args.inputs.len() > sequence.arguments.len() {
            bail!(
                "{name}: sequence {wanted:?} takes {} buffers, {} files were given",
                sequence.arguments.len(),
                args.inputs.len()
            );
        }
        let mut buffers = Vec::new();
        for (index, argument) in sequence.arguments.iter().enumerate() {
            buffers.push(match args.inputs.get(index) {
                Some(file) => HostBuffer::input(
                    fs::read(file)
                        .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?,
                ),
                None => HostBuffer::output(usize::try_from(argument.bytes())?),
            });
        }
        let report = Simulator::new(&module, array)?.run(wanted, &mut buffers)?;
        if let Some(folder) = &args.results {
            fs::create_dir_all(folder).map_err(|error| {
                anyhow::anyhow!("{}: cannot make the folder: {error}", folder.display())
            })?;
            for (index, buffer) in buffers.iter().enumerate() {
                let mut file = AtomicFile::create(&folder.join(format!("{index}.bin")))?;
                file.file()
                    .write_all(buffer.bytes())
                    .map_err(|error| file.error(error))?;
                file.commit()?;
            }
        }
        super::super::print(&format!("{report}\n"))
    }

    fn refuse_faults(name: &str, module: &Module, array: &Array) -> Result<()> {
        let faults = legality::check(module, array);
        let Some(first) = faults.first() else {
            return Ok(());
        };
        // All of them are of use, one line each; the error names the first.
        for fault in &faults[1..] {
            eprintln!("{name}: {fault}");
        }
        bail!("{name}: not legal on {}: {first}", array.title)
    }

    /// What is predicted of every product.
    fn table(array: &Array, configurations: &[Configuration]) -> String {
        let mut text = String::new();
        for configuration in configurations {
            let design = &configuration.design;
            let tile = design.tile;
            text += &format!(
                "{}: {} on {}, core tile {} tokens x {} deep x {} outputs, {} of {} bytes a core, {} of {} a memory tile\n",
                configuration.name,
                design.form.name(),
                array.title,
                tile.tokens,
                tile.depth,
                tile.outputs,
                design.core_memory().bytes(),
                array.core.memory_bytes,
                design.memory_tile_bytes(array),
                array.memory_tile.memory_bytes
            );
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header([
                "matrix", "count", "tokens", "depth", "outputs", "ms", "TOPS", "GB/s", "bound by",
            ]);
            for product in &configuration.products {
                let figures = &product.figures;
                table.add_row([
                    product.matrix.clone(),
                    product.count.to_string(),
                    product.shape.tokens.to_string(),
                    product.shape.depth.to_string(),
                    product.shape.outputs.to_string(),
                    format!("{:.3}", figures.seconds() * 1e3),
                    format!("{:.2}", figures.tops()),
                    format!("{:.1}", figures.ddr_bytes / figures.seconds() / 1e9),
                    figures.bound().name().to_owned(),
                ]);
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            text += &format!("{table}\n\n");
        }
        text
    }
}
