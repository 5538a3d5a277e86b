//! Writes the tables: checks that the parts of a tokenizer fit together, then lays them out.

use super::{AddedToken, CompileError, Source, Step};
use crate::tables::{
    self, ADDED_LSTRIP, ADDED_RSTRIP, FLAG_BYTE_FALLBACK, FLAG_FUSE_UNK, FLAG_IGNORE_MERGES,
    FLAG_SPLIT, Facts, KIND_ADDED, KIND_BYTE, KIND_MODEL, KIND_SPECIAL, MAX_ADDED_BYTES, MAX_PROBE,
    MAX_TOKENS, NONE, SECTIONS, STEP_PREPEND, STEP_REPLACE, Section, merge_slot, token_slot,
};
use crate::tokenizer::{MAX_GROWTH, MAX_PREPEND_BYTES, MAX_STEPS};
use std::collections::HashMap;

/// Slots of a hash table for `n` entries: three quarters full at most.
fn slots_for(n: usize) -> usize {
    n + n / 3 + 1
}

fn inconsistent(text: String) -> CompileError {
    CompileError::Inconsistent(text)
}

#[derive(Clone, Default)]
struct Token {
    text: String,
    kind: u8,
}

pub(super) fn write(source: Source) -> Result<Vec<u8>, CompileError> {
    check_normalizer(&source.normalizer)?;
    let tokens = collect_tokens(&source)?;
    let mut sections: [Vec<u8>; SECTIONS] = Default::default();
    let mut strings = Vec::new();

    let byte_ids: HashMap<&str, u32> = source
        .vocab
        .iter()
        .map(|(text, id)| (text.as_str(), *id))
        .collect();
    for byte in 0..=u8::MAX {
        let id = byte_ids.get(format!("<0x{byte:02X}>").as_str());
        put(
            &mut sections[Section::ByteIds as usize],
            id.copied().unwrap_or(NONE),
        );
    }
    write_tokens(&source, &tokens, &mut sections);
    let token_probe = write_token_slots(&tokens, &mut sections)?;
    let merge_probe = write_merge_slots(&source, &mut sections)?;
    write_added(&source, &mut sections, &mut strings)?;
    for step in &source.normalizer {
        let (kind, from, to) = match step {
            Step::Replace { from, to } => (STEP_REPLACE, from.as_str(), to.as_str()),
            Step::Prepend(text) => (STEP_PREPEND, "", text.as_str()),
        };
        let steps = &mut sections[Section::Normalizer as usize];
        put(steps, kind);
        for text in [from, to] {
            let (offset, bytes) = intern(&mut strings, text);
            put(steps, offset);
            put(steps, bytes);
        }
    }
    let (split_offset, split_bytes) = intern(&mut strings, source.split.as_deref().unwrap_or(""));
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let facts = Facts {
        flags: flag(source.fuse_unk, FLAG_FUSE_UNK)
            | flag(source.byte_fallback, FLAG_BYTE_FALLBACK)
            | flag(source.ignore_merges, FLAG_IGNORE_MERGES)
            | flag(source.split.is_some(), FLAG_SPLIT),
        n_tokens: tokens.len() as u32,
        unk: source.unk.unwrap_or(NONE),
        token_probe,
        merge_probe,
        strip_count: source.decoder.strip.map_or(0, |(_, count)| count),
        strip_char: source.decoder.strip.map_or(0, |(c, _)| u32::from(c)),
        split_offset,
        split_bytes,
    };
    for word in facts.to_words() {
        put(&mut sections[Section::Facts as usize], word);
    }
    sections[Section::Strings as usize] = strings;
    tables::assemble(&sections)
        .ok_or_else(|| inconsistent("the vocabulary's tables do not fit in 4 GiB".to_owned()))
}

fn put(section: &mut Vec<u8>, word: u32) {
    section.extend(word.to_le_bytes());
}

/// Appends a string; gives its place.
fn intern(strings: &mut Vec<u8>, text: &str) -> (u32, u32) {
    let place = (strings.len() as u32, text.len() as u32);
    strings.extend(text.as_bytes());
    place
}

