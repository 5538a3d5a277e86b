//! What the host gives to attention and takes from it: queries into panels, keys and values into the cache, headers,
//! results out.
//!
//! These are the layouts' definitions as code. Whoever writes queries or the cache, on whatever device, writes what
//! [`queries`] and [`CacheWriter`] write.

use super::{Attention, PANEL, Shape};
use crate::array::Array;
use half::bf16;

/// Bytes of a header, which is 16 bytes again and again: an element of the cache's stream is made of it.
pub const HEADER_BYTES: u32 = 512;

/// The headers of a call whose first token is at position `first`, `[items][32][4]` i32: pairs of blocks in the stream,
/// the position of the item's first token as seen from the stream's first, positions that a query sees, 0.
pub fn parameters(design: &Attention, array: &Array, shape: Shape, first: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in design.items(array, shape) {
        let position = first + item.panel * PANEL;
        let stream = item.first_block * design.tile.positions;
        let window = shape.window.unwrap_or(i32::MAX as u32 / 2);
        let words = [
            item.blocks as i32,
            position as i32 - stream as i32,
            window.min(i32::MAX as u32 / 2) as i32,
            0,
        ];
        for _ in 0..HEADER_BYTES / 16 {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
    }
    bytes
}

/// Panels of queries; `query(token, head, feature)` with the factor in it. Tokens that are missing are 0.
pub fn queries(
    design: &Attention,
    array: &Array,
    shape: Shape,
    query: impl Fn(u32, u32, u32) -> f32,
) -> Vec<u8> {
    let panels = design.padded_tokens(array, shape) / PANEL;
    let mut bytes = Vec::with_capacity((panels * design.query_heads * design.unit() * 2) as usize);
    for panel in 0..panels {
        for head in 0..design.query_heads {
            for feature in 0..design.head_dim {
                for lane in 0..PANEL {
                    let token = panel * PANEL + lane;
                    let value = if token < shape.tokens {
                        query(token, head, feature)
                    } else {
                        0.0
                    };
                    bytes.extend(bf16::from_f32(value).to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// Where keys and values lie in the cache's buffer, in elements.
#[derive(Clone, Copy, Debug)]
pub struct CacheWriter {
    head_dim: usize,
    capacity: usize,
}

impl CacheWriter {
    /// The layout of a cache with so much room.
    pub fn new(design: &Attention, capacity: u32) -> Self {
        Self {
            head_dim: design.head_dim as usize,
            capacity: capacity as usize,
        }
    }

    /// Where a feature of a key is.
    pub fn key(&self, head: usize, position: usize, feature: usize) -> usize {
        (head * 2 * self.capacity + position) * self.head_dim + feature
    }

    /// Where a feature of a value is.
    pub fn value(&self, head: usize, position: usize, feature: usize) -> usize {
        let panel = PANEL as usize;
        let first = (head * 2 + 1) * self.capacity * self.head_dim;
        first + (position / panel * self.head_dim + feature) * panel + position % panel
    }
}

/// A shape's results, `[tokens][query heads][head dim]`.
pub fn results(design: &Attention, shape: Shape, bytes: &[u8]) -> Vec<bf16> {
    let panel = PANEL as usize;
    let features = (design.query_heads * design.head_dim) as usize;
    let mut values = Vec::with_capacity(shape.tokens as usize * features);
    for token in 0..shape.tokens as usize {
        for feature in 0..features {
            let at = ((token / panel * features + feature) * panel + token % panel) * 2;
            values.push(bf16::from_le_bytes([bytes[at], bytes[at + 1]]));
        }
    }
    values
}
