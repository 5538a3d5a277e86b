//! The gate of a feed-forward network, in the layout of the product that follows.
//!
//! `a = gelu(gate) * up`, GELU by its tanh approximation; `activations = a` in multiples of a 127th of each token's
//! largest.
//!
//! | buffer | layout |
//! |---|---|
//! | gate and up | `[tokens/8][2 * width, padded][8]` bfloat16: blocks of 16 rows alternate, gate before up, as a product with interleaved weights leaves them |
//! | table | a header for each core |
//! | activations | what [`super::linear::pack::activations`] writes |
//!
//! A token's scale is known when all of it was seen. A core keeps as many chunks as it has room for, in bfloat16; the
//! rest comes a second time and is computed again. Functions are within half a percent (`arithmetic`).

pub mod pack;
mod program;
#[cfg(test)]
pub(in crate::design) mod tests;

use super::linear::{BLOCK_ROWS, PANEL};
use super::prepare::{Activations, MOST_REPETITIONS};
use super::vector::schedule::{Round, Walk};
use super::vector::{PanelCosts, Prediction, QUEUE, Vector};
use crate::array::Array;

/// A gate for so many tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gelu {
    /// Columns of the matrix that follows.
    pub width: u32,
    /// The layout that is written.
    pub layout: Activations,
}

/// The sequence's buffers.
const GATE_UP: usize = 0;
const TABLE: usize = 1;
const ACTIVATIONS: usize = 2;

impl Gelu {
    /// The name of its sequence.
    pub fn name(&self) -> String {
        let layout = self.layout;
        let crossed = if layout.is_crossed { "_crossed" } else { "" };
        format!(
            "gelu_{}_panels_of_{}_for_{}x{}x{}{crossed}",
            layout.panels, self.width, layout.passes, layout.depth, layout.pairs
        )
    }

    fn stored(&self) -> u32 {
        self.width.next_multiple_of(BLOCK_ROWS)
    }

    fn chunks(&self, design: &Vector, array: &Array) -> u32 {
        self.width.div_ceil(design.block(array))
    }

    /// Chunks that a core keeps; where they are not all, one more has room beside them.
    fn kept(&self, design: &Vector, array: &Array) -> u32 {
        let room = design.kept / design.chunk;
        let chunks = self.chunks(design, array);
        if chunks <= room {
            chunks
        } else {
            room.saturating_sub(1)
        }
    }

    /// Whether a configuration can do it.
    pub fn is_done_by(&self, design: &Vector, array: &Array) -> bool {
        self.layout.is_written_by(design, array, self.width)
            && design.chunk.is_multiple_of(BLOCK_ROWS)
            && design.kept >= design.chunk
            && u64::from(self.chunks(design, array) - self.kept(design, array))
                <= MOST_REPETITIONS * QUEUE as u64
    }

    /// Bytes of its buffers.
    pub fn buffer_bytes(&self, design: &Vector, array: &Array) -> Vec<u64> {
        // Elements are whole: the last panel's reads past it.
        let panels = u64::from(self.layout.panels * self.stored());
        let padded = self.width.next_multiple_of(design.block(array));
        let beyond = u64::from(padded - self.stored());
        vec![
            (panels + beyond) * u64::from(2 * PANEL * 2),
            u64::from(array.columns) * self.element_bytes(design, array),
            self.layout.bytes,
        ]
    }

    fn element_bytes(&self, design: &Vector, array: &Array) -> u64 {
        u64::from(design.in_bytes() * array.core_rows)
    }

    /// All columns' transfers.
    pub(crate) fn rounds(&self, design: &Vector, array: &Array) -> Vec<Vec<Round>> {
        let words = self.element_bytes(design, array) / 4;
        let (chunks, kept) = (self.chunks(design, array), self.kept(design, array));
        (0..array.columns)
            .map(|column| {
                let mut rounds = Vec::new();
                let panels = self.layout.panels_of(array, column);
                if panels > 0 {
                    rounds.push(Round {
                        inputs: vec![Walk::run(TABLE, u64::from(column) * words, words)],
                        outputs: Vec::new(),
                    });
                }
                for at in 0..panels {
                    let panel = at * array.columns + column;
                    let inputs = self.walks(design, array, panel, 0..chunks);
                    let mut inputs: Vec<Round> = inputs
                        .chunks(QUEUE)
                        .map(|walks| Round {
                            inputs: walks.to_vec(),
                            outputs: Vec::new(),
                        })
                        .collect();
                    if kept < chunks {
                        // What comes again is taken only as activations go.
                        inputs.push(Round {
                            inputs: self.walks(design, array, panel, kept..chunks),
                            outputs: Vec::new(),
                        });
                    }
                    let outputs = self.layout.walks(design, array, ACTIVATIONS, panel);
                    rounds.extend(Round::with_outputs(inputs, outputs));
                }
                rounds
            })
            .collect()
    }

    /// Some chunks of a panel: of each block of features every core has a chunk, whose rows come in two elements.
    fn walks(
        &self,
        design: &Vector,
        array: &Array,
        panel: u32,
        chunks: std::ops::Range<u32>,
    ) -> Vec<Walk> {
        let element_words = u64::from(design.in_bytes() / 4);
        let block_words = 2 * element_words * u64::from(array.core_rows);
        Walk {
            buffer: GATE_UP,
            offset_words: u64::from(panel) * u64::from(self.stored() * PANEL)
                + u64::from(chunks.start) * block_words,
            walk: [
                (u64::from(chunks.end - chunks.start), block_words),
                (2, element_words),
                (u64::from(array.core_rows), 2 * element_words),
                (element_words, 1),
            ],
        }
        .cut(MOST_REPETITIONS)
    }

    /// What it costs.
    pub fn predict(&self, design: &Vector, array: &Array) -> Prediction {
        let chunks = f64::from(self.chunks(design, array));
        let seen = 2.0 * chunks - f64::from(self.kept(design, array));
        let chunk_bytes = 2.0 * self.element_bytes(design, array) as f64;
        let vectors = f64::from(design.chunk / 2);
        // Copying rows, 70 instructions of GELU, the gate and the largest; the integers.
        let cycles = seen * vectors * 84.0 + chunks * vectors * 10.0;
        let each = PanelCosts {
            read: seen * chunk_bytes,
            written: self.layout.panel_bytes(),
            cycles,
        };
        let table = self.element_bytes(design, array) as f64;
        Prediction::of_panels(array, self.layout.panels, table, each)
    }
}
