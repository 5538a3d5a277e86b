//! What the host gives to products and takes from them: activations into panels, scales into tables, results out.
//!
//! These are the layouts' definitions as code. Whoever writes activations for the array, on whatever device, writes what
//! [`activations`] writes.

use super::weights::{GROUP, WeightForm, gathered_word};
use super::{BLOCK_ROWS, Linear, PAIR, PANEL, Shape, padded_outputs};
use crate::array::Array;
use half::bf16;

/// A token's activations as the array multiplies them: `value = integer * scale`.
#[derive(Clone, PartialEq, Debug)]
pub struct Token {
    /// One for each feature.
    pub integers: Vec<i8>,
    /// Of all of them.
    pub scale: f32,
}

/// Rounds a token's activations to 8 bits, its largest magnitude to 127.
pub fn quantize(features: &[f32]) -> Token {
    let largest = features
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    Token {
        integers: features
            .iter()
            .map(|value| (value * inverse).round_ties_even() as i8)
            .collect(),
        scale,
    }
}

/// The activations' buffer of a shape. Tokens that are missing are 0.
pub fn activations(design: &Linear, array: &Array, shape: Shape, tokens: &[Token]) -> Vec<u8> {
    let depth = design.tile.depth as usize;
    let passes = design.passes(shape.depth) as usize;
    let pass_bytes = PAIR as usize * depth;
    let pair_bytes = (passes + 1) * pass_bytes;
    let mut bytes = vec![0; design.activation_bytes(array, shape) as usize];
    for (index, pair) in bytes.chunks_exact_mut(pair_bytes).enumerate() {
        let (header, body) = pair.split_at_mut(pass_bytes);
        for panel in 0..2 {
            let header = &mut header[panel * depth * PANEL as usize..];
            for lane in 0..PANEL as usize {
                let token = index * PAIR as usize + panel * PANEL as usize + lane;
                let Some(token) = tokens.get(token) else {
                    continue;
                };
                for copy in 0..2 {
                    let at = (copy * PANEL as usize + lane) * 4;
                    header[at..at + 4].copy_from_slice(&token.scale.to_le_bytes());
                }
                for position in 0..passes * depth {
                    let column = design.form.column(position as u32) as usize;
                    let Some(&integer) = token.integers.get(column) else {
                        continue;
                    };
                    let (pass, within) = (position / depth, position % depth);
                    let at = pass * pass_bytes + (panel * depth + within) * PANEL as usize + lane;
                    body[at] = integer as u8;
                }
            }
        }
        let counts = [passes as i32, design.pairs(array, shape) as i32];
        for (index, count) in counts.into_iter().enumerate() {
            header[64 + index * 4..][..4].copy_from_slice(&count.to_le_bytes());
        }
    }
    bytes
}

/// What a group's weights are multiplied by, where the row's largest scale is `largest`.
pub fn multiplier(scale: f32, largest: f32) -> i8 {
    if largest == 0.0 {
        return 0;
    }
    (f64::from(scale) / f64::from(largest) * 127.0).round_ties_even() as i8
}

/// What a row's sums, shifted, are multiplied by, where the row's largest scale is `largest`.
pub fn row_scale(design: &Linear, largest: f32) -> f32 {
    let unit = f64::from(largest) * design.form.unit();
    (unit * f64::from(1_u32 << design.sum_shift())) as f32
}

/// The table of scales of a matrix, from the scale of each row and group.
pub fn scale_table(design: &Linear, shape: Shape, scale: impl Fn(u32, u32) -> f32) -> Vec<u8> {
    let groups = shape.depth.div_ceil(GROUP);
    let segments = design.segments(shape.depth);
    let groups_of_segment = match design.form {
        WeightForm::Rows8 => 0,
        WeightForm::Groups8 | WeightForm::Groups4 => {
            design.passes_per_scales() * design.tile.depth / GROUP
        }
    };
    let block_bytes = design.scale_block_bytes() as usize;
    let mut table = vec![0; design.scale_table_bytes(shape) as usize];
    for (index, stored) in table.chunks_exact_mut(block_bytes).enumerate() {
        let (block, segment) = (index as u32 / segments, index as u32 % segments);
        // In the order that the core sees, then in that of the table.
        let mut seen = vec![0_u8; block_bytes];
        for within in 0..BLOCK_ROWS {
            let row = block * BLOCK_ROWS + within;
            if row >= shape.outputs {
                continue;
            }
            let largest = (0..groups)
                .map(|group| scale(row, group))
                .fold(0.0, f32::max);
            let row_scale = row_scale(design, largest).to_le_bytes();
            for lane in 0..PANEL {
                let at = ((within * PANEL + lane) * 4) as usize;
                seen[at..at + 4].copy_from_slice(&row_scale);
            }
            for of_segment in 0..groups_of_segment {
                let group = segment * groups_of_segment + of_segment;
                if group >= groups {
                    break;
                }
                let eights = design.groups_per_scales() / 8;
                let rows = design.native_rows;
                let tile = within / rows * eights + of_segment / 8;
                let at =
                    BLOCK_ROWS * PANEL * 4 + (tile * rows + within % rows) * 8 + of_segment % 8;
                seen[at as usize] = multiplier(scale(row, group), largest) as u8;
            }
        }
        for (word, bytes) in seen.chunks_exact(4).enumerate() {
            let at = gathered_word(word as u64) as usize * 4;
            stored[at..at + 4].copy_from_slice(bytes);
        }
    }
    table
}

/// A shape's results, `[tokens][outputs]`.
pub fn results(shape: Shape, bytes: &[u8]) -> Vec<bf16> {
    let rows = padded_outputs(shape) as usize;
    let panel = PANEL as usize;
    let mut values = Vec::with_capacity((shape.tokens * shape.outputs) as usize);
    for token in 0..shape.tokens as usize {
        for output in 0..shape.outputs as usize {
            let at = ((token / panel * rows + output) * panel + token % panel) * 2;
            values.push(bf16::from_le_bytes([bytes[at], bytes[at + 1]]));
        }
    }
    values
}
