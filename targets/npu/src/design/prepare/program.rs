//! What a core does of a product's prologue.

use crate::aie::{Body, Element, Port};
use crate::design::vector::arithmetic::{self, LANES, Split};
use crate::design::vector::header::{StageWord, Word};
use crate::design::vector::program::{Known, Memory, Program};
use melior::ir::Value;

impl Program<'_> {
    /// Keeps the input, zeros where there is none, and returns its squares' sums.
    pub(crate) fn keep_input<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        stage: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let first = body.index(0);
        let absent = self.stage_count(body, memory, stage, StageWord::Absent);
        body.repeat(first, absent, &[], |body, chunk, _| {
            self.clear_kept(body, memory, self.place(body, chunk), first);
            Vec::new()
        });
        let inputs = self.stage_count(body, memory, stage, StageWord::Inputs);
        let zero = arithmetic::float(body, 0.0);
        let squares = body.repeat(first, inputs, &[zero], |body, chunk, squares| {
            let input = body.acquire(self.input, Port::Consume);
            let place = self.place(body, chunk);
            let vectors = self.vectors_of(body, memory, chunk);
            let squares = body.repeat(first, vectors, squares, |body, vector, squares| {
                let bytes_at = body.address(&[(vector, 2 * LANES)]);
                let bytes = body.load(input, bytes_at, 2 * LANES, Element::I8);
                let x = body.bitcast(bytes, LANES, Element::Bf16);
                let at = body.add(place, body.address(&[(vector, LANES)]));
                body.store(x, memory.kept, at, LANES, Element::Bf16);
                let x = body.widen_float(x, LANES, Element::F32);
                vec![body.add_float(squares[0], body.multiply_float(x, x))]
            });
            body.release(self.input, Port::Consume);
            self.clear_kept(body, memory, place, vectors);
            squares
        });
        squares[0]
    }

    /// Norms what is kept, adds the residual, sends sums out, norms again and keeps that: half a chunk at a time, as
    /// much as an element of the residual.
    pub(crate) fn add_residual<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        stage: Value<'c, '_>,
        factor: Value<'c, '_>,
        known: Known<'c, '_>,
    ) -> Known<'c, 'b> {
        let first = body.index(0);
        let halves = self.stage_count(body, memory, stage, StageWord::Halves);
        let has_residual = self.count(body, memory, Word::HasResidual);
        let vectors = u64::from(self.design.chunk / 4);
        let is_first = arithmetic::first_lanes(body);
        let factor = Split::of(body, factor);
        let zero = arithmetic::float(body, 0.0);
        let before = [
            body.add_float(known.squares, zero),
            body.add_float(known.most, zero),
        ];
        let known = body.repeat(first, halves, &before, |body, half, known| {
            self.residual_to_room(body, memory, has_residual);
            let (from, to) = (body.index(0), body.index(vectors));
            let known = body.repeat(from, to, known, |body, vector, known| {
                let feature = body.address(&[(half, vectors * 2), (vector, 2)]);
                let kept_at = body.address(&[(feature, 8)]);
                let room_at = body.address(&[(vector, LANES)]);
                let x = body.load(memory.kept, kept_at, LANES, Element::Bf16);
                let x = body.widen_float(x, LANES, Element::F32);
                let [post_norm, norm] = self.weights(body, memory, feature, is_first);
                let t = Split::of(body, post_norm).times_narrow(body, x);
                let t = Split::of(body, t).times(body, factor);
                let residual = body.load(memory.room, room_at, LANES, Element::I32);
                let residual = body.bitcast(residual, LANES, Element::F32);
                let s = body.add_float(residual, t);
                let bits = body.bitcast(s, LANES, Element::I32);
                body.store(bits, memory.room, room_at, LANES, Element::I32);
                let s = Split::of(body, s);
                let weighted = s.times(body, Split::of(body, norm));
                let kept = body.round_float(weighted, LANES, Element::Bf16);
                body.store(kept, memory.kept, kept_at, LANES, Element::Bf16);
                // Rounding to bfloat16 is as often up as down: the sum of many squares does not see it.
                let squares = body.add_float(known[0], body.multiply_float(s.high, s.high));
                let most = body.most_float(known[1], arithmetic::magnitude(body, weighted));
                vec![squares, most]
            });
            self.sums_from_room(body, memory, has_residual);
            known
        });
        Known {
            squares: known[0],
            most: known[1],
        }
    }

    /// Half a chunk of the residual, or of zeros.
    fn residual_to_room<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        has_residual: Value<'c, '_>,
    ) {
        let vectors = u64::from(self.design.chunk / 4);
        body.repeat(body.index(0), has_residual, &[], |body, _, _| {
            let input = body.acquire(self.input, Port::Consume);
            body.times(vectors, |body, vector| {
                let bytes = body.load(input, body.address(&[(vector, 64)]), 64, Element::I8);
                let words = body.bitcast(bytes, LANES, Element::I32);
                let at = body.address(&[(vector, LANES)]);
                body.store(words, memory.room, at, LANES, Element::I32);
            });
            body.release(self.input, Port::Consume);
            Vec::new()
        });
        body.repeat(has_residual, body.index(1), &[], |body, _, _| {
            body.times(vectors, |body, vector| {
                let zeros = body.splat_int(LANES, Element::I32, 0);
                let at = body.address(&[(vector, LANES)]);
                body.store(zeros, memory.room, at, LANES, Element::I32);
            });
            Vec::new()
        });
    }

    /// Half a chunk of sums: two elements, where there is a residual.
    fn sums_from_room<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        has_residual: Value<'c, '_>,
    ) {
        let vectors = u64::from(self.design.chunk / 8);
        let parts = body.add(has_residual, has_residual);
        body.repeat(body.index(0), parts, &[], |body, part, _| {
            let output = body.acquire(self.output, Port::Produce);
            body.times(vectors, |body, vector| {
                let at = body.address(&[(part, vectors * LANES), (vector, LANES)]);
                let words = body.load(memory.room, at, LANES, Element::I32);
                let bytes = body.bitcast(words, 64, Element::I8);
                let at = body.address(&[(vector, 64)]);
                body.store(bytes, output, at, 64, Element::I8);
            });
            body.release(self.output, Port::Produce);
            Vec::new()
        });
    }

    /// The weights of two features' norms: of each chunk the table has the post norm's, then the norm's.
    fn weights<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        feature: Value<'c, '_>,
        is_first: Value<'c, '_>,
    ) -> [Value<'c, 'b>; 2] {
        let chunk = u64::from(self.design.chunk);
        let of_chunk = body.divide(feature, chunk);
        let post_norm = body.add(feature, body.address(&[(of_chunk, chunk)]));
        let norm = body.add(post_norm, body.index(chunk));
        [post_norm, norm].map(|at| arithmetic::pair(body, memory.tables, at, is_first))
    }
}
