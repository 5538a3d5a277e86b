//! Attention of many tokens, fused: scores, softmax and the weighted sum of values in one pass over the cache.
//!
//! A core keeps a tile of **queries**: 8 tokens of one query head are a unit, and a tile is units of all query heads that
//! share a key/value head, so that keys and values stream past once for the whole group. The four cores of a column take
//! different tokens and see the same stream; columns work by themselves, each on an **item**: one key/value head and as
//! many tokens as its cores hold. One configuration serves every number of tokens and every context: shapes differ in
//! the run-time sequence, and in a header in front of an item's stream.
//!
//! Everything is transposed, so that nothing ever is: with positions as rows and queries as columns, scores are
//! `K . Q`, and what comes out of them, `[positions][queries]`, is at once the right operand of `V^T . P`.
//!
//! | buffer | layout, bfloat16 but for the parameters |
//! |---|---|
//! | queries | panels `[padded tokens/8][query heads * head dim][8]`, times [`Attention::query_factor`] |
//! | cache | of each key/value head: keys `[capacity][head dim]`, then values `[capacity/8][head dim][8]` |
//! | parameters | a header for each item, `[items][32][4]` i32, see [`pack::parameters`] |
//! | results | panels `[padded tokens/8][query heads * head dim][8]` |
//!
//! A query sees its own position and those before, of these the last `window`. What a call must keep to: all queries are
//! finite numbers, those of missing tokens too (say 0), and so is the cache up to the end of the
//! [`QueryTile::positions`] that hold the last token; scores, in powers of 2, are between -8000 and 8000.
//!
//! | stream | element in the memory tile | element in a core |
//! |---|---|---|
//! | cache of a column | keys of so many positions, `[positions][head dim]`, and values of them, `[positions/8][head dim][8]`, in turn | `features` of them: `[features/8][positions][8]`, the blocks of the matrix unit |
//! | queries of a column | tiles of its four cores, `[4][units][head dim][8]` | one tile, as blocks: `[units][head dim/8][2][8][4]` |
//! | results of a column | a unit of each core, `[4][head dim][8]` | a unit |
//!
//! One walk of the memory tile makes blocks of both keys and values: of keys a block is 4 positions by 8 neighbouring
//! features, of values 4 features that are `head dim / 8` apart by 8 positions. `softmax` says what is done to scores.

mod cost;
pub mod pack;
mod program;
mod schedule;
mod softmax;
mod streams;
#[cfg(test)]
mod tests;

use crate::aie::{self, DialectVersion, EmitError};
use crate::array::{Array, Operands};
pub use cost::Prediction;
use schedule::Schedule;
use streams::Streams;
use thiserror::Error;

/// Tokens of a panel, and queries of a unit.
pub const PANEL: u32 = 8;
/// Stack of a core: the program calls nothing and keeps its sums in registers.
const STACK_BYTES: u32 = 1024;
/// Elements of the cache in a core: one is filled while another is used.
const CACHE_DEPTH: u32 = 2;
/// Elements of the cache in a memory tile: what is read ahead.
const CACHE_MEMORY_DEPTH: u32 = 8;
/// Tiles of queries and units of results at a memory tile.
const MEMORY_DEPTH: u32 = 2;
/// Queries whose sums stay in registers together: four columns of the matrix unit's result.
const QUERY_BLOCK: u32 = 16;

/// What one configuration is made for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// Features of a head.
    pub head_dim: u32,
    /// Heads of queries.
    pub query_heads: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// What scores are bounded by, softly: `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    /// What a core computes at a time.
    pub tile: QueryTile,
}

/// What a core computes at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueryTile {
    /// Queries that a core keeps.
    pub queries: u32,
    /// Positions whose scores it has at once.
    pub positions: u32,
    /// Features of keys or values in an element of its stream.
    pub features: u32,
}

/// So many tokens at the end of such a context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// Tokens.
    pub tokens: u32,
    /// Positions up to and with the last token, at most.
    pub context: u32,
    /// How much shorter the context may be in a call.
    pub slack: u32,
    /// Positions that a query sees, its own included; none: all.
    pub window: Option<u32>,
    /// Positions that the cache has room for.
    pub capacity: u32,
}

