//! What lies between the product of queries, keys and values and attention: norms of heads, rotation, and the layouts that
//! attention and the caches want.
//!
//! Heads of queries and keys are normed (where they have norms) and rotated in the pairs `(i, i + d/2)`, queries multiplied by
//! a factor; values go as they are.
//!
//! | buffer | layout |
//! |---|---|
//! | qkv | `[tokens/8][(query heads + 2 KV heads) * d][8]` bfloat16: the product's results |
//! | table | [`pack::table`]: headers, norms' weights, and each panel's angles |
//! | queries | `[tokens/8][query heads * d][8]` bfloat16 |
//! | keys | `[KV heads][positions][d]` bfloat16, from the first token's position on |
//! | values | `[KV heads][positions/8][d][8]` bfloat16, from the first token's position on |
//!
//! The first token's position is a multiple of 8, and the buffers of keys and values begin there: the same sequence serves
//! every position. They may be parts of one cache, in which each head's values lie behind its keys. Panels come in rounds of as many as a column has cores, one a core; a last round that is not full is
//! done whole, so the product's results, the queries and the caches have room for whole rounds ([`Rope::panels`]), and what
//! lies behind the last token is numbers of no meaning. Tokens of a dispatch do not reach over the end of a ring.

pub mod pack;
mod program;
#[cfg(test)]
pub(in crate::design) mod tests;

use super::linear::PANEL;
use super::prepare::MOST_REPETITIONS;
use super::vector::schedule::{Round, Walk};
use super::vector::{PanelCosts, Prediction, QUEUE, Vector};
use crate::array::Array;

pub(crate) use program::ROWS_AT;

/// Rotation for so many tokens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    /// Tokens.
    pub tokens: u32,
    /// Heads of queries.
    pub query_heads: u32,
    /// Heads of keys, and of values.
    pub kv_heads: u32,
    /// Features of a head.
    pub head: u32,
    /// Positions from one head of a cache to the next: twice its capacity where a head's values lie behind its keys.
    pub positions: u32,
    /// What queries are multiplied by.
    pub query_factor: f32,
    /// Added to mean squares.
    pub eps: f32,
    /// Whether queries are normed.
    pub query_norm: bool,
    /// Whether keys are.
    pub key_norm: bool,
}

/// The sequence's buffers.
const QKV: usize = 0;
const TABLE: usize = 1;
const QUERIES: usize = 2;
const KEYS: usize = 3;
const VALUES: usize = 4;

impl Rope {
    /// The name of its sequence.
    pub fn name(&self) -> String {
        let norms = match (self.query_norm, self.key_norm) {
            (false, false) => "",
            (true, false) => "_query_norm",
            (false, true) => "_key_norm",
            (true, true) => "_norms",
        };
        format!(
            "rope_{}_tokens_{}_{}_heads_of_{}_in_{}{norms}",
            self.tokens, self.query_heads, self.kv_heads, self.head, self.positions
        )
    }

    /// Panels, in whole rounds.
    pub fn panels(&self, array: &Array) -> u32 {
        self.tokens
            .div_ceil(PANEL)
            .next_multiple_of(array.core_rows)
    }

    fn heads(&self) -> u32 {
        self.query_heads + 2 * self.kv_heads
    }

    /// Whether a configuration can do it.
    pub fn is_done_by(&self, design: &Vector, array: &Array) -> bool {
        self.head <= design.most_head
            && self.head.is_multiple_of(design.chunk)
            && self.head.is_multiple_of(16)
            && u64::from(self.kv_heads) <= MOST_REPETITIONS
            && self.panels(array) * PANEL <= self.positions
    }

    fn position_words(&self) -> u64 {
        u64::from(self.head / 2)
    }

    /// Bytes of its buffers.
    pub fn buffer_bytes(&self, design: &Vector, array: &Array) -> Vec<u64> {
        let tokens = u64::from(self.panels(array) * PANEL);
        let head_bytes = u64::from(self.head) * 2;
        let last_head = u64::from(self.kv_heads - 1) * u64::from(self.positions);
        vec![
            tokens * u64::from(self.heads()) * head_bytes,
            self.table_bytes(design, array),
            tokens * u64::from(self.query_heads) * head_bytes,
            (last_head + tokens) * head_bytes,
            (last_head + tokens) * head_bytes,
        ]
    }

    fn element_bytes(&self, design: &Vector, array: &Array) -> u64 {
        u64::from(design.in_bytes() * array.core_rows)
    }

    /// Elements of both norms' weights.
    fn weight_elements(&self, design: &Vector) -> u32 {
        self.head / design.chunk
    }

    /// Words of a panel's angles: cosines, then sines, of half a head each.
    fn angle_words(&self) -> u64 {
        u64::from(self.head * PANEL)
    }

    fn angles_at_words(&self, design: &Vector, array: &Array) -> u64 {
        u64::from(array.columns + self.weight_elements(design)) * self.element_bytes(design, array)
            / 4
    }

