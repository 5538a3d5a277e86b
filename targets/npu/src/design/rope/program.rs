//! What a core does of a rotation.

use crate::aie::{Body, Element, Port};
use crate::design::vector::arithmetic::{self, LANES, Split};
use crate::design::vector::header::{KindWord, Word};
use crate::design::vector::program::{Memory, Program};
use melior::ir::Value;

/// Word of the room where a head that goes begins; before it, a tile being transposed.
pub(crate) const ROWS_AT: u64 = 16;
/// Kinds of heads: queries, keys, values.
const KINDS: u64 = 3;

impl Program<'_> {
    /// One panel.
    pub(crate) fn rope<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let half = self.count(body, memory, Word::HalfVectors);
        // Behind both norms' weights: four features of a head for each of half its vectors.
        let angles_at = body.address(&[(half, 2 * 4)]);
        self.keep_angles(body, memory, angles_at);
        body.times(KINDS, |body, kind| {
            let first = body.index(0);
            let count = |word: KindWord| self.stage_count(body, memory, kind, word);
            let heads = count(KindWord::Heads);
            let (rotates, copies) = (count(KindWord::Rotates), count(KindWord::Copies));
            let transposes = count(KindWord::Transposes);
            body.repeat(first, heads, &[], |body, _, _| {
                let squares = self.keep_head(body, memory);
                body.repeat(first, rotates, &[], |body, _, _| {
                    let squares =
                        arithmetic::join_halves(body, squares, memory.spots, |body, a, b| {
                            body.add_float(a, b)
                        });
                    let factor = self.norm_factor(body, memory, kind, squares);
                    self.rotate(body, memory, kind, factor, [half, angles_at]);
                    Vec::new()
                });
                body.repeat(first, copies, &[], |body, _, _| {
                    self.copy_head(body, memory, half);
                    Vec::new()
                });
                body.repeat(first, transposes, &[], |body, _, _| {
                    self.transpose_head(body, memory, half);
                    Vec::new()
                });
                self.send_head(body, memory);
                Vec::new()
            });
        });
    }

    /// Keeps a panel's cosines and sines.
    fn keep_angles<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        angles_at: Value<'c, '_>,
    ) {
        let elements = self.count(body, memory, Word::AngleElements);
        let parts = u64::from(self.design.in_bytes() / 64);
        body.repeat(body.index(0), elements, &[], |body, element, _| {
            let input = body.acquire(self.input, Port::Consume);
            body.times(parts, |body, part| {
                let bytes = body.load(input, body.address(&[(part, 64)]), 64, Element::I8);
                let floats = body.bitcast(bytes, LANES, Element::F32);
                let to = body.address(&[(element, parts * LANES), (part, LANES)]);
                let to = body.add(angles_at, to);
                body.store(floats, memory.tables, to, LANES, Element::F32);
            });
            body.release(self.input, Port::Consume);
            Vec::new()
        });
    }

    /// Keeps a head and returns its squares' sums.
    fn keep_head<'c, 'b>(&self, body: &Body<'c, 'b>, memory: &Memory<'c, '_>) -> Value<'c, 'b> {
        let elements = self.count(body, memory, Word::HeadElements);
        let zero = arithmetic::float(body, 0.0);
        let vectors = self.chunk_numbers() / LANES;
        let squares = body.repeat(
            body.index(0),
            elements,
            &[zero],
            |body, element, squares| {
                let input = body.acquire(self.input, Port::Consume);
                let (from, to) = (body.index(0), body.index(vectors));
                let squares = body.repeat(from, to, squares, |body, vector, squares| {
                    let bytes_at = body.address(&[(vector, 2 * LANES)]);
                    let bytes = body.load(input, bytes_at, 2 * LANES, Element::I8);
                    let x = body.bitcast(bytes, LANES, Element::Bf16);
                    let at = body.address(&[(element, self.chunk_numbers()), (vector, LANES)]);
                    body.store(x, memory.kept, at, LANES, Element::Bf16);
                    let x = body.widen_float(x, LANES, Element::F32);
                    vec![body.add_float(squares[0], body.multiply_float(x, x))]
                });
                body.release(self.input, Port::Consume);
                squares
            },
        );
        squares[0]
    }

    /// Norms and rotates the head that is kept, in its place.
    fn rotate<'c, 'v>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        kind: Value<'c, '_>,
        factor: Value<'c, '_>,
        [half, angles_at]: [Value<'c, 'v>; 2],
    ) {
        let is_first = arithmetic::first_lanes(body);
        let factor = Split::of(body, factor);
        // Of the kind's norm, and of the second half's features.
        let weights_at = body.multiply(kind, body.address(&[(half, 4)]));
        let half_numbers = body.address(&[(half, LANES)]);
        let half_features = body.address(&[(half, 2)]);
        body.repeat(body.index(0), half, &[], |body, vector, _| {
            let lower_at = body.address(&[(vector, LANES)]);
            let upper_at = body.add(lower_at, half_numbers);
            let lower_weight = body.add(weights_at, body.address(&[(vector, 2)]));
            let upper_weight = body.add(lower_weight, half_features);
            let normed = |at, weight_at| {
                let x = body.load(memory.kept, at, LANES, Element::Bf16);
                let x = body.widen_float(x, LANES, Element::F32);
                let weight = arithmetic::pair(body, memory.tables, weight_at, is_first);
                // Norms are fine: their error would be that of a whole head's scores.
                let x = Split::of(body, weight).times_narrow(body, x);
                Split::of(body, x).times(body, factor)
            };
            let (a, b) = (
                normed(lower_at, lower_weight),
                normed(upper_at, upper_weight),
            );
            let cosines_at = body.add(angles_at, lower_at);
            let sines_at = body.add(cosines_at, half_numbers);
            let cosine = body.load(memory.tables, cosines_at, LANES, Element::F32);
            let sine = body.load(memory.tables, sines_at, LANES, Element::F32);
            let product = |a, b| arithmetic::rough_product(body, a, b);
            let lower = body.subtract_float(product(a, cosine), product(b, sine));
            let upper = body.add_float(product(b, cosine), product(a, sine));
            for (value, at) in [(lower, lower_at), (upper, upper_at)] {
                let narrow = body.round_float(value, LANES, Element::Bf16);
                body.store(narrow, memory.kept, at, LANES, Element::Bf16);
            }
            Vec::new()
        });
    }

    /// The kept head to the room, as it lies: four features at a time.
    fn copy_head<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>, half: Value<'c, '_>) {
        body.repeat(body.index(0), half, &[], |body, four, _| {
            let at = body.address(&[(four, 2 * LANES)]);
            let numbers = body.load(memory.kept, at, 2 * LANES, Element::Bf16);
            let words = body.bitcast(numbers, LANES, Element::I32);
            let to = body.add(body.index(ROWS_AT), body.address(&[(four, LANES)]));
            body.store(words, memory.room, to, LANES, Element::I32);
            Vec::new()
        });
    }

    /// The kept head to the room, `[8][features]`: tiles of four features by eight tokens are transposed, and each token's
    /// two words go to its row.
    fn transpose_head<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        half: Value<'c, '_>,
    ) {
        // Two words for each four features.
        let row_words = body.address(&[(half, 2)]);
        body.repeat(body.index(0), half, &[], |body, four, _| {
            let at = body.address(&[(four, 2 * LANES)]);
            let numbers = body.load(memory.kept, at, 2 * LANES, Element::Bf16);
            let turned = body.transpose(numbers, [4, 8], Element::Bf16);
            let words = body.bitcast(turned, LANES, Element::I32);
            body.store(words, memory.room, body.index(0), LANES, Element::I32);
            body.times(8, |body, token| {
                let row = body.add(body.index(ROWS_AT), body.multiply(token, row_words));
                for word in 0..2 {
                    let from = body.add(body.address(&[(token, 2)]), body.index(word));
                    let to = body.add(row, body.address(&[(four, 2)]));
                    let to = body.add(to, body.index(word));
                    let value = body.load_scalar(memory.room, from, Element::I32);
                    body.store_scalar(value, memory.room, to);
                }
            });
            Vec::new()
        });
    }

    /// Sends the head in the room: twice as many elements as it came in.
    fn send_head<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let elements = self.count(body, memory, Word::HeadElements);
        let elements = body.add(elements, elements);
        let parts = u64::from(self.design.out_bytes() / 64);
        body.repeat(body.index(0), elements, &[], |body, element, _| {
            let output = body.acquire(self.output, Port::Produce);
            body.times(parts, |body, part| {
                let from = body.address(&[(element, parts * LANES), (part, LANES)]);
                let from = body.add(body.index(ROWS_AT), from);
                let words = body.load(memory.room, from, LANES, Element::I32);
                let bytes = body.bitcast(words, 64, Element::I8);
                body.store(bytes, output, body.address(&[(part, 64)]), 64, Element::I8);
            });
            body.release(self.output, Port::Produce);
            Vec::new()
        });
    }
}
