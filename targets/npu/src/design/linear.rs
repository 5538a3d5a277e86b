//! Matrix products of many tokens: weights of 8 or 4 bits, 8-bit activations, sums in 32 bits, results in bfloat16.
//!
//! Every core keeps one tile of sums; weights and activations stream past it. The memory tile of column `c` brings the
//! weights of that column's outputs to its cores, the one of column `r` the activations of row `r` to the cores of that
//! row, and joins the results of its own column. One configuration serves every shape: shapes differ in the run-time
//! sequence, and in the numbers of passes and of pairs of panels, which the activations' header tells the cores.
//!
//! | stream | element |
//! |---|---|
//! | activations | two panels of a pass, `[2][tile depth][8]` bytes: first all pairs' headers, then all pairs of each pass |
//! | weights | scales of a block of rows, then the passes that they are for: as the bundle has them, words gathered by the memory tile (see `weights`) |
//! | results | 16 outputs of a pair of panels: `[2][16][8]` bfloat16 |
//!
//! A sum times its token's scale times its row's scale is the result.

pub mod pack;
mod program;
mod schedule;
mod streams;
#[cfg(test)]
mod tests;
pub mod trial;
pub mod weights;

use crate::aie::{self, DialectVersion, EmitError};
use crate::array::{Array, Operands};
use crate::cost::{self, Arithmetic, CoreTile, Prediction, Product};
use schedule::Schedule;
use streams::Streams;
use thiserror::Error;
use weights::WeightForm;

/// Tokens of a panel: columns of the matrix unit's right operand.
pub const PANEL: u32 = 8;
/// Rows of a block of the bundle's weights, and outputs of an element of results.
pub const BLOCK_ROWS: u32 = 16;
/// Stack of a core: nothing but loop counters and spilled vectors.
const STACK_BYTES: u32 = 2048;
/// Tokens of two panels, which a core multiplies together.
pub const PAIR: u32 = 2 * PANEL;
/// Elements at each end of a FIFO: one is filled while another is used.
const DEPTH: u32 = 2;
/// Elements of activations in a memory tile: they are small, and come as fast as four rows of cores use them.
const ACTIVATION_DEPTH: u32 = 8;
/// Bits of a sum that become a float exactly.
const EXACT_BITS: u32 = 22;

/// What one configuration is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linear {
    /// How weights lie in the bundle.
    pub form: WeightForm,
    /// Rows of the matrix unit's left operand.
    pub native_rows: u32,
    /// What a core computes at a time.
    pub tile: CoreTile,
    /// Columns of the widest matrix: how large sums can become.
    pub most_depth: u32,
}

/// One matrix for so many tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Tokens, padded to whole panels.
    pub tokens: u32,
    /// Columns of the matrix.
    pub depth: u32,
    /// Rows of the matrix.
    pub outputs: u32,
}

/// Why a product has no design.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LinearError {
    /// No tile fits a core's memory and the shapes.
    #[error(
        "no tile of a product fits a core of {array}: the smallest matrix has {outputs} rows, at least {least} are needed"
    )]
    NoTile {
        /// The array.
        array: String,
        /// Rows of the smallest matrix.
        outputs: u32,
        /// Rows of the smallest tile.
        least: u32,
    },
    /// The module was refused.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

/// Where a core's memory goes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreMemory {
    /// Activations, two elements.
    pub activations: u32,
    /// Weights, two elements.
    pub weights: u32,
    /// Sums.
    pub sums: u32,
    /// Results, two elements.
    pub results: u32,
    /// Weights made ready for the matrix unit, where that cannot be done in place.
    pub unpacked: u32,
    /// Scales of tokens, rows and groups.
    pub scales: u32,
    /// Stack.
    pub stack: u32,
}

impl CoreMemory {
    /// All of it.
    pub fn bytes(&self) -> u32 {
        self.activations
            + self.weights
            + self.unpacked
            + self.sums
            + self.results
            + self.scales
            + self.stack
    }
}

