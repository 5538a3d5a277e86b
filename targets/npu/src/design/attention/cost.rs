//! What attention costs on the array.
//!
//! A column works through its items one after another. Its cores compute while the cache streams past, but hold little
//! of it: while they make weights of scores, the stream stands still once their FIFO is full. So a block takes as long as
//! its arithmetic, or as its stream and what of the softmax outlasts the FIFO. All columns share the way to DDR.

use super::{Attention, CACHE_DEPTH, PANEL, Shape};
use crate::array::{Array, Operands};
use crate::cost::Bound;

/// Cycles of a core for 16 lanes of f32 multiplied: the vector unit has no such product, and makes it of several of
/// bfloat16.
const MULTIPLY_CYCLES: f64 = 16.0;
/// Cycles to take and to give an element of a FIFO, and to begin a loop.
const LOCK_CYCLES: f64 = 20.0;
const LOOP_CYCLES: f64 = 8.0;

/// Predicted figures of one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Time of the busiest column, DDR aside.
    pub column_s: f64,
    /// Of that, what its cores compute.
    pub compute_s: f64,
    /// Of that, what its stream of the cache takes.
    pub stream_s: f64,
    /// Time of all traffic with DDR.
    pub memory_s: f64,
    /// Bytes read and written in DDR.
    pub ddr_bytes: f64,
    /// Operations of the attention itself, of positions that are seen: two a multiplication and addition.
    pub operations: f64,
}

impl Prediction {
    /// The call's time, without the dispatch.
    pub fn seconds(&self) -> f64 {
        self.column_s.max(self.memory_s)
    }

    /// Useful operations a second, in units of 10^12.
    pub fn tops(&self) -> f64 {
        self.operations / self.seconds() / 1e12
    }

    /// What the time is bound by: streams within the array count as memory.
    pub fn bound(&self) -> Bound {
        if self.compute_s >= self.stream_s.max(self.memory_s) {
            Bound::Compute
        } else {
            Bound::Memory
        }
    }
}

/// Cycles of a core for a block of keys and the values to them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BlockCycles {
    /// Scores.
    pub scores: f64,
    /// Scores to weights, and their sums.
    pub softmax: f64,
    /// Sums of values.
    pub values: f64,
}

impl BlockCycles {
    /// All of them.
    pub fn all(&self) -> f64 {
        self.scores + self.softmax + self.values
    }
}

impl Attention {
    /// Cycles of a core for a block of keys and the values to them.
    pub fn block_cycles(&self, array: &Array) -> BlockCycles {
        let shape = array.matrix(Operands::Bf16);
        let native = f64::from(shape.m * shape.k * shape.n) / f64::from(shape.macs_per_cycle);
        let queries = f64::from(self.tile.queries);
        let positions = f64::from(self.tile.positions);
        let elements = f64::from(self.head_dim / self.tile.features);
        let eights = f64::from(self.tile.features / 8);
        // Blocks of 2 x 4 native tiles: 6 operands loaded for 8 products, sums loaded and stored around them. A load takes
        // as long as a product; a store twice as long, beside it.
        let block = |steps: f64| (8.0 * steps * native).max(6.0 * steps + 8.0).max(16.0);
        let scores = queries / 16.0 * positions / 8.0 * (block(eights) + LOOP_CYCLES);
        let values = queries / 16.0 * eights * (block(positions / 8.0) + LOOP_CYCLES);
        // Of 16 scores: cleared, measured in five steps, made weights in eight (a turn of 32 takes 16).
        let mut lanes = 2.0 + 5.0 + 8.0;
        if self.cap.is_some() {
            // Four products of the series, six of the inverse, one of the cap, and two simple steps for each.
            lanes += 11.0 * (MULTIPLY_CYCLES + 2.0);
        }
        let sum_weights = queries / 4.0 * (positions / 8.0 * native + LOOP_CYCLES);
        BlockCycles {
            scores: elements * (scores + LOCK_CYCLES),
            softmax: queries * positions / 16.0 * lanes + sum_weights,
            values: elements * (values + LOCK_CYCLES),
        }
    }

    /// Cycles that a core computes once an item: sums are cleared, divided and rounded; scores are hidden in blocks that
    /// some query of a core does not see; sums are rescaled in blocks that are the first that some query sees.
    pub fn item_cycles(&self, array: &Array, is_windowed: bool) -> f64 {
        let tiles = f64::from(self.tile.queries / 4 * self.sum_tiles());
        let scores = f64::from(self.tile.queries * self.tile.positions) / 16.0;
        let blocks = |panels: u32| f64::from((panels * PANEL).div_ceil(self.tile.positions) + 1);
        let edges = blocks(self.panels_of_item(array)) * if is_windowed { 2.0 } else { 1.0 };
        let firsts = if is_windowed {
            blocks(self.panels_of_core())
        } else {
            1.0
        };
        let hide = 8.0 * scores + LOOP_CYCLES * f64::from(self.tile.queries / 4);
        tiles * (2.0 + MULTIPLY_CYCLES + 3.0) + firsts * 5.0 * tiles + edges * hide
    }

    /// What a call of a shape costs.
    pub fn predict(&self, array: &Array, shape: Shape) -> Prediction {
        let stream = |bytes: u32| f64::from(bytes / array.rates.core_stream_bytes_per_cycle);
        let tile_bytes = self.tile.queries * self.head_dim * 2;
        let block = self.block_cycles(array);
        let element = stream(self.cache_element() * 2);
        let waits = (block.softmax - f64::from(CACHE_DEPTH) * element).max(0.0);
        let block_column = block.all().max(2.0 * stream(self.block() * 2) + waits);
        let item_cycles = self.item_cycles(array, shape.window.is_some());
        // The header's stream, and units of results that leave before the next is begun.
        let item_column =
            item_cycles + stream(self.block() * 2) + stream(tile_bytes) - 2.0 * element;
        // The first queries come and the last results leave while nothing else is done.
        let ends = 2.0 * stream(tile_bytes * array.core_rows);
        let columns = array.columns as usize;
        let (mut compute, mut column) = (vec![0.0_f64; columns], vec![ends; columns]);
        let mut streams = compute.clone();
        let mut read = 0.0;
        let items = self.items(array, shape);
        for item in &items {
            let at = item.column as usize;
            let blocks = f64::from(item.blocks);
            compute[at] += blocks * block.all() + item_cycles;
            column[at] += blocks * block_column + item_column;
            streams[at] += (2.0 * blocks + 1.0) * stream(self.block() * 2);
            read += (2.0 * blocks + 1.0) * f64::from(self.block() * 2)
                + f64::from(tile_bytes * array.core_rows);
        }
        let most = |columns: &[f64]| columns.iter().copied().fold(0.0, f64::max);
        let written = items.len() as f64 * f64::from(tile_bytes * array.core_rows);
        let seen: f64 = (1..=shape.tokens)
            .map(|token| shape.context.saturating_sub(shape.tokens) + token)
            .map(|seen| f64::from(seen.min(shape.window.unwrap_or(u32::MAX))))
            .sum();
        Prediction {
            column_s: most(&column) / array.clock_hz,
            compute_s: most(&compute) / array.clock_hz,
            stream_s: most(&streams) / array.clock_hz,
            memory_s: read / array.rates.ddr_bytes_per_s_in_gemm,
            ddr_bytes: read + written,
            operations: 4.0 * seen * f64::from(self.query_heads * self.head_dim),
        }
    }
}
