//! The tokenizer itself: text to ids, ids to text, and questions about single tokens.

use crate::added::{Matcher, Segment};
use crate::bpe::Merger;
use crate::decode::Decoder;
use crate::tables::{
    FLAG_SPLIT, KIND_SPECIAL, Layout, LoadError, STEP_PREPEND, STEP_REPLACE, Section, Tables,
};
use std::borrow::Cow;
use std::sync::Arc;

/// Bytes that the tokenizer shares with whoever mapped them.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Marks, in protected text, that the special token behind it is meant as text. A noncharacter: Unicode reserves it for
/// use inside programs.
const GUARD: char = '\u{fdd0}';

/// A normalizer cannot make a text longer than this many times; the compiler refuses one that could.
pub(crate) const MAX_GROWTH: usize = 32;
/// Nor add more than this to a text.
pub(crate) const MAX_PREPEND_BYTES: usize = 1024;

/// Steps a normalizer can have.
pub(crate) const MAX_STEPS: usize = 16;

/// Which added tokens are recognised in a text.
#[derive(Clone, Copy)]
enum Recognise<'a> {
    All,
    /// None that is special.
    Plain,
    /// None that is special and starts at one of these places.
    AllBut(&'a [usize]),
}

/// A loaded tokenizer; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    bytes: SharedBytes,
    layout: Layout,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("facts", &self.layout.facts)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Uses tables made by the compiler where they are. Reads the header only.
    ///
    /// # Errors
    /// When the bytes are no such tables, or cut.
    pub fn load(bytes: SharedBytes) -> Result<Self, LoadError> {
        let layout = Layout::read((*bytes).as_ref())?;
        Ok(Self { bytes, layout })
    }

    /// The same over bytes of its own.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_vec(bytes: Vec<u8>) -> Result<Self, LoadError> {
        Self::load(Arc::new(bytes))
    }

    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables::new(&self.layout, (*self.bytes).as_ref())
    }

    /// Ids of a text. Special tokens spelled out in it are recognised, so that a rendered chat template works; for text
    /// of strangers see [`Tokenizer::encode_plain`] and [`Tokenizer::protect`]. Nothing is added around the text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_with(text, Recognise::All)
    }

    /// Ids of a text in which special tokens are ordinary characters: nobody can end a turn by writing its token.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.encode_with(text, Recognise::Plain)
    }

    /// Marks the special tokens spelled out in `text` as ordinary text for [`Tokenizer::encode_protected`].
    ///
    /// Meant for the messages of a chat before they are put into a template, whose own special tokens stay special.
    pub fn protect<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let tables = self.tables();
        let matcher = Matcher::new(&tables, Section::RawAdded);
        let mut out = String::new();
        let mut done = 0;
        for (at, character) in text.char_indices() {
            // Guards are doubled, so that one in front of a token is told from one in the text.
            let is_special = || {
                matcher
                    .longest_at(&text.as_bytes()[at..])
                    .is_some_and(|(added, _)| tables.kind(added.id) & KIND_SPECIAL != 0)
            };
            if character == GUARD || is_special() {
                out.push_str(&text[done..at]);
                out.push(GUARD);
                done = at;
            }
        }
        if done == 0 && out.is_empty() {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// Ids of a text with protected parts; elsewhere special tokens are recognised as in [`Tokenizer::encode`].
    pub fn encode_protected(&self, text: &str) -> Vec<u32> {
        if !text.contains(GUARD) {
            return self.encode(text);
        }
        let mut plain = String::with_capacity(text.len());
        let mut guarded = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character == GUARD {
                if characters.as_str().starts_with(GUARD) {
                    characters.next();
                } else {
                    guarded.push(plain.len());
                    continue;
                }
            }
            plain.push(character);
        }
        self.encode_with(&plain, Recognise::AllBut(&guarded))
    }

    fn encode_with(&self, text: &str, recognise: Recognise<'_>) -> Vec<u32> {
        let tables = self.tables();
        let raw = Matcher::new(&tables, Section::RawAdded);
        let normalized = Matcher::new(&tables, Section::NormalizedAdded);
        let is_special = |id| tables.kind(id) & KIND_SPECIAL != 0;
        let wanted = |id, at: usize| match recognise {
            Recognise::All => true,
            Recognise::Plain => !is_special(id),
            Recognise::AllBut(places) => !is_special(id) || places.binary_search(&at).is_err(),
        };
        // The compiler lets no special token into the normalized list.
        let wanted_inside = |id, _| !is_special(id);

        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let mut merger = Merger::default();
        let (mut outer, mut inner) = (Vec::new(), Vec::new());
        let mut buffers = (String::new(), String::new());
        raw.split(text, wanted, &mut outer);
        for segment in &outer {
            match *segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(start, end) => {
                    let text = normalize(&tables, &text[start..end], &mut buffers);
                    normalized.split(text, wanted_inside, &mut inner);
                    for segment in &inner {
                        match *segment {
                            Segment::Token(id) => ids.push(id),
                            Segment::Text(start, end) => {
                                pieces(&tables, &text[start..end], |piece| {
                                    merger.encode(&tables, piece, &mut ids);
                                });
                            }
                        }
                    }
                }
            }
        }
        ids.retain(|id| *id < tables.facts.n_tokens);
        ids
    }

    /// Text of a whole sequence; special tokens are left out unless `show_special`.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> String {
        let mut decoder = Decoder::new(self, show_special);
        let mut text = String::with_capacity(ids.len() * 4);
        for id in ids {
            decoder.push(self, *id, &mut text);
        }
        decoder.finish(self, &mut text);
        text
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        self.layout.facts.n_tokens
    }

    /// What a token adds to a text: one byte for a byte token. `None` for an id not in use.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let tables = self.tables();
        (tables.kind(id) != 0).then(|| tables.shown(id)).flatten()
    }

    /// The token's spelling in the vocabulary, with `▁` for a space. `None` for an id not in use.
    pub fn token_text(&self, id: u32) -> Option<&[u8]> {
        let tables = self.tables();
        (tables.kind(id) != 0).then(|| tables.text(id)).flatten()
    }

    /// Whether a token has a meaning beyond text.
    pub fn is_special(&self, id: u32) -> bool {
        self.tables().kind(id) & KIND_SPECIAL != 0
    }

    /// Id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.tables().token_id(text.as_bytes())
    }
}

