//! Arguments that several commands share.

use crate::cli::{interrupt, output, progress};
use clap::Args;
use gembin_bundle::manifest::SamplingDefaults;
use gembin_runtime::drivers::cpu::{Isa, bandwidth};
use gembin_runtime::drivers::vulkan::VulkanOptions;
use gembin_runtime::drivers::xdna::{PowerMode, XdnaOptions};
use gembin_runtime::engine::{Engine, OpenOptions};
use gembin_runtime::loader::{Bundle, Integrity};
use gembin_runtime::sampler::{Sampler, SamplingParams};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

/// Which model, and how to run it.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// The .gembin file, made by `gemc compile`
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,

    /// Where to run: `auto` takes the best plan that can run here; `gemrun devices` lists the names. One of several
    /// GPUs by number or part of its name: `vulkan:1`, `vulkan:radeon`
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "Running"
    )]
    device: String,

    /// Threads of the processor's kernels [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), allow_negative_numbers = true, help_heading = "Running")]
    threads: Option<u16>,

    /// Set the NPU's power mode first: default, powersaver, balanced, performance or turbo. It holds for the whole NPU and
    /// stays; only root may change it
    #[arg(long, value_name = "MODE", help_heading = "Running")]
    npu_power_mode: Option<PowerMode>,

    /// Run the first plan allowed by --device or fail, naming what is missing, instead of falling back
    #[arg(long, help_heading = "Running")]
    strict: bool,

    /// Compare the weights' checksums first, which reads the whole file
    #[arg(long, help_heading = "Running")]
    check: bool,

    /// Instruction set of the processor's kernels, for tests
    #[arg(long, value_name = "ISA", value_parser = Isa::from_name, hide = true)]
    isa: Option<Isa>,
}

impl ModelArgs {
    /// The options in the library's terms.
    pub(crate) fn open_options(&self) -> anyhow::Result<OpenOptions> {
        Ok(OpenOptions {
            device: self.device.parse()?,
            strict: self.strict,
            threads: self.threads.map_or(0, usize::from),
            isa: Some(match self.isa {
                Some(isa) => isa,
                None => Isa::from_environment()?,
            }),
            vulkan: VulkanOptions {
                progress: progress::on_terminal(),
                ..VulkanOptions::from_environment().map_err(anyhow::Error::msg)?
            },
            xdna: XdnaOptions {
                power_mode: self.npu_power_mode,
                ..XdnaOptions::default()
            },
            integrity: if self.check {
                Integrity::Weights
            } else {
                Integrity::Structure
            },
        })
    }

    /// Opens the bundle and loads it.
    pub(crate) fn open(&self) -> anyhow::Result<Engine> {
        let options = self.open_options()?;
        self.tell_of_too_many_threads();
        let engine = interrupt::while_idle(|| Engine::open(&self.bundle, &options))?;
        if let Some(notice) = engine.notice() {
            output::to_stderr(&format!("note: {notice}\n"));
        }
        Ok(engine)
    }

    /// Opens the bundle without checking the weights, loads it and returns both steps' options.
    pub(crate) fn open_bundle(&self) -> anyhow::Result<(Bundle, OpenOptions)> {
        let options = self.open_options()?;
        self.tell_of_too_many_threads();
        let bundle = Bundle::open(&self.bundle, Integrity::Structure)?;
        Ok((bundle, options))
    }

    /// Threads wait for each other after every step, so that one without a core holds up all.
    fn tell_of_too_many_threads(&self) {
        let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        if let Some(threads) = self.threads.map(usize::from)
            && threads > cores
        {
            let s = if cores == 1 { "" } else { "s" };
            output::to_stderr(&format!(
                "note: {threads} threads on {cores} core{s} will be slow\n"
            ));
        }
    }

    /// What the threads that these arguments ask for can read from memory, in bytes a second; `None` where there is
    /// too little memory to tell.
    pub(crate) fn read_bytes_per_s(&self) -> anyhow::Result<Option<f64>> {
        let options = self.open_options()?;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        Ok(bandwidth::read_bytes_per_s(isa, options.threads).ok())
    }
}