/// Refuses a normalizer that the encoder would cut short.
fn check_normalizer(steps: &[Step]) -> Result<(), CompileError> {
    let mut growth = 1;
    let mut prepended = 0;
    for step in steps {
        match step {
            Step::Replace { from, to } => growth *= to.len().div_ceil(from.len().max(1)).max(1),
            Step::Prepend(text) => prepended += text.len(),
        }
        if growth * prepended > MAX_PREPEND_BYTES || growth > MAX_GROWTH {
            break;
        }
    }
    if steps.len() > MAX_STEPS || growth > MAX_GROWTH || growth * prepended > MAX_PREPEND_BYTES {
        return Err(CompileError::Unsupported {
            component: "a normalizer that makes texts so much longer".to_owned(),
            supported: "a few steps that grow a text by up to 32 times are",
        });
    }
    Ok(())
}

/// All tokens by id; ids between them that are not in use have kind 0.
fn collect_tokens(source: &Source) -> Result<Vec<Token>, CompileError> {
    let vocab = source
        .vocab
        .iter()
        .map(|(text, id)| (*id, text, KIND_MODEL));
    let added = source.added.iter().map(|token| {
        let special = if token.special { KIND_SPECIAL } else { 0 };
        (token.id, &token.content, KIND_ADDED | special)
    });
    let highest = vocab
        .clone()
        .map(|t| t.0)
        .chain(added.clone().map(|t| t.0))
        .max();
    let Some(highest) = highest else {
        return Err(inconsistent("the vocabulary is empty".to_owned()));
    };
    if highest >= MAX_TOKENS {
        return Err(inconsistent(format!(
            "token id {highest} is too large; {MAX_TOKENS} tokens are supported"
        )));
    }
    let mut tokens = vec![Token::default(); highest as usize + 1];
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(source.vocab.len());
    for (id, text, kind) in vocab.chain(added) {
        if let Some(other) = ids.insert(text, id).filter(|other| *other != id) {
            return Err(inconsistent(format!(
                "token {text:?} has the ids {other} and {id}"
            )));
        }
        let token = &mut tokens[id as usize];
        if token.kind != 0 && token.text != *text {
            return Err(inconsistent(format!(
                "tokens {:?} and {text:?} have the same id {id}",
                token.text
            )));
        }
        if token.kind & kind != 0 {
            return Err(inconsistent(format!("token {text:?} is there twice")));
        }
        token.kind |= kind;
        token.text.clone_from(text);
    }
    Ok(tokens)
}

fn write_tokens(source: &Source, tokens: &[Token], sections: &mut [Vec<u8>; SECTIONS]) {
    let rules = &source.decoder;
    let (mut text_bytes, mut shown_bytes) = (0, 0);
    for token in tokens {
        let mut shown = token.text.clone();
        for (from, to) in &rules.replace {
            if shown.contains(from.as_str()) {
                shown = shown.replace(from.as_str(), to);
            }
        }
        let byte = byte_of(&shown).filter(|_| rules.byte_fallback && token.kind != 0);
        let kind = token.kind | if byte.is_some() { KIND_BYTE } else { 0 };
        let shown = byte.map_or(shown.into_bytes(), |byte| vec![byte]);
        put(&mut sections[Section::TextOffsets as usize], text_bytes);
        put(&mut sections[Section::ShownOffsets as usize], shown_bytes);
        text_bytes += token.text.len() as u32;
        shown_bytes += shown.len() as u32;
        sections[Section::Kinds as usize].push(kind);
        sections[Section::Text as usize].extend(token.text.as_bytes());
        sections[Section::Shown as usize].extend(shown);
    }
    put(&mut sections[Section::TextOffsets as usize], text_bytes);
    put(&mut sections[Section::ShownOffsets as usize], shown_bytes);
}