impl Linear {
    /// Types and side work of the products.
    pub fn arithmetic(&self) -> Arithmetic {
        // Scales of rows, and of groups, come once in so many passes.
        let passes = f64::from(self.passes_per_scales().min(self.passes(self.most_depth)));
        Arithmetic {
            operands: Operands::I8,
            sum_bytes: 4,
            result_bytes: 2,
            weight_bits: f64::from(self.form.bits()) * (passes + 1.0) / passes,
            unpack_cycles: self.form.unpack_cycles(),
        }
    }

    /// Where a core's memory goes.
    pub fn core_memory(&self) -> CoreMemory {
        let CoreTile {
            tokens,
            depth,
            outputs,
        } = self.tile;
        CoreMemory {
            activations: DEPTH * PAIR * depth,
            weights: DEPTH * self.weight_element_bytes(),
            unpacked: self.unpacked_bytes(),
            sums: tokens * outputs * 4,
            results: DEPTH * BLOCK_ROWS * PAIR * 2,
            scales: self.token_scale_bytes() + self.row_scale_bytes() + self.multiplier_bytes(),
            stack: STACK_BYTES,
        }
    }

    /// Bytes of a memory tile that this design takes.
    pub fn memory_tile_bytes(&self, array: &Array) -> u32 {
        let joined = BLOCK_ROWS * PAIR * 2 * array.core_rows;
        ACTIVATION_DEPTH * PAIR * self.tile.depth + DEPTH * (self.weight_element_bytes() + joined)
    }

    /// The tile that computes `shapes`, each so many times, together soonest.
    ///
    /// # Errors
    /// When none fits.
    pub fn search(
        array: &Array,
        form: WeightForm,
        shapes: &[(Shape, u32)],
    ) -> Result<Self, LinearError> {
        let most_depth = shapes
            .iter()
            .map(|(shape, _)| shape.depth)
            .max()
            .unwrap_or(0);
        let least_outputs = shapes
            .iter()
            .map(|(shape, _)| shape.outputs)
            .min()
            .unwrap_or(0);
        let most_outputs = least_outputs.next_multiple_of(BLOCK_ROWS);
        let mut best: Option<(f64, Linear)> = None;
        for tokens in (16..=256).step_by(16) {
            for outputs in (16..=most_outputs.min(256)).step_by(16) {
                for depth in (32..=512).step_by(32) {
                    let design = Linear {
                        form,
                        native_rows: array.matrix(Operands::I8).m,
                        tile: CoreTile {
                            tokens,
                            depth,
                            outputs,
                        },
                        most_depth,
                    };
                    if !design.fits(array) {
                        continue;
                    }
                    let seconds = shapes
                        .iter()
                        .map(|&(shape, count)| {
                            f64::from(count) * design.predict(array, shape).seconds()
                        })
                        .sum::<f64>();
                    if best.is_none_or(|(least, _)| seconds < least) {
                        best = Some((seconds, design));
                    }
                }
            }
        }
        best.map(|(_, design)| design)
            .ok_or_else(|| LinearError::NoTile {
                array: array.name.clone(),
                outputs: least_outputs,
                least: BLOCK_ROWS,
            })
    }

    /// Whether a core and a memory tile have room for it.
    pub fn fits(&self, array: &Array) -> bool {
        self.core_memory().bytes() <= array.core.memory_bytes
            && self.memory_tile_bytes(array) <= array.memory_tile.memory_bytes
            && self.scales_fit()
            && self.gather_steps() <= array.memory_tile.descriptor_max_size
    }

    /// What a product costs, headers and scales included.
    pub fn predict(&self, array: &Array, shape: Shape) -> Prediction {
        let product = Product {
            tokens: u64::from(shape.tokens),
            depth: u64::from(shape.depth),
            outputs: u64::from(shape.outputs),
        };
        let tile = CoreTile {
            tokens: self.pairs(array, shape) * PAIR,
            ..self.tile
        };
        let mut predicted = cost::predict(array, &self.arithmetic(), product, tile);
        // Every block of outputs reads the activations' header again.
        let blocks = padded_outputs(shape).div_ceil(self.tile.outputs * array.columns);
        let headers = f64::from(self.padded_tokens(array, shape))
            * f64::from(self.tile.depth)
            * f64::from(blocks);
        predicted.ddr_bytes += headers;
        predicted.memory_s += headers / array.rates.ddr_bytes_per_s_in_gemm;
        predicted
    }

