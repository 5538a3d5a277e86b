//! Steps that touch each element once: look-ups, copies, norms, sums, products, activations.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels over checked buffers: pointers are valid for the elements named"
)]

use super::activations::norm_row;
use super::math::{gelu, softcap};
use super::memory::Matrix;
use super::simd::{LANES, Simd, kernel};
use gembin_bundle::layout::{BLOCK_ROWS, Format};
use half::{bf16, f16};

/// Row `row` of a blocked matrix times `scale`. The row is below the matrix's rows, `out` holds its columns.
pub(super) unsafe fn embed_row(table: &Matrix, row: usize, scale: f32, out: *mut f32) {
    let block = row / BLOCK_ROWS as usize;
    let lane = row % BLOCK_ROWS as usize;
    let words = table
        .data
        .cast::<u32>()
        .add(block * table.words * LANES + lane);
    let scale_of = |col: usize| {
        let at = (block * table.groups + col / 32) * LANES + lane;
        // SAFETY: the scale plane has a scale for every group of every padded row.
        scale * f16::from_bits(unsafe { *table.scales.add(at) }).to_f32()
    };
    for col in 0..table.cols {
        *out.add(col) = match table.format {
            Format::F32 => scale * f32::from_bits(*words.add(col * LANES)),
            Format::F16 => {
                let word = *words.add(col / 2 * LANES);
                scale * f16::from_bits((word >> (16 * (col % 2))) as u16).to_f32()
            }
            Format::Bf16 => {
                let word = *words.add(col / 2 * LANES);
                scale * bf16::from_bits((word >> (16 * (col % 2))) as u16).to_f32()
            }
            Format::Q8 => {
                let word = *words.add(col / 4 * LANES);
                scale_of(col) * f32::from((word >> (8 * (col % 4))) as i8)
            }
            Format::Q4 => {
                let word = *words.add(col / 8 * LANES);
                // Low nibbles are columns 0..4 of the word, high nibbles 4..8.
                let shift = 8 * (col % 4) + 4 * (col / 4 % 2);
                scale_of(col) * ((word >> shift & 15) as f32 - 8.0)
            }
        };
    }
}

/// An operation on each element.
#[derive(Clone, Copy)]
pub(super) enum Each {
    Gelu,
    Mul,
    Add,
    Softcap(f32),
}

kernel!(
    /// Applies `op` to `n` elements of `a` (and `b`, if it takes two); `out` may be either.
    pub(super) fn each = each_body(op: Each, a: *const f32, b: *const f32, n: usize, out: *mut f32)
);

#[inline(always)]
unsafe fn each_body<S: Simd>(op: Each, a: *const f32, b: *const f32, n: usize, out: *mut f32) {
    let whole = n / LANES * LANES;
    let rest = n - whole;
    for i in (0..whole).step_by(LANES) {
        let x = S::load(a.add(i));
        let y = match op {
            Each::Gelu => gelu::<S>(x),
            Each::Mul => S::mul(x, S::load(b.add(i))),
            Each::Add => S::add(x, S::load(b.add(i))),
            Each::Softcap(cap) => softcap::<S>(x, cap),
        };
        S::store(out.add(i), y);
    }
    if rest != 0 {
        let x = S::load_n(a.add(whole), rest);
        let y = match op {
            Each::Gelu => gelu::<S>(x),
            Each::Mul => S::mul(x, S::load_n(b.add(whole), rest)),
            Each::Add => S::add(x, S::load_n(b.add(whole), rest)),
            Each::Softcap(cap) => softcap::<S>(x, cap),
        };
        S::store_n(out.add(whole), y, rest);
    }
}

kernel!(
    /// Norms one run of `n` elements.
    pub(super) fn rms_norm = rms_norm_body(
        x: *const f32,
        weight: *const f32,
        offset: f32,
        n: usize,
        eps: f32,
        out: *mut f32,
    )
);

#[inline(always)]
unsafe fn rms_norm_body<S: Simd>(
    x: *const f32,
    weight: *const f32,
    offset: f32,
    n: usize,
    eps: f32,
    out: *mut f32,
) {
    norm_row::<S>(x, weight, offset, n, eps, out);
}
