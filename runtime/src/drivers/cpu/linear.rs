//! Matrix products: prepared activations by weights in blocks of sixteen rows.
//!
//! Few rows read the packed weights directly, once, at the memory's speed. Many rows go through a panel: two blocks by
//! a stretch of columns are expanded into a private buffer that stays in the first-level cache while every tile of
//! activations passes over it; meanwhile the next stretch is fetched. Both add up the same numbers in the same order
//! (column groups ascending into one f32 sum), so a row's result depends neither on the rows it is computed with nor
//! on the threads.
//!
//! With the bf16 dot product, bf16 weights stay packed and activations come as two bf16 parts of about 17 bits, each
//! summed apart over a panel's stretch of columns, whichever way the weights are read. The instruction saves the
//! widening, no multiplication: one row by cached weights was measured a quarter faster than with multiply-adds, 16
//! rows a tenth, and 128 rows, which multiplications bound, as fast. It is used for every number of rows, because a
//! choice by their number would make a row's bits depend on it.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels over checked matrices; the contract is that of `Product`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "plain counted loops over register arrays are sure to unroll and inline"
)]

use super::activations::{Tiling, prepared_row_bytes};
use super::math::{gelu, softcap};
use super::memory::Matrix;
use super::simd::{LANES, PANEL_WORD_BYTES, RECORD_BYTES, Simd, kernel, record_scale};
use gembin_bundle::cpu::Epilogue;
use gembin_bundle::layout::Format;
use std::ops::Range;

/// Column groups of a panel of quantized weights: 24 KiB of bytes, half of a 48 KiB first-level cache.
const PANEL_GROUPS: usize = 24;
/// Columns of a panel of float weights, widened to f32, or words of packed bf16 ones: 32 KiB.
const PANEL_COLS: usize = 256;
/// Bytes of working memory for a panel: the weights, then the scales of quantized ones.
pub(super) const PANEL_BYTES: usize = PANEL_COLS * 2 * LANES * 4 + PANEL_GROUPS * 2 * LANES * 4;
/// f32 sums a row: two blocks.
pub(super) const SUM_COLS: usize = 2 * LANES;
/// How far ahead of the reads packed weights are fetched: a page, whose end the hardware's prefetchers do not cross.
const PREFETCH_BYTES: usize = 4096;

/// A share of a product.
///
/// Safety: `activations` holds `rows` prepared rows of the weight's columns, cut by [`tiling`]; `out` is valid for
/// `rows` rows of `out_cols` f32, of which no other thread touches the columns of `blocks`; `panel` and `sums` are this
/// thread's own, of [`PANEL_BYTES`] bytes and `rows * SUM_COLS` f32, 64-byte aligned.
pub(super) struct Product<'a> {
    pub weight: &'a Matrix,
    pub activations: *const u8,
    pub rows: usize,
    /// Blocks of the weight; under [`Epilogue::Geglu`] whole pairs.
    pub blocks: Range<usize>,
    pub epilogue: Epilogue,
    pub out: *mut f32,
    pub out_cols: usize,
    pub panel: *mut u8,
    pub sums: *mut f32,
}

kernel!(
    /// How many rows are cut into tiles.
    pub(super) fn tiling = tiling_body(rows: usize) -> Tiling
);

#[inline(always)]
unsafe fn tiling_body<S: Simd>(rows: usize) -> Tiling {
    Tiling::new(rows, S::DIRECT, S::TILE)
}

