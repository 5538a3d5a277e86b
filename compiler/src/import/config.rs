//! `config.json` of Gemma 1, 2 and 3: what the model is, in our own terms.
//!
//! Two styles are read: that of transformers 5 (`rope_parameters`, `layer_types`) and the older one (`rope_theta`,
//! `rope_local_base_freq`, `rope_scaling`, `sliding_window_pattern`). Absent keys take the default of the family's
//! configuration class. Settings that would change the computation in a way the IR has no op for are refused, never
//! passed over. Knows nothing of tensors.
//!
//! Source: transformers, `GemmaConfig`, `Gemma2Config`, `Gemma3TextConfig`, `Gemma3Config` and their base class.

use super::error::ImportError;
use super::json::{Object, shown};
use serde_json::{Map, Value};

/// Generation of the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Norms before attention and before the feed-forward block.
    Gemma1,
    /// Norms around both; sliding windows, softcaps.
    Gemma2,
    /// As 2, with norms of query and key heads instead of softcaps, and two RoPE bases.
    Gemma3,
}

/// Which positions a layer attends to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// All positions so far.
    Full,
    /// The last so many, the query's own included.
    Window(u32),
}

/// Rotary embedding of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Linear position interpolation.
    pub factor: f32,
}

/// One layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Layer {
    /// What it attends to.
    pub span: Span,
    /// How positions are encoded.
    pub rope: Rope,
}

/// The text model of a configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Generation.
    pub family: Family,
    /// The file's `model_type`.
    pub model_type: String,
    /// Token ids.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward block.
    pub ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Positions the model was made for.
    pub max_positions: u32,
    /// Epsilon of every norm.
    pub eps: f32,
    /// Factor of the scores.
    pub attention_scale: f32,
    /// Softcap of the scores.
    pub attention_softcap: Option<f32>,
    /// Softcap of the logits.
    pub final_softcap: Option<f32>,
    /// First to last.
    pub layers: Vec<Layer>,
    /// Whether the configuration says that the output head is the embedding.
    pub tied: bool,
    /// Begin-of-text token.
    pub bos: Option<u32>,
    /// End tokens; the first is that of a document.
    pub eos: Vec<u32>,
}

/// Largest width or vocabulary that is read: 64 times what the family has, and small enough that products of two fit
/// in 64 bits.
const MOST_WIDE: u32 = 1 << 24;
/// Most layers.
const MOST_LAYERS: u32 = 1 << 12;
/// Most heads, and the widest head.
const MOST_HEADS: u32 = 1 << 16;
/// Positions are i32 in the IR.
const MOST_POSITIONS: u32 = i32::MAX as u32;

/// Defaults of a family's configuration class.
struct Defaults {
    vocab: u32,
    hidden: u32,
    ffn: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    positions: u32,
    attention_softcap: Option<f32>,
    final_softcap: Option<f32>,
    theta: f32,
}

