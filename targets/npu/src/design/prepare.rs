//! The prologue of a product: norms, the residual stream, and quantization to 8 bits.
//!
//! ```text
//! t = post_norm ? rms_norm(x, post_norm) : x
//! s = residual + t                               (written where there is a residual)
//! a = norm ? rms_norm(s, norm) : s
//! activations = a in multiples of a 127th of each token's largest
//! ```
//!
//! | buffer | layout |
//! |---|---|
//! | `x`, where there is one | `[tokens/8][features, padded to 16][8]` bfloat16: a product's results |
//! | residual, where there is one | `[tokens/8][features, padded][8]` f32, [`Prepare::padded_features`] |
//! | table | [`pack::table`] |
//! | sums, where there is a residual | as the residual, another place |
//! | activations | what [`super::linear::pack::activations`] writes |
//!
//! Tokens are padded as the product pads them, and the padding is computed like all others: its inputs must be numbers.
//! Features that are padding must be 0 in inputs, and are 0 in sums; what is read of `x` past its last panel counts for
//! nothing.
//!
//! A panel is read once: `x` first, whose sum of squares the post norm needs, then the residual. What is between the two
//! passes, and then `s` times the norm's weights until its scale is known, a core keeps in bfloat16.

pub mod pack;
mod program;
#[cfg(test)]
pub(in crate::design) mod tests;

use super::linear::{self, BLOCK_ROWS, Linear, PANEL};
use super::vector::header::{Header, StageWord, Word};
use super::vector::schedule::{Round, Walk};
use super::vector::{PanelCosts, Prediction, Vector};
use crate::array::Array;

/// Most repetitions of a descriptor's outermost dimension.
pub(super) const MOST_REPETITIONS: u64 = 64;

/// What comes in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Inputs {
    /// Whether there is an input beside the residual.
    pub x: bool,
    /// Whether it is normed.
    pub post_norm: bool,
    /// Whether there is a residual.
    pub residual: bool,
    /// Whether their sum is normed.
    pub norm: bool,
}

/// A prologue for so many tokens, in the layout of the product that follows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prepare {
    /// What comes in.
    pub inputs: Inputs,
    /// Columns of the matrix that follows.
    pub features: u32,
    /// Added to mean squares.
    pub eps: f32,
    /// The layout that is written.
    pub layout: Activations,
}

/// The layout of a product's activations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Activations {
    /// Panels, the padding included.
    pub panels: u32,
    /// Features of a pass.
    pub depth: u32,
    /// Passes, without that of the header.
    pub passes: u32,
    /// Pairs of panels that a core multiplies in a block of tokens.
    pub pairs: u32,
    /// Whether the second and third of four groups of four features change places.
    pub is_crossed: bool,
    /// Bytes of the buffer.
    pub bytes: u64,
}

impl Activations {
    /// The layout that a product of this shape reads.
    pub fn of(linear: &Linear, array: &Array, shape: linear::Shape) -> Self {
        Self {
            panels: linear.padded_tokens(array, shape) / PANEL,
            depth: linear.tile.depth,
            passes: linear.passes(shape.depth),
            pairs: linear.pairs(array, shape),
            is_crossed: linear.form.column(4) != 4,
            bytes: linear.activation_bytes(array, shape),
        }
    }

    /// Whether a configuration can write it, for so many features.
    ///
    /// Either passes are whole elements, or all of them together are, or half of the smallest element is left over.
    pub(super) fn is_written_by(&self, design: &Vector, array: &Array, features: u32) -> bool {
        let block = design.block(array);
        let positions = self.passes * self.depth;
        let left = positions % block;
        self.panels.is_multiple_of(2)
            && features.next_multiple_of(block) <= positions
            && (self.depth.is_multiple_of(block)
                || self.depth > block
                    && self.depth.is_multiple_of(BLOCK_ROWS)
                    && (left == 0
                        || 2 * left == block && (self.depth - left).is_multiple_of(block))
                    && self.depth - block >= left)
    }

    /// A header with what a core needs to write it, in the last stage, for `features` features.
    pub(super) fn header(&self, design: &Vector, array: &Array, features: u32) -> Header {
        let block = design.block(array);
        let chunks = features.div_ceil(block);
        let header_rest = match self.depth % block {
            0 => self.depth / block - 1,
            _ => 0,
        };
        Header::new()
            .stage(2, StageWord::Begins, 1)
            .stage(2, StageWord::Chunks, chunks)
            .count(Word::SecondGroup, if self.is_crossed { 2 } else { 1 })
            .count(
                Word::Zeros,
                (self.passes * self.depth).div_ceil(block) - chunks,
            )
            .count(Word::HeaderRest, header_rest)
            .copied(&[self.passes, self.pairs])
    }

