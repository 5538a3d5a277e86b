//! What one core runs for products: streams in, sums, results out.

use super::weights::{GROUP, ROW_SCALE_BYTES};
use super::{BLOCK_ROWS, Linear, PAIR, PANEL};
use crate::aie::{Body, Element, Fifo, Port};
use melior::ir::Value;

/// The program of one core.
pub(super) struct Program<'d> {
    pub(super) design: &'d Linear,
    pub(super) activations: &'d Fifo,
    pub(super) weights: &'d Fifo,
    pub(super) results: &'d Fifo,
}

/// The core's own memory.
pub(super) struct Memory<'c, 'b> {
    /// `[pairs][outputs / rows][2][rows][8]` i32, rows of the matrix unit.
    pub(super) sums: Value<'c, 'b>,
    /// `[panels][2][8]` f32.
    pub(super) token_scales: Value<'c, 'b>,
    /// `[outputs][8]` f32.
    pub(super) row_scales: Value<'c, 'b>,
    pub(super) groups: Option<Groups<'c, 'b>>,
    /// `[outputs / 16][depth / 8][16][8]` bytes, where weights are not unpacked in place.
    pub(super) unpacked: Option<Value<'c, 'b>>,
}

/// What brings weights to one scale a row.
pub(super) struct Groups<'c, 'b> {
    /// `[outputs / rows][groups / 8][rows][8]` bytes, rows of the matrix unit.
    pub(super) multipliers: Value<'c, 'b>,
    /// Eight right operands `[8][8]`: the `g`th is 1 in all columns of row `g`, so that a product with it spreads a
    /// column of multipliers over a row's weights.
    pub(super) unit_rows: Value<'c, 'b>,
}

/// Bytes of [`Groups::unit_rows`].
pub(super) const UNIT_ROWS_BYTES: u32 = 8 * 64;

