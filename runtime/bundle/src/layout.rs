//! How the bytes of a weight are arranged: one layout that every device reads in place.
//!
//! A matrix `[rows, cols]` (rows = outputs) is stored in blocks of 16 rows by one 32-bit word of consecutive columns,
//! `[rows/16][words][16]`. A 64-byte load is the same word of 16 rows: a VNNI operand on the CPU; neighbouring lanes
//! of a GPU read neighbouring words, each a `dot4` operand of its own row; an NPU descriptor, which moves whole words,
//! gathers the `(n, k)` blocks its matrix unit wants. Rows are padded with zeros to 16, columns to whole words and,
//! in the quantized formats, to whole groups.
//!
//! | format | values a word | order in the word (little endian) |
//! |---|---|---|
//! | f32 | 1 | |
//! | f16, bf16 | 2 | low half is the even column |
//! | q8 | 4 | byte `b` is column `k + b`, two's complement, -127..=127 |
//! | q4 | 8 | low nibble of byte `b` is column `k + b`, high nibble column `k + 4 + b`; stored as value + 8, 0..=15 |
//!
//! Quantized formats have a second plane of f16 scales, `[rows/16][groups][16]`, one a row and group of 32 columns;
//! a weight is `scale * integer`. 8 + 16/32 = 8.5 and 4 + 16/32 = 4.5 bits a weight.
//!
//! A vector is stored as f32, unpadded.

use serde::{Deserialize, Serialize};

/// Rows of a block.
pub const BLOCK_ROWS: u32 = 16;

/// Columns that share a scale.
pub const GROUP: u32 = 32;

/// Alignment of every plane in the weights section, in bytes: the strictest `minStorageBufferOffsetAlignment` that
/// Vulkan allows, and a multiple of the cache line.
pub const PLANE_ALIGN: u64 = 256;

/// Storage format of a weight's values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Upper half of binary32.
    Bf16,
    /// 8-bit integers, f16 scale a group.
    Q8,
    /// 4-bit integers, f16 scale a group.
    Q4,
}

impl Format {
    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8 => "q8",
            Format::Q4 => "q4",
        }
    }

    /// Consecutive columns in one 32-bit word.
    pub fn values_per_word(self) -> u32 {
        match self {
            Format::F32 => 1,
            Format::F16 | Format::Bf16 => 2,
            Format::Q8 => 4,
            Format::Q4 => 8,
        }
    }

    /// Whether there is a plane of group scales.
    pub fn is_quantized(self) -> bool {
        match self {
            Format::Q8 | Format::Q4 => true,
            Format::F32 | Format::F16 | Format::Bf16 => false,
        }
    }

    /// Columns after padding: to whole groups if quantized, else to whole words.
    pub fn padded_cols(self, cols: u32) -> u64 {
        let unit = if self.is_quantized() {
            GROUP
        } else {
            self.values_per_word()
        };
        u64::from(cols).next_multiple_of(u64::from(unit))
    }

    /// 32-bit words of a padded row.
    pub fn words(self, cols: u32) -> u64 {
        self.padded_cols(cols) / u64::from(self.values_per_word())
    }
}

/// Blocks of 16 rows in `rows`.
pub fn row_blocks(rows: u32) -> u64 {
    u64::from(rows.div_ceil(BLOCK_ROWS))
}

/// Groups in a row of `cols` columns.
pub fn groups(cols: u32) -> u64 {
    u64::from(cols.div_ceil(GROUP))
}

/// Bytes of the data plane of a matrix.
pub fn data_bytes(format: Format, rows: u32, cols: u32) -> u64 {
    row_blocks(rows) * format.words(cols) * u64::from(BLOCK_ROWS) * 4
}

/// Bytes of the scale plane of a matrix: none unless quantized.
pub fn scale_bytes(format: Format, rows: u32, cols: u32) -> u64 {
    if !format.is_quantized() {
        return 0;
    }
    row_blocks(rows) * groups(cols) * u64::from(BLOCK_ROWS) * 2
}

/// Index of the word, in 32-bit words from the start of the data plane, that holds column `col` of row `row`.
pub fn word_index(format: Format, cols: u32, row: u32, col: u32) -> u64 {
    let word = u64::from(col / format.values_per_word());
    let block = u64::from(row / BLOCK_ROWS);
    (block * format.words(cols) + word) * u64::from(BLOCK_ROWS) + u64::from(row % BLOCK_ROWS)
}

/// Index of the f16 scale, from the start of the scale plane, of row `row` and group `group`.
pub fn scale_index(cols: u32, row: u32, group: u32) -> u64 {
    let block = u64::from(row / BLOCK_ROWS);
    (block * groups(cols) + u64::from(group)) * u64::from(BLOCK_ROWS) + u64::from(row % BLOCK_ROWS)
}
