//! Causal attention over the KV cache, with grouped heads, windows, ring buffers and soft caps.
//!
//! Positions are cut into chunks of 64 at multiples of 64. A chunk is a softmax of its own (greatest score, sum,
//! weighted values), and chunks are merged in ascending order (Milakov & Gimelshein 2018; Dao et al. 2022). With few
//! rows the chunks themselves are spread over the threads and merged afterwards; with many, a tile of rows goes through
//! its chunks on one thread. Both are the same arithmetic, so a row's result depends neither on threads nor on its
//! neighbours. All query heads of a KV head, and the rows of a tile, share each load of a key or a value.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels over checked caches; the contract is that of `Tile`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "plain counted loops over register arrays are sure to unroll and inline"
)]

use super::math::{exp, softcap};
use super::memory::CacheView;
use super::simd::{LANES, Simd, kernel};

/// Positions of a chunk.
pub(super) const CHUNK: usize = 64;
/// Queries (rows by heads of one KV head) that a tile aims at.
const TILE_QUERIES: usize = 32;

/// Rows of a tile for `group` query heads a KV head.
pub(super) fn tile_rows(group: usize) -> usize {
    (TILE_QUERIES / group).max(1)
}

/// f32 of a query's partial result: greatest score, sum, padding, then the weighted values padded to whole vectors.
pub(super) fn partial_len(head_dim: usize) -> usize {
    LANES + head_dim.next_multiple_of(LANES)
}

/// f32 of working memory for tiles of `group` query heads a KV head.
pub(super) fn scratch_len(group: usize, head_dim: usize) -> usize {
    tile_rows(group) * group * (CHUNK + 2 * partial_len(head_dim))
}

/// Queries that go through the cache together: rows of one slot, all heads of one KV head.
///
/// Safety: `q` is valid for the tile's rows of `cols` f32; the cache holds `slot` and `kv_head`; `positions` has a
/// position a row. Scratch memory is the thread's own, of [`scratch_len`] f32.
pub(super) struct Tile<'a> {
    pub cache: &'a CacheView,
    /// First row of the tile.
    pub q: *const f32,
    /// Columns of a row of `q` and of the output.
    pub cols: usize,
    pub positions: &'a [u32],
    pub slot: usize,
    pub kv_head: usize,
    /// Query heads of a KV head.
    pub group: usize,
    pub scale: f32,
    /// 0: none.
    pub softcap: f32,
}

impl Tile<'_> {
    fn queries(&self) -> usize {
        self.positions.len() * self.group
    }

    /// Offset of query `j` in `q` and in the output.
    fn query_offset(&self, j: usize) -> usize {
        let head = self.kv_head * self.group + j % self.group;
        j / self.group * self.cols + head * self.cache.head_dim
    }

    /// Positions that some row of the tile sees.
    fn seen(&self) -> std::ops::Range<usize> {
        let (mut start, mut end) = (usize::MAX, 0);
        for &pos in self.positions {
            let pos = pos as usize;
            start = start.min(self.cache.first_seen(pos));
            end = end.max(pos + 1);
        }
        start..end
    }
}

