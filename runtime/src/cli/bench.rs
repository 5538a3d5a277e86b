//! `gemrun bench`: speed of prefill and decode, and the bandwidth they reach.

use crate::cli::options::ModelArgs;
use crate::cli::{Outcome, interrupt, output, session};
use anyhow::bail;
use gembin_bundle::manifest::Phase;
use gembin_runtime::engine::traffic::{self, Traffic};
use gembin_runtime::engine::{Engine, Predictions};
use serde::Serialize;
use std::time::Instant;

/// Measure prefill and decode speed on fixed tokens
#[derive(clap::Args)]
#[command(after_help = "\
A warm-up run, which also reads the weights in, is not counted. The figures are medians over the runs. Bytes are what
must be read at least: weights, of tables the rows looked up, and the KV cache rows that attention sees.

Examples:
  gemrun bench model.gembin
  gemrun bench model.gembin --prompt-tokens 512 --gen-tokens 128 --repeat 5
  gemrun bench model.gembin --json --threads 2")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of the prompt
    #[arg(long, value_name = "P", default_value_t = 128, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,

    /// Tokens decoded after it
    #[arg(
        long,
        value_name = "G",
        default_value_t = 64,
        allow_negative_numbers = true
    )]
    gen_tokens: u32,

    /// Runs counted
    #[arg(long, value_name = "R", default_value_t = 3, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// Do not measure the memory's read bandwidth, which takes 1 GiB and a second
    #[arg(long)]
    no_memory: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    quantization: String,
    device: String,
    prompt_tokens: usize,
    gen_tokens: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    prefill_gb_per_s: f64,
    decode_gb_per_s: f64,
    /// What the processor's threads read from memory, measured right after the runs: the limit of decoding.
    memory_read_gb_per_s: Option<f64>,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    prefill: Phased,
    decode: Phased,
}

/// One phase of a run.
#[derive(Serialize)]
struct Phased {
    tokens: usize,
    seconds: f64,
    tokens_per_s: f64,
    /// Bytes that must be read at least.
    bytes: u64,
    /// Of them weights.
    weight_bytes: u64,
    /// Of them keys and values.
    cache_bytes: u64,
    gb_per_s: f64,
}

impl Phased {
    fn new(tokens: usize, seconds: f64, traffic: Traffic) -> Self {
        Self {
            tokens,
            seconds,
            tokens_per_s: output::rate(tokens as f64, seconds),
            bytes: traffic.total_bytes(),
            weight_bytes: traffic.weight_bytes,
            cache_bytes: traffic.cache_bytes,
            gb_per_s: output::rate(traffic.total_bytes() as f64 / 1e9, seconds),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut engine = args.model.open()?;
    let (prompt_tokens, gen_tokens) = (args.prompt_tokens as usize, args.gen_tokens as usize);
    if prompt_tokens.saturating_add(gen_tokens) > engine.context() {
        bail!(
            "{prompt_tokens} prompt tokens and {gen_tokens} decoded tokens do not fit the context of {}",
            engine.context()
        );
    }
    let tokens = fixed_tokens(prompt_tokens + gen_tokens, engine.vocab());
    let (prompt, rest) = tokens.split_at(prompt_tokens);
    let mut runs = Vec::new();
    // The first one is the warm-up.
    for _ in 0..=args.repeat {
        let Some(run) = one_run(&mut engine, prompt, rest)? else {
            return Ok(Outcome::Interrupted);
        };
        runs.push(run);
    }
    runs.remove(0);
    let memory = match args.no_memory {
        true => None,
        false => args.model.read_bytes_per_s()?,
    };
    let median = |figure: fn(&Run) -> f64| output::median(runs.iter().map(figure));
    let report = Report {
        model: engine.manifest().model.name.clone(),
        quantization: engine.manifest().model.quantization.clone(),
        device: engine.describe(),
        prompt_tokens,
        gen_tokens,
        prefill_tokens_per_s: median(|run| run.prefill.tokens_per_s),
        decode_tokens_per_s: median(|run| run.decode.tokens_per_s),
        prefill_gb_per_s: median(|run| run.prefill.gb_per_s),
        decode_gb_per_s: median(|run| run.decode.gb_per_s),
        memory_read_gb_per_s: memory.map(|rate| rate / 1e9),
        runs,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::to_stdout(&report.text())?;
    }
    Ok(Outcome::Done)
}

/// Waits for what greedy decoding needs of a call.
fn arrive(mut predictions: Predictions<'_>) -> anyhow::Result<()> {
    if predictions.likely(0).is_none() {
        predictions.logits()?;
    }
    Ok(())
}

/// `None` if Ctrl-C was pressed.
fn one_run(engine: &mut Engine, prompt: &[u32], rest: &[u32]) -> anyhow::Result<Option<Run>> {
    engine.reset(0)?;
    let start = Instant::now();
    match session::prefill(engine, 0, prompt)? {
        Some(predictions) => arrive(predictions)?,
        None => return Ok(None),
    }
    let prefill_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for &token in rest {
        if interrupt::requested() {
            return Ok(None);
        }
        arrive(engine.step(&[(0, token)])?)?;
    }
    let decode_seconds = start.elapsed().as_secs_f64();
    Ok(Some(Run {
        prefill: Phased::new(
            prompt.len(),
            prefill_seconds,
            prefill_traffic(engine, prompt.len())?,
        ),
        decode: Phased::new(
            rest.len(),
            decode_seconds,
            decode_traffic(engine, prompt.len(), rest.len()),
        ),
    }))
}

fn prefill_traffic(engine: &Engine, tokens: usize) -> anyhow::Result<Traffic> {
    let mut sum = Traffic::default();
    let mut done = 0;
    for (program, rows) in engine.prefill_calls(tokens)? {
        let outs = usize::from(done + rows == tokens);
        let program = &engine.plan().programs[program];
        sum += traffic::of_call(engine.manifest(), program, done, rows, outs);
        done += rows;
    }
    Ok(sum)
}

fn decode_traffic(engine: &Engine, first_pos: usize, tokens: usize) -> Traffic {
    let mut sum = Traffic::default();
    let mut programs = engine.plan().programs.iter();
    if let Some(program) = programs.find(|program| program.phase == Phase::Decode) {
        for pos in first_pos..first_pos + tokens {
            sum += traffic::of_call(engine.manifest(), program, pos, 1, 1);
        }
    }
    sum
}

/// The same tokens for the same model, spread over its vocabulary so that table rows are not in the caches.
fn fixed_tokens(count: usize, vocab: usize) -> Vec<u32> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    (0..count)
        .map(|_| {
            // Knuth's MMIX linear congruential generator; its upper bits are the good ones.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab.max(1) as u64) as u32
        })
        .collect()
}

/// Weights read a token below which the processor's caches may hold them, so that the memory's speed says nothing.
const CACHED_BYTES: u64 = 64 << 20;

impl Report {
    /// What of the memory's speed decoding reaches, where that means something.
    fn share(&self, limit: f64) -> String {
        let weight_bytes = match self.runs.first() {
            Some(run) if run.decode.tokens > 0 => {
                run.decode.weight_bytes / run.decode.tokens as u64
            }
            _ => return String::new(),
        };
        if weight_bytes <= CACHED_BYTES {
            return format!(
                "; the {} of weights that a token reads fit the caches, so it is no limit here",
                output::bytes(weight_bytes)
            );
        }
        let share = 100.0 * output::rate(self.decode_gb_per_s, limit);
        format!("; decoding reaches {share:.0} % of it")
    }

