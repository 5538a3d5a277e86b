//! What a Gemma computes, as a module of primitive ops.
//!
//! Emits the model as its paper states it, op by op; nothing is fused, folded or reordered here.
//!
//! Source: Gemma Team, "Gemma" (2024), "Gemma 2" (2024), "Gemma 3" (2025); transformers' modeling files for the order
//! of norms and the head.

use super::config::{Config, Family, Rope, Span};
use super::tensors::{Bound, HEAD, Parts};
use gembin_ir::{
    Cache, CacheId, DType, Dim, DimBounds, Function, FunctionBuilder, Layout, Module, OpKind,
    TensorType, TypeFault, ValueId, Weight, WeightExpr, WeightId,
};
use std::collections::HashMap;

/// Builds the module.
///
/// # Errors
/// An op that the IR refuses, which is a bug of the importer.
pub(crate) fn build(
    name: &str,
    bounds: DimBounds,
    config: &Config,
    parts: &Parts,
) -> Result<Module, TypeFault> {
    let mut module = Module::new(name, bounds);
    let mut weights = HashMap::new();
    for Bound {
        tensor,
        weight,
        dtype,
        shape,
    } in &parts.bound
    {
        let id = module.add_weight(Weight {
            name: weight.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            expr: WeightExpr::Tensor(tensor.clone()),
            layout: Layout::RowMajor,
        });
        weights.insert(weight.as_str(), id);
    }
    let caches: Vec<CacheId> = config
        .layers
        .iter()
        .enumerate()
        .map(|(n, layer)| {
            module.add_cache(Cache {
                name: format!("l{n}.kv"),
                dtype: DType::F32,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                window: match layer.span {
                    Span::Full => None,
                    Span::Window(tokens) => Some(tokens),
                },
                capacity: None,
                place: None,
            })
        })
        .collect();
    let emit = |name, phase| {
        Emitter {
            b: FunctionBuilder::new(&module, name),
            config,
            weights: &weights,
            caches: &caches,
            tables: Vec::new(),
        }
        .function(phase)
    };
    let prefill = emit("prefill", Phase::Prefill)?;
    let decode = emit("decode", Phase::Decode)?;
    module.functions = vec![prefill, decode];
    Ok(module)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Logits of the rows asked for.
    Prefill,
    /// Logits of every row.
    Decode,
}

struct Emitter<'m> {
    b: FunctionBuilder<'m>,
    config: &'m Config,
    weights: &'m HashMap<&'m str, WeightId>,
    caches: &'m [CacheId],
    /// Tables emitted so far: layers with the same RoPE share one.
    tables: Vec<(Rope, ValueId)>,
}

