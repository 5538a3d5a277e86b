//! Functions of floats out of what the cores have: 16 lanes at a time, without tables and without the scalar library.
//!
//! The vector unit multiplies bfloat16. What the vendor's lowering makes of a product of f32 is some twenty instructions,
//! so in inner loops every operand is a widened bfloat16: [`rough_product`] takes one product, where half a percent of an
//! operand does not matter, and [`Split`] numbers three.

use crate::aie::{Body, Compare, Element};
use melior::ir::Value;

/// Lanes of a vector of f32: two features of eight tokens.
pub(crate) const LANES: u64 = 16;
/// `1.5 * 2^23`: added to a float, it leaves the nearest integer in the low bits.
const ANCHOR: f64 = 12_582_912.0;
/// Its bits.
const ANCHOR_BITS: i64 = 0x4B40_0000;

/// A float in all lanes.
pub(crate) fn float<'c, 'b>(body: &Body<'c, 'b>, value: f64) -> Value<'c, 'b> {
    body.splat_float(LANES, Element::F32, value)
}

fn int<'c, 'b>(body: &Body<'c, 'b>, value: i64) -> Value<'c, 'b> {
    body.splat_int(LANES, Element::I32, value)
}

fn bits<'c, 'b>(body: &Body<'c, 'b>, value: Value<'c, '_>) -> Value<'c, 'b> {
    body.bitcast(value, LANES, Element::I32)
}

fn of_bits<'c, 'b>(body: &Body<'c, 'b>, value: Value<'c, '_>) -> Value<'c, 'b> {
    body.bitcast(value, LANES, Element::F32)
}

/// `|x|`.
pub(crate) fn magnitude<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    of_bits(body, body.and(bits(body, x), int(body, 0x7FFF_FFFF)))
}

/// The nearest integer, ties to even, of what is less than `2^22`, as i32.
pub(crate) fn round<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let anchored = body.add_float(x, float(body, ANCHOR));
    body.subtract(bits(body, anchored), int(body, ANCHOR_BITS))
}

/// `a * b` of operands rounded to bfloat16: what the vector unit multiplies at once.
pub(crate) fn rough_product<'c, 'b>(
    body: &Body<'c, 'b>,
    a: Value<'c, '_>,
    b: Value<'c, '_>,
) -> Value<'c, 'b> {
    body.multiply_float(rough(body, a), rough(body, b))
}

/// A float as the sum of two bfloat16, widened: 16 bits of it.
#[derive(Clone, Copy)]
pub(crate) struct Split<'c, 'b> {
    pub(crate) high: Value<'c, 'b>,
    low: Value<'c, 'b>,
}

impl<'c, 'b> Split<'c, 'b> {
    pub(crate) fn of(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Self {
        let high = rough(body, x);
        let low = rough(body, body.subtract_float(x, high));
        Self { high, low }
    }

    /// `self * x` of a bfloat16, widened.
    pub(crate) fn times_narrow<'d>(self, body: &Body<'c, 'd>, x: Value<'c, '_>) -> Value<'c, 'd> {
        body.add_float(
            body.multiply_float(self.high, x),
            body.multiply_float(self.low, x),
        )
    }

    /// `self * other`.
    pub(crate) fn times<'d>(self, body: &Body<'c, 'd>, other: Split<'c, '_>) -> Value<'c, 'd> {
        let small = body.add_float(
            body.multiply_float(self.high, other.low),
            body.multiply_float(self.low, other.high),
        );
        body.add_float(body.multiply_float(self.high, other.high), small)
    }
}

/// Rounded to bfloat16 and widened again.
pub(crate) fn rough<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let narrow = body.round_float(x, LANES, Element::Bf16);
    body.widen_float(narrow, LANES, Element::F32)
}

/// `1 / x` of positive normal numbers, to the last bits.
pub(crate) fn reciprocal<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let y = first_reciprocal(body, x);
    improve(body, y, |body, y| {
        let left = body.subtract_float(float(body, 2.0), body.multiply_float(x, y));
        body.multiply_float(y, left)
    })
}

/// `1 / x` within a few parts of 10000: rough steps of Newton's, then one whose error is computed finely.
fn near_reciprocal<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let mut y = first_reciprocal(body, x);
    for _ in 0..2 {
        let left = body.subtract_float(float(body, 2.0), rough_product(body, x, y));
        y = rough_product(body, y, left);
    }
    let y = rough(body, y);
    let error = body.subtract_float(float(body, 1.0), Split::of(body, x).times_narrow(body, y));
    body.add_float(y, rough_product(body, y, error))
}

/// Within an eighth: the exponent is negated, the fraction comes along.
fn first_reciprocal<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    of_bits(body, body.subtract(int(body, 0x7EF3_11C7), bits(body, x)))
}

