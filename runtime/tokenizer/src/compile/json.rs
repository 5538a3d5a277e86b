//! Reads tokenizer.json.
//!
//! Every object is read with its known keys and no others, so that a new option cannot pass unseen.

use super::{AddedToken, CompileError, DecoderRules, Source, Step};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "version")]
    _version: Option<Value>,
    #[serde(default, rename = "truncation")]
    _truncation: Option<Value>,
    #[serde(default, rename = "padding")]
    _padding: Option<Value>,
    #[serde(default, rename = "post_processor")]
    _post_processor: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<JsonAdded>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: JsonModel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonAdded {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct JsonModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Option<HashMap<String, u32>>,
    merges: Option<Vec<JsonMerge>>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonMerge {
    Pair((String, String)),
    Line(String),
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Normalizer {
    Sequence { normalizers: Vec<Value> },
    Replace { pattern: Pattern, content: String },
    Prepend { prepend: String },
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<Value>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Decoder {
    Sequence {
        decoders: Vec<Value>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    ByteFallback,
    Fuse,
    Strip {
        content: char,
        start: u32,
        stop: u32,
    },
}

const NORMALIZERS: &str =
    "a normalizer can be Replace of a string, Prepend, or a Sequence of these";
const PRE_TOKENIZERS: &str =
    "a pre-tokenizer can be Split at a string with behavior MergedWithPrevious, or absent";
const DECODERS: &str = "a decoder can be a Sequence of Replace, ByteFallback, Fuse, Strip (at the start), in this order";
const MODELS: &str = "only plain BPE is";

fn unsupported(component: String, supported: &'static str) -> CompileError {
    CompileError::Unsupported {
        component,
        supported,
    }
}

/// Reads a component by its type, naming the type where it is unknown.
fn component<T: for<'a> Deserialize<'a>>(
    what: &str,
    value: Value,
    supported: &'static str,
) -> Result<T, CompileError> {
    let name = match value.get("type") {
        Some(Value::String(name)) => name.clone(),
        _ => "without a type".to_owned(),
    };
    serde_json::from_value(value)
        .map_err(|error| unsupported(format!("{what} {name} ({error})"), supported))
}

pub(super) fn read(json: &[u8]) -> Result<Source, CompileError> {
    let file: File = serde_json::from_slice(json)?;
    let mut normalizer = Vec::new();
    if let Some(value) = file.normalizer {
        read_normalizer(value, &mut normalizer, 0)?;
    }
    let split = match file.pre_tokenizer {
        Some(value) => read_split(value, 0)?,
        None => None,
    };
    let decoder = read_decoder(file.decoder)?;
    let added = file
        .added_tokens
        .into_iter()
        .map(|token| {
            if token.single_word {
                let what = format!("added token {:?} with single_word", token.content);
                return Err(unsupported(what, "added tokens may have lstrip and rstrip"));
            }
            let normalized = token.normalized.unwrap_or(!token.special);
            if token.special && normalized {
                // It could not be told from ordinary text in the messages of a chat.
                let what = format!("special token {:?} with normalized", token.content);
                return Err(unsupported(
                    what,
                    "special tokens are matched in the raw text",
                ));
            }
            Ok(AddedToken {
                id: token.id,
                special: token.special,
                normalized,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                content: token.content,
            })
        })
        .collect::<Result<_, _>>()?;
    read_model(file.model, |vocab, merges, model| Source {
        vocab,
        merges,
        added,
        normalizer,
        split,
        unk: model.0,
        fuse_unk: model.1,
        byte_fallback: model.2,
        ignore_merges: model.3,
        decoder,
    })
}

fn read_model(
    model: JsonModel,
    finish: impl FnOnce(
        Vec<(String, u32)>,
        Vec<(u32, u32, u32)>,
        (Option<u32>, bool, bool, bool),
    ) -> Source,
) -> Result<Source, CompileError> {
    if let Some(kind) = model.kind.as_deref().filter(|kind| *kind != "BPE") {
        return Err(unsupported(format!("model {kind}"), MODELS));
    }
    let (Some(vocab), Some(merges)) = (model.vocab, model.merges) else {
        let what = "a model without vocab or merges".to_owned();
        return Err(unsupported(what, MODELS));
    };
    if let Some(key) = model.others.keys().min() {
        return Err(unsupported(format!("model option {key}"), MODELS));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model option dropout".to_owned(), MODELS));
    }
    for (name, value) in [
        (
            "continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(unsupported(format!("model option {name}"), MODELS));
        }
    }
    let id = |rank: usize, token: &str| {
        vocab.get(token).copied().ok_or_else(|| {
            CompileError::Inconsistent(format!(
                "merge {rank} needs token {token:?}, which is not in the vocabulary"
            ))
        })
    };
    let mut ranked = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        let (left, right) = match merge {
            JsonMerge::Pair((left, right)) => (left.as_str(), right.as_str()),
            JsonMerge::Line(line) if line.starts_with("#version") => continue,
            JsonMerge::Line(line) => line
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' '))
                .ok_or_else(|| {
                    CompileError::Inconsistent(format!(
                        "merge {rank} is {line:?}, not two tokens with a space between"
                    ))
                })?,
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        ranked.push((id(rank, left)?, id(rank, right)?, id(rank, &joined)?));
    }
    let unk = match &model.unk_token {
        Some(token) => Some(vocab.get(token).copied().ok_or_else(|| {
            CompileError::Inconsistent(format!("unk_token {token:?} is not in the vocabulary"))
        })?),
        None => None,
    };
    let mut entries: Vec<(String, u32)> = vocab.into_iter().collect();
    entries.sort_unstable_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    Ok(finish(
        entries,
        ranked,
        (
            unk,
            model.fuse_unk,
            model.byte_fallback,
            model.ignore_merges,
        ),
    ))
}

/// Components nest; nobody nests them deeper than this.
const MAX_DEPTH: usize = 8;

fn literal(what: &str, pattern: Pattern, supported: &'static str) -> Result<String, CompileError> {
    match pattern {
        Pattern::String(text) if !text.is_empty() => Ok(text),
        Pattern::String(_) => Err(unsupported(
            format!("{what} with an empty pattern"),
            supported,
        )),
        Pattern::Regex(regex) => Err(unsupported(
            format!("{what} with the regular expression {regex:?}"),
            supported,
        )),
    }
}

fn read_normalizer(value: Value, steps: &mut Vec<Step>, depth: usize) -> Result<(), CompileError> {
    match component("normalizer", value, NORMALIZERS)? {
        Normalizer::Sequence { normalizers } if depth < MAX_DEPTH => {
            for value in normalizers {
                read_normalizer(value, steps, depth + 1)?;
            }
        }
        Normalizer::Sequence { .. } => {
            return Err(unsupported("so deep a normalizer".to_owned(), NORMALIZERS));
        }
        Normalizer::Replace { pattern, content } => steps.push(Step::Replace {
            from: literal("normalizer Replace", pattern, NORMALIZERS)?,
            to: content,
        }),
        Normalizer::Prepend { prepend } => steps.push(Step::Prepend(prepend)),
    }
    Ok(())
}

fn read_split(value: Value, depth: usize) -> Result<Option<String>, CompileError> {
    match component("pre-tokenizer", value, PRE_TOKENIZERS)? {
        PreTokenizer::Sequence { mut pretokenizers } => {
            match (pretokenizers.pop(), pretokenizers.is_empty()) {
                (None, _) => Ok(None),
                (Some(only), true) if depth < MAX_DEPTH => read_split(only, depth + 1),
                _ => Err(unsupported(
                    "a Sequence of several pre-tokenizers".to_owned(),
                    PRE_TOKENIZERS,
                )),
            }
        }
        PreTokenizer::Split {
            pattern,
            behavior,
            invert,
        } => {
            if behavior != "MergedWithPrevious" || invert {
                let what = format!("pre-tokenizer Split with behavior {behavior}, invert {invert}");
                return Err(unsupported(what, PRE_TOKENIZERS));
            }
            literal("pre-tokenizer Split", pattern, PRE_TOKENIZERS).map(Some)
        }
    }
}

/// How far a decoder has come in the order that it must have.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    Replace,
    Bytes,
    Fused,
    Stripped,
}

fn read_decoder(value: Option<Value>) -> Result<DecoderRules, CompileError> {
    let value = value.ok_or_else(|| unsupported("having no decoder".to_owned(), DECODERS))?;
    let mut rules = DecoderRules::default();
    let mut stage = Stage::Replace;
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        let name = value.get("type").cloned().unwrap_or_default();
        let (needs, then) = match component("decoder", value, DECODERS)? {
            Decoder::Sequence { decoders } => {
                todo.extend(decoders.into_iter().rev());
                continue;
            }
            Decoder::Replace { pattern, content } => {
                let from = literal("decoder Replace", pattern, DECODERS)?;
                rules.replace.push((from, content));
                (stage == Stage::Replace, Stage::Replace)
            }
            Decoder::ByteFallback => {
                rules.byte_fallback = true;
                (stage == Stage::Replace, Stage::Bytes)
            }
            Decoder::Fuse => (stage <= Stage::Fused, Stage::Fused),
            Decoder::Strip {
                content,
                start,
                stop: 0,
            } => {
                rules.strip = Some((content, start));
                (stage == Stage::Fused, Stage::Stripped)
            }
            Decoder::Strip { .. } => (false, stage),
        };
        if !needs {
            return Err(unsupported(
                format!("decoder {name} at its place"),
                DECODERS,
            ));
        }
        stage = then;
    }
    Ok(rules)
}
