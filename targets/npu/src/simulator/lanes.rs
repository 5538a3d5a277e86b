//! Arithmetic of the interpreter: element by element over slices that the compiler turns into vector instructions.
//!
//! Every element is a word of 32 bits: integers with their sign extended from their own width, bfloat16 and f32 as the
//! bits of an f32. Results of narrow types are brought back to their width, so that all wraps as MLIR says.

use crate::module::{Compare, FloatBinary, FloatCompare, IntBinary, MathFunction, Reduction};

/// Sign-extends the low bits: `shift` is 32 minus the width.
#[inline(always)]
pub fn narrow(x: i32, shift: u32) -> i32 {
    (x << shift) >> shift
}

#[inline(always)]
fn unsigned(x: i32, shift: u32) -> u32 {
    ((x as u32) << shift) >> shift
}

#[inline(always)]
fn zip(d: &mut [i32], a: &[i32], b: &[i32], f: impl Fn(i32, i32) -> i32) {
    for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
        *d = f(*a, *b);
    }
}

#[inline(always)]
fn map(d: &mut [i32], a: &[i32], f: impl Fn(i32) -> i32) {
    for (d, a) in d.iter_mut().zip(a) {
        *d = f(*a);
    }
}

/// `d = a op b` on integers. Division by zero, which MLIR leaves undefined, gives 0.
pub fn int_binary(op: IntBinary, d: &mut [i32], a: &[i32], b: &[i32], shift: u32) {
    use IntBinary::*;
    let n = move |x| narrow(x, shift);
    let u = move |x| unsigned(x, shift);
    // Signs of narrow types are already extended: signed operations need no care.
    match op {
        Add => zip(d, a, b, |x, y| n(x.wrapping_add(y))),
        Sub => zip(d, a, b, |x, y| n(x.wrapping_sub(y))),
        Mul => zip(d, a, b, |x, y| n(x.wrapping_mul(y))),
        And => zip(d, a, b, |x, y| x & y),
        Or => zip(d, a, b, |x, y| x | y),
        Xor => zip(d, a, b, |x, y| x ^ y),
        MinSigned => zip(d, a, b, |x, y| x.min(y)),
        MaxSigned => zip(d, a, b, |x, y| x.max(y)),
        MinUnsigned => zip(d, a, b, |x, y| if u(x) < u(y) { x } else { y }),
        MaxUnsigned => zip(d, a, b, |x, y| if u(x) > u(y) { x } else { y }),
        ShiftLeft => zip(d, a, b, |x, y| {
            n(x.checked_shl(u(y))
                .filter(|_| u(y) < 32 - shift)
                .unwrap_or(0))
        }),
        ShiftRightSigned => zip(d, a, b, |x, y| x >> u(y).min(31)),
        ShiftRightUnsigned => zip(
            d,
            a,
            b,
            |x, y| n(u(x).checked_shr(u(y)).unwrap_or(0) as i32),
        ),
        DivSigned => zip(d, a, b, |x, y| {
            n(if y == 0 { 0 } else { x.wrapping_div(y) })
        }),
        DivUnsigned => zip(
            d,
            a,
            b,
            |x, y| n(u(x).checked_div(u(y)).unwrap_or(0) as i32),
        ),
        RemSigned => zip(d, a, b, |x, y| {
            n(if y == 0 { 0 } else { x.wrapping_rem(y) })
        }),
        RemUnsigned => zip(
            d,
            a,
            b,
            |x, y| n(u(x).checked_rem(u(y)).unwrap_or(0) as i32),
        ),
        FloorDivSigned => zip(d, a, b, |x, y| {
            n(wide(FloorDivSigned, x.into(), y.into()) as i32)
        }),
        CeilDivSigned => zip(d, a, b, |x, y| {
            n(wide(CeilDivSigned, x.into(), y.into()) as i32)
        }),
    }
}

