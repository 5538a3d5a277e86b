//! Sixteen lanes in two AVX2 registers, with or without the 256-bit byte dot product.
//!
//! Without it, bytes are multiplied by `vpmaddubsw`, whose 16-bit sums of two products saturate. Signed q8 weights are
//! therefore taken as `|w| * (a with the sign of w)`: two products of at most 127 * 127 fit. Unsigned nibbles are small
//! enough to add all eight words of a group in 16 bits (8 * 2 * 15 * 127 = 30,480) before widening once.
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

/// AVX2, FMA and F16C; `VNNI`: AVX-VNNI too.
pub(crate) struct Ymm<const VNNI: bool>;

/// Sums halves of eight lanes down to one.
#[inline(always)]
pub(super) unsafe fn sum8(a: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<0b01>(two, two)))
}

#[inline(always)]
unsafe fn broadcast(p: *const u8) -> __m256i {
    _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
}

/// Four byte products a lane, added to `sum`; `w` unsigned, `a` signed.
#[inline(always)]
unsafe fn dot_vnni(sum: __m256i, w: __m256i, a: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(sum, w, a)
}

/// Four byte products a lane, added to `sum`; both signed, `w` not -128.
#[inline(always)]
unsafe fn dot_signed(sum: __m256i, w: __m256i, w_abs: __m256i, a: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(a, w));
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline(always)]
unsafe fn load_bytes(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p.cast())
}

/// Eight f16 in 32-bit lanes with clear upper halves.
#[inline(always)]
unsafe fn narrow_f16(w: __m256i) -> __m256 {
    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(w, w));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

/// `2^n` of eight integral lanes.
#[inline(always)]
unsafe fn pow2_8(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

impl<const VNNI: bool> Ymm<VNNI> {
    /// Word `word` of a group of one block: expanded, or packed as in the bundle.
    #[inline(always)]
    unsafe fn word<const Q4: bool, const PACKED: bool>(w: *const u8, word: usize) -> [__m256i; 2] {
        if !PACKED {
            let p = w.add(word * PANEL_WORD_BYTES);
            return [load_bytes(p), load_bytes(p.add(32))];
        }
        if !Q4 {
            let p = w.add(word * 64);
            let flip = _mm256_set1_epi8(if VNNI { -128 } else { 0 });
            return [
                _mm256_xor_si256(load_bytes(p), flip),
                _mm256_xor_si256(load_bytes(p.add(32)), flip),
            ];
        }
        let p = w.add(word / 2 * 64);
        let low = _mm256_set1_epi8(15);
        let mut words = [load_bytes(p), load_bytes(p.add(32))];
        if word % 2 == 1 {
            words = [
                _mm256_srli_epi16::<4>(words[0]),
                _mm256_srli_epi16::<4>(words[1]),
            ];
        }
        [
            _mm256_and_si256(words[0], low),
            _mm256_and_si256(words[1], low),
        ]
    }

    /// A group of one block by `R` rows.
    #[inline(always)]
    unsafe fn dot_block<const R: usize, const Q4: bool, const PACKED: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [[__m256i; 2]; R] {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        // Knowing the count, the compiler takes the shorter loops apart and keeps the words of the group on the stack,
        // which costs VNNI a fifth of its speed over panels and nibbles a tenth.
        let words = if PACKED || !(VNNI || Q4) {
            8
        } else {
            std::hint::black_box(8)
        };
        if VNNI {
            for r in 0..R {
                sums[r] = [broadcast(a.add(record_init(R, r))); 2];
            }
            for word in 0..words {
                let w = Self::word::<Q4, PACKED>(w, word);
                for r in 0..R {
                    let x = broadcast(a.add(record_word(R, word, r)));
                    sums[r] = [dot_vnni(sums[r][0], w[0], x), dot_vnni(sums[r][1], w[1], x)];
                }
            }
        } else if Q4 {
            for word in 0..words {
                let w = Self::word::<Q4, PACKED>(w, word);
                for r in 0..R {
                    let x = broadcast(a.add(record_word(R, word, r)));
                    sums[r] = [
                        _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(w[0], x)),
                        _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(w[1], x)),
                    ];
                }
            }
            let ones = _mm256_set1_epi16(1);
            for r in 0..R {
                let init = broadcast(a.add(record_init(R, r)));
                sums[r] = [
                    _mm256_add_epi32(init, _mm256_madd_epi16(sums[r][0], ones)),
                    _mm256_add_epi32(init, _mm256_madd_epi16(sums[r][1], ones)),
                ];
            }
        } else {
            for word in 0..words {
                let w = Self::word::<Q4, PACKED>(w, word);
                let w_abs = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
                for r in 0..R {
                    let x = broadcast(a.add(record_word(R, word, r)));
                    sums[r] = [
                        dot_signed(sums[r][0], w[0], w_abs[0], x),
                        dot_signed(sums[r][1], w[1], w_abs[1], x),
                    ];
                }
            }
        }
        sums
    }
}

