//! The text around a model: stop tokens, chat template, special tokens, sampling defaults, and which file holds the
//! tokenizer.
//!
//! Does not read the tokenizer and does not parse templates. Source: the files that transformers writes next to a
//! model.

use super::config::Config;
use super::error::{ImportError, one_line};
use super::json::{Object, file_name, read_object, read_small};
use gembin_bundle::manifest::{SamplingDefaults, TextFacts};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What was found.
pub(crate) struct Text {
    pub facts: TextFacts,
    pub tokenizer_json: Option<PathBuf>,
    pub tokenizer_model: Option<PathBuf>,
    /// Files read, tokenizers included.
    pub files: Vec<PathBuf>,
    pub notes: Vec<String>,
}

const GENERATION: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const TEMPLATE_JINJA: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
const TOKENIZER_JSON: &str = "tokenizer.json";
const TOKENIZER_MODEL: &str = "tokenizer.model";

/// Reads the text files of a checkpoint; all of them may be absent.
///
/// # Errors
/// A file that cannot be read or a key whose value cannot be used.
pub(crate) fn read(dir: &Path, config: &Config) -> Result<Text, ImportError> {
    let mut files = Vec::new();
    let mut notes = Vec::new();
    let mut object = |name: &'static str| {
        let path = dir.join(name);
        let map = read_object(&path)?;
        if map.is_some() {
            files.push(path);
        }
        Ok::<_, ImportError>(map)
    };
    let generation = object(GENERATION)?.unwrap_or_default();
    let tokenizer = object(TOKENIZER_CONFIG)?.unwrap_or_default();
    let special = object(SPECIAL_TOKENS)?.unwrap_or_default();
    let template_json = object(TEMPLATE_JSON)?;
    let generation = Object::new(GENERATION, &generation);
    let tokenizer = Object::new(TOKENIZER_CONFIG, &tokenizer);
    let special = Object::new(SPECIAL_TOKENS, &special);

    let template_path = dir.join(TEMPLATE_JINJA);
    let chat_template = if let Some(bytes) = read_small(&template_path)? {
        files.push(template_path);
        let text = String::from_utf8(bytes).map_err(|e| ImportError::Json {
            file: TEMPLATE_JINJA.to_owned(),
            what: format!("not UTF-8: {e}"),
        })?;
        Some(text)
    } else if let Some(map) = &template_json {
        chat_template(&Object::new(TEMPLATE_JSON, map))?
    } else {
        chat_template(&tokenizer)?
    };

    let mut find = |name: &str| {
        let path = dir.join(name);
        path.is_file().then(|| {
            files.push(path.clone());
            path
        })
    };
    let tokenizer_json = find(TOKENIZER_JSON);
    let tokenizer_model = match tokenizer_json {
        Some(_) => None,
        None => find(TOKENIZER_MODEL),
    };
    let has_tokenizer = tokenizer_json.is_some() || tokenizer_model.is_some();
    if !has_tokenizer {
        notes.push(format!(
            "no {TOKENIZER_JSON} and no {TOKENIZER_MODEL}: the model runs on token ids alone"
        ));
    }

    let add_bos = tokenizer.flag("add_bos_token")?.unwrap_or(true);
    let bos = match generation.token_ids("bos_token_id")? {
        Some(ids) => ids.first().copied(),
        None => config.bos,
    };
    let stop_tokens = generation
        .token_ids("eos_token_id")?
        .unwrap_or_else(|| config.eos.clone());
    let facts = TextFacts {
        has_tokenizer,
        bos: known(bos, config.vocab, "bos_token_id", &mut notes).filter(|_| add_bos),
        eos: known(
            config.eos.first().copied(),
            config.vocab,
            "eos_token_id",
            &mut notes,
        ),
        stop_tokens: stop_tokens
            .into_iter()
            .filter_map(|id| known(Some(id), config.vocab, "stop token", &mut notes))
            .fold(Vec::new(), |mut ids, id| {
                if !ids.contains(&id) {
                    ids.push(id);
                }
                ids
            }),
        chat_template,
        special_tokens: special_tokens(&tokenizer, &special)?,
        sampling: sampling(&generation)?,
    };
    Ok(Text {
        facts,
        tokenizer_json,
        tokenizer_model,
        files,
        notes,
    })
}

