//! Logits to a token: penalty, temperature, top-k, top-p, min-p, and the draw.
//!
//! The filters come in the order of the `transformers` library: repetition penalty, temperature, top-k, top-p, min-p.
//! Where that keeps all tokens of equal logit at the border of top-k or top-p, here the lower ids are kept, so that k
//! means k; the most likely token is always kept.
//!
//! The same logits, parameters and seed give the same token on every machine: the exponential is our own (`exp`), all
//! sums are of integers and so do not depend on their order, and the generator is fixed (`random`). Nothing is
//! allocated after construction, and the vocabulary is never sorted whole for top-k.
//!
//! Knows neither engine nor tokenizer.

mod exp;
mod params;
mod random;
mod select;
#[cfg(test)]
mod tests;

pub use params::{ParamError, SamplingParams};

use exp::exp_nonpositive;
use random::Random;
use select::{Candidate, TopK, keep_nucleus};

/// Why no token could be chosen.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model's arithmetic went wrong.
    #[error(
        "the logit of token {token} is {value}: the model's arithmetic overflowed or its weights are damaged"
    )]
    NotFinite {
        /// The first such token.
        token: u32,
        /// NaN or infinity.
        value: f32,
    },
    /// Every logit is minus infinity, or there are none.
    #[error(
        "no token has a finite logit: the model's arithmetic overflowed or its weights are damaged"
    )]
    Nothing,
    /// Not the vocabulary that the sampler was made for.
    #[error("{got} logits for a vocabulary of {expected} tokens")]
    Vocabulary {
        /// What the sampler was made for.
        expected: usize,
        /// What came.
        got: usize,
    },
}

/// Weights are fixed-point numbers: the most likely token has this one. 2^40 a token sums up to less than 2^64 for any
/// vocabulary below 2^24, and what is less likely than 2^-40 of the first is never drawn.
const ONE: f32 = (1u64 << 40) as f32;