impl Emitter<'_> {
    fn function(mut self, phase: Phase) -> Result<Function, TypeFault> {
        let ids = self.b.param(TensorType::index(Dim::Seq));
        let pos = self.b.param(TensorType::index(Dim::Seq));
        let slot = self.b.param(TensorType::index(Dim::Seq));
        let out = (phase == Phase::Prefill).then(|| self.b.param(TensorType::index(Dim::Out)));

        for layer in &self.config.layers {
            if !self.tables.iter().any(|(rope, _)| *rope == layer.rope) {
                let table = OpKind::RopeTable {
                    head_dim: self.config.head_dim,
                    theta: layer.rope.theta,
                    factor: layer.rope.factor,
                };
                let table = self.b.op1(table, &[pos])?;
                self.tables.push((layer.rope, table));
            }
        }
        let embed = self.weight("embed");
        let embed_op = OpKind::Embed {
            table: embed,
            scale: sqrt(self.config.hidden),
        };
        let mut x = self.b.op1(embed_op, &[ids])?;
        for n in 0..self.config.layers.len() {
            x = self.attention_block(n, x, pos, slot)?;
            x = self.ffn_block(n, x)?;
        }
        x = self.norm("norm".into(), x)?;
        if let Some(out) = out {
            x = self.b.op1(OpKind::SelectRows, &[x, out])?;
        }
        let head = self.weights.get(HEAD).copied().unwrap_or(embed);
        let mut logits = self.b.op1(OpKind::Linear { weight: head }, &[x])?;
        if let Some(cap) = self.config.final_softcap {
            logits = self.b.op1(OpKind::Softcap { cap }, &[logits])?;
        }
        Ok(self.b.finish(&[logits]))
    }

    /// `x + post_norm(o(attention(norm(x))))`.
    fn attention_block(
        &mut self,
        n: usize,
        x: ValueId,
        pos: ValueId,
        slot: ValueId,
    ) -> Result<ValueId, TypeFault> {
        let c = self.config;
        let normed = self.norm(format!("l{n}.input_norm"), x)?;
        let mut q = self.linear(format!("l{n}.q"), normed)?;
        let mut k = self.linear(format!("l{n}.k"), normed)?;
        let v = self.linear(format!("l{n}.v"), normed)?;
        if c.family == Family::Gemma3 {
            q = self.norm(format!("l{n}.q_norm"), q)?;
            k = self.norm(format!("l{n}.k_norm"), k)?;
        }
        let table = self.table(c.layers[n].rope);
        let rope = OpKind::Rope {
            head_dim: c.head_dim,
        };
        q = self.b.op1(rope.clone(), &[q, table])?;
        k = self.b.op1(rope, &[k, table])?;
        let cache = self.caches[n];
        self.b.op(OpKind::KvWrite { cache }, &[k, v, pos, slot])?;
        let attention = OpKind::Attention {
            cache,
            heads: c.heads,
            scale: c.attention_scale,
            softcap: c.attention_softcap.unwrap_or(0.0),
        };
        let mixed = self.b.op1(attention, &[q, pos, slot])?;
        let mut y = self.linear(format!("l{n}.o"), mixed)?;
        if self.has_post_norms() {
            y = self.norm(format!("l{n}.post_attn_norm"), y)?;
        }
        self.b.op1(OpKind::Add, &[x, y])
    }

    /// `x + post_norm(down(gelu(gate(norm(x))) * up(norm(x))))`.
    fn ffn_block(&mut self, n: usize, x: ValueId) -> Result<ValueId, TypeFault> {
        let normed = self.norm(format!("l{n}.pre_ffn_norm"), x)?;
        let gate = self.linear(format!("l{n}.gate"), normed)?;
        let up = self.linear(format!("l{n}.up"), normed)?;
        let gate = self.b.op1(OpKind::Gelu, &[gate])?;
        let wide = self.b.op1(OpKind::Mul, &[gate, up])?;
        let mut y = self.linear(format!("l{n}.down"), wide)?;
        if self.has_post_norms() {
            y = self.norm(format!("l{n}.post_ffn_norm"), y)?;
        }
        self.b.op1(OpKind::Add, &[x, y])
    }

    fn has_post_norms(&self) -> bool {
        match self.config.family {
            Family::Gemma1 => false,
            Family::Gemma2 | Family::Gemma3 => true,
        }
    }

    fn norm(&mut self, weight: String, x: ValueId) -> Result<ValueId, TypeFault> {
        let norm = OpKind::RmsNorm {
            weight: self.weight(&weight),
            eps: self.config.eps,
            // Gemma stores norm weights as their distance from one.
            offset: 1.0,
        };
        self.b.op1(norm, &[x])
    }

    fn linear(&mut self, weight: String, x: ValueId) -> Result<ValueId, TypeFault> {
        let weight = self.weight(&weight);
        self.b.op1(OpKind::Linear { weight }, &[x])
    }

    fn table(&self, rope: Rope) -> ValueId {
        let found = self.tables.iter().find(|(r, _)| *r == rope);
        found.expect("every layer's table was emitted first").1
    }

    fn weight(&self, name: &str) -> WeightId {
        self.weights[name]
    }
}

/// Rounded once, as the reference does.
#[allow(
    clippy::cast_possible_truncation,
    reason = "rounding a double to f32 is meant"
)]
fn sqrt(n: u32) -> f32 {
    f64::from(n).sqrt() as f32
}
