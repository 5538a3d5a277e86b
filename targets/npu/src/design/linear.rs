//! Matrix products of many tokens: 8-bit weights and activations, sums in 32 bits, results in bfloat16.
//!
//! Every core keeps one tile of sums; weights and activations stream past it. The memory tile of column `c` brings the
//! weights of that column's outputs to its cores, the one of column `r` the activations of row `r` to the cores of that
//! row, and joins the results of its own column. One configuration serves every shape: shapes differ in the run-time
//! sequence, and in the numbers of passes and of pairs of panels, which the activations' header tells the cores.
//!
//! | stream | element |
//! |---|---|
//! | activations | two panels of a pass, `[2][tile depth][8]` bytes: first all pairs' headers, then all pairs of each pass |
//! | weights | the scales of a block of rows, then a pass after another: `[rows / 16][depth / 8][16][8]` bytes, gathered from the bundle's layout by the memory tile |
//! | results | 16 outputs of a pair of panels: `[2][16][8]` bfloat16 |
//!
//! A sum times its token's scale times its row's scale is the result. All groups of a row must have one scale.

use crate::aie::{self, Body, DialectVersion, Element, EmitError, Fifo, Port, Step, Transfer};
use crate::array::{Array, Operands};
use crate::cost::{self, Arithmetic, CoreTile, Prediction, Product};
use melior::ir::Value;
use thiserror::Error;

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
/// Blocks of outputs under way at once: a shim channel queues four transfers, and a block's weights are two.
const BLOCKS_UNDER_WAY: u32 = 2;
/// Most repetitions of one transfer.
const MOST_REPETITIONS: u64 = 64;
/// Bits of a sum that become a float exactly.
const EXACT_BITS: u32 = 22;

/// What one configuration is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linear {
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
    /// Scales of tokens and rows.
    pub scales: u32,
    /// Stack.
    pub stack: u32,
}

impl CoreMemory {
    /// All of it.
    pub fn bytes(&self) -> u32 {
        self.activations + self.weights + self.sums + self.results + self.scales + self.stack
    }
}

impl Linear {
    /// Types and side work of the products.
    pub fn arithmetic() -> Arithmetic {
        Arithmetic {
            operands: Operands::I8,
            sum_bytes: 4,
            result_bytes: 2,
            weight_bits: 8.0,
            unpack_cycles: 0.0,
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
            weights: DEPTH * outputs * depth,
            sums: tokens * outputs * 4,
            results: DEPTH * BLOCK_ROWS * PAIR * 2,
            scales: self.token_scale_bytes() + self.row_scale_bytes(),
            stack: STACK_BYTES,
        }
    }

    /// Bytes of a memory tile that this design takes.
    pub fn memory_tile_bytes(&self, array: &Array) -> u32 {
        let CoreTile { depth, outputs, .. } = self.tile;
        let joined = BLOCK_ROWS * PAIR * 2 * array.core_rows;
        ACTIVATION_DEPTH * PAIR * depth + DEPTH * (outputs * depth + joined)
    }