kernel!(
    /// Attention of a tile; `out` is its first row.
    pub(super) fn attend = attend_body(t: &Tile<'_>, out: *mut f32, scratch: *mut f32)
);

#[inline(always)]
unsafe fn attend_body<S: Simd>(t: &Tile<'_>, out: *mut f32, scratch: *mut f32) {
    let (queries, len) = (t.queries(), partial_len(t.cache.head_dim));
    let locals = scratch.add(queries * CHUNK);
    let totals = locals.add(queries * len);
    for j in 0..queries {
        start_total::<S>(totals.add(j * len), len);
    }
    let seen = t.seen();
    for chunk in seen.start / CHUNK..seen.end.div_ceil(CHUNK) {
        chunk_softmax::<S>(t, chunk, scratch, locals);
        for j in 0..queries {
            merge::<S>(totals.add(j * len), locals.add(j * len), len);
        }
    }
    for j in 0..queries {
        write_out::<S>(
            totals.add(j * len),
            t.cache.head_dim,
            out.add(t.query_offset(j)),
        );
    }
}

kernel!(
    /// One chunk of a tile, to be merged later: a partial result a query.
    pub(super) fn attend_chunk = attend_chunk_body(
        t: &Tile<'_>,
        chunk: usize,
        scratch: *mut f32,
        partials: *mut f32,
    )
);

#[inline(always)]
unsafe fn attend_chunk_body<S: Simd>(
    t: &Tile<'_>,
    chunk: usize,
    scratch: *mut f32,
    partials: *mut f32,
) {
    chunk_softmax::<S>(t, chunk, scratch, partials);
}

kernel!(
    /// Merges `chunks` partial results of a query, `stride` f32 apart, and writes the head's output.
    pub(super) fn merge_chunks = merge_chunks_body(
        partials: *const f32,
        stride: usize,
        chunks: usize,
        head_dim: usize,
        scratch: *mut f32,
        out: *mut f32,
    )
);

#[inline(always)]
unsafe fn merge_chunks_body<S: Simd>(
    partials: *const f32,
    stride: usize,
    chunks: usize,
    head_dim: usize,
    scratch: *mut f32,
    out: *mut f32,
) {
    let len = partial_len(head_dim);
    start_total::<S>(scratch, len);
    for chunk in 0..chunks {
        merge::<S>(scratch, partials.add(chunk * stride), len);
    }
    write_out::<S>(scratch, head_dim, out);
}

/// An empty total: no score, no sum.
#[inline(always)]
unsafe fn start_total<S: Simd>(total: *mut f32, len: usize) {
    for i in (0..len).step_by(LANES) {
        S::store(total.add(i), S::splat(0.0));
    }
    *total = f32::NEG_INFINITY;
}

/// Adds a partial result to a total.
#[inline(always)]
unsafe fn merge<S: Simd>(total: *mut f32, partial: *const f32, len: usize) {
    let (old, new) = (*total, *partial);
    if new == f32::NEG_INFINITY {
        return;
    }
    let greatest = if old > new { old } else { new };
    // Two exponentials in one vector.
    let mut factors = [0.0f32; LANES];
    factors[0] = old - greatest;
    factors[1] = new - greatest;
    S::store(factors.as_mut_ptr(), exp::<S>(S::load(factors.as_ptr())));
    let [keep, take, ..] = factors;
    *total = greatest;
    *total.add(1) = *total.add(1) * keep + *partial.add(1) * take;
    let (keep, take) = (S::splat(keep), S::splat(take));
    for i in (LANES..len).step_by(LANES) {
        let taken = S::mul(S::load(partial.add(i)), take);
        S::store(total.add(i), S::fma(S::load(total.add(i)), keep, taken));
    }
}

#[inline(always)]
unsafe fn write_out<S: Simd>(total: *const f32, head_dim: usize, out: *mut f32) {
    let by = S::splat(1.0 / *total.add(1));
    let whole = head_dim / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        S::store(out.add(i), S::mul(S::load(total.add(LANES + i)), by));
    }
    if whole != head_dim {
        let y = S::mul(S::load(total.add(LANES + whole)), by);
        S::store_n(out.add(whole), y, head_dim - whole);
    }
}

/// The softmax of one chunk for every query: greatest score, sum of exponentials and weighted values to `partials`.
/// A query that sees nothing of the chunk gets a greatest score of -infinity.
#[inline(always)]
unsafe fn chunk_softmax<S: Simd>(t: &Tile<'_>, chunk: usize, scores: *mut f32, partials: *mut f32) {
    let seen = t.seen();
    let start = chunk * CHUNK;
    let keys = seen.start.max(start)..seen.end.min(start + CHUNK);
    let head_bytes = t.cache.head_offset(t.slot, t.kv_head);
    let k = t.cache.keys.add(head_bytes).cast_const();
    let v = t.cache.values.add(head_bytes).cast_const();
    if t.cache.is_f16 {
        scores_of::<S, true>(t, k, keys.clone(), start, scores);
    } else {
        scores_of::<S, false>(t, k, keys.clone(), start, scores);
    }
    let (queries, len) = (t.queries(), partial_len(t.cache.head_dim));
    for j in 0..queries {
        let pos = t.positions[j / t.group] as usize;
        let mine = t.cache.first_seen(pos).max(keys.start)..(pos + 1).min(keys.end);
        let (scores, partial) = (scores.add(j * CHUNK), partials.add(j * len));
        softmax::<S>(
            t,
            scores,
            mine.start.max(start) - start,
            mine.end.max(start) - start,
            partial,
        );
    }
    if t.cache.is_f16 {
        values_of::<S, true>(t, v, keys, start, scores, partials);
    } else {
        values_of::<S, false>(t, v, keys, start, scores, partials);
    }
}

