//! What one core runs for attention: a tile of queries in, the cache past it, results out.

use super::softmax::{Softmax, UNSEEN};
use super::{Attention, PANEL};
use crate::aie::{Body, Compare, Element, Fifo, Port};
use melior::ir::Value;

/// Steps of a product that are written one after the other; more are a loop.
const STRAIGHT_STEPS: u64 = 8;

/// The program of one core.
pub(super) struct Program<'d> {
    pub(super) design: &'d Attention,
    /// Which of its column's cores it is.
    pub(super) row: u32,
    pub(super) queries: &'d Fifo,
    pub(super) cache: &'d Fifo,
    pub(super) results: &'d Fifo,
}

/// The core's own memory.
pub(super) struct Memory<'c, 'b> {
    /// `[queries/4][head dim/4][4 features][4 queries]` f32, and behind each four queries' sums a tile of their sums of
    /// weights, the same in all rows.
    pub(super) sums: Value<'c, 'b>,
    /// `[queries/4][positions/4][4][4]`: scores as f32, then as fixed-point numbers.
    pub(super) scores: Value<'c, 'b>,
    /// `[queries/4][positions/8][8][4]` bf16: scores' exponentials.
    pub(super) weights: Value<'c, 'b>,
    /// `[queries/4][4][4]` f32, the same in all rows: what is added to scores.
    pub(super) anchors: Value<'c, 'b>,
}

/// What an item's header says, as indices.
#[derive(Clone, Copy)]
struct Header<'c, 'b> {
    /// Pairs of blocks of keys and values.
    blocks: Value<'c, 'b>,
    /// Position of this core's first token, seen from the first of the stream.
    first: Value<'c, 'b>,
    /// Positions that a query sees.
    window: Value<'c, 'b>,
}