    /// Passes over the depth of a matrix.
    pub fn passes(&self, depth: u32) -> u32 {
        depth.div_ceil(self.tile.depth)
    }

    /// Blocks of tokens, each read with all weights.
    pub fn token_blocks(&self, array: &Array, shape: Shape) -> u32 {
        shape.tokens.div_ceil(self.tile.tokens * array.core_rows)
    }

    /// Pairs of panels that each core takes of a block of tokens.
    pub fn pairs(&self, array: &Array, shape: Shape) -> u32 {
        let once = PAIR * array.core_rows * self.token_blocks(array, shape);
        shape.tokens.div_ceil(once)
    }

    /// Tokens, padded so that every core has as many as any other.
    pub fn padded_tokens(&self, array: &Array, shape: Shape) -> u32 {
        self.token_blocks(array, shape) * self.pairs(array, shape) * array.core_rows * PAIR
    }

    /// Bytes of the activations of a shape, `[padded tokens / 16][1 + passes][2][tile depth][8]`.
    ///
    /// The first pass is the header: of each panel its 8 tokens' scales, twice, as f32, and after the first panel's the
    /// number of passes and that of pairs as i32. Features beyond the matrix's columns are 0.
    pub fn activation_bytes(&self, array: &Array, shape: Shape) -> u64 {
        u64::from(self.padded_tokens(array, shape)) * self.token_bytes(shape)
    }

    fn token_bytes(&self, shape: Shape) -> u64 {
        u64::from((self.passes(shape.depth) + 1) * self.tile.depth)
    }

    /// Bytes of the results' buffer of a shape: `[tokens/8][outputs, padded to 16][8]` bfloat16, and behind them spare
    /// room for rows that are computed twice.
    pub fn result_bytes(&self, array: &Array, shape: Shape) -> u64 {
        let tokens = u64::from(self.padded_tokens(array, shape));
        let spare = tokens * u64::from(self.tile.outputs * array.columns) * 2;
        self.first_spare_byte(array, shape) + spare
    }

    fn first_spare_byte(&self, array: &Array, shape: Shape) -> u64 {
        u64::from(self.padded_tokens(array, shape)) * u64::from(padded_outputs(shape)) * 2
    }

    fn token_scale_bytes(&self) -> u32 {
        self.tile.tokens * 2 * 4
    }

    /// Bits that a sum is shifted right by, so that what is left becomes a float exactly.
    pub fn sum_shift(&self) -> u32 {
        let most = 127 * 127 * u64::from(self.most_depth);
        (u64::BITS - most.leading_zeros()).saturating_sub(EXACT_BITS)
    }

    /// The whole array's module with a sequence for each shape.
    ///
    /// # Errors
    /// When MLIR refuses it.
    pub fn emit(
        &self,
        array: &Array,
        version: DialectVersion,
        name: &str,
        shapes: &[Shape],
    ) -> Result<String, LinearError> {
        let text = aie::emit(array, version, name, |device| {
            let streams = Streams::new(self, array);
            streams.place(self, array, device);
            for &shape in shapes {
                let buffers = [
                    self.activation_bytes(array, shape),
                    self.weight_bytes(shape),
                    self.scale_table_bytes(shape),
                    self.result_bytes(array, shape),
                ];
                device.sequence(&sequence_name(shape), &buffers, |sequence| {
                    Schedule {
                        design: self,
                        array,
                        shape,
                        streams: &streams,
                    }
                    .write(sequence);
                });
            }
        })?;
        Ok(text)
    }
}

/// The name of a shape's sequence.
pub fn sequence_name(shape: Shape) -> String {
    format!(
        "linear_{}_tokens_{}_to_{}",
        shape.tokens, shape.depth, shape.outputs
    )
}

/// Rows as they lie in the bundle.
pub fn padded_outputs(shape: Shape) -> u32 {
    shape.outputs.next_multiple_of(BLOCK_ROWS)
}

/// Columns as they lie in the bundle: whole groups.
pub fn padded_depth(shape: Shape) -> u32 {
    shape.depth.next_multiple_of(32)
}