/// `1 / sqrt(x)` of positive normal numbers, to the last bits.
pub(crate) fn reciprocal_root<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let half_bits = body.shift_right(bits(body, x), int(body, 1));
    let y = of_bits(body, body.subtract(int(body, 0x5F37_59DF), half_bits));
    let half = body.multiply_float(x, float(body, 0.5));
    improve(body, y, |body, y| {
        let square = body.multiply_float(y, y);
        let left = body.subtract_float(float(body, 1.5), body.multiply_float(half, square));
        body.multiply_float(y, left)
    })
}

/// Newton's steps from a first guess until nothing changes. A loop: products of f32 are long programs.
fn improve<'c, 'b>(
    body: &Body<'c, 'b>,
    guess: Value<'c, '_>,
    step: impl for<'x> FnOnce(&Body<'c, 'x>, Value<'c, 'x>) -> Value<'c, 'x>,
) -> Value<'c, 'b> {
    let (from, to) = (body.index(0), body.index(4));
    body.repeat(from, to, &[guess], |body, _, guess| {
        vec![step(body, guess[0])]
    })[0]
}

/// `2^x`, within half a percent of a percent of its argument's rounding; `|x|` is limited to 60.
fn power_of_two<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let x = body.most_float(x, float(body, -60.0));
    let x = body.least_float(x, float(body, 60.0));
    let anchored = body.add_float(x, float(body, ANCHOR));
    let whole = body.subtract_float(anchored, float(body, ANCHOR));
    let rest = body.subtract_float(x, whole);
    // 2^rest for |rest| <= 1/2, within 1e-4: the minimax polynomial of degree 3.
    let mut sum = float(body, 0.055_850_7);
    for coefficient in [0.242_640_6, 0.693_112_2, 0.999_928_7] {
        sum = body.add_float(rough_product(body, sum, rest), float(body, coefficient));
    }
    let exponent = body.subtract(bits(body, anchored), int(body, ANCHOR_BITS));
    let exponent = body.multiply(exponent, int(body, 1 << 23));
    of_bits(body, body.add(bits(body, sum), exponent))
}

/// GELU by its tanh approximation, within half a percent: `x / (1 + exp(-2 y))`, `y = sqrt(2/pi) (x + 0.044715 x^3)`.
///
/// `x` is a bfloat16.
pub(crate) fn gelu<'c, 'b>(body: &Body<'c, 'b>, x: Value<'c, '_>) -> Value<'c, 'b> {
    let first = -2.0 * (2.0 / std::f64::consts::PI).sqrt() * std::f64::consts::LOG2_E;
    let square = body.multiply_float(x, x);
    let cubic = rough_product(body, square, float(body, first * 0.044_715));
    let factor = body.add_float(cubic, float(body, first));
    let power = power_of_two(body, rough_product(body, x, factor));
    let share = near_reciprocal(body, body.add_float(power, float(body, 1.0)));
    rough_product(body, x, share)
}

/// What stands in both halves of a vector, joined: lane `i` and lane `i + 8` meet, in both.
///
/// Lanes can only change places in memory: `spots` are 32 floats for it.
pub(crate) fn join_halves<'c, 'b>(
    body: &Body<'c, 'b>,
    value: Value<'c, '_>,
    spots: Value<'c, '_>,
    meet: impl Fn(&Body<'c, 'b>, Value<'c, 'b>, Value<'c, 'b>) -> Value<'c, 'b>,
) -> Value<'c, 'b> {
    let at = |at| body.index(at);
    body.store(value, spots, at(0), LANES, Element::F32);
    let lower = body.load(spots, at(0), 8, Element::F32);
    let upper = body.load(spots, at(8), 8, Element::F32);
    body.store(upper, spots, at(16), 8, Element::F32);
    body.store(lower, spots, at(24), 8, Element::F32);
    let own = body.load(spots, at(0), LANES, Element::F32);
    let other = body.load(spots, at(16), LANES, Element::F32);
    meet(body, own, other)
}

/// Two neighbouring scalars, each in the lanes of its feature.
pub(crate) fn pair<'c, 'b>(
    body: &Body<'c, 'b>,
    memory: Value<'c, '_>,
    at: Value<'c, '_>,
    is_first: Value<'c, '_>,
) -> Value<'c, 'b> {
    let first = body.load_scalar(memory, at, Element::F32);
    let next = body.add(at, body.index(1));
    let second = body.load_scalar(memory, next, Element::F32);
    body.select(
        is_first,
        body.spread(first, LANES, Element::F32),
        body.spread(second, LANES, Element::F32),
    )
}

/// Which lanes are of the first of two features.
pub(crate) fn first_lanes<'c, 'b>(body: &Body<'c, 'b>) -> Value<'c, 'b> {
    let lanes: Vec<i64> = (0..LANES as i64).map(|lane| lane / 8).collect();
    body.compare(
        Compare::Equal,
        body.ints(Element::I32, &lanes),
        int(body, 0),
        LANES,
    )
}
