//! The header that begins a dispatch: counts and factors for one core's program, 64 words.
//!
//! A panel is worked on in three stages. Each does what its words say, so many times, in this order; between stages the
//! column's cores know each other's sums and maxima. What work wants of the stages is in `prepare` and `gelu`.

/// Bytes of a header.
pub(crate) const BYTES: u32 = 256;
/// Word where the words begin that a core copies to the header of what it makes.
pub(crate) const COPIED: u32 = 48;
/// Stages of a panel.
pub(crate) const STAGES: u32 = 3;
/// Words of a stage.
pub(crate) const STAGE_WORDS: u32 = 8;
/// Words of a stage's factors.
pub(crate) const STAGE_FACTORS: u32 = 2;

/// Words of the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// Panels to norm or to gate, and to quantize.
    Panels = 0,
    /// Panels to rotate.
    RopePanels = 1,
    /// Elements of the table behind the header.
    TableElements = 2,
    /// Where the second of four groups of four features goes.
    SecondGroup = 3,
    /// Elements of zeros behind the last chunk.
    Zeros = 4,
    /// Elements of the results' header behind its first.
    HeaderRest = 5,
    /// Vectors of the input in all chunks together, without what is padding.
    InputVectors = 6,
    /// 1 where there is a residual.
    HasResidual = 7,
    /// Stages' words.
    Stages = 8,
    /// Rotating: elements of a head that come; half as many as go.
    HeadElements = 32,
    /// Rotating: vectors of half a head.
    HalfVectors = 33,
    /// Rotating: elements of a panel's angles.
    AngleElements = 34,
    /// Factors: of each stage two, f32. Rotating: of queries, of keys.
    Factors = 40,
}

/// Words of a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StageWord {
    /// 1: begins the panel's activations.
    Begins = 0,
    /// Chunks of the input that are kept.
    Inputs = 1,
    /// Chunks that are zeros for want of an input.
    Absent = 2,
    /// Halves of chunks that are normed and added to the residual.
    Halves = 3,
    /// Chunks that the next two words speak of.
    Chunks = 4,
    /// The first of them that is gated.
    GatesFrom = 5,
    /// The first of them that is quantized.
    QuantizesFrom = 6,
    /// 1: sums and maxima are exchanged. The factor is then `1 / sqrt(sum * scale + bias)`.
    Exchanges = 7,
}

/// Words of a kind of heads, in the place of a stage's: queries, keys, values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KindWord {
    /// Heads.
    Heads = 0,
    /// 1: they are normed and rotated.
    Rotates = 1,
    /// 1: they go as they lie.
    Copies = 2,
    /// 1: they go with tokens and features exchanged.
    Transposes = 3,
}

impl From<StageWord> for u32 {
    fn from(word: StageWord) -> u32 {
        word as u32
    }
}

impl From<KindWord> for u32 {
    fn from(word: KindWord) -> u32 {
        word as u32
    }
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

    pub(crate) fn stage(mut self, stage: u32, word: impl Into<u32>, count: u32) -> Self {
        let at = Word::Stages as u32 + stage * STAGE_WORDS + word.into();
        self.words[at as usize] = count;
        self
    }

    /// A stage's scale and bias.
    pub(crate) fn factors(mut self, stage: u32, [scale, bias]: [f32; 2]) -> Self {
        let at = (Word::Factors as u32 + stage * STAGE_FACTORS) as usize;
        self.words[at] = scale.to_bits();
        self.words[at + 1] = bias.to_bits();
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
