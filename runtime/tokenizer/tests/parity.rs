//! Ids and texts are those of the `tokenizers` library, for the same tokenizer.json.

mod common;

use common::{Random, STORY_JSON, big_json, both, strings, variant};
use std::time::Instant;

#[track_caller]
fn check_encode(pair: &common::Pair, text: &str) {
    let expected = pair
        .reference
        .encode(text, false)
        .expect("reference encodes");
    assert_eq!(
        pair.ours.encode(text),
        expected.get_ids(),
        "{} encodes {:?}",
        pair.name,
        text.chars().take(200).collect::<String>()
    );
}

#[track_caller]
fn check_decode(pair: &common::Pair, ids: &[u32]) {
    for show_special in [false, true] {
        let expected = pair
            .reference
            .decode(ids, !show_special)
            .expect("reference decodes");
        assert_eq!(
            pair.ours.decode(ids, show_special),
            expected,
            "{} decodes {ids:?}",
            pair.name
        );
    }
}

fn all_variants() -> Vec<common::Pair> {
    let story: serde_json::Value = common::parse(STORY_JSON);
    vec![
        both("story", STORY_JSON.as_bytes()),
        both("no byte fallback", &variant(&story, common::without_bytes)),
        both("unknown tokens apart", &variant(&story, common::unfused)),
        both("whole pieces", &variant(&story, common::ignore_merges)),
        both("prepend and strip", &variant(&story, common::prepend)),
        both("split at spaces", &variant(&story, common::split)),
        both("odd added tokens", &variant(&story, common::odd_added)),
        both("merges as lines", &variant(&story, common::merge_lines)),
    ]
}

#[test]
fn every_validation_line_has_the_reference_ids() {
    let pair = both("story", STORY_JSON.as_bytes());
    let mut lines = 0;
    for line in common::VALID.lines() {
        check_encode(&pair, line);
        let ids = pair.ours.encode(line);
        assert_eq!(pair.ours.decode(&ids, false), line);
        lines += 1;
    }
    assert!(lines > 200, "{lines} lines");
}

#[test]
fn made_up_strings_have_the_reference_ids() {
    for pair in all_variants() {
        for text in strings(1, 3000) {
            check_encode(&pair, &text);
        }
    }
}

#[test]
fn edges_have_the_reference_ids() {
    let long = common::VALID.replace('\n', "\n\n  ").repeat(2);
    let long: String = long.chars().take(100_000).collect();
    for pair in all_variants() {
        for text in [
            "",
            " ",
            "\n",
            "\0",
            "<eos>",
            "<unk><unk>",
            "x<eos",
            "<<eos>>",
            "  <start_of_turn> user\n",
            "a<end_of_turn>b",
            "\u{2581}",
            "\u{2581}\u{2581} \u{2581}",
            "\u{feff}\u{fffd}",
            "\u{10ffff}",
            "\r\n\t\u{1b}[0m",
            &" ".repeat(5000),
            &"\n".repeat(5000),
            &"ab ".repeat(5000),
            long.as_str(),
        ] {
            check_encode(&pair, text);
        }
    }
}

#[test]
fn without_special_tokens_is_the_reference_with_special_tokens_as_text() {
    for mut pair in all_variants() {
        pair.reference.set_encode_special_tokens(true);
        for text in strings(2, 1500) {
            let expected = pair
                .reference
                .encode(text.as_str(), false)
                .expect("encodes");
            assert_eq!(
                pair.ours.encode_plain(&text),
                expected.get_ids(),
                "{} {text:?}",
                pair.name
            );
        }
    }
}

#[test]
fn any_ids_decode_to_the_reference_text() {
    let mut random = Random(3);
    for pair in all_variants() {
        for _ in 0..3000 {
            let len = random.below(12);
            let ids: Vec<u32> = (0..len)
                .map(|_| random.token(pair.ours.vocab_size()))
                .collect();
            check_decode(&pair, &ids);
        }
    }
}

#[test]
fn a_large_vocabulary_has_the_reference_ids() {
    let json = big_json(262_144, 500_000);
    let start = Instant::now();
    let tables = gembin_tokenizer::compile(&json).expect("compiles");
    let compiling = start.elapsed();
    let again = gembin_tokenizer::compile(&json).expect("compiles");
    assert!(tables == again, "the same input gives the same tables");
    let table_bytes = tables.len();
    let pair = both("262,144 tokens", &json);

    let shared = std::sync::Arc::new(tables);
    let start = Instant::now();
    let loaded = gembin_tokenizer::Tokenizer::load(shared).expect("loads");
    let first = loaded.encode("Write a short poem about the sea.");
    let loading = start.elapsed();
    assert!(!first.is_empty());

    let start = Instant::now();
    for text in strings(4, 2000) {
        check_encode(&pair, &text);
    }
    for line in common::VALID.lines().take(50) {
        check_encode(&pair, line);
    }
    let comparing = start.elapsed();
    println!(
        "json {} bytes, tables {table_bytes} bytes: compile {compiling:?}, load and first prompt {loading:?}, \
         comparison {comparing:?}",
        json.len()
    );
    for (name, text) in [
        ("1 MB of stories", common::VALID.repeat(7)),
        ("1 MB of one letter", "a".repeat(1_000_000)),
        ("1 MB of spaces", " ".repeat(1_000_000)),
        ("1 MB of half a token", "<start_of_tur".repeat(80_000)),
    ] {
        let start = Instant::now();
        let ids = loaded.encode(&text);
        println!("{name}: {} tokens in {:?}", ids.len(), start.elapsed());
        assert_eq!(loaded.decode(&ids, false), text);
    }
}

#[test]
fn sentencepiece_gives_the_ids_of_its_json() {
    let model = std::fs::read(common::testdata("tokenizer.model")).expect("model is there");
    let tables = gembin_tokenizer::compile_sentencepiece(&model).expect("compiles");
    let ours = gembin_tokenizer::Tokenizer::from_vec(tables).expect("loads");
    let reference = both("story", STORY_JSON.as_bytes()).reference;
    for text in strings(5, 3000).chain(common::VALID.lines().map(str::to_owned)) {
        let expected = reference.encode(text.as_str(), false).expect("encodes");
        assert_eq!(ours.encode(&text), expected.get_ids(), "{text:?}");
        let text = reference.decode(expected.get_ids(), true).expect("decodes");
        assert_eq!(ours.decode(expected.get_ids(), false), text);
    }
    for id in 0..ours.vocab_size() {
        let special = reference
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|t| t.special);
        assert_eq!(ours.is_special(id), special, "token {id}");
    }
}