/// Why attention has no design.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttentionError {
    /// No tile fits a core's memory and the heads.
    #[error(
        "no tile of attention fits a core of {array}: heads of {head_dim} features, {query_heads} of queries and {kv_heads} of keys"
    )]
    NoTile {
        /// The array.
        array: String,
        /// Features of a head.
        head_dim: u32,
        /// Heads of queries.
        query_heads: u32,
        /// Heads of keys.
        kv_heads: u32,
    },
    /// The array's matrix unit is another.
    #[error("attention is made for matrix units of 4 x 8 by 8 x 4, {array} has others")]
    Array {
        /// The array.
        array: String,
    },
    /// A shape that contradicts itself or the array's descriptors.
    #[error("attention of {tokens} tokens in a context of {context}: {what}")]
    Shape {
        /// Tokens.
        tokens: u32,
        /// Context.
        context: u32,
        /// What is wrong.
        what: String,
    },
    /// The module was refused.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

/// Where a core's memory goes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreMemory {
    /// Queries, one tile.
    pub queries: u32,
    /// Keys and values, two elements.
    pub cache: u32,
    /// Weighted sums of values, and sums of weights.
    pub sums: u32,
    /// Scores.
    pub scores: u32,
    /// Weights.
    pub weights: u32,
    /// What scores are measured from.
    pub anchors: u32,
    /// Results, one unit.
    pub results: u32,
    /// Stack.
    pub stack: u32,
}

impl CoreMemory {
    /// All of it.
    pub fn bytes(&self) -> u32 {
        self.queries
            + self.cache
            + self.sums
            + self.scores
            + self.weights
            + self.anchors
            + self.results
            + self.stack
    }
}

