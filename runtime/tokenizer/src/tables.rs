//! The form on disk: a header with the place of every section, and bounds-checked reading of them.
//!
//! All numbers are little endian. Owns the layout and the hash functions, so that writer and reader agree; what the
//! entries mean for encoding and decoding is decided elsewhere.

use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of the tables; the last one is the version of the layout.
pub(crate) const MAGIC: [u8; 8] = *b"gemtok\x00\x01";
/// Marks the absence of an id.
pub(crate) const NONE: u32 = u32::MAX;
/// Ids are below this: far more than any vocabulary, and small enough for every size to fit 32 bits.
pub(crate) const MAX_TOKENS: u32 = 1 << 24;
/// Longest probe of a hash table. The compiler refuses tables that need more; the reader stops there.
pub(crate) const MAX_PROBE: u32 = 2048;
/// Longest spelling of an added token, which bounds the work of looking for one at a place of the text.
pub(crate) const MAX_ADDED_BYTES: usize = 256;

/// Sections, in file order.
#[derive(Clone, Copy)]
pub(crate) enum Section {
    /// `u32` values, see [`Facts`].
    Facts,
    /// `[256]` u32: id of the token that stands for a byte, or [`NONE`].
    ByteIds,
    /// `[n + 1]` u32: where the spelling of each token starts in `Text`.
    TextOffsets,
    /// Spellings, as in the vocabulary.
    Text,
    /// `[n + 1]` u32: where the decoded bytes of each token start in `Shown`.
    ShownOffsets,
    /// Decoded bytes.
    Shown,
    /// `[n]` u8: what each token is, see `KIND_*`.
    Kinds,
    /// Hash table from spelling to id: u32 slots, [`NONE`] where empty.
    TokenSlots,
    /// Hash table from (left, right) to (rank, merged): 16 bytes a slot, left is [`NONE`] where empty.
    MergeSlots,
    /// Added tokens looked for in the raw text, sorted by spelling: [`Added`].
    RawAdded,
    /// Added tokens looked for in the normalized text, sorted by normalized spelling.
    NormalizedAdded,
    /// Steps of the normalizer: [`NORMALIZER_STEP_BYTES`] each.
    Normalizer,
    /// Strings of the three sections above and of the splitter.
    Strings,
}

pub(crate) const SECTIONS: usize = 13;
const HEADER_BYTES: usize = MAGIC.len() + SECTIONS * 8;

/// Token in the model's own vocabulary: merging may start from it.
pub(crate) const KIND_MODEL: u8 = 1;
/// Token that stands for one byte, its `Shown`.
pub(crate) const KIND_BYTE: u8 = 2;
/// Token with a meaning beyond text; left out of decoded text.
pub(crate) const KIND_SPECIAL: u8 = 4;
/// Token that was added to the vocabulary.
pub(crate) const KIND_ADDED: u8 = 8;

/// Added token that takes the white space before it.
pub(crate) const ADDED_LSTRIP: u32 = 1;
/// Added token that takes the white space after it.
pub(crate) const ADDED_RSTRIP: u32 = 2;

/// Neighbouring unknown characters become one unknown token.
pub(crate) const FLAG_FUSE_UNK: u32 = 1;
/// Unknown characters become the tokens of their bytes.
pub(crate) const FLAG_BYTE_FALLBACK: u32 = 2;
/// A piece that is a token is taken whole, whatever the merges say.
pub(crate) const FLAG_IGNORE_MERGES: u32 = 4;
/// The text is split after every occurrence of the splitter's pattern.
pub(crate) const FLAG_SPLIT: u32 = 8;

pub(crate) const STEP_REPLACE: u32 = 0;
pub(crate) const STEP_PREPEND: u32 = 1;
pub(crate) const NORMALIZER_STEP_BYTES: usize = 20;
const ADDED_BYTES: usize = 16;
const MERGE_SLOT_BYTES: usize = 16;

/// Why tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not such tables at all, or of another version.
    #[error("tokenizer: unknown layout; compile the model again with this version")]
    Version,
    /// Cut or damaged.
    #[error("tokenizer: {what} is damaged; compile the model again")]
    Corrupt {
        /// The part.
        what: &'static str,
    },
}

/// Small numbers of a tokenizer, in the order in which they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub flags: u32,
    pub n_tokens: u32,
    pub unk: u32,
    pub token_probe: u32,
    pub merge_probe: u32,
    /// Leading characters to take off decoded text, at most.
    pub strip_count: u32,
    /// Which character.
    pub strip_char: u32,
    /// Splitter's pattern in `Strings`.
    pub split_offset: u32,
    pub split_bytes: u32,
}

