//! What the host gives to rotations: the table of headers, norms' weights and angles.

use super::Rope;
use crate::array::Array;
use crate::design::linear::PANEL;
use crate::design::vector::Vector;
use crate::design::vector::header::{Header, KindWord, Word};

/// The table:
///
/// 1. for each column an element with its header for each core;
/// 2. the norms' weights, f32, the queries' times their factor and then the keys' (1 where there is no norm), `2 * chunk` to an element's part,
///    of which they are the first half; every core has the same;
/// 3. `[panels][2][head / 2][8]` f32: each token's cosines, then its sines. `angles` gives both for a token and a pair of
///    features.
pub fn table(
    work: &Rope,
    design: &Vector,
    array: &Array,
    [query_norm, key_norm]: [Option<&[f32]>; 2],
    angles: impl Fn(u32, u32) -> [f32; 2],
) -> Vec<u8> {
    let part = design.in_bytes();
    let mut table = Vec::with_capacity(work.table_bytes(design, array) as usize);
    for column in 0..array.columns {
        let header = header(work, design, array, column).bytes(part);
        for _ in 0..array.core_rows {
            table.extend_from_slice(&header);
        }
    }
    let weights: Vec<u8> = [(query_norm, work.query_factor), (key_norm, 1.0)]
        .into_iter()
        .flat_map(|(norm, factor)| {
            (0..work.head as usize).map(move |at| {
                factor * norm.map_or(1.0, |norm| norm.get(at).copied().unwrap_or(0.0))
            })
        })
        .flat_map(f32::to_le_bytes)
        .collect();
    for weights in weights.chunks(part as usize / 2) {
        for _ in 0..array.core_rows {
            table.extend_from_slice(weights);
            table.extend(std::iter::repeat_n(0, part as usize / 2));
        }
    }
    for panel in 0..work.panels(array) {
        for which in 0..2 {
            for pair in 0..work.head / 2 {
                for token in panel * PANEL..(panel + 1) * PANEL {
                    table.extend(angles(token, pair)[which].to_le_bytes());
                }
            }
        }
    }
    table
}

fn header(work: &Rope, design: &Vector, array: &Array, column: u32) -> Header {
    let norm = |is_normed: bool| {
        if is_normed {
            [1.0 / work.head as f32, work.eps]
        } else {
            [0.0, 1.0]
        }
    };
    Header::new()
        .count(Word::RopePanels, work.rounds_of(array, column))
        .count(Word::TableElements, work.weight_elements(design))
        .count(Word::HeadElements, work.head / design.chunk)
        .count(Word::HalfVectors, work.head / 4)
        .count(Word::AngleElements, 2 * work.head / design.chunk)
        .stage(0, KindWord::Heads, work.query_heads)
        .stage(0, KindWord::Rotates, 1)
        .stage(0, KindWord::Copies, 1)
        .factors(0, norm(work.query_norm))
        .stage(1, KindWord::Heads, work.kv_heads)
        .stage(1, KindWord::Rotates, 1)
        .stage(1, KindWord::Transposes, 1)
        .factors(1, norm(work.key_norm))
        .stage(2, KindWord::Heads, work.kv_heads)
        .stage(2, KindWord::Copies, 1)
}
