//! What matrix products cost on the array: the time of a product cut into core tiles, and what bounds it.
//!
//! The product is output-stationary: every core keeps one `m x n` tile of sums while tiles of both operands stream past;
//! rows of cores share the tokens' operand, columns the weights'. Compute and DDR traffic overlap, so the slower one is
//! the time. The model is held to the published products of both generations (arXiv 2512.13282) by a test.

use crate::array::{Array, Operands};

/// A product `tokens x depth` by `depth x outputs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Product {
    /// Rows of the left operand.
    pub tokens: u64,
    /// Columns of the left operand.
    pub depth: u64,
    /// Columns of the right one.
    pub outputs: u64,
}

/// What one core computes at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreTile {
    /// Tokens of the tile of sums.
    pub tokens: u32,
    /// Columns of the operands' tiles that are multiplied in one go.
    pub depth: u32,
    /// Outputs of the tile of sums.
    pub outputs: u32,
}

/// Types of a product, and work that is not multiplying.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Arithmetic {
    /// Type of the operands in the matrix unit.
    pub operands: Operands,
    /// Bytes of a sum kept in the core's memory.
    pub sum_bytes: u32,
    /// Bytes of a result in DDR.
    pub result_bytes: u32,
    /// Bits of a weight in DDR, scales included.
    pub weight_bits: f64,
    /// Cycles to make an operand of a weight, for each 32 of them.
    pub unpack_cycles: f64,
}

impl Arithmetic {
    /// Operands as they are in memory, sums kept in the type of the result: the published products.
    pub fn plain(operands: Operands, result_bytes: u32) -> Self {
        Self {
            operands,
            sum_bytes: result_bytes,
            result_bytes,
            weight_bits: f64::from(operands.bytes()) * 8.0,
            unpack_cycles: 0.0,
        }
    }
}

/// Why a product takes the time it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// The matrix units and what surrounds them in the cores.
    Compute,
    /// The way to DDR.
    Memory,
}

impl Bound {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
        }
    }
}

/// A product's predicted figures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Time of all cores' work.
    pub compute_s: f64,
    /// Time of all traffic with DDR.
    pub memory_s: f64,
    /// Bytes read and written in DDR.
    pub ddr_bytes: f64,
    /// Products of a core and cycle while it computes.
    pub macs_per_cycle: f64,
    /// Operations of the product itself, padding not counted: two a multiplication and addition.
    pub operations: f64,
}

impl Prediction {
    /// The product's time, without the dispatch.
    pub fn seconds(&self) -> f64 {
        self.compute_s.max(self.memory_s)
    }

    /// Useful operations a second, in units of 10^12.
    pub fn tops(&self) -> f64 {
        self.operations / self.seconds() / 1e12
    }

    /// What the time is bound by.
    pub fn bound(&self) -> Bound {
        if self.compute_s >= self.memory_s {
            Bound::Compute
        } else {
            Bound::Memory
        }
    }
}

/// Cycles of a core for one pass of its tile over `tile.depth`: blocks of 2 x 2 native tiles, each loading its sums,
/// multiplying at the unit's rate and storing them; before that, weights that are packed are unpacked once.
pub fn pass_cycles(array: &Array, arithmetic: &Arithmetic, tile: CoreTile) -> f64 {
    let shape = array.matrix(arithmetic.operands);
    let blocks = f64::from(tile.tokens) / f64::from(2 * shape.m) * f64::from(tile.outputs)
        / f64::from(2 * shape.n);
    let native_cycles = f64::from(shape.m * shape.k * shape.n) / f64::from(shape.macs_per_cycle);
    let multiply = 4.0 * f64::from(tile.depth) / f64::from(shape.k) * native_cycles;
    let drain = shape.drain_cycles_per_result_byte * f64::from(arithmetic.sum_bytes);
    let unpack = f64::from(tile.depth * tile.outputs) / 32.0 * arithmetic.unpack_cycles;
    blocks * (multiply + drain) + unpack
}