    /// Panels of a column: they take turns.
    pub(super) fn panels_of(&self, array: &Array, column: u32) -> u32 {
        (self.panels + array.columns - 1 - column) / array.columns
    }

    /// Where a panel goes: its part of each pass, the header's first.
    ///
    /// Where passes are no whole elements, only the first element of the header is written, and what the last element of
    /// zeros has too many goes behind that.
    pub(super) fn walks(
        &self,
        design: &Vector,
        array: &Array,
        buffer: usize,
        panel: u32,
    ) -> Vec<Walk> {
        let words = |positions: u32| u64::from(positions * PANEL / 4);
        let half_words = words(self.depth);
        let pass_words = 2 * half_words;
        let passes = u64::from(self.passes + 1);
        let first = u64::from(panel / 2) * passes * pass_words + u64::from(panel % 2) * half_words;
        let some_passes = |from: u64, count: u64| Walk {
            buffer,
            offset_words: first + from * pass_words,
            walk: [
                (1, 0),
                (count, pass_words),
                (2, half_words / 2),
                (half_words / 2, 1),
            ],
        };
        let block = design.block(array);
        if self.depth.is_multiple_of(block) {
            return vec![some_passes(0, passes)];
        }
        let left = self.passes * self.depth % block;
        let mut walks = vec![Walk::run(buffer, first, words(block))];
        if left == 0 {
            walks.push(some_passes(1, passes - 1));
            return walks;
        }
        let last_pass = first + (passes - 1) * pass_words;
        if passes > 2 {
            walks.push(some_passes(1, passes - 2));
        }
        walks.push(Walk::run(buffer, last_pass, words(self.depth - left)));
        let behind_header = first + words(block);
        let tail = last_pass + words(self.depth - left);
        walks.push(Walk {
            buffer,
            offset_words: behind_header,
            walk: [(1, 0), (1, 0), (2, tail - behind_header), (words(left), 1)],
        });
        walks
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> f64 {
        f64::from((self.passes + 1) * self.depth * PANEL)
    }
}

/// Where each buffer is among a sequence's.
struct Buffers {
    x: usize,
    residual: usize,
    table: usize,
    sums: usize,
    activations: usize,
}

impl Prepare {
    /// The name of its sequence.
    pub fn name(&self) -> String {
        let Inputs {
            x,
            post_norm,
            residual,
            norm,
        } = self.inputs;
        let mut name = format!(
            "prepare_{}_panels_of_{}_for_{}x{}x{}",
            self.layout.panels,
            self.features,
            self.layout.passes,
            self.layout.depth,
            self.layout.pairs
        );
        for (present, word) in [
            (x, "_x"),
            (post_norm, "_post"),
            (residual, "_residual"),
            (norm, "_norm"),
            (self.layout.is_crossed, "_crossed"),
        ] {
            if present {
                name.push_str(word);
            }
        }
        name
    }

    /// Features of a panel of the residual and of sums.
    pub fn padded_features(&self, design: &Vector, array: &Array) -> u32 {
        self.features.next_multiple_of(design.block(array))
    }

    fn chunks(&self, design: &Vector, array: &Array) -> u32 {
        self.features.div_ceil(design.block(array))
    }

    /// Whether a configuration can do it.
    pub fn is_done_by(&self, design: &Vector, array: &Array) -> bool {
        self.layout.is_written_by(design, array, self.features)
            && (self.inputs.x || self.inputs.residual)
            && self.features <= design.most_normed
            && self.chunks(design, array) * design.chunk <= design.kept
            && u64::from(self.chunks(design, array)) <= 2 * MOST_REPETITIONS
    }

    fn buffers(&self) -> Buffers {
        let Inputs { x, residual, .. } = self.inputs;
        let (x, residual) = (usize::from(x), usize::from(residual));
        Buffers {
            x: 0,
            residual: x,
            table: x + residual,
            sums: x + residual + 1,
            activations: x + 2 * residual + 1,
        }
    }