    fn text(&self) -> String {
        let mut text = format!(
            "model: {}, {}\ndevice: {}\n\n{:>5}  {:>24}  {:>24}\n",
            self.model, self.quantization, self.device, "run", "prefill", "decode"
        );
        let line = |name: &str, prefill: (f64, f64), decode: (f64, f64)| {
            format!(
                "{name:>5}  {:>9.2} tok/s {:>5.1} GB/s  {:>9.2} tok/s {:>5.1} GB/s\n",
                prefill.0, prefill.1, decode.0, decode.1
            )
        };
        for (index, run) in self.runs.iter().enumerate() {
            text += &line(
                &(index + 1).to_string(),
                (run.prefill.tokens_per_s, run.prefill.gb_per_s),
                (run.decode.tokens_per_s, run.decode.gb_per_s),
            );
        }
        text += &line(
            "all",
            (self.prefill_tokens_per_s, self.prefill_gb_per_s),
            (self.decode_tokens_per_s, self.decode_gb_per_s),
        );
        if let Some(limit) = self.memory_read_gb_per_s {
            text += &format!(
                "\nmemory: {limit:.1} GB/s read by the same threads{}\n",
                self.share(limit)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_tokens_are_in_range_and_the_same_every_time() {
        let tokens = fixed_tokens(1000, 37);
        assert!(tokens.iter().all(|&token| token < 37));
        assert_eq!(tokens, fixed_tokens(1000, 37));
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), 37);
    }

    #[test]
    fn the_share_of_the_memorys_speed_is_told_where_it_means_something() {
        let with = |tokens: usize, weight_bytes: u64| {
            let phase = |tokens, weight_bytes| {
                let traffic = Traffic {
                    weight_bytes,
                    ..Traffic::default()
                };
                Phased::new(tokens, 1.0, traffic)
            };
            let run = Run {
                prefill: phase(1, 0),
                decode: phase(tokens, weight_bytes),
            };
            let report = Report {
                model: String::new(),
                quantization: String::new(),
                device: String::new(),
                prompt_tokens: 1,
                gen_tokens: tokens,
                prefill_tokens_per_s: 0.0,
                decode_tokens_per_s: run.decode.tokens_per_s,
                prefill_gb_per_s: 0.0,
                decode_gb_per_s: run.decode.gb_per_s,
                memory_read_gb_per_s: Some(10.0),
                runs: vec![run],
            };
            report.text()
        };
        assert!(with(5, 5_000_000_000).ends_with("threads; decoding reaches 50 % of it\n"));
        assert!(
            with(5, 5 << 20).contains("the 1.0 MiB of weights that a token reads fit the caches")
        );
        assert!(with(0, 0).ends_with("GB/s read by the same threads\n"));
    }
}