    /// The tile that computes `shapes` together soonest.
    ///
    /// # Errors
    /// When none fits.
    pub fn search(array: &Array, shapes: &[Shape]) -> Result<Self, LinearError> {
        let most_depth = shapes.iter().map(|shape| shape.depth).max().unwrap_or(0);
        let least_outputs = shapes.iter().map(|shape| shape.outputs).min().unwrap_or(0);
        let most_outputs = least_outputs.next_multiple_of(BLOCK_ROWS);
        let mut best: Option<(f64, Linear)> = None;
        for tokens in (16..=256).step_by(16) {
            for outputs in (16..=most_outputs.min(256)).step_by(16) {
                for depth in (32..=512).step_by(32) {
                    let design = Linear {
                        tile: CoreTile {
                            tokens,
                            depth,
                            outputs,
                        },
                        most_depth,
                    };
                    if design.core_memory().bytes() > array.core.memory_bytes
                        || design.memory_tile_bytes(array) > array.memory_tile.memory_bytes
                        || design.row_scale_bytes() > outputs * depth
                        || outputs / BLOCK_ROWS * (depth / 8)
                            > array.memory_tile.descriptor_max_size
                    {
                        continue;
                    }
                    let seconds = shapes
                        .iter()
                        .map(|&shape| design.predict(array, shape).seconds())
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

    /// What a product costs, headers and scales included.
    pub fn predict(&self, array: &Array, shape: Shape) -> Prediction {
        let header = u64::from(self.tile.depth);
        let product = Product {
            tokens: u64::from(shape.tokens),
            depth: u64::from(shape.depth),
            outputs: u64::from(shape.outputs),
        };
        let with_header = Product {
            depth: product.depth + header,
            ..product
        };
        let arithmetic = Self::arithmetic();
        let tile = CoreTile {
            tokens: self.pairs(array, shape) * PAIR,
            ..self.tile
        };
        let computed = cost::predict(array, &arithmetic, product, tile);
        let moved = cost::predict(array, &arithmetic, with_header, tile);
        Prediction {
            memory_s: moved.memory_s,
            ddr_bytes: moved.ddr_bytes,
            ..computed
        }
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

    /// Bytes of the results of a shape, `[tokens/8][outputs, padded to 16][8]` bfloat16.
    pub fn result_bytes(&self, array: &Array, shape: Shape) -> u64 {
        u64::from(self.padded_tokens(array, shape)) * u64::from(padded_outputs(shape)) * 2
    }

    /// Bytes of a weight that may be read: passes are whole, so the last one reads past the matrix, and what it reads
    /// is multiplied by zeros.
    pub fn weight_bytes(&self, shape: Shape) -> u64 {
        let rows = u64::from(padded_outputs(shape));
        let beyond = self.passes(shape.depth) * self.tile.depth - padded_depth(shape);
        rows * u64::from(padded_depth(shape)) + u64::from(beyond) * u64::from(BLOCK_ROWS)
    }

    /// Bytes of the table of row scales: each row's scale 8 times as f32, words ordered by [`scale_word`].
    pub fn row_scale_table_bytes(&self, shape: Shape) -> u64 {
        u64::from(padded_outputs(shape)) * u64::from(PANEL) * 4
    }

    fn token_scale_bytes(&self) -> u32 {
        self.tile.tokens * 2 * 4
    }

    fn row_scale_bytes(&self) -> u32 {
        self.tile.outputs * PANEL * 4
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
                    self.row_scale_table_bytes(shape),
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

/// Where word `word` of a table of row scales lies in it. The memory tile gathers the table like weights, 16 words from
/// each of two places in turn, so it is stored the other way round.
pub fn scale_word(word: u64) -> u64 {
    let gathered = 2 * u64::from(BLOCK_ROWS);
    let (group, within) = (word / gathered, word % gathered);
    group * gathered + within % 2 * u64::from(BLOCK_ROWS) + within / 2
}

/// Rows as they lie in the bundle.
pub fn padded_outputs(shape: Shape) -> u32 {
    shape.outputs.next_multiple_of(BLOCK_ROWS)
}

/// Columns as they lie in the bundle: whole groups.
pub fn padded_depth(shape: Shape) -> u32 {
    shape.depth.next_multiple_of(32)
}

/// The design's FIFOs.
struct Streams {
    /// A row's activations: DDR to memory tile, memory tile to cores.
    activations: Vec<(Fifo, Fifo)>,
    /// A column's weights.
    weights: Vec<(Fifo, Fifo)>,
    /// A column's results: of each of its cores, and joined.
    results: Vec<(Vec<Fifo>, Fifo)>,
}

impl Streams {
    fn new(design: &Linear, array: &Array) -> Self {
        let CoreTile { depth, outputs, .. } = design.tile;
        let fifo = |name: String, element: Element, elements: u32| Fifo {
            name,
            element,
            elements,
            depth: DEPTH,
            to_stream: Vec::new(),
        };
        // Words of the bundle's layout, `[rows / 16][depth / 4][16]`, are wanted as `[rows / 16][depth / 8][16][2]`.
        let gather = vec![
            Step {
                size: outputs / BLOCK_ROWS * (depth / 8),
                stride: 2 * BLOCK_ROWS * 4,
            },
            Step {
                size: BLOCK_ROWS,
                stride: 4,
            },
            Step {
                size: 2,
                stride: BLOCK_ROWS * 4,
            },
            Step { size: 4, stride: 1 },
        ];
        let activations = |name: String| fifo(name, Element::I8, PAIR * depth);
        let weights = |name: String| fifo(name, Element::I8, outputs * depth);
        let results = |name: String, rows: u32| fifo(name, Element::Bf16, BLOCK_ROWS * PAIR * rows);
        Self {
            activations: (0..array.core_rows)
                .map(|row| {
                    let from_ddr = Fifo {
                        depth: ACTIVATION_DEPTH,
                        ..activations(format!("activations_{row}"))
                    };
                    (from_ddr, activations(format!("activations_{row}_cores")))
                })
                .collect(),
            weights: (0..array.columns)
                .map(|column| {
                    let to_cores = Fifo {
                        to_stream: gather.clone(),
                        ..weights(format!("weights_{column}_cores"))
                    };
                    (weights(format!("weights_{column}")), to_cores)
                })
                .collect(),
            results: (0..array.columns)
                .map(|column| {
                    let parts = (0..array.core_rows)
                        .map(|row| results(format!("results_{column}_{row}"), 1))
                        .collect();
                    (parts, results(format!("results_{column}"), array.core_rows))
                })
                .collect(),
        }
    }

    /// Tiles, FIFOs, links and cores.
    fn place<'c, 'b>(&self, design: &Linear, array: &Array, device: &aie::Device<'c, 'b>) {
        let columns = 0..array.columns;
        let shims: Vec<_> = columns
            .clone()
            .map(|column| device.tile(column, 0))
            .collect();
        let memories: Vec<_> = columns
            .clone()
            .map(|column| device.tile(column, 1))
            .collect();
        let cores: Vec<Vec<_>> = columns
            .map(|column| {
                (0..array.core_rows)
                    .map(|row| device.tile(column, array.first_core_row + row))
                    .collect()
            })
            .collect();
        for (row, (from_ddr, to_cores)) in self.activations.iter().enumerate() {
            let row_cores: Vec<_> = cores.iter().map(|column| column[row]).collect();
            device.fifo(from_ddr, shims[row], &[memories[row]]);
            device.fifo(to_cores, memories[row], &row_cores);
            device.forward(from_ddr, to_cores);
        }
        for (column, (from_ddr, to_cores)) in self.weights.iter().enumerate() {
            device.fifo(from_ddr, shims[column], &[memories[column]]);
            device.fifo(to_cores, memories[column], &cores[column]);
            device.forward(from_ddr, to_cores);
        }
        for (column, (parts, joined)) in self.results.iter().enumerate() {
            for (part, &core) in parts.iter().zip(&cores[column]) {
                device.fifo(part, core, &[memories[column]]);
            }
            device.fifo(joined, memories[column], &[shims[column]]);
            device.join(&parts.iter().collect::<Vec<_>>(), joined);
        }
        for (column, column_cores) in cores.iter().enumerate() {
            for (row, &tile) in column_cores.iter().enumerate() {
                let at = format!("{column}_{row}");
                let CoreTile {
                    tokens, outputs, ..
                } = design.tile;
                let sums =
                    device.buffer(tile, &format!("sums_{at}"), tokens * outputs, Element::I32);
                let token_scales = device.buffer(
                    tile,
                    &format!("token_scales_{at}"),
                    design.token_scale_bytes() / 4,
                    Element::F32,
                );
                let row_scales = device.buffer(
                    tile,
                    &format!("row_scales_{at}"),
                    design.row_scale_bytes() / 4,
                    Element::F32,
                );
                let program = Program {
                    tile: design.tile,
                    sum_shift: design.sum_shift(),
                    activations: &self.activations[row].1,
                    weights: &self.weights[column].1,
                    results: &self.results[column].0[row],
                };
                device.core(tile, STACK_BYTES, |body| {
                    body.forever(|body| {
                        program.block(body, sums, token_scales, row_scales);
                    });
                });
            }
        }
    }
}

/// What one core runs.
struct Program<'d> {
    tile: CoreTile,
    sum_shift: u32,
    activations: &'d Fifo,
    weights: &'d Fifo,
    results: &'d Fifo,
}

impl Program<'_> {
    /// One tile of results.
    fn block<'c>(
        &self,
        body: &Body<'c, '_>,
        sums: Value<'c, '_>,
        token_scales: Value<'c, '_>,
        row_scales: Value<'c, '_>,
    ) {
        self.keep_row_scales(body, row_scales);
        let (passes, pairs) = self.read_header(body, token_scales);
        self.clear(body, sums);
        let first = body.index(0);
        body.repeat(first, passes, &[], |body, _, _| {
            let weights = body.acquire(self.weights, Port::Consume);
            let first = body.index(0);
            body.repeat(first, pairs, &[], |body, pair, _| {
                let activations = body.acquire(self.activations, Port::Consume);
                self.multiply(body, weights, activations, pair, sums);
                body.release(self.activations, Port::Consume);
                Vec::new()
            });
            body.release(self.weights, Port::Consume);
            Vec::new()
        });
        self.drain(body, pairs, sums, token_scales, row_scales);
    }

    /// Keeps the scales of the block's rows, which come as its first element of weights.
    fn keep_row_scales<'c>(&self, body: &Body<'c, '_>, row_scales: Value<'c, '_>) {
        let element = body.acquire(self.weights, Port::Consume);
        body.times(u64::from(self.tile.outputs * PANEL / 16), |body, index| {
            let from = body.address(&[(index, 64)]);
            let to = body.address(&[(index, 16)]);
            copy_floats(body, element, from, row_scales, to);
        });
        body.release(self.weights, Port::Consume);
    }

    /// Keeps the scales of all pairs' tokens and returns the numbers of passes and of pairs, which the first pair's
    /// header tells.
    fn read_header<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        token_scales: Value<'c, '_>,
    ) -> (Value<'c, 'b>, Value<'c, 'b>) {
        let first = body.index(0);
        let header = body.acquire(self.activations, Port::Consume);
        let counts = body.load(header, body.index(64), 64, Element::I8);
        let counts = body.bitcast(counts, 16, Element::I32);
        let count = |lane| body.to_index(body.lane(counts, lane, Element::I32));
        let (passes, pairs) = (count(0), count(1));
        self.keep_token_scales(body, header, first, token_scales);
        body.release(self.activations, Port::Consume);
        body.repeat(body.index(1), pairs, &[], |body, pair, _| {
            let header = body.acquire(self.activations, Port::Consume);
            self.keep_token_scales(body, header, pair, token_scales);
            body.release(self.activations, Port::Consume);
            Vec::new()
        });
        (passes, pairs)
    }

    fn keep_token_scales<'c>(
        &self,
        body: &Body<'c, '_>,
        header: Value<'c, '_>,
        pair: Value<'c, '_>,
        token_scales: Value<'c, '_>,
    ) {
        body.times(2, |body, panel| {
            let from = body.address(&[(panel, u64::from(self.tile.depth * PANEL))]);
            let to = body.address(&[(pair, 32), (panel, 16)]);
            copy_floats(body, header, from, token_scales, to);
        });
    }

    fn clear<'c>(&self, body: &Body<'c, '_>, sums: Value<'c, '_>) {
        let tiles = u64::from(self.tile.tokens * self.tile.outputs / 32);
        body.times(tiles, |body, tile| {
            let zeros = body.splat_int(32, Element::I32, 0);
            let at = body.address(&[(tile, 32)]);
            body.store(zeros, sums, at, 32, Element::I32);
        });
    }

