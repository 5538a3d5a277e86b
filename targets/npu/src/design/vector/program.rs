//! What all cores do, whatever the work: read the header and the table, pass sums along a column, quantize what is kept.

use super::Vector;
use super::arithmetic::{self, LANES};
use super::header::{self, Word};
use crate::aie::{Body, Element, Fifo, Port};
use crate::array::Array;
use melior::ir::Value;

/// The least maximum that is divided by: what is less becomes 0.
const LEAST: f64 = 1e-30;

/// The program of one core.
pub(crate) struct Program<'d> {
    pub(crate) design: &'d Vector,
    pub(crate) array: &'d Array,
    /// Which core of its column.
    pub(crate) row: u32,
    pub(crate) input: &'d Fifo,
    pub(crate) output: &'d Fifo,
    /// From and to the core below.
    pub(crate) below: Option<(&'d Fifo, &'d Fifo)>,
    /// To and from the core above.
    pub(crate) above: Option<(&'d Fifo, &'d Fifo)>,
}

/// The core's own memory.
pub(crate) struct Memory<'c, 'b> {
    /// Words of the header.
    pub(crate) header: Value<'c, 'b>,
    /// 32 floats to join halves of vectors.
    pub(crate) spots: Value<'c, 'b>,
    /// Words to change lanes.
    pub(crate) room: Value<'c, 'b>,
    /// `[features][8]` bfloat16.
    pub(crate) kept: Value<'c, 'b>,
    /// Floats that come once a dispatch or once a panel.
    pub(crate) tables: Value<'c, 'b>,
}

/// What is known of a column's panel when all its features were seen, each in the lanes of its token, twice.
pub(crate) struct Totals<'c, 'b> {
    pub(crate) sum: Value<'c, 'b>,
    pub(crate) most: Value<'c, 'b>,
}

