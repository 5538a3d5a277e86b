//! Activations prepared for many rows: where they lie in a linear's scratch, in the forms that kernels read.
//!
//! Each form holds `a` of the step's formula ([`gembin_bundle::cpu::LinearStep`]): normed, the residual added. The kernel
//! that writes them is `prepare`.

use gembin_bundle::layout::GROUP;
use gembin_bundle::manifest::{Buffer, RowSet, Span};

/// Columns are padded with zeros to a multiple of this.
pub(crate) const PAD: u32 = 64;

/// Rows as f16 with a scale a row: `a[r][c] = data[r][c] * scale[r]`.
///
/// The scale is the power of two that brings the row's greatest magnitude to 8192..16384: Gemma's activations leave
/// f16's range.
///
/// Where the driver may choose, the same buffer holds rows of [`Int8Activations`] instead, which are shorter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct F16Activations {
    /// Words `[rows][padded_cols / 2]`, the even column in the low half; zeros from `cols` on.
    pub(crate) data: Buffer,
    /// f32 `[rows][1]`.
    pub(crate) scale: Buffer,
    /// Columns of the weight.
    pub(crate) cols: u32,
    /// Columns with their padding, a multiple of [`PAD`].
    pub(crate) padded_cols: u32,
}

impl F16Activations {
    /// Places them in `scratch` of [`super::scratch_bytes`] bytes, for at most `max_rows` rows.
    pub(crate) fn place(scratch: Span, rows: RowSet, max_rows: u32, cols: u32) -> Self {
        let padded_cols = cols.next_multiple_of(PAD);
        let data = Buffer {
            offset: scratch.offset,
            rows,
            cols: padded_cols / 2,
        };
        let scale = Buffer {
            offset: after(data, max_rows),
            rows,
            cols: 1,
        };
        Self {
            data,
            scale,
            cols,
            padded_cols,
        }
    }
}

/// Rows as int8 in groups of 32 columns: `a[r][c] = value[r][c] * scale[r][c / 32]`, as the processor's driver makes them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Int8Activations {
    /// Words of a row: values `[groups][8]`, four int8 a word, the first column in the low byte; then f32 scales
    /// `[groups]`. Both are zero from `cols` on.
    pub(crate) data: Buffer,
    /// Groups with their padding, an even number, so that a row is whole vectors of four words.
    pub(crate) groups: u32,
}

impl Int8Activations {
    /// Places them at the start of `scratch`.
    pub(crate) fn place(scratch: Span, rows: RowSet, cols: u32) -> Self {
        Self {
            data: Buffer {
                offset: scratch.offset,
                rows,
                cols: Self::row_words(cols),
            },
            groups: Self::groups(cols),
        }
    }

    /// Groups of a row of so many columns.
    pub(crate) fn groups(cols: u32) -> u32 {
        cols.next_multiple_of(PAD) / GROUP
    }

    /// Words of a row of so many columns, whole vectors of four.
    pub(crate) fn row_words(cols: u32) -> u32 {
        let groups = Self::groups(cols);
        groups * (GROUP / 4) + groups.next_multiple_of(4)
    }
}

/// Rows as f32.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct F32Activations {
    /// `[rows][padded_cols]`; zeros from the weight's columns on.
    pub(crate) data: Buffer,
}

impl F32Activations {
    /// Places them at the start of `scratch`.
    pub(crate) fn place(scratch: Span, rows: RowSet, cols: u32) -> Self {
        Self {
            data: Buffer {
                offset: scratch.offset,
                rows,
                cols: cols.next_multiple_of(PAD),
            },
        }
    }
}

/// First byte behind a buffer that another may start at.
fn after(buffer: Buffer, max_rows: u32) -> u64 {
    let bytes = u64::from(max_rows) * u64::from(buffer.cols) * 4;
    (buffer.offset + bytes).next_multiple_of(64)
}
