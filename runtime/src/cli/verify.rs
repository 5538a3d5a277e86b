//! `gemrun verify`: proves a bundle on this very machine.

use crate::cli::options::ModelArgs;
use crate::cli::{Outcome, interrupt, output};
use anyhow::bail;
use gembin_bundle::format::Damage;
use gembin_runtime::engine::{Engine, Wanted};
use serde::Serialize;

/// Check every byte of a bundle, then replay its reference inputs on the device and compare
#[derive(clap::Args)]
#[command(after_help = "\
The file's checksums prove that it is the one that was written; the replay proves that this machine's kernels compute
the model. The exit code is 1 if either fails.

Examples:
  gemrun verify model.gembin
  gemrun verify model.gembin --device cpu --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    bytes: u64,
    /// One line for each damaged weight.
    damaged: Vec<String>,
    /// What is damaged, by name.
    #[serde(skip)]
    names: Vec<String>,
    device: Option<String>,
    replays: Vec<Replay>,
}

/// A reference output and what came out here.
#[derive(Serialize)]
struct Replay {
    name: &'static str,
    tokens: usize,
    /// `||got - reference|| / ||reference||`.
    relative_error: f64,
    tolerance: f32,
    ok: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    // Header, sections and programs are checked here, and an error ends the command.
    let (bundle, options) = args.model.open_bundle()?;
    let bytes = bundle.file_bytes();
    let damaged = interrupt::while_idle(|| bundle.verify_weights())
        .err()
        .unwrap_or_default();
    let mut report = Report {
        ok: damaged.is_empty(),
        bytes,
        damaged: damaged.iter().map(Damage::to_string).collect(),
        names: damaged.iter().map(name).collect(),
        device: None,
        replays: Vec::new(),
    };
    // Damaged weights would only be told a second time by the replay.
    if report.ok {
        let references = bundle.references()?;
        let mut engine = interrupt::while_idle(|| Engine::from_bundle(bundle, &options))?;
        if let Some(notice) = engine.notice() {
            output::to_stderr(&format!("note: {notice}\n"));
        }
        report.device = Some(engine.describe());
        if let Some(references) = references {
            let tolerance = references.tolerance;
            let got = engine.prefill(0, &references.tokens, Wanted::Last)?;
            report.replays.push(Replay::new(
                "prefill",
                references.tokens.len(),
                got,
                &references.prefill_logits,
                tolerance,
            ));
            let got = engine.decode(&[(0, references.decode_token)])?;
            report.replays.push(Replay::new(
                "decode",
                1,
                got,
                &references.decode_logits,
                tolerance,
            ));
        }
        report.ok = report.replays.iter().all(|replay| replay.ok);
    }
    if interrupt::requested() {
        return Ok(Outcome::Interrupted);
    }
    if args.json {
        output::json(&report)?;
    } else {
        output::to_stdout(&report.text())?;
    }
    if !report.ok {
        bail!("{}: {}", args.model.bundle.display(), report.verdict());
    }
    Ok(Outcome::Done)
}

impl Replay {
    fn new(name: &'static str, tokens: usize, got: &[f32], want: &[f32], tolerance: f32) -> Self {
        let relative_error = relative_error(got, want);
        Self {
            name,
            tokens,
            relative_error,
            tolerance,
            ok: relative_error <= f64::from(tolerance),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.damaged.is_empty() {
            text += &format!("checksums: ok, {}\n", output::bytes(self.bytes));
        }
        for damage in &self.damaged {
            text += &format!("damaged: {damage}\n");
        }
        if let Some(device) = &self.device {
            text += &format!("device: {device}\n");
            if self.replays.is_empty() {
                text += "replay: the bundle has no references\n";
            }
        }
        for replay in &self.replays {
            text += &format!(
                "replay {} ({} tokens): {}, relative error {:.2e}, tolerance {:.2e}\n",
                replay.name,
                replay.tokens,
                if replay.ok { "ok" } else { "DIFFERENT" },
                replay.relative_error,
                replay.tolerance
            );
        }
        if self.ok {
            text += "verified\n";
        }
        text
    }

    /// What failed, in one line.
    fn verdict(&self) -> String {
        const NAMED: usize = 5;
        let count = match self.names.len() {
            0 => return "the reference outputs are not reproduced on this machine".into(),
            1 => "1 part of the weights is".to_owned(),
            n => format!("{n} parts of the weights are"),
        };
        let mut named = self.names[..self.names.len().min(NAMED)].join(", ");
        if self.names.len() > NAMED {
            named += &format!(" and {} more", self.names.len() - NAMED);
        }
        format!("{count} damaged: {named}; copy or compile the bundle again")
    }
}

/// The damaged part, without the figures.
fn name(damage: &Damage) -> String {
    match damage {
        Damage::Weight { name, .. } | Damage::Outside { name, .. } => format!("{name:?}"),
        Damage::Padding { offset, .. } => format!("padding at byte {offset}"),
    }
}

/// `||got - want|| / ||want||`, infinite where lengths differ or a value is not a number.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&got, &want) in got.iter().zip(want) {
        difference += (f64::from(got) - f64::from(want)).powi(2);
        norm += f64::from(want).powi(2);
    }
    let error = if norm > 0.0 {
        (difference / norm).sqrt()
    } else {
        difference.sqrt()
    };
    if error.is_nan() { f64::INFINITY } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_errors() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_error(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert_eq!(relative_error(&[0.5], &[0.0]), 0.5);
    }

    #[test]
    fn what_is_no_number_is_never_close() {
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn the_verdict_names_the_first_damaged_parts_and_counts_the_others() {
        let verdict = |count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("w{i}")).collect();
            let report = Report {
                ok: false,
                bytes: 0,
                damaged: names.clone(),
                names,
                device: None,
                replays: Vec::new(),
            };
            report.verdict()
        };
        assert!(verdict(1).starts_with("1 part of the weights is damaged: w0; copy"));
        assert!(verdict(5).contains("damaged: w0, w1, w2, w3, w4; copy"));
        assert!(verdict(7).starts_with("7 parts") && verdict(7).contains("w4 and 2 more; copy"));
    }
}
