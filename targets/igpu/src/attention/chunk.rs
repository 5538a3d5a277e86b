//! How a thread loads a cache: 16 bytes at once where a head's rows allow it, one or two elements where they do not.

use gembin_bundle::layout::Format;
use gembin_bundle::manifest::Cache;

/// What a thread loads of a row of a cache at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// 32-bit words.
    pub(super) words: u32,
    /// Vectors of elements it unpacks to.
    pub(super) parts: u32,
    /// Elements of such a vector.
    pub(super) part: u32,
}

impl Chunk {
    /// The largest chunk that rows of this cache are made of. Head dimensions are even.
    pub(super) fn of(cache: &Cache) -> Self {
        let (words, parts, part) = match (is_f16(cache), cache.head_dim) {
            (true, dim) if dim.is_multiple_of(8) => (4, 2, 4),
            (true, _) => (1, 1, 2),
            (false, dim) if dim.is_multiple_of(4) => (4, 1, 4),
            (false, _) => (2, 1, 2),
        };
        Self { words, parts, part }
    }

    /// Elements.
    pub(super) fn elements(self) -> u32 {
        self.parts * self.part
    }
}

/// Whether a cache holds halves; the check allows f32 beside.
pub(super) fn is_f16(cache: &Cache) -> bool {
    cache.format == Format::F16
}
