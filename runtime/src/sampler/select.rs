//! The most likely tokens, without sorting all of them.

use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) weight: u64,
    pub(super) token: u32,
}

/// More likely first, then lower ids.
fn by_score(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    // 0 and -0 are equal logits; there is no NaN.
    b.0.partial_cmp(&a.0)
        .unwrap_or(Ordering::Equal)
        .then(a.1.cmp(&b.1))
}

/// The highest score and its lowest id; `None` where nothing is above minus infinity.
pub(super) fn best(scores: &[f32]) -> Option<(u32, f32)> {
    let highest = highest(scores);
    let at = scores.iter().position(|score| *score == highest)?;
    (highest > f32::NEG_INFINITY).then_some((at as u32, highest))
}

/// In lanes, so that the loop becomes vector instructions.
fn highest(scores: &[f32]) -> f32 {
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = scores.as_chunks::<16>();
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *score);
        }
    }
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, higher)
}

/// Scores looked at together; most blocks hold nothing above the threshold.
const BLOCK: usize = 64;

/// Finds the k highest scores in one pass.
#[derive(Clone, Debug)]
pub(super) struct TopK {
    k: usize,
    /// Up to 2 k + a block; whenever it is full it is cut to the best k.
    found: Vec<(f32, u32)>,
}

impl TopK {
    pub(super) fn new(k: usize) -> Self {
        let room = if k == 0 { 0 } else { 2 * k + BLOCK };
        Self {
            k,
            found: Vec::with_capacity(room),
        }
    }

    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// The k best, most likely first; equal ones by id. Leaves out tokens at minus infinity.
    pub(super) fn select(&mut self, scores: &[f32]) -> &[(f32, u32)] {
        self.found.clear();
        // Ids rise, so that an equal score never displaces an earlier one.
        let mut threshold = f32::NEG_INFINITY;
        for (block, first) in scores.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
            let above = block
                .iter()
                .fold(false, |above, score| above | (*score > threshold));
            if !above {
                continue;
            }
            let entries = block.iter().copied().zip(first..);
            self.found
                .extend(entries.filter(|(score, _)| *score > threshold));
            if self.found.len() >= 2 * self.k {
                threshold = self.cut();
            }
        }
        self.cut();
        self.found.sort_unstable_by(by_score);
        &self.found
    }

    /// Keeps the k best; returns the lowest of them.
    fn cut(&mut self) -> f32 {
        if self.found.len() <= self.k {
            return f32::NEG_INFINITY;
        }
        let (_, last, _) = self.found.select_nth_unstable_by(self.k - 1, by_score);
        let threshold = last.0;
        self.found.truncate(self.k);
        threshold
    }
}

/// Moves to the front the fewest, most likely candidates whose weights reach `top_p` of `total`, and returns how many.
/// They are in order of likelihood, then by id.
pub(super) fn keep_nucleus(candidates: &mut [Candidate], total: u64, top_p: f32) -> usize {
    let by_weight =
        |a: &Candidate, b: &Candidate| b.weight.cmp(&a.weight).then(a.token.cmp(&b.token));
    // f64 holds the product well enough: the error is below one of 2^40 weights of a token.
    let wanted = ((total as f64) * f64::from(top_p)) as u64;
    // Quickselect on the mass: `low` candidates are in, those from `high` on are out.
    let (mut low, mut high, mut mass) = (0, candidates.len(), 0u64);
    while high - low > 32 {
        let middle = low + (high - low) / 2;
        candidates[low..high].select_nth_unstable_by(middle - low, by_weight);
        let better: u64 = candidates[low..middle].iter().map(|c| c.weight).sum();
        if mass + better >= wanted {
            high = middle;
        } else {
            mass += better;
            low = middle;
        }
    }
    candidates[low..high].sort_unstable_by(by_weight);
    let mut kept = low;
    while kept < high && (kept == 0 || mass < wanted) {
        mass += candidates[kept].weight;
        kept += 1;
    }
    candidates[..kept].sort_unstable_by(by_weight);
    kept
}