/// Turns a query's raw products into weights; those outside `from..to` into 0.
#[inline(always)]
unsafe fn softmax<S: Simd>(
    t: &Tile<'_>,
    scores: *mut f32,
    from: usize,
    to: usize,
    partial: *mut f32,
) {
    if from >= to {
        for i in (0..CHUNK).step_by(LANES) {
            S::store(scores.add(i), S::splat(0.0));
        }
        *partial = f32::NEG_INFINITY;
        *partial.add(1) = 0.0;
        return;
    }
    let mut greatest = S::splat(f32::NEG_INFINITY);
    for i in (0..CHUNK).step_by(LANES) {
        let mut s = S::mul(S::load(scores.add(i)), S::splat(t.scale));
        if t.softcap > 0.0 {
            s = softcap::<S>(s, t.softcap);
        }
        S::store(scores.add(i), s);
    }
    for i in (0..from).chain(to..CHUNK) {
        *scores.add(i) = f32::NEG_INFINITY;
    }
    for i in (0..CHUNK).step_by(LANES) {
        greatest = S::max(greatest, S::load(scores.add(i)));
    }
    let greatest = S::greatest(greatest);
    let mut sum = S::splat(0.0);
    for i in (0..CHUNK).step_by(LANES) {
        let p = exp::<S>(S::sub(S::load(scores.add(i)), S::splat(greatest)));
        sum = S::add(sum, p);
        S::store(scores.add(i), p);
    }
    *partial = greatest;
    *partial.add(1) = S::sum(sum);
}

/// Products of every query with the keys of a chunk, `[query][CHUNK]`.
#[inline(always)]
unsafe fn scores_of<S: Simd, const F16: bool>(
    t: &Tile<'_>,
    k: *const u8,
    keys: std::ops::Range<usize>,
    start: usize,
    scores: *mut f32,
) {
    let queries = t.queries();
    let wide = if S::WIDE { 4 } else { 2 };
    let mut key = keys.start;
    while key < keys.end {
        let many = keys.end - key >= wide;
        let mut j = 0;
        while j < queries {
            let at = scores.add(j * CHUNK + key - start);
            match (S::WIDE, queries - j >= wide, many) {
                (true, true, true) => score_block::<S, F16, 4, 4>(t, k, key, j, at),
                (true, true, false) => score_block::<S, F16, 4, 1>(t, k, key, j, at),
                (true, false, true) => score_block::<S, F16, 1, 4>(t, k, key, j, at),
                (false, true, true) => score_block::<S, F16, 2, 2>(t, k, key, j, at),
                (false, true, false) => score_block::<S, F16, 2, 1>(t, k, key, j, at),
                (false, false, true) => score_block::<S, F16, 1, 2>(t, k, key, j, at),
                (_, false, false) => score_block::<S, F16, 1, 1>(t, k, key, j, at),
            }
            j += if queries - j >= wide { wide } else { 1 };
        }
        key += if many { wide } else { 1 };
    }
}

/// Products of `Q` queries from `j` with `K` keys from position `key`.
#[inline(always)]
unsafe fn score_block<S: Simd, const F16: bool, const Q: usize, const K: usize>(
    t: &Tile<'_>,
    k: *const u8,
    key: usize,
    j: usize,
    out: *mut f32,
) {
    let dim = t.cache.head_dim;
    let row_bytes = dim * t.cache.element_bytes();
    let mut q = [t.q; Q];
    for a in 0..Q {
        q[a] = t.q.add(t.query_offset(j + a));
    }
    let mut rows = [k; K];
    for b in 0..K {
        rows[b] = k.add((key + b) % t.cache.capacity * row_bytes);
    }
    let mut acc = [[S::splat(0.0); K]; Q];
    let whole = dim / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let mut x = [S::splat(0.0); K];
        for b in 0..K {
            x[b] = load_element::<S, F16>(rows[b], i);
        }
        for a in 0..Q {
            let q = S::load(q[a].add(i));
            for b in 0..K {
                acc[a][b] = S::fma(q, x[b], acc[a][b]);
            }
        }
    }
    let rest = dim - whole;
    if rest != 0 {
        for b in 0..K {
            let x = load_element_n::<S, F16>(rows[b], whole, rest);
            for a in 0..Q {
                acc[a][b] = S::fma(S::load_n(q[a].add(whole), rest), x, acc[a][b]);
            }
        }
    }
    for a in 0..Q {
        for b in 0..K {
            *out.add(a * CHUNK + b) = S::sum(acc[a][b]);
        }
    }
}

