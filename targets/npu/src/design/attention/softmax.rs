//! Scores to weights: soft cap, what scores are measured from, and powers of 2 in 16 bits.
//!
//! Scores come in powers of 2. A query's **anchor** is `49152 - reference`: added to a score it leaves, in the lower bits
//! of an f32, the score above the reference in 256ths, an integer without a conversion. The reference is a whole number
//! near the query's greatest score so far, and need not be that score: weights may be as large as `2^32` before it is
//! raised, which sums in f32 and weights in bfloat16 bear as well as any. So sums are rescaled at the first block that a
//! query sees and hardly ever again, and a look at the greatest of all scores says that it need not be. As the reference
//! is whole, rescaling subtracts from exponents.
//!
//! A power of 2 is then its own bits: `bfloat16(2^t) = 127 + t` where 1 is the last bit of the exponent, but for
//! `1 + f - 2^f` of the fraction `f`, which is `f (1 - f)` times nearly a line; 32 lanes of 16 bits at a time. A weight is
//! off by 6 in 1000 at most, of which bfloat16 alone has 4, and sums of weights are sums of the same weights.

use super::Attention;
use super::program::Memory;
use crate::aie::{Body, Compare, Element};
use melior::ir::Value;

/// What scores are that no query sees.
pub(super) const UNSEEN: f64 = -1e9;
/// Bits of `49152f32`, whose last bit is a 256th.
const ANCHOR_BITS: i64 = 0x4740_0000;
/// The anchor of a query that has seen nothing: its reference is -8192.
const FIRST_ANCHOR: f64 = 49152.0 + 8192.0;
/// Scores above the reference, in 256ths, from which on the reference is raised.
const MOST: i64 = 32 * 256;
/// Scores below are 0 as weights.
const LEAST: i64 = -127 * 256;

/// The steps from scores to weights.
pub(super) struct Softmax<'d> {
    pub(super) design: &'d Attention,
}

