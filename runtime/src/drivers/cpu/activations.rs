//! Activations on their way into a matrix product: residual sum, norms, quantization, and the order the kernels read.
//!
//! Rows are cut into tiles ([`Tiling`]); a tile of `R` rows is stored so that the kernel reads it front to back:
//!
//! - float weights: `[column][R]` f32, columns padded with zeros to an even number;
//! - bf16 weights where the bf16 dot product is used: `[word][part][R]` pairs of bf16, a word being two columns, the
//!   parts high and low: as many bytes;
//! - quantized weights: a record a group of 32 columns, `[8 words][R]` of four int8 each, `[R]` f32 scales, `[R]` i32
//!   first values of the sums. The first value is `-offset * sum(int8)`, which takes back the offset that makes a
//!   signed weight unsigned.
//!
//! A tile starts where the rows before it end, so the tiling changes no row's own arithmetic.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "row kernels: pointers are valid for the columns named, as each function's contract says"
)]

use super::simd::{LANES, RECORD_BYTES, Simd, kernel, record_init, record_scale, record_word};
use gembin_bundle::layout::Format;

/// Offset of stored q4 values.
const Q4_OFFSET: i32 = 8;

/// How `rows` activation rows are cut into tiles of nearly equal size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Tiles.
    pub tiles: usize,
    each: usize,
    more: usize,
}

impl Tiling {
    /// One tile up to `direct` rows, else tiles of at most `tile`.
    pub fn new(rows: usize, direct: usize, tile: usize) -> Self {
        let tiles = if rows <= direct {
            1
        } else {
            rows.div_ceil(tile)
        };
        Self {
            tiles,
            each: rows / tiles,
            more: rows % tiles,
        }
    }

    /// First row and rows of a tile.
    pub fn tile(&self, tile: usize) -> (usize, usize) {
        let first = tile * self.each + tile.min(self.more);
        (first, self.each + usize::from(tile < self.more))
    }

    /// First row of the tile that holds `row`, and the tile's rows.
    pub fn tile_of(&self, row: usize) -> (usize, usize) {
        let wide = (self.each + 1) * self.more;
        let tile = if row < wide {
            row / (self.each + 1)
        } else {
            self.more + (row - wide) / self.each
        };
        self.tile(tile)
    }
}

/// What is done to a row before it is multiplied; the fields are those of the step of the same name.
pub(super) struct Prologue {
    /// Columns.
    pub cols: usize,
    /// Weights of the first norm, or null.
    pub post_norm: *const f32,
    /// Weights of the second norm, or null.
    pub norm: *const f32,
    /// Of both.
    pub eps: f32,
    /// Format of the weight that the row will meet.
    pub format: Format,
}

/// One row's places.
pub(super) struct RowPlaces {
    /// Input.
    pub x: *const f32,
    /// Added to it, or null.
    pub residual: *const f32,
    /// Receives the sum, or null.
    pub sum: *mut f32,
    /// Working memory: columns padded to 64.
    pub row: *mut f32,
    /// The row's tile.
    pub tile: *mut u8,
    /// Rows of the tile.
    pub tile_rows: usize,
    /// Which of them.
    pub index: usize,
}

/// Bytes of a prepared row.
pub(super) fn prepared_row_bytes(format: Format, cols: usize) -> usize {
    if format.is_quantized() {
        cols.div_ceil(32) * RECORD_BYTES
    } else {
        cols.next_multiple_of(2) * 4
    }
}

kernel!(
    /// Prepares one row.
    pub(super) fn prepare_row = prepare_row_body(p: &Prologue, at: &RowPlaces)
);