/// How to sample; what is not given is the model's own.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"], help_heading = "Sampling")]
    greedy: bool,

    /// Divide the logits by T: lower is more predictable, 0 is greedy
    #[arg(long, value_name = "T", value_parser = parse_temperature, allow_hyphen_values = true, help_heading = "Sampling")]
    temperature: Option<f32>,

    /// Draw from the K most likely tokens only; 0: from all
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32), allow_negative_numbers = true, help_heading = "Sampling")]
    top_k: Option<u32>,

    /// Draw from the most likely tokens that add up to probability P
    #[arg(long, value_name = "P", value_parser = parse_top_p, allow_hyphen_values = true, help_heading = "Sampling")]
    top_p: Option<f32>,

    /// Draw from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", value_parser = parse_min_p, allow_hyphen_values = true, help_heading = "Sampling")]
    min_p: Option<f32>,

    /// Make tokens seen before less likely; 1: leave them alone
    #[arg(long, value_name = "R", value_parser = parse_repetition_penalty, allow_hyphen_values = true, help_heading = "Sampling")]
    repetition_penalty: Option<f32>,

    /// Seed of the random numbers: the same seed gives the same text [default: a new one each time]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// A sampler over `vocab` tokens.
    pub(crate) fn sampler(
        &self,
        defaults: &SamplingDefaults,
        vocab: usize,
    ) -> anyhow::Result<Sampler> {
        let seed = self.seed.unwrap_or_else(fresh_seed);
        Ok(Sampler::new(vocab, self.params(defaults), seed)?)
    }

    fn params(&self, defaults: &SamplingDefaults) -> SamplingParams {
        let mut params = SamplingParams::from_defaults(defaults);
        // Asking for a filter is asking for sampling, also of a model that is greedy by default.
        let filters = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        if params.is_greedy() && filters {
            params.temperature = defaults.temperature.unwrap_or(1.0);
        }
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.repetition_penalty = self.repetition_penalty.unwrap_or(params.repetition_penalty);
        if self.greedy {
            params.temperature = 0.0;
        }
        params
    }
}

/// The standard library seeds its hash maps from the system; that is all the chance needed here.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A sampling parameter whose range the sampler knows.
fn parse_param(text: &str, set: fn(&mut SamplingParams, f32)) -> Result<f32, String> {
    let value = text.parse().map_err(|_| "it must be a number".to_owned())?;
    let mut params = SamplingParams::greedy();
    set(&mut params, value);
    params.check().map_err(|error| error.to_string())?;
    Ok(value)
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    parse_param(text, |params, value| params.temperature = value)
}

fn parse_top_p(text: &str) -> Result<f32, String> {
    parse_param(text, |params, value| params.top_p = value)
}

fn parse_min_p(text: &str) -> Result<f32, String> {
    parse_param(text, |params, value| params.min_p = value)
}

fn parse_repetition_penalty(text: &str) -> Result<f32, String> {
    parse_param(text, |params, value| params.repetition_penalty = value)
}

/// A number of things, 0 included.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| format!("it must be a whole number from 0 to {}", usize::MAX))
}

/// A number of things, at least one.
pub(crate) fn parse_positive(text: &str) -> Result<usize, String> {
    parse_count(text)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| format!("it must be a whole number from 1 to {}", usize::MAX))
}

/// A text to stop at.
pub(crate) fn parse_stop(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it needs a text; an empty one would stop at once".into());
    }
    Ok(text.to_owned())
}

/// Token ids: `2,17,9`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

/// Parses `2,17,9`; spaces are allowed around the commas.
pub(crate) fn parse_ids(text: &str) -> Result<Ids, String> {
    if text.trim().is_empty() {
        return Err("no token ids; write them with commas: 2,17,9".into());
    }
    text.split(',')
        .enumerate()
        .map(|(index, part)| {
            let part = part.trim();
            part.parse::<u32>().map_err(|_| {
                let place = index + 1;
                if part.is_empty() {
                    format!("token id {place} is missing; write them with commas: 2,17,9")
                } else {
                    format!(
                        "token id {place} is {part:?}, not a number from 0 to {}",
                        u32::MAX
                    )
                }
            })
        })
        .collect::<Result<_, _>>()
        .map(Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse_ids(text).unwrap_err()
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn params(args: &[&str], defaults: &SamplingDefaults) -> SamplingParams {
        let args = [&["gemrun"], args].concat();
        <Only as clap::Parser>::try_parse_from(args)
            .unwrap()
            .sampling
            .params(defaults)
    }

    #[test]
    fn what_is_not_given_is_the_models() {
        let defaults = SamplingDefaults {
            do_sample: Some(true),
            temperature: Some(0.7),
            top_k: Some(64),
            ..SamplingDefaults::default()
        };
        let both = params(&["--top-k", "5"], &defaults);
        assert_eq!((both.temperature, both.top_k), (0.7, 5));
        assert!(params(&["--greedy"], &defaults).is_greedy());
        assert!(params(&["--temperature", "0"], &defaults).is_greedy());
    }

    #[test]
    fn a_filter_asks_a_greedy_model_to_sample() {
        let silent = SamplingDefaults::default();
        assert!(params(&[], &silent).is_greedy());
        assert_eq!(params(&["--top-p", "0.9"], &silent).temperature, 1.0);
    }

    #[test]
    fn ids_are_numbers_with_commas() {
        assert_eq!(parse_ids("2,17, 9 ").unwrap(), Ids(vec![2, 17, 9]));
        assert_eq!(parse_ids("0").unwrap(), Ids(vec![0]));
    }

    #[test]
    fn bad_ids_are_named_with_their_place() {
        assert!(message("").contains("no token ids"));
        assert!(message("2,,9").contains("token id 2 is missing"));
        assert!(message("2,x").contains("token id 2 is \"x\""));
        assert!(message("-1").contains("token id 1 is \"-1\""));
        assert!(message("4294967296").contains("token id 1"));
    }
}
