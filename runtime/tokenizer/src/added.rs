//! Finding added tokens in a text: leftmost match first, the longest of those that start there.
//!
//! The tokens lie sorted by spelling; a search narrows the range of those that agree with the text byte by byte.

use crate::tables::{ADDED_LSTRIP, ADDED_RSTRIP, Added, MAX_ADDED_BYTES, NONE, Section, Tables};

/// A stretch of text, or an added token found in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Segment {
    Text(usize, usize),
    Token(u32),
}

/// One list of added tokens.
pub(crate) struct Matcher<'a> {
    tables: &'a Tables<'a>,
    list: Section,
    /// Range of the tokens that start with each byte.
    first: Option<Box<[(u32, u32); 256]>>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(tables: &'a Tables<'a>, list: Section) -> Self {
        let count = tables.added_count(list);
        let first = (count > 0).then(|| {
            let mut first = Box::new([(0, 0); 256]);
            for index in 0..count {
                if let Some(byte) = byte_at(tables, list, index, 0) {
                    let range: &mut (u32, u32) = &mut first[usize::from(byte)];
                    if range.1 == 0 {
                        range.0 = index as u32;
                    }
                    range.1 = index as u32 + 1;
                }
            }
            first
        });
        Self {
            tables,
            list,
            first,
        }
    }

    /// The longest token at the start of `text`, and its length.
    pub(crate) fn longest_at(&self, text: &[u8]) -> Option<(Added, usize)> {
        let first = self.first.as_ref()?;
        let (low, high) = first[usize::from(*text.first()?)];
        let (mut low, mut high) = (low as usize, high as usize);
        let mut best = None;
        let mut depth = 1;
        while low < high {
            // The shortest of the range comes first, being a prefix of all others.
            let added = self.tables.added(self.list, low)?;
            if added.bytes as usize == depth {
                best = Some((added, depth));
                low += 1;
            }
            if depth == MAX_ADDED_BYTES {
                break;
            }
            let Some(&byte) = text.get(depth) else { break };
            low = self.partition(low, high, depth, |b| b < byte);
            high = self.partition(low, high, depth, |b| b <= byte);
            depth += 1;
        }
        best
    }

    fn partition(
        &self,
        mut low: usize,
        mut high: usize,
        depth: usize,
        before: impl Fn(u8) -> bool,
    ) -> usize {
        while low < high {
            let middle = low + (high - low) / 2;
            if byte_at(self.tables, self.list, middle, depth).is_none_or(&before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Cuts `text` at the added tokens that `wanted` (id, first byte) accepts.
    ///
    /// A refused token hides shorter and later ones that overlap it, as in the reference.
    pub(crate) fn split(
        &self,
        text: &str,
        wanted: impl Fn(u32, usize) -> bool,
        segments: &mut Vec<Segment>,
    ) {
        segments.clear();
        let bytes = text.as_bytes();
        let Some(first) = &self.first else {
            segments.push(Segment::Text(0, bytes.len()));
            return;
        };
        let mut done = 0;
        let mut at = 0;
        // White space found last, so that many matches inside one stretch of it look at it once.
        let mut space = (0, 0);
        while at < bytes.len() {
            if first[usize::from(bytes[at])].1 == 0 {
                at += 1;
                continue;
            }
            let Some((added, len)) = self.longest_at(&bytes[at..]) else {
                at += 1;
                continue;
            };
            let (mut start, mut stop) = (at, at + len);
            at = stop;
            if added.id == NONE || !text.is_char_boundary(stop) || !wanted(added.id, start) {
                continue;
            }
            if added.flags & ADDED_LSTRIP != 0 && done < start {
                start = done + text[done..start].trim_end().len();
            }
            if added.flags & ADDED_RSTRIP != 0 {
                if !(space.0..space.1).contains(&stop) {
                    space = (stop, bytes.len() - text[stop..].trim_start().len());
                }
                stop = stop.max(space.1);
            }
            if done < start {
                segments.push(Segment::Text(done, start));
            }
            segments.push(Segment::Token(added.id));
            done = stop;
        }
        if done < bytes.len() {
            segments.push(Segment::Text(done, bytes.len()));
        }
    }
}

fn byte_at(tables: &Tables<'_>, list: Section, index: usize, depth: usize) -> Option<u8> {
    let added = tables.added(list, index)?;
    tables.string(added.offset, added.bytes).get(depth).copied()
}