#[inline(always)]
unsafe fn prepare_row_body<S: Simd>(p: &Prologue, at: &RowPlaces) {
    let mut from = at.x;
    if !p.post_norm.is_null() {
        norm_row::<S>(from, p.post_norm, 0.0, p.cols, p.eps, at.row);
        from = at.row;
    }
    if !at.residual.is_null() {
        add_rows::<S>(at.residual, from, p.cols, at.row);
        from = at.row;
        if !at.sum.is_null() {
            std::ptr::copy_nonoverlapping(at.row, at.sum, p.cols);
        }
    }
    if !p.norm.is_null() {
        norm_row::<S>(from, p.norm, 0.0, p.cols, p.eps, at.row);
    } else if from != at.row.cast_const() {
        std::ptr::copy_nonoverlapping(from, at.row, p.cols);
    }
    let padded = p.cols.next_multiple_of(64);
    std::ptr::write_bytes(at.row.add(p.cols), 0, padded - p.cols);
    match p.format {
        Format::Bf16 if S::SPLIT_BF16 => split_row(p.cols, at),
        Format::F32 | Format::F16 | Format::Bf16 => {
            let tile = at.tile.cast::<f32>();
            if at.tile_rows == 1 {
                std::ptr::copy_nonoverlapping(at.row, tile, p.cols.next_multiple_of(2));
                return;
            }
            for col in 0..p.cols.next_multiple_of(2) {
                *tile.add(col * at.tile_rows + at.index) = *at.row.add(col);
            }
        }
        Format::Q8 => quantize_row::<S>(p.cols, at, S::Q8_OFFSET),
        Format::Q4 => quantize_row::<S>(p.cols, at, Q4_OFFSET),
    }
}

/// Two bf16 parts of every activation, by words of two columns.
#[inline(always)]
unsafe fn split_row(cols: usize, at: &RowPlaces) {
    let tile = at.tile.cast::<u32>();
    let words = cols.div_ceil(2);
    for first in (0..words).step_by(LANES) {
        // Split first, which vectors do, then scatter.
        let mut parts = [[0u16; 2 * LANES]; 2];
        let [highs, lows] = &mut parts;
        for (col, (high, low)) in highs.iter_mut().zip(lows).enumerate() {
            [*high, *low] = split(*at.row.add(2 * first + col));
        }
        for word in 0..LANES.min(words - first) {
            let to = tile.add(2 * (first + word) * at.tile_rows + at.index);
            for (part, values) in parts.iter().enumerate() {
                let pair = u32::from(values[2 * word]) | u32::from(values[2 * word + 1]) << 16;
                *to.add(part * at.tile_rows) = pair;
            }
        }
    }
}

/// Bits of two bf16 whose sum is `x` to within 2^-17 of it: `x` rounded, and the exact rest rounded.
#[inline(always)]
fn split(x: f32) -> [u16; 2] {
    let high = round_bf16(x);
    let rest = x - f32::from_bits(u32::from(high) << 16);
    // Beyond what bf16 holds there is no rest.
    let low = if rest.is_finite() { rest } else { 0.0 };
    [high, round_bf16(low)]
}

/// To nearest, ties to even; without branches, so that rows are split by vectors.
#[inline(always)]
fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { 0x7fc0 } else { rounded }) as u16
}

/// Symmetric int8 with a scale a group of 32: `scale = max|x| / 127`.
#[inline(always)]
unsafe fn quantize_row<S: Simd>(cols: usize, at: &RowPlaces, offset: i32) {
    let rows = at.tile_rows;
    for group in 0..cols.div_ceil(32) {
        let x = at.row.add(group * 32);
        let (a, b) = (S::load(x), S::load(x.add(LANES)));
        let greatest = S::greatest(S::max(S::abs(a), S::abs(b)));
        let inverse = if greatest > 0.0 {
            127.0 / greatest
        } else {
            0.0
        };
        let mut bytes = [0i8; 32];
        S::store_i8(bytes.as_mut_ptr(), S::mul(a, S::splat(inverse)));
        S::store_i8(bytes.as_mut_ptr().add(LANES), S::mul(b, S::splat(inverse)));
        let mut sum = 0i32;
        for byte in bytes {
            sum += i32::from(byte);
        }
        let record = at.tile.add(group * RECORD_BYTES * rows);
        for word in 0..8 {
            let value = bytes.as_ptr().add(word * 4).cast::<u32>().read_unaligned();
            *record.add(record_word(rows, word, at.index)).cast::<u32>() = value;
        }
        *record.add(record_scale(rows, at.index)).cast::<f32>() = greatest / 127.0;
        *record.add(record_init(rows, at.index)).cast::<i32>() = -offset * sum;
    }
}