    /// `sums += weights * activations` for a pair, in blocks of 8 outputs by 16 tokens whose sums stay in registers.
    fn multiply<'c>(
        &self,
        body: &Body<'c, '_>,
        weights: Value<'c, '_>,
        activations: Value<'c, '_>,
        pair: Value<'c, '_>,
        sums: Value<'c, '_>,
    ) {
        let steps = u64::from(self.tile.depth / 8);
        let panel_bytes = u64::from(self.tile.depth * PANEL);
        body.times(u64::from(self.tile.outputs / 8), |body, eight| {
            // Sums lie as `[pairs][outputs / 4][2][4][8]`.
            let first = body.address(&[(pair, self.pair_sums()), (eight, 128)]);
            let corners = [0, 32, 64, 96].map(|offset| body.add(first, body.index(offset)));
            let before = corners.map(|at| body.load(sums, at, 32, Element::I32));
            // 16 outputs of a step of 8 lie together, so two eights share a step's 128 bytes.
            let sixteen = body.divide(eight, 2);
            let odd = body.modulo(eight, 2);
            let rows = body.address(&[(sixteen, steps * 128), (odd, 64)]);
            let (from, to) = (body.index(0), body.index(steps));
            let after = body.repeat(from, to, &before, |body, step, sums| {
                let upper_at = body.add(rows, body.address(&[(step, 128)]));
                let lower_at = body.add(upper_at, body.index(32));
                let left_at = body.address(&[(step, 64)]);
                let right_at = body.add(left_at, body.index(panel_bytes));
                let upper = body.load(weights, upper_at, 32, Element::I8);
                let lower = body.load(weights, lower_at, 32, Element::I8);
                let left = body.load(activations, left_at, 64, Element::I8);
                let right = body.load(activations, right_at, 64, Element::I8);
                vec![
                    body.multiply_tiles_i8(upper, left, sums[0]),
                    body.multiply_tiles_i8(upper, right, sums[1]),
                    body.multiply_tiles_i8(lower, left, sums[2]),
                    body.multiply_tiles_i8(lower, right, sums[3]),
                ]
            });
            for (value, at) in after.into_iter().zip(corners) {
                body.store(value, sums, at, 32, Element::I32);
            }
        });
    }

    /// Sums of a pair of panels.
    fn pair_sums(&self) -> u64 {
        u64::from(self.tile.outputs * PAIR)
    }

    /// Sums to results: `bfloat16(sum * token's scale * row's scale)`, 16 outputs of a pair at a time.
    fn drain<'c>(
        &self,
        body: &Body<'c, '_>,
        pairs: Value<'c, '_>,
        sums: Value<'c, '_>,
        token_scales: Value<'c, '_>,
        row_scales: Value<'c, '_>,
    ) {
        body.times(
            u64::from(self.tile.outputs / BLOCK_ROWS),
            |body, sixteen| {
                let first = body.index(0);
                body.repeat(first, pairs, &[], |body, pair, _| {
                    let results = body.acquire(self.results, Port::Produce);
                    body.times(2, |body, panel| {
                        let at = body.address(&[(pair, 32), (panel, 16)]);
                        let token_scale = body.load(token_scales, at, 16, Element::F32);
                        // Two outputs of eight tokens at a time.
                        body.times(u64::from(BLOCK_ROWS / 2), |body, two| {
                            let four = body.divide(two, 2);
                            let odd = body.modulo(two, 2);
                            let at = body.address(&[
                                (pair, self.pair_sums()),
                                (sixteen, 4 * 64),
                                (four, 64),
                                (panel, 32),
                                (odd, 16),
                            ]);
                            let sum = body.load(sums, at, 16, Element::I32);
                            let value = self.to_float(body, sum);
                            let at = body
                                .address(&[(sixteen, u64::from(BLOCK_ROWS * PANEL)), (two, 16)]);
                            let row_scale = body.load(row_scales, at, 16, Element::F32);
                            let value = body.multiply_float(value, token_scale);
                            let value = body.multiply_float(value, row_scale);
                            let value = body.round_float(value, 16, Element::Bf16);
                            let at =
                                body.address(&[(panel, u64::from(BLOCK_ROWS * PANEL)), (two, 16)]);
                            body.store(value, results, at, 16, Element::Bf16);
                        });
                    });
                    body.release(self.results, Port::Produce);
                    Vec::new()
                });
            },
        );
    }

    /// The cores have no instruction that makes floats of integers: the sum, shifted to 22 bits, becomes the fraction of
    /// `1.5 * 2^23`, which is then taken away. The scale of rows makes up for the shift.
    fn to_float<'c, 'b>(&self, body: &Body<'c, 'b>, sum: Value<'c, 'b>) -> Value<'c, 'b> {
        let mut sum = sum;
        if self.sum_shift > 0 {
            let half = body.splat_int(16, Element::I32, 1 << (self.sum_shift - 1));
            let shift = body.splat_int(16, Element::I32, i64::from(self.sum_shift));
            sum = body.shift_right(body.add(sum, half), shift);
        }
        let anchor = body.splat_int(16, Element::I32, 0x4B40_0000);
        let bits = body.bitcast(body.add(sum, anchor), 16, Element::F32);
        body.subtract_float(bits, body.splat_float(16, Element::F32, 12_582_912.0))
    }
}