    /// Bytes of its buffers, in the order of the module's table.
    pub fn buffer_bytes(&self, design: &Vector, array: &Array) -> Vec<u64> {
        let panels = u64::from(self.layout.panels * PANEL);
        // Elements are whole: the last panel's reads past it.
        let stored = self.features.next_multiple_of(BLOCK_ROWS);
        let beyond = u64::from((self.padded_features(design, array) - stored) * PANEL);
        let x = (panels * u64::from(stored) + beyond) * 2;
        let residual = panels * u64::from(self.padded_features(design, array)) * 4;
        let table = self.table_bytes(design, array);
        let mut bytes = Vec::new();
        bytes.extend(self.inputs.x.then_some(x));
        bytes.extend(self.inputs.residual.then_some(residual));
        bytes.push(table);
        bytes.extend(self.inputs.residual.then_some(residual));
        bytes.push(self.layout.bytes);
        bytes
    }

    /// Bytes of a column's element.
    fn element_bytes(&self, design: &Vector, array: &Array) -> u64 {
        u64::from(design.in_bytes() * array.core_rows)
    }

    /// Headers of all columns, weights of all chunks.
    fn table_bytes(&self, design: &Vector, array: &Array) -> u64 {
        u64::from(array.columns + self.chunks(design, array)) * self.element_bytes(design, array)
    }

    /// All columns' transfers.
    pub(crate) fn rounds(&self, design: &Vector, array: &Array) -> Vec<Vec<Round>> {
        (0..array.columns)
            .map(|column| {
                let panels = self.layout.panels_of(array, column);
                let mut rounds = Vec::new();
                if panels > 0 {
                    rounds.push(self.first_round(design, array, column));
                }
                rounds.extend(
                    (0..panels).flat_map(|at| {
                        self.panel_rounds(design, array, at * array.columns + column)
                    }),
                );
                rounds
            })
            .collect()
    }

    fn first_round(&self, design: &Vector, array: &Array, column: u32) -> Round {
        let words = self.element_bytes(design, array) / 4;
        let table = self.buffers().table;
        let chunks = u64::from(self.chunks(design, array));
        Round {
            inputs: vec![
                Walk::run(table, u64::from(column) * words, words),
                Walk::run(table, u64::from(array.columns) * words, chunks * words),
            ],
            outputs: Vec::new(),
        }
    }

    fn panel_rounds(&self, design: &Vector, array: &Array, panel: u32) -> Vec<Round> {
        let buffers = self.buffers();
        let element_words = self.element_bytes(design, array) / 4;
        let chunks = u64::from(self.chunks(design, array));
        let mut round = Round::default();
        if self.inputs.x {
            let stored = u64::from(self.features.next_multiple_of(BLOCK_ROWS)) * 4;
            let from = u64::from(panel) * stored;
            round
                .inputs
                .push(Walk::run(buffers.x, from, chunks * element_words));
        }
        if self.inputs.residual {
            let panel_words = u64::from(self.padded_features(design, array) * PANEL);
            let chunk_words = u64::from(design.chunk * PANEL);
            // Of each block of features each core has a chunk, in pieces of an element's part.
            let walk = |buffer: usize, part_bytes: u32| {
                let part_words = u64::from(part_bytes / 4);
                Walk {
                    buffer,
                    offset_words: u64::from(panel) * panel_words,
                    walk: [
                        (chunks, u64::from(array.core_rows) * chunk_words),
                        (chunk_words / part_words, part_words),
                        (u64::from(array.core_rows), chunk_words),
                        (part_words, 1),
                    ],
                }
                .cut(MOST_REPETITIONS)
            };
            round
                .inputs
                .extend(walk(buffers.residual, design.in_bytes()));
            round.outputs.extend(walk(buffers.sums, design.out_bytes()));
        }
        let activations = self.layout.walks(design, array, buffers.activations, panel);
        Round::with_outputs(vec![round], activations)
    }

    /// What it costs: of a panel every core does a quarter.
    pub fn predict(&self, design: &Vector, array: &Array) -> Prediction {
        let features = f64::from(self.padded_features(design, array));
        let bytes = |present: bool, each: u32| {
            if present {
                features * f64::from(each * PANEL)
            } else {
                0.0
            }
        };
        let read = bytes(self.inputs.x, 2) + bytes(self.inputs.residual, 4);
        let written = bytes(self.inputs.residual, 4) + self.layout.panel_bytes();
        let vectors = features / 2.0 / f64::from(array.core_rows);
        // Of a vector: loading and squaring x; two weights, four products of split numbers, the sum, its square, its
        // largest, and the way through the room; the integers.
        let cycles = vectors * (5.0 + 64.0 + 10.0);
        let table =
            f64::from(1 + self.chunks(design, array)) * self.element_bytes(design, array) as f64;
        let each = PanelCosts {
            read,
            written,
            cycles,
        };
        Prediction::of_panels(array, self.layout.panels, table, each)
    }
}
