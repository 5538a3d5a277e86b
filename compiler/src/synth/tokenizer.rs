//! Text files of a made checkpoint: tokenizer.json, tokenizer_config.json with a chat template, generation_config.json.
//!
//! Source: the structure of tokenizer.json is that of the `tokenizers` library's BPE with byte fallback, as used by
//! Gemma: spaces become U+2581, nothing is split, unknown characters become bytes.

use super::SynthError;
use super::preset::Preset;
use super::vocabulary::{END_OF_TURN, SPACE, Vocabulary};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Gemma's chat format: a system message joins the first turn, `assistant` is called `model`.
const CHAT_TEMPLATE: &str = "{{ bos_token }}\
{% if messages and messages[0]['role'] == 'system' %}\
{% set preface = messages[0]['content'] | trim + '\n\n' %}{% set turns = messages[1:] %}\
{% else %}{% set preface = '' %}{% set turns = messages %}{% endif %}\
{% for turn in turns %}\
{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' }}\
{{ (preface if loop.first else '') + turn['content'] | trim + '<end_of_turn>\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Writes the files into `dir`.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn write(dir: &Path, preset: Preset, seed: u64) -> Result<(), SynthError> {
    let vocabulary = Vocabulary::new(preset.family(), preset.vocab() as usize, seed);
    let path = dir.join("tokenizer.json");
    File::create_new(&path)
        .and_then(|file| write_tokenizer(&mut BufWriter::new(file), &vocabulary))
        .map_err(|e| SynthError::io(&path, e))?;
    let tokenizer_config = json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": "<bos>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    });
    super::write_json(&dir.join("tokenizer_config.json"), &tokenizer_config)?;
    let end_of_turn = vocabulary.id(END_OF_TURN).unwrap_or_default();
    let end_of_turn = u32::try_from(end_of_turn).unwrap_or_default();
    let generation = preset.generation_config(end_of_turn);
    super::write_json(&dir.join("generation_config.json"), &generation)
}

/// Writes piece by piece: the vocabulary must be in the order of its ids, and is too large for one JSON value.
fn write_tokenizer(out: &mut impl Write, v: &Vocabulary) -> io::Result<()> {
    let specials = v.pieces[..v.specials].iter().enumerate();
    let added: Vec<Value> = specials
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let bos = |type_id: u32| json!({"SpecialToken": {"id": "<bos>", "type_id": type_id}});
    let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let space = SPACE.to_string();
    let parts = [
        ("version", json!("1.0")),
        ("truncation", Value::Null),
        ("padding", Value::Null),
        ("added_tokens", Value::Array(added)),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": " "}, "content": space}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        ),
        (
            "post_processor",
            json!({
                "type": "TemplateProcessing",
                "single": [bos(0), text("A", 0)],
                "pair": [bos(0), text("A", 0), bos(1), text("B", 1)],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
            }),
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ]}),
        ),
    ];
    out.write_all(b"{\n")?;
    for (key, value) in parts {
        writeln!(out, "\"{key}\": {value},")?;
    }
    out.write_all(
        b"\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\", \
        \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": true, \
        \"byte_fallback\": true, \"ignore_merges\": false,\n\"vocab\": {",
    )?;
    for (id, piece) in v.pieces.iter().enumerate() {
        out.write_all(if id == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, piece)?;
        write!(out, ": {id}")?;
    }
    out.write_all(b"},\n\"merges\": [")?;
    for (n, (a, b)) in v.merges.iter().enumerate() {
        out.write_all(if n == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &[&v.pieces[*a as usize], &v.pieces[*b as usize]])?;
    }
    out.write_all(b"]}\n}\n")?;
    out.flush()
}
