//! The order of a product's transfers with DDR.
//!
//! A **unit** is one element of scales and the passes of weights that it is for; a block of outputs is one unit or
//! several. Two units, and two blocks, are under way at once: a shim channel queues four transfers, and a unit is two.

use super::streams::Streams;
use super::weights::ROW_SCALE_BYTES;
use super::{BLOCK_ROWS, Linear, PAIR, PANEL, Shape, padded_depth, padded_outputs};
use crate::aie::{Fifo, Sequence, Transfer};
use crate::array::Array;
use std::collections::VecDeque;

/// Units, and blocks of outputs, under way at once.
const UNDER_WAY: u32 = 2;
/// Most repetitions of one transfer.
const MOST_REPETITIONS: u32 = 64;

/// The sequence's buffers.
const ACTIVATIONS: usize = 0;
const WEIGHTS: usize = 1;
const SCALES: usize = 2;
const RESULTS: usize = 3;

/// Descriptors of a shim: of units, of results, of activations.
const UNIT_DESCRIPTORS: u32 = 0;
const RESULT_DESCRIPTORS: u32 = UNIT_DESCRIPTORS + 2 * UNDER_WAY;
const ACTIVATION_DESCRIPTORS: u32 = RESULT_DESCRIPTORS + 2 * UNDER_WAY;

/// A shape's transfers.
pub(super) struct Schedule<'d> {
    pub(super) design: &'d Linear,
    pub(super) array: &'d Array,
    pub(super) shape: Shape,
    pub(super) streams: &'d Streams,
}

/// Transfers of one kind under way: what each waits for, oldest first.
#[derive(Default)]
struct UnderWay {
    awaited: VecDeque<Vec<String>>,
    started: u32,
}

impl UnderWay {
    /// Waits for the oldest where as many as may be are under way; returns the number of the next, modulo those.
    fn next(&mut self, sequence: &Sequence<'_, '_>) -> u32 {
        if self.awaited.len() as u32 == UNDER_WAY {
            self.wait(sequence);
        }
        self.started += 1;
        (self.started - 1) % UNDER_WAY
    }

    /// Keeps the FIFOs of what was started, each as often as it is to be waited for.
    fn started(&mut self, fifos: Vec<String>) {
        self.awaited.push_back(fifos);
    }

    fn wait(&mut self, sequence: &Sequence<'_, '_>) {
        for fifo in self.awaited.pop_front().into_iter().flatten() {
            sequence.wait(&fifo);
        }
    }

    fn finish(mut self, sequence: &Sequence<'_, '_>) {
        while !self.awaited.is_empty() {
            self.wait(sequence);
        }
    }
}