impl Program<'_> {
    /// The whole program.
    pub(super) fn write<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        body.forever(|body| self.item(body, memory));
    }

    fn softmax(&self) -> Softmax<'_> {
        Softmax {
            design: self.design,
        }
    }

    /// One tile of queries and all that it sees.
    fn item<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let header = self.read_header(body);
        let queries = body.acquire(self.queries, Port::Consume);
        let tiles = self.query_fours() * u64::from(self.design.sum_tiles());
        clear(body, memory.sums, tiles);
        self.softmax().begin(body, memory);
        body.repeat(body.index(0), header.blocks, &[], |body, block, _| {
            clear(body, memory.scores, self.score_tiles());
            body.times(self.elements(), |body, element| {
                let keys = body.acquire(self.cache, Port::Consume);
                self.score(body, queries, keys, element, memory);
                body.release(self.cache, Port::Consume);
            });
            let softmax = self.softmax();
            softmax.cap(body, memory);
            self.hide(body, header, block, memory);
            softmax.weigh(body, memory);
            self.sum_weights(body, memory);
            body.times(self.elements(), |body, element| {
                let values = body.acquire(self.cache, Port::Consume);
                self.sum_values(body, values, element, memory);
                body.release(self.cache, Port::Consume);
            });
            Vec::new()
        });
        // The next tile may come in while this one's results go out.
        body.release(self.queries, Port::Consume);
        self.drain(body, memory);
    }

    /// Fours of queries: columns of the matrix unit's result.
    fn query_fours(&self) -> u64 {
        u64::from(self.design.tile.queries / 4)
    }

    /// Tiles of all scores.
    fn score_tiles(&self) -> u64 {
        self.query_fours() * self.position_fours()
    }

    fn position_fours(&self) -> u64 {
        u64::from(self.design.tile.positions / 4)
    }

    /// Elements of a block of keys or values.
    fn elements(&self) -> u64 {
        u64::from(self.design.head_dim / self.design.tile.features)
    }

    /// Eights of an element's features.
    fn feature_eights(&self) -> u64 {
        u64::from(self.design.tile.features / 8)
    }

    /// The header fills a whole block: what does not fit into one element says the same again.
    fn read_header<'c, 'b>(&self, body: &Body<'c, 'b>) -> Header<'c, 'b> {
        let element = body.acquire(self.cache, Port::Consume);
        let words = body.load(element, body.index(0), 32, Element::Bf16);
        let words = body.bitcast(words, 16, Element::I32);
        let word = |lane| body.to_index(body.lane(words, lane, Element::I32));
        let tokens = self.design.panels_of_core() * PANEL * self.row;
        let header = Header {
            blocks: word(0),
            first: body.add(word(1), body.index(u64::from(tokens))),
            window: word(2),
        };
        body.release(self.cache, Port::Consume);
        body.times(self.elements() - 1, |body, _| {
            body.acquire(self.cache, Port::Consume);
            body.release(self.cache, Port::Consume);
        });
        header
    }

    /// `scores += keys * queries` over an element's features, in blocks of 8 positions by 16 queries.
    fn score<'c>(
        &self,
        body: &Body<'c, '_>,
        queries: Value<'c, '_>,
        keys: Value<'c, '_>,
        element: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        let fours = self.position_fours();
        let eights = self.feature_eights();
        let unit = u64::from(self.design.unit());
        body.times(self.query_fours() / 4, |body, block| {
            let right = body.address(&[(block, 2 * unit), (element, eights * 64)]);
            body.times(fours / 2, |body, pair| {
                let first = body.address(&[(block, 4 * fours * 16), (pair, 32)]);
                let left = body.address(&[(pair, 64)]);
                let left = Operand {
                    memory: keys,
                    first: left,
                    offsets: [0, 32],
                    step: fours * 32,
                };
                let right = Operand {
                    memory: queries,
                    first: right,
                    offsets: [0, 32, unit, unit + 32],
                    step: 64,
                };
                multiply(
                    body,
                    eights,
                    left,
                    right,
                    (memory.scores, first, fours * 16),
                );
            });
        });
    }

    /// Scores of positions that a query does not see become very small. Most blocks are seen by all of a core's queries.
    fn hide<'c>(
        &self,
        body: &Body<'c, '_>,
        header: Header<'c, '_>,
        block: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        let positions = u64::from(self.design.tile.positions);
        let tokens = u64::from(self.design.panels_of_core() * PANEL);
        // The first token's distance from the block's first position.
        let distance = body.subtract(header.first, body.address(&[(block, positions)]));
        let ahead = body.subtract(distance, body.index(positions - 1));
        let last = body.add(distance, body.index(tokens));
        let behind = body.subtract(header.window, last);
        let reach = body.least_signed(ahead, behind);
        body.when(body.is_less(reach, body.index(0)), |body| {
            let rows_back: Vec<i64> = (0..16).map(|lane| lane % 4 - lane / 4).collect();
            let lanes = body.ints(Element::I32, &rows_back);
            let window = body.from_index(header.window, Element::I32);
            let window = body.spread(window, 16, Element::I32);
            let zero = body.splat_int(16, Element::I32, 0);
            let unseen = body.splat_float(16, Element::F32, UNSEEN);
            let fours_of_panel = u64::from(2 * self.design.heads_of_core());
            body.times(self.query_fours(), |body, four| {
                let token = body.address(&[
                    (body.divide(four, fours_of_panel), u64::from(PANEL)),
                    (body.modulo(four, 2), 4),
                ]);
                let distance = body.from_index(body.add(distance, token), Element::I32);
                let distance = body.add(body.spread(distance, 16, Element::I32), lanes);
                body.times(self.position_fours(), |body, row| {
                    let back = body.from_index(body.address(&[(row, 4)]), Element::I32);
                    let distance = body.subtract(distance, body.spread(back, 16, Element::I32));
                    let at = body.address(&[(four, self.position_fours() * 16), (row, 16)]);
                    let score = body.load(memory.scores, at, 16, Element::F32);
                    let is_ahead = body.compare(Compare::Less, distance, zero, 16);
                    let score = body.select(is_ahead, unseen, score);
                    let is_near = body.compare(Compare::Less, distance, window, 16);
                    let score = body.select(is_near, score, unseen);
                    body.store(score, memory.scores, at, 16, Element::F32);
                });
            });
        });
    }

    /// Sums of weights, in the way of values: a feature that is always 1.
    fn sum_weights<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let tiles = u64::from(self.design.sum_tiles());
        let eights = u64::from(self.design.tile.positions / 8);
        body.times(self.query_fours(), |body, four| {
            let ones = body.splat_float(32, Element::Bf16, 1.0);
            let at = body.address(&[(four, tiles * 16)]);
            let at = body.add(at, body.index((tiles - 1) * 16));
            let mut sums = body.load(memory.sums, at, 16, Element::F32);
            let first = body.address(&[(four, eights * 32)]);
            for eight in 0..eights {
                let weights_at = body.add(first, body.index(eight * 32));
                let weights = body.load(memory.weights, weights_at, 32, Element::Bf16);
                sums = body.multiply_tiles_bf16(ones, weights, sums);
            }
            body.store(sums, memory.sums, at, 16, Element::F32);
        });
    }

    /// `sums += values * weights` for an element's features, in blocks of 8 features by 16 queries.
    fn sum_values<'c>(
        &self,
        body: &Body<'c, '_>,
        values: Value<'c, '_>,
        element: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        let tiles = u64::from(self.design.sum_tiles());
        let steps = u64::from(self.design.tile.positions / 8);
        let eights = self.feature_eights();
        body.times(self.query_fours() / 4, |body, block| {
            let right = body.address(&[(block, 4 * steps * 32)]);
            body.times(eights, |body, eight| {
                let first =
                    body.address(&[(block, 4 * tiles * 16), (element, eights * 32), (eight, 32)]);
                let left = body.address(&[(eight, steps * 64)]);
                let left = Operand {
                    memory: values,
                    first: left,
                    offsets: [0, 32],
                    step: 64,
                };
                let right = Operand {
                    memory: memory.weights,
                    first: right,
                    offsets: [0, 1, 2, 3].map(|four| four * steps * 32),
                    step: 32,
                };
                multiply(body, steps, left, right, (memory.sums, first, tiles * 16));
            });
        });
    }

    /// Sums to results, a unit at a time: divided by their sum of weights, rounded. A unit is left as
    /// `[head dim/8][2 fours of tokens][8 features, head dim/8 apart][4 tokens]`; the DMA brings features in order.
    fn drain<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let tiles = u64::from(self.design.sum_tiles());
        body.times(u64::from(self.design.units()), |body, unit| {
            let results = body.acquire(self.results, Port::Produce);
            body.times(2, |body, half| {
                let first = body.address(&[(unit, 2 * tiles * 16), (half, tiles * 16)]);
                let at = body.add(first, body.index((tiles - 1) * 16));
                let weights = body.load(memory.sums, at, 16, Element::F32);
                let inverse = self.softmax().invert(body, weights);
                body.times(u64::from(self.design.head_dim / 8), |body, eight| {
                    for four in 0..2 {
                        let at = body.add(first, body.address(&[(eight, 32)]));
                        let at = body.add(at, body.index(four * 16));
                        let sums = body.load(memory.sums, at, 16, Element::F32);
                        let value = body.multiply_float(sums, inverse);
                        let value = body.round_float(value, 16, Element::Bf16);
                        let at = body.address(&[(eight, 64), (half, 32)]);
                        let at = body.add(at, body.index(four * 16));
                        body.store(value, results, at, 16, Element::Bf16);
                    }
                });
            });
            body.release(self.results, Port::Produce);
        });
    }
}

