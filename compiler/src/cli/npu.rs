//! The NPU on the command line: `gemc emit --stage npu`.

use super::Emit;
#[cfg(not(feature = "mlir"))]
use anyhow::Result;
use clap::ValueEnum;
use gembin_target_npu::array::Array;

/// Spellings of the AIE dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DialectArg {
    /// Until August 2026.
    Subviews,
    /// Later.
    Elements,
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

#[cfg(feature = "mlir")]
pub use with_mlir::emit;

#[cfg(feature = "mlir")]
mod with_mlir {
    use super::{DialectArg, Emit};
    use anyhow::{Result, bail};
    use comfy_table::{CellAlignment, Table, presets};
    use gembin_compiler::atomic_file::AtomicFile;
    use gembin_compiler::pipeline;
    use gembin_target_npu::aie::DialectVersion;
    use gembin_target_npu::array::Array;
    use gembin_target_npu::regions::{self, Configuration};
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
        super::super::print(&table(args.array, &configurations))
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
