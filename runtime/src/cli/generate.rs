//! `gemrun generate`: one prompt, one answer.

use crate::cli::options::{Ids, ModelArgs, SamplingArgs, parse_count, parse_ids, parse_stop};
use crate::cli::session::{self, Ended, Generated, Limits, Text, Writer};
use crate::cli::{Outcome, output};
use anyhow::{Context, bail};
use gembin_chat::Message;
use gembin_runtime::engine::Engine;
use serde::Serialize;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// Write a continuation of a prompt, or an answer to it
#[derive(clap::Args)]
#[command(after_help = "\
The prompt comes from --prompt, from a file, or from stdin; one line feed at the end of a file or of stdin is not part
of it. Without --chat the model continues the text; with it, the text is put into the model's chat template and the
model answers. Sampling options that are not given are the model's own. The text goes to stdout as it comes,
everything else to stderr. Ctrl-C stops and keeps what was written.

Examples:
  gemrun generate model.gembin --prompt \"Once upon a time\"
  gemrun generate model.gembin --chat --prompt \"Why is the sky blue?\" --stats
  gemrun generate model.gembin --chat --system \"Answer in one word.\" --prompt \"Capital of France?\" --greedy
  gemrun generate model.gembin --prompt-file story.txt --max-tokens 400 --seed 7 --stop \"The end\"
  echo \"A short poem:\" | gemrun generate model.gembin --temperature 0.8 --top-p 0.95
  gemrun generate model.gembin --ids 2,17,9 --greedy --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The prompt
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["prompt_file", "ids"])]
    prompt: Option<String>,

    /// File that holds the prompt, UTF-8
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "ids")]
    prompt_file: Option<PathBuf>,

    /// The prompt as token ids, with commas, nothing added; works without a tokenizer
    #[arg(long, value_name = "IDS", value_parser = parse_ids, allow_negative_numbers = true, conflicts_with_all = ["chat", "system"])]
    ids: Option<Ids>,

    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,

    /// A system message before the prompt
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// Tokens to write at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, value_parser = parse_count, allow_negative_numbers = true)]
    max_tokens: usize,

    /// Stop when this text comes up; it is not written. May be given several times
    #[arg(long, value_name = "TEXT", value_parser = parse_stop)]
    stop: Vec<String>,

    /// Go on after the model's stop tokens
    #[arg(long)]
    ignore_eos: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Print one JSON object with text, token ids and figures instead of the text
    #[arg(long)]
    json: bool,

    /// Print token counts and speed to stderr
    #[arg(long)]
    stats: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    /// `null` without a tokenizer.
    text: Option<&'a str>,
    ids: &'a [u32],
    ended: Ended,
    prompt_tokens: usize,
    generated_tokens: usize,
    seed: u64,
    prefill_seconds: f64,
    decode_seconds: f64,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    // Read before the model is opened: what is wrong with the prompt is said at once.
    let prompt = match args.ids {
        Some(_) => String::new(),
        None => args.read_prompt()?,
    };
    let mut engine = args.model.open()?;
    let has_tokenizer = engine.manifest().text.has_tokenizer;
    let text = if has_tokenizer || args.ids.is_none() {
        Some(Text::of(&engine)?)
    } else {
        None
    };
    if text.is_none() && !args.stop.is_empty() {
        bail!("--stop compares text, but the bundle has no tokenizer");
    }
    let tokens = match (&args.ids, &text) {
        (Some(Ids(ids)), _) => ids.clone(),
        (None, Some(text)) => args.prompt_tokens(&engine, text, &prompt)?,
        (None, None) => Vec::new(),
    };
    if tokens.is_empty() {
        bail!("the prompt is empty, and the model has no token that begins a text");
    }
    let mut sampler = args
        .sampling
        .sampler(&engine.manifest().text.sampling, engine.vocab())?;
    sampler.prompt(&tokens);
    let seed = sampler.seed();
    let limits = Limits {
        max_tokens: args.max_tokens,
        ignore_stop_tokens: args.ignore_eos,
    };
    let most_tokens = args.max_tokens.min(engine.context());
    let mut writer = Writer::new(text.as_ref(), &args.stop, !args.json, most_tokens)?;
    let result = session::generate(&mut engine, 0, &tokens, &limits, &mut sampler, |token| {
        writer.token(token)
    })?;
    let text = writer.finish()?;
    if args.json {
        output::json(&Report {
            text: has_tokenizer.then_some(text.as_str()),
            ids: &result.tokens,
            ended: result.ended,
            prompt_tokens: result.prompt_tokens,
            generated_tokens: result.tokens.len(),
            seed,
            prefill_seconds: result.prefill_seconds,
            decode_seconds: result.decode_seconds,
            prefill_tokens_per_s: result.prefill_tokens_per_s(),
            decode_tokens_per_s: result.decode_tokens_per_s(),
        })?;
    } else {
        output::to_stdout("\n")?;
    }
    args.tell(&engine, &result, seed);
    Ok(if result.ended == Ended::Interrupted {
        Outcome::Interrupted
    } else {
        Outcome::Done
    })
}

impl Args {
    fn read_prompt(&self) -> anyhow::Result<String> {
        if let Some(prompt) = &self.prompt {
            return Ok(prompt.clone());
        }
        let (bytes, from) = match &self.prompt_file {
            Some(path) => {
                let from = path.display().to_string();
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {from}"))?;
                (bytes, from)
            }
            None => {
                let mut stdin = std::io::stdin().lock();
                if stdin.is_terminal() {
                    output::to_stderr(
                        "reading the prompt from the terminal; Ctrl-D on an empty line ends it\n",
                    );
                }
                let mut bytes = Vec::new();
                super::interrupt::while_idle(|| stdin.read_to_end(&mut bytes))
                    .context("cannot read stdin")?;
                (bytes, "stdin".to_owned())
            }
        };
        let mut text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            anyhow::anyhow!("{from}: not valid UTF-8 at byte {at}")
        })?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }

    fn prompt_tokens(
        &self,
        engine: &Engine,
        text: &Text,
        prompt: &str,
    ) -> anyhow::Result<Vec<u32>> {
        if self.chat {
            let system = self.system.iter().map(|s| Message::new("system", s));
            let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
            return text.template(engine)?.tokens(&messages);
        }
        Ok(text.bos().into_iter().chain(text.encode(prompt)).collect())
    }

    /// What there is to say besides the text.
    fn tell(&self, engine: &Engine, result: &Generated, seed: u64) {
        if result.ended == Ended::ContextFull {
            output::to_stderr(&format!(
                "stopped: the context of {} tokens is full\n",
                engine.context()
            ));
        }
        if self.stats {
            output::to_stderr(&result.stats());
            output::to_stderr(&format!(
                "device:    {}\nseed:      {seed}\n",
                engine.describe()
            ));
        }
    }
}