impl Softmax<'_> {
    fn query_fours(&self) -> u64 {
        u64::from(self.design.tile.queries / 4)
    }

    fn position_fours(&self) -> u64 {
        u64::from(self.design.tile.positions / 4)
    }

    /// Nothing has been seen.
    pub(super) fn begin<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        body.times(self.query_fours(), |body, four| {
            let anchor = body.splat_float(16, Element::F32, FIRST_ANCHOR);
            let at = body.address(&[(four, 16)]);
            body.store(anchor, memory.anchors, at, 16, Element::F32);
        });
    }

    /// `cap * tanh(score / cap)`, in powers of 2. Queries were multiplied so that scores are `2 / cap` of themselves:
    /// `tanh(x) = 1 - 2 / (1 + e^2x)`.
    pub(super) fn cap<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let Some(cap) = self.design.cap else {
            return;
        };
        let cap = f64::from(cap) * std::f64::consts::LOG2_E;
        body.times(self.query_fours() * self.position_fours(), |body, tile| {
            let constant = |value| body.splat_float(16, Element::F32, value);
            let at = body.address(&[(tile, 16)]);
            let score = body.load(memory.scores, at, 16, Element::F32);
            // Beyond these the result is the cap itself.
            let score = body.most_float(score, constant(-30.0));
            let score = body.least_float(score, constant(30.0));
            let power = power_of_2(body, score);
            let inverse = self.invert(body, body.add_float(power, constant(1.0)));
            let score = body.multiply_float(inverse, constant(-2.0 * cap));
            let score = body.add_float(score, constant(cap));
            body.store(score, memory.scores, at, 16, Element::F32);
        });
    }

    /// Scores to weights. Where one is far above its reference, references are raised first.
    pub(super) fn weigh<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let most = self.measure(body, memory);
        let most = body.most_of_lanes(most, Element::I32);
        body.when(body.is_less(body.int(Element::I32, MOST), most), |body| {
            self.raise(body, memory);
        });
        self.exponentiate(body, memory);
    }

    /// Scores above their references in 256ths, in their place; the greatest of each lane.
    fn measure<'c, 'b>(&self, body: &Body<'c, 'b>, memory: &Memory<'c, '_>) -> Value<'c, 'b> {
        let least = body.splat_int(16, Element::I32, LEAST);
        let fours = body.index(self.query_fours());
        let most = body.repeat(body.index(0), fours, &[least], |body, four, most| {
            let mut most = most[0];
            let at = body.address(&[(four, 16)]);
            let anchor = body.load(memory.anchors, at, 16, Element::F32);
            let first = body.address(&[(four, self.position_fours() * 16)]);
            for row in 0..self.position_fours() {
                let at = body.add(first, body.index(row * 16));
                let score = body.load(memory.scores, at, 16, Element::F32);
                let anchored = body.add_float(score, anchor);
                let bits = body.bitcast(anchored, 16, Element::I32);
                let above = body.subtract(bits, body.splat_int(16, Element::I32, ANCHOR_BITS));
                let above = body.most_signed(above, body.splat_int(16, Element::I32, LEAST));
                most = body.most_signed(most, above);
                store_bits(body, above, memory.scores, at);
            }
            vec![most]
        });
        most[0]
    }

    /// Brings every query's reference up to its greatest score, and what was summed with it.
    fn raise<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        body.times(self.query_fours(), |body, four| {
            let constant = |value| body.splat_int(16, Element::I32, value);
            let first = body.address(&[(four, self.position_fours() * 16)]);
            let most = body.repeat(
                body.index(0),
                body.index(self.position_fours()),
                &[constant(0)],
                |body, row, most| {
                    let at = body.add(first, body.address(&[(row, 16)]));
                    vec![body.most_signed(most[0], load_bits(body, memory.scores, at))]
                },
            );
            // The four rows of a tile are of the same queries.
            let columns = body.ints(
                Element::I32,
                &(0..16).map(|lane| lane % 4).collect::<Vec<i64>>(),
            );
            let mut raised = constant(0);
            for column in 0..4_u32 {
                let lane = |row: u32| body.lane(most[0], 4 * row + column, Element::I32);
                let most = (1..4).fold(lane(0), |most, row| body.most_signed(most, lane(row)));
                let is_own = body.compare(Compare::Equal, columns, constant(i64::from(column)), 16);
                raised = body.select(is_own, body.spread(most, 16, Element::I32), raised);
            }
            let raised = body.and(body.add(raised, constant(255)), constant(-256));
            let at = body.address(&[(four, 16)]);
            let anchor = body.subtract(load_bits(body, memory.anchors, at), raised);
            store_bits(body, anchor, memory.anchors, at);
            body.times(self.position_fours(), |body, row| {
                let at = body.add(first, body.address(&[(row, 16)]));
                let above = body.subtract(load_bits(body, memory.scores, at), raised);
                let above = body.most_signed(above, body.splat_int(16, Element::I32, LEAST));
                store_bits(body, above, memory.scores, at);
            });
            // What is taken from exponents, whose last bit is bit 23 of an f32; 127 of them leave nothing that counts.
            let fewer = body.least_signed(raised, constant(-LEAST));
            let fewer = body.multiply(fewer, constant(1 << (23 - 8)));
            let tiles = u64::from(self.design.sum_tiles());
            body.times(tiles, |body, tile| {
                let at = body.address(&[(four, tiles * 16), (tile, 16)]);
                let sum = load_bits(body, memory.sums, at);
                let exponent = body.and(sum, body.splat_int(16, Element::I32, 0x7F80_0000));
                let is_left = body.compare(Compare::Less, fewer, exponent, 16);
                let lowered = body.subtract(sum, fewer);
                let zero = body.splat_int(16, Element::I32, 0);
                let sum = body.select(is_left, lowered, zero);
                store_bits(body, sum, memory.sums, at);
            });
        });
    }

    /// Powers of 2 of what `measure` left. Two tiles of scores, 8 positions by 4 queries, are a block of weights.
    fn exponentiate<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let eights = self.position_fours() / 2;
        body.times(self.query_fours(), |body, four| {
            let constant = |value| body.splat_int(32, Element::I16, value);
            let scores = body.address(&[(four, eights * 32)]);
            for eight in 0..eights {
                let at = body.add(scores, body.index(eight * 32));
                let above = body.load(memory.scores, at, 32, Element::F32);
                let above = body.bitcast(above, 32, Element::I32);
                let above = body.narrow(above, 32, Element::I16);
                let part = body.and(above, constant(255));
                let rest = body.subtract(constant(256), part);
                // At most 256.
                let both = body.shift_right(body.multiply(part, rest), constant(6));
                let slope = body.shift_right(body.multiply(part, constant(20)), constant(8));
                let slope = body.add(slope, constant(78));
                let bend = body.add(body.multiply(both, slope), constant(512));
                let bend = body.shift_right(bend, constant(10));
                let power = body.subtract(body.add(above, constant(1)), bend);
                let power = body.shift_right(power, constant(1));
                let power = body.add(power, constant(127 << 7));
                let weight = body.bitcast(power, 32, Element::Bf16);
                body.store(weight, memory.weights, at, 32, Element::Bf16);
            }
        });
    }

    /// `1 / value` of positive numbers: a guess that takes the bits for a logarithm, and three of Newton's steps.
    pub(super) fn invert<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        value: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let bits = body.bitcast(value, 16, Element::I32);
        let guess = body.subtract(body.splat_int(16, Element::I32, 0x7EF3_11C3), bits);
        let mut inverse = body.bitcast(guess, 16, Element::F32);
        let two = body.splat_float(16, Element::F32, 2.0);
        for _ in 0..3 {
            let error = body.subtract_float(two, body.multiply_float(value, inverse));
            inverse = body.multiply_float(inverse, error);
        }
        inverse
    }
}