/// Applies the normalizer to a stretch between added tokens.
fn normalize<'b>(
    tables: &Tables<'_>,
    text: &'b str,
    (current, next): &'b mut (String, String),
) -> &'b str {
    let mut steps = tables.normalizer().take(MAX_STEPS).peekable();
    if steps.peek().is_none() {
        return text;
    }
    let limit = text.len() * MAX_GROWTH + MAX_PREPEND_BYTES;
    current.clear();
    current.push_str(text);
    for step in steps {
        next.clear();
        match step.kind {
            STEP_REPLACE if !step.from.is_empty() => {
                let mut rest = current.as_str();
                while let Some(at) = rest.find(step.from) {
                    next.push_str(&rest[..at]);
                    if next.len() + step.to.len() <= limit {
                        next.push_str(step.to);
                    }
                    rest = &rest[at + step.from.len()..];
                }
                next.push_str(rest);
            }
            STEP_PREPEND if !current.is_empty() => {
                if current.len() + step.to.len() <= limit {
                    next.push_str(step.to);
                }
                next.push_str(current);
            }
            _ => continue,
        }
        std::mem::swap(current, next);
    }
    current
}

/// Cuts a text behind every occurrence of the splitter's pattern.
fn pieces(tables: &Tables<'_>, text: &str, mut each: impl FnMut(&str)) {
    let facts = tables.facts;
    let pattern = tables.string(facts.split_offset, facts.split_bytes);
    let pattern = std::str::from_utf8(pattern).unwrap_or("");
    if !tables.flag(FLAG_SPLIT) || pattern.is_empty() {
        each(text);
        return;
    }
    // An occurrence belongs to the piece before it; one at the start, or right behind another, stands alone.
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(pattern)
            .map_or(rest.len(), |at| at + pattern.len());
        each(&rest[..end]);
        rest = &rest[end..];
    }
}
