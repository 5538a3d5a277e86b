//! Attention of many rows of one sequence: neighbouring rows and all heads of a KV head share what they read.
//!
//! The rows of a call are of one sequence, as the phase says; their positions may be in any order, but a tile goes
//! through all positions from the first to the last that any of its rows sees. Two ways: `portable` in f32, and on
//! matrix units with queries, weights and sums of a tile in f16, f16 and f32.

use super::chunk::{Chunk, is_f16};
use super::{Attend, batches, unsupported, wraps};
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Spec, VariantSpec};
use crate::lowering::Lowering;
use crate::rows::literal;
use gembin_bundle::gpu::{Access, Extent, MatrixShape, Needs};
use gembin_bundle::manifest::RowSet;

/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Queries of a tile in f32.
const QUERIES: u32 = 32;
/// Positions of a tile in f32: a thread makes 2 x 4 scores.
const TILE: u32 = THREADS * 8 / QUERIES;

/// Rows of one sequence.
pub(super) fn attend_sequence(
    l: &mut Lowering<'_>,
    label: &str,
    attend: &Attend<'_>,
) -> Result<(), LowerError> {
    let cache = attend.shape;
    if attend.q.rows != RowSet::Seq {
        return Err(unsupported(
            label,
            "rows asked for are not neighbours of one sequence",
        ));
    }
    let mut bound = Bindings::default();
    let numbers = Numbers {
        input: bound.read(attend.q),
        cache: bound.cache(Access::Read, attend.cache, cache),
        output: bound.write(attend.out),
        call: bound.call(),
    };
    let mut variants = Vec::new();
    variants.extend(Matrix::size16(attend).map(|m| m.variant(l, attend, numbers)));
    variants.extend(Matrix::size8(attend).map(|m| m.variant(l, attend, numbers)));
    variants.push(portable(l, attend, numbers));
    let spec = Spec {
        name: format!("attention_tile {}", attend.name(l)),
        bindings: bound.needs,
        variants,
    };
    let work = [
        Extent::Rows(attend.q.rows),
        Extent::Fixed(attend.heads),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bound.resources, Vec::new(), work)
}

/// Numbers of the bindings.
#[derive(Clone, Copy)]
struct Numbers {
    input: u32,
    cache: [u32; 2],
    output: u32,
    call: u32,
}

/// How a variant on the matrix units is tiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Matrix {
    shape: MatrixShape,
    /// Rows and columns of a matrix.
    size: u32,
    subgroup: u32,
    subgroups: u32,
    /// Queries of a workgroup.
    queries: u32,
    /// Positions of a tile.
    tile: u32,
    /// Subgroups that share the products of a matrix of scores.
    dot_splits: u32,
}

impl Matrix {
    /// For 16 x 16 x 16 matrices in subgroups of 32: what fits into the 48 KiB that desktop devices have.
    fn size16(attend: &Attend<'_>) -> Option<Self> {
        [(32, 32, 2), (16, 32, 4), (16, 16, 8)]
            .into_iter()
            .map(|(queries, tile, dot_splits)| Self {
                shape: MatrixShape::F16x16,
                size: 16,
                subgroup: 32,
                subgroups: 8,
                queries,
                tile,
                dot_splits,
            })
            .find(|matrix| matrix.serves(attend, 48 << 10))
    }

    /// For 8 x 8 x 8 matrices in subgroups of 8: small, for the one known device with them is a processor.
    fn size8(attend: &Attend<'_>) -> Option<Self> {
        let matrix = Self {
            shape: MatrixShape::F16x8,
            size: 8,
            subgroup: 8,
            subgroups: 4,
            queries: 16,
            tile: 16,
            dot_splits: 1,
        };
        matrix.serves(attend, 32 << 10).then_some(matrix)
    }