/// 16 floats out of an element of bytes.
fn copy_floats<'c, 'v>(
    body: &Body<'c, '_>,
    from: Value<'c, 'v>,
    from_at: Value<'c, 'v>,
    to: Value<'c, 'v>,
    to_at: Value<'c, 'v>,
) {
    let bytes = body.load(from, from_at, 64, Element::I8);
    let floats = body.bitcast(bytes, 16, Element::F32);
    body.store(floats, to, to_at, 16, Element::F32);
}

/// The order of a shape's transfers.
struct Schedule<'d> {
    design: &'d Linear,
    array: &'d Array,
    shape: Shape,
    streams: &'d Streams,
}

/// The sequence's buffers.
const ACTIVATIONS: usize = 0;
const WEIGHTS: usize = 1;
const ROW_SCALES: usize = 2;
const RESULTS: usize = 3;
/// Descriptors of a shim: three for each block under way, then those of activations.
const FIRST_ACTIVATION_DESCRIPTOR: u32 = 3 * BLOCKS_UNDER_WAY;

impl Schedule<'_> {
    fn write(&self, sequence: &aie::Sequence<'_, '_>) {
        let tile = self.design.tile;
        let token_blocks = self.design.token_blocks(self.array, self.shape);
        let output_blocks = padded_outputs(self.shape).div_ceil(tile.outputs * self.array.columns);
        for token_block in 0..token_blocks {
            for block in 0..output_blocks {
                // One transfer repeats a block's activations for as many blocks of outputs as it can.
                let group = u64::from(block) / MOST_REPETITIONS;
                if u64::from(block) % MOST_REPETITIONS == 0 {
                    let left = u64::from(output_blocks - block).min(MOST_REPETITIONS);
                    self.activations(sequence, token_block, left, (group % 2) as u32);
                }
                self.block(sequence, token_block, block);
                if block + 1 >= BLOCKS_UNDER_WAY {
                    self.wait(sequence);
                }
            }
            for _ in 0..output_blocks.min(BLOCKS_UNDER_WAY - 1) {
                self.wait(sequence);
            }
        }
    }

    fn wait(&self, sequence: &aie::Sequence<'_, '_>) {
        for (_, joined) in &self.streams.results {
            sequence.wait(&joined.name);
        }
    }

    fn activations(
        &self,
        sequence: &aie::Sequence<'_, '_>,
        token_block: u32,
        repetitions: u64,
        parity: u32,
    ) {
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
                descriptor: FIRST_ACTIVATION_DESCRIPTOR + parity,
                offset_words: first_pair * pair_words,
                walk: [
                    (repetitions, 0),
                    (passes, pass_words),
                    (pairs, rows * pair_words),
                    (pass_words, 1),
                ],
                is_awaited: false,
            });
        }
    }

    /// A block of outputs, all columns.
    fn block(&self, sequence: &aie::Sequence<'_, '_>, token_block: u32, block: u32) {
        let tile = self.design.tile;
        let rows = padded_outputs(self.shape);
        let first_descriptor = 3 * (block % BLOCKS_UNDER_WAY);
        for column in 0..self.array.columns {
            // A last block that would reach past the matrix begins earlier, and computes some rows again.
            let first_row =
                ((block * self.array.columns + column) * tile.outputs).min(rows - tile.outputs);
            let (weights, _) = &self.streams.weights[column as usize];
            let (_, results) = &self.streams.results[column as usize];
            sequence.start(&Transfer {
                buffer: ROW_SCALES,
                fifo: weights.name.clone(),
                descriptor: first_descriptor,
                offset_words: u64::from(first_row * PANEL),
                // An element of weights is as long as so many of the block's scales.
                walk: [
                    (u64::from(tile.depth / (PANEL * 4)), 0),
                    (1, 0),
                    (1, 0),
                    (u64::from(tile.outputs * PANEL), 1),
                ],
                is_awaited: false,
            });
            let block_words = u64::from(padded_depth(self.shape)) * u64::from(BLOCK_ROWS) / 4;
            let pass_words = u64::from(tile.depth * BLOCK_ROWS / 4);
            sequence.start(&Transfer {
                buffer: WEIGHTS,
                fifo: weights.name.clone(),
                descriptor: first_descriptor + 1,
                offset_words: u64::from(first_row / BLOCK_ROWS) * block_words,
                walk: [
                    (1, 0),
                    (u64::from(self.design.passes(self.shape.depth)), pass_words),
                    (u64::from(tile.outputs / BLOCK_ROWS), block_words),
                    (pass_words, 1),
                ],
                is_awaited: false,
            });
            // Features of a panel's results, as words of 8 tokens in bfloat16.
            let feature_words = u64::from(PANEL) * 2 / 4;
            let panel_words = u64::from(rows) * feature_words;
            let pairs = self.design.pairs(self.array, self.shape);
            let panels = u64::from(pairs * 2 * self.array.core_rows);
            sequence.start(&Transfer {
                buffer: RESULTS,
                fifo: results.name.clone(),
                descriptor: first_descriptor + 2,
                offset_words: u64::from(token_block) * panels * panel_words
                    + u64::from(first_row) * feature_words,
                walk: [
                    (1, 0),
                    (
                        u64::from(tile.outputs / BLOCK_ROWS),
                        u64::from(BLOCK_ROWS) * feature_words,
                    ),
                    (panels, panel_words),
                    (u64::from(BLOCK_ROWS) * feature_words, 1),
                ],
                is_awaited: true,
            });
        }
    }
}

#[cfg(test)]
mod tests;
