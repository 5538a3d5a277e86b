//! Which tensor of the checkpoint is which part of the model.
//!
//! Every tensor is accounted for: a part of the model, known not to be needed, or an error. Text models name their
//! tensors `model...`, multimodal wrappers `language_model.model...` or `model.language_model...`; all three are read.

use super::checkpoint::Checkpoint;
use super::config::{Config, Family};
use super::error::{ImportError, one_line};
use gembin_ir::DType;
use std::collections::BTreeMap;

/// A part of the model and the tensor that holds it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bound {
    /// Its name in the checkpoint.
    pub tensor: String,
    /// Its name in the module: `l3.q`.
    pub weight: String,
    /// Element type.
    pub dtype: DType,
    /// One or two dimensions.
    pub shape: Vec<u32>,
}

/// All parts of a model.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Parts {
    /// In the order in which the model uses them: the embedding, the layers', the last norm, the head if it has one.
    pub bound: Vec<Bound>,
    /// Remarks for people.
    pub notes: Vec<String>,
}

/// Where a text model's tensors may lie. A name is matched against all; the longer ones come first.
const TEXT_PREFIXES: [&str; 3] = ["language_model.model.", "model.language_model.", "model."];
/// Where the output head may lie.
const HEAD_NAMES: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];
/// Tensors of the vision half of a multimodal model.
const VISION_PREFIXES: [&str; 4] = [
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];
/// Buffers that early checkpoints hold and nothing reads: they follow from the configuration.
const COMPUTED_SUFFIX: &str = ".rotary_emb.inv_freq";
/// The output head's name in the module, and what an error calls it.
pub(crate) const HEAD: &str = "lm_head";
const EMBED: &str = "embed_tokens.weight";

/// A part that the configuration asks for: tensor (without prefix), weight, shape.
struct Wanted {
    tensor: String,
    weight: String,
    shape: Vec<u32>,
}

/// Matches the checkpoint's tensors with the parts of the model.
///
/// # Errors
/// The first tensor that is missing, unexpected, doubled, of the wrong shape or of a type that is not read.
pub(crate) fn bind(config: &Config, checkpoint: &Checkpoint) -> Result<Parts, ImportError> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    let mut head = None;
    let mut vision = 0usize;
    let mut stray = None;
    for name in checkpoint.names() {
        if VISION_PREFIXES.iter().any(|p| name.starts_with(p)) && config.family == Family::Gemma3 {
            vision += 1;
        } else if HEAD_NAMES.contains(&name) {
            if let Some(first) = head.replace(name) {
                return Err(ImportError::Duplicate {
                    first: first.to_owned(),
                    second: name.to_owned(),
                });
            }
        } else if let Some(part) = TEXT_PREFIXES.iter().find_map(|p| name.strip_prefix(p)) {
            if let Some(first) = found.insert(part, name) {
                return Err(ImportError::Duplicate {
                    first: one_line(first),
                    second: one_line(name),
                });
            }
        } else if !name.ends_with(COMPUTED_SUFFIX) {
            stray = stray.or(Some(name));
        }
    }
    // The prefix that errors about missing tensors use: the one the checkpoint has.
    let prefix = found
        .iter()
        .next()
        .map_or("model.", |(part, name)| &name[..name.len() - part.len()])
        .to_owned();

    let mut bound = Vec::new();
    for want in wanted(config) {
        let missing = || ImportError::MissingTensor {
            tensor: format!("{prefix}{}", want.tensor),
            shape: want.shape.iter().map(|n| u64::from(*n)).collect(),
            why: "",
        };
        let tensor = found.remove(want.tensor.as_str()).ok_or_else(missing)?;
        bound.push(check(checkpoint, tensor, want.weight, want.shape)?);
    }
    let stray = found
        .iter()
        .find(|(part, _)| !part.ends_with(COMPUTED_SUFFIX))
        .map(|(_, name)| *name)
        .or(stray);
    if let Some(name) = stray {
        return Err(ImportError::UnexpectedTensor {
            tensor: one_line(name),
            model_type: config.model_type.clone(),
            layers: config.layers.len(),
        });
    }
    let mut notes = Vec::new();
    bind_head(config, checkpoint, head, &mut bound, &mut notes)?;
    if vision > 0 {
        notes.push(format!(
            "vision is not supported: {vision} vision tensors are left out, the text half is compiled"
        ));
    }
    Ok(Parts { bound, notes })
}