/// Predicts `product` in tiles of `tile` on all cores. Edges are padded to whole tiles.
pub fn predict(
    array: &Array,
    arithmetic: &Arithmetic,
    product: Product,
    tile: CoreTile,
) -> Prediction {
    let block_tokens = u64::from(tile.tokens * array.core_rows);
    let block_outputs = u64::from(tile.outputs * array.columns);
    let token_blocks = product.tokens.div_ceil(block_tokens) as f64;
    let output_blocks = product.outputs.div_ceil(block_outputs) as f64;
    let passes = product.depth.div_ceil(u64::from(tile.depth)) as f64;
    let depth = passes * f64::from(tile.depth);

    let pass = pass_cycles(array, arithmetic, tile);
    let compute_s = token_blocks * output_blocks * passes * pass / array.clock_hz;
    // Each block of outputs reads all tokens' operands again, each block of tokens all weights.
    let tokens_read = output_blocks
        * token_blocks
        * block_tokens as f64
        * depth
        * f64::from(arithmetic.operands.bytes());
    let weights_read =
        token_blocks * output_blocks * block_outputs as f64 * depth * arithmetic.weight_bits / 8.0;
    let written = token_blocks
        * block_tokens as f64
        * output_blocks
        * block_outputs as f64
        * f64::from(arithmetic.result_bytes);
    let ddr_bytes = tokens_read + weights_read + written;
    // Results leave through channels of their own, but share the memory.
    let memory_s = (tokens_read + weights_read) / array.rates.ddr_bytes_per_s_in_gemm;
    Prediction {
        compute_s,
        memory_s,
        ddr_bytes,
        macs_per_cycle: f64::from(tile.tokens * tile.depth * tile.outputs) / pass,
        operations: 2.0 * product.tokens as f64 * product.depth as f64 * product.outputs as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A rate, not the number that it looks like.
    #[allow(clippy::approx_constant, reason = "it is a measured rate")]
    const PUBLISHED_BF16: f64 = 3.14;
    /// The published products: operand type, bytes of a result, tile, rate in 10^12 operations a second.
    const XDNA1: [(Operands, u32, [u32; 3], f64); 4] = [
        (Operands::I8, 1, [112, 112, 112], 6.76),
        (Operands::I8, 2, [96, 112, 96], 6.05),
        (Operands::I8, 4, [80, 88, 96], 4.57),
        (Operands::Bf16, 2, [96, 56, 96], PUBLISHED_BF16),
    ];
    const XDNA2: [(Operands, u32, [u32; 3], f64); 4] = [
        (Operands::I8, 1, [144, 72, 144], 38.05),
        (Operands::I8, 2, [128, 72, 112], 31.52),
        (Operands::I8, 4, [96, 64, 96], 25.31),
        (Operands::Bf16, 2, [112, 48, 96], 14.71),
    ];

    #[test]
    fn published_products_are_predicted_within_15_percent() {
        for (array, rows) in [(Array::npu1(), XDNA1), (Array::npu2(), XDNA2)] {
            for (operands, result_bytes, [tokens, depth, outputs], published) in rows {
                let tile = CoreTile {
                    tokens,
                    depth,
                    outputs,
                };
                // Whole tiles, about 4096 a side.
                let whole = |unit: u32| (4096 / u64::from(unit)) * u64::from(unit);
                let product = Product {
                    tokens: whole(tokens * array.core_rows),
                    depth: whole(depth),
                    outputs: whole(outputs * array.columns),
                };
                let arithmetic = Arithmetic::plain(operands, result_bytes);
                let predicted = predict(array, &arithmetic, product, tile);
                let ratio = predicted.tops() / published;
                println!(
                    "{} {operands:?} to {result_bytes} bytes: {:.2} TOPS, published {published}: {ratio:.3}, {}, {:.1} MACs/cycle",
                    array.name,
                    predicted.tops(),
                    predicted.bound().name(),
                    predicted.macs_per_cycle
                );
                assert!(
                    (0.85..=1.15).contains(&ratio),
                    "{} {operands:?} to {result_bytes} bytes: {:.2} TOPS, published {published}",
                    array.name,
                    predicted.tops()
                );
            }
        }
    }

    #[test]
    fn single_cores_are_predicted_within_6_percent() {
        for (operands, sum_bytes, [tokens, depth, outputs], published) in [
            (Operands::I8, 1, [64, 232, 64], 233.0),
            (Operands::I8, 4, [48, 280, 48], 192.0),
            (Operands::Bf16, 2, [64, 104, 64], 112.6),
        ] {
            let tile = CoreTile {
                tokens,
                depth,
                outputs,
            };
            let arithmetic = Arithmetic::plain(operands, sum_bytes);
            let rate =
                f64::from(tokens * depth * outputs) / pass_cycles(Array::npu1(), &arithmetic, tile);
            assert!((rate / published - 1.0).abs() < 0.06, "{tile:?}: {rate}");
        }
    }
}