impl Facts {
    pub(crate) const COUNT: usize = 9;

    #[cfg(feature = "compile")]
    pub(crate) fn to_words(self) -> [u32; Self::COUNT] {
        [
            self.flags,
            self.n_tokens,
            self.unk,
            self.token_probe,
            self.merge_probe,
            self.strip_count,
            self.strip_char,
            self.split_offset,
            self.split_bytes,
        ]
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::COUNT * 4 {
            return None;
        }
        Some(Self {
            flags: word(bytes, 0)?,
            n_tokens: word(bytes, 1)?,
            unk: word(bytes, 2)?,
            token_probe: word(bytes, 3)?,
            merge_probe: word(bytes, 4)?,
            strip_count: word(bytes, 5)?,
            strip_char: word(bytes, 6)?,
            split_offset: word(bytes, 7)?,
            split_bytes: word(bytes, 8)?,
        })
    }
}

/// An added token to look for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub offset: u32,
    pub bytes: u32,
    pub id: u32,
    pub flags: u32,
}

/// A step of the normalizer: replace `from` by `to`, or put `to` before a text.
pub(crate) struct NormalizerStep<'a> {
    pub kind: u32,
    pub from: &'a str,
    pub to: &'a str,
}

/// Word `index` of a section.
pub(crate) fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(4)?;
    let end = start.checked_add(4)?;
    let bytes = bytes.get(start..end)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Slot where the search for a spelling starts.
pub(crate) fn token_slot(text: &[u8], n_slots: usize) -> usize {
    scale(xxh3_64(text), n_slots)
}

/// Slot where the search for a pair starts.
pub(crate) fn merge_slot(left: u32, right: u32, n_slots: usize) -> usize {
    // The finalizer of MurmurHash3: every bit of the pair moves every bit of the hash.
    let mut h = (u64::from(left) << 32) | u64::from(right);
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    scale(h, n_slots)
}

fn scale(hash: u64, n_slots: usize) -> usize {
    ((u128::from(hash) * n_slots as u128) >> 64) as usize
}

/// Where the sections lie; read once.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub facts: Facts,
    ranges: [Range<usize>; SECTIONS],
}

impl Layout {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let corrupt = |what| LoadError::Corrupt { what };
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| corrupt("the header"))?;
        if header[..MAGIC.len()] != MAGIC {
            return Err(LoadError::Version);
        }
        let places = &header[MAGIC.len()..];
        let mut ranges: [Range<usize>; SECTIONS] = Default::default();
        for (index, range) in ranges.iter_mut().enumerate() {
            let place = word(places, 2 * index).zip(word(places, 2 * index + 1));
            let (offset, len) = place.ok_or_else(|| corrupt("the header"))?;
            *range = (offset as usize)
                .checked_add(len as usize)
                .filter(|end| *end <= bytes.len())
                .map(|end| offset as usize..end)
                .ok_or_else(|| corrupt("the section table"))?;
        }
        let facts = bytes
            .get(ranges[Section::Facts as usize].clone())
            .and_then(Facts::from_bytes)
            .ok_or_else(|| corrupt("the table of facts"))?;
        let n = facts.n_tokens as usize;
        let bytes_of = |section: Section| ranges[section as usize].len();
        if facts.n_tokens > MAX_TOKENS
            || bytes_of(Section::Kinds) != n
            || bytes_of(Section::TextOffsets) != 4 * (n + 1)
            || bytes_of(Section::ShownOffsets) != 4 * (n + 1)
            || bytes_of(Section::ByteIds) != 4 * 256
        {
            return Err(corrupt("the vocabulary"));
        }
        Ok(Self { facts, ranges })
    }
}

/// The sections, ready to be read.
pub(crate) struct Tables<'a> {
    pub facts: Facts,
    sections: [&'a [u8]; SECTIONS],
}

impl<'a> Tables<'a> {
    pub(crate) fn new(layout: &Layout, bytes: &'a [u8]) -> Self {
        Self {
            facts: layout.facts,
            sections: std::array::from_fn(|index| {
                bytes.get(layout.ranges[index].clone()).unwrap_or(&[])
            }),
        }
    }

