//! `gemrun logits`: the model's raw output for given tokens, as a safetensors file.

use crate::cli::options::{Ids, ModelArgs, parse_ids};
use crate::cli::output_file::{OutputFile, Target};
use crate::cli::{Outcome, interrupt, output, session};
use gembin_runtime::engine::Wanted;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Write the logits of given tokens to a safetensors file, to compare with other runtimes
#[derive(clap::Args)]
#[command(after_help = "\
The file holds one tensor, `logits`, f32 [tokens, vocabulary]: row t is what the model expects after token t.
It is written beside its place and renamed, so that an interrupted run leaves no half file; devices and pipes are
written straight through.

Examples:
  gemrun logits model.gembin --ids 2,17,9 -o out.safetensors
  gemrun logits model.gembin --ids 2,17,9 -o out.safetensors --threads 1")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Token ids, with commas
    #[arg(long, value_name = "IDS", value_parser = parse_ids, allow_negative_numbers = true)]
    ids: Ids,

    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Ids(ids) = &args.ids;
    let target = Target::new(&args.output, &args.model.bundle)?;
    let mut engine = args.model.open()?;
    let vocab = engine.vocab();
    session::check_inputs(&engine, ids)?;
    let mut file = target.create()?;
    file.write(&header(ids.len(), vocab))?;
    let mut bytes = Vec::with_capacity(vocab * 4);
    let mut failed = Ok(());
    engine.prefill(
        0,
        ids,
        Wanted::Every(&mut |first, rows| {
            if interrupt::requested() {
                return ControlFlow::Break(());
            }
            failed = write_rows(&mut file, &mut bytes, first, ids, rows, vocab);
            match failed {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }),
    )?;
    failed?;
    // Dropping the file removes what there is of it.
    if interrupt::requested() {
        return Ok(Outcome::Interrupted);
    }
    file.finish()?;
    output::to_stderr(&format!(
        "wrote logits [{}, {vocab}] to {}\n",
        ids.len(),
        args.output.display()
    ));
    Ok(Outcome::Done)
}

/// Appends the rows of the tokens from index `first` on.
fn write_rows(
    file: &mut OutputFile,
    bytes: &mut Vec<u8>,
    first: usize,
    ids: &[u32],
    rows: &[f32],
    vocab: usize,
) -> anyhow::Result<()> {
    for (index, row) in (first..).zip(rows.chunks_exact(vocab)) {
        session::check_logits(row, index, ids)?;
        bytes.clear();
        bytes.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
        file.write(bytes)?;
    }
    Ok(())
}

/// What stands before the numbers in a safetensors file: the length of the JSON that describes them, and the JSON, padded
/// with spaces so that the numbers are aligned. Written by hand because the crate's writers want all numbers at once.
///
/// Source: the safetensors format, <https://github.com/huggingface/safetensors#format>.
fn header(tokens: usize, vocab: usize) -> Vec<u8> {
    let bytes = tokens as u64 * vocab as u64 * 4;
    let mut json = format!(
        r#"{{"logits":{{"dtype":"F32","shape":[{tokens},{vocab}],"data_offsets":[0,{bytes}]}}}}"#
    );
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}
