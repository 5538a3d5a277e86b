//! Small models of the three Gemma generations, as importers emit them.

use gembin_ir::{
    Cache, CacheId, DType, Dim, DimBounds, Function, FunctionBuilder, Layout, Module, OpKind,
    TensorType, TypeFault, ValueId, Weight, WeightExpr, WeightId,
};

/// A model's dimensions.
#[derive(Clone, Debug)]
pub struct Gemma {
    pub generation: u32,
    pub layers: usize,
    pub hidden: u32,
    pub ffn: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub vocab: u32,
    /// Of every other layer.
    pub window: Option<u32>,
    pub tied: bool,
    pub bounds: DimBounds,
}

impl Gemma {
    /// Two layers of a few values.
    pub fn tiny(generation: u32) -> Self {
        Self {
            generation,
            layers: 2,
            hidden: 32,
            ffn: 24,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocab: 40,
            window: (generation > 1).then_some(6),
            tied: true,
            bounds: DimBounds {
                chunk: 8,
                outs: 2,
                context: 32,
                slots: 2,
            },
        }
    }

    pub fn module(&self) -> Module {
        let name = format!("gemma{}", self.generation);
        let mut emitter = Emitter {
            gemma: self,
            module: Module::new(name, self.bounds),
        };
        emitter.declare();
        for (name, select) in [("prefill", true), ("decode", false)] {
            let function = emitter.function(name, select).unwrap();
            emitter.module.functions.push(function);
        }
        emitter.module
    }
}

struct Emitter<'g> {
    gemma: &'g Gemma,
    module: Module,
}

