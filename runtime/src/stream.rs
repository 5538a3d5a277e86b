//! Text of a generation as it comes: tokens in, printable text out.
//!
//! Two things are held back: bytes of characters that are not complete (the tokenizer's decoder, which gives exactly the
//! text of decoding all tokens at once), and text that may be the beginning of a stop string.

use gembin_tokenizer::{Decoder, Tokenizer};

/// Room for text held back, so that usual streams allocate nothing a token.
const ROOM_BYTES: usize = 4096;

/// Why a stream cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It would stop every text at once.
    #[error("a stop string is empty")]
    EmptyStop,
}

/// Turns the tokens of one generation into text.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    decoder: Decoder,
    stops: Vec<String>,
    /// Decoded, not yet given out.
    held: String,
    /// Given out by the last call.
    out: String,
    stopped: Option<usize>,
}

impl TextStream {
    /// A stream at the start of a text. Special tokens are left out unless `show_special`; the text ends before the
    /// first of `stops` to be completed.
    ///
    /// # Errors
    /// When a stop string is empty.
    pub fn new(
        tokenizer: &Tokenizer,
        show_special: bool,
        stops: &[String],
    ) -> Result<Self, StreamError> {
        if stops.iter().any(String::is_empty) {
            return Err(StreamError::EmptyStop);
        }
        Ok(Self {
            tokenizer: tokenizer.clone(),
            decoder: Decoder::new(tokenizer, show_special),
            stops: stops.to_vec(),
            held: String::with_capacity(ROOM_BYTES),
            out: String::with_capacity(ROOM_BYTES),
            stopped: None,
        })
    }

    /// Takes a token and returns the text that it makes certain, which may be none. After a stop string there is no more.
    pub fn push(&mut self, token: u32) -> &str {
        self.out.clear();
        if self.stopped.is_none() {
            self.decoder.push(&self.tokenizer, token, &mut self.held);
            self.give(false);
        }
        &self.out
    }

    /// The rest of the text: no token follows. An incomplete character becomes U+FFFD, one for each of its bytes.
    pub fn finish(&mut self) -> &str {
        self.out.clear();
        if self.stopped.is_none() {
            self.decoder.finish(&self.tokenizer, &mut self.held);
            self.give(true);
        }
        &self.out
    }

    /// Which stop string ended the text, as an index into those given.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Moves from `held` to `out` what cannot become part of a stop string.
    fn give(&mut self, at_end: bool) {
        // The stop string that is complete first, so that the text does not depend on where tokens end.
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = found.min() {
            self.out.push_str(&self.held[..start]);
            self.held.clear();
            self.stopped = Some(index);
            return;
        }
        let keep = if at_end { 0 } else { self.open_bytes() };
        let end = self.held.len() - keep;
        self.out.push_str(&self.held[..end]);
        self.held.drain(..end);
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn open_bytes(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest).rev().find(|len| {
                stop.as_bytes()[..*len] == self.held.as_bytes()[self.held.len() - len..]
            })
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{StreamError, TextStream};
    use gembin_tokenizer::Tokenizer;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static STORY: LazyLock<Tokenizer> = LazyLock::new(|| {
        let json = include_bytes!("../../testdata/models/story-gemma3/tokenizer.json");
        let tables = gembin_tokenizer::compile(json).expect("compiles");
        Tokenizer::from_vec(tables).expect("loads")
    });

    fn stream(ids: &[u32], show_special: bool, stops: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = TextStream::new(&STORY, show_special, &stops).expect("good stops");
        let mut parts: Vec<String> = ids.iter().map(|id| stream.push(*id).to_owned()).collect();
        parts.push(stream.finish().to_owned());
        (parts, stream.stopped())
    }

    /// Bytes as byte tokens.
    fn bytes(bytes: &[u8]) -> Vec<u32> {
        let id = |byte| {
            STORY
                .token_id(&format!("<0x{byte:02X}>"))
                .expect("is there")
        };
        bytes.iter().map(id).collect()
    }

    #[test]
    fn a_split_character_waits_until_it_is_whole() {
        let mut ids = bytes("é".as_bytes());
        ids.extend(STORY.encode(" was"));
        assert_eq!(stream(&ids, false, &[]).0, ["", "", "é was", ""]);
        assert_eq!(
            stream(&bytes(b"\xf0\x9f"), false, &[]).0,
            ["", "", "\u{fffd}\u{fffd}"]
        );
    }

    #[test]
    fn special_tokens_are_left_out_or_shown() {
        let ids = STORY.encode("a<end_of_turn>b");
        assert_eq!(stream(&ids, false, &[]).0.concat(), "ab");
        assert_eq!(stream(&ids, true, &[]).0.concat(), "a<end_of_turn>b");
    }

    #[test]
    fn a_stop_string_is_found_across_tokens() {
        let ids = STORY.encode("They were happy. The end. And more");
        let (parts, stopped) = stream(&ids, false, &["zzz", " The end"]);
        assert_eq!(parts.concat(), "They were happy.");
        assert_eq!(stopped, Some(1));
    }

    #[test]
    fn the_beginning_of_a_stop_string_is_given_when_it_is_none() {
        let ids = STORY.encode("Then they went. The dog");
        let (parts, stopped) = stream(&ids, false, &[". The end", "dogs"]);
        assert_eq!(parts.concat(), "Then they went. The dog");
        assert_eq!(stopped, None);
        assert!(
            parts.last().is_some_and(|last| last == "dog"),
            "held to the end: {parts:?}"
        );
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = TextStream::new(&STORY, false, &[String::new()]).expect_err("is refused");
        assert_eq!(error, StreamError::EmptyStop);
    }

    /// Ids with many bytes of characters among them.
    fn ids() -> impl Strategy<Value = Vec<u32>> {
        let id = prop_oneof![
            0..1030u32,
            7 + 0xc0..7 + 0xf8u32,
            7 + 0x80..7 + 0xc0u32,
            7..263u32
        ];
        let text = any::<String>().prop_map(|text| STORY.encode(&text));
        prop::collection::vec(
            prop_oneof![3 => id.prop_map(|id| vec![id]), 1 => text],
            0..40,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn the_parts_make_the_whole(ids in ids(), show_special in any::<bool>()) {
            let whole = STORY.decode(&ids, show_special);
            prop_assert_eq!(stream(&ids, show_special, &[]).0.concat(), whole.clone());
            // Stop strings that never come change when text is given, not which.
            let stops = ["\u{1}\u{2}never", "a\u{fffd}e\u{3}"];
            prop_assert_eq!(stream(&ids, show_special, &stops).0.concat(), whole);
        }

        #[test]
        fn stopping_does_not_depend_on_token_borders(
            text in "[abc ]{0,24}",
            stops in prop::collection::vec("[abc ]{1,4}", 1..4),
        ) {
            // One token a character, and as the tokenizer has it.
            let characters: Vec<u32> = text.chars().flat_map(|c| STORY.encode(&c.to_string())).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let one_by_one = stream(&characters, false, &stops);
            let merged = stream(&STORY.encode(&text), false, &stops);
            prop_assert_eq!(one_by_one.0.concat(), merged.0.concat());
            prop_assert_eq!(one_by_one.1.is_some(), stops.iter().any(|stop| text.contains(stop)));
        }
    }
}