const GEMMA1: Defaults = Defaults {
    vocab: 256_000,
    hidden: 3072,
    ffn: 24_576,
    layers: 28,
    heads: 16,
    kv_heads: 16,
    positions: 8192,
    attention_softcap: None,
    final_softcap: None,
    theta: LOCAL_THETA,
};
const GEMMA2: Defaults = Defaults {
    hidden: 2304,
    ffn: 9216,
    layers: 26,
    heads: 8,
    kv_heads: 4,
    attention_softcap: Some(50.0),
    final_softcap: Some(30.0),
    ..GEMMA1
};
const GEMMA3: Defaults = Defaults {
    vocab: 262_208,
    positions: 131_072,
    attention_softcap: None,
    final_softcap: None,
    theta: 1_000_000.0,
    ..GEMMA2
};
const HEAD_DIM: u32 = 256;
const EPS: f32 = 1e-6;
const QUERY_SCALAR: f32 = 256.0;
const WINDOW: u32 = 4096;
const LOCAL_THETA: f32 = 10_000.0;
/// Gemma 2: every other layer attends to everything.
const GEMMA2_PATTERN: u32 = 2;
/// Gemma 3: every sixth.
const GEMMA3_PATTERN: u32 = 6;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The first key whose value cannot be used.
    pub fn read(file: &str, map: &Map<String, Value>) -> Result<Self, ImportError> {
        let top = Object::new(file, map);
        let unsupported = |found: String| ImportError::UnsupportedModel {
            file: file.to_owned(),
            found,
        };
        let model_type = match top.raw("model_type") {
            Some(Value::String(s)) => s.as_str(),
            Some(v) => return Err(unsupported(shown(v))),
            None => return Err(unsupported("(absent)".into())),
        };
        let empty = Map::new();
        let (family, d, c) = match model_type {
            "gemma" => (Family::Gemma1, GEMMA1, top.clone()),
            "gemma2" => (Family::Gemma2, GEMMA2, top.clone()),
            "gemma3_text" => (Family::Gemma3, GEMMA3, top.clone()),
            "gemma3" => {
                let text = top.object("text_config")?;
                let text = text.unwrap_or_else(|| Object::new(file, &empty));
                (Family::Gemma3, GEMMA3, text)
            }
            other => {
                return Err(unsupported(format!(
                    "\"{}\"",
                    super::error::one_line(other)
                )));
            }
        };
        refuse_what_is_not_built(&top, &c, family)?;

        let heads = c
            .count("num_attention_heads", MOST_HEADS)?
            .unwrap_or(d.heads);
        let kv_heads = c
            .count("num_key_value_heads", MOST_HEADS)?
            .unwrap_or(d.kv_heads);
        if heads % kv_heads != 0 {
            return Err(c.fault(
                "num_key_value_heads",
                format!("{kv_heads} does not divide num_attention_heads {heads}"),
            ));
        }
        let head_dim = c.count("head_dim", MOST_HEADS)?.unwrap_or(HEAD_DIM);
        if head_dim % 2 != 0 {
            return Err(c.fault("head_dim", format!("must be even, not {head_dim}")));
        }
        if heads.checked_mul(head_dim).is_none_or(|n| n > MOST_WIDE) {
            return Err(c.fault(
                "num_attention_heads",
                format!("{heads} of head_dim {head_dim} are wider than {MOST_WIDE}"),
            ));
        }
        let n_layers = c
            .count("num_hidden_layers", MOST_LAYERS)?
            .unwrap_or(d.layers);
        let attention_scale = match family {
            Family::Gemma1 => rsqrt(f64::from(head_dim)),
            Family::Gemma2 | Family::Gemma3 => rsqrt(f64::from(
                c.positive("query_pre_attn_scalar")?.unwrap_or(QUERY_SCALAR),
            )),
        };
        let softcap = |key: &str, default: Option<f32>| match (family, c.raw(key)) {
            (Family::Gemma1, _) => Ok(None),
            (_, None) => Ok(default),
            (_, Some(_)) => c.positive(key),
        };
        let ids = |key: &str, default: u32| -> Result<Vec<u32>, ImportError> {
            for o in [&top, &c] {
                if let Some(ids) = o.token_ids(key)? {
                    return Ok(ids);
                }
            }
            Ok(vec![default])
        };
        let tied = match top.flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => c.flag("tie_word_embeddings")?.unwrap_or(true),
        };
        Ok(Config {
            family,
            model_type: model_type.to_owned(),
            vocab: c.count("vocab_size", MOST_WIDE)?.unwrap_or(d.vocab),
            hidden: c.count("hidden_size", MOST_WIDE)?.unwrap_or(d.hidden),
            ffn: c.count("intermediate_size", MOST_WIDE)?.unwrap_or(d.ffn),
            heads,
            kv_heads,
            head_dim,
            max_positions: c
                .count("max_position_embeddings", MOST_POSITIONS)?
                .unwrap_or(d.positions),
            eps: c.positive("rms_norm_eps")?.unwrap_or(EPS),
            attention_scale,
            attention_softcap: softcap("attn_logit_softcapping", d.attention_softcap)?,
            final_softcap: softcap("final_logit_softcapping", d.final_softcap)?,
            layers: layers(&c, family, &d, n_layers)?,
            tied,
            bos: ids("bos_token_id", 2)?.first().copied(),
            eos: ids("eos_token_id", 1)?,
        })
    }
}

/// `x^-0.5`, rounded once.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the reference, too, rounds a double to f32"
)]
fn rsqrt(x: f64) -> f32 {
    x.powf(-0.5) as f32
}

/// Settings that change the computation beyond what the IR can say.
fn refuse_what_is_not_built(
    top: &Object<'_>,
    c: &Object<'_>,
    family: Family,
) -> Result<(), ImportError> {
    for o in [top, c] {
        if o.get("quantization_config").is_some() {
            return Err(o.fault(
                "quantization_config",
                "is set: quantized checkpoints are not supported, give the unquantized one",
            ));
        }
    }
    if c.flag("attention_bias")? == Some(true) {
        return Err(c.fault(
            "attention_bias",
            "true is not supported: no Gemma has biases",
        ));
    }
    match c.get("use_bidirectional_attention") {
        None | Some(Value::Bool(false)) => {}
        Some(v) => {
            return Err(c.fault(
                "use_bidirectional_attention",
                format!("{} is not supported: only causal models are", shown(v)),
            ));
        }
    }
    // Gemma 1 was first published with `hidden_act: gelu` though it was trained with the tanh approximation; a null
    // `hidden_activation` therefore means the approximation, whatever `hidden_act` says.
    let key = match (family, c.get("hidden_activation")) {
        (_, Some(_)) => "hidden_activation",
        (Family::Gemma1, None) => "hidden_act",
        (Family::Gemma2 | Family::Gemma3, None) => return Ok(()),
    };
    match (key, c.text(key)?) {
        (_, None | Some("gelu_pytorch_tanh")) | ("hidden_act", Some("gelu")) => Ok(()),
        (_, Some(other)) => Err(c.fault(
            key,
            format!(
                "\"{}\" is not supported; supported: \"gelu_pytorch_tanh\"",
                super::error::one_line(other)
            ),
        )),
    }
}