kernel!(
    /// Computes a share of a product.
    pub(super) fn product = product_body(p: &Product<'_>)
);

#[inline(always)]
unsafe fn product_body<S: Simd>(p: &Product<'_>) {
    if p.rows <= S::DIRECT {
        match p.weight.format {
            Format::Q8 => direct_rows::<S, Q8>(p),
            Format::Q4 => direct_rows::<S, Q4>(p),
            Format::F32 => direct_rows::<S, F32>(p),
            Format::F16 => direct_rows::<S, F16>(p),
            Format::Bf16 => direct_rows::<S, BF16>(p),
        }
    } else {
        match p.weight.format {
            Format::Q8 => panels::<S, Q8>(p),
            Format::Q4 => panels::<S, Q4>(p),
            Format::F32 => panels::<S, F32>(p),
            Format::F16 => panels::<S, F16>(p),
            Format::Bf16 => panels::<S, BF16>(p),
        }
    }
}

/// [`Format`] as a constant parameter.
const Q8: u8 = 0;
const Q4: u8 = 1;
const F32: u8 = 2;
const F16: u8 = 3;
const BF16: u8 = 4;

/// Bytes of a group of one block.
const fn group_bytes(format: u8) -> usize {
    if format == Q4 { 256 } else { 512 }
}

#[inline(always)]
unsafe fn direct_rows<S: Simd, const FORMAT: u8>(p: &Product<'_>) {
    match p.rows {
        1 => direct::<S, FORMAT, 1>(p),
        2 => direct::<S, FORMAT, 2>(p),
        3 => direct::<S, FORMAT, 3>(p),
        4 => direct::<S, FORMAT, 4>(p),
        5 => direct::<S, FORMAT, 5>(p),
        6 => direct::<S, FORMAT, 6>(p),
        7 => direct::<S, FORMAT, 7>(p),
        _ => direct::<S, FORMAT, 8>(p),
    }
}

/// `R` rows against every block, weights straight from the bundle.
#[inline(always)]
unsafe fn direct<S: Simd, const FORMAT: u8, const R: usize>(p: &Product<'_>) {
    let mut block = p.blocks.start;
    while block < p.blocks.end {
        let blocks = 2.min(p.blocks.end - block);
        if FORMAT <= Q4 {
            for b in 0..blocks {
                let mut sums = [S::splat(0.0); R];
                direct_quantized::<S, FORMAT, R>(p, block + b, &mut sums);
                for r in 0..R {
                    S::store(p.sums.add(r * SUM_COLS + b * LANES), sums[r]);
                }
            }
        } else if blocks == 2 && (R <= 6 || !packed_pairs::<S>(FORMAT)) {
            direct_float::<S, FORMAT, R, 2>(p, block, 0);
        } else {
            // One block's two sums a row are enough not to wait, and two blocks' would not fit the registers.
            for b in 0..blocks {
                direct_float::<S, FORMAT, R, 1>(p, block + b, b);
            }
        }
        finish::<S>(p, block, blocks);
        block += blocks;
    }
}

#[inline(always)]
unsafe fn direct_quantized<S: Simd, const FORMAT: u8, const R: usize>(
    p: &Product<'_>,
    block: usize,
    sums: &mut [S::F; R],
) {
    let groups = p.weight.groups;
    let mut w = p.weight.data.add(block * groups * group_bytes(FORMAT));
    let mut scales = p.weight.scales.add(block * groups * LANES);
    let mut a = p.activations;
    for _ in 0..groups {
        for line in (0..group_bytes(FORMAT)).step_by(64) {
            S::prefetch_once(w.wrapping_add(PREFETCH_BYTES + line));
        }
        S::prefetch_once(scales.cast::<u8>().wrapping_add(PREFETCH_BYTES / 8));
        let dots = if FORMAT == Q4 {
            S::dot_packed::<R, true>(w, a)
        } else {
            S::dot_packed::<R, false>(w, a)
        };
        let scale = S::load_f16(scales);
        for r in 0..R {
            let by = S::splat(*a.add(record_scale(R, r)).cast::<f32>());
            sums[r] = S::fma(S::to_f32(dots[r]), S::mul(scale, by), sums[r]);
        }
        w = w.add(group_bytes(FORMAT));
        scales = scales.add(LANES);
        a = a.add(RECORD_BYTES * R);
    }
}

/// `NB` blocks at once, into lane blocks from `lane_block` of the sums: one alone would wait for the latency of its
/// sum's multiply-adds, two for each word.
#[inline(always)]
unsafe fn direct_float<S: Simd, const FORMAT: u8, const R: usize, const NB: usize>(
    p: &Product<'_>,
    block: usize,
    lane_block: usize,
) {
    let words = p.weight.words;
    let mut w = p.weight.data.add(block * words * 64);
    let mut a = p.activations.cast::<f32>();
    let mut sums = [[S::splat(0.0); NB]; R];
    let mut low_sums = [[S::splat(0.0); NB]; R];
    for word in 0..words {
        if packed_pairs::<S>(FORMAT) && word != 0 && word % PANEL_COLS == 0 {
            add_low_sums::<S, R, NB>(&mut sums, &mut low_sums);
        }
        let mut even = [S::splat(0.0); NB];
        let mut odd = [S::splat(0.0); NB];
        for b in 0..NB {
            let w = w.add(b * words * 64);
            S::prefetch_once(w.wrapping_add(PREFETCH_BYTES));
            if FORMAT == F32 {
                even[b] = S::load(w.cast());
            } else {
                (even[b], odd[b]) = load_pairs::<S, FORMAT>(w);
            }
        }
        for r in 0..R {
            let x = S::splat(*a.add(r));
            for b in 0..NB {
                sums[r][b] = multiply_add::<S, FORMAT>(even[b], x, sums[r][b]);
            }
        }
        if FORMAT != F32 {
            let sums = if packed_pairs::<S>(FORMAT) {
                &mut low_sums
            } else {
                &mut sums
            };
            for r in 0..R {
                let x = S::splat(*a.add(R + r));
                for b in 0..NB {
                    sums[r][b] = multiply_add::<S, FORMAT>(odd[b], x, sums[r][b]);
                }
            }
            a = a.add(R);
        }
        a = a.add(R);
        w = w.add(64);
    }
    if packed_pairs::<S>(FORMAT) {
        add_low_sums::<S, R, NB>(&mut sums, &mut low_sums);
    }
    for r in 0..R {
        for b in 0..NB {
            let at = r * SUM_COLS + (lane_block + b) * LANES;
            S::store(p.sums.add(at), sums[r][b]);
        }
    }
}

/// Ends a panel's stretch of columns: moves the sums of the activations' low parts into those of the high ones.
///
/// The parts are summed apart, because the bf16 dot product takes half as long again as a multiply-add and would wait.
#[inline(always)]
unsafe fn add_low_sums<S: Simd, const R: usize, const NB: usize>(
    sums: &mut [[S::F; NB]; R],
    low_sums: &mut [[S::F; NB]; R],
) {
    for r in 0..R {
        for b in 0..NB {
            sums[r][b] = S::add(sums[r][b], low_sums[r][b]);
            low_sums[r][b] = S::splat(0.0);
        }
    }
}

/// Whether words of two weights are multiplied as they are, each by two words of an activation row.
const fn packed_pairs<S: Simd>(format: u8) -> bool {
    S::SPLIT_BF16 && format == BF16
}

/// What the two words of an activation row are multiplied by: even and odd columns, or twice the packed pairs.
#[inline(always)]
unsafe fn load_pairs<S: Simd, const FORMAT: u8>(w: *const u8) -> (S::F, S::F) {
    if FORMAT == F16 {
        S::load_f16_pairs(w.cast())
    } else if packed_pairs::<S>(FORMAT) {
        (S::load(w.cast()), S::load(w.cast()))
    } else {
        S::load_bf16_pairs(w.cast())
    }
}

#[inline(always)]
unsafe fn multiply_add<S: Simd, const FORMAT: u8>(w: S::F, x: S::F, sum: S::F) -> S::F {
    if FORMAT == BF16 {
        S::mul_add_bf16(w, x, sum)
    } else {
        S::fma(w, x, sum)
    }
}

/// Many rows: pairs of blocks, panel by panel.
#[inline(always)]
unsafe fn panels<S: Simd, const FORMAT: u8>(p: &Product<'_>) {
    let tiling = Tiling::new(p.rows, S::DIRECT, S::TILE);
    let row_bytes = prepared_row_bytes(p.weight.format, p.weight.cols);
    // Steps of a panel are groups of quantized weights, words of float ones.
    let quantized = FORMAT <= Q4;
    let (total, most, step_bytes) = if quantized {
        (p.weight.groups, PANEL_GROUPS, group_bytes(FORMAT))
    } else if FORMAT == F32 || packed_pairs::<S>(FORMAT) {
        (p.weight.words, PANEL_COLS, 64)
    } else {
        (p.weight.words, PANEL_COLS / 2, 64)
    };
    // Bytes of one activation row a step.
    let record = if quantized {
        RECORD_BYTES
    } else if FORMAT == F32 {
        4
    } else {
        8
    };
    let mut block = p.blocks.start;
    while block < p.blocks.end {
        let blocks = 2.min(p.blocks.end - block);
        std::ptr::write_bytes(p.sums, 0, p.rows * SUM_COLS);
        let mut done = 0;
        while done < total {
            let steps = most.min(total - done);
            for b in 0..blocks {
                let at = (block + b) * total + done;
                expand::<S, FORMAT>(p, at, steps, b);
            }
            // What the next panel will expand: the following columns of the same blocks, or the following blocks.
            let mut ahead = Ahead {
                at: p
                    .weight
                    .data
                    .wrapping_add((block * total + done + steps) * step_bytes),
                other: (blocks - 1) * total * step_bytes,
                bytes: steps * step_bytes,
                done: 0,
                each: (steps * step_bytes).div_ceil(64 * tiling.tiles) * 64,
            };
            if done + steps == total {
                ahead.at = ahead.at.wrapping_add((blocks - 1) * total * step_bytes);
            }
            for tile in 0..tiling.tiles {
                ahead.fetch::<S>();
                let (first, rows) = tiling.tile(tile);
                let a = p.activations.add(first * row_bytes + done * record * rows);
                let sums = p.sums.add(first * SUM_COLS);
                match (rows, blocks) {
                    (1, 1) => tile_by_panel::<S, FORMAT, 1, 1>(p.panel, a, sums, steps),
                    (2, 1) => tile_by_panel::<S, FORMAT, 2, 1>(p.panel, a, sums, steps),
                    (3, 1) => tile_by_panel::<S, FORMAT, 3, 1>(p.panel, a, sums, steps),
                    (4, 1) => tile_by_panel::<S, FORMAT, 4, 1>(p.panel, a, sums, steps),
                    (5, 1) => tile_by_panel::<S, FORMAT, 5, 1>(p.panel, a, sums, steps),
                    (_, 1) => tile_by_panel::<S, FORMAT, 6, 1>(p.panel, a, sums, steps),
                    (1, _) => tile_by_panel::<S, FORMAT, 1, 2>(p.panel, a, sums, steps),
                    (2, _) => tile_by_panel::<S, FORMAT, 2, 2>(p.panel, a, sums, steps),
                    (3, _) => tile_by_panel::<S, FORMAT, 3, 2>(p.panel, a, sums, steps),
                    (4, _) => tile_by_panel::<S, FORMAT, 4, 2>(p.panel, a, sums, steps),
                    (5, _) => tile_by_panel::<S, FORMAT, 5, 2>(p.panel, a, sums, steps),
                    (_, _) => tile_by_panel::<S, FORMAT, 6, 2>(p.panel, a, sums, steps),
                }
            }
            done += steps;
        }
        finish::<S>(p, block, blocks);
        block += blocks;
    }
}

/// Fetches the next panel's packed weights a little at a time, while tiles are computed.
struct Ahead {
    at: *const u8,
    /// From a byte of the first block to that of the second; 0: there is one block.
    other: usize,
    bytes: usize,
    done: usize,
    each: usize,
}

impl Ahead {
    #[inline(always)]
    unsafe fn fetch<S: Simd>(&mut self) {
        let end = (self.done + self.each).min(self.bytes);
        while self.done < end {
            let line = self.at.wrapping_add(self.done);
            S::prefetch_l2(line);
            S::prefetch_l2(line.wrapping_add(self.other));
            self.done += 64;
        }
    }
}

/// Expands `steps` steps from step `at` of the data plane into lane block `b` of the panel.
#[inline(always)]
unsafe fn expand<S: Simd, const FORMAT: u8>(p: &Product<'_>, at: usize, steps: usize, b: usize) {
    if FORMAT <= Q4 {
        let panel_scales = p
            .panel
            .add(PANEL_GROUPS * 8 * PANEL_WORD_BYTES)
            .cast::<f32>();
        for g in 0..steps {
            let src = p.weight.data.add((at + g) * group_bytes(FORMAT));
            let dst = p.panel.add(g * 8 * PANEL_WORD_BYTES + b * 64);
            if FORMAT == Q4 {
                S::expand_q4(src, dst);
            } else {
                S::expand_q8(src, dst);
            }
            let scale = S::load_f16(p.weight.scales.add((at + g) * LANES));
            S::store(panel_scales.add((2 * g + b) * LANES), scale);
        }
        return;
    }
    let panel = p.panel.cast::<f32>().add(b * LANES);
    for step in 0..steps {
        let src = p.weight.data.add((at + step) * 64);
        if FORMAT == F32 || packed_pairs::<S>(FORMAT) {
            S::store(panel.add(step * SUM_COLS), S::load(src.cast()));
        } else {
            let (even, odd) = load_pairs::<S, FORMAT>(src);
            S::store(panel.add(2 * step * SUM_COLS), even);
            S::store(panel.add((2 * step + 1) * SUM_COLS), odd);
        }
    }
}

/// `R` rows by `NB` expanded blocks over `steps` steps, added to `sums`.
#[inline(always)]
unsafe fn tile_by_panel<S: Simd, const FORMAT: u8, const R: usize, const NB: usize>(
    panel: *const u8,
    a: *const u8,
    sums: *mut f32,
    steps: usize,
) {
    let mut acc = [[S::splat(0.0); NB]; R];
    for r in 0..R {
        for b in 0..NB {
            acc[r][b] = S::load(sums.add(r * SUM_COLS + b * LANES));
        }
    }
    if FORMAT <= Q4 {
        let mut scales = panel.add(PANEL_GROUPS * 8 * PANEL_WORD_BYTES).cast::<f32>();
        let (mut w, mut a) = (panel, a);
        for _ in 0..steps {
            let dots = if FORMAT == Q4 {
                S::dot_panel::<R, NB, true>(w, a)
            } else {
                S::dot_panel::<R, NB, false>(w, a)
            };
            for r in 0..R {
                let by = S::splat(*a.add(record_scale(R, r)).cast::<f32>());
                for b in 0..NB {
                    let scale = S::mul(S::load(scales.add(b * LANES)), by);
                    acc[r][b] = S::fma(S::to_f32(dots[r][b]), scale, acc[r][b]);
                }
            }
            w = w.add(8 * PANEL_WORD_BYTES);
            scales = scales.add(SUM_COLS);
            a = a.add(RECORD_BYTES * R);
        }
    } else {
        let packed = packed_pairs::<S>(FORMAT);
        let vectors = if FORMAT == F32 || packed {
            steps
        } else {
            2 * steps
        };
        let mut low_sums = [[S::splat(0.0); NB]; R];
        let (mut w, mut a) = (panel.cast::<f32>(), a.cast::<f32>());
        for _ in 0..vectors {
            let mut weights = [S::splat(0.0); NB];
            for b in 0..NB {
                weights[b] = S::load(w.add(b * LANES));
            }
            for r in 0..R {
                let x = S::splat(*a.add(r));
                for b in 0..NB {
                    acc[r][b] = multiply_add::<S, FORMAT>(weights[b], x, acc[r][b]);
                }
            }
            a = a.add(R);
            if packed {
                for r in 0..R {
                    let x = S::splat(*a.add(r));
                    for b in 0..NB {
                        low_sums[r][b] = multiply_add::<S, FORMAT>(weights[b], x, low_sums[r][b]);
                    }
                }
                a = a.add(R);
            }
            w = w.add(SUM_COLS);
        }
        if packed {
            add_low_sums::<S, R, NB>(&mut acc, &mut low_sums);
        }
    }
    for r in 0..R {
        for b in 0..NB {
            S::store(sums.add(r * SUM_COLS + b * LANES), acc[r][b]);
        }
    }
}

/// Applies the epilogue to the sums of `blocks` blocks from `block` and writes them out, padding rows left aside.
#[inline(always)]
unsafe fn finish<S: Simd>(p: &Product<'_>, block: usize, blocks: usize) {
    for row in 0..p.rows {
        let sums = p.sums.add(row * SUM_COLS);
        let out = p.out.add(row * p.out_cols);
        if let Epilogue::Geglu = p.epilogue {
            let y = S::mul(gelu::<S>(S::load(sums)), S::load(sums.add(LANES)));
            put::<S>(p, out, block / 2, y);
            continue;
        }
        for b in 0..blocks {
            let mut y = S::load(sums.add(b * LANES));
            if let Epilogue::Softcap { cap } = p.epilogue {
                y = softcap::<S>(y, cap);
            }
            put::<S>(p, out, block + b, y);
        }
    }
}

#[inline(always)]
unsafe fn put<S: Simd>(p: &Product<'_>, out: *mut f32, block: usize, y: S::F) {
    let first = block * LANES;
    match p.out_cols.saturating_sub(first) {
        0 => {}
        n if n < LANES => S::store_n(out.add(first), y, n),
        _ => S::store(out.add(first), y),
    }
}

#[cfg(test)]
mod tests;
