//! Sixteen lanes in one AVX-512 register.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every method is a few intrinsics; their safety contract is the trait's"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "plain counted loops over register arrays are sure to unroll and inline"
)]

use super::{PANEL_WORD_BYTES, Simd, record_init, record_word};
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, DQ and VNNI; `BF16`: the bf16 dot product too.
pub(crate) struct Zmm<const BF16: bool>;

#[inline(always)]
fn mask(n: usize) -> u16 {
    debug_assert!(n < 16);
    (1u16 << n) - 1
}

#[inline(always)]
unsafe fn broadcast(p: *const u8) -> __m512i {
    _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
}

impl<const BF16: bool> Simd for Zmm<BF16> {
    type F = __m512;
    type I = __m512i;
    // 6 rows by 2 blocks: 12 integer and 12 float sums, 2 words of weights and one of activations in 32 registers.
    const TILE: usize = 6;
    const DIRECT: usize = 8;
    const WIDE: bool = true;
    const Q8_OFFSET: i32 = 128;
    const SPLIT_BF16: bool = BF16;
    const LIBM: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F {
        _mm512_maskz_loadu_ps(mask(n), p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        _mm512_storeu_ps(p, x);
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, x: Self::F, n: usize) {
        _mm512_mask_storeu_ps(p, mask(n), x);
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_f16_n(p: *const u16, n: usize) -> Self::F {
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p.cast()))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    }
    #[inline(always)]
    unsafe fn store_f16_n(p: *mut u16, x: Self::F, n: usize) {
        let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
        _mm256_mask_storeu_epi16(p.cast(), mask(n), halves);
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> (Self::F, Self::F) {
        let words = _mm512_loadu_si512(p.cast());
        (
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
            _mm512_castsi512_ps(_mm512_and_si512(
                words,
                _mm512_set1_epi32(0xffff_0000_u32 as i32),
            )),
        )
    }
    #[inline(always)]
    unsafe fn load_f16_pairs(p: *const u32) -> (Self::F, Self::F) {
        let words = _mm512_loadu_si512(p.cast());
        (
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words))),
        )
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn mul_add_bf16(w: Self::F, x: Self::F, c: Self::F) -> Self::F {
        if !BF16 {
            return Self::fma(w, x, c);
        }
        let words = |v| std::mem::transmute::<__m512i, __m512bh>(_mm512_castps_si512(v));
        _mm512_dpbf16_ps(c, words(w), words(x))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let high = _mm512_extractf32x8_ps::<1>(a);
        super::avx2::sum8(_mm256_add_ps(_mm512_castps512_ps256(a), high))
    }
    #[inline(always)]
    unsafe fn greatest(a: Self::F) -> f32 {
        _mm512_reduce_max_ps(a)
    }

    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) {
        _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
    }
    #[inline(always)]
    unsafe fn expand_q8(src: *const u8, dst: *mut u8) {
        let flip = _mm512_set1_epi8(-128);
        for word in 0..8 {
            let words = _mm512_loadu_si512(src.add(word * 64).cast());
            _mm512_storeu_si512(
                dst.add(word * PANEL_WORD_BYTES).cast(),
                _mm512_xor_si512(words, flip),
            );
        }
    }
    #[inline(always)]
    unsafe fn expand_q4(src: *const u8, dst: *mut u8) {
        let low = _mm512_set1_epi8(15);
        for word in 0..4 {
            let words = _mm512_loadu_si512(src.add(word * 64).cast());
            _mm512_storeu_si512(
                dst.add(2 * word * PANEL_WORD_BYTES).cast(),
                _mm512_and_si512(words, low),
            );
            _mm512_storeu_si512(
                dst.add((2 * word + 1) * PANEL_WORD_BYTES).cast(),
                _mm512_and_si512(_mm512_srli_epi16::<4>(words), low),
            );
        }
    }
    #[inline(always)]
    unsafe fn dot_panel<const R: usize, const NB: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [[Self::I; NB]; R] {
        let mut sums = [[_mm512_setzero_si512(); NB]; R];
        for r in 0..R {
            sums[r] = [broadcast(a.add(record_init(R, r))); NB];
        }
        for word in 0..8 {
            let mut weights = [_mm512_setzero_si512(); NB];
            for b in 0..NB {
                weights[b] = _mm512_loadu_si512(w.add(word * PANEL_WORD_BYTES + b * 64).cast());
            }
            for r in 0..R {
                let x = broadcast(a.add(record_word(R, word, r)));
                for b in 0..NB {
                    sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], weights[b], x);
                }
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn dot_packed<const R: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [Self::I; R] {
        let mut sums = [_mm512_setzero_si512(); R];
        for r in 0..R {
            sums[r] = broadcast(a.add(record_init(R, r)));
        }
        if Q4 {
            let low = _mm512_set1_epi8(15);
            for word in 0..4 {
                let words = _mm512_loadu_si512(w.add(word * 64).cast());
                let even = _mm512_and_si512(words, low);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), low);
                for r in 0..R {
                    let x = broadcast(a.add(record_word(R, 2 * word, r)));
                    sums[r] = _mm512_dpbusd_epi32(sums[r], even, x);
                    let x = broadcast(a.add(record_word(R, 2 * word + 1, r)));
                    sums[r] = _mm512_dpbusd_epi32(sums[r], odd, x);
                }
            }
        } else {
            let flip = _mm512_set1_epi8(-128);
            for word in 0..8 {
                let words = _mm512_loadu_si512(w.add(word * 64).cast());
                let weights = _mm512_xor_si512(words, flip);
                for r in 0..R {
                    let x = broadcast(a.add(record_word(R, word, r)));
                    sums[r] = _mm512_dpbusd_epi32(sums[r], weights, x);
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn prefetch_once(p: *const u8) {
        _mm_prefetch::<_MM_HINT_NTA>(p.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_l2(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
}
