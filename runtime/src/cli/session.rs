//! A sequence being written: a prompt goes in, text comes out piece by piece. Shared by `generate` and `chat`.

use crate::cli::{interrupt, output};
use anyhow::{Context, bail};
use gembin_chat::{Message, Template};
use gembin_runtime::chat::encode_conversation;
use gembin_runtime::engine::{Engine, Predictions, Wanted};
use gembin_runtime::error::Error;
use gembin_runtime::sampler::Sampler;
use gembin_runtime::stream::TextStream;
use gembin_tokenizer::Tokenizer;
use std::fmt::Write;
use std::time::Instant;

/// A bundle's tokenizer and the token it begins a text with.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    bos: Option<u32>,
}

impl Text {
    /// Loads the tokenizer of the bundle that runs.
    pub(crate) fn of(engine: &Engine) -> anyhow::Result<Self> {
        let Some(bytes) = engine.bundle().tokenizer() else {
            bail!(
                "{} has no tokenizer, it runs on token ids alone: `gemrun generate --ids 2,17,9`",
                engine.bundle().path().display()
            );
        };
        let tokenizer = Tokenizer::load(bytes).context("the bundle's tokenizer cannot be used")?;
        Ok(Self {
            tokenizer,
            bos: engine.manifest().text.bos,
        })
    }

    /// The token before a text.
    pub(crate) fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The bundle's chat template.
    pub(crate) fn template(&self, engine: &Engine) -> anyhow::Result<ChatTemplate<'_>> {
        let facts = &engine.manifest().text;
        let Some(source) = &facts.chat_template else {
            bail!(
                "{} has no chat template; leave out --chat to continue a text",
                engine.bundle().path().display()
            );
        };
        Ok(ChatTemplate {
            template: Template::new(source, &facts.special_tokens)?,
            tokenizer: &self.tokenizer,
        })
    }

    /// Tokens of a text, none added around it; special tokens spelled out in it are recognised.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text)
    }
}

/// Turns a conversation into tokens.
pub(crate) struct ChatTemplate<'a> {
    template: Template,
    tokenizer: &'a Tokenizer,
}

impl ChatTemplate<'_> {
    /// The conversation up to where the model is to speak.
    pub(crate) fn tokens(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        Ok(encode_conversation(
            &self.template,
            self.tokenizer,
            messages,
        )?)
    }
}

/// Whether `tokens` can be the inputs of an empty sequence.
///
/// # Errors
/// What [`Engine::prefill`] would say.
pub(crate) fn check_inputs(engine: &Engine, tokens: &[u32]) -> Result<(), Error> {
    let context = engine.context();
    if tokens.len() > context {
        let tokens = tokens.len();
        return Err(Error::ContextFull { tokens, context });
    }
    check_tokens(engine, tokens)
}

/// Whether the model knows all of `tokens`.
///
/// # Errors
/// Names the first that it does not.
pub(crate) fn check_tokens(engine: &Engine, tokens: &[u32]) -> Result<(), Error> {
    let vocab = engine.manifest().limits.vocab;
    match tokens.iter().find(|&&id| id >= vocab) {
        Some(&id) => Err(Error::TokenOutOfRange { id, vocab }),
        None => Ok(()),
    }
}

/// Whether the logits after `inputs[index]` are numbers. Minus infinity is one: it rules a token out.
///
/// # Errors
/// Names the position and the first logit that is none.
pub(crate) fn check_logits(row: &[f32], index: usize, inputs: &[u32]) -> anyhow::Result<()> {
    let is_bad = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    // Without a branch a logit, which is the usual case, then the culprit.
    if !row.iter().fold(false, |bad, &logit| bad | is_bad(logit)) {
        return Ok(());
    }
    let logit = row.iter().position(|&logit| is_bad(logit)).unwrap_or(0);
    bail!(
        "the logits at position {index} (token id {}) are no numbers: that of token {logit} is {}; the model's \
         arithmetic overflowed or its weights are damaged, which `gemrun verify` tells",
        inputs[index],
        row[logit]
    )
}

