//! Byte-pair merging of one piece of text.
//!
//! The pair of lowest rank is merged first, the leftmost of equal ones, with a priority queue over neighbours in a
//! linked list: O(n log n) in the length of the piece. Source: Sennrich et al. 2016, arXiv:1508.07909; the order of
//! ties and of unknown tokens is that of the `tokenizers` library.

use crate::tables::{
    FLAG_BYTE_FALLBACK, FLAG_FUSE_UNK, FLAG_IGNORE_MERGES, KIND_MODEL, NONE, Tables,
};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Longest stretch merged as one, so that positions fit 32 bits.
const MAX_PIECE_BYTES: usize = 1 << 30;

#[derive(Clone, Copy)]
struct Symbol {
    /// [`NONE`]: merged into its left neighbour.
    id: u32,
    prev: u32,
    next: u32,
}

/// Working memory, kept from piece to piece.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    /// (rank, position, merged id), lowest first.
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

impl Merger {
    /// Appends the ids of `piece` to `out`.
    pub(crate) fn encode(&mut self, tables: &Tables<'_>, mut piece: &str, out: &mut Vec<u32>) {
        while piece.len() > MAX_PIECE_BYTES {
            let (head, tail) = piece.split_at(piece.floor_char_boundary(MAX_PIECE_BYTES));
            self.encode_short(tables, head, out);
            piece = tail;
        }
        self.encode_short(tables, piece, out);
    }

    fn encode_short(&mut self, tables: &Tables<'_>, piece: &str, out: &mut Vec<u32>) {
        if tables.flag(FLAG_IGNORE_MERGES)
            && let Some(id) = model_id(tables, piece)
        {
            out.push(id);
            return;
        }
        self.start(tables, piece);
        self.merge(tables);
        out.extend(self.symbols.iter().map(|s| s.id).filter(|id| *id != NONE));
    }

    /// One symbol a character, or one a byte of a character that is no token.
    fn start(&mut self, tables: &Tables<'_>, piece: &str) {
        self.symbols.clear();
        let mut unknown = false;
        let mut buffer = [0; 4];
        for character in piece.chars() {
            let text = &*character.encode_utf8(&mut buffer);
            if let Some(id) = model_id(tables, text) {
                if std::mem::take(&mut unknown) {
                    self.push(tables.facts.unk);
                }
                self.push(id);
                continue;
            }
            if tables.flag(FLAG_BYTE_FALLBACK)
                && text.bytes().all(|byte| tables.byte_id(byte).is_some())
            {
                // A waiting unknown token stays behind these bytes, as in the reference.
                for id in text.bytes().filter_map(|byte| tables.byte_id(byte)) {
                    self.push(id);
                }
                continue;
            }
            if tables.facts.unk < tables.facts.n_tokens {
                if unknown && !tables.flag(FLAG_FUSE_UNK) {
                    self.push(tables.facts.unk);
                }
                unknown = true;
            }
        }
        if unknown {
            self.push(tables.facts.unk);
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    fn push(&mut self, id: u32) {
        let index = self.symbols.len() as u32;
        self.symbols.push(Symbol {
            id,
            prev: index.checked_sub(1).unwrap_or(NONE),
            next: index + 1,
        });
    }

    fn merge(&mut self, tables: &Tables<'_>) {
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        queue.extend(
            self.symbols
                .windows(2)
                .zip(0u32..)
                .filter_map(|(pair, at)| {
                    let (rank, merged) = tables.merge(pair[0].id, pair[1].id)?;
                    Some(Reverse((rank, at, merged)))
                }),
        );
        let mut queue = BinaryHeap::from(queue);
        // Every accepted merge removes a symbol and adds at most two entries, so this ends whatever the tables say.
        while let Some(Reverse((_, at, merged))) = queue.pop() {
            let Some(left) = self.live(at) else { continue };
            let Some(right) = self.live(left.next) else {
                continue;
            };
            // The neighbours may have changed since the entry was made.
            if tables.merge(left.id, right.id).map(|(_, id)| id) != Some(merged) {
                continue;
            }
            self.symbols[left.next as usize].id = NONE;
            self.symbols[at as usize].id = merged;
            self.symbols[at as usize].next = right.next;
            if let Some(after) = self.symbols.get_mut(right.next as usize) {
                after.prev = at;
                if let Some((rank, id)) = tables.merge(merged, after.id) {
                    queue.push(Reverse((rank, at, id)));
                }
            }
            if let Some(before) = self.live(left.prev)
                && let Some((rank, id)) = tables.merge(before.id, merged)
            {
                queue.push(Reverse((rank, left.prev, id)));
            }
        }
        self.queue = queue;
    }

    fn live(&self, at: u32) -> Option<Symbol> {
        let symbol = *self.symbols.get(at as usize)?;
        (symbol.id != NONE).then_some(symbol)
    }
}

fn model_id(tables: &Tables<'_>, text: &str) -> Option<u32> {
    let id = tables.token_id(text.as_bytes())?;
    (tables.kind(id) & KIND_MODEL != 0).then_some(id)
}
