//! How weights reach the cores: the forms in which a bundle stores them, what the memory tile makes of their order, and
//! the scales that travel with them.
//!
//! The matrix unit wants 8-bit operands whose scale is the same along a row, since sums run along it. A form whose groups
//! of 32 have scales of their own is brought to one scale a row in the core, pass by pass: a weight `q` with scale `s` in
//! a row whose largest scale is `S` becomes `(q * m + half) >> shift` with `m = round(127 s / S)`.
//!
//! Words come as `[rows / 16][words of a row][16]`; the memory tile sends two words of a row together:
//!
//! | form | 8 bytes of a row after gathering | after unpacking, for the matrix unit |
//! |---|---|---|
//! | 8 bits | columns `k..k+8` | the same |
//! | 4 bits | columns `k..k+16` | low nibbles, then high nibbles: columns `k+{0..4, 8..12}`, then `k+{4..8, 12..16}` |
//!
//! Activations are stored in the columns' order after unpacking: [`WeightForm::column`].

use super::{BLOCK_ROWS, Linear, PANEL, Shape, padded_depth, padded_outputs};
use crate::aie::Step;

/// Columns that share a scale, in the bundle's quantized formats.
pub const GROUP: u32 = 32;
/// Bytes of a row's scale as it travels: as often as a vector has lanes for it.
pub(super) const ROW_SCALE_BYTES: u32 = PANEL * 4;
/// Most multipliers of a row kept in a core.
const MOST_GROUPS: u32 = 64;

/// How a bundle stores a weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightForm {
    /// 8 bits, all groups of a row have one scale.
    Rows8,
    /// 8 bits, a scale for each group of 32.
    Groups8,
    /// 4 bits, a scale for each group of 32.
    Groups4,
}

impl WeightForm {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            WeightForm::Rows8 => "q8, a scale a row",
            WeightForm::Groups8 => "q8",
            WeightForm::Groups4 => "q4",
        }
    }

    /// Bits of a weight.
    pub fn bits(self) -> u32 {
        match self {
            WeightForm::Rows8 | WeightForm::Groups8 => 8,
            WeightForm::Groups4 => 4,
        }
    }

    /// Whether groups have scales of their own.
    pub fn has_groups(self) -> bool {
        match self {
            WeightForm::Rows8 => false,
            WeightForm::Groups8 | WeightForm::Groups4 => true,
        }
    }

    /// Bits that the product of a weight and its group's multiplier is shifted right by.
    pub fn shift(self) -> u32 {
        match self {
            WeightForm::Rows8 => 0,
            WeightForm::Groups8 => 7,
            WeightForm::Groups4 => 3,
        }
    }

    /// A weight on its row's scale, as the cores make it: `(weight * multiplier + half) >> shift`.
    pub fn unpacked(self, weight: i32, multiplier: i32) -> i32 {
        match self {
            WeightForm::Rows8 => weight,
            WeightForm::Groups8 | WeightForm::Groups4 => {
                (weight * multiplier + (1 << (self.shift() - 1))) >> self.shift()
            }
        }
    }

    /// What a row's weights are multiples of, once unpacked, for a largest scale of 1.
    pub fn unit(self) -> f64 {
        match self {
            WeightForm::Rows8 => 1.0,
            WeightForm::Groups8 | WeightForm::Groups4 => f64::from(1_u32 << self.shift()) / 127.0,
        }
    }

    /// Cycles to unpack 32 weights: one for each vector instruction, of which a core issues one a cycle.
    pub fn unpack_cycles(self) -> f64 {
        match self {
            WeightForm::Rows8 => 0.0,
            // Widen, multiply, round, shift, narrow; loads and stores go beside them.
            WeightForm::Groups8 => 5.0,
            // Widen once for two; mask, multiply, round, shift, narrow each; the upper half is shifted down before.
            WeightForm::Groups4 => 6.0,
        }
    }

    /// The column that is at `position` of a row in the order that the matrix unit sees.
    pub fn column(self, position: u32) -> u32 {
        match self {
            WeightForm::Rows8 | WeightForm::Groups8 => position,
            WeightForm::Groups4 => {
                let within = position % 16;
                // Blocks of 4: the first, the third, the second, the fourth.
                let block = [0, 2, 1, 3][within as usize / 4];
                position - within + block * 4 + within % 4
            }
        }
    }
}

impl Linear {
    /// Bytes of an element of weights: a pass of a tile's rows.
    pub fn weight_element_bytes(&self) -> u32 {
        self.tile.outputs * self.tile.depth * self.form.bits() / 8
    }