/// The same on one integer of 64 bits.
pub fn wide(op: IntBinary, x: i64, y: i64) -> i64 {
    use IntBinary::*;
    let (ux, uy) = (x as u64, y as u64);
    let shift = u32::try_from(uy).unwrap_or(u32::MAX);
    match op {
        Add => x.wrapping_add(y),
        Sub => x.wrapping_sub(y),
        Mul => x.wrapping_mul(y),
        DivSigned => {
            if y == 0 {
                0
            } else {
                x.wrapping_div(y)
            }
        }
        DivUnsigned => ux.checked_div(uy).unwrap_or(0) as i64,
        FloorDivSigned => {
            if y == 0 {
                return 0;
            }
            let (quotient, rest) = (x.wrapping_div(y), x.wrapping_rem(y));
            if rest != 0 && (rest < 0) != (y < 0) {
                quotient - 1
            } else {
                quotient
            }
        }
        CeilDivSigned => {
            if y == 0 {
                return 0;
            }
            let (quotient, rest) = (x.wrapping_div(y), x.wrapping_rem(y));
            if rest != 0 && (rest < 0) == (y < 0) {
                quotient + 1
            } else {
                quotient
            }
        }
        RemSigned => {
            if y == 0 {
                0
            } else {
                x.wrapping_rem(y)
            }
        }
        RemUnsigned => ux.checked_rem(uy).unwrap_or(0) as i64,
        MinSigned => x.min(y),
        MinUnsigned => ux.min(uy) as i64,
        MaxSigned => x.max(y),
        MaxUnsigned => ux.max(uy) as i64,
        ShiftLeft => x.checked_shl(shift).unwrap_or(0),
        ShiftRightSigned => x >> shift.min(63),
        ShiftRightUnsigned => ux.checked_shr(shift).unwrap_or(0) as i64,
        And => x & y,
        Or => x | y,
        Xor => x ^ y,
    }
}

/// Whether a comparison of integers holds; unsigned ones of sign-extended numbers of the same width are as of their own.
#[inline(always)]
pub fn holds(compare: Compare, x: i64, y: i64) -> bool {
    use Compare::*;
    match compare {
        Eq => x == y,
        Ne => x != y,
        LtSigned => x < y,
        LeSigned => x <= y,
        GtSigned => x > y,
        GeSigned => x >= y,
        LtUnsigned => (x as u64) < y as u64,
        LeUnsigned => x as u64 <= y as u64,
        GtUnsigned => x as u64 > y as u64,
        GeUnsigned => x as u64 >= y as u64,
    }
}

/// `d = a compare b`, true as -1.
pub fn int_compare(compare: Compare, d: &mut [i32], a: &[i32], b: &[i32]) {
    use Compare::*;
    match compare {
        Eq => zip(d, a, b, |x, y| -i32::from(x == y)),
        Ne => zip(d, a, b, |x, y| -i32::from(x != y)),
        LtSigned => zip(d, a, b, |x, y| -i32::from(x < y)),
        LeSigned => zip(d, a, b, |x, y| -i32::from(x <= y)),
        GtSigned => zip(d, a, b, |x, y| -i32::from(x > y)),
        GeSigned => zip(d, a, b, |x, y| -i32::from(x >= y)),
        LtUnsigned => zip(d, a, b, |x, y| -i32::from((x as u32) < y as u32)),
        LeUnsigned => zip(d, a, b, |x, y| -i32::from(x as u32 <= y as u32)),
        GtUnsigned => zip(d, a, b, |x, y| -i32::from(x as u32 > y as u32)),
        GeUnsigned => zip(d, a, b, |x, y| -i32::from(x as u32 >= y as u32)),
    }
}

#[inline(always)]
fn f(x: i32) -> f32 {
    f32::from_bits(x as u32)
}

#[inline(always)]
fn bits(x: f32) -> i32 {
    x.to_bits() as i32
}

/// Rounds to bfloat16, to the nearest even.
#[inline(always)]
pub fn to_bf16(x: i32) -> i32 {
    let value = x as u32;
    let rounded = value.wrapping_add(0x7fff + ((value >> 16) & 1));
    let number = if (value & 0x7fff_ffff) > 0x7f80_0000 {
        value | 0x0040_0000
    } else {
        rounded
    };
    (number & 0xffff_0000) as i32
}

/// Rounds every element to bfloat16.
pub fn round_bf16(d: &mut [i32]) {
    for x in d {
        *x = to_bf16(*x);
    }
}

/// One number of two.
#[inline(always)]
pub fn float_of(op: FloatBinary, x: f32, y: f32) -> f32 {
    use FloatBinary::*;
    match op {
        Add => x + y,
        Sub => x - y,
        Mul => x * y,
        Div => x / y,
        Maximum => {
            if x.is_nan() || y.is_nan() {
                f32::NAN
            } else {
                x.max(y)
            }
        }
        Minimum => {
            if x.is_nan() || y.is_nan() {
                f32::NAN
            } else {
                x.min(y)
            }
        }
        MaxNum => x.max(y),
        MinNum => x.min(y),
    }
}