/// Span and RoPE of every layer.
fn layers(
    c: &Object<'_>,
    family: Family,
    d: &Defaults,
    n_layers: u32,
) -> Result<Vec<Layer>, ImportError> {
    let sliding = sliding_layers(c, family, n_layers)?;
    let window = match c.raw("sliding_window") {
        None => Some(WINDOW),
        Some(_) => c.count("sliding_window", u32::MAX)?,
    };
    let ropes = ropes(c, family, d)?;
    sliding
        .into_iter()
        .map(|sliding| {
            if !sliding {
                return Ok(Layer {
                    span: Span::Full,
                    rope: ropes.full,
                });
            }
            let window =
                window.ok_or_else(|| c.fault("sliding_window", "is null, but layers have one"))?;
            Ok(Layer {
                span: Span::Window(window),
                rope: ropes.sliding,
            })
        })
        .collect()
}

/// Which layers have a sliding window.
fn sliding_layers(c: &Object<'_>, family: Family, n_layers: u32) -> Result<Vec<bool>, ImportError> {
    if family == Family::Gemma1 {
        return Ok(vec![false; n_layers as usize]);
    }
    if let Some(types) = c.list("layer_types")? {
        if types.len() != n_layers as usize {
            let what = format!("names {} layers, not {n_layers}", types.len());
            return Err(c.fault("layer_types", what));
        }
        let sliding = |v: &Value| match v.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(c.fault(
                "layer_types",
                format!(
                    "may name sliding_attention and full_attention, not {}",
                    shown(v)
                ),
            )),
        };
        return types.iter().map(sliding).collect();
    }
    let pattern = match family {
        Family::Gemma1 | Family::Gemma2 => GEMMA2_PATTERN,
        Family::Gemma3 => {
            let given = match c.count("sliding_window_pattern", u32::MAX)? {
                Some(n) => Some(n),
                None => c.count("_sliding_window_pattern", u32::MAX)?,
            };
            given.unwrap_or(GEMMA3_PATTERN)
        }
    };
    Ok((1..=n_layers).map(|n| n % pattern != 0).collect())
}

/// RoPE of the two kinds of layers.
struct Ropes {
    full: Rope,
    sliding: Rope,
}

fn ropes(c: &Object<'_>, family: Family, d: &Defaults) -> Result<Ropes, ImportError> {
    let given = c.object("rope_parameters")?;
    let scaling = c.object("rope_scaling")?;
    let (mut flat, mut full, mut local) = (None, None, None);
    if let Some(p) = &given {
        let nested = p.raw("full_attention").is_some() || p.raw("sliding_attention").is_some();
        if nested {
            full = p.object("full_attention")?;
            local = p.object("sliding_attention")?;
        } else if family != Family::Gemma3 {
            flat = given.clone();
        } else if p.entries().next().is_some() {
            return Err(c.fault(
                "rope_parameters",
                "must hold full_attention and sliding_attention: Gemma 3 has one RoPE for each",
            ));
        }
    }
    let base = c.positive("rope_theta")?.unwrap_or(d.theta);
    match family {
        Family::Gemma1 | Family::Gemma2 => Ok(Ropes {
            full: rope(full.or(flat.clone()).as_ref(), scaling.as_ref(), base)?,
            sliding: rope(local.or(flat).as_ref(), scaling.as_ref(), base)?,
        }),
        Family::Gemma3 => {
            let local_base = c.positive("rope_local_base_freq")?;
            Ok(Ropes {
                full: rope(full.as_ref(), scaling.as_ref(), base)?,
                // The older style scales the positions of the full-attention layers only.
                sliding: rope(local.as_ref(), None, local_base.unwrap_or(LOCAL_THETA))?,
            })
        }
    }
}

/// One RoPE: `own` in the newer style, `scaling` in the older one, `theta` where neither gives a base.
fn rope(
    own: Option<&Object<'_>>,
    scaling: Option<&Object<'_>>,
    theta: f32,
) -> Result<Rope, ImportError> {
    let mut rope = Rope { theta, factor: 1.0 };
    for o in [own, scaling].into_iter().flatten() {
        if let Some(theta) = o.positive("rope_theta")? {
            rope.theta = theta;
        }
        if let Some(part) = o.positive("partial_rotary_factor")?
            && part != 1.0
        {
            return Err(o.fault(
                "partial_rotary_factor",
                format!("{part} is not supported: all of a head is rotated"),
            ));
        }
        // "type" is how the oldest configurations spell it.
        let key = if o.get("rope_type").is_some() {
            "rope_type"
        } else {
            "type"
        };
        match o.text(key)? {
            None => {}
            Some("default") => rope.factor = 1.0,
            Some("linear") => {
                rope.factor = o
                    .positive("factor")?
                    .ok_or_else(|| o.fault("factor", "is absent, but linear scaling needs it"))?;
            }
            Some(other) => {
                let what = format!(
                    "\"{}\" is not supported; supported: \"default\", \"linear\"",
                    super::error::one_line(other)
                );
                return Err(o.fault(key, what));
            }
        }
    }
    Ok(rope)
}
