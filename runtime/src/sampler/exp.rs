//! e^x for x <= 0 in plain f32 operations, so that every machine gets the same bits and the compiler can vectorise it.
//!
//! x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts (Cody and Waite 1980), e^r by its Taylor polynomial of degree
//! 7, whose remainder is below 1e-8; 2^n by the exponent bits. Relative error below 3e-7.

/// e^x for `x <= 0`; 0 below -87, where f32 stops being normal.
#[inline]
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let is_normal = x > -87.0;
    let x = if is_normal { x } else { 0.0 };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if is_normal { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp_nonpositive;

    #[test]
    fn is_close_to_the_exact_exponential() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-1000.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        let mut x = 0.0f32;
        while x > -87.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "x {x} error {error}");
            x -= 0.000_83;
        }
    }

    #[test]
    fn never_rises_as_x_falls() {
        let mut last = 1.0;
        for step in 0..200_000u32 {
            let value = exp_nonpositive(-(step as f32) * 1e-4);
            // One unit in the last place of slack at the seams of the reduction.
            assert!(value <= last * (1.0 + 1.2e-7), "step {step}");
            last = value;
        }
    }
}