/// `d = a op b` on floating-point numbers.
pub fn float_binary(op: FloatBinary, d: &mut [i32], a: &[i32], b: &[i32]) {
    use FloatBinary::*;
    match op {
        Add => zip(d, a, b, |x, y| bits(f(x) + f(y))),
        Sub => zip(d, a, b, |x, y| bits(f(x) - f(y))),
        Mul => zip(d, a, b, |x, y| bits(f(x) * f(y))),
        Div => zip(d, a, b, |x, y| bits(f(x) / f(y))),
        Maximum => zip(d, a, b, |x, y| bits(float_of(Maximum, f(x), f(y)))),
        Minimum => zip(d, a, b, |x, y| bits(float_of(Minimum, f(x), f(y)))),
        MaxNum => zip(d, a, b, |x, y| bits(f(x).max(f(y)))),
        MinNum => zip(d, a, b, |x, y| bits(f(x).min(f(y)))),
    }
}

/// `d = a compare b` on floating-point numbers, true as -1.
pub fn float_compare(compare: FloatCompare, d: &mut [i32], a: &[i32], b: &[i32]) {
    zip(d, a, b, |x, y| {
        let (x, y) = (f(x), f(y));
        -i32::from(
            (compare.equal && x == y)
                || (compare.greater && x > y)
                || (compare.less && x < y)
                || (compare.unordered && (x.is_nan() || y.is_nan())),
        )
    });
}

/// `d = function(a)`.
pub fn math(function: MathFunction, d: &mut [i32], a: &[i32]) {
    use MathFunction::*;
    match function {
        Negate => map(d, a, |x| bits(-f(x))),
        Abs => map(d, a, |x| bits(f(x).abs())),
        Exp => map(d, a, |x| bits(f(x).exp())),
        Exp2 => map(d, a, |x| bits(f(x).exp2())),
        Log => map(d, a, |x| bits(f(x).ln())),
        Log2 => map(d, a, |x| bits(f(x).log2())),
        Sqrt => map(d, a, |x| bits(f(x).sqrt())),
        Rsqrt => map(d, a, |x| bits((1.0 / f64::from(f(x)).sqrt()) as f32)),
        Tanh => map(d, a, |x| bits(f(x).tanh())),
        Erf => map(d, a, |x| bits(erf(f64::from(f(x))) as f32)),
        Sin => map(d, a, |x| bits(f(x).sin())),
        Cos => map(d, a, |x| bits(f(x).cos())),
        Floor => map(d, a, |x| bits(f(x).floor())),
        Ceil => map(d, a, |x| bits(f(x).ceil())),
        Round => map(d, a, |x| bits(f(x).round())),
        RoundEven => map(d, a, |x| bits(f(x).round_ties_even())),
    }
}

/// The error function, to the precision of an f32: its series near 0, its continued fraction far from it.
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return x;
    }
    let value = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..80 {
            term *= -magnitude * magnitude / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = 0.0;
        for n in (1..40).rev() {
            fraction = f64::from(n) / 2.0 / (magnitude + fraction);
        }
        1.0 - (-magnitude * magnitude).exp()
            / (std::f64::consts::PI.sqrt() * (magnitude + fraction))
    };
    value.copysign(x)
}

/// `d = a * b + c`, rounded once.
pub fn fma(d: &mut [i32], a: &[i32], b: &[i32], c: &[i32]) {
    for (((d, a), b), c) in d.iter_mut().zip(a).zip(b).zip(c) {
        // The product of two f32 is exact in an f64; rounding the sum twice differs from once only in the rarest ties.
        *d = bits((f64::from(f(*a)) * f64::from(f(*b)) + f64::from(f(*c))) as f32);
    }
}

/// `d = c ? a : b`.
pub fn select(d: &mut [i32], c: &[i32], a: &[i32], b: &[i32]) {
    for (((d, c), a), b) in d.iter_mut().zip(c).zip(a).zip(b) {
        *d = if *c != 0 { *a } else { *b };
    }
}

/// Zero-extends from a width: `shift` is 32 minus it.
pub fn extend_unsigned(d: &mut [i32], a: &[i32], shift: u32) {
    map(d, a, |x| unsigned(x, shift) as i32);
}

