//! Arguments that several commands share.

use clap::Args;
use gembin_bundle::manifest::SamplingDefaults;
use gembin_runtime::drivers::cpu::{Isa, bandwidth};
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

    /// Where to run: `auto` takes the best plan that can run here; `gemrun devices` lists the names
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        help_heading = "Running"
    )]
    device: String,

    /// Threads of the processor's kernels [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Running")]
    threads: Option<u16>,

    /// Run the first plan allowed by --device or fail, naming what is missing, instead of falling back
    #[arg(long, help_heading = "Running")]
    strict: bool,

    /// Compare the weights' checksums first, which reads the whole file
    #[arg(long, help_heading = "Running")]
    check: bool,

    /// Instruction set of the processor's kernels, for tests
    #[arg(long, value_name = "ISA", hide = true)]
    isa: Option<String>,
}

impl ModelArgs {
    /// The options in the library's terms.
    pub(crate) fn open_options(&self) -> anyhow::Result<OpenOptions> {
        Ok(OpenOptions {
            device: self.device.parse()?,
            strict: self.strict,
            threads: self.threads.map_or(0, usize::from),
            isa: Some(match &self.isa {
                Some(name) => Isa::from_name(name)?,
                None => Isa::from_environment()?,
            }),
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
        Ok(Engine::open(&self.bundle, &options)?)
    }

    /// Opens the bundle without checking the weights, loads it and returns both steps' options.
    pub(crate) fn open_bundle(&self) -> anyhow::Result<(Bundle, OpenOptions)> {
        let options = self.open_options()?;
        let bundle = Bundle::open(&self.bundle, Integrity::Structure)?;
        Ok((bundle, options))
    }
}

impl ModelArgs {
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
    #[arg(long, value_name = "T", help_heading = "Sampling")]
    temperature: Option<f32>,

    /// Draw from the K most likely tokens only; 0: from all
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<u32>,

    /// Draw from the most likely tokens that add up to probability P
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    top_p: Option<f32>,

    /// Draw from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    min_p: Option<f32>,

    /// Make tokens seen before less likely; 1: leave them alone
    #[arg(long, value_name = "R", help_heading = "Sampling")]
    repetition_penalty: Option<f32>,

    /// Seed of the random numbers: the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
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