/// An id the model has; another one, which can never come up, is left out with a note.
fn known(id: Option<u32>, vocab: u32, what: &str, notes: &mut Vec<String>) -> Option<u32> {
    let id = id?;
    if id < vocab {
        return Some(id);
    }
    let note = format!("{what} {id} is left out: the model has {vocab} tokens");
    if !notes.contains(&note) {
        notes.push(note);
    }
    None
}

/// `chat_template`: a string, or a list of `{name, template}` of which "default" is taken, or the only one.
fn chat_template(o: &Object<'_>) -> Result<Option<String>, ImportError> {
    const KEY: &str = "chat_template";
    match o.get(KEY) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(items)) => {
            let named: Option<Vec<(&str, &str)>> = items
                .iter()
                .map(|v| Some((v.get("name")?.as_str()?, v.get("template")?.as_str()?)))
                .collect();
            let named = named.ok_or_else(|| {
                o.fault(
                    KEY,
                    "must be a string or a list of {name, template} of strings",
                )
            })?;
            let chosen = match named.as_slice() {
                [(_, only)] => Some(only),
                several => several
                    .iter()
                    .find(|(name, _)| *name == "default")
                    .map(|(_, template)| template),
            };
            let names: Vec<String> = named.iter().map(|(name, _)| one_line(name)).collect();
            match chosen {
                Some(template) => Ok(Some((*template).to_owned())),
                None if named.is_empty() => Ok(None),
                None => Err(o.fault(
                    KEY,
                    format!("names {} but none is \"default\"", names.join(", ")),
                )),
            }
        }
        Some(_) => Err(o.fault(KEY, "must be a string or a list of named templates")),
    }
}

/// Spellings of `bos_token` and the like: strings, or objects with a `content`. The tokenizer's configuration wins.
fn special_tokens(
    tokenizer: &Object<'_>,
    special: &Object<'_>,
) -> Result<Vec<(String, String)>, ImportError> {
    let mut found = std::collections::BTreeMap::new();
    for o in [special, tokenizer] {
        for (key, value) in o.entries().filter(|(key, _)| key.ends_with("_token")) {
            let spelling = match value {
                // `add_bos_token` and the like are switches.
                Value::Bool(_) | Value::Null => continue,
                Value::String(text) => text,
                Value::Object(token) => match token.get("content") {
                    Some(Value::String(text)) => text,
                    _ => return Err(o.fault(key, "must have a content that is a string")),
                },
                Value::Number(_) | Value::Array(_) => {
                    return Err(o.fault(key, "must be a string or an object with a content"));
                }
            };
            found.insert(key.clone(), spelling.clone());
        }
    }
    Ok(found.into_iter().collect())
}

fn sampling(o: &Object<'_>) -> Result<SamplingDefaults, ImportError> {
    let share = |key: &str| o.number(key, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x));
    Ok(SamplingDefaults {
        do_sample: o.flag("do_sample")?,
        temperature: o.number("temperature", "a number of at least 0", |x| x >= 0.0)?,
        // 0 switches the filter off in transformers, as absence does here.
        top_k: match o.get("top_k").and_then(Value::as_u64) {
            Some(0) => None,
            _ => o.count("top_k", u32::MAX)?,
        },
        top_p: share("top_p")?,
        min_p: share("min_p")?,
        repetition_penalty: o.positive("repetition_penalty")?,
    })
}

/// The name of a file in provenance: relative to the checkpoint, or else its last component.
pub(crate) fn source_name(dir: &Path, path: &Path) -> String {
    match path.strip_prefix(dir) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) => file_name(path),
    }
}
