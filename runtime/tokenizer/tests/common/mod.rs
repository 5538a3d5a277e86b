//! What the tests share: the story tokenizer and variants of it, a large made-up one, and strings that are hard on
//! tokenizers.

#![allow(dead_code, reason = "each test binary uses its part")]

use gembin_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

pub const STORY_JSON: &str =
    include_str!("../../../../testdata/models/story-gemma3/tokenizer.json");
pub const VALID: &str = include_str!("../../../../testdata/models/story-gemma3/valid.txt");

pub fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/models/story-gemma3")
        .join(name)
}

/// The same tokenizer twice.
pub struct Pair {
    pub name: &'static str,
    pub ours: Tokenizer,
    pub reference: tokenizers::Tokenizer,
}

pub fn both(name: &'static str, json: &[u8]) -> Pair {
    let tables = gembin_tokenizer::compile(json).unwrap_or_else(|error| panic!("{name}: {error}"));
    Pair {
        name,
        ours: Tokenizer::from_vec(tables).expect("own tables load"),
        reference: tokenizers::Tokenizer::from_bytes(json).expect("reference reads it"),
    }
}

pub fn parse(json: &str) -> Value {
    serde_json::from_str(json).expect("is JSON")
}

pub fn variant(story: &Value, change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut json = story.clone();
    change(&mut json);
    serde_json::to_vec(&json).expect("serializes")
}

pub fn without_bytes(json: &mut Value) {
    json["model"]["byte_fallback"] = false.into();
}

pub fn unfused(json: &mut Value) {
    without_bytes(json);
    json["model"]["fuse_unk"] = false.into();
}

pub fn ignore_merges(json: &mut Value) {
    json["model"]["ignore_merges"] = true.into();
    json["model"]["merges"]
        .as_array_mut()
        .expect("merges")
        .truncate(300);
    split(json);
}

pub fn prepend(json: &mut Value) {
    let replace = json["normalizer"].clone();
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"}, replace]});
    json["pre_tokenizer"] = Value::Null;
    let decoders = json["decoder"]["decoders"]
        .as_array_mut()
        .expect("decoders");
    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
}

/// Spaces stay, and end pieces.
pub fn split(json: &mut Value) {
    json["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": "\n"}, "content": "\u{2581} "});
}

pub fn odd_added(json: &mut Value) {
    let added = json["added_tokens"].as_array_mut().expect("added tokens");
    let token = |id: u32, content: &str, flags: [bool; 4]| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": flags[0], "rstrip": flags[1],
               "normalized": flags[2], "special": flags[3]})
    };
    added.push(token(1024, "<mask>", [true, false, false, true]));
    added.push(token(1025, "\n\n", [false, true, false, false]));
    added.push(token(1026, " the ", [false, false, true, false]));
    added.push(token(1027, "<start_of", [true, true, false, false]));
    added.push(token(1028, "a the", [false, true, true, false]));
}

pub fn merge_lines(json: &mut Value) {
    let merges = json["model"]["merges"].as_array_mut().expect("merges");
    for merge in merges.iter_mut() {
        let line = format!(
            "{} {}",
            merge[0].as_str().expect("left"),
            merge[1].as_str().expect("right")
        );
        *merge = line.into();
    }
}

/// SplitMix64: the same strings in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A token, often one of the bytes that start and continue characters.
    pub fn token(&mut self, vocab: u32) -> u32 {
        match self.below(4) {
            0 => 7 + 0xe0 + self.below(21) as u32,
            1 => 7 + 0x80 + self.below(64) as u32,
            2 => self.below(300) as u32,
            _ => self.below(vocab as usize + 3) as u32,
        }
    }
}

