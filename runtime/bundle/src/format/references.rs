//! Reference inputs and outputs: what the model answered where it was compiled, replayed by `verify` on the machine
//! that runs it.
//!
//! ```text
//! tokens u32 | vocab u32 | decode token u32 | tolerance f32
//! prompt u32 [tokens] | logits f32 [vocab] | logits f32 [vocab]
//! ```

/// One prompt, one decoded token, and the logits after each.
#[derive(Clone, PartialEq, Debug)]
pub struct References {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Logits after its last token, one a token of the vocabulary.
    pub prefill_logits: Vec<f32>,
    /// The token decoded after the prompt.
    pub decode_token: u32,
    /// Logits after it.
    pub decode_logits: Vec<f32>,
    /// How far a device's logits may be: `||got - want|| / ||want||`.
    pub tolerance: f32,
}

/// Why a references section cannot be used.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ReferencesError {
    /// Lengths do not add up.
    #[error(
        "section references: {bytes} bytes, {expected} expected for {tokens} tokens and a vocabulary of {vocab}"
    )]
    Length {
        /// Of the section.
        bytes: u64,
        /// By its own fields.
        expected: u64,
        /// Prompt tokens.
        tokens: u32,
        /// Vocabulary.
        vocab: u32,
    },
    /// Too short for its fixed fields.
    #[error("section references: {bytes} bytes, at least {FIXED_BYTES} expected")]
    TooShort {
        /// Of the section.
        bytes: u64,
    },
    /// Made for another vocabulary.
    #[error("section references: made for a vocabulary of {found}, the model has {expected}")]
    Vocab {
        /// In the section.
        found: u32,
        /// In the manifest.
        expected: u32,
    },
    /// No prompt.
    #[error("section references: the prompt is empty")]
    EmptyPrompt,
    /// A token outside of the vocabulary.
    #[error("section references: token {token} is not below the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// The vocabulary.
        vocab: u32,
    },
    /// A logit or the tolerance is no usable number.
    #[error("section references: {what} is {value}")]
    Number {
        /// Which.
        what: &'static str,
        /// Its value.
        value: f32,
    },
}

const FIXED_BYTES: u64 = 16;

impl References {
    /// Length of the section for a prompt of `tokens` and a vocabulary of `vocab`.
    pub fn section_bytes(tokens: u32, vocab: u32) -> u64 {
        FIXED_BYTES + 4 * (u64::from(tokens) + 2 * u64::from(vocab))
    }

    /// The section's bytes. `None` if the two vectors of logits differ in length or a length exceeds 32 bits.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.prefill_logits.len() != self.decode_logits.len() {
            return None;
        }
        let tokens = u32::try_from(self.tokens.len()).ok()?;
        let vocab = u32::try_from(self.prefill_logits.len()).ok()?;
        let bytes = usize::try_from(Self::section_bytes(tokens, vocab)).ok()?;
        let mut out = Vec::with_capacity(bytes);
        for word in [tokens, vocab, self.decode_token, self.tolerance.to_bits()] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        for logits in [&self.prefill_logits, &self.decode_logits] {
            out.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        }
        Some(out)
    }

    /// Reads the section of a model with `vocab` tokens. Takes memory only once the lengths agree with the section's.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(section: &[u8], vocab: u32) -> Result<Self, ReferencesError> {
        let bytes = section.len() as u64;
        if bytes < FIXED_BYTES {
            return Err(ReferencesError::TooShort { bytes });
        }
        let word = |i: usize| super::u32_at(section, 4 * i);
        let (tokens, found, decode_token) = (word(0), word(1), word(2));
        if found != vocab {
            return Err(ReferencesError::Vocab {
                found,
                expected: vocab,
            });
        }
        let expected = Self::section_bytes(tokens, vocab);
        if bytes != expected {
            return Err(ReferencesError::Length {
                bytes,
                expected,
                tokens,
                vocab,
            });
        }
        if tokens == 0 {
            return Err(ReferencesError::EmptyPrompt);
        }
        let first_logit = 4 + tokens as usize;
        let floats = |first: usize| -> Vec<f32> {
            (first..first + vocab as usize)
                .map(|i| f32::from_bits(word(i)))
                .collect()
        };
        let references = Self {
            tokens: (4..first_logit).map(word).collect(),
            prefill_logits: floats(first_logit),
            decode_token,
            decode_logits: floats(first_logit + vocab as usize),
            tolerance: f32::from_bits(word(3)),
        };
        references.check(vocab)?;
        Ok(references)
    }

    fn check(&self, vocab: u32) -> Result<(), ReferencesError> {
        let mut tokens = self.tokens.iter().chain([&self.decode_token]);
        if let Some(&token) = tokens.find(|&&token| token >= vocab) {
            return Err(ReferencesError::Token { token, vocab });
        }
        let number = |what, value| Err(ReferencesError::Number { what, value });
        if !(self.tolerance.is_finite() && self.tolerance > 0.0) {
            return number("the tolerance", self.tolerance);
        }
        let mut logits = self.prefill_logits.iter().chain(&self.decode_logits);
        match logits.find(|logit| !logit.is_finite()) {
            Some(&logit) => number("a logit", logit),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> References {
        References {
            tokens: vec![2, 5, 1],
            prefill_logits: vec![0.5, -1.0, 2.0, 0.0, 1.0, 3.5],
            decode_token: 4,
            decode_logits: vec![1.5, -2.0, 2.5, 0.25, 1.0, 0.0],
            tolerance: 1e-3,
        }
    }

    fn error(change: impl FnOnce(&mut References)) -> String {
        let mut references = sample();
        change(&mut references);
        let bytes = references.encode().unwrap();
        References::decode(&bytes, 6).unwrap_err().to_string()
    }

    #[test]
    fn round_trip() {
        let bytes = sample().encode().unwrap();
        assert_eq!(bytes.len() as u64, References::section_bytes(3, 6));
        assert_eq!(References::decode(&bytes, 6), Ok(sample()));
    }

    #[test]
    fn unequal_logits_have_no_encoding() {
        let mut references = sample();
        references.decode_logits.pop();
        assert_eq!(references.encode(), None);
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = sample().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(References::decode(&bytes[..length], 6).is_err(), "{length}");
        }
    }

    #[test]
    fn hostile_lengths_take_no_memory() {
        let mut bytes = sample().encode().unwrap();
        bytes[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = References::decode(&bytes, u32::MAX).unwrap_err();
        assert!(matches!(error, ReferencesError::Length { .. }), "{error}");
    }

    #[test]
    fn content_is_checked() {
        assert!(error(|r| r.tokens.clear()).contains("prompt is empty"));
        assert!(error(|r| r.tokens[1] = 6).contains("token 6 is not below"));
        assert!(error(|r| r.decode_token = 9).contains("token 9 is not below"));
        assert!(error(|r| r.tolerance = 0.0).contains("the tolerance is 0"));
        assert!(error(|r| r.tolerance = f32::NAN).contains("the tolerance is NaN"));
        assert!(error(|r| r.decode_logits[2] = f32::INFINITY).contains("a logit is inf"));
        let bytes = sample().encode().unwrap();
        let other = References::decode(&bytes, 7).unwrap_err().to_string();
        assert!(
            other.contains("vocabulary of 6, the model has 7"),
            "{other}"
        );
    }
}