/// Keeps the low bits: `shift` is 32 minus their number.
pub fn truncate(d: &mut [i32], a: &[i32], shift: u32) {
    map(d, a, |x| narrow(x, shift));
}

/// Magnitude of integers.
pub fn abs_int(d: &mut [i32], a: &[i32], shift: u32) {
    map(d, a, |x| narrow(x.wrapping_abs(), shift));
}

/// Integers as floating-point numbers; `shift` is 32 minus the integer's width.
pub fn int_to_float(d: &mut [i32], a: &[i32], signed: bool, shift: u32) {
    if signed {
        map(d, a, |x| bits(x as f32));
    } else {
        map(d, a, |x| bits(unsigned(x, shift) as f32));
    }
}

/// Floating-point numbers as integers, towards zero. What does not fit, which MLIR leaves undefined, saturates.
pub fn float_to_int(d: &mut [i32], a: &[i32], signed: bool, shift: u32) {
    let most = (i32::MAX >> shift) as f32;
    if signed {
        let least = (i32::MIN >> shift) as f32;
        map(d, a, |x| {
            if shift == 0 {
                f(x) as i32
            } else {
                f(x).clamp(least, most) as i32
            }
        });
    } else {
        map(d, a, |x| {
            narrow((f(x) as u32).min(u32::MAX >> shift) as i32, shift)
        });
    }
}

/// Combines two elements of a reduction.
#[inline(always)]
pub fn combine(kind: Reduction, x: i32, y: i32, shift: u32) -> i32 {
    use Reduction::*;
    match kind {
        Add => narrow(x.wrapping_add(y), shift),
        Mul => narrow(x.wrapping_mul(y), shift),
        MinSigned => x.min(y),
        MaxSigned => x.max(y),
        MinUnsigned => {
            if (x as u32) < y as u32 {
                x
            } else {
                y
            }
        }
        MaxUnsigned => {
            if x as u32 > y as u32 {
                x
            } else {
                y
            }
        }
        And => x & y,
        Or => x | y,
        Xor => x ^ y,
        Maximum | Minimum | MaxNum | MinNum => y,
    }
}

/// Combines two floating-point elements of a reduction.
#[inline(always)]
pub fn combine_float(kind: Reduction, x: i32, y: i32) -> i32 {
    use Reduction as R;
    let op = match kind {
        R::Add => FloatBinary::Add,
        R::Mul => FloatBinary::Mul,
        R::Maximum => FloatBinary::Maximum,
        R::Minimum => FloatBinary::Minimum,
        R::MaxNum => FloatBinary::MaxNum,
        R::MinNum => FloatBinary::MinNum,
        R::MinSigned | R::MinUnsigned | R::MaxSigned | R::MaxUnsigned | R::And | R::Or | R::Xor => {
            return y;
        }
    };
    bits(float_of(op, f(x), f(y)))
}

/// Most elements of one operand of a product done at once; larger ones take the general way.
pub const MATRIX_LANES: usize = 256;

/// `d = a b + c` of integers small enough that sums of products are exact in an f32.
pub fn product_small(
    d: &mut [i32],
    a: &[i32],
    b: &[i32],
    c: &[i32],
    (m, k, n): (usize, usize, usize),
) {
    let mut right = [0f32; MATRIX_LANES];
    for (to, from) in right.iter_mut().zip(&b[..k * n]) {
        *to = *from as f32;
    }
    if n == 8 {
        product_small_8(d, a, &right, c, m, k);
        return;
    }
    for row in 0..m {
        let mut sums = [0f32; MATRIX_LANES];
        for depth in 0..k {
            let left = a[row * k + depth] as f32;
            for (sum, right) in sums[..n].iter_mut().zip(&right[depth * n..(depth + 1) * n]) {
                *sum += left * right;
            }
        }
        for column in 0..n {
            d[row * n + column] = c[row * n + column].wrapping_add(sums[column] as i32);
        }
    }
}

/// Rows of 8 columns, the matrix unit's own width.
fn product_small_8(
    d: &mut [i32],
    a: &[i32],
    right: &[f32; MATRIX_LANES],
    c: &[i32],
    m: usize,
    k: usize,
) {
    // Adding it leaves the integer in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    for row in 0..m {
        let mut sums = [MAGIC; 8];
        for depth in 0..k {
            let left = a[row * k + depth] as f32;
            let line: &[f32; 8] = right[depth * 8..depth * 8 + 8]
                .try_into()
                .unwrap_or(&[0.0; 8]);
            for (sum, right) in sums.iter_mut().zip(line) {
                *sum += left * right;
            }
        }
        let before = &c[row * 8..row * 8 + 8];
        for ((d, before), sum) in d[row * 8..row * 8 + 8].iter_mut().zip(before).zip(sums) {
            *d = before.wrapping_add((sum.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32));
        }
    }
}