    /// Bytes of an element that 16 rows have.
    pub(super) fn block_bytes(&self) -> u32 {
        BLOCK_ROWS * self.tile.depth * self.form.bits() / 8
    }

    /// Groups of a row whose multipliers one element of scales carries.
    pub fn groups_per_scales(&self) -> u32 {
        if !self.form.has_groups() {
            return 0;
        }
        let room = self
            .block_bytes()
            .saturating_sub(BLOCK_ROWS * ROW_SCALE_BYTES)
            / BLOCK_ROWS;
        // Eight groups are a row of the matrix unit's left operand.
        room.min(MOST_GROUPS) / 8 * 8
    }

    /// Passes that one element of scales is for.
    pub fn passes_per_scales(&self) -> u32 {
        if self.form.has_groups() {
            self.groups_per_scales() * GROUP / self.tile.depth
        } else {
            u32::MAX
        }
    }

    /// Elements of scales of a matrix so deep.
    pub fn segments(&self, depth: u32) -> u32 {
        self.passes(depth).div_ceil(self.passes_per_scales())
    }

    pub(super) fn scales_fit(&self) -> bool {
        self.passes_per_scales() > 0
            && self.row_scale_bytes() <= self.weight_element_bytes()
            && self.tile.depth.is_multiple_of(GROUP)
    }

    pub(super) fn row_scale_bytes(&self) -> u32 {
        self.tile.outputs * ROW_SCALE_BYTES
    }

    /// Bytes of the multipliers that a core keeps, and of the rows of the unit matrix that spread them.
    pub(super) fn multiplier_bytes(&self) -> u32 {
        if self.form.has_groups() {
            self.tile.outputs * self.groups_per_scales() + 8 * 64
        } else {
            0
        }
    }

    /// Bytes of unpacked weights: those of 8 bits are unpacked where they are.
    pub(super) fn unpacked_bytes(&self) -> u32 {
        match self.form {
            WeightForm::Rows8 | WeightForm::Groups8 => 0,
            WeightForm::Groups4 => self.tile.outputs * self.tile.depth,
        }
    }

    /// Pairs of words that the memory tile gathers of an element.
    pub(super) fn gather_steps(&self) -> u32 {
        self.weight_element_bytes() / (2 * BLOCK_ROWS * 4)
    }

    /// The memory tile's walk over an element: `[rows / 16][words][16]` words to `[rows / 16][words / 2][16][2]`.
    pub(super) fn gather(&self) -> Vec<Step> {
        vec![
            Step {
                size: self.gather_steps(),
                stride: 2 * BLOCK_ROWS * 4,
            },
            Step {
                size: BLOCK_ROWS,
                stride: 4,
            },
            Step {
                size: 2,
                stride: BLOCK_ROWS * 4,
            },
            Step { size: 4, stride: 1 },
        ]
    }

    /// Bytes of a weight's data that a sequence may read. Passes are whole, so the last one reads past the matrix, and
    /// what it reads is multiplied by activations of 0.
    pub fn weight_bytes(&self, shape: Shape) -> u64 {
        let rows = u64::from(padded_outputs(shape));
        let beyond = self.passes(shape.depth) * self.tile.depth - padded_depth(shape);
        let columns = rows * u64::from(padded_depth(shape)) + u64::from(beyond * BLOCK_ROWS);
        columns * u64::from(self.form.bits()) / 8
    }

    /// Bytes of 16 rows' scales for one segment, as the table has them.
    pub fn scale_block_bytes(&self) -> u32 {
        if self.form.has_groups() {
            self.block_bytes()
        } else {
            BLOCK_ROWS * ROW_SCALE_BYTES
        }
    }

    /// Bytes of the table of scales of a shape: `[rows / 16][segments]` blocks of [`Self::scale_block_bytes`].
    ///
    /// A block is 16 rows' scales, each 8 times as f32; with groups, then `[16 / rows][groups / 8][rows][8 groups]`
    /// multipliers of one byte, in rows of the matrix unit; then padding. Its words are in the order of [`gathered_word`].
    pub fn scale_table_bytes(&self, shape: Shape) -> u64 {
        u64::from(padded_outputs(shape) / BLOCK_ROWS)
            * u64::from(self.segments(shape.depth))
            * u64::from(self.scale_block_bytes())
    }
}

/// Where the word that a core is to see as number `word` lies in a table. The memory tile gathers scales like weights,
/// 16 words from each of two places in turn, so they are stored the other way round.
pub fn gathered_word(word: u64) -> u64 {
    let gathered = 2 * u64::from(BLOCK_ROWS);
    let (pair, within) = (word / gathered, word % gathered);
    pair * gathered + within % 2 * u64::from(BLOCK_ROWS) + within / 2
}