impl Program<'_> {
    /// The whole program.
    pub(super) fn write<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        if let Some(groups) = &memory.groups {
            for row in 0..8 {
                let lanes: Vec<i64> = (0..64).map(|lane| i64::from(lane / 8 == row)).collect();
                let values = body.ints(Element::I8, &lanes);
                let at = body.index(row as u64 * 64);
                body.store(values, groups.unit_rows, at, 64, Element::I8);
            }
        }
        body.forever(|body| self.block(body, memory));
    }

    /// One tile of results.
    fn block<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let (passes, pairs) = self.read_header(body, memory);
        self.clear(body, memory);
        let first = body.index(0);
        if self.design.form.has_groups() {
            let most = u64::from(self.design.passes_per_scales());
            let segments = body.divide(body.add(passes, body.index(most - 1)), most);
            body.repeat(first, segments, &[], |body, segment, _| {
                self.keep_scales(body, memory);
                let left = body.subtract(passes, body.address(&[(segment, most)]));
                let passes = body.least(left, body.index(most));
                self.passes(body, passes, pairs, memory);
                Vec::new()
            });
        } else {
            self.keep_scales(body, memory);
            self.passes(body, passes, pairs, memory);
        }
        self.drain(body, pairs, memory);
    }

    fn passes<'c>(
        &self,
        body: &Body<'c, '_>,
        passes: Value<'c, '_>,
        pairs: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        body.repeat(body.index(0), passes, &[], |body, pass, _| {
            let element = body.acquire(self.weights, Port::Consume);
            if let Some(groups) = &memory.groups {
                self.unpack(
                    body,
                    element,
                    pass,
                    groups,
                    memory.unpacked.unwrap_or(element),
                );
            }
            if memory.unpacked.is_some() {
                // The next pass may come in while this one is multiplied.
                body.release(self.weights, Port::Consume);
            }
            let weights = memory.unpacked.unwrap_or(element);
            body.repeat(body.index(0), pairs, &[], |body, pair, _| {
                let activations = body.acquire(self.activations, Port::Consume);
                self.multiply(body, weights, activations, pair, memory);
                body.release(self.activations, Port::Consume);
                Vec::new()
            });
            if memory.unpacked.is_none() {
                body.release(self.weights, Port::Consume);
            }
            Vec::new()
        });
    }

    /// Keeps the scales of the block's rows and, for the passes to come, their groups' multipliers.
    fn keep_scales<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let element = body.acquire(self.weights, Port::Consume);
        let block_bytes = u64::from(self.design.scale_block_bytes());
        let scale_bytes = u64::from(BLOCK_ROWS * ROW_SCALE_BYTES);
        let multiplier_bytes = u64::from(BLOCK_ROWS * self.design.groups_per_scales());
        body.times(
            u64::from(self.design.tile.outputs / BLOCK_ROWS),
            |body, block| {
                body.times(scale_bytes / 64, |body, part| {
                    let from = body.address(&[(block, block_bytes), (part, 64)]);
                    let to = body.address(&[(block, scale_bytes / 4), (part, 16)]);
                    copy_floats(body, element, from, memory.row_scales, to);
                });
                if let Some(groups) = &memory.groups {
                    let first = body.address(&[(block, block_bytes)]);
                    let first = body.add(first, body.index(scale_bytes));
                    body.times(multiplier_bytes / 64, |body, part| {
                        let from = body.add(first, body.address(&[(part, 64)]));
                        let to = body.address(&[(block, multiplier_bytes), (part, 64)]);
                        let bytes = body.load(element, from, 64, Element::I8);
                        body.store(bytes, groups.multipliers, to, 64, Element::I8);
                    });
                }
            },
        );
        body.release(self.weights, Port::Consume);
    }

    /// Brings a pass's weights to one scale a row: `(weight * multiplier + half) >> shift`.
    fn unpack<'c>(
        &self,
        body: &Body<'c, '_>,
        packed: Value<'c, '_>,
        pass: Value<'c, '_>,
        groups: &Groups<'c, '_>,
        unpacked: Value<'c, '_>,
    ) {
        let lanes = self.lanes();
        let groups_of_pass = u64::from(self.design.tile.depth / GROUP);
        let eights = u64::from(self.design.groups_per_scales() / 8);
        let packed_steps = u64::from(self.design.block_bytes() / 128);
        let steps = u64::from(self.design.tile.depth / 8);
        body.times(
            u64::from(self.design.tile.outputs / BLOCK_ROWS),
            |body, block| {
                body.times(groups_of_pass, |body, of_pass| {
                    let group = body.add(body.address(&[(pass, groups_of_pass)]), of_pass);
                    let eight = body.divide(group, 8);
                    let unit_at = body.address(&[(body.modulo(group, 8), 64)]);
                    let unit_row = body.load(groups.unit_rows, unit_at, 64, Element::I8);
                    body.times(
                        u64::from(BLOCK_ROWS / self.design.native_rows),
                        |body, rows| {
                            let at = body.address(&[
                                (block, u64::from(BLOCK_ROWS) * 8 * eights),
                                (rows, eights * lanes),
                                (eight, lanes),
                            ]);
                            let multipliers = body.load(groups.multipliers, at, lanes, Element::I8);
                            let zeros = body.splat_int(lanes, Element::I32, 0);
                            let spread = self.multiply_native(body, multipliers, unit_row, zeros);
                            let spread = body.narrow(spread, lanes, Element::I16);
                            let per_group = packed_steps / groups_of_pass;
                            // Where the group's first step of these rows is.
                            let from = body.address(&[
                                (block, packed_steps * 128),
                                (of_pass, per_group * 128),
                                (rows, lanes),
                            ]);
                            let to = body.address(&[
                                (block, steps * 128),
                                (of_pass, 4 * 128),
                                (rows, lanes),
                            ]);
                            self.unpack_group(body, [packed, from, spread, unpacked, to]);
                        },
                    );
                });
            },
        );
    }

    /// A group's weights of the matrix unit's rows, 8 columns at a time.
    fn unpack_group<'c, 'v>(
        &self,
        body: &Body<'c, '_>,
        [packed, from, spread, unpacked, to]: [Value<'c, 'v>; 5],
    ) {
        let lanes = self.lanes();
        let constant = |value| body.splat_int(lanes, Element::I16, value);
        let shift = i64::from(self.design.form.shift());
        let half = 1_i64 << (shift - 1);
        let load = |step: u64| {
            let at = body.add(from, body.index(step * 128));
            body.widen(
                body.load(packed, at, lanes, Element::I8),
                lanes,
                Element::I16,
            )
        };
        let store = |value, step: u64| {
            let at = body.add(to, body.index(step * 128));
            let bytes = body.narrow(body.shift_right(value, constant(shift)), lanes, Element::I8);
            body.store(bytes, unpacked, at, lanes, Element::I8);
        };
        if self.design.form.bits() == 8 {
            for step in 0..4 {
                let product = body.multiply(load(step), spread);
                store(body.add(product, constant(half)), step);
            }
        } else {
            // Nibbles are stored as value + 8: the product is too large by 8 multipliers, the same for all.
            let excess = body.subtract(body.multiply(spread, constant(8)), constant(half));
            for step in 0..2 {
                let both = load(step);
                for (part, nibbles) in [both, body.shift_right(both, constant(4))]
                    .into_iter()
                    .enumerate()
                {
                    let nibbles = body.and(nibbles, constant(15));
                    let product = body.subtract(body.multiply(nibbles, spread), excess);
                    store(product, 2 * step + part as u64);
                }
            }
        }
    }

    /// Keeps the scales of all pairs' tokens and returns the numbers of passes and of pairs, which the first pair's
    /// header tells.
    fn read_header<'c, 'b>(
        &self,
        body: &Body<'c, 'b>,
        memory: &Memory<'c, '_>,
    ) -> (Value<'c, 'b>, Value<'c, 'b>) {
        let first = body.index(0);
        let header = body.acquire(self.activations, Port::Consume);
        let counts = body.load(header, body.index(64), 64, Element::I8);
        let counts = body.bitcast(counts, 16, Element::I32);
        let count = |lane| body.to_index(body.lane(counts, lane, Element::I32));
        let (passes, pairs) = (count(0), count(1));
        self.keep_token_scales(body, header, first, memory);
        body.release(self.activations, Port::Consume);
        body.repeat(body.index(1), pairs, &[], |body, pair, _| {
            let header = body.acquire(self.activations, Port::Consume);
            self.keep_token_scales(body, header, pair, memory);
            body.release(self.activations, Port::Consume);
            Vec::new()
        });
        (passes, pairs)
    }

    fn keep_token_scales<'c>(
        &self,
        body: &Body<'c, '_>,
        header: Value<'c, '_>,
        pair: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        body.times(2, |body, panel| {
            let from = body.address(&[(panel, u64::from(self.design.tile.depth * PANEL))]);
            let to = body.address(&[(pair, 32), (panel, 16)]);
            copy_floats(body, header, from, memory.token_scales, to);
        });
    }

    fn clear<'c>(&self, body: &Body<'c, '_>, memory: &Memory<'c, '_>) {
        let tiles = u64::from(self.design.tile.tokens * self.design.tile.outputs / 32);
        body.times(tiles, |body, tile| {
            let zeros = body.splat_int(32, Element::I32, 0);
            let at = body.address(&[(tile, 32)]);
            body.store(zeros, memory.sums, at, 32, Element::I32);
        });
    }

    /// `sums += weights * activations` for a pair, in blocks of 2 x 2 results of the matrix unit that stay in registers.
    fn multiply<'c>(
        &self,
        body: &Body<'c, '_>,
        weights: Value<'c, '_>,
        activations: Value<'c, '_>,
        pair: Value<'c, '_>,
        memory: &Memory<'c, '_>,
    ) {
        let lanes = self.lanes();
        let steps = u64::from(self.design.tile.depth / 8);
        let panel_bytes = u64::from(self.design.tile.depth * PANEL);
        let block_rows = 2 * self.design.native_rows;
        let blocks_of_sixteen = u64::from(BLOCK_ROWS / block_rows);
        let blocks = u64::from(self.design.tile.outputs / block_rows);
        body.times(blocks, |body, block| {
            let first = body.address(&[(pair, self.pair_sums()), (block, 4 * lanes)]);
            let corners = [0, 1, 2, 3].map(|corner| body.add(first, body.index(corner * lanes)));
            let before = corners.map(|at| body.load(memory.sums, at, lanes, Element::I32));
            // 16 outputs of a step of 8 lie together, 128 bytes.
            let sixteen = body.divide(block, blocks_of_sixteen);
            let part = body.modulo(block, blocks_of_sixteen);
            let rows = body.address(&[(sixteen, steps * 128), (part, 2 * lanes)]);
            let (from, to) = (body.index(0), body.index(steps));
            let after = body.repeat(from, to, &before, |body, step, sums| {
                let upper_at = body.add(rows, body.address(&[(step, 128)]));
                let lower_at = body.add(upper_at, body.index(lanes));
                let left_at = body.address(&[(step, 64)]);
                let right_at = body.add(left_at, body.index(panel_bytes));
                let upper = body.load(weights, upper_at, lanes, Element::I8);
                let lower = body.load(weights, lower_at, lanes, Element::I8);
                let left = body.load(activations, left_at, 64, Element::I8);
                let right = body.load(activations, right_at, 64, Element::I8);
                vec![
                    self.multiply_native(body, upper, left, sums[0]),
                    self.multiply_native(body, upper, right, sums[1]),
                    self.multiply_native(body, lower, left, sums[2]),
                    self.multiply_native(body, lower, right, sums[3]),
                ]
            });
            for (value, at) in after.into_iter().zip(corners) {
                body.store(value, memory.sums, at, lanes, Element::I32);
            }
        });
    }

    fn multiply_native<'c, 'b, 'v>(
        &self,
        body: &Body<'c, 'b>,
        left: Value<'c, 'v>,
        right: Value<'c, 'v>,
        sums: Value<'c, 'v>,
    ) -> Value<'c, 'b> {
        body.multiply_tiles_i8(self.design.native_rows, left, right, sums)
    }

    /// Elements of the matrix unit's left operand, and of its result.
    fn lanes(&self) -> u64 {
        u64::from(self.design.native_rows * 8)
    }

    /// Sums of a pair of panels.
    fn pair_sums(&self) -> u64 {
        u64::from(self.design.tile.outputs * PAIR)
    }

    /// Sums to results: `bfloat16(sum * token's scale * row's scale)`, 16 outputs of a pair at a time.
    fn drain<'c>(&self, body: &Body<'c, '_>, pairs: Value<'c, '_>, memory: &Memory<'c, '_>) {
        let lanes = self.lanes();
        let twos = u64::from(self.design.native_rows / 2);
        body.times(
            u64::from(self.design.tile.outputs / BLOCK_ROWS),
            |body, sixteen| {
                let first = body.index(0);
                body.repeat(first, pairs, &[], |body, pair, _| {
                    let results = body.acquire(self.results, Port::Produce);
                    body.times(2, |body, panel| {
                        let at = body.address(&[(pair, 32), (panel, 16)]);
                        let token_scale = body.load(memory.token_scales, at, 16, Element::F32);
                        // Two outputs of eight tokens at a time.
                        body.times(u64::from(BLOCK_ROWS / 2), |body, two| {
                            let native = body.divide(two, twos);
                            let of_native = body.modulo(two, twos);
                            let at = body.address(&[
                                (pair, self.pair_sums()),
                                (sixteen, u64::from(BLOCK_ROWS) * 16),
                                (native, 2 * lanes),
                                (panel, lanes),
                                (of_native, 16),
                            ]);
                            let sum = body.load(memory.sums, at, 16, Element::I32);
                            let value = self.to_float(body, sum);
                            let at = body
                                .address(&[(sixteen, u64::from(BLOCK_ROWS * PANEL)), (two, 16)]);
                            let row_scale = body.load(memory.row_scales, at, 16, Element::F32);
                            let value = body.multiply_float(value, token_scale);
                            let value = body.multiply_float(value, row_scale);
                            let value = body.round_float(value, 16, Element::Bf16);
                            let at =
                                body.address(&[(panel, u64::from(BLOCK_ROWS * PANEL)), (two, 16)]);
                            body.store(value, results, at, 16, Element::Bf16);
                        });
                    });
                    body.release(self.results, Port::Produce);
                    Vec::new()
                });
            },
        );
    }

    /// The cores have no instruction that makes floats of integers: the sum, shifted to 22 bits, becomes the fraction of
    /// `1.5 * 2^23`, which is then taken away. The scale of rows makes up for the shift.
    fn to_float<'c, 'b>(&self, body: &Body<'c, 'b>, sum: Value<'c, 'b>) -> Value<'c, 'b> {
        let shift = self.design.sum_shift();
        let mut sum = sum;
        if shift > 0 {
            let half = body.splat_int(16, Element::I32, 1 << (shift - 1));
            let shift = body.splat_int(16, Element::I32, i64::from(shift));
            sum = body.shift_right(body.add(sum, half), shift);
        }
        let anchor = body.splat_int(16, Element::I32, 0x4B40_0000);
        let bits = body.bitcast(body.add(sum, anchor), 16, Element::F32);
        body.subtract_float(bits, body.splat_float(16, Element::F32, 12_582_912.0))
    }
}

/// 16 floats out of an element of bytes.
fn copy_floats<'c, 'v>(
    body: &Body<'c, '_>,
    from: Value<'c, 'v>,
    from_at: Value<'c, 'v>,
    to: Value<'c, 'v>,
    to_at: Value<'c, 'v>,
) {
    let bytes = body.load(from, from_at, 64, Element::I8);
    let floats = body.bitcast(bytes, 16, Element::F32);
    body.store(floats, to, to_at, 16, Element::F32);
}