    /// Whether heads are made of whole matrices, halves as in the cache, and everything fits into workgroup memory.
    fn serves(self, attend: &Attend<'_>, most_bytes: u32) -> bool {
        let dim = attend.shape.head_dim;
        let row = dim / 8 + 1;
        let strips = self.subgroups * self.size * (self.size / 4 + 1);
        let elements = self.queries * row
            + (self.tile * row).max(strips)
            + self.dot_splits * self.queries * (self.tile / 4 + 1)
            + self.queries * (self.tile / 8 + 1);
        is_f16(attend.shape)
            && dim.is_multiple_of(self.size * self.dot_splits)
            && elements * 16 + self.queries * 4 <= most_bytes
    }

    fn variant(self, l: &Lowering<'_>, attend: &Attend<'_>, numbers: Numbers) -> VariantSpec {
        let cache = attend.shape;
        let batches = batches(attend.group(), self.queries);
        let heads = attend.group() / batches;
        let threads = self.subgroup * self.subgroups;
        VariantSpec {
            name: match self.shape {
                MatrixShape::F16x16 | MatrixShape::I8x16 | MatrixShape::I8x16x32 => "matrix16",
                MatrixShape::F16x8 | MatrixShape::I8x8 => "matrix8",
            },
            template: "attention_matrix",
            constants: constants! {
                threads: threads,
                subgroup_size: self.subgroup,
                mat: self.size,
                queries: self.queries,
                tile: self.tile,
                dot_splits: self.dot_splits,
                softmax_team: (threads / self.queries).min(self.tile / 4),
                own_columns: (cache.head_dim / self.size).div_ceil(self.subgroups),
                input_binding: numbers.input,
                keys_binding: numbers.cache[0],
                values_binding: numbers.cache[1],
                output_binding: numbers.output,
                call_binding: numbers.call,
                rows: "seq",
                heads: attend.heads,
                head_dim: cache.head_dim,
                kv_heads: cache.kv_heads,
                group: attend.group(),
                batches: batches,
                tile_heads: heads,
                tile_rows: self.queries / heads,
                capacity: cache.capacity,
                wraps: wraps(l, cache),
                window: cache.window.unwrap_or(0),
                chunks: cache.head_dim / 8,
                scale: literal(attend.scale),
                softcap: if attend.softcap == 0.0 { None } else { Some(literal(attend.softcap)) },
            },
            needs: Needs {
                f16: true,
                matrix: Some(self.shape),
                ..Needs::default()
            },
            subgroup: Some(self.subgroup),
            tile: [self.queries / heads, heads, 1],
            activations: None,
        }
    }
}

fn portable(l: &Lowering<'_>, attend: &Attend<'_>, numbers: Numbers) -> VariantSpec {
    let cache = attend.shape;
    let chunk = Chunk::of(cache);
    let chunks = cache.head_dim / chunk.elements();
    let batches = batches(attend.group(), QUERIES);
    let heads = attend.group() / batches;
    // As many neighbours as have a chunk each; a query's sums lie in at least THREADS / QUERIES threads.
    let sum_lanes = (1 << chunks.ilog2()).clamp(THREADS / QUERIES, 64);
    VariantSpec {
        name: "portable",
        template: "attention_tile",
        constants: constants! {
            threads: THREADS,
            input_binding: numbers.input,
            keys_binding: numbers.cache[0],
            values_binding: numbers.cache[1],
            output_binding: numbers.output,
            call_binding: numbers.call,
            rows: "seq",
            heads: attend.heads,
            kv_heads: cache.kv_heads,
            group: attend.group(),
            batches: batches,
            tile_heads: heads,
            tile_rows: QUERIES / heads,
            capacity: cache.capacity,
            wraps: wraps(l, cache),
            window: cache.window.unwrap_or(0),
            f16: is_f16(cache),
            words: chunk.words,
            parts: chunk.parts,
            part: chunk.part,
            chunks: chunks,
            queries: QUERIES,
            tile: TILE,
            softmax_team: THREADS / QUERIES,
            sum_lanes: sum_lanes,
            own_queries: QUERIES / (THREADS / sum_lanes),
            own_chunks: chunks.div_ceil(sum_lanes),
            scale: literal(attend.scale),
            softcap: if attend.softcap == 0.0 { None } else { Some(literal(attend.softcap)) },
        },
        needs: Needs::default(),
        subgroup: None,
        tile: [QUERIES / heads, heads, 1],
        activations: None,
    }
}
