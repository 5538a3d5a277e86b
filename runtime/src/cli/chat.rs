//! `gemrun chat`: a conversation on the terminal, or over pipes with one line a turn.

use crate::cli::options::{ModelArgs, SamplingArgs, parse_count};
use crate::cli::session::{self, Ended, Limits, Text, Writer};
use crate::cli::{Outcome, interrupt, output};
use anyhow::{Context, bail};
use gembin_chat::Message;
use gembin_runtime::chat::common_prefix;
use gembin_runtime::engine::Engine;
use gembin_runtime::error::Error;
use gembin_runtime::sampler::Sampler;
use std::io::{BufRead, IsTerminal};

/// Talk with a model; each line is a turn
#[derive(clap::Args)]
#[command(after_help = "\
What was said stays in the KV cache: a turn costs its own tokens, not the conversation's. `/reset` starts over; `/quit`,
`/exit` or Ctrl-D leaves. Ctrl-C stops an answer; at the prompt it leaves. Works over pipes too: each line of stdin is a turn.

Examples:
  gemrun chat model.gembin
  gemrun chat model.gembin --system \"You are a pirate.\" --temperature 0.7
  printf 'Hello!\\nWhat did I just say?\\n' | gemrun chat model.gembin --greedy")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// A system message before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Tokens of an answer at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1024, value_parser = parse_count, allow_negative_numbers = true)]
    max_tokens: usize,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Print token counts and speed to stderr after each answer
    #[arg(long)]
    stats: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut engine = args.model.open()?;
    let text = Text::of(&engine)?;
    let template = text.template(&engine)?;
    let sampler = args
        .sampling
        .sampler(&engine.manifest().text.sampling, engine.vocab())?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        output::to_stderr(&format!(
            "{} on {}. /reset starts over, /quit leaves.\n",
            engine.manifest().model.name,
            engine.describe()
        ));
    }
    let mut conversation = Conversation {
        system: args.system.clone(),
        messages: Vec::new(),
        cached: Vec::new(),
        sampler,
    };
    conversation.reset(&mut engine)?;
    while let Some(line) = read_line(interactive)? {
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                conversation.reset(&mut engine)?;
                continue;
            }
            _ => {}
        }
        // Someone at a terminal goes on after a press that came too late for an answer; a script was told to end.
        if interactive {
            interrupt::clear();
        } else if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
        conversation
            .messages
            .push(Message::new("user", line.as_str()));
        let mut writer = Writer::new(
            Some(&text),
            &[],
            true,
            args.max_tokens.min(engine.context()),
        )?;
        let answer = template.tokens(&conversation.messages).and_then(|prompt| {
            conversation.answer(&mut engine, &prompt, args.max_tokens, &mut writer)
        });
        match answer {
            Ok(answer) => {
                let reply = writer.finish()?;
                output::to_stdout("\n")?;
                conversation.remember(&answer, reply);
                if answer.ended == Ended::ContextFull {
                    output::to_stderr(&format!(
                        "stopped: the context of {} tokens is full; /reset starts over\n",
                        engine.context()
                    ));
                }
                if args.stats {
                    output::to_stderr(&answer.stats());
                }
                if answer.ended == Ended::Interrupted && !interactive {
                    return Ok(Outcome::Interrupted);
                }
            }
            // Someone at a terminal can start over; a script has to be told.
            Err(error) if interactive && is_full(&error) => {
                conversation.messages.pop();
                output::to_stderr(&format!("{error}; /reset starts over\n"));
            }
            Err(error) => return Err(error),
        }
    }
    if interactive {
        output::to_stderr("\n");
    }
    Ok(Outcome::Done)
}

/// What has been said, and what of it the engine remembers.
struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    /// Tokens in the engine's slot.
    cached: Vec<u32>,
    sampler: Sampler,
}

impl Conversation {
    fn reset(&mut self, engine: &mut Engine) -> anyhow::Result<()> {
        engine.reset(SLOT)?;
        self.cached.clear();
        self.messages.clear();
        self.messages.extend(
            self.system
                .iter()
                .map(|system| Message::new("system", system)),
        );
        Ok(())
    }

    /// Keeps a reply, also one cut short. A turn stopped before its first token was not answered: it is forgotten.
    fn remember(&mut self, answer: &session::Generated, reply: String) {
        if answer.ended == Ended::Interrupted && answer.tokens.is_empty() {
            self.messages.pop();
        } else {
            self.messages.push(Message::new("assistant", reply));
        }
    }

    /// Answers the conversation that `prompt` spells. What the engine already holds of it is not run again.
    fn answer(
        &mut self,
        engine: &mut Engine,
        prompt: &[u32],
        max_tokens: usize,
        writer: &mut Writer,
    ) -> anyhow::Result<session::Generated> {
        if prompt.is_empty() {
            bail!("the chat template gives no tokens");
        }
        // An error below leaves an unknown part of the prompt behind: then nothing is known to be held.
        let cached = std::mem::take(&mut self.cached);
        if prompt.len() > engine.context() {
            self.cached = cached;
            bail!(Error::ContextFull {
                tokens: prompt.len(),
                context: engine.context(),
            });
        }
        let kept = engine.truncate(SLOT, common_prefix(&cached, prompt))?;
        self.sampler.restart(prompt);
        let limits = Limits {
            max_tokens,
            ignore_stop_tokens: false,
        };
        let answer = session::generate(
            engine,
            SLOT,
            &prompt[kept..],
            &limits,
            &mut self.sampler,
            |token| writer.token(token),
        )?;
        // The last token made has not been an input yet, and an interrupted prefill is a part of the prompt.
        self.cached.extend_from_slice(prompt);
        self.cached.extend(&answer.tokens);
        self.cached.truncate(engine.len(SLOT)?);
        Ok(answer)
    }
}

/// The one sequence.
const SLOT: usize = 0;

fn is_full(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::ContextFull { .. }))
}

/// The next line, `None` at the end of input.
fn read_line(interactive: bool) -> anyhow::Result<Option<String>> {
    if interactive {
        output::to_stderr("> ");
    }
    let mut line = Vec::new();
    let bytes = interrupt::while_idle(|| std::io::stdin().lock().read_until(b'\n', &mut line))
        .context("cannot read stdin")?;
    if bytes == 0 {
        return Ok(None);
    }
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("stdin: not valid UTF-8 at byte {at} of the line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gembin_runtime::sampler::SamplingParams;

    #[test]
    fn a_turn_stopped_before_its_first_token_is_forgotten_and_a_cut_answer_kept() {
        let kept = |ended, tokens: &[u32]| {
            let mut conversation = Conversation {
                system: None,
                messages: vec![Message::new("user", "Hello!")],
                cached: Vec::new(),
                sampler: Sampler::new(4, SamplingParams::greedy(), 0).unwrap(),
            };
            let answer = session::Generated {
                ended,
                tokens: tokens.to_vec(),
                prompt_tokens: 3,
                prefill_seconds: 0.0,
                decoded_tokens: 0,
                decode_seconds: 0.0,
            };
            conversation.remember(&answer, "text".into());
            conversation.messages.len()
        };
        assert_eq!(kept(Ended::Interrupted, &[]), 0);
        assert_eq!(kept(Ended::Interrupted, &[3]), 2);
        assert_eq!(kept(Ended::StopToken, &[]), 2);
    }
}