    fn table_bytes(&self, design: &Vector, array: &Array) -> u64 {
        let angles = u64::from(self.panels(array)) * self.angle_words();
        (self.angles_at_words(design, array) + angles) * 4
    }

    /// Rounds of a column: they take turns.
    fn rounds_of(&self, array: &Array, column: u32) -> u32 {
        let rounds = self.panels(array) / array.core_rows;
        (rounds + array.columns - 1 - column) / array.columns
    }

    /// All columns' transfers.
    pub(crate) fn rounds(&self, design: &Vector, array: &Array) -> Vec<Vec<Round>> {
        (0..array.columns)
            .map(|column| {
                let count = self.rounds_of(array, column);
                let mut rounds = Vec::new();
                if count > 0 {
                    let words = self.element_bytes(design, array) / 4;
                    let weights = u64::from(self.weight_elements(design)) * words;
                    rounds.push(Round {
                        inputs: vec![
                            Walk::run(TABLE, u64::from(column) * words, words),
                            Walk::run(TABLE, u64::from(array.columns) * words, weights),
                        ],
                        outputs: Vec::new(),
                    });
                }
                rounds.extend((0..count).flat_map(|at| {
                    let panel = (at * array.columns + column) * array.core_rows;
                    self.round(design, array, u64::from(panel))
                }));
                rounds
            })
            .collect()
    }

    /// A panel for each core of a column.
    fn round(&self, design: &Vector, array: &Array, panel: u64) -> Vec<Round> {
        let cores = u64::from(array.core_rows);
        // Pieces of some panels' equal parts, in turn.
        let turns = |buffer, offset_words, words: u64, panel_words: u64, part_bytes: u32| {
            let part = u64::from(part_bytes / 4);
            Walk {
                buffer,
                offset_words,
                walk: [
                    (1, 0),
                    (words / part, part),
                    (cores, panel_words),
                    (part, 1),
                ],
            }
        };
        let head_words = self.angle_words() / 2;
        let qkv_words = u64::from(self.heads()) * head_words;
        let query_words = u64::from(self.query_heads) * head_words;
        // A stride of a large cache is too long for a descriptor: then each head has its own.
        let stride = u64::from(self.positions) * self.position_words();
        let together = match stride <= u64::from(array.shim.max_stride_words) {
            true => self.kv_heads,
            false => 1,
        };
        let heads = |buffer: usize| {
            (0..self.kv_heads / together).map(move |head| {
                let mut walk = turns(
                    buffer,
                    panel * head_words + u64::from(head) * stride,
                    head_words,
                    head_words,
                    design.out_bytes(),
                );
                if together > 1 {
                    walk.walk[0] = (u64::from(together), stride);
                }
                walk
            })
        };
        let queries = turns(
            QUERIES,
            panel * query_words,
            query_words,
            query_words,
            design.out_bytes(),
        );
        // With how many heads each is done.
        let outputs: Vec<(Walk, u32)> = std::iter::once((queries, self.query_heads))
            .chain(heads(KEYS).map(|walk| (walk, together)))
            .chain(heads(VALUES).map(|walk| (walk, together)))
            .collect();
        let angles = turns(
            TABLE,
            self.angles_at_words(design, array) + panel * self.angle_words(),
            self.angle_words(),
            self.angle_words(),
            design.in_bytes(),
        );
        let mut first_head = 0;
        outputs
            .chunks(QUEUE)
            .map(|outputs| {
                // What comes in is waited for: no more than these outputs take.
                let heads: u32 = outputs.iter().map(|(_, heads)| heads).sum();
                let own = turns(
                    QKV,
                    panel * qkv_words + u64::from(first_head) * head_words,
                    u64::from(heads) * head_words,
                    qkv_words,
                    design.in_bytes(),
                );
                let is_first = first_head == 0;
                first_head += heads;
                Round {
                    inputs: is_first
                        .then_some(angles)
                        .into_iter()
                        .chain([own])
                        .collect(),
                    outputs: outputs.iter().map(|(walk, _)| *walk).collect(),
                }
            })
            .collect()
    }

    /// What it costs.
    pub fn predict(&self, design: &Vector, array: &Array) -> Prediction {
        let vectors = |heads: u32| f64::from(heads * self.head) / 2.0;
        let head_bytes = f64::from(self.head * PANEL * 2);
        let heads = f64::from(self.heads());
        // Copied in and out; normed and rotated; keys' words move one by one.
        let cycles = vectors(self.heads()) * 7.0
            + vectors(self.query_heads + self.kv_heads) * 34.0
            + vectors(self.kv_heads) * 18.0;
        let angles = f64::from(self.head * PANEL * 4);
        // A round is a panel a core.
        let cores = f64::from(array.core_rows);
        let each = PanelCosts {
            read: cores * (heads * head_bytes + angles),
            written: cores * heads * head_bytes,
            cycles,
        };
        let rounds = self.panels(array) / array.core_rows;
        let table =
            f64::from(1 + self.weight_elements(design)) * self.element_bytes(design, array) as f64;
        Prediction::of_panels(array, rounds, table, each)
    }
}
