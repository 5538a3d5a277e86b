//! Sampling parameters: their ranges, and where they come from when the user is silent.

use gembin_bundle::manifest::SamplingDefaults;

/// How to sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SamplingParams {
    /// Divides the logits; 0: always the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0: all.
    pub top_k: u32,
    /// Keep the most likely tokens up to this mass; 1: all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one; 0: all.
    pub min_p: f32,
    /// Divides (or multiplies) the logits of tokens seen; 1: none.
    pub repetition_penalty: f32,
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}; it must be {range}")]
pub struct ParamError {
    /// The parameter.
    pub name: &'static str,
    /// What it was.
    pub value: f32,
    /// What it can be.
    pub range: &'static str,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self::greedy()
    }
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }

    /// What a checkpoint asks for: greedy unless it says `do_sample`; where it is silent, temperature 1 and no filter.
    pub fn from_defaults(defaults: &SamplingDefaults) -> Self {
        let greedy = Self::greedy();
        let temperature = match defaults.do_sample {
            Some(true) => defaults.temperature.unwrap_or(1.0),
            Some(false) | None => 0.0,
        };
        Self {
            temperature,
            top_k: defaults.top_k.unwrap_or(greedy.top_k),
            top_p: defaults.top_p.unwrap_or(greedy.top_p),
            min_p: defaults.min_p.unwrap_or(greedy.min_p),
            repetition_penalty: defaults
                .repetition_penalty
                .unwrap_or(greedy.repetition_penalty),
        }
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the first parameter that is out of its range.
    pub fn check(&self) -> Result<(), ParamError> {
        let finite = |value: f32| value.is_finite();
        for (name, value, good, range) in [
            (
                "temperature",
                self.temperature,
                finite(self.temperature) && self.temperature >= 0.0,
                "0 (greedy) or more",
            ),
            (
                "top-p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min-p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "from 0 to 1",
            ),
            (
                "repetition penalty",
                self.repetition_penalty,
                finite(self.repetition_penalty) && self.repetition_penalty > 0.0,
                "above 0",
            ),
        ] {
            if !good {
                return Err(ParamError { name, value, range });
            }
        }
        Ok(())
    }

    /// Tokens that top-k leaves, if it takes any away.
    pub(super) fn effective_top_k(&self, vocab: usize) -> Option<usize> {
        let k = self.top_k as usize;
        (k > 0 && k < vocab).then_some(k)
    }
}