impl Program<'_> {
    /// The whole program.
    pub(crate) fn write<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        body.forever(|body| {
            let element = body.acquire(self.input, Port::Consume);
            for part in 0..u64::from(header::BYTES / 64) {
                let bytes = body.load(element, body.index(part * 64), 64, Element::I8);
                let words = body.bitcast(bytes, 16, Element::I32);
                body.store(words, memory.header, body.index(part * 16), 16, Element::I32);
            }
            body.release(self.input, Port::Consume);
            self.keep_table(body, memory);
            self.repeat(body, memory, Word::PreparePanels, |body| {
                self.prepare(body, memory);
            });
            self.repeat(body, memory, Word::GeluPanels, |body| {
                self.gelu(body, memory);
            });
            self.repeat(body, memory, Word::RopePanels, |body| {
                self.rope(body, memory);
            });
        });
    }

    /// Does `inner` as often as the header says.
    pub(crate) fn repeat<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        word: Word,
        inner: impl for<'x> FnOnce(&Body<'c, 'x>),
    ) {
        let times = self.count(body, memory, word);
        body.repeat(body.index(0), times, &[], |body, _, _| {
            inner(body);
            Vec::new()
        });
    }

    /// A count of the header.
    pub(crate) fn count<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        word: Word,
    ) -> Value<'c, 'b> {
        let at = body.index(word as u64);
        body.to_index(body.load_scalar(memory.header, at, Element::I32))
    }

    /// A factor of the header, in all lanes.
    pub(crate) fn factor<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        word: Word,
    ) -> Value<'c, 'b> {
        let at = body.index(u64::from(header::FACTORS));
        let words = body.load(memory.header, at, LANES, Element::I32);
        let floats = body.bitcast(words, LANES, Element::F32);
        let factor = body.lane(floats, word as u32 - header::FACTORS, Element::F32);
        body.spread(factor, LANES, Element::F32)
    }

    /// Keeps what comes behind the header: of each element the first half, a chunk's two floats a feature.
    fn keep_table<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let floats = u64::from(2 * self.design.chunk);
        let elements = self.count(body, memory, Word::TableElements);
        body.repeat(body.index(0), elements, &[], |body, at, _| {
            let element = body.acquire(self.input, Port::Consume);
            body.times(floats / LANES, |body, part| {
                let from = body.address(&[(part, 64)]);
                let to = body.address(&[(at, floats), (part, LANES)]);
                let bytes = body.load(element, from, 64, Element::I8);
                let floats = body.bitcast(bytes, LANES, Element::F32);
                body.store(floats, memory.tables, to, LANES, Element::F32);
            });
            body.release(self.input, Port::Consume);
            Vec::new()
        });
    }

    /// Sums and maxima over the column's cores: each adds its own to what comes from below, the uppermost core's total
    /// goes down again. Then the two features of a vector meet.
    pub(crate) fn totals<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        sum: Value<'c, '_>,
        most: Value<'c, '_>,
    ) -> Totals<'c, 'b> {
        let (sums_at, most_at) = (body.index(0), body.index(LANES));
        let take = |from: &Fifo| {
            let element = body.acquire(from, Port::Consume);
            let sum = body.load(element, sums_at, LANES, Element::F32);
            let most = body.load(element, most_at, LANES, Element::F32);
            body.release(from, Port::Consume);
            (sum, most)
        };
        let give = |to: &Fifo, sum, most| {
            let element = body.acquire(to, Port::Produce);
            body.store(sum, element, sums_at, LANES, Element::F32);
            body.store(most, element, most_at, LANES, Element::F32);
            body.release(to, Port::Produce);
        };
        let zero = arithmetic::float(body, 0.0);
        let (mut sum, mut most) = (body.add_float(sum, zero), body.most_float(most, zero));
        if let Some((from, _)) = self.below {
            let (others, their_most) = take(from);
            sum = body.add_float(sum, others);
            most = body.most_float(most, their_most);
        }
        if let Some((to, from)) = self.above {
            give(to, sum, most);
            (sum, most) = take(from);
        }
        if let Some((_, to)) = self.below {
            give(to, sum, most);
        }
        Totals {
            sum: arithmetic::join_halves(body, sum, memory.spots, |body, a, b| {
                body.add_float(a, b)
            }),
            most: arithmetic::join_halves(body, most, memory.spots, |body, a, b| {
                body.most_float(a, b)
            }),
        }
    }

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

    /// Sends a chunk that is kept from number `from` on as integers: `round(kept * inverse)`.
    pub(crate) fn quantize<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        from: Value<'c, '_>,
        inverse: Value<'c, '_>,
    ) {
        let vectors = u64::from(self.design.chunk / 2);
        body.times(vectors, |body, vector| {
            let at = body.add(from, body.address(&[(vector, LANES)]));
            let value = body.load(memory.kept, at, LANES, Element::Bf16);
            let value = body.widen_float(value, LANES, Element::F32);
            let value = arithmetic::round(body, body.multiply_float(value, inverse));
            let at = body.address(&[(vector, LANES)]);
            body.store(value, memory.room, at, LANES, Element::I32);
        });
        let output = body.acquire(self.output, Port::Produce);
        let second = self.count(body, memory, Word::SecondGroup);
        let third = body.subtract(body.index(3), second);
        let groups = u64::from(self.design.chunk / 4);
        let together = groups.min(4);
        body.times(groups / together, |body, four| {
            for group in 0..together {
                let within = body.index(group);
                let at = body.address(&[(four, 4 * 32), (within, 32)]);
                let words = body.load(memory.room, at, 32, Element::I32);
                let bytes = body.narrow(body.narrow(words, 32, Element::I16), 32, Element::I8);
                let place = match (together, group) {
                    (4, 1) => second,
                    (4, 2) => third,
                    _ => within,
                };
                let at = body.address(&[(four, 4 * 32), (place, 32)]);
                body.store(bytes, output, at, 32, Element::I8);
            }
        });
        body.release(self.output, Port::Produce);
    }

    /// bfloat16 numbers of an element of bytes.
    pub(crate) fn load_narrow<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        element: Value<'c, '_>,
        at_bytes: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let bytes = body.load(element, at_bytes, 2 * LANES, Element::I8);
        body.bitcast(bytes, LANES, Element::Bf16)
    }
}
