//! What a core does whatever the work: read the header and the table, go through a panel's stages, pass sums along the
//! column. Every piece of the program is there once: a core has little room for it.

use super::arithmetic::{self, LANES};
use super::header::{self, StageWord, Word};
use super::{Programs, Vector};
use crate::aie::{Body, Element, Fifo, Port};
use melior::ir::Value;

/// The program of one core.
pub(crate) struct Program<'d> {
    pub(crate) design: &'d Vector,
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
    /// Words to change lanes, and for what is neither input nor kept.
    pub(crate) room: Value<'c, 'b>,
    /// `[features][8]` bfloat16.
    pub(crate) kept: Value<'c, 'b>,
    /// Floats that come once a dispatch or once a panel.
    pub(crate) tables: Value<'c, 'b>,
}

/// What is known of a panel, each in the lanes of its token.
#[derive(Clone, Copy)]
pub(crate) struct Known<'c, 'b> {
    /// Sum of squares of the stage so far.
    pub(crate) squares: Value<'c, 'b>,
    /// Largest magnitude of the stage so far.
    pub(crate) most: Value<'c, 'b>,
}

impl Program<'_> {
    /// The whole program.
    pub(crate) fn write<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        body.forever(|body| {
            let element = body.acquire(self.input, Port::Consume);
            body.times(u64::from(header::BYTES / 64), |body, part| {
                let bytes = body.load(element, body.address(&[(part, 64)]), 64, Element::I8);
                let words = body.bitcast(bytes, 16, Element::I32);
                let to = body.address(&[(part, 16)]);
                body.store(words, memory.header, to, 16, Element::I32);
            });
            body.release(self.input, Port::Consume);
            self.keep_table(body, memory);
            let programs = self.design.programs;
            if programs != Programs::Rope {
                self.repeat(body, memory, Word::Panels, |body| {
                    self.panel(body, memory);
                });
            }
            if programs != Programs::Panels {
                self.repeat(body, memory, Word::RopePanels, |body| {
                    self.rope(body, memory);
                });
            }
        });
    }

    /// One panel: its stages.
    fn panel<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let zero = arithmetic::float(body, 0.0);
        let (first, stages) = (body.index(0), body.index(u64::from(header::STAGES)));
        // The largest magnitude, the factor of what is kept, what makes integers of it.
        let known = [zero, zero, zero];
        body.repeat(first, stages, &known, |body, stage, known| {
            let &[most, factor, inverse] = known else {
                return known.to_vec();
            };
            let count = |word| self.stage_count(body, memory, stage, word);
            let inverse = body.repeat(first, count(StageWord::Begins), &[inverse], |body, _, _| {
                vec![self.begin_activations(body, memory, most, factor)]
            })[0];
            let known = Known {
                squares: self.keep_input(body, memory, stage),
                most: zero,
            };
            let known = self.add_residual(body, memory, stage, factor, known);
            let gates_from = count(StageWord::GatesFrom);
            let quantizes_from = count(StageWord::QuantizesFrom);
            let chunks = count(StageWord::Chunks);
            let stage_most = body.repeat(first, chunks, &[known.most], |body, chunk, most| {
                let behind = body.add(chunk, body.index(1));
                let from = body.most(chunk, gates_from);
                let most = body.repeat(from, behind, most, |body, chunk, most| {
                    vec![self.gate(body, memory, chunk, most[0])]
                });
                let from = body.most(chunk, quantizes_from);
                body.repeat(from, behind, &[], |body, chunk, _| {
                    self.quantize(body, memory, chunk, inverse);
                    Vec::new()
                });
                most
            })[0];
            let exchanges = count(StageWord::Exchanges);
            let exchanged = body.repeat(first, exchanges, &[most, factor], |body, _, _| {
                let (sum, most) = self.totals(body, memory, known.squares, stage_most);
                vec![most, self.norm_factor(body, memory, stage, sum)]
            });
            vec![exchanged[0], exchanged[1], inverse]
        });
        self.zeros(body, memory, Word::Zeros);
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

    /// A count of a stage.
    pub(crate) fn stage_count<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        stage: Value<'c, '_>,
        word: impl Into<u32>,
    ) -> Value<'c, 'b> {
        let first = body.index(u64::from(Word::Stages as u32 + word.into()));
        let at = body.add(
            first,
            body.address(&[(stage, u64::from(header::STAGE_WORDS))]),
        );
        body.to_index(body.load_scalar(memory.header, at, Element::I32))
    }

    /// `1 / sqrt(squares * scale + bias)`, with the factors of a stage.
    pub(crate) fn norm_factor<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        stage: Value<'c, '_>,
        squares: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let factor = |which: u64| {
            let first = body.index(Word::Factors as u64 + which);
            let at = body.add(
                first,
                body.address(&[(stage, u64::from(header::STAGE_FACTORS))]),
            );
            let word = body.load_scalar(memory.header, at, Element::I32);
            body.bitcast(body.spread(word, LANES, Element::I32), LANES, Element::F32)
        };
        let mean = body.multiply_float(squares, factor(0));
        arithmetic::reciprocal_root(body, body.add_float(mean, factor(1)))
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
    fn totals<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        sum: Value<'c, '_>,
        most: Value<'c, '_>,
    ) -> (Value<'c, 'b>, Value<'c, 'b>) {
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
        let sum =
            arithmetic::join_halves(body, sum, memory.spots, |body, a, b| body.add_float(a, b));
        let most =
            arithmetic::join_halves(body, most, memory.spots, |body, a, b| body.most_float(a, b));
        (sum, most)
    }

    /// Numbers of a chunk.
    pub(crate) fn chunk_numbers(&self) -> u64 {
        u64::from(self.design.chunk) * 8
    }

    /// Where a chunk is kept; what has no room is all in the last place.
    pub(crate) fn place<'c, 'b>(&self, body: &Body<'c, 'b>, chunk: Value<'c, '_>) -> Value<'c, 'b> {
        let places = u64::from(self.design.kept / self.design.chunk);
        let place = body.least(chunk, body.index(places.saturating_sub(1)));
        body.address(&[(place, self.chunk_numbers())])
    }

    /// Vectors of a chunk that are no padding.
    pub(crate) fn vectors_of<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
        chunk: Value<'c, '_>,
    ) -> Value<'c, 'b> {
        let vectors = u64::from(self.design.chunk / 2);
        let all = self.count(body, memory, Word::InputVectors);
        let before = body.address(&[(chunk, vectors)]);
        body.least(body.subtract(all, before), body.index(vectors))
    }

    /// Clears vectors of a chunk from one of them on.
    pub(crate) fn clear_kept<'c>(
        &self,
        body: &Body<'c, '_>,
        memory: &Memory<'c, '_>,
        place: Value<'c, '_>,
        from: Value<'c, '_>,
    ) {
        let vectors = body.index(u64::from(self.design.chunk / 2));
        body.repeat(from, vectors, &[], |body, vector, _| {
            let zeros = body.splat_float(LANES, Element::Bf16, 0.0);
            let at = body.add(place, body.address(&[(vector, LANES)]));
            body.store(zeros, memory.kept, at, LANES, Element::Bf16);
            Vec::new()
        });
    }
}