    pub(crate) fn section(&self, section: Section) -> &'a [u8] {
        self.sections[section as usize]
    }

    pub(crate) fn flag(&self, flag: u32) -> bool {
        self.facts.flags & flag != 0
    }

    /// What token `id` is; 0 for an id that is not in use.
    pub(crate) fn kind(&self, id: u32) -> u8 {
        let kinds = self.section(Section::Kinds);
        kinds.get(id as usize).copied().unwrap_or(0)
    }

    fn span(&self, offsets: Section, blob: Section, id: u32) -> Option<&'a [u8]> {
        let offsets = self.section(offsets);
        let start = word(offsets, id as usize)? as usize;
        let end = word(offsets, id as usize + 1)? as usize;
        self.section(blob).get(start..end)
    }

    pub(crate) fn text(&self, id: u32) -> Option<&'a [u8]> {
        self.span(Section::TextOffsets, Section::Text, id)
    }

    pub(crate) fn shown(&self, id: u32) -> Option<&'a [u8]> {
        self.span(Section::ShownOffsets, Section::Shown, id)
    }

    pub(crate) fn byte_id(&self, byte: u8) -> Option<u32> {
        word(self.section(Section::ByteIds), usize::from(byte))
            .filter(|id| *id < self.facts.n_tokens)
    }

    /// Id of a spelling, whether of the model or added.
    pub(crate) fn token_id(&self, text: &[u8]) -> Option<u32> {
        let slots = self.section(Section::TokenSlots);
        let n_slots = slots.len() / 4;
        let mut slot = token_slot(text, n_slots);
        for _ in 0..self.facts.token_probe.min(MAX_PROBE) {
            let id = word(slots, slot)?;
            if id >= self.facts.n_tokens {
                return None;
            }
            if self.text(id) == Some(text) {
                return Some(id);
            }
            slot += 1;
            if slot >= n_slots {
                slot = 0;
            }
        }
        None
    }

    /// Rank and result of merging two neighbours.
    pub(crate) fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let slots = self.section(Section::MergeSlots);
        let n_slots = slots.len() / MERGE_SLOT_BYTES;
        let mut slot = merge_slot(left, right, n_slots);
        for _ in 0..self.facts.merge_probe.min(MAX_PROBE) {
            let start = slot * MERGE_SLOT_BYTES;
            let entry = slots.get(start..start + MERGE_SLOT_BYTES)?;
            let found_left = word(entry, 0)?;
            if found_left == NONE {
                return None;
            }
            if found_left == left && word(entry, 1)? == right {
                let merged = word(entry, 3)?;
                return (merged < self.facts.n_tokens).then_some((word(entry, 2)?, merged));
            }
            slot += 1;
            if slot >= n_slots {
                slot = 0;
            }
        }
        None
    }

    pub(crate) fn added_count(&self, list: Section) -> usize {
        self.section(list).len() / ADDED_BYTES
    }

    pub(crate) fn added(&self, list: Section, index: usize) -> Option<Added> {
        let start = index.checked_mul(ADDED_BYTES)?;
        let entry = self.section(list).get(start..start + ADDED_BYTES)?;
        Some(Added {
            offset: word(entry, 0)?,
            bytes: word(entry, 1)?,
            id: word(entry, 2)?,
            flags: word(entry, 3)?,
        })
    }

    /// A string of the `Strings` section; empty where it lies outside.
    pub(crate) fn string(&self, offset: u32, bytes: u32) -> &'a [u8] {
        let start = offset as usize;
        let end = start.saturating_add(bytes as usize);
        self.section(Section::Strings)
            .get(start..end)
            .unwrap_or(&[])
    }

    pub(crate) fn normalizer(&self) -> impl Iterator<Item = NormalizerStep<'a>> {
        let strings = self.section(Section::Strings);
        let text = move |offset: u32, bytes: u32| {
            let start = offset as usize;
            let end = start.checked_add(bytes as usize)?;
            std::str::from_utf8(strings.get(start..end)?).ok()
        };
        self.section(Section::Normalizer)
            .chunks_exact(NORMALIZER_STEP_BYTES)
            .filter_map(move |step| {
                Some(NormalizerStep {
                    kind: word(step, 0)?,
                    from: text(word(step, 1)?, word(step, 2)?)?,
                    to: text(word(step, 3)?, word(step, 4)?)?,
                })
            })
    }
}

/// Puts sections behind a header.
#[cfg(feature = "compile")]
pub(crate) fn assemble(sections: &[Vec<u8>; SECTIONS]) -> Option<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    let mut offset = HEADER_BYTES;
    for section in sections {
        out.extend(u32::try_from(offset).ok()?.to_le_bytes());
        out.extend(u32::try_from(section.len()).ok()?.to_le_bytes());
        offset += section.len().next_multiple_of(16);
    }
    for section in sections {
        out.extend(section);
        out.resize(out.len().next_multiple_of(16).max(HEADER_BYTES), 0);
    }
    Some(out)
}