/// Sixteen floats as integers.
fn load_bits<'c, 'b>(
    body: &Body<'c, 'b>,
    memory: Value<'c, '_>,
    at: Value<'c, '_>,
) -> Value<'c, 'b> {
    let floats = body.load(memory, at, 16, Element::F32);
    body.bitcast(floats, 16, Element::I32)
}

/// Sixteen integers where floats are.
fn store_bits<'c>(
    body: &Body<'c, '_>,
    bits: Value<'c, '_>,
    memory: Value<'c, '_>,
    at: Value<'c, '_>,
) {
    let floats = body.bitcast(bits, 16, Element::F32);
    body.store(floats, memory, at, 16, Element::F32);
}

/// `2^value` in f32, to 5 in a million, of magnitudes below 126.
fn power_of_2<'c, 'b>(body: &Body<'c, 'b>, value: Value<'c, '_>) -> Value<'c, 'b> {
    let constant = |value| body.splat_float(16, Element::F32, value);
    let whole = body.add_float(value, constant(12_582_912.0));
    let part = body.subtract_float(value, body.subtract_float(whole, constant(12_582_912.0)));
    // The series of 2^x, its fifth power spread over the third and the first.
    let factors = [0.055_920_78, 0.240_226_5, 0.693_121_14, 1.0];
    let mut power = constant(0.009_618_13);
    for factor in factors {
        power = body.add_float(body.multiply_float(power, part), constant(factor));
    }
    let anchor = body.splat_int(16, Element::I32, 0x4B40_0000);
    let whole = body.subtract(body.bitcast(whole, 16, Element::I32), anchor);
    let exponent = body.multiply(whole, body.splat_int(16, Element::I32, 1 << 23));
    let bits = body.add(body.bitcast(power, 16, Element::I32), exponent);
    body.bitcast(bits, 16, Element::F32)
}