impl<const VNNI: bool> Simd for Ymm<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const TILE: usize = 4;
    const DIRECT: usize = 4;
    const WIDE: bool = false;
    const Q8_OFFSET: i32 = if VNNI { 128 } else { 0 };
    const SPLIT_BF16: bool = false;
    const LIBM: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [_mm256_set1_ps(x); 2]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))]
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F {
        let mut lanes = [0.0f32; 16];
        std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
        Self::load(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        _mm256_storeu_ps(p, x[0]);
        _mm256_storeu_ps(p.add(8), x[1]);
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, x: Self::F, n: usize) {
        let mut lanes = [0.0f32; 16];
        Self::store(lanes.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        [
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
        ]
    }
    #[inline(always)]
    unsafe fn load_f16_n(p: *const u16, n: usize) -> Self::F {
        let mut lanes = [0u16; 16];
        std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
        Self::load_f16(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: Self::F) {
        _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
        _mm_storeu_si128(
            p.add(8).cast(),
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]),
        );
    }
    #[inline(always)]
    unsafe fn store_f16_n(p: *mut u16, x: Self::F, n: usize) {
        let mut lanes = [0u16; 16];
        Self::store_f16(lanes.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> (Self::F, Self::F) {
        let words = [load_bytes(p.cast()), load_bytes(p.add(8).cast())];
        let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        (
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words[1])),
            ],
            [
                _mm256_castsi256_ps(_mm256_and_si256(words[0], high)),
                _mm256_castsi256_ps(_mm256_and_si256(words[1], high)),
            ],
        )
    }
    #[inline(always)]
    unsafe fn load_f16_pairs(p: *const u32) -> (Self::F, Self::F) {
        let words = [load_bytes(p.cast()), load_bytes(p.add(8).cast())];
        let low = _mm256_set1_epi32(0xffff);
        (
            [
                narrow_f16(_mm256_and_si256(words[0], low)),
                narrow_f16(_mm256_and_si256(words[1], low)),
            ],
            [
                narrow_f16(_mm256_srli_epi32::<16>(words[0])),
                narrow_f16(_mm256_srli_epi32::<16>(words[1])),
            ],
        )
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        [
            _mm256_fmadd_ps(a[0], b[0], c[0]),
            _mm256_fmadd_ps(a[1], b[1], c[1]),
        ]
    }
    #[inline(always)]
    unsafe fn mul_add_bf16(w: Self::F, x: Self::F, c: Self::F) -> Self::F {
        Self::fma(w, x, c)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        let sign = _mm256_set1_ps(-0.0);
        [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        [
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
        ]
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        [pow2_8(n[0]), pow2_8(n[1])]
    }
    #[inline(always)]
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        [
            _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ]
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        sum8(_mm256_add_ps(a[0], a[1]))
    }
    #[inline(always)]
    unsafe fn greatest(a: Self::F) -> f32 {
        let eight = _mm256_max_ps(a[0], a[1]);
        let four = _mm_max_ps(
            _mm256_castps256_ps128(eight),
            _mm256_extractf128_ps::<1>(eight),
        );
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<0b01>(two, two)))
    }

    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) {
        let words = [_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])];
        // Packing works within 128-bit halves: 0..4 8..12 | 4..8 12..16, then put in order.
        let halves = _mm256_packs_epi32(words[0], words[1]);
        let ordered = _mm256_permute4x64_epi64::<0b1101_1000>(halves);
        let bytes = _mm256_packs_epi16(ordered, ordered);
        let bytes = _mm256_permute4x64_epi64::<0b1000>(bytes);
        _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
    }
    #[inline(always)]
    unsafe fn expand_q8(src: *const u8, dst: *mut u8) {
        let flip = _mm256_set1_epi8(if VNNI { -128 } else { 0 });
        for word in 0..8 {
            for half in [0, 32] {
                let words = load_bytes(src.add(word * 64 + half));
                _mm256_storeu_si256(
                    dst.add(word * PANEL_WORD_BYTES + half).cast(),
                    _mm256_xor_si256(words, flip),
                );
            }
        }
    }
    #[inline(always)]
    unsafe fn expand_q4(src: *const u8, dst: *mut u8) {
        let low = _mm256_set1_epi8(15);
        for word in 0..4 {
            for half in [0, 32] {
                let words = load_bytes(src.add(word * 64 + half));
                _mm256_storeu_si256(
                    dst.add(2 * word * PANEL_WORD_BYTES + half).cast(),
                    _mm256_and_si256(words, low),
                );
                _mm256_storeu_si256(
                    dst.add((2 * word + 1) * PANEL_WORD_BYTES + half).cast(),
                    _mm256_and_si256(_mm256_srli_epi16::<4>(words), low),
                );
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_panel<const R: usize, const NB: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [[Self::I; NB]; R] {
        let mut sums = [[[_mm256_setzero_si256(); 2]; NB]; R];
        for b in 0..NB {
            let block = Self::dot_block::<R, Q4, false>(w.add(b * 64), a);
            for r in 0..R {
                sums[r][b] = block[r];
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn dot_packed<const R: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [Self::I; R] {
        Self::dot_block::<R, Q4, true>(w, a)
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
