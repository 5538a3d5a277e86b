//! Ids back to text, one token at a time.
//!
//! A run of byte tokens (special tokens that are left out do not end it) becomes its text when the whole run is valid
//! UTF-8, and one U+FFFD a token otherwise. That is what the `tokenizers` library does with the whole sequence; to give
//! the same text piece by piece, a run is held back until a token that is not a byte ends it, or [`Decoder::finish`].

use crate::tables::{KIND_BYTE, KIND_SPECIAL};
use crate::tokenizer::Tokenizer;

/// State between tokens.
#[derive(Clone, Debug)]
pub struct Decoder {
    show_special: bool,
    /// Bytes held back, one a token.
    run: Vec<u8>,
    /// Leading characters that may still be taken off.
    strip_left: u32,
}

impl Decoder {
    /// A decoder at the start of a text. Special tokens are left out unless `show_special`.
    pub fn new(tokenizer: &Tokenizer, show_special: bool) -> Self {
        Self {
            show_special,
            run: Vec::with_capacity(64),
            strip_left: tokenizer.tables().facts.strip_count,
        }
    }

    /// Appends to `out` the text that token `id` completes. Ids that are no token add nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let tables = tokenizer.tables();
        let kind = tables.kind(id);
        if kind == 0 || (kind & KIND_SPECIAL != 0 && !self.show_special) {
            return;
        }
        let Some(shown) = tables.shown(id) else {
            return;
        };
        if kind & KIND_BYTE != 0 {
            self.run.extend(shown.first());
            return;
        }
        let strip = char::from_u32(tables.facts.strip_char);
        self.finish_run(strip, out);
        for chunk in shown.utf8_chunks() {
            self.append(chunk.valid(), strip, out);
            if !chunk.invalid().is_empty() {
                self.append("\u{fffd}", strip, out);
            }
        }
    }

    /// Appends what was held back: the text ends here.
    pub fn finish(&mut self, tokenizer: &Tokenizer, out: &mut String) {
        let strip = char::from_u32(tokenizer.tables().facts.strip_char);
        self.finish_run(strip, out);
    }

    fn finish_run(&mut self, strip: Option<char>, out: &mut String) {
        if self.run.is_empty() {
            return;
        }
        let run = std::mem::take(&mut self.run);
        match std::str::from_utf8(&run) {
            Ok(text) => self.append(text, strip, out),
            Err(_) => {
                for _ in 0..run.len() {
                    self.append("\u{fffd}", strip, out);
                }
            }
        }
        self.run = run;
        self.run.clear();
    }

    fn append(&mut self, mut text: &str, strip: Option<char>, out: &mut String) {
        while self.strip_left > 0 && !text.is_empty() {
            match strip.and_then(|c| text.strip_prefix(c)) {
                Some(rest) => {
                    text = rest;
                    self.strip_left -= 1;
                }
                None => self.strip_left = 0,
            }
        }
        out.push_str(text);
    }
}