impl Emitter<'_> {
    fn declare(&mut self) {
        let g = self.gemma;
        let (q, kv) = (g.heads * g.head_dim, g.kv_heads * g.head_dim);
        let mut all = vec![("embed".to_owned(), vec![g.vocab, g.hidden])];
        for l in 0..g.layers {
            let mut add =
                |name: &str, shape: &[u32]| all.push((format!("l{l}.{name}"), shape.to_vec()));
            add("input_norm", &[g.hidden]);
            add("q", &[q, g.hidden]);
            add("k", &[kv, g.hidden]);
            add("v", &[kv, g.hidden]);
            if g.generation == 3 {
                add("q_norm", &[g.head_dim]);
                add("k_norm", &[g.head_dim]);
            }
            add("o", &[g.hidden, q]);
            add("pre_ffn_norm", &[g.hidden]);
            if g.generation > 1 {
                add("post_attn_norm", &[g.hidden]);
                add("post_ffn_norm", &[g.hidden]);
            }
            add("gate", &[g.ffn, g.hidden]);
            add("up", &[g.ffn, g.hidden]);
            add("down", &[g.hidden, g.ffn]);
        }
        all.push(("norm".to_owned(), vec![g.hidden]));
        if !g.tied {
            all.push(("head".to_owned(), vec![g.vocab, g.hidden]));
        }
        for (name, shape) in all {
            self.module.add_weight(Weight {
                expr: WeightExpr::Tensor(format!("model.{name}")),
                name,
                dtype: DType::Bf16,
                shape,
                layout: Layout::RowMajor,
            });
        }
        for l in 0..g.layers {
            self.module.add_cache(Cache {
                name: format!("l{l}.kv"),
                dtype: DType::F32,
                kv_heads: g.kv_heads,
                head_dim: g.head_dim,
                window: g.window.filter(|_| l % 2 == 0),
                capacity: None,
                place: None,
            });
        }
    }

    fn weight(&self, name: &str) -> WeightId {
        let found = self.module.weights.iter().position(|w| w.name == name);
        WeightId::new(found.unwrap_or_else(|| panic!("no weight {name}")))
    }

    fn linear(&self, name: &str) -> OpKind {
        OpKind::Linear {
            weight: self.weight(name),
        }
    }

    fn norm(&self, name: &str) -> OpKind {
        OpKind::RmsNorm {
            weight: self.weight(name),
            eps: 1e-6,
            offset: 1.0,
        }
    }

    fn function(&self, name: &str, select: bool) -> Result<Function, TypeFault> {
        let g = self.gemma;
        let mut f = FunctionBuilder::new(&self.module, name);
        let ids = f.param(TensorType::index(Dim::Seq));
        let pos = f.param(TensorType::index(Dim::Seq));
        let slot = f.param(TensorType::index(Dim::Seq));
        let out = select.then(|| f.param(TensorType::index(Dim::Out)));
        let thetas = if g.window.is_some() { 2 } else { 1 };
        let mut tables = Vec::new();
        for (theta, factor) in [(1e4, 1.0), (1e6, 8.0)].into_iter().take(thetas) {
            let table = OpKind::RopeTable {
                head_dim: g.head_dim,
                theta,
                factor,
            };
            tables.push(f.op1(table, &[pos])?);
        }
        let embed = OpKind::Embed {
            table: self.weight("embed"),
            scale: (g.hidden as f32).sqrt(),
        };
        let mut x = f.op1(embed, &[ids])?;
        for l in 0..g.layers {
            x = self.layer(&mut f, l, x, tables[l % tables.len()], pos, slot)?;
        }
        let mut y = f.op1(self.norm("norm"), &[x])?;
        if let Some(out) = out {
            y = f.op1(OpKind::SelectRows, &[y, out])?;
        }
        let head = if g.tied { "embed" } else { "head" };
        y = f.op1(self.linear(head), &[y])?;
        if g.generation == 2 {
            y = f.op1(OpKind::Softcap { cap: 30.0 }, &[y])?;
        }
        Ok(f.finish(&[y]))
    }

    fn layer(
        &self,
        f: &mut FunctionBuilder<'_>,
        l: usize,
        x: ValueId,
        table: ValueId,
        pos: ValueId,
        slot: ValueId,
    ) -> Result<ValueId, TypeFault> {
        let g = self.gemma;
        let w = |name: &str| format!("l{l}.{name}");
        let rope = OpKind::Rope {
            head_dim: g.head_dim,
        };
        let cache = CacheId::new(l);
        let n = f.op1(self.norm(&w("input_norm")), &[x])?;
        let mut q = f.op1(self.linear(&w("q")), &[n])?;
        let mut k = f.op1(self.linear(&w("k")), &[n])?;
        let v = f.op1(self.linear(&w("v")), &[n])?;
        if g.generation == 3 {
            q = f.op1(self.norm(&w("q_norm")), &[q])?;
            k = f.op1(self.norm(&w("k_norm")), &[k])?;
        }
        q = f.op1(rope.clone(), &[q, table])?;
        k = f.op1(rope, &[k, table])?;
        f.op(OpKind::KvWrite { cache }, &[k, v, pos, slot])?;
        let attention = OpKind::Attention {
            cache,
            heads: g.heads,
            scale: 1.0 / (g.head_dim as f32).sqrt(),
            softcap: if g.generation == 2 { 50.0 } else { 0.0 },
        };
        let mut o = f.op1(attention, &[q, pos, slot])?;
        o = f.op1(self.linear(&w("o")), &[o])?;
        if g.generation > 1 {
            o = f.op1(self.norm(&w("post_attn_norm")), &[o])?;
        }
        let x = f.op1(OpKind::Add, &[x, o])?;
        let m = f.op1(self.norm(&w("pre_ffn_norm")), &[x])?;
        let gate = f.op1(self.linear(&w("gate")), &[m])?;
        let up = f.op1(self.linear(&w("up")), &[m])?;
        let gate = f.op1(OpKind::Gelu, &[gate])?;
        let mut d = f.op1(OpKind::Mul, &[gate, up])?;
        d = f.op1(self.linear(&w("down")), &[d])?;
        if g.generation > 1 {
            d = f.op1(self.norm(&w("post_ffn_norm")), &[d])?;
        }
        f.op1(OpKind::Add, &[x, d])
    }
}