impl Schedule<'_> {
    pub(super) fn write(&self, sequence: &Sequence<'_, '_>) {
        let rows_at_once = self.design.tile.outputs * self.array.columns;
        let blocks = padded_outputs(self.shape).div_ceil(rows_at_once);
        let mut activations = UnderWay::default();
        let mut units = UnderWay::default();
        let mut results = UnderWay::default();
        for token_block in 0..self.design.token_blocks(self.array, self.shape) {
            for block in 0..blocks {
                if block % MOST_REPETITIONS == 0 {
                    let number = activations.next(sequence);
                    let repetitions = (blocks - block).min(MOST_REPETITIONS);
                    activations.started(self.activations(
                        sequence,
                        token_block,
                        repetitions,
                        number,
                    ));
                }
                let number = results.next(sequence);
                results.started(self.results(sequence, token_block, block, number));
                for segment in 0..self.design.segments(self.shape.depth) {
                    let number = units.next(sequence);
                    units.started(self.unit(sequence, block, segment, number));
                }
            }
        }
        units.finish(sequence);
        results.finish(sequence);
        activations.finish(sequence);
    }

    /// The first row of a column's block. A last block that would reach past the matrix begins earlier, and computes
    /// some rows again.
    fn first_row(&self, block: u32, column: u32) -> u64 {
        let last = padded_outputs(self.shape) - self.design.tile.outputs;
        self.wanted_row(block, column).min(u64::from(last))
    }

    /// The first row that no block before computes, which may be none of the matrix's.
    fn wanted_row(&self, block: u32, column: u32) -> u64 {
        u64::from((block * self.array.columns + column) * self.design.tile.outputs)
    }

    fn activations(
        &self,
        sequence: &Sequence<'_, '_>,
        token_block: u32,
        repetitions: u32,
        number: u32,
    ) -> Vec<String> {
        let rows = u64::from(self.array.core_rows);
        let pairs = u64::from(self.design.pairs(self.array, self.shape));
        let pass_words = u64::from(PAIR * self.design.tile.depth / 4);
        let passes = u64::from(self.design.passes(self.shape.depth) + 1);
        let pair_words = passes * pass_words;
        for (row, (from_ddr, _)) in self.streams.activations.iter().enumerate() {
            // Rows take pairs in turn, so that the results of all rows lie in order.
            let first_pair = u64::from(token_block) * pairs * rows + row as u64;
            sequence.start(&Transfer {
                buffer: ACTIVATIONS,
                fifo: from_ddr.name.clone(),
                descriptor: ACTIVATION_DESCRIPTORS + number,
                offset_words: first_pair * pair_words,
                walk: [
                    (u64::from(repetitions), 0),
                    (passes, pass_words),
                    (pairs, rows * pair_words),
                    (pass_words, 1),
                ],
                is_awaited: true,
            });
        }
        names(
            self.streams
                .activations
                .iter()
                .map(|(from_ddr, _)| from_ddr),
        )
    }

    /// Scales and passes of a segment, all columns.
    fn unit(
        &self,
        sequence: &Sequence<'_, '_>,
        block: u32,
        segment: u32,
        number: u32,
    ) -> Vec<String> {
        let design = self.design;
        let tile = design.tile;
        let row_blocks = u64::from(tile.outputs / BLOCK_ROWS);
        let segments = u64::from(design.segments(self.shape.depth));
        let scale_words = u64::from(design.scale_block_bytes() / 4);
        let depth_bits = u64::from(padded_depth(self.shape) * design.form.bits());
        let block_words = depth_bits * u64::from(BLOCK_ROWS) / 32;
        let pass_words = u64::from(design.block_bytes() / 4);
        let first_pass = segment
            * design
                .passes_per_scales()
                .min(design.passes(self.shape.depth));
        let passes = (design.passes(self.shape.depth) - first_pass).min(design.passes_per_scales());
        for column in 0..self.array.columns {
            let first_block = self.first_row(block, column) / u64::from(BLOCK_ROWS);
            let fifo = &self.streams.weights[column as usize].0.name;
            sequence.start(&Transfer {
                buffer: SCALES,
                fifo: fifo.clone(),
                descriptor: UNIT_DESCRIPTORS + 2 * number,
                offset_words: (first_block * segments + u64::from(segment)) * scale_words,
                walk: if design.form.has_groups() {
                    [
                        (1, 0),
                        (1, 0),
                        (row_blocks, segments * scale_words),
                        (scale_words, 1),
                    ]
                } else {
                    // An element of weights is as long as so many of the block's scales.
                    [
                        (u64::from(tile.depth / ROW_SCALE_BYTES), 0),
                        (1, 0),
                        (1, 0),
                        (row_blocks * scale_words, 1),
                    ]
                },
                is_awaited: false,
            });
            sequence.start(&Transfer {
                buffer: WEIGHTS,
                fifo: fifo.clone(),
                descriptor: UNIT_DESCRIPTORS + 2 * number + 1,
                offset_words: first_block * block_words + u64::from(first_pass) * pass_words,
                walk: [
                    (1, 0),
                    (u64::from(passes), pass_words),
                    (row_blocks, block_words),
                    (pass_words, 1),
                ],
                is_awaited: true,
            });
        }
        names(self.streams.weights.iter().map(|(from_ddr, _)| from_ddr))
    }

    /// Where a block's results go, all columns. Rows that are computed again go behind the results: two transfers under
    /// way must not write the same place.
    fn results(
        &self,
        sequence: &Sequence<'_, '_>,
        token_block: u32,
        block: u32,
        number: u32,
    ) -> Vec<String> {
        let mut awaited = Vec::new();
        // A feature of a panel: 8 tokens in bfloat16.
        let feature_words = u64::from(PANEL * 2 / 4);
        let panel_words = u64::from(padded_outputs(self.shape)) * feature_words;
        let sixteen_words = u64::from(BLOCK_ROWS) * feature_words;
        let pairs = self.design.pairs(self.array, self.shape);
        let panels = u64::from(pairs * self.array.core_rows * PAIR / PANEL);
        let sixteens = u64::from(self.design.tile.outputs / BLOCK_ROWS);
        let behind = self.design.first_spare_byte(self.array, self.shape) / 4;
        for column in 0..self.array.columns {
            let first_row = self.first_row(block, column);
            let fifo = &self.streams.results[column as usize].1.name;
            let again = self.wanted_row(block, column) - first_row;
            let again = (again / u64::from(BLOCK_ROWS)).min(sixteens);
            let spare = u64::from(token_block * self.array.columns + column) * sixteens;
            let parts = [
                (
                    again,
                    behind + spare * panels * sixteen_words,
                    [panels * sixteen_words, sixteen_words],
                ),
                (
                    sixteens - again,
                    u64::from(token_block) * panels * panel_words
                        + first_row * feature_words
                        + again * sixteen_words,
                    [sixteen_words, panel_words],
                ),
            ];
            for (part, (count, offset_words, [step, panel])) in parts.into_iter().enumerate() {
                if count == 0 {
                    continue;
                }
                sequence.start(&Transfer {
                    buffer: RESULTS,
                    fifo: fifo.clone(),
                    descriptor: RESULT_DESCRIPTORS + 2 * number + part as u32,
                    offset_words,
                    walk: [(1, 0), (count, step), (panels, panel), (sixteen_words, 1)],
                    is_awaited: true,
                });
                awaited.push(fifo.clone());
            }
        }
        awaited
    }
}

fn names<'f>(fifos: impl Iterator<Item = &'f Fifo>) -> Vec<String> {
    fifos.map(|fifo| fifo.name.clone()).collect()
}
