//! What a core does of a product's prologue.

use crate::aie::{Body, Element, Port};
use crate::design::vector::arithmetic::{self, LANES};
use crate::design::vector::header::Word;
use crate::design::vector::program::{Memory, Program};
use melior::ir::Value;

/// What changes from vector to vector of the second pass.
struct Sums<'c, 'v> {
    squares: Value<'c, 'v>,
    most: Value<'c, 'v>,
}

/// What stays the same in it.
#[derive(Clone, Copy)]
struct Fixed<'c, 'v> {
    /// What the post norm multiplies a token by.
    factor: Value<'c, 'v>,
    /// Lanes of the first of two features.
    is_first: Value<'c, 'v>,
}

impl Program<'_> {
    /// One panel.
    pub(crate) fn prepare<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let zero = arithmetic::float(body, 0.0);
        let squares = self.keep_input(body, memory);
        let post = self.totals(body, memory, squares, zero);
        let fixed = Fixed {
            factor: self.norm_factor(body, memory, post.sum, [Word::PostScale, Word::PostBias]),
            is_first: arithmetic::first_lanes(body),
        };
        let sums = self.add_residual(body, memory, fixed);
        let sums = self.without_residual(body, memory, fixed, sums);
        let totals = self.totals(body, memory, sums.squares, sums.most);
        let factor = self.norm_factor(body, memory, totals.sum, [Word::NormScale, Word::NormBias]);
        let inverse = self.begin_activations(body, memory, totals.most, factor);
        let chunks = self.count(body, memory, Word::Chunks);
        let chunk_lanes = self.lanes_of(1);
        body.repeat(body.index(0), chunks, &[], |body, chunk, _| {
            let from = body.address(&[(chunk, chunk_lanes)]);
            self.quantize(body, memory, from, inverse);
            Vec::new()
        });
        self.zeros(body, memory, Word::Zeros);
    }

    /// Lanes of a part of a chunk.
    fn lanes_of(&self, parts: u64) -> u64 {
        u64::from(self.design.chunk) * 8 / parts
    }

    /// `1 / sqrt(squares * scale + bias)`.
    pub(crate) fn norm_factor<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        squares: Value<'c, '_>,
        [scale, bias]: [Word; 2],
    ) -> Value<'c, 'b> {
        let mean = body.multiply_float(squares, self.factor(body, memory, scale));
        let mean = body.add_float(mean, self.factor(body, memory, bias));
        arithmetic::reciprocal_root(body, mean)
    }

    /// Keeps the input, zeros where there is none, and returns its squares' sums.
    fn keep_input<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
    ) -> Value<'c, 'b> {
        let vectors = self.lanes_of(1) / LANES;
        let chunk_lanes = self.lanes_of(1);
        let zeros = body.splat_float(LANES, Element::Bf16, 0.0);
        self.repeat_chunks(body, memory, Word::Absent, |body, chunk| {
            body.times(vectors, |body, vector| {
                let at = body.address(&[(chunk, chunk_lanes), (vector, LANES)]);
                body.store(zeros, memory.kept, at, LANES, Element::Bf16);
            });
        });
        let inputs = self.count(body, memory, Word::Inputs);
        let all = self.count(body, memory, Word::InputVectors);
        let zero = arithmetic::float(body, 0.0);
        let squares = body.repeat(body.index(0), inputs, &[zero], |body, chunk, squares| {
            let input = body.acquire(self.input, Port::Consume);
            let before = body.address(&[(chunk, vectors)]);
            let to = body.least(body.subtract(all, before), body.index(vectors));
            let squares = body.repeat(body.index(0), to, squares, |body, vector, squares| {
                let x = self.load_narrow(body, input, body.address(&[(vector, 2 * LANES)]));
                let at = body.address(&[(chunk, chunk_lanes), (vector, LANES)]);
                body.store(x, memory.kept, at, LANES, Element::Bf16);
                let x = body.widen_float(x, LANES, Element::F32);
                vec![body.add_float(squares[0], body.multiply_float(x, x))]
            });
            body.repeat(to, body.index(vectors), &[], |body, vector, _| {
                let at = body.address(&[(chunk, chunk_lanes), (vector, LANES)]);
                body.store(zeros, memory.kept, at, LANES, Element::Bf16);
                Vec::new()
            });
            body.release(self.input, Port::Consume);
            squares
        });
        squares[0]
    }

    /// Does `inner` for as many chunks as the header says.
    fn repeat_chunks<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        word: Word,
        inner: impl for<'x> FnOnce(&Body<'c, 'x>, Value<'c, 'x>),
    ) {
        let chunks = self.count(body, memory, word);
        body.repeat(body.index(0), chunks, &[], |body, chunk, _| {
            inner(body, chunk);
            Vec::new()
        });
    }

    /// Adds the residual, element by element of it: half a chunk. Sums go out as they are made.
    fn add_residual<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        fixed: Fixed<'c, '_>,
    ) -> Sums<'c, 'b> {
        let elements = self.count(body, memory, Word::Residuals);
        let zero = arithmetic::float(body, 0.0);
        let half = u64::from(self.design.chunk / 2);
        let vectors = half / 2 / 2;
        let sums = body.repeat(body.index(0), elements, &[zero, zero], |body, at, sums| {
            let residual = body.acquire(self.input, Port::Consume);
            let (from, to) = (body.index(0), body.index(2));
            let sums = body.repeat(from, to, sums, |body, part, sums| {
                let output = body.acquire(self.output, Port::Produce);
                let (from, to) = (body.index(0), body.index(vectors));
                let sums = body.repeat(from, to, sums, |body, vector, sums| {
                    let at_bytes = body.address(&[(part, vectors * 64), (vector, 64)]);
                    let bytes = body.load(residual, at_bytes, 64, Element::I8);
                    let residual = body.bitcast(bytes, LANES, Element::F32);
                    let feature =
                        body.address(&[(at, half), (part, half / 2), (vector, 2)]);
                    let t = self.normed_input(body, memory, feature, fixed);
                    let s = body.add_float(residual, t);
                    let at_bytes = body.address(&[(vector, 64)]);
                    let bytes = body.bitcast(s, 64, Element::I8);
                    body.store(bytes, output, at_bytes, 64, Element::I8);
                    self.keep_sum(body, memory, feature, s, fixed, sums)
                });
                body.release(self.output, Port::Produce);
                sums
            });
            body.release(self.input, Port::Consume);
            sums
        });
        Sums {
            squares: sums[0],
            most: sums[1],
        }
    }

    /// The same without a residual.
    fn without_residual<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        fixed: Fixed<'c, '_>,
        sums: Sums<'c, 'b>,
    ) -> Sums<'c, 'b> {
        let chunks = self.count(body, memory, Word::Plain);
        let chunk = u64::from(self.design.chunk);
        let before = [sums.squares, sums.most];
        let sums = body.repeat(body.index(0), chunks, &before, |body, at, sums| {
            let (from, to) = (body.index(0), body.index(chunk / 2));
            body.repeat(from, to, sums, |body, vector, sums| {
                let feature = body.address(&[(at, chunk), (vector, 2)]);
                let t = self.normed_input(body, memory, feature, fixed);
                self.keep_sum(body, memory, feature, t, fixed, sums)
            })
        });
        Sums {
            squares: sums[0],
            most: sums[1],
        }
    }

    /// Where the weights of a feature's norms are: of each chunk the post norm's, then the norm's.
    fn weight<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        feature: Value<'c, '_>,
        norm: u64,
        fixed: Fixed<'c, '_>,
    ) -> Value<'c, 'b> {
        let chunk = u64::from(self.design.chunk);
        let of_chunk = body.divide(feature, chunk);
        let first = body.add(feature, body.address(&[(of_chunk, chunk)]));
        let at = body.add(first, body.index(norm * chunk));
        arithmetic::pair(body, memory.tables, at, fixed.is_first)
    }

    /// Two features of the input behind the post norm.
    fn normed_input<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        feature: Value<'c, '_>,
        fixed: Fixed<'c, '_>,
    ) -> Value<'c, 'b> {
        let at = body.address(&[(feature, 8)]);
        let x = body.load(memory.kept, at, LANES, Element::Bf16);
        let x = body.widen_float(x, LANES, Element::F32);
        let weighted = body.multiply_float(x, self.weight(body, memory, feature, 0, fixed));
        body.multiply_float(weighted, fixed.factor)
    }

    /// Keeps two features of the sum times the norm's weights; adds to squares, and to the largest.
    fn keep_sum<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        feature: Value<'c, '_>,
        s: Value<'c, '_>,
        fixed: Fixed<'c, '_>,
        sums: &[Value<'c, '_>],
    ) -> Vec<Value<'c, 'b>> {
        let weighted = body.multiply_float(s, self.weight(body, memory, feature, 1, fixed));
        let kept = body.round_float(weighted, LANES, Element::Bf16);
        let at = body.address(&[(feature, 8)]);
        body.store(kept, memory.kept, at, LANES, Element::Bf16);
        // Rounding to bfloat16 is as often up as down: the sum of many squares does not see it.
        let squares = body.add_float(sums[0], arithmetic::rough_product(body, s, s));
        let most = body.most_float(sums[1], arithmetic::magnitude(body, weighted));
        vec![squares, most]
    }
}
