//! `gemrun eval`: how well the model predicts a text.

use crate::cli::options::{ModelArgs, parse_positive};
use crate::cli::session::{self, Text};
use crate::cli::{Outcome, interrupt, output};
use anyhow::{Context, bail};
use gembin_runtime::engine::{Engine, Wanted};
use serde::Serialize;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Score a text, one document a line, and print its perplexity
#[derive(clap::Args)]
#[command(after_help = "\
Each line is scored alone, as <bos> line <eos>: every token after <bos> counts. `nll` is the sum of -ln(probability),
`perplexity` is exp(nll / tokens). Lines of nothing but white space are no documents.

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
    #[arg(long, value_name = "N", value_parser = parse_positive, allow_negative_numbers = true)]
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
    let place = |line: usize| format!("{} line {line}", args.text.display());
    // All of them before the first is scored: what cannot be scored is said at once.
    let mut documents = Vec::new();
    for (line, document) in documents_of(&content).take(args.max_docs.unwrap_or(usize::MAX)) {
        if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
        let tokens = tokens_of(&engine, &text, document);
        session::check_inputs(&engine, inputs_of(&tokens))
            .and_then(|()| session::check_tokens(&engine, &tokens))
            .with_context(|| place(line))?;
        documents.push((line, tokens));
    }
    if documents.is_empty() {
        bail!("{}: no documents: every line is blank", args.text.display());
    }
    let show_progress = std::io::stderr().is_terminal();
    let (mut tokens, mut nll) = (0, 0.0);
    for (done, (line, document)) in documents.iter().enumerate() {
        let Some(sum) = score(&mut engine, document).with_context(|| place(*line))? else {
            clear_progress(show_progress);
            output::to_stderr(&format!(
                "stopped after {done} of {} documents\n",
                documents.len()
            ));
            return Ok(Outcome::Interrupted);
        };
        tokens += document.len().saturating_sub(1);
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

/// The documents of a text and their lines' numbers, from 1. A byte order mark at the start is no part of the first.
fn documents_of(content: &str) -> impl Iterator<Item = (usize, &str)> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    (1..)
        .zip(content.lines())
        .filter(|(_, line)| !line.trim().is_empty())
}

/// `<bos> document <eos>`.
fn tokens_of(engine: &Engine, text: &Text, document: &str) -> Vec<u32> {
    let mut tokens: Vec<u32> = text.bos().into_iter().collect();
    tokens.extend(text.encode(document));
    tokens.extend(engine.manifest().text.eos);
    tokens
}

/// The last token is only predicted, never an input.
fn inputs_of(tokens: &[u32]) -> &[u32] {
    tokens.split_last().map_or(&[], |(_, inputs)| inputs)
}

/// The negative log-likelihood of the tokens after the first; `None` if Ctrl-C was pressed.
fn score(engine: &mut Engine, tokens: &[u32]) -> anyhow::Result<Option<f64>> {
    let vocab = engine.vocab();
    let inputs = inputs_of(tokens);
    if inputs.is_empty() {
        return Ok(Some(0.0));
    }
    let targets = &tokens[1..];
    engine.reset(0)?;
    let (mut nll, mut failed) = (0.0, Ok(()));
    engine.prefill(
        0,
        inputs,
        Wanted::Every(&mut |first, logits| {
            if interrupt::requested() {
                return ControlFlow::Break(());
            }
            for (index, row) in (first..).zip(logits.chunks_exact(vocab)) {
                failed = session::check_logits(row, index, inputs);
                if failed.is_err() {
                    return ControlFlow::Break(());
                }
                nll -= log_probability(row, targets[index] as usize);
            }
            ControlFlow::Continue(())
        }),
    )?;
    failed?;
    Ok((!interrupt::requested()).then_some(nll))
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

    #[test]
    fn blank_lines_and_a_byte_order_mark_are_no_documents() {
        let documents: Vec<_> =
            documents_of("\u{feff}one\r\n \t\n\n two \n\u{a0}\nthree").collect();
        assert_eq!(documents, [(1, "one"), (4, " two "), (6, "three")]);
        assert_eq!(documents_of("\u{feff}").count(), 0);
    }
}