/// `d = a b + c` of integers; `shift` is 32 minus the width of the sums.
pub fn product_int(
    d: &mut [i32],
    a: &[i32],
    b: &[i32],
    c: &[i32],
    (m, k, n): (usize, usize, usize),
    shift: u32,
) {
    for row in 0..m {
        let sums = &mut d[row * n..(row + 1) * n];
        sums.copy_from_slice(&c[row * n..(row + 1) * n]);
        for depth in 0..k {
            let left = a[row * k + depth];
            for (sum, right) in sums.iter_mut().zip(&b[depth * n..(depth + 1) * n]) {
                *sum = narrow(sum.wrapping_add(left.wrapping_mul(*right)), shift);
            }
        }
    }
}

/// `d = a b + c` of floating-point numbers.
pub fn product_float(
    d: &mut [i32],
    a: &[i32],
    b: &[i32],
    c: &[i32],
    (m, k, n): (usize, usize, usize),
    to_bf16_sums: bool,
) {
    let mut sums = [0f32; MATRIX_LANES];
    for row in 0..m {
        let sums = &mut sums[..n];
        for (sum, before) in sums.iter_mut().zip(&c[row * n..(row + 1) * n]) {
            *sum = f(*before);
        }
        for depth in 0..k {
            let left = f(a[row * k + depth]);
            for (sum, right) in sums.iter_mut().zip(&b[depth * n..(depth + 1) * n]) {
                *sum += left * f(*right);
            }
        }
        for (d, sum) in d[row * n..(row + 1) * n].iter_mut().zip(sums.iter()) {
            *d = if to_bf16_sums {
                to_bf16(bits(*sum))
            } else {
                bits(*sum)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(op: IntBinary, x: i32, y: i32, width: u32) -> i32 {
        let mut d = [0];
        int_binary(op, &mut d, &[x], &[y], 32 - width);
        d[0]
    }

    #[test]
    fn integers_wrap_at_their_width() {
        use IntBinary::*;
        assert_eq!(int(Add, 127, 1, 8), -128);
        assert_eq!(int(Mul, -128, -1, 8), -128);
        assert_eq!(int(Sub, i32::MIN, 1, 32), i32::MAX);
        assert_eq!(int(ShiftLeft, 0x40, 1, 8), -128);
        assert_eq!(int(ShiftRightUnsigned, -1, 4, 8), 15);
        assert_eq!(int(ShiftRightSigned, -16, 2, 8), -4);
        assert_eq!(int(DivUnsigned, -1, 2, 8), 127);
        assert_eq!(int(MinUnsigned, -1, 1, 8), 1);
        assert_eq!(int(FloorDivSigned, -7, 2, 32), -4);
        assert_eq!(int(CeilDivSigned, 7, 2, 32), 4);
        assert_eq!(int(RemSigned, -7, 2, 32), -1);
    }

    #[test]
    fn the_products_agree() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 as i8
        };
        let a: Vec<i32> = (0..32).map(|_| next().into()).collect();
        let mut b: Vec<i32> = (0..64).map(|_| next().into()).collect();
        b[0] = -128;
        let c: Vec<i32> = (0..32).map(|_| i32::from(next()) << 20).collect();
        let (mut small, mut plain) = (vec![0; 32], vec![0; 32]);
        product_small(&mut small, &a, &b, &c, (4, 8, 8));
        product_int(&mut plain, &a, &b, &c, (4, 8, 8), 0);
        assert_eq!(small, plain);
        product_small(&mut small[..16], &a, &b, &c, (4, 8, 4));
        product_int(&mut plain[..16], &a, &b, &c, (4, 8, 4), 0);
        assert_eq!(small, plain);
    }

    #[test]
    fn the_error_function_is_within_an_f32() {
        for (x, y) in [
            (0.5, 0.520_499_877_8),
            (2.0, 0.995_322_265_0),
            (3.5, 0.999_999_256_9),
        ] {
            assert!((erf(x) - y).abs() < 1e-9, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