/// Appends `tokens` to the sequence in `slot` and returns what follows the last one; `None` if Ctrl-C was pressed.
/// Nothing is run if they do not fit.
pub(crate) fn prefill<'e>(
    engine: &'e mut Engine,
    slot: usize,
    tokens: &[u32],
) -> anyhow::Result<Option<Predictions<'e>>> {
    let whole = engine.len(slot)? + tokens.len();
    if whole > engine.context() {
        bail!(Error::ContextFull {
            tokens: whole,
            context: engine.context(),
        });
    }
    let chunk = engine.prefill_chunk();
    let last = tokens.len().saturating_sub(1) / chunk * chunk;
    let (head, tail) = tokens.split_at(last);
    for piece in head.chunks(chunk) {
        if interrupt::requested() {
            return Ok(None);
        }
        engine.prefill(slot, piece, Wanted::Nothing)?;
    }
    if interrupt::requested() {
        return Ok(None);
    }
    Ok(Some(engine.prompt(slot, tail)?))
}

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// The model said so.
    StopToken,
    /// A stop string came up.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// No position is left.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

/// A generation's figures.
pub(crate) struct Generated {
    pub(crate) ended: Ended,
    /// The tokens made, without the stop token.
    pub(crate) tokens: Vec<u32>,
    /// Tokens that went through prefill.
    pub(crate) prompt_tokens: usize,
    pub(crate) prefill_seconds: f64,
    /// Calls of decode, one fewer than tokens sampled.
    pub(crate) decoded_tokens: usize,
    pub(crate) decode_seconds: f64,
}

/// When to stop.
pub(crate) struct Limits {
    /// Most tokens to make.
    pub(crate) max_tokens: usize,
    /// Go on after stop tokens.
    pub(crate) ignore_stop_tokens: bool,
}

/// What to do with a token.
pub(crate) enum Next {
    /// Go on.
    More,
    /// A stop string is complete.
    Stop,
}

/// Prefills `prompt` into `slot`, then samples and decodes until something ends it. Every token but a stop token is
/// given to `take`.
pub(crate) fn generate(
    engine: &mut Engine,
    slot: usize,
    prompt: &[u32],
    limits: &Limits,
    sampler: &mut Sampler,
    mut take: impl FnMut(u32) -> anyhow::Result<Next>,
) -> anyhow::Result<Generated> {
    let mut done = Generated {
        ended: Ended::Interrupted,
        tokens: Vec::with_capacity(limits.max_tokens.min(engine.context())),
        prompt_tokens: prompt.len(),
        prefill_seconds: 0.0,
        decoded_tokens: 0,
        decode_seconds: 0.0,
    };
    let stop_tokens = engine.manifest().text.stop_tokens.clone();
    let start = Instant::now();
    let Some(predictions) = prefill(engine, slot, prompt)? else {
        return Ok(done);
    };
    done.prefill_seconds = start.elapsed().as_secs_f64();
    if limits.max_tokens == 0 {
        done.ended = Ended::MaxTokens;
        return Ok(done);
    }
    let start = Instant::now();
    let mut token = draw(sampler, predictions)?;
    done.ended = loop {
        if !limits.ignore_stop_tokens && stop_tokens.contains(&token) {
            break Ended::StopToken;
        }
        sampler.accept(token);
        done.tokens.push(token);
        if matches!(take(token)?, Next::Stop) {
            break Ended::StopString;
        }
        if done.tokens.len() >= limits.max_tokens {
            break Ended::MaxTokens;
        }
        if interrupt::requested() {
            break Ended::Interrupted;
        }
        if engine.len(slot)? >= engine.context() {
            break Ended::ContextFull;
        }
        token = draw(sampler, engine.step(&[(slot, token)])?)?;
        done.decoded_tokens += 1;
    };
    done.decode_seconds = start.elapsed().as_secs_f64();
    Ok(done)
}

/// Draws the next token of a call's first sequence: of the most likely ones, where the device finds them and they are
/// sure to be enough, else of all.
fn draw(sampler: &mut Sampler, mut predictions: Predictions<'_>) -> anyhow::Result<u32> {
    let likely = match predictions.likely(0) {
        Some(likely) => sampler.sample_likely(likely)?,
        None => None,
    };
    match likely {
        Some(token) => Ok(token),
        None => Ok(sampler.sample(predictions.logits()?)?),
    }
}

