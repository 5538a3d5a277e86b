//! What the host gives to gates: the table of headers; and panels of gate and up.

use super::Gelu;
use crate::array::Array;
use crate::design::linear::BLOCK_ROWS;
use crate::design::vector::Vector;
use crate::design::vector::header::{StageWord, Word};

/// The table: for each column an element with its header for each core.
pub fn table(work: &Gelu, design: &Vector, array: &Array) -> Vec<u8> {
    let (chunks, kept) = (work.chunks(design, array), work.kept(design, array));
    let mut table = Vec::new();
    for column in 0..array.columns {
        for row in 0..array.core_rows {
            let before = (chunks - 1) * design.block(array) + row * design.chunk;
            let of_last = work.stored().saturating_sub(before).min(design.chunk);
            let features = (chunks - 1) * design.chunk + of_last;
            let header = work
                .layout
                .header(design, array, work.width)
                .count(Word::Panels, work.layout.panels_of(array, column))
                .count(Word::InputVectors, features / 2)
                .stage(1, StageWord::Chunks, chunks)
                .stage(1, StageWord::QuantizesFrom, chunks)
                .stage(1, StageWord::Exchanges, 1)
                // No norm: the factor is 1.
                .factors(1, [0.0, 1.0])
                .stage(2, StageWord::GatesFrom, kept);
            table.extend(header.bytes(design.in_bytes()));
        }
    }
    table
}

/// A token's rows as a product with interleaved weights leaves them: 16 of the gate, 16 of up, in turn.
pub fn interleave(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let block = BLOCK_ROWS as usize;
    let mut rows = vec![0.0; gate.len().next_multiple_of(block) * 2];
    for (at, (gate, up)) in gate.iter().zip(up).enumerate() {
        let first = at / block * 2 * block + at % block;
        rows[first] = *gate;
        rows[first + block] = *up;
    }
    rows
}
