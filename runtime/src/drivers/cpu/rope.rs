//! Rotary position embedding, and what happens to heads on their way to attention: norm, rotation, the KV cache.
//!
//! Source: Su et al. 2021; the pairs are `(i, i + d/2)`.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "head kernels: pointers are valid for the elements named, as each function's contract says"
)]

use super::activations::norm_row;
use super::simd::{LANES, Simd, kernel};

/// Frequencies of the pairs: `theta^(-2i/d) / factor`, rounded to f32 where a f32 reference rounds.
pub(super) fn inverse_frequencies(theta: f32, factor: f32, head_dim: usize) -> Box<[f32]> {
    (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            let power = f64::from(theta).powf(f64::from(exponent)) as f32;
            1.0 / power / factor
        })
        .collect()
}

/// Writes `[cos.., sin..]` of a position. The angle is rounded to f32 as in a f32 reference; its cosine is exact.
pub(super) fn fill_table(frequencies: &[f32], pos: u32, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(frequencies.len());
    for ((&f, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let angle = f64::from(pos as f32 * f);
        let (s, c) = angle.sin_cos();
        (*cos, *sin) = (c as f32, s as f32);
    }
}

/// A head to norm (if `norm` is not null) and rotate. `out` is valid for `head_dim` f32 and may be `x` only without a
/// norm being needed elsewhere; `table` holds cosines, then sines.
pub(super) struct Head {
    pub x: *const f32,
    pub table: *const f32,
    pub norm: *const f32,
    pub eps: f32,
    pub head_dim: usize,
    pub out: *mut f32,
}

kernel!(
    /// Norms and rotates a head.
    pub(super) fn rotate = rotate_body(h: &Head)
);

#[inline(always)]
unsafe fn rotate_body<S: Simd>(h: &Head) {
    let mut x = h.x;
    if !h.norm.is_null() {
        norm_row::<S>(x, h.norm, 0.0, h.head_dim, h.eps, h.out);
        x = h.out;
    }
    let half = h.head_dim / 2;
    let (cos, sin) = (h.table, h.table.add(half));
    let whole = half / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let (a, b) = (S::load(x.add(i)), S::load(x.add(half + i)));
        let (c, s) = (S::load(cos.add(i)), S::load(sin.add(i)));
        S::store(h.out.add(i), S::sub(S::mul(a, c), S::mul(b, s)));
        S::store(h.out.add(half + i), S::add(S::mul(b, c), S::mul(a, s)));
    }
    let n = half - whole;
    if n != 0 {
        let i = whole;
        let (a, b) = (S::load_n(x.add(i), n), S::load_n(x.add(half + i), n));
        let (c, s) = (S::load_n(cos.add(i), n), S::load_n(sin.add(i), n));
        S::store_n(h.out.add(i), S::sub(S::mul(a, c), S::mul(b, s)), n);
        S::store_n(h.out.add(half + i), S::add(S::mul(b, c), S::mul(a, s)), n);
    }
}

/// The largest finite f16. Larger magnitudes are stored as this, not as infinity, which one dot product later would be
/// NaN; a NaN stays one.
const F16_MAX: f32 = 65_504.0;

kernel!(
    /// Stores `n` f32 as f16, saturated, or as they are.
    pub(super) fn store_head = store_head_body(x: *const f32, n: usize, is_f16: bool, out: *mut u8)
);

#[inline(always)]
unsafe fn store_head_body<S: Simd>(x: *const f32, n: usize, is_f16: bool, out: *mut u8) {
    if !is_f16 {
        std::ptr::copy_nonoverlapping(x, out.cast(), n);
        return;
    }
    let out = out.cast::<u16>();
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        S::store_f16(out.add(i), saturated::<S>(S::load(x.add(i))));
    }
    if whole != n {
        S::store_f16_n(
            out.add(whole),
            saturated::<S>(S::load_n(x.add(whole), n - whole)),
            n - whole,
        );
    }
}

/// Not `min` and `max`, which take a NaN for either bound.
#[inline(always)]
unsafe fn saturated<S: Simd>(x: S::F) -> S::F {
    let (low, high) = (S::splat(-F16_MAX), S::splat(F16_MAX));
    let x = S::if_less(x, low, low, x);
    S::if_less(high, x, high, x)
}

#[cfg(test)]
mod tests {
    use super::super::testing::isas;
    use super::*;
    use half::f16;

    #[test]
    fn f16_rows_saturate_and_f32_rows_do_not() {
        let special = [
            65_504.0,
            65_520.0,
            -65_519.0,
            1e6,
            -1e30,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -1.5,
        ];
        // Whole vectors and a rest.
        let x: Vec<f32> = special.into_iter().cycle().take(37).collect();
        for isa in isas() {
            let mut half = vec![0u16; x.len()];
            let mut full = vec![0f32; x.len()];
            // SAFETY: the instruction set is available, and both have room for every element.
            unsafe {
                store_head(isa, x.as_ptr(), x.len(), true, half.as_mut_ptr().cast());
                store_head(isa, x.as_ptr(), x.len(), false, full.as_mut_ptr().cast());
            }
            for ((&x, half), full) in x.iter().zip(half).zip(full) {
                let got = f16::from_bits(half).to_f32();
                let want = x.clamp(-65_504.0, 65_504.0);
                assert!(
                    got == want || got.is_nan() && x.is_nan(),
                    "{isa:?}: {x} became {got}"
                );
                assert_eq!(full.to_bits(), x.to_bits(), "{isa:?}");
            }
        }
    }
}
