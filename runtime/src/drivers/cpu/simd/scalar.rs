//! Sixteen lanes in plain Rust: the fallback, and the twin that the other forms are tested against.
//!
//! Products and sums are rounded separately, because a fused multiply-add without hardware is a library call.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every method's safety contract is the trait's"
)]

use super::{PANEL_WORD_BYTES, Simd, record_init, record_word};
use half::f16;

/// Plain Rust.
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl FnMut(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    const TILE: usize = 4;
    const DIRECT: usize = 4;
    const WIDE: bool = false;
    const Q8_OFFSET: i32 = 0;
    const SPLIT_BF16: bool = false;
    const LIBM: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        p.cast::<[f32; 16]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F {
        each(|i| if i < n { *p.add(i) } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        p.cast::<[f32; 16]>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, x: Self::F, n: usize) {
        for (i, v) in x.into_iter().enumerate().take(n) {
            *p.add(i) = v;
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        each(|i| f16::from_bits(*p.add(i)).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f16_n(p: *const u16, n: usize) -> Self::F {
        each(|i| {
            if i < n {
                f16::from_bits(*p.add(i)).to_f32()
            } else {
                0.0
            }
        })
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        Self::store_f16_n(p, x, 16);
    }
    #[inline(always)]
    unsafe fn store_f16_n(p: *mut u16, x: Self::F, n: usize) {
        for (i, v) in x.into_iter().enumerate().take(n) {
            *p.add(i) = f16::from_f32(v).to_bits();
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> (Self::F, Self::F) {
        (
            each(|i| f32::from_bits(*p.add(i) << 16)),
            each(|i| f32::from_bits(*p.add(i) & 0xffff_0000)),
        )
    }
    #[inline(always)]
    unsafe fn load_f16_pairs(p: *const u32) -> (Self::F, Self::F) {
        (
            each(|i| f16::from_bits(*p.add(i) as u16).to_f32()),
            each(|i| f16::from_bits((*p.add(i) >> 16) as u16).to_f32()),
        )
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn mul_add_bf16(w: Self::F, x: Self::F, c: Self::F) -> Self::F {
        Self::fma(w, x, c)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        each(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        each(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn sum(mut a: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    #[inline(always)]
    unsafe fn greatest(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        each(|i| a[i] as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) {
        for (i, v) in x.into_iter().enumerate() {
            *p.add(i) = v.round_ties_even() as i8;
        }
    }
    #[inline(always)]
    unsafe fn expand_q8(src: *const u8, dst: *mut u8) {
        for word in 0..8 {
            std::ptr::copy_nonoverlapping(src.add(word * 64), dst.add(word * PANEL_WORD_BYTES), 64);
        }
    }
    #[inline(always)]
    unsafe fn expand_q4(src: *const u8, dst: *mut u8) {
        for word in 0..4 {
            for i in 0..64 {
                let byte = *src.add(word * 64 + i);
                *dst.add(2 * word * PANEL_WORD_BYTES + i) = byte & 15;
                *dst.add((2 * word + 1) * PANEL_WORD_BYTES + i) = byte >> 4;
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_panel<const R: usize, const NB: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [[Self::I; NB]; R] {
        std::array::from_fn(|r| {
            let init = a.add(record_init(R, r)).cast::<i32>().read_unaligned();
            std::array::from_fn(|b| {
                let mut sums = [init; 16];
                for word in 0..8 {
                    let x = a.add(record_word(R, word, r)).cast::<i8>();
                    let w = w.add(word * PANEL_WORD_BYTES + b * 64);
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        for k in 0..4 {
                            let raw = *w.add(lane * 4 + k);
                            let value = if Q4 {
                                i32::from(raw)
                            } else {
                                i32::from(raw as i8)
                            };
                            *sum += value * i32::from(*x.add(k));
                        }
                    }
                }
                sums
            })
        })
    }
    #[inline(always)]
    unsafe fn dot_packed<const R: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [Self::I; R] {
        let mut expanded = [0u8; 8 * PANEL_WORD_BYTES];
        if Q4 {
            Self::expand_q4(w, expanded.as_mut_ptr());
        } else {
            Self::expand_q8(w, expanded.as_mut_ptr());
        }
        Self::dot_panel::<R, 1, Q4>(expanded.as_ptr(), a).map(|[sums]| sums)
    }

    #[inline(always)]
    unsafe fn prefetch_once(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_l2(_: *const u8) {}
}
