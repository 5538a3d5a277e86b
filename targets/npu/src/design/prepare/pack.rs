//! What the host gives to prologues: the table of headers and weights; and panels.

use super::Prepare;
use crate::array::Array;
use crate::design::linear::{BLOCK_ROWS, PANEL};
use crate::design::vector::Vector;
use crate::design::vector::header::{StageWord, Word};
use half::bf16;

/// The table: for each column an element with its header for each core, then for each block of features an element with
/// the weights of the cores' chunks.
///
/// A core's part of a chunk's element is `[2][chunk]` f32, the post norm's weights and the norm's, 1 where there is no
/// norm; the rest is not used. Weights are used as they are, without an offset.
pub fn table(
    work: &Prepare,
    design: &Vector,
    array: &Array,
    post_norm: Option<&[f32]>,
    norm: Option<&[f32]>,
) -> Vec<u8> {
    let part = design.in_bytes();
    let mut table = Vec::with_capacity(work.table_bytes(design, array) as usize);
    for column in 0..array.columns {
        for row in 0..array.core_rows {
            let header = work.header(design, array, column, row);
            table.extend(header.bytes(part));
        }
    }
    for chunk in 0..work.chunks(design, array) * array.core_rows {
        let from = table.len();
        for weights in [post_norm, norm] {
            for within in 0..design.chunk {
                let feature = (chunk * design.chunk + within) as usize;
                let weight = weights.map_or(1.0, |all| all.get(feature).copied().unwrap_or(0.0));
                table.extend_from_slice(&weight.to_le_bytes());
            }
        }
        table.resize(from + part as usize, 0);
    }
    table
}

impl Prepare {
    fn header(&self, design: &Vector, array: &Array, column: u32, row: u32) -> super::Header {
        let chunks = self.chunks(design, array);
        let before = (chunks - 1) * design.block(array) + row * design.chunk;
        let stored = self.features.next_multiple_of(BLOCK_ROWS);
        let of_last = stored.saturating_sub(before).min(design.chunk);
        let features = (chunks - 1) * design.chunk + of_last;
        let when = |present: bool, count: u32| if present { count } else { 0 };
        let inputs = self.inputs;
        let share = 1.0 / self.features as f32;
        let norm = |present: bool| {
            if present {
                [share, self.eps]
            } else {
                [0.0, 1.0]
            }
        };
        self.layout
            .header(design, array, self.features)
            .count(Word::Panels, self.layout.panels_of(array, column))
            .count(Word::TableElements, chunks)
            .count(Word::InputVectors, features / 2)
            .count(Word::HasResidual, u32::from(inputs.residual))
            .stage(0, StageWord::Inputs, when(inputs.x, chunks))
            .stage(0, StageWord::Absent, when(!inputs.x, chunks))
            .stage(0, StageWord::Exchanges, 1)
            .factors(0, norm(inputs.post_norm))
            .stage(1, StageWord::Halves, 2 * chunks)
            .stage(1, StageWord::Exchanges, 1)
            .factors(1, norm(inputs.norm))
            .stage(2, StageWord::GatesFrom, chunks)
    }
}

/// Panels `[panels][padded][8]` of rows, one a token; what is missing is 0.
pub fn panels(rows: &[Vec<f32>], panels: u32, padded: u32) -> Vec<f32> {
    let (padded, panel) = (padded as usize, PANEL as usize);
    let mut values = vec![0.0; panels as usize * padded * panel];
    for (token, row) in rows.iter().enumerate() {
        for (feature, value) in row.iter().enumerate() {
            values[(token / panel * padded + feature) * panel + token % panel] = *value;
        }
    }
    values
}

/// Rows of panels.
pub fn rows(values: &[f32], padded: u32, tokens: u32, features: u32) -> Vec<Vec<f32>> {
    let (padded, panel) = (padded as usize, PANEL as usize);
    (0..tokens as usize)
        .map(|token| {
            (0..features as usize)
                .map(|feature| values[(token / panel * padded + feature) * panel + token % panel])
                .collect()
        })
        .collect()
}

/// Bytes of f32.
pub fn float_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Bytes of the same, rounded to bfloat16.
pub fn narrow_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
        .collect()
}
