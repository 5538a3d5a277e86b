//! Reads a SentencePiece tokenizer.model: the few protobuf fields that matter, by hand.
//!
//! Field numbers are those of sentencepiece_model.proto. The model has scores where tokenizer.json has merges; they are
//! turned into merges as the converter of the `transformers` library does: every way to cut a piece in two pieces is a
//! merge, those of higher score first, then longer left halves, then longer right halves, then lower ids.

use super::{AddedToken, CompileError, DecoderRules, Source, Step};
use std::cmp::Reverse;
use std::collections::HashMap;

const SUPPORTED: &str =
    "only BPE models without text normalization are; give the tokenizer.json beside it";
const KIND_UNKNOWN: u64 = 2;
const KIND_CONTROL: u64 = 3;
const KIND_USER_DEFINED: u64 = 4;
/// User-defined pieces that the converter makes special.
const TURN_TOKENS: [&str; 2] = ["<start_of_turn>", "<end_of_turn>"];
const SPACE: &str = "\u{2581}";

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// A field's value; a message, string or array is its bytes.
enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Fields of one protobuf message.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message starts in the file, for errors.
    base: usize,
}

impl<'a> Message<'a> {
    fn new(bytes: &'a [u8], base: usize) -> Self {
        Self { bytes, at: 0, base }
    }

    fn damaged(&self) -> CompileError {
        CompileError::Protobuf(self.base + self.at)
    }

    fn varint(&mut self) -> Result<u64, CompileError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.damaged())?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], CompileError> {
        let end = usize::try_from(n)
            .ok()
            .and_then(|n| self.at.checked_add(n))
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| self.damaged())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// The next field: its number, where its value starts in the file, and its value.
    fn next(&mut self) -> Result<Option<(u64, usize, Field<'a>)>, CompileError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let n = self.varint()?;
                let start = self.base + self.at;
                return Ok(Some((key >> 3, start, Field::Bytes(self.take(n)?))));
            }
            5 => {
                let bytes = self.take(4)?.try_into().map_err(|_| self.damaged())?;
                Field::Fixed32(u32::from_le_bytes(bytes))
            }
            _ => return Err(self.damaged()),
        };
        Ok(Some((key >> 3, self.base + self.at, field)))
    }
}

fn read_piece(bytes: &[u8], base: usize) -> Result<Piece, CompileError> {
    let mut message = Message::new(bytes, base);
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: 1,
    };
    while let Some((number, place, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                piece.text = std::str::from_utf8(text)
                    .map_err(|_| CompileError::Protobuf(place))?
                    .to_owned();
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Ok(piece)
}

pub(super) fn read(model: &[u8]) -> Result<Source, CompileError> {
    let unsupported = |component: String| CompileError::Unsupported {
        component,
        supported: SUPPORTED,
    };
    let mut pieces = Vec::new();
    let mut byte_fallback = false;
    // What the proto says where a field is absent.
    let (mut kind, mut dummy_prefix, mut squeeze, mut charsmap) = (1, true, true, false);
    let mut message = Message::new(model, 0);
    while let Some((number, place, field)) = message.next()? {
        let Field::Bytes(bytes) = field else { continue };
        let mut inner = Message::new(bytes, place);
        match number {
            1 => pieces.push(read_piece(bytes, place)?),
            2 => {
                while let Some((number, _, field)) = inner.next()? {
                    match (number, field) {
                        (3, Field::Varint(value)) => kind = value,
                        (35, Field::Varint(value)) => byte_fallback = value != 0,
                        _ => {}
                    }
                }
            }
            3 => {
                while let Some((number, _, field)) = inner.next()? {
                    match (number, field) {
                        (2, Field::Bytes(map)) => charsmap = !map.is_empty(),
                        (3, Field::Varint(value)) => dummy_prefix = value != 0,
                        (4, Field::Varint(value)) => squeeze = value != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if kind != 2 {
        return Err(unsupported(format!("a SentencePiece model of type {kind}")));
    }
    if charsmap {
        return Err(unsupported("a normalization table".to_owned()));
    }
    if squeeze {
        return Err(unsupported("remove_extra_whitespaces".to_owned()));
    }
    convert(pieces, byte_fallback, dummy_prefix)
}

fn convert(
    mut pieces: Vec<Piece>,
    byte_fallback: bool,
    dummy_prefix: bool,
) -> Result<Source, CompileError> {
    let n_pieces = u32::try_from(pieces.len())
        .map_err(|_| CompileError::Inconsistent("too many pieces".to_owned()))?;
    if let Some(piece) = pieces.iter().find(|piece| piece.score.is_nan()) {
        return Err(CompileError::Inconsistent(format!(
            "the score of {:?} is not a number",
            piece.text
        )));
    }
    let merges = merges(&pieces);
    let unk = (0..n_pieces)
        .zip(&pieces)
        .find(|(_, piece)| piece.kind == KIND_UNKNOWN)
        .map(|(id, _)| id);
    let added = (0..n_pieces)
        .zip(&pieces)
        .filter(|(_, piece)| [KIND_UNKNOWN, KIND_CONTROL, KIND_USER_DEFINED].contains(&piece.kind))
        .map(|(id, piece)| AddedToken {
            id,
            content: piece.text.clone(),
            special: piece.kind != KIND_USER_DEFINED || TURN_TOKENS.contains(&piece.text.as_str()),
            normalized: false,
            lstrip: false,
            rstrip: false,
        })
        .collect();
    let vocab = pieces.drain(..).map(|piece| piece.text).zip(0..n_pieces);
    let mut normalizer = vec![Step::Replace {
        from: " ".to_owned(),
        to: SPACE.to_owned(),
    }];
    if dummy_prefix {
        normalizer.insert(0, Step::Prepend(SPACE.to_owned()));
    }
    Ok(Source {
        vocab: vocab.collect(),
        merges,
        added,
        normalizer,
        split: None,
        unk,
        fuse_unk: true,
        byte_fallback,
        ignore_merges: false,
        decoder: DecoderRules {
            replace: vec![(SPACE.to_owned(), " ".to_owned())],
            byte_fallback,
            strip: dummy_prefix.then_some((' ', 1)),
        },
    })
}

/// Left, right and merged id, best first.
fn merges(pieces: &[Piece]) -> Vec<(u32, u32, u32)> {
    let ids: HashMap<&str, u32> = pieces
        .iter()
        .map(|piece| piece.text.as_str())
        .zip(0..)
        .collect();
    let mut found = Vec::new();
    for (piece, merged) in pieces.iter().zip(0u32..) {
        let n_characters = piece.text.chars().count();
        let cuts = piece.text.char_indices().map(|(at, _)| at).enumerate();
        for (left_chars, at) in cuts.skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                found.push(Cut {
                    // So that -0 and 0 are the same score.
                    score: piece.score + 0.0,
                    left_chars,
                    right_chars: n_characters - left_chars,
                    ids: (left, right, merged),
                });
            }
        }
    }
    let key = |cut: &Cut| {
        let (left, right, merged) = cut.ids;
        let longer_first = Reverse((cut.left_chars, cut.right_chars));
        (longer_first, merged, left, right)
    };
    found.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| key(a).cmp(&key(b)))
    });
    found.into_iter().map(|cut| cut.ids).collect()
}

/// A way to cut a piece in two.
struct Cut {
    score: f32,
    left_chars: usize,
    right_chars: usize,
    /// Left, right, whole.
    ids: (u32, u32, u32),
}