const FRAGMENTS: &[&str] = &[
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "a",
    "e",
    "he",
    "the",
    " the ",
    "a the",
    " was",
    "Once upon",
    "<eos>",
    "<bos>",
    "<pad>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of",
    "<mask>",
    " <mask> ",
    "<",
    ">",
    "<0x41>",
    "<0x00>",
    "\u{0}",
    "\u{1}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{200d}",
    "\u{202e}",
    "\u{2581}",
    "\u{2581}\u{2581}",
    "\u{fffd}",
    "\u{feff}",
    "é",
    "e\u{301}",
    "ß",
    "中文",
    "日本語",
    "한국어",
    "العربية",
    "हिन्दी",
    "😀",
    "👩‍👩‍👧",
    "🇩🇪",
    "\u{10ffff}",
    "\u{fdd0}",
    "0",
    "1234",
    "\"",
    "\\",
    "{}",
    "ed",
    "ing",
    ".",
    ",",
];

/// Strings of such fragments and of arbitrary characters.
pub fn strings(seed: u64, count: usize) -> impl Iterator<Item = String> {
    let mut random = Random(seed);
    let words: Vec<&str> = VALID.split_whitespace().take(2000).collect();
    (0..count).map(move |_| {
        let mut text = String::new();
        for _ in 0..random.below(14) {
            match random.below(8) {
                0..4 => text.push_str(FRAGMENTS[random.below(FRAGMENTS.len())]),
                4 | 5 => {
                    text.push(' ');
                    text.push_str(words[random.below(words.len())]);
                }
                6 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
                _ => text.extend(char::from_u32(random.below(0x300) as u32)),
            }
        }
        text
    })
}

/// A tokenizer.json of `n_tokens` tokens and `n_merges` merges, with the proportions of a large multilingual one.
pub fn big_json(n_tokens: usize, n_merges: usize) -> Vec<u8> {
    let mut random = Random(99);
    let mut vocab: Vec<String> = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    .map(str::to_owned)
    .to_vec();
    vocab.extend((0..1000).map(|n| format!("<unused{n}>")));
    vocab.extend((1..32).map(|n| "\n".repeat(n)));
    vocab.extend((2..32).map(|n| "\u{2581}".repeat(n)));
    let n_added = vocab.len();
    vocab.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let characters = ('!'..='~')
        .chain('¡'..='ɏ')
        .chain('А'..='я')
        .chain('一'..'丰')
        .chain(['\u{2581}']);
    vocab.extend(characters.map(String::from));

    let mut seen: HashSet<String> = vocab.iter().cloned().collect();
    let mut pool: Vec<String> = "etaoinshrdlucmfwypvbgkjqxz\u{2581}"
        .chars()
        .map(String::from)
        .collect();
    while vocab.len() < n_tokens {
        // Biased towards short ones; mostly so that what is left without the first letter is a token too.
        let pick = |random: &mut Random, n: usize| random.below(n).min(random.below(n));
        let left = pool[pick(&mut random, pool.len())].clone();
        let text = if random.below(20) > 0 {
            let mut tail: String = left
                .chars()
                .skip(usize::from(left.chars().count() > 1))
                .collect();
            tail.push_str(&pool[random.below(20)]);
            if seen.contains(&tail) {
                left + &pool[random.below(20)]
            } else {
                tail
            }
        } else {
            left + &pool[pick(&mut random, pool.len())]
        };
        let is_word = !text.chars().skip(1).any(|c| c == '\u{2581}') && text.chars().count() <= 16;
        if is_word && seen.insert(text.clone()) {
            pool.push(text.clone());
            vocab.push(text);
        }
    }
    let ids: HashMap<&str, usize> = vocab.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for token in &vocab {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push([left, right]);
            }
        }
    }
    assert!(merges.len() >= n_merges, "{} merges", merges.len());
    merges.truncate(n_merges);
    let added: Vec<Value> = (0..n_added)
        .map(|id| {
            json!({"id": id, "content": vocab[id], "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": vocab[id].starts_with('<')})
        })
        .collect();
    let mut json = parse(STORY_JSON);
    json["added_tokens"] = added.into();
    json["model"]["vocab"] = json!(ids);
    json["model"]["merges"] = json!(merges);
    serde_json::to_vec(&json).expect("serializes")
}