/// `out = rms_norm(x) * (offset + weight)`, `1 / sqrt(mean(x^2) + eps)`; `out` may be `x`.
/// Source: Zhang & Sennrich 2019.
#[inline(always)]
pub(super) unsafe fn norm_row<S: Simd>(
    x: *const f32,
    weight: *const f32,
    offset: f32,
    cols: usize,
    eps: f32,
    out: *mut f32,
) {
    let mut sums = [S::splat(0.0); 4];
    let whole = cols / LANES;
    for i in 0..whole {
        let v = S::load(x.add(i * LANES));
        sums[i % 4] = S::fma(v, v, sums[i % 4]);
    }
    let rest = cols % LANES;
    if rest != 0 {
        let v = S::load_n(x.add(whole * LANES), rest);
        sums[whole % 4] = S::fma(v, v, sums[whole % 4]);
    }
    let total = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
    let scale = S::splat(1.0 / (total / cols as f32 + eps).sqrt());
    let offset = S::splat(offset);
    for i in 0..whole {
        let v = S::mul(S::load(x.add(i * LANES)), scale);
        let w = S::add(S::load(weight.add(i * LANES)), offset);
        S::store(out.add(i * LANES), S::mul(v, w));
    }
    if rest != 0 {
        let v = S::mul(S::load_n(x.add(whole * LANES), rest), scale);
        let w = S::add(S::load_n(weight.add(whole * LANES), rest), offset);
        S::store_n(out.add(whole * LANES), S::mul(v, w), rest);
    }
}

/// `out = a + b`; `out` may be either.
#[inline(always)]
unsafe fn add_rows<S: Simd>(a: *const f32, b: *const f32, cols: usize, out: *mut f32) {
    let whole = cols / LANES;
    for i in 0..whole {
        let at = i * LANES;
        S::store(out.add(at), S::add(S::load(a.add(at)), S::load(b.add(at))));
    }
    let (at, rest) = (whole * LANES, cols % LANES);
    if rest != 0 {
        let sum = S::add(S::load_n(a.add(at), rest), S::load_n(b.add(at), rest));
        S::store_n(out.add(at), sum, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    fn value(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[test]
    fn parts_add_up_to_their_activation() {
        let mut random = Random(20);
        for exponent in -100..100 {
            for _ in 0..100 {
                let x = random.signed() * 2.0f32.powi(exponent);
                let [high, low] = split(x).map(value);
                let error = (f64::from(x) - f64::from(high) - f64::from(low)).abs();
                assert!(error <= 2f64.powi(-17) * f64::from(x.abs()), "{x}");
                assert_eq!(high.to_bits(), half::bf16::from_f32(x).to_f32().to_bits());
            }
        }
        for x in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(split(x).map(value), [x, 0.0]);
        }
        assert!(value(split(f32::NAN)[0]).is_nan());
        assert!(value(split(-f32::from_bits(0x7fff_ffff))[0]).is_nan());
    }

    #[test]
    fn tiles_cover_the_rows_and_know_them() {
        for (direct, tile) in [(8, 6), (4, 4)] {
            for rows in 1..100 {
                let tiling = Tiling::new(rows, direct, tile);
                let mut next = 0;
                for t in 0..tiling.tiles {
                    let (first, count) = tiling.tile(t);
                    assert_eq!(first, next);
                    assert!(count >= 1 && count <= direct.max(tile));
                    for row in first..first + count {
                        assert_eq!(tiling.tile_of(row), (first, count));
                    }
                    next += count;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