/// Decides whether the output head is the embedding.
///
/// `tie_word_embeddings` false: the head is a tensor of its own and must be there. True, or absent: the head is the
/// embedding, unless the checkpoint holds a head with other values, which then is used, as transformers 5 does.
fn bind_head(
    config: &Config,
    checkpoint: &Checkpoint,
    head: Option<&str>,
    bound: &mut Vec<Bound>,
    notes: &mut Vec<String>,
) -> Result<(), ImportError> {
    let shape = vec![config.vocab, config.hidden];
    let Some(name) = head else {
        if config.tied {
            return Ok(());
        }
        return Err(ImportError::MissingTensor {
            tensor: HEAD_NAMES[0].to_owned(),
            shape: shape.into_iter().map(u64::from).collect(),
            why: ", which tie_word_embeddings false asks for",
        });
    };
    let head = check(checkpoint, name, HEAD.to_owned(), shape)?;
    // The embedding is the first part.
    if checkpoint.same_content(&bound[0].tensor, name) {
        return Ok(());
    }
    if config.tied {
        notes.push(format!(
            "{name} differs from the embedding, so it is the output head, although tie_word_embeddings is not false"
        ));
    }
    bound.push(head);
    Ok(())
}

/// Checks a tensor's type and shape.
fn check(
    checkpoint: &Checkpoint,
    tensor: &str,
    weight: String,
    shape: Vec<u32>,
) -> Result<Bound, ImportError> {
    let missing = || ImportError::MissingTensor {
        tensor: tensor.to_owned(),
        shape: shape.iter().map(|n| u64::from(*n)).collect(),
        why: "",
    };
    let info = checkpoint.info(tensor).ok_or_else(missing)?;
    let want: Vec<u64> = shape.iter().map(|n| u64::from(*n)).collect();
    if info.shape != want {
        return Err(ImportError::Shape {
            tensor: one_line(tensor),
            want,
            got: info.shape.to_vec(),
        });
    }
    let dtype = info.dtype.ok_or_else(|| ImportError::Dtype {
        tensor: one_line(tensor),
        dtype: one_line(info.dtype_name),
    })?;
    Ok(Bound {
        tensor: tensor.to_owned(),
        weight,
        dtype,
        shape,
    })
}

/// A tensor of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorShape {
    /// As a text model's checkpoint names it.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<u32>,
}

/// The tensors that a checkpoint of a text model with a tied head must have, the embedding first.
pub fn tensor_shapes(config: &Config) -> impl Iterator<Item = TensorShape> {
    wanted(config).map(|want| TensorShape {
        name: format!("model.{}", want.tensor),
        shape: want.shape,
    })
}

/// Every part but the head, the embedding first.
fn wanted(c: &Config) -> impl Iterator<Item = Wanted> {
    let part = |tensor: String, weight: String, shape: Vec<u32>| Wanted {
        tensor,
        weight,
        shape,
    };
    let embed = part(EMBED.into(), "embed".into(), vec![c.vocab, c.hidden]);
    let last = part("norm.weight".into(), "norm".into(), vec![c.hidden]);
    // Lazily, so that a configuration of absurdly many layers costs nothing before the first one is missed.
    let layers = (0..c.layers.len()).flat_map(move |n| {
        layer_parts(c)
            .into_iter()
            .map(move |(tensor, weight, shape)| {
                part(
                    format!("layers.{n}.{tensor}.weight"),
                    format!("l{n}.{weight}"),
                    shape,
                )
            })
    });
    std::iter::once(embed)
        .chain(layers)
        .chain(std::iter::once(last))
}

/// Parts of one layer: tensor, weight, shape.
fn layer_parts(c: &Config) -> Vec<(&'static str, &'static str, Vec<u32>)> {
    let q = c.heads * c.head_dim;
    let kv = c.kv_heads * c.head_dim;
    let mut parts = vec![
        ("input_layernorm", "input_norm", vec![c.hidden]),
        ("self_attn.q_proj", "q", vec![q, c.hidden]),
        ("self_attn.k_proj", "k", vec![kv, c.hidden]),
        ("self_attn.v_proj", "v", vec![kv, c.hidden]),
        ("self_attn.o_proj", "o", vec![c.hidden, q]),
    ];
    if c.family == Family::Gemma3 {
        parts.push(("self_attn.q_norm", "q_norm", vec![c.head_dim]));
        parts.push(("self_attn.k_norm", "k_norm", vec![c.head_dim]));
    }
    match c.family {
        // Gemma 1 has two norms, and its "post attention" norm is the one before the feed-forward block.
        Family::Gemma1 => parts.push(("post_attention_layernorm", "pre_ffn_norm", vec![c.hidden])),
        Family::Gemma2 | Family::Gemma3 => parts.extend([
            ("post_attention_layernorm", "post_attn_norm", vec![c.hidden]),
            ("pre_feedforward_layernorm", "pre_ffn_norm", vec![c.hidden]),
            (
                "post_feedforward_layernorm",
                "post_ffn_norm",
                vec![c.hidden],
            ),
        ]),
    }
    parts.extend([
        ("mlp.gate_proj", "gate", vec![c.ffn, c.hidden]),
        ("mlp.up_proj", "up", vec![c.ffn, c.hidden]),
        ("mlp.down_proj", "down", vec![c.hidden, c.ffn]),
    ]);
    parts
}
