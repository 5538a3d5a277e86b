//! `gemrun eval`: how well the model predicts a text.

use crate::cli::options::ModelArgs;
use crate::cli::session::Text;
use crate::cli::{Outcome, interrupt, output};
use anyhow::{Context, bail};
use gembin_runtime::engine::{Engine, Wanted};
use gembin_runtime::error::Error;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Score a text, one document a line, and print its perplexity
#[derive(clap::Args)]
#[command(after_help = "\
Each line is scored alone, as <bos> line <eos>: every token after <bos> counts. `nll` is the sum of -ln(probability),
`perplexity` is exp(nll / tokens). Empty lines are no documents.

Examples:
  gemrun eval model.gembin --text valid.txt
  gemrun eval model.gembin --text valid.txt --max-docs 20 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The text, UTF-8, one document a line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Score only the first N documents
    #[arg(long, value_name = "N")]
    max_docs: Option<usize>,

    /// Print JSON: {"tokens", "nll", "perplexity"}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Score {
    tokens: usize,
    nll: f64,
    perplexity: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let content = read_text(&args.text)?;
    let mut engine = args.model.open()?;
    let text = Text::of(&engine)?;
    let documents: Vec<(usize, &str)> = content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .take(args.max_docs.unwrap_or(usize::MAX))
        .collect();
    if documents.is_empty() {
        bail!("{}: no documents: every line is empty", args.text.display());
    }
    let show_progress = std::io::stderr().is_terminal();
    let (mut tokens, mut nll) = (0, 0.0);
    for (done, &(line, document)) in documents.iter().enumerate() {
        if interrupt::requested() {
            clear_progress(show_progress);
            output::to_stderr(&format!(
                "stopped after {done} of {} documents\n",
                documents.len()
            ));
            return Ok(Outcome::Interrupted);
        }
        let (count, sum) = score(&mut engine, &text, document)
            .with_context(|| format!("{} line {}", args.text.display(), line + 1))?;
        tokens += count;
        nll += sum;
        if show_progress {
            output::to_stderr(&format!(
                "\r{} / {} documents, perplexity {:.4} ",
                done + 1,
                documents.len(),
                perplexity(nll, tokens)
            ));
        }
    }
    clear_progress(show_progress);
    let score = Score {
        tokens,
        nll,
        perplexity: perplexity(nll, tokens),
    };
    if args.json {
        output::json(&score)?;
    } else {
        output::to_stdout(&format!(
            "documents   {}\ntokens      {}\nnll         {:.4}\nperplexity  {:.5}\n",
            documents.len(),
            score.tokens,
            score.nll,
            score.perplexity
        ))?;
    }
    Ok(Outcome::Done)
}

fn read_text(path: &std::path::Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{}: not valid UTF-8 at byte {at}", path.display())
    })
}

fn clear_progress(shown: bool) {
    if shown {
        output::to_stderr("\r\x1b[K");
    }
}

fn perplexity(nll: f64, tokens: usize) -> f64 {
    (nll / tokens.max(1) as f64).exp()
}

/// Tokens scored and their negative log-likelihood.
fn score(engine: &mut Engine, text: &Text, document: &str) -> anyhow::Result<(usize, f64)> {
    let mut tokens: Vec<u32> = text.bos().into_iter().collect();
    tokens.extend(text.encode(document));
    tokens.extend(engine.manifest().text.eos);
    let vocab = engine.vocab();
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        bail!(Error::TokenOutOfRange {
            id,
            vocab: engine.manifest().limits.vocab,
        });
    }
    // The last token is only predicted, never an input.
    let Some((_, inputs)) = tokens.split_last().filter(|(_, inputs)| !inputs.is_empty()) else {
        return Ok((0, 0.0));
    };
    let targets = &tokens[1..];
    engine.reset(0)?;
    let mut nll = 0.0;
    engine.prefill(
        0,
        inputs,
        Wanted::Every(&mut |first, logits| {
            for (row, &target) in logits.chunks_exact(vocab).zip(&targets[first..]) {
                nll -= log_probability(row, target as usize);
            }
        }),
    )?;
    Ok((targets.len(), nll))
}

/// `ln softmax(logits)[token]`, summed in f64.
fn log_probability(logits: &[f32], token: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - most).exp())
        .sum();
    f64::from(logits[token] - most) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = [1.0, 2.0, 3.0];
        let sum = 1f64.exp() + 2f64.exp() + 3f64.exp();
        for (token, logit) in [1f64, 2.0, 3.0].into_iter().enumerate() {
            let want = (logit.exp() / sum).ln();
            assert!((log_probability(&logits, token) - want).abs() < 1e-12);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((log_probability(&[1e30, 0.0], 0)).abs() < 1e-12);
        assert!(log_probability(&[1000.0, 0.0], 1) <= -999.0);
    }

    #[test]
    fn the_perplexity_of_certainty_is_one() {
        assert_eq!(perplexity(0.0, 10), 1.0);
        assert!((perplexity(11820.441, 37823) - 1.36687).abs() < 1e-5);
    }
}
