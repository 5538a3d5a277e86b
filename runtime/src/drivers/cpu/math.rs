//! exp, tanh and GELU on vectors.
//!
//! The polynomials are those of the Cephes library (S. Moshier, expf.c and tanhf.c); the tests hold
//! them to 1e-6 relative. The scalar form calls libm.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function is arithmetic of `Simd`, whose safety contract is passed on"
)]

use super::simd::Simd;

/// `e^x`; 0 below -87, and the value at 88 above it.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    if S::LIBM {
        return lanes::<S>(x, |x| if x < -87.0 { 0.0 } else { x.min(88.0).exp() });
    }
    let clamped = S::max(S::min(x, S::splat(88.0)), S::splat(-87.0));
    // x = n ln2 + r, |r| <= ln2 / 2, with ln2 in two parts so that the product is exact.
    let n = S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-0.693_359_4), clamped);
    let r = S::fma(n, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.987_569_1e-4);
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.0e-1,
    ] {
        p = S::fma(p, r, S::splat(c));
    }
    let y = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
    let y = S::mul(y, S::pow2(n));
    S::if_less(x, S::splat(-87.0), S::splat(0.0), y)
}

/// `tanh(x)`.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    if S::LIBM {
        return lanes::<S>(x, f32::tanh);
    }
    let z = S::mul(x, x);
    let mut p = S::splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = S::fma(p, z, S::splat(c));
    }
    let small = S::fma(S::mul(p, z), x, x);
    // 1 - 2 / (e^2|x| + 1), with the sign of x.
    let magnitude = S::abs(x);
    let e = exp::<S>(S::add(magnitude, magnitude));
    let one = S::splat(1.0);
    let large = S::sub(one, S::div(S::splat(2.0), S::add(e, one)));
    let large = S::if_less(x, S::splat(0.0), S::sub(S::splat(0.0), large), large);
    S::if_less(magnitude, S::splat(0.625), small, large)
}

/// GELU in its tanh form, `x/2 (1 + tanh(u))`, `u = sqrt(2/pi) (x + 0.044715 x^3)`, computed as `x / (1 + e^-2u)`.
/// Source: Hendrycks & Gimpel 2016.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let cube = S::mul(S::mul(x, x), x);
    let inner = S::fma(cube, S::splat(0.044_715), x);
    let e = exp::<S>(S::mul(inner, S::splat(-2.0 * SQRT_2_OVER_PI)));
    S::div(x, S::add(S::splat(1.0), e))
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(super) unsafe fn softcap<S: Simd>(x: S::F, cap: f32) -> S::F {
    S::mul(S::splat(cap), tanh::<S>(S::div(x, S::splat(cap))))
}

/// Applies `f` to every lane.
#[inline(always)]
unsafe fn lanes<S: Simd>(x: S::F, f: impl Fn(f32) -> f32) -> S::F {
    let mut values = [0.0f32; super::simd::LANES];
    S::store(values.as_mut_ptr(), x);
    S::load(values.map(f).as_ptr())
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::super::simd::kernel;
    use super::super::testing::isas;
    use super::*;

    #[inline(always)]
    unsafe fn all_body<S: Simd>(x: &[f32; 16], out: &mut [[f32; 16]; 4]) {
        let v = S::load(x.as_ptr());
        S::store(out[0].as_mut_ptr(), exp::<S>(v));
        S::store(out[1].as_mut_ptr(), tanh::<S>(v));
        S::store(out[2].as_mut_ptr(), gelu::<S>(v));
        S::store(out[3].as_mut_ptr(), softcap::<S>(v, 30.0));
    }
    kernel!(
        /// All functions of sixteen values.
        fn all = all_body(x: &[f32; 16], out: &mut [[f32; 16]; 4])
    );

    /// Relative error, absolute below `floor`.
    fn check(isa: Isa, what: &str, x: f32, got: f32, want: f64, floor: f64) {
        let error = (f64::from(got) - want).abs() / want.abs().max(floor);
        assert!(error < 1e-6, "{isa:?} {what}({x}) = {got}, not {want}");
    }

    #[test]
    fn functions_match_f64() {
        for isa in isas() {
            for i in -5000i32..=5000 {
                let x: [f32; 16] =
                    std::array::from_fn(|lane| (i as f32 + lane as f32 / 16.0) * 0.017);
                let mut out = [[0.0; 16]; 4];
                // SAFETY: `isas` lists what this processor has.
                unsafe { all(isa, &x, &mut out) };
                for (lane, &x) in x.iter().enumerate() {
                    let d = f64::from(x);
                    // Near 0 the error of u, an exponent, counts absolutely: 3e-8.
                    let u = 0.797_884_560_802_865_4 * (d + 0.044_715 * d * d * d);
                    check(isa, "exp", x, out[0][lane], d.exp(), 1e-37);
                    check(isa, "tanh", x, out[1][lane], d.tanh(), 1e-30);
                    check(
                        isa,
                        "gelu",
                        x,
                        out[2][lane],
                        d / (1.0 + (-2.0 * u).exp()),
                        3e-2,
                    );
                    check(
                        isa,
                        "softcap",
                        x,
                        out[3][lane],
                        30.0 * (d / 30.0).tanh(),
                        1e-30,
                    );
                }
            }
        }
    }

    #[test]
    fn exp_of_far_negatives_is_zero_and_of_zero_one() {
        for isa in isas() {
            let mut x = [0.0f32; 16];
            x[1] = -1e30;
            x[2] = f32::NEG_INFINITY;
            let mut out = [[9.0; 16]; 4];
            // SAFETY: `isas` lists what this processor has.
            unsafe { all(isa, &x, &mut out) };
            assert_eq!(out[0][..3], [1.0, 0.0, 0.0], "{isa:?}");
        }
    }
}
