//! The header that begins a dispatch: counts and factors for one core's program, 48 words.

/// Bytes of a header.
pub(crate) const BYTES: u32 = 192;
/// Word where the words begin that a core copies to the header of what it makes.
pub(crate) const COPIED: u32 = 32;

/// Where factors begin: f32, all before them i32.
pub(crate) const FACTORS: u32 = 16;

/// Words of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// Panels to prepare.
    PreparePanels = 0,
    /// Panels to gate.
    GeluPanels = 1,
    /// Panels to rotate.
    RopePanels = 2,
    /// Elements of the table behind the header.
    TableElements = 3,
    /// Chunks of a panel.
    Chunks = 4,
    /// Chunks of the input, 0 where there is none.
    Inputs = 5,
    /// Vectors of the input in all chunks together, without what is padding.
    InputVectors = 6,
    /// Chunks that are zeros for want of an input.
    Absent = 7,
    /// Elements of the residual, 0 where there is none.
    Residuals = 8,
    /// Chunks, where there is no residual.
    Plain = 9,
    /// Where the second of four groups of four features goes.
    SecondGroup = 10,
    /// Elements of zeros behind the last chunk.
    Zeros = 11,
    /// Elements of the results' header behind its first.
    HeaderRest = 12,
    /// Gating: chunks that are kept. Rotating: heads of queries.
    First = 13,
    /// Gating: chunks that come again. Rotating: heads of keys.
    Second = 14,
    /// Rotating: heads of values.
    Third = 15,
    /// Factor of the input's sum of squares. Rotating: of a head of queries'.
    PostScale = 16,
    /// Added to it.
    PostBias = 17,
    /// Factor of the sum's sum of squares. Rotating: of a head of keys'.
    NormScale = 18,
    /// Added to it.
    NormBias = 19,
    /// Rotating: elements of a head that come.
    HeadElements = 20,
    /// Rotating: vectors of half a head.
    HalfVectors = 21,
    /// Rotating: elements of angles.
    AngleElements = 22,
}

/// A header under way.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    words: [u32; BYTES as usize / 4],
}

impl Header {
    pub(crate) fn new() -> Self {
        Self {
            words: [0; BYTES as usize / 4],
        }
    }

    pub(crate) fn count(mut self, word: Word, count: u32) -> Self {
        self.words[word as usize] = count;
        self
    }

    pub(crate) fn factor(mut self, word: Word, factor: f32) -> Self {
        self.words[word as usize] = factor.to_bits();
        self
    }

    pub(crate) fn copied(mut self, counts: &[u32]) -> Self {
        let from = COPIED as usize;
        self.words[from..from + counts.len()].copy_from_slice(counts);
        self
    }

    /// Its bytes, padded to an element's part.
    pub(crate) fn bytes(&self, padded: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.resize(padded as usize, 0);
        bytes
    }
}
