//! `gemrun logits`: the model's raw output for given tokens, as a safetensors file.

use crate::cli::options::{Ids, ModelArgs, parse_ids};
use crate::cli::{Outcome, output};
use anyhow::{Context, bail};
use gembin_runtime::engine::Wanted;
use safetensors::tensor::{Dtype, TensorView};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write the logits of given tokens to a safetensors file, to compare with other runtimes
#[derive(clap::Args)]
#[command(after_help = "\
The file holds one tensor, `logits`, f32 [tokens, vocabulary]: row t is what the model expects after token t.
It is written beside its place and renamed, so that an interrupted run leaves no half file.

Examples:
  gemrun logits model.gembin --ids 2,17,9 -o out.safetensors
  gemrun logits model.gembin --ids 2,17,9 -o out.safetensors --threads 1")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Token ids, with commas
    #[arg(long, value_name = "IDS", value_parser = parse_ids)]
    ids: Ids,

    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Ids(ids) = &args.ids;
    let mut engine = args.model.open()?;
    let vocab = engine.vocab();
    let mut bytes = Vec::with_capacity(ids.len() * vocab * 4);
    engine.prefill(
        0,
        ids,
        Wanted::Every(&mut |_, rows| {
            bytes.extend(rows.iter().flat_map(|logit| logit.to_le_bytes()));
        }),
    )?;
    let view = TensorView::new(Dtype::F32, vec![ids.len(), vocab], &bytes)?;
    let file = safetensors::serialize([("logits", view)], None)?;
    write_atomically(&args.output, &file)?;
    output::to_stderr(&format!(
        "wrote logits [{}, {vocab}] to {}\n",
        ids.len(),
        args.output.display()
    ));
    Ok(Outcome::Done)
}

/// Writes to a temporary file in the same directory, syncs it and renames it.
fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let Some(name) = path.file_name() else {
        bail!("{}: not a file name", path.display());
    };
    if path.is_dir() {
        bail!("{}: is a directory", path.display());
    }
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let result = File::create_new(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        // The first error is the one to tell; a file that was never made cannot be removed either.
        let _untold = std::fs::remove_file(&temporary);
    }
    result.with_context(cannot)
}