impl Attention {
    /// The tile that computes `shapes`, each so many times, together soonest.
    ///
    /// # Errors
    /// When none fits.
    pub fn search(
        array: &Array,
        head_dim: u32,
        [query_heads, kv_heads]: [u32; 2],
        cap: Option<f32>,
        shapes: &[(Shape, u32)],
    ) -> Result<Self, AttentionError> {
        let mut best: Option<(f64, Attention)> = None;
        for queries in (QUERY_BLOCK..=256).step_by(QUERY_BLOCK as usize) {
            for positions in [16, 32] {
                for features in [16, 32, 64] {
                    let tile = QueryTile {
                        queries,
                        positions,
                        features,
                    };
                    let design = Attention {
                        head_dim,
                        query_heads,
                        kv_heads,
                        cap,
                        tile,
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
            .ok_or_else(|| AttentionError::NoTile {
                array: array.name.clone(),
                head_dim,
                query_heads,
                kv_heads,
            })
    }

    /// Whether the heads can be cut into such tiles, and a core and a memory tile have room for them.
    pub fn fits(&self, array: &Array) -> bool {
        let QueryTile {
            queries,
            positions,
            features,
        } = self.tile;
        let is_cut = self.kv_heads > 0
            && self.query_heads > 0
            && self.query_heads.is_multiple_of(self.kv_heads)
            && self.head_dim.is_multiple_of(features)
            && (64..=256).contains(&self.head_dim)
            && features >= 8
            && features.is_multiple_of(8)
            && queries > 0
            && queries.is_multiple_of(QUERY_BLOCK)
            && positions > 0
            && positions.is_multiple_of(16);
        is_cut
            && self.units().is_multiple_of(self.heads_of_core())
            && self.group().is_multiple_of(self.heads_of_core())
            && self.core_memory().bytes() <= array.core.memory_bytes
            && self.memory_tile_bytes(array) <= array.memory_tile.memory_bytes
            && self.units() * self.head_dim / 8 <= array.memory_tile.descriptor_max_size
    }

    /// Where a core's memory goes.
    pub fn core_memory(&self) -> CoreMemory {
        let QueryTile {
            queries, positions, ..
        } = self.tile;
        CoreMemory {
            queries: queries * self.head_dim * 2,
            cache: CACHE_DEPTH * self.cache_element() * 2,
            sums: queries / 4 * self.sum_tiles() * 64,
            scores: queries * positions * 4,
            weights: queries * positions * 2,
            anchors: queries / 4 * 64,
            results: self.unit() * 2,
            stack: STACK_BYTES,
        }
    }

    /// Bytes of a memory tile that this design takes.
    pub fn memory_tile_bytes(&self, array: &Array) -> u32 {
        let cache = CACHE_MEMORY_DEPTH * self.block() * 2;
        let queries = MEMORY_DEPTH * array.core_rows * self.tile.queries * self.head_dim * 2;
        let results = MEMORY_DEPTH * array.core_rows * self.unit() * 2;
        cache + queries + results
    }

    /// What queries are multiplied by before they are rounded, where scores are `scale * q . k`: the powers are of 2, and
    /// the soft cap wants `2 / cap` of a score.
    pub fn query_factor(&self, scale: f32) -> f32 {
        match self.cap {
            None => scale * std::f32::consts::LOG2_E,
            Some(cap) => 2.0 * scale * std::f32::consts::LOG2_E / cap,
        }
    }

    /// Query heads of a key/value head.
    pub fn group(&self) -> u32 {
        self.query_heads / self.kv_heads
    }

    /// Units of a core's tile.
    fn units(&self) -> u32 {
        self.tile.queries / PANEL
    }

    /// Elements of a unit: 8 tokens of a head.
    fn unit(&self) -> u32 {
        self.head_dim * PANEL
    }

    /// Query heads of a core's tile; units are panels of tokens, and in each panel these heads.
    fn heads_of_core(&self) -> u32 {
        self.group().min(self.units())
    }

    /// Panels of tokens of a core's tile.
    fn panels_of_core(&self) -> u32 {
        self.units() / self.heads_of_core()
    }

    /// Panels of tokens of an item.
    fn panels_of_item(&self, array: &Array) -> u32 {
        self.panels_of_core() * array.core_rows
    }

    /// Tiles of sums of four queries: 4 features each, and one of the sums of weights.
    fn sum_tiles(&self) -> u32 {
        self.head_dim / 4 + 1
    }

    /// Keys, or values, of as many positions as are looked at together.
    fn block(&self) -> u32 {
        self.tile.positions * self.head_dim
    }

    /// Elements of an element of the cache in a core.
    fn cache_element(&self) -> u32 {
        self.tile.positions * self.tile.features
    }

    /// Tokens for which queries and results have room: whole items.
    pub fn padded_tokens(&self, array: &Array, shape: Shape) -> u32 {
        shape
            .tokens
            .next_multiple_of(self.panels_of_item(array) * PANEL)
    }

    /// Bytes of the buffers of a shape: queries, cache, parameters, results.
    pub fn buffer_bytes(&self, array: &Array, shape: Shape) -> [u64; 4] {
        let panels = u64::from(self.padded_tokens(array, shape) / PANEL);
        let panel = u64::from(self.query_heads * self.unit()) * 2;
        [
            panels * panel,
            u64::from(self.kv_heads * 2 * self.head_dim) * u64::from(shape.capacity) * 2,
            self.items(array, shape).len() as u64 * u64::from(pack::HEADER_BYTES),
            panels * panel,
        ]
    }

    /// The whole array's module with a sequence for each shape.
    ///
    /// # Errors
    /// When a shape cannot be, or MLIR refuses the module.
    pub fn emit(
        &self,
        array: &Array,
        version: DialectVersion,
        name: &str,
        shapes: &[Shape],
    ) -> Result<String, AttentionError> {
        let unit = array.matrix(Operands::Bf16);
        if (unit.m, unit.k, unit.n) != (4, 8, 4) {
            return Err(AttentionError::Array {
                array: array.name.clone(),
            });
        }
        if !self.fits(array) {
            return Err(AttentionError::NoTile {
                array: array.name.clone(),
                head_dim: self.head_dim,
                query_heads: self.query_heads,
                kv_heads: self.kv_heads,
            });
        }
        for &shape in shapes {
            self.check(array, shape)
                .map_err(|what| AttentionError::Shape {
                    tokens: shape.tokens,
                    context: shape.context,
                    what,
                })?;
        }
        let text = aie::emit(array, version, name, |device| {
            let streams = Streams::new(self, array);
            streams.place(self, array, device);
            for &shape in shapes {
                let buffers = self.buffer_bytes(array, shape);
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

    fn check(&self, array: &Array, shape: Shape) -> Result<(), String> {
        let Shape {
            tokens,
            context,
            slack,
            window,
            capacity,
        } = shape;
        if tokens == 0 || window == Some(0) {
            return Err("no token sees anything".to_owned());
        }
        if context > capacity || context < tokens.saturating_add(slack) {
            return Err(format!(
                "the context is more than the cache's {capacity} positions, or less than the tokens and {slack}"
            ));
        }
        if !capacity.is_multiple_of(self.tile.positions) {
            return Err(format!(
                "a cache of {capacity} positions is no multiple of {}",
                self.tile.positions
            ));
        }
        let distance = u64::from(capacity) * u64::from(self.head_dim / 2);
        if distance > u64::from(array.shim.max_stride_words) {
            return Err(format!(
                "values lie {distance} words behind their keys, a shim's stride reaches {}",
                array.shim.max_stride_words
            ));
        }
        Ok(())
    }
}

/// The name of a shape's sequence.
pub fn sequence_name(shape: Shape) -> String {
    let Shape {
        tokens,
        context,
        slack,
        window,
        capacity,
    } = shape;
    let window = window.map_or_else(|| "all".to_owned(), |window| window.to_string());
    format!("attention_{tokens}_tokens_{context}_less_{slack}_sees_{window}_of_{capacity}")
}
