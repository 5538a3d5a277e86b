//! The shapes of the published models, and the configuration files that say them.
//!
//! Source: the `config.json` of each model as published; the 4B models and up are multimodal there, here only their
//! text half is made.

use crate::import::Family;
use serde_json::{Value, json};

/// A published model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preset(&'static Shape);

/// Dimensions of a model.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub name: &'static str,
    pub family: Family,
    pub layers: u32,
    pub hidden: u32,
    pub ffn: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Tokens; 0: no layer has a window.
    pub window: u32,
    pub query_pre_attn_scalar: u32,
    pub positions: u32,
    /// Position interpolation of the full-attention layers.
    pub rope_factor: u32,
}

/// Layers of a Gemma 3 block: the last one attends to everything.
const GEMMA3_PATTERN: u32 = 6;
/// The same of Gemma 2.
const GEMMA2_PATTERN: u32 = 2;

#[rustfmt::skip]
const SHAPES: [Shape; 10] = {
    use Family::{Gemma1, Gemma2, Gemma3};
    [
        shape("gemma-2b", Gemma1, [18, 2048, 16_384], [8, 1, 256], 0, 256, 8192, 1),
        shape("gemma-7b", Gemma1, [28, 3072, 24_576], [16, 16, 256], 0, 256, 8192, 1),
        shape("gemma-2-2b", Gemma2, [26, 2304, 9216], [8, 4, 256], 4096, 256, 8192, 1),
        shape("gemma-2-9b", Gemma2, [42, 3584, 14_336], [16, 8, 256], 4096, 256, 8192, 1),
        shape("gemma-2-27b", Gemma2, [46, 4608, 36_864], [32, 16, 128], 4096, 144, 8192, 1),
        shape("gemma-3-270m", Gemma3, [18, 640, 2048], [4, 1, 256], 512, 256, 32_768, 1),
        shape("gemma-3-1b", Gemma3, [26, 1152, 6912], [4, 1, 256], 512, 256, 32_768, 1),
        shape("gemma-3-4b", Gemma3, [34, 2560, 10_240], [8, 4, 256], 1024, 256, 131_072, 8),
        shape("gemma-3-12b", Gemma3, [48, 3840, 15_360], [16, 8, 256], 1024, 256, 131_072, 8),
        shape("gemma-3-27b", Gemma3, [62, 5376, 21_504], [32, 16, 128], 1024, 168, 131_072, 8),
    ]
};

#[allow(
    clippy::too_many_arguments,
    reason = "a row of the table above, which is what one reads"
)]
const fn shape(
    name: &'static str,
    family: Family,
    [layers, hidden, ffn]: [u32; 3],
    [heads, kv_heads, head_dim]: [u32; 3],
    window: u32,
    query_pre_attn_scalar: u32,
    positions: u32,
    rope_factor: u32,
) -> Shape {
    Shape {
        name,
        family,
        layers,
        hidden,
        ffn,
        heads,
        kv_heads,
        head_dim,
        window,
        query_pre_attn_scalar,
        positions,
        rope_factor,
    }
}

impl Preset {
    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        SHAPES.iter().find(|s| s.name == name).map(Preset)
    }

    /// All names, small to large within each generation.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|s| s.name)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Layers of the whole model.
    pub fn layers(self) -> u32 {
        self.0.layers
    }

    /// Generation.
    pub(super) fn family(self) -> Family {
        self.0.family
    }

    /// Entries of the tokenizer and rows of the embedding.
    pub(super) fn vocab(self) -> u32 {
        match self.0.family {
            Family::Gemma1 | Family::Gemma2 => 256_000,
            Family::Gemma3 => 262_144,
        }
    }

    /// `config.json` of the first `layers` layers, as transformers 5 writes it.
    pub(super) fn config(self, layers: u32) -> Value {
        let s = self.0;
        let mut config = json!({
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "dtype": "bfloat16",
            "eos_token_id": 1,
            "head_dim": s.head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": s.hidden,
            "initializer_range": 0.02,
            "intermediate_size": s.ffn,
            "max_position_embeddings": s.positions,
            "num_attention_heads": s.heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": s.kv_heads,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true,
            "use_cache": true,
            "vocab_size": self.vocab(),
        });
        let plain = |theta: f64| json!({"rope_theta": theta, "rope_type": "default"});
        let linear = |theta: f64| match s.rope_factor {
            1 => plain(theta),
            factor => {
                json!({"rope_theta": theta, "rope_type": "linear", "factor": f64::from(factor)})
            }
        };
        let own = match s.family {
            Family::Gemma1 => json!({
                "architectures": ["GemmaForCausalLM"],
                "model_type": "gemma",
                "hidden_act": "gelu_pytorch_tanh",
                "rope_parameters": plain(1e4),
            }),
            Family::Gemma2 => json!({
                "architectures": ["Gemma2ForCausalLM"],
                "model_type": "gemma2",
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "layer_types": layer_types(layers, GEMMA2_PATTERN),
                "query_pre_attn_scalar": s.query_pre_attn_scalar,
                "rope_parameters": plain(1e4),
                "sliding_window": s.window,
            }),
            Family::Gemma3 => json!({
                "architectures": ["Gemma3ForCausalLM"],
                "model_type": "gemma3_text",
                "attn_logit_softcapping": null,
                "final_logit_softcapping": null,
                "layer_types": layer_types(layers, GEMMA3_PATTERN),
                "query_pre_attn_scalar": s.query_pre_attn_scalar,
                "rope_parameters": {"full_attention": linear(1e6), "sliding_attention": plain(1e4)},
                "sliding_window": s.window,
                "use_bidirectional_attention": false,
            }),
        };
        if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
            config.extend(own);
        }
        config
    }

    /// `generation_config.json`.
    pub(super) fn generation_config(self, end_of_turn: u32) -> Value {
        json!({
            "bos_token_id": 2,
            "do_sample": true,
            "eos_token_id": [1, end_of_turn],
            "pad_token_id": 0,
            "top_k": 64,
            "top_p": 0.95,
        })
    }
}

fn layer_types(layers: u32, pattern: u32) -> Vec<&'static str> {
    (1..=layers)
        .map(|n| match n % pattern {
            0 => "full_attention",
            _ => "sliding_attention",
        })
        .collect()
}