#[inline(always)]
unsafe fn load_element<S: Simd, const F16: bool>(row: *const u8, i: usize) -> S::F {
    if F16 {
        S::load_f16(row.cast::<u16>().add(i))
    } else {
        S::load(row.cast::<f32>().add(i))
    }
}

#[inline(always)]
unsafe fn load_element_n<S: Simd, const F16: bool>(row: *const u8, i: usize, n: usize) -> S::F {
    if F16 {
        S::load_f16_n(row.cast::<u16>().add(i), n)
    } else {
        S::load_n(row.cast::<f32>().add(i), n)
    }
}

/// Sums of the chunk's values under every query's weights, into the partial results.
#[inline(always)]
unsafe fn values_of<S: Simd, const F16: bool>(
    t: &Tile<'_>,
    v: *const u8,
    keys: std::ops::Range<usize>,
    start: usize,
    weights: *const f32,
    partials: *mut f32,
) {
    let queries = t.queries();
    let wide = if S::WIDE { 4 } else { 2 };
    let mut j = 0;
    while j < queries {
        let many = queries - j >= wide;
        let mut col = 0;
        while col < t.cache.head_dim {
            let left = t.cache.head_dim - col;
            let at = Values {
                v,
                from: keys.start,
                to: keys.end,
                weights: weights.add(j * CHUNK).wrapping_sub(start),
                col,
                out: partials.add(j * partial_len(t.cache.head_dim) + LANES + col),
            };
            let vectors = if left >= wide * LANES { wide } else { 1 };
            match (S::WIDE, many, vectors) {
                (true, true, 4) => value_block::<S, F16, 4, 4>(t, &at),
                (true, true, _) => value_block::<S, F16, 4, 1>(t, &at),
                (true, false, 4) => value_block::<S, F16, 1, 4>(t, &at),
                (false, true, 2) => value_block::<S, F16, 2, 2>(t, &at),
                (false, true, _) => value_block::<S, F16, 2, 1>(t, &at),
                (false, false, 2) => value_block::<S, F16, 1, 2>(t, &at),
                (_, false, _) => value_block::<S, F16, 1, 1>(t, &at),
            }
            col += vectors * LANES;
        }
        j += if many { wide } else { 1 };
    }
}

/// Where a block of values lies.
struct Values {
    v: *const u8,
    from: usize,
    to: usize,
    /// Weight of position 0 of the first query, wherever that would be.
    weights: *const f32,
    col: usize,
    out: *mut f32,
}

/// `Q` queries by `N` vectors of columns over the positions `from..to`.
#[inline(always)]
unsafe fn value_block<S: Simd, const F16: bool, const Q: usize, const N: usize>(
    t: &Tile<'_>,
    at: &Values,
) {
    let dim = t.cache.head_dim;
    let row_bytes = dim * t.cache.element_bytes();
    let left = dim - at.col;
    let mut acc = [[S::splat(0.0); N]; Q];
    let mut row = at.from % t.cache.capacity;
    for pos in at.from..at.to {
        let values = at.v.add(row * row_bytes);
        let mut x = [S::splat(0.0); N];
        for n in 0..N {
            x[n] = if N > 1 || left >= LANES {
                load_element::<S, F16>(values, at.col + n * LANES)
            } else {
                load_element_n::<S, F16>(values, at.col, left)
            };
        }
        for a in 0..Q {
            let weight = S::splat(*at.weights.wrapping_add(a * CHUNK + pos));
            for n in 0..N {
                acc[a][n] = S::fma(weight, x[n], acc[a][n]);
            }
        }
        row += 1;
        if row == t.cache.capacity {
            row = 0;
        }
    }
    let len = partial_len(dim);
    for a in 0..Q {
        for n in 0..N {
            S::store(at.out.add(a * len + n * LANES), acc[a][n]);
        }
    }
}

#[cfg(test)]
mod tests;
