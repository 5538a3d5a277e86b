//! Sixteen lanes: the vector type that every kernel is written in, once, and its form in each instruction set.
//!
//! Sixteen is the number of rows of a weight block. A kernel is a generic function over [`Simd`], compiled for every
//! instruction set by [`kernel!`], so that the scalar form is the same arithmetic in the same order (but for fused
//! multiply-adds) and serves as the others' twin in tests.
//!
//! Safety of the trait: every method needs the instruction set to be present and every pointer to be valid for the
//! bytes it names. No alignment is asked for.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod scalar;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Bytes between consecutive words of a pair of expanded weight blocks.
pub(crate) const PANEL_WORD_BYTES: usize = 128;

/// One instruction set's vectors of sixteen lanes. See the module docs for the safety contract.
pub(crate) trait Simd {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32, or 64 bytes.
    type I: Copy;
    /// Activation rows of a tile of the matrix product.
    const TILE: usize;
    /// Activation rows that a product reads packed weights directly for, up to 8.
    const DIRECT: usize;
    /// Row and key blocks of attention are 4 wide, else 2.
    const WIDE: bool;
    /// Added to a q8 weight before its product, so `-Q8_OFFSET * sum(activations)` starts the sum.
    const Q8_OFFSET: i32;
    /// Whether bf16 weights are multiplied as packed, by activations split into two bf16 parts, instead of widened.
    const SPLIT_BF16: bool;
    /// Whether transcendental functions come from libm instead of polynomials.
    const LIBM: bool;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    /// The first `n` of 16 lanes, the others 0.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// The first `n` of 16 lanes.
    unsafe fn store_n(p: *mut f32, x: Self::F, n: usize);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn load_f16_n(p: *const u16, n: usize) -> Self::F;
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    unsafe fn store_f16_n(p: *mut u16, x: Self::F, n: usize);
    /// Even and odd columns of 16 words of two bf16.
    unsafe fn load_bf16_pairs(p: *const u32) -> (Self::F, Self::F);
    /// Even and odd columns of 16 words of two f16.
    unsafe fn load_f16_pairs(p: *const u32) -> (Self::F, Self::F);

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c` and bf16 weights times prepared activations (see [`super::activations`]): lanes are f32 and this is
    /// [`Simd::fma`], or where [`Simd::SPLIT_BF16`] they are words of two bf16 whose two products are added.
    unsafe fn mul_add_bf16(w: Self::F, x: Self::F, c: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` of integral `n` in -126..=127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// `a < b ? x : y`.
    unsafe fn if_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Halves added lane by lane, down to one.
    unsafe fn sum(a: Self::F) -> f32;
    /// Greatest lane.
    unsafe fn greatest(a: Self::F) -> f32;

    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// Rounds `x` to nearest even and stores the lanes as int8, saturated.
    unsafe fn store_i8(p: *mut i8, x: Self::F);
    /// Makes a group's q8 words what [`Simd::dot_panel`] wants: 8 words from `src`, [`PANEL_WORD_BYTES`] apart at `dst`.
    unsafe fn expand_q8(src: *const u8, dst: *mut u8);
    /// As [`Simd::expand_q8`], from the 4 words of a q4 group: unsigned nibbles, a byte each.
    unsafe fn expand_q4(src: *const u8, dst: *mut u8);
    /// Integer products of a group of 32 columns: `NB` expanded blocks, at `w + 64 * block`, by `R` activation rows.
    ///
    /// `a` holds the group's activation record (see [`super::activations`]): 8 words of 4 columns, each of `R` rows,
    /// then `R` scales, then `R` first values of the sums.
    unsafe fn dot_panel<const R: usize, const NB: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [[Self::I; NB]; R];
    /// The same from one packed block, `w` being its group of words in the bundle's layout.
    unsafe fn dot_packed<const R: usize, const Q4: bool>(
        w: *const u8,
        a: *const u8,
    ) -> [Self::I; R];

    /// Asks for the cache line at `p`, any address, that will be read once: it need not displace anything for good.
    unsafe fn prefetch_once(p: *const u8);
    /// Asks for the cache line at `p` into the second-level cache.
    unsafe fn prefetch_l2(p: *const u8);
}

/// Byte offset of word `word` of row `row` in a group record of `rows` activation rows.
pub(crate) const fn record_word(rows: usize, word: usize, row: usize) -> usize {
    (word * rows + row) * 4
}

/// Byte offset of the scale of row `row` in a group record.
pub(crate) const fn record_scale(rows: usize, row: usize) -> usize {
    (8 * rows + row) * 4
}

/// Byte offset of the sum's first value of row `row` in a group record.
pub(crate) const fn record_init(rows: usize, row: usize) -> usize {
    (9 * rows + row) * 4
}

/// Bytes of a group record a row.
pub(crate) const RECORD_BYTES: usize = 40;

/// Defines `unsafe fn $name(isa, args)` that calls `$body::<S>(args)` compiled for the given instruction set.
///
/// `$body` must be `#[inline(always)]`: it takes the target features of the function it is inlined into.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The processor has `isa`; the pointers in the arguments are as the body's documentation demands.
        $vis unsafe fn $name(isa: $crate::drivers::cpu::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            use $crate::drivers::cpu::simd;
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::drivers::cpu::isa::Isa;
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: that of the caller.
                    unsafe { $body::<simd::avx2::Ymm<false>>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
                unsafe fn avx_vnni($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: that of the caller.
                    unsafe { $body::<simd::avx2::Ymm<true>>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: that of the caller.
                    unsafe { $body::<simd::avx512::Zmm<false>>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
                unsafe fn avx512_bf16($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: that of the caller.
                    unsafe { $body::<simd::avx512::Zmm<true>>($($arg),*) }
                }
                // SAFETY: that of the caller.
                unsafe {
                    match isa {
                        Isa::Scalar => $body::<simd::scalar::Scalar>($($arg),*),
                        Isa::Avx2 => avx2($($arg),*),
                        Isa::AvxVnni => avx_vnni($($arg),*),
                        Isa::Avx512 => avx512($($arg),*),
                        Isa::Avx512Bf16 => avx512_bf16($($arg),*),
                    }
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = isa;
                // SAFETY: that of the caller.
                unsafe { $body::<simd::scalar::Scalar>($($arg),*) }
            }
        }
    };
}
pub(crate) use kernel;
