//! `gemrun info`: what is in a bundle, for people or as JSON. Nothing is loaded onto a device.

mod plans;

use crate::cli::{Outcome, output};
use gembin_bundle::manifest::{Cache, WeightEntry};
use gembin_runtime::engine::traffic::weight_bytes;
use gembin_runtime::loader::{Bundle, Integrity};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// Show what a bundle holds: model, formats, sections, memory plan, programs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gemrun info model.gembin
  gemrun info model.gembin --steps
  gemrun info model.gembin --json | jq .memory")]
pub(crate) struct Args {
    /// The .gembin file
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,

    /// Also list every step of every program, with its kernel and its barrier
    #[arg(long)]
    steps: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let bundle = Bundle::open(&args.bundle, Integrity::Structure)?;
    let info = Info::of(&bundle);
    if args.json {
        output::json(&info)?;
    } else {
        output::to_stdout(&info.text(args.steps))?;
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct Info {
    file: File,
    model: Model,
    limits: Limits,
    text: Text,
    formats: Vec<FormatUse>,
    sections: Vec<Section>,
    memory: Memory,
    plans: Vec<plans::Plan>,
    provenance: Provenance,
}

#[derive(Serialize)]
struct File {
    path: String,
    bytes: u64,
    min_runtime_version: String,
}

#[derive(Serialize)]
struct Model {
    name: String,
    architecture: String,
    parameters: u64,
    layers: u32,
    hidden: u32,
    quantization: String,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Limits {
    vocab: u32,
    context_tokens: u32,
    sequences: u32,
}

#[derive(Serialize)]
struct Text {
    tokenizer: bool,
    chat_template: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    stop_tokens: Vec<u32>,
    sampling: gembin_bundle::manifest::SamplingDefaults,
}

/// Weights of one storage format.
#[derive(Serialize)]
struct FormatUse {
    format: &'static str,
    weights: usize,
    values: u64,
    bytes: u64,
    bits_per_value: f64,
}

#[derive(Serialize)]
struct Section {
    kind: &'static str,
    offset: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Memory {
    arena_bytes: u64,
    value_bytes: u64,
    cache_bytes: u64,
    caches: Vec<CacheUse>,
}

/// KV caches alike.
#[derive(Serialize)]
struct CacheUse {
    layers: usize,
    format: &'static str,
    kv_heads: u32,
    head_dim: u32,
    capacity_tokens: u32,
    window_tokens: Option<u32>,
    bytes: u64,
}

#[derive(Serialize)]
struct Provenance {
    compiler: String,
    options: Vec<String>,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    bytes: u64,
    xxh3_128: String,
}

impl Info {
    fn of(bundle: &Bundle) -> Self {
        let manifest = bundle.manifest();
        let (model, text) = (&manifest.model, &manifest.text);
        Self {
            file: File {
                path: bundle.path().display().to_string(),
                bytes: bundle.file_bytes(),
                min_runtime_version: bundle.min_runtime_version().to_string(),
            },
            model: Model {
                name: model.name.clone(),
                architecture: model.architecture.clone(),
                parameters: model.parameters,
                layers: model.layers,
                hidden: model.hidden,
                quantization: model.quantization.clone(),
                notes: model.notes.clone(),
            },
            limits: Limits {
                vocab: manifest.limits.vocab,
                context_tokens: manifest.limits.context,
                sequences: manifest.limits.slots,
            },
            text: Text {
                tokenizer: text.has_tokenizer,
                chat_template: text.chat_template.is_some(),
                bos: text.bos,
                eos: text.eos,
                stop_tokens: text.stop_tokens.clone(),
                sampling: text.sampling.clone(),
            },
            formats: formats(&manifest.weights),
            sections: bundle
                .sections()
                .iter()
                .map(|section| Section {
                    kind: section.kind.name(),
                    offset: section.offset,
                    bytes: section.length,
                })
                .collect(),
            memory: Memory {
                arena_bytes: manifest.arena.bytes,
                value_bytes: manifest.arena.bytes - manifest.arena.cache_bytes,
                cache_bytes: manifest.arena.cache_bytes,
                caches: caches(&manifest.arena.caches),
            },
            plans: plans::of(manifest),
            provenance: Provenance {
                compiler: manifest.provenance.compiler.clone(),
                options: manifest.provenance.options.clone(),
                sources: manifest
                    .provenance
                    .sources
                    .iter()
                    .map(|source| Source {
                        name: source.name.clone(),
                        bytes: source.bytes,
                        xxh3_128: source
                            .xxh3_128
                            .iter()
                            .map(|byte| format!("{byte:02x}"))
                            .collect(),
                    })
                    .collect(),
            },
        }
    }

    fn text(&self, steps: bool) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _infallible = self.write(&mut out, steps);
        out
    }

    fn write(&self, out: &mut String, steps: bool) -> std::fmt::Result {
        let Self {
            file, model, text, ..
        } = self;
        writeln!(out, "{}", file.path)?;
        writeln!(
            out,
            "  {}, needs gemrun >= {}",
            output::bytes(file.bytes),
            file.min_runtime_version
        )?;
        writeln!(out, "\nmodel")?;
        writeln!(out, "  name           {}", model.name)?;
        writeln!(out, "  architecture   {}", model.architecture)?;
        writeln!(out, "  parameters     {}", count(model.parameters))?;
        writeln!(
            out,
            "  layers         {}, hidden {}",
            model.layers, model.hidden
        )?;
        writeln!(out, "  quantization   {}", model.quantization)?;
        for note in &model.notes {
            writeln!(out, "  note           {note}")?;
        }

        writeln!(out, "\nlimits")?;
        writeln!(out, "  vocabulary     {} tokens", self.limits.vocab)?;
        writeln!(
            out,
            "  context        {} tokens",
            self.limits.context_tokens
        )?;
        writeln!(out, "  sequences      {}", self.limits.sequences)?;

        writeln!(out, "\ntext")?;
        writeln!(out, "  tokenizer      {}", yes_no(text.tokenizer))?;
        writeln!(out, "  chat template  {}", yes_no(text.chat_template))?;
        let token = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        writeln!(
            out,
            "  tokens         bos {}, eos {}, stop {:?}",
            token(text.bos),
            token(text.eos),
            text.stop_tokens
        )?;
        writeln!(out, "  sampling       {}", sampling(&text.sampling))?;

        writeln!(
            out,
            "\nweights        number        values       bytes  bits/value"
        )?;
        for format in &self.formats {
            writeln!(
                out,
                "  {:<12} {:>6}  {:>12}  {:>10}  {:>10.2}",
                format.format,
                format.weights,
                count(format.values),
                output::bytes(format.bytes),
                format.bits_per_value
            )?;
        }

        writeln!(out, "\nsections             offset          length")?;
        for section in &self.sections {
            writeln!(
                out,
                "  {:<12} {:>12}  {:>14}  {}",
                section.kind,
                section.offset,
                section.bytes,
                output::bytes(section.bytes)
            )?;
        }

        self.write_memory(out)?;
        plans::write(out, &self.plans, steps)?;

        writeln!(out, "\nprovenance")?;
        writeln!(out, "  compiler       {}", self.provenance.compiler)?;
        if !self.provenance.options.is_empty() {
            writeln!(
                out,
                "  options        {}",
                self.provenance.options.join(" ")
            )?;
        }
        for source in &self.provenance.sources {
            writeln!(
                out,
                "  source         {}  {}  xxh3 {}",
                source.name,
                output::bytes(source.bytes),
                source.xxh3_128
            )?;
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut String) -> std::fmt::Result {
        let memory = &self.memory;
        writeln!(out, "\nmemory plan")?;
        writeln!(
            out,
            "  arena          {}: values and scratch {}, caches {}",
            output::bytes(memory.arena_bytes),
            output::bytes(memory.value_bytes),
            output::bytes(memory.cache_bytes)
        )?;
        for cache in &memory.caches {
            let window = match cache.window_tokens {
                Some(window) if cache.capacity_tokens < self.limits.context_tokens => {
                    format!("ring, window {window}")
                }
                Some(window) => format!("window {window}"),
                None => "whole context".to_owned(),
            };
            writeln!(
                out,
                "  kv cache       {} x {}, {} heads x {}, {} tokens ({window}), {}",
                cache.layers,
                cache.format,
                cache.kv_heads,
                cache.head_dim,
                cache.capacity_tokens,
                output::bytes(cache.bytes)
            )?;
        }
        Ok(())
    }
}

fn formats(weights: &[WeightEntry]) -> Vec<FormatUse> {
    let mut uses: Vec<FormatUse> = Vec::new();
    for weight in weights {
        let name = weight.format.name();
        let at = uses
            .iter()
            .position(|format| format.format == name)
            .unwrap_or_else(|| {
                uses.push(FormatUse {
                    format: name,
                    weights: 0,
                    values: 0,
                    bytes: 0,
                    bits_per_value: 0.0,
                });
                uses.len() - 1
            });
        let format = &mut uses[at];
        format.weights += 1;
        format.values += u64::from(weight.rows) * u64::from(weight.cols);
        format.bytes += weight_bytes(weight);
    }
    for format in &mut uses {
        format.bits_per_value = format.bytes as f64 * 8.0 / format.values.max(1) as f64;
    }
    uses.sort_by_key(|format| std::cmp::Reverse(format.bytes));
    uses
}

fn caches(caches: &[Cache]) -> Vec<CacheUse> {
    let mut uses: Vec<CacheUse> = Vec::new();
    for cache in caches {
        let alike = uses.iter_mut().find(|known| {
            known.format == cache.format.name()
                && known.kv_heads == cache.kv_heads
                && known.head_dim == cache.head_dim
                && known.capacity_tokens == cache.capacity
                && known.window_tokens == cache.window
        });
        match alike {
            Some(known) => {
                known.layers += 1;
                known.bytes += cache.bytes;
            }
            None => uses.push(CacheUse {
                layers: 1,
                format: cache.format.name(),
                kv_heads: cache.kv_heads,
                head_dim: cache.head_dim,
                capacity_tokens: cache.capacity,
                window_tokens: cache.window,
                bytes: cache.bytes,
            }),
        }
    }
    uses
}

fn sampling(defaults: &gembin_bundle::manifest::SamplingDefaults) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(sample) = defaults.do_sample {
        parts.push(if sample { "sampled" } else { "greedy" }.to_owned());
    }
    let mut figure = |name: &str, value: Option<f32>| {
        if let Some(value) = value {
            parts.push(format!("{name} {value}"));
        }
    };
    figure("temperature", defaults.temperature);
    figure("top-p", defaults.top_p);
    figure("min-p", defaults.min_p);
    figure("repetition penalty", defaults.repetition_penalty);
    if let Some(k) = defaults.top_k {
        parts.push(format!("top-k {k}"));
    }
    if parts.is_empty() {
        "the model names no defaults".to_owned()
    } else {
        parts.join(", ")
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// `7 900 000` as `7.90 M`.
fn count(value: u64) -> String {
    let value = value as f64;
    if value >= 1e9 {
        format!("{:.2} B", value / 1e9)
    } else if value >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else {
        format!("{value}")
    }
}