impl Generated {
    /// Prompt tokens a second.
    pub(crate) fn prefill_tokens_per_s(&self) -> f64 {
        output::rate(self.prompt_tokens as f64, self.prefill_seconds)
    }

    /// Decoded tokens a second.
    pub(crate) fn decode_tokens_per_s(&self) -> f64 {
        output::rate(self.decoded_tokens as f64, self.decode_seconds)
    }

    /// Two lines for people.
    pub(crate) fn stats(&self) -> String {
        format!(
            "prompt:    {} tokens in {:.3} s, {:.1} tokens/s\ngenerated: {} tokens in {:.3} s, {:.1} tokens/s\n",
            self.prompt_tokens,
            self.prefill_seconds,
            self.prefill_tokens_per_s(),
            self.tokens.len(),
            self.decode_seconds,
            self.decode_tokens_per_s()
        )
    }
}

/// Writes what a generation makes: text, or token ids with commas where there is no tokenizer.
pub(crate) struct Writer {
    stream: Option<TextStream>,
    /// To stdout as it comes, else only kept.
    shown: bool,
    text: String,
    /// A token id being written, where there is no tokenizer.
    id: String,
    is_first: bool,
}

impl Writer {
    /// A writer at the start of a text of `max_tokens` at most that ends before the first of `stops`.
    pub(crate) fn new(
        text: Option<&Text>,
        stops: &[String],
        shown: bool,
        max_tokens: usize,
    ) -> anyhow::Result<Self> {
        let stream = text
            .map(|text| TextStream::new(&text.tokenizer, false, stops))
            .transpose()?;
        Ok(Self {
            stream,
            shown,
            text: String::with_capacity(max_tokens.saturating_mul(TOKEN_ROOM_BYTES)),
            id: String::with_capacity(TOKEN_ROOM_BYTES),
            is_first: true,
        })
    }

    /// Takes a token and writes the text that it makes certain.
    pub(crate) fn token(&mut self, token: u32) -> anyhow::Result<Next> {
        let is_first = std::mem::take(&mut self.is_first);
        match &mut self.stream {
            Some(stream) => {
                emit(stream.push(token), self.shown, &mut self.text)?;
                if stream.stopped().is_some() {
                    return Ok(Next::Stop);
                }
            }
            None => {
                let comma = if is_first { "" } else { "," };
                self.id.clear();
                write!(self.id, "{comma}{token}")?;
                emit(&self.id, self.shown, &mut self.text)?;
            }
        }
        Ok(Next::More)
    }

    /// Writes what was held back and returns the whole text.
    pub(crate) fn finish(mut self) -> anyhow::Result<String> {
        if let Some(stream) = &mut self.stream {
            emit(stream.finish(), self.shown, &mut self.text)?;
        }
        Ok(self.text)
    }
}

/// Room for a token, so that writing one allocates nothing: a comma and an id have at most 11 bytes, and no usual text
/// has tokens this long on average.
const TOKEN_ROOM_BYTES: usize = 16;

fn emit(piece: &str, shown: bool, text: &mut String) -> anyhow::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    text.push_str(piece);
    if shown {
        output::to_stdout(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_with_commas_into_the_room_reserved() {
        let mut writer = Writer::new(None, &[], false, 100).unwrap();
        let room = (writer.text.capacity(), writer.id.capacity());
        for _ in 0..100 {
            writer.token(u32::MAX).unwrap();
        }
        assert_eq!((writer.text.capacity(), writer.id.capacity()), room);
        let text = writer.finish().unwrap();
        assert_eq!(text, vec!["4294967295"; 100].join(","));
    }

    #[test]
    fn the_first_logit_that_is_no_number_is_named() {
        let inputs = [2, 17, 9];
        assert!(check_logits(&[0.0, f32::NEG_INFINITY, 1e30], 0, &inputs).is_ok());
        let nan = check_logits(&[0.0, 1.0, f32::NAN, f32::NAN], 1, &inputs).unwrap_err();
        let infinite = check_logits(&[f32::INFINITY, 1.0], 2, &inputs).unwrap_err();
        assert!(nan.to_string().starts_with(
            "the logits at position 1 (token id 17) are no numbers: that of token 2 is NaN;"
        ));
        assert!(infinite.to_string().contains("position 2 (token id 9)"));
    }
}
