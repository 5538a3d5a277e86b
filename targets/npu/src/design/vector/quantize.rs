//! What a core does to make a product's activations of what it keeps.

use super::arithmetic::{self, LANES, Split};
use super::header::{self, Word};
use super::program::{Memory, Program};
use crate::aie::{Body, Element, Port};
use melior::ir::Value;

/// The least maximum that is divided by: what is less becomes 0.
const LEAST: f64 = 1e-30;

impl Program<'_> {
    /// Begins the activations of a panel: their header. `most` is the largest magnitude of what is to be quantized,
    /// before it is multiplied by `factor`. Returns what turns it into integers.
    pub(crate) fn begin_activations<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        most: Value<'c, '_>,
        factor: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let scale = body.multiply_float(
            body.multiply_float(most, factor),
            arithmetic::float(body, 1.0 / 127.0),
        );
        let least = body.most_float(most, arithmetic::float(body, LEAST));
        let inverse = body.multiply_float(
            arithmetic::reciprocal(body, least),
            arithmetic::float(body, 127.0),
        );
        let output = body.acquire(self.output, Port::Produce);
        self.clear_output(body, output);
        // The scales are the first 64 bytes of the column's element, the counts the next.
        let own = self.row * self.design.out_bytes() / 64;
        for part in own..own + self.design.out_bytes() / 64 {
            let value = match part {
                0 => body.bitcast(scale, 64, Element::I8),
                1 => {
                    let at = body.index(u64::from(header::COPIED));
                    let words = body.load(memory.header, at, 16, Element::I32);
                    body.bitcast(words, 64, Element::I8)
                }
                _ => continue,
            };
            let at = body.index(u64::from(part - own) * 64);
            body.store(value, output, at, 64, Element::I8);
        }
        body.release(self.output, Port::Produce);
        self.zeros(body, memory, Word::HeaderRest);
        inverse
    }

    /// Elements of zeros.
    pub(crate) fn zeros<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>, word: Word) {
        self.repeat(body, memory, word, |body| {
            let output = body.acquire(self.output, Port::Produce);
            self.clear_output(body, output);
            body.release(self.output, Port::Produce);
        });
    }

    fn clear_output<'c>(&self, body: &Body<'c, '_>, output: Value<'c, '_>) {
        body.times(u64::from(self.design.out_bytes() / 64), |body, part| {
            let zeros = body.splat_int(64, Element::I8, 0);
            body.store(zeros, output, body.address(&[(part, 64)]), 64, Element::I8);
        });
    }

    /// Sends a kept chunk as integers: `round(kept * inverse)`.
    pub(crate) fn quantize<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        chunk: Value<'c, '_>,
        inverse: Value<'c, '_>,
    ) {
        let place = self.place(body, chunk);
        let inverse = Split::of(body, inverse);
        body.times(self.chunk_numbers() / LANES, |body, vector| {
            let within = body.address(&[(vector, LANES)]);
            let at = body.add(place, within);
            let value = body.load(memory.kept, at, LANES, Element::Bf16);
            let value = body.widen_float(value, LANES, Element::F32);
            let value = arithmetic::round(body, inverse.times_narrow(body, value));
            body.store(value, memory.room, within, LANES, Element::I32);
        });
        let output = body.acquire(self.output, Port::Produce);
        let second = self.count(body, memory, Word::SecondGroup);
        let third = body.subtract(body.index(3), second);
        body.times(u64::from(self.design.chunk / 16), |body, four| {
            let places = [body.index(0), second, third, body.index(3)];
            for (group, place) in (0..4).zip(places) {
                let within = body.index(group);
                let at = body.address(&[(four, 4 * 32), (within, 32)]);
                let words = body.load(memory.room, at, 32, Element::I32);
                let bytes = body.narrow(body.narrow(words, 32, Element::I16), 32, Element::I8);
                let at = body.address(&[(four, 4 * 32), (place, 32)]);
                body.store(bytes, output, at, 32, Element::I8);
            }
        });
        body.release(self.output, Port::Produce);
    }
}
