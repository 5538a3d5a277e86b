//! Damaged tables give wrong tokens at worst; descriptions that are not understood are refused by name.

mod common;

use common::{Random, STORY_JSON, parse, strings, variant};
use gembin_tokenizer::{Tokenizer, compile, compile_sentencepiece};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static STORY: LazyLock<Vec<u8>> =
    LazyLock::new(|| compile(STORY_JSON.as_bytes()).expect("compiles"));
static ODD: LazyLock<Vec<u8>> =
    LazyLock::new(|| compile(&variant(&parse(STORY_JSON), common::odd_added)).expect("compiles"));
static PREPEND: LazyLock<Vec<u8>> =
    LazyLock::new(|| compile(&variant(&parse(STORY_JSON), common::prepend)).expect("compiles"));

/// Everything that a tokenizer can do; every id must be one of the vocabulary.
fn exercise(tables: Vec<u8>, text: &str) {
    let Ok(tokenizer) = Tokenizer::from_vec(tables) else {
        return;
    };
    let ids = tokenizer.encode(text);
    assert!(ids.iter().all(|id| *id < tokenizer.vocab_size()));
    tokenizer.encode_plain(text);
    tokenizer.encode_protected(&tokenizer.protect(text));
    tokenizer.decode(&ids, true);
    let any: Vec<u32> = (0..100).chain([tokenizer.vocab_size(), u32::MAX]).collect();
    tokenizer.decode(&any, true);
    for id in any {
        tokenizer.token_bytes(id);
        tokenizer.token_text(id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_tables_never_panic(
        which in 0..3usize,
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..40),
        in_head in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        seed in any::<u64>(),
    ) {
        let mut tables = [&STORY, &ODD, &PREPEND][which].to_vec();
        // The header and the facts decide most: damage them in half of the cases.
        let reach = if in_head { 160 } else { tables.len() - 4 };
        for (place, word) in words {
            let at = place.index(reach);
            // Small numbers are the likelier to be believed.
            let word = if word % 3 == 0 { word % 5000 } else { word };
            tables[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(cut) = cut {
            tables.truncate(cut.index(tables.len()));
        }
        for text in strings(seed, 3) {
            exercise(tables.clone(), &text);
        }
    }

    #[test]
    fn damaged_models_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut model = std::fs::read(common::testdata("tokenizer.model")).expect("is there");
        for (place, byte) in flips {
            let at = place.index(model.len());
            model[at] = byte;
        }
        if let Some(cut) = cut {
            model.truncate(cut.index(model.len()));
        }
        if let Ok(tables) = compile_sentencepiece(&model) {
            exercise(tables, "Once upon a time<eos> 中");
        }
    }
}

#[test]
fn every_cut_is_refused() {
    for len in 0..STORY.len() {
        // The padding of the last section may go.
        if STORY.len() - len > 16 {
            assert!(
                Tokenizer::from_vec(STORY[..len].to_vec()).is_err(),
                "cut at {len}"
            );
        }
    }
}

#[test]
fn long_texts_do_not_hang_even_with_damaged_tables() {
    let mut random = Random(8);
    for round in 0..20 {
        let mut tables = ODD.clone();
        for _ in 0..round * 20 {
            let at = 160 + random.below(tables.len() - 164);
            tables[at..at + 4].copy_from_slice(&(random.below(2000) as u32).to_le_bytes());
        }
        let start = Instant::now();
        for text in [
            "a".repeat(100_000),
            "\n".repeat(100_000),
            " the".repeat(30_000),
        ] {
            exercise(tables.clone(), &text);
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "round {round}: {:?}",
            start.elapsed()
        );
    }
}

#[track_caller]
fn refuses(change: impl Fn(&mut Value), message: &str) {
    let error = compile(&variant(&parse(STORY_JSON), change)).expect_err("is refused");
    let text = error.to_string();
    assert!(text.contains(message), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn what_is_not_understood_is_named() {
    refuses(
        |j| j["model"]["type"] = "Unigram".into(),
        "model Unigram is not supported",
    );
    refuses(
        |j| j["model"]["type"] = "WordPiece".into(),
        "model WordPiece",
    );
    refuses(
        |j| j["model"]["new_option"] = true.into(),
        "model option new_option",
    );
    refuses(
        |j| j["model"]["dropout"] = 0.1.into(),
        "model option dropout",
    );
    refuses(
        |j| j["model"]["end_of_word_suffix"] = "</w>".into(),
        "end_of_word_suffix",
    );
    refuses(
        |j| j["normalizer"] = json!({"type": "NFKC"}),
        "normalizer NFKC",
    );
    refuses(
        |j| j["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": ""}),
        "regular expression \" +\"",
    );
    refuses(
        |j| j["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}),
        "normalizer Lowercase",
    );
    refuses(
        |j| j["pre_tokenizer"] = json!({"type": "ByteLevel"}),
        "pre-tokenizer ByteLevel",
    );
    refuses(
        |j| j["pre_tokenizer"]["behavior"] = "Isolated".into(),
        "behavior Isolated",
    );
    refuses(
        |j| j["pre_tokenizer"]["invert"] = true.into(),
        "invert true",
    );
    refuses(|j| j["decoder"] = Value::Null, "having no decoder");
    refuses(
        |j| j["decoder"] = json!({"type": "Metaspace"}),
        "decoder Metaspace",
    );
    refuses(
        |j| {
            let decoders = j["decoder"]["decoders"].as_array_mut().expect("decoders");
            decoders.swap(0, 1);
        },
        "decoder \"Replace\" at its place",
    );
    refuses(
        |j| j["added_tokens"][0]["single_word"] = true.into(),
        "\"<pad>\" with single_word",
    );
    refuses(
        |j| j["added_tokens"][0]["normalized"] = true.into(),
        "\"<pad>\" with normalized",
    );
    refuses(|j| j["a_new_part"] = 1.into(), "a_new_part");
    refuses(
        |j| j["model"]["merges"][5] = json!(["he", "qq"]),
        "merge 5 needs token \"qq\"",
    );
    refuses(
        |j| j["model"]["merges"][5] = json!("he"),
        "merge 5 is \"he\"",
    );
    refuses(
        |j| j["model"]["unk_token"] = "<what>".into(),
        "unk_token \"<what>\"",
    );
    refuses(
        |j| j["model"]["vocab"]["he"] = 5.into(),
        "have the same id 5",
    );
    refuses(
        |j| j["model"]["vocab"]["he"] = u32::MAX.into(),
        "is too large",
    );
    refuses(
        |j| j["added_tokens"][0]["id"] = 77.into(),
        "token \"<pad>\" has the ids 0 and 77",
    );
    refuses(
        |j| j["added_tokens"][0]["content"] = "x".repeat(300).into(),
        "have the same id 0",
    );
    assert!(compile(b"").is_err());
    assert!(
        compile(b"{}")
            .expect_err("no model")
            .to_string()
            .contains("model")
    );
}

#[test]
fn other_sentencepiece_models_are_refused() {
    // trainer_spec { model_type: UNIGRAM }, then nothing.
    let error = compile_sentencepiece(&[0x12, 2, 0x18, 1]).expect_err("is refused");
    assert!(
        error.to_string().contains("type 1 is not supported"),
        "{error}"
    );
    let error = compile_sentencepiece(&[0x0a, 200]).expect_err("is cut");
    assert!(error.to_string().contains("damaged at byte 2"), "{error}");
}

#[test]
fn protected_text_holds_no_special_tokens() {
    for tables in [&STORY, &ODD] {
        let tokenizer = Tokenizer::from_vec(tables.to_vec()).expect("loads");
        for text in strings(6, 3000) {
            let protected = tokenizer.protect(&text);
            assert_eq!(
                tokenizer.encode_protected(&protected),
                tokenizer.encode_plain(&text),
                "{text:?}"
            );
        }
        let prompt = format!(
            "<start_of_turn>user\n{}<end_of_turn>",
            tokenizer.protect("<end_of_turn>")
        );
        let ids = tokenizer.encode_protected(&prompt);
        let end = tokenizer.token_id("<end_of_turn>").expect("is there");
        assert_eq!(ids.iter().filter(|id| **id == end).count(), 1);
        assert_eq!(ids.last(), Some(&end));
        assert_eq!(
            tokenizer.decode(&ids, true),
            "<start_of_turn>user\n<end_of_turn><end_of_turn>"
        );
    }
}

#[test]
fn questions_about_tokens() {
    let tokenizer = Tokenizer::from_vec(STORY.clone()).expect("loads");
    assert_eq!(tokenizer.vocab_size(), 1024);
    assert_eq!(tokenizer.token_id("<bos>"), Some(2));
    assert_eq!(tokenizer.token_id("no such token"), None);
    assert_eq!(tokenizer.token_bytes(267), Some(" the".as_bytes()));
    assert_eq!(tokenizer.token_text(267), Some("\u{2581}the".as_bytes()));
    assert_eq!(tokenizer.token_bytes(7 + 0xe4), Some(&[0xe4][..]));
    assert_eq!(tokenizer.token_bytes(1024), None);
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(267) && !tokenizer.is_special(9999));
}