/// Blocks of one side of a product.
#[derive(Clone, Copy)]
struct Operand<'c, 'b, const N: usize> {
    memory: Value<'c, 'b>,
    /// Where the first block is, and how far from it the others are.
    first: Value<'c, 'b>,
    offsets: [u64; N],
    /// From one step of the product to the next.
    step: u64,
}

impl<'c, 'b, const N: usize> Operand<'c, 'b, N> {
    /// The operand so many steps later.
    fn behind<'x>(&self, body: &Body<'c, 'x>, step: Value<'c, 'x>) -> Operand<'c, 'x, N>
    where
        'b: 'x,
    {
        Operand {
            memory: self.memory,
            first: body.add(self.first, body.address(&[(step, self.step)])),
            offsets: self.offsets,
            step: self.step,
        }
    }

    fn blocks(&self, body: &Body<'c, 'b>, step: u64) -> [Value<'c, 'b>; N] {
        self.offsets.map(|offset| {
            let at = body.add(self.first, body.index(offset + step * self.step));
            body.load(self.memory, at, 32, Element::Bf16)
        })
    }
}

/// `sums += left * right` over so many steps, for two rows of four tiles whose columns lie so far apart; meanwhile they
/// stay in registers.
fn multiply<'c, 'b>(
    body: &Body<'c, 'b>,
    steps: u64,
    left: Operand<'c, 'b, 2>,
    right: Operand<'c, 'b, 4>,
    (memory, first, column): (Value<'c, 'b>, Value<'c, 'b>, u64),
) {
    let corners: [_; 8] = std::array::from_fn(|tile| {
        let (row, four) = (tile as u64 / 4, tile as u64 % 4);
        body.add(first, body.index(four * column + row * 16))
    });
    let before = corners.map(|at| body.load(memory, at, 16, Element::F32));
    let after = if steps <= STRAIGHT_STEPS {
        multiply_straight(body, steps, left, right, &before)
    } else {
        let (from, to) = (body.index(0), body.index(steps));
        body.repeat(from, to, &before, |body, step, sums| {
            let left = left.behind(body, step);
            let right = right.behind(body, step);
            multiply_straight(body, 1, left, right, sums)
        })
    };
    for (sum, at) in after.into_iter().zip(corners) {
        body.store(sum, memory, at, 16, Element::F32);
    }
}

/// The same without a loop.
fn multiply_straight<'c, 'b>(
    body: &Body<'c, 'b>,
    steps: u64,
    left: Operand<'c, 'b, 2>,
    right: Operand<'c, 'b, 4>,
    sums: &[Value<'c, 'b>],
) -> Vec<Value<'c, 'b>> {
    let mut sums = sums.to_vec();
    for step in 0..steps {
        let rows = left.blocks(body, step);
        let fours = right.blocks(body, step);
        for (tile, sum) in sums.iter_mut().enumerate() {
            *sum = body.multiply_tiles_bf16(rows[tile / 4], fours[tile % 4], *sum);
        }
    }
    sums
}

/// Tiles of f32 become 0.
fn clear<'c>(body: &Body<'c, '_>, memory: Value<'c, '_>, tiles: u64) {
    body.times(tiles, |body, tile| {
        let zeros = body.splat_float(16, Element::F32, 0.0);
        let at = body.address(&[(tile, 16)]);
        body.store(zeros, memory, at, 16, Element::F32);
    });
}