/// The byte that a token of the form `<0xNN>` stands for when decoding; lower-case digits count there too.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn write_token_slots(
    tokens: &[Token],
    sections: &mut [Vec<u8>; SECTIONS],
) -> Result<u32, CompileError> {
    let used = tokens.iter().filter(|token| token.kind != 0).count();
    let mut slots = vec![NONE; slots_for(used)];
    let mut longest = 0;
    for (id, token) in tokens.iter().enumerate() {
        if token.kind != 0 {
            let start = token_slot(token.text.as_bytes(), slots.len());
            let (slot, probes) = free_slot(start, slots.len(), |slot| slots[slot] == NONE)?;
            slots[slot] = id as u32;
            longest = longest.max(probes);
        }
    }
    for id in slots {
        put(&mut sections[Section::TokenSlots as usize], id);
    }
    // One more than any entry needs, so that a search for an absent one sees the empty slot behind.
    Ok(longest + 1)
}

fn write_merge_slots(
    source: &Source,
    sections: &mut [Vec<u8>; SECTIONS],
) -> Result<u32, CompileError> {
    // Of a pair that is there twice the later rank holds, as in the reference.
    let mut last_rank = HashMap::with_capacity(source.merges.len());
    for (rank, (left, right, _)) in source.merges.iter().enumerate() {
        last_rank.insert((*left, *right), rank);
    }
    let mut slots = vec![[NONE; 4]; slots_for(last_rank.len())];
    let mut longest = 0;
    for (rank, (left, right, merged)) in source.merges.iter().enumerate() {
        if last_rank.get(&(*left, *right)) == Some(&rank) {
            let start = merge_slot(*left, *right, slots.len());
            let (slot, probes) = free_slot(start, slots.len(), |slot| slots[slot][0] == NONE)?;
            slots[slot] = [*left, *right, rank as u32, *merged];
            longest = longest.max(probes);
        }
    }
    for word in slots.into_iter().flatten() {
        put(&mut sections[Section::MergeSlots as usize], word);
    }
    Ok(longest + 1)
}

/// The first free slot from `start` on, and how many slots were looked at.
fn free_slot(
    start: usize,
    n_slots: usize,
    is_free: impl Fn(usize) -> bool,
) -> Result<(usize, u32), CompileError> {
    let mut slot = start;
    for probes in 1..MAX_PROBE {
        if is_free(slot) {
            return Ok((slot, probes));
        }
        slot = (slot + 1) % n_slots;
    }
    Err(inconsistent(
        "too many tokens with the same hash".to_owned(),
    ))
}

fn write_added(
    source: &Source,
    sections: &mut [Vec<u8>; SECTIONS],
    strings: &mut Vec<u8>,
) -> Result<(), CompileError> {
    for (normalized, section) in [(false, Section::RawAdded), (true, Section::NormalizedAdded)] {
        // The reference keeps special tokens before others; of equal spellings the first one counts.
        let of_kind = |special: bool| {
            let tokens = source.added.iter();
            tokens.filter(move |t| {
                t.normalized == normalized && t.special == special && !t.content.is_empty()
            })
        };
        let mut list: Vec<(String, &AddedToken)> = of_kind(true)
            .chain(of_kind(false))
            .map(|token| {
                let spelling = if normalized {
                    normalized_spelling(&source.normalizer, &token.content)
                } else {
                    token.content.clone()
                };
                (spelling, token)
            })
            .collect();
        list.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        list.dedup_by(|later, first| later.0 == first.0);
        for (spelling, token) in list {
            if spelling.len() > MAX_ADDED_BYTES || spelling.is_empty() {
                return Err(inconsistent(format!(
                    "added token {} is {} bytes long; 1 to {MAX_ADDED_BYTES} are supported",
                    token.id,
                    spelling.len()
                )));
            }
            let (offset, bytes) = intern(strings, &spelling);
            let flags = if token.lstrip { ADDED_LSTRIP } else { 0 }
                | if token.rstrip { ADDED_RSTRIP } else { 0 };
            for word in [offset, bytes, token.id, flags] {
                put(&mut sections[section as usize], word);
            }
        }
    }
    Ok(())
}

fn normalized_spelling(steps: &[Step], text: &str) -> String {
    steps.iter().fold(text.to_owned(), |text, step| match step {
        Step::Replace { from, to } => text.replace(from.as_str(), to),
        Step::Prepend(prefix) if !text.is_empty() => format!("{prefix}{text}"),
        Step::Prepend(_) => text,
    })
}
