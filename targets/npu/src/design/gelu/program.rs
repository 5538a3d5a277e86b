//! What a core does of a gate.

use crate::aie::{Body, Element, Port};
use crate::design::vector::arithmetic::{self, LANES};
use crate::design::vector::program::{Memory, Program};
use melior::ir::Value;

/// Words of 16 rows of a panel.
const BLOCK_WORDS: u64 = 64;
/// Words of two rows.
const VECTOR_WORDS: u64 = 8;

impl Program<'_> {
    /// Takes a chunk's rows, keeps what they make and returns the largest magnitude.
    pub(crate) fn gate<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        chunk: Value<'c, '_>,
        most: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let parts = u64::from(self.design.in_bytes() / 64);
        body.times(2, |body, half| {
            let input = body.acquire(self.input, Port::Consume);
            body.times(parts, |body, part| {
                let bytes = body.load(input, body.address(&[(part, 64)]), 64, Element::I8);
                let words = body.bitcast(bytes, LANES, Element::I32);
                let to = body.address(&[(half, parts * LANES), (part, LANES)]);
                body.store(words, memory.room, to, LANES, Element::I32);
            });
            body.release(self.input, Port::Consume);
        });
        let place = self.place(body, chunk);
        let vectors = self.vectors_of(body, memory, chunk);
        let zero = arithmetic::float(body, 0.0);
        let most = body.add_float(most, zero);
        let most = body.repeat(body.index(0), vectors, &[most], |body, vector, most| {
            let rows = |block_rows: u64| {
                let block = body.divide(vector, 8);
                let within = body.modulo(vector, 8);
                let at = body.address(&[(block, 2 * BLOCK_WORDS), (within, VECTOR_WORDS)]);
                let at = body.add(at, body.index(block_rows));
                let words = body.load(memory.room, at, VECTOR_WORDS, Element::I32);
                let numbers = body.bitcast(words, LANES, Element::Bf16);
                body.widen_float(numbers, LANES, Element::F32)
            };
            let (gate, up) = (rows(0), rows(BLOCK_WORDS));
            let value = arithmetic::rough_product(body, arithmetic::gelu(body, gate), up);
            let at = body.add(place, body.address(&[(vector, LANES)]));
            let kept = body.round_float(value, LANES, Element::Bf16);
            body.store(kept, memory.kept, at, LANES, Element::Bf16);
            vec![body.most_float(most[0], arithmetic::magnitude(body, value))]
        });
        self.clear_kept(body, memory, place, vectors);
        most[0]
    }
}