/// A token and its logit, as devices store them: two words.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
pub struct Likely {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

/// Draws tokens; one for each sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    random: Random,
    /// Logits after the penalty.
    scores: Vec<f32>,
    /// Tokens seen, each once, and which they are. Empty without a penalty.
    seen: Vec<u32>,
    is_seen: Vec<bool>,
    top: TopK,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler over `vocab` logits. The same `seed` draws the same tokens.
    ///
    /// # Errors
    /// When a parameter is out of its range.
    pub fn new(vocab: usize, params: SamplingParams, seed: u64) -> Result<Self, ParamError> {
        params.check()?;
        let top_k = params.effective_top_k(vocab);
        let penalized = if params.repetition_penalty == 1.0 {
            0
        } else {
            vocab
        };
        let room = match (params.is_greedy(), top_k) {
            (true, _) => 0,
            (false, Some(k)) => k,
            (false, None) => vocab,
        };
        Ok(Self {
            params,
            seed,
            random: Random::new(seed),
            scores: vec![0.0; vocab],
            seen: Vec::with_capacity(penalized),
            is_seen: vec![false; penalized],
            top: TopK::new(top_k.filter(|_| room > 0).unwrap_or(0)),
            candidates: Vec::with_capacity(room),
        })
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The seed that the sampler was made with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Notes a token of the prompt, or one that was drawn, for the repetition penalty.
    pub fn accept(&mut self, token: u32) {
        if let Some(seen) = self.is_seen.get_mut(token as usize)
            && !std::mem::replace(seen, true)
        {
            self.seen.push(token);
        }
    }

    /// Notes a whole prompt.
    pub fn prompt(&mut self, tokens: &[u32]) {
        for token in tokens {
            self.accept(*token);
        }
    }

    /// Forgets the tokens seen and notes a new prompt; the random numbers go on.
    pub fn restart(&mut self, tokens: &[u32]) {
        for token in self.seen.drain(..) {
            self.is_seen[token as usize] = false;
        }
        self.prompt(tokens);
    }

    /// Chooses the next token. Call [`Sampler::accept`] with it if it becomes part of the text.
    ///
    /// # Errors
    /// When the logits are not numbers, or not as many as the vocabulary.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        if logits.len() != self.scores.len() {
            return Err(SampleError::Vocabulary {
                expected: self.scores.len(),
                got: logits.len(),
            });
        }
        self.scores.copy_from_slice(logits);
        check_finite(&self.scores)?;
        self.penalize();
        let (best, highest) = select::best(&self.scores).ok_or(SampleError::Nothing)?;
        if self.params.is_greedy() {
            return Ok(best);
        }
        self.weigh(highest);
        Ok(self.draw().unwrap_or(best))
    }

    /// Chooses the next token from the most likely ones alone, best first and equal ones by id, as a device that looks
    /// through its logits itself returns them. The token is the one that [`Sampler::sample`] would choose from all
    /// logits; `None` where that takes more of them: with a repetition penalty, without top-k, or with a larger k.
    ///
    /// # Errors
    /// When the best logit is no number.
    pub fn sample_likely(&mut self, likely: &[Likely]) -> Result<Option<u32>, SampleError> {
        let best = likely.first().ok_or(SampleError::Nothing)?;
        if best.logit.is_nan() || best.logit == f32::INFINITY {
            return Err(SampleError::NotFinite {
                token: best.token,
                value: best.logit,
            });
        }
        if best.logit == f32::NEG_INFINITY {
            return Err(SampleError::Nothing);
        }
        if self.params.repetition_penalty != 1.0 {
            return Ok(None);
        }
        if self.params.is_greedy() {
            return Ok(Some(best.token));
        }
        let k = self.top.k();
        if k == 0 || k > likely.len() {
            return Ok(None);
        }
        let temperature = self.params.temperature;
        self.candidates.clear();
        let finite = likely[..k].iter().filter(|l| l.logit > f32::NEG_INFINITY);
        self.candidates.extend(finite.map(|l| Candidate {
            weight: weight(l.logit, best.logit, temperature),
            token: l.token,
        }));
        Ok(Some(self.draw().unwrap_or(best.token)))
    }

    /// Draws from the candidates that top-p and min-p leave; `None` where their weights sum to nothing.
    fn draw(&mut self) -> Option<u32> {
        let mut total = self.candidates.iter().map(|c| c.weight).sum();
        if self.params.top_p < 1.0 {
            let kept = keep_nucleus(&mut self.candidates, total, self.params.top_p);
            self.candidates.truncate(kept);
            total = self.candidates.iter().map(|c| c.weight).sum();
        }
        if self.params.min_p > 0.0 {
            let least = (self.params.min_p * ONE) as u64;
            self.candidates.retain(|c| c.weight >= least);
            total = self.candidates.iter().map(|c| c.weight).sum();
        }
        let mut drawn = self.random.below(total);
        for candidate in &self.candidates {
            match drawn.checked_sub(candidate.weight) {
                Some(rest) => drawn = rest,
                None => return Some(candidate.token),
            }
        }
        None
    }

    /// Divides the positive logits of seen tokens, multiplies the negative ones. Source: Keskar et al. 2019,
    /// arXiv:1909.05858, section 4.1, with the treatment of signs that became usual.
    fn penalize(&mut self) {
        let penalty = self.params.repetition_penalty;
        for token in &self.seen {
            let score = &mut self.scores[*token as usize];
            *score = if *score < 0.0 {
                *score * penalty
            } else {
                *score / penalty
            };
        }
    }

    /// Fills `candidates` with what top-k leaves, and the weight of each. In order of likelihood with top-k, by id
    /// without.
    fn weigh(&mut self, highest: f32) {
        let temperature = self.params.temperature;
        let weight = |score: f32| weight(score, highest, temperature);
        self.candidates.clear();
        if self.top.k() > 0 {
            let top = self.top.select(&self.scores);
            self.candidates
                .extend(top.iter().map(|(score, token)| Candidate {
                    weight: weight(*score),
                    token: *token,
                }));
        } else {
            let scores = self.scores.iter().zip(0u32..);
            self.candidates
                .extend(scores.map(|(score, token)| Candidate {
                    weight: weight(*score),
                    token,
                }));
        }
    }
}

/// The weight of a token with logit `score` beside the best one's.
fn weight(score: f32, highest: f32, temperature: f32) -> u64 {
    (exp_nonpositive((score - highest) / temperature) * ONE) as u64
}

/// Minus infinity is a logit like any other: the model rules the token out.
fn check_finite(scores: &[f32]) -> Result<(), SampleError> {
    let is_bad = |score: &f32| score.is_nan() || *score == f32::INFINITY;
    // Without a branch a token, which is the usual case, then the culprit.
    if !scores.iter().fold(false, |bad, score| bad | is_bad(score)) {
        return Ok(());
    }
    match scores.iter().zip(0u32..).find(|(score, _)| is_bad(score)) {
        Some((value, token)) => Err(SampleError::NotFinite {
            token,
            value: *value,
        }),
        None => Ok(()),
    }
}
