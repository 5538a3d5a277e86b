//! Random checkpoints of any shape: small models whose dimensions are no multiple of any kernel's tile.

use safetensors::{Dtype, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Shape of a random Gemma 2 or Gemma 3 checkpoint.
#[derive(Clone, Debug)]
pub struct RandomModel {
    /// For messages.
    pub name: &'static str,
    /// Gemma 3 (norms on query and key heads, no soft caps) or Gemma 2.
    pub gemma3: bool,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab: usize,
    /// Positions that a sliding layer sees.
    pub window: usize,
    /// For each layer, whether its attention slides.
    pub sliding: &'static [bool],
    /// Decides every value.
    pub seed: u64,
    /// Whether a weight of the first query projection is no number.
    pub broken: bool,
}

impl RandomModel {
    /// Writes configuration and weights (f32) into a folder.
    pub fn write(&self, dir: &Path) {
        let kinds: Vec<&str> = self
            .sliding
            .iter()
            .map(|sliding| match sliding {
                true => "sliding_attention",
                false => "full_attention",
            })
            .collect();
        let rope = |theta: f64| serde_json::json!({ "rope_theta": theta, "rope_type": "default" });
        let mut config = serde_json::json!({
            "model_type": if self.gemma3 { "gemma3_text" } else { "gemma2" },
            "architectures": [if self.gemma3 { "Gemma3ForCausalLM" } else { "Gemma2ForCausalLM" }],
            "attention_bias": false,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "head_dim": self.head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "layer_types": kinds,
            "max_position_embeddings": 512,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.sliding.len(),
            "num_key_value_heads": self.kv_heads,
            "query_pre_attn_scalar": self.head_dim,
            "rms_norm_eps": 1e-6,
            "sliding_window": self.window,
            "tie_word_embeddings": true,
            "vocab_size": self.vocab,
        });
        let extra = match self.gemma3 {
            true => serde_json::json!({
                "rope_parameters": {
                    "full_attention": rope(1e6),
                    "sliding_attention": rope(1e4),
                },
            }),
            false => serde_json::json!({
                "attn_logit_softcapping": 20.0,
                "final_logit_softcapping": 15.0,
                "rope_parameters": rope(1e4),
            }),
        };
        let config_map = config.as_object_mut().expect("an object");
        config_map.extend(extra.as_object().expect("an object").clone());
        std::fs::write(dir.join("config.json"), config.to_string()).expect("config.json");

        let tensors = self.tensors();
        let bytes: BTreeMap<&String, Vec<u8>> = tensors
            .iter()
            .map(|(name, (_, values))| {
                (name, values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let views: Vec<(&String, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, (shape, _))| {
                let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name]);
                (name, view.expect("bytes of the shape"))
            })
            .collect();
        let file = safetensors::serialize(views, None).expect("tensors can be written");
        std::fs::write(dir.join("model.safetensors"), file).expect("model.safetensors");
    }

    fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let mut random = Random(self.seed);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: Vec<usize>, scale: f32| {
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| scale * random.signed()).collect();
            tensors.insert(name, (shape, values));
        };
        let (hidden, q, kv) = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        );
        // Keeps every product of about the size of its input.
        let scale = |cols: usize| (3.0 / cols as f32).sqrt();
        add(
            "model.embed_tokens.weight".into(),
            vec![self.vocab, hidden],
            1.0,
        );
        add("model.norm.weight".into(), vec![hidden], 0.3);
        for layer in 0..self.sliding.len() {
            let mut add = |name: &str, shape: Vec<usize>| {
                let scale = match shape[..] {
                    [_, cols] => scale(cols),
                    _ => 0.3,
                };
                add(format!("model.layers.{layer}.{name}.weight"), shape, scale);
            };
            add("input_layernorm", vec![hidden]);
            add("post_attention_layernorm", vec![hidden]);
            add("pre_feedforward_layernorm", vec![hidden]);
            add("post_feedforward_layernorm", vec![hidden]);
            add("self_attn.q_proj", vec![q, hidden]);
            add("self_attn.k_proj", vec![kv, hidden]);
            add("self_attn.v_proj", vec![kv, hidden]);
            add("self_attn.o_proj", vec![hidden, q]);
            if self.gemma3 {
                add("self_attn.q_norm", vec![self.head_dim]);
                add("self_attn.k_norm", vec![self.head_dim]);
            }
            add("mlp.gate_proj", vec![self.ffn, hidden]);
            add("mlp.up_proj", vec![self.ffn, hidden]);
            add("mlp.down_proj", vec![hidden, self.ffn]);
        }
        if self.broken {
            let name = "model.layers.0.self_attn.q_proj.weight";
            let (_, values) = tensors.get_mut(name).expect("a query projection");
            values[0] = f32::NAN;
        }
        tensors
    }
}

/// A small generator of reproducible numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
