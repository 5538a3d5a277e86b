//! What attention costs on the array.
//!
//! A column works through its items one after another: the time of an item is the slowest of its cores' work, of the
//! stream that brings them the cache, and of the column's part of DDR.

use super::{Attention, Shape};
use crate::array::{Array, Operands};
use crate::cost::Bound;

/// Cycles of a core for 16 lanes of f32 multiplied: the vector unit has none, and makes it of products of bfloat16.
const MULTIPLY_CYCLES: f64 = 16.0;
/// Cycles to take and to give an element of a FIFO, and to begin a loop.
const LOCK_CYCLES: f64 = 20.0;
const LOOP_CYCLES: f64 = 8.0;

/// Predicted figures of one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Time of the busiest column's cores.
    pub compute_s: f64,
    /// Time of the busiest column's stream of the cache.
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
        self.compute_s.max(self.stream_s).max(self.memory_s)
    }

    /// Useful operations a second, in units of 10^12.
    pub fn tops(&self) -> f64 {
        self.operations / self.seconds() / 1e12
    }

    /// What the time is bound by.
    pub fn bound(&self) -> Bound {
        if self.compute_s >= self.stream_s.max(self.memory_s) {
            Bound::Compute
        } else {
            Bound::Memory
        }
    }
}

impl Attention {
    /// Cycles of a core for a block of keys and the values to them.
    pub fn block_cycles(&self, array: &Array) -> f64 {
        let shape = array.matrix(Operands::Bf16);
        let native = f64::from(shape.m * shape.k * shape.n) / f64::from(shape.macs_per_cycle);
        let queries = f64::from(self.tile.queries);
        let positions = f64::from(self.tile.positions);
        let elements = f64::from(self.head_dim / self.tile.features);
        // Blocks of 2 x 4 native tiles: 6 operands loaded for 8 products, sums loaded and stored around them. A load takes
        // as long as a product; a store twice as long, beside it.
        let blocks = |steps: f64| (8.0 * steps * native).max(6.0 * steps + 8.0).max(16.0);
        let eights = f64::from(self.tile.features / 8);
        let score = queries / 16.0 * (positions / 8.0 * (blocks(eights) + LOOP_CYCLES));
        let sum = queries / 16.0 * (eights * (blocks(positions / 8.0) + LOOP_CYCLES));
        let sum_weights = queries / 4.0 * (positions / 8.0 * native + LOOP_CYCLES);
        // Of 16 scores: cleared, measured in five steps, made weights of in 8 (16 for 32).
        let mut softmax = queries * positions / 16.0 * (2.0 + 5.0 + 8.0);
        if self.cap.is_some() {
            // Four products of the series, six of the inverse, one of the cap; and as many simple steps again and half.
            softmax += queries * positions / 16.0 * (11.0 * MULTIPLY_CYCLES + 22.0);
        }
        elements * (score + sum + 2.0 * LOCK_CYCLES) + sum_weights + softmax
    }

    /// Cycles of a core for what an item has once: queries come in, sums are cleared, rescaled at the first block, divided
    /// and rounded.
    pub fn item_cycles(&self, array: &Array) -> f64 {
        let tiles = f64::from(self.tile.queries / 4) * f64::from(self.sum_tiles());
        let stream = f64::from(array.rates.core_stream_bytes_per_cycle);
        let out = f64::from(self.tile.queries * self.head_dim * 2) / stream;
        let clear = 2.0 * tiles;
        let raise = 5.0 * tiles;
        let divide = tiles * (MULTIPLY_CYCLES + 3.0);
        let hide = f64::from(self.tile.queries * self.tile.positions) / 16.0 * 6.0;
        // Results leave, and the next queries come, while others are divided; the last unit does not.
        clear + raise + divide.max(out) + out / f64::from(self.units()) + 2.0 * hide
    }

    /// What a call of a shape costs.
    pub fn predict(&self, array: &Array, shape: Shape) -> Prediction {
        let mut compute = vec![0.0_f64; array.columns as usize];
        let mut streams = compute.clone();
        let mut read = 0.0;
        let block_bytes = f64::from(self.block() * 2);
        let stream_rate = f64::from(array.rates.core_stream_bytes_per_cycle);
        let queries_bytes = f64::from(self.tile.queries * self.head_dim * 2 * array.core_rows);
        let items = self.items(array, shape);
        for item in &items {
            let column = item.column as usize;
            let blocks = f64::from(item.blocks);
            compute[column] += blocks * self.block_cycles(array) + self.item_cycles(array);
            let bytes = (2.0 * blocks + 1.0) * block_bytes;
            streams[column] += bytes / stream_rate;
            read += bytes + queries_bytes;
        }
        let most = |columns: &[f64]| columns.iter().copied().fold(0.0, f64::max);
        let written = items.len() as f64 * queries_bytes;
        let seen: f64 = (0..shape.tokens)
            .map(|token| {
                let position = shape.context - shape.tokens + token + 1;
                f64::from(position.min(shape.window.unwrap_or(u32::MAX)))
            })
            .sum();
        Prediction {
            compute_s: most(&compute) / array.clock_hz,
            stream_s: most(&streams) / array.clock_hz,
            memory_s: read / array.rates.ddr_bytes_per_s_in_gemm,
            ddr_bytes: read + written,
            operations: 4.0 * seen * f64::from(self.query_heads * self.head_dim),
        }
    }
}
