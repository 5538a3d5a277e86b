//! The ops: what each computes, its attributes, operands and result types.
//!
//! Rows are tokens. `x[r, c]` is row `r`, column `c`. A weight matrix has a row per output, `w[n, k]`.
//! Attributes that name weights or caches are ids into the module's tables.

use crate::entity::{CacheId, WeightId};
use crate::module::Module;
use crate::types::{DType, Dim, TensorType};

/// An op with its attributes.
#[derive(Clone, PartialEq, Debug)]
pub enum OpKind {
    // ---- what importers emit ----
    /// `(ids i32[r]) -> f32[r, h]`: row `ids[r]` of `table`, times `scale`.
    Embed { table: WeightId, scale: f32 },
    /// `(x f32[r, c]) -> f32[r, c]`: root-mean-square norm over each run of `weight.len()` columns:
    /// `x * rsqrt(mean(x^2) + eps) * (offset + weight)`. Source: Zhang & Sennrich 2019.
    /// With a weight shorter than a row, each head is normed by itself.
    RmsNorm {
        weight: WeightId,
        eps: f32,
        offset: f32,
    },
    /// `(x f32[r, k]) -> f32[r, n]`: `x w^T`.
    Linear { weight: WeightId },
    /// `(pos i32[r]) -> f32[r, head_dim]`: cosines, then sines, of `pos * theta^(-2i/head_dim) / factor` for
    /// `i < head_dim/2`. Source: Su et al. 2021; `factor` is linear position interpolation (Chen et al. 2023).
    RopeTable {
        head_dim: u32,
        theta: f32,
        factor: f32,
    },
    /// `(x f32[r, h*d], table f32[r, d]) -> f32[r, h*d]`: rotates the pairs `(i, i + d/2)` of every head.
    Rope { head_dim: u32 },
    /// `(k f32[r, kv*d], v f32[r, kv*d], pos i32[r], slot i32[r]) -> ()`: stores row `r` at `pos[r]` of `slot[r]`.
    KvWrite { cache: CacheId },
    /// `(q f32[r, heads*d], pos i32[r], slot i32[r]) -> f32[r, heads*d]`: causal attention of each row over the
    /// positions `<= pos` of its slot (the last `window` of them if the cache has a window). Query head `h` reads KV
    /// head `h * kv_heads / heads`. Scores are `q.k * scale`, then `cap * tanh(s / cap)` if `softcap` > 0.
    Attention {
        cache: CacheId,
        heads: u32,
        scale: f32,
        softcap: f32,
    },
    /// `(x) -> x`: GELU, tanh approximation. Source: Hendrycks & Gimpel 2016.
    Gelu,
    /// `(a, b) -> a * b`, element by element.
    Mul,
    /// `(a, b) -> a + b`, element by element.
    Add,
    /// `(x) -> cap * tanh(x / cap)`. Source: Gemma 2 report, section 2.
    Softcap { cap: f32 },
    /// `(x f32[r, c], rows i32[o]) -> f32[o, c]`: rows `rows[o]` of `x`.
    SelectRows,
    /// `(x i32[r], rows i32[o]) -> i32[o]`: entries `rows[o]` of `x`.
    SelectIndex,

    // ---- what passes make of them ----
    /// `(x f32[r, c]) -> f32[r, len]`: columns `start .. start + len`.
    Columns { start: u32, len: u32 },
    /// `(x f32[r, k]) -> y` or `(x f32[r, k], residual f32[r, k]) -> (sum f32[r, k], y)`:
    ///
    /// ```text
    /// t   = post_norm ? rms_norm(x, post_norm) : x
    /// sum = residual ? residual + t : t
    /// a   = norm ? rms_norm(sum, norm) : sum
    /// y   = epilogue(a w^T)
    /// ```
    /// The norms' weights are used as they are (offset 0).
    FusedLinear {
        weight: WeightId,
        post_norm: Option<WeightId>,
        norm: Option<WeightId>,
        eps: f32,
        epilogue: Epilogue,
    },
    /// `(qkv f32[r, (q_heads + 2*kv)*d], table f32[r, d], pos i32[r], slot i32[r]) -> f32[r, q_heads*d]`:
    /// norms (if given) and rotates the heads of q and k, stores k and v in the cache, returns q.
    RopeKv {
        cache: CacheId,
        q_heads: u32,
        q_norm: Option<WeightId>,
        k_norm: Option<WeightId>,
        eps: f32,
    },
}

/// What a [`OpKind::FusedLinear`] does with its sums.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// The weight interleaves blocks of 16 gate rows and 16 up rows: `gelu(gate) * up`, `width` columns.
    Geglu { width: u32 },
    /// `cap * tanh(y / cap)`.
    Softcap { cap: f32 },
}

/// Rows of a block of gate rows, or of up rows, under [`Epilogue::Geglu`].
pub const GEGLU_BLOCK: u32 = 16;

/// Why an op cannot take the operands it was given.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{op}: {what}")]
pub struct TypeFault {
    /// The op's name.
    pub op: &'static str,
    /// What was expected and what was found.
    pub what: String,
}

impl OpKind {
    /// The name in `.gir` text.
    pub fn name(&self) -> &'static str {
        match self {
            OpKind::Embed { .. } => "embed",
            OpKind::RmsNorm { .. } => "rms_norm",
            OpKind::Linear { .. } => "linear",
            OpKind::RopeTable { .. } => "rope_table",
            OpKind::Rope { .. } => "rope",
            OpKind::KvWrite { .. } => "kv_write",
            OpKind::Attention { .. } => "attention",
            OpKind::Gelu => "gelu",
            OpKind::Mul => "mul",
            OpKind::Add => "add",
            OpKind::Softcap { .. } => "softcap",
            OpKind::SelectRows => "select_rows",
            OpKind::SelectIndex => "select_index",
            OpKind::Columns { .. } => "columns",
            OpKind::FusedLinear { .. } => "fused_linear",
            OpKind::RopeKv { .. } => "rope_kv",
        }
    }

    /// Result types for these operand types.
    ///
    /// # Errors
    /// The first reason why the op cannot take them.
    pub fn infer(
        &self,
        module: &Module,
        operands: &[TensorType],
    ) -> Result<Vec<TensorType>, TypeFault> {
        let cx = Infer {
            op: self.name(),
            module,
            operands,
        };
        match self {
            OpKind::Embed { table, .. } => {
                let [rows] = cx.index_operands(["ids"])?;
                let (_, hidden) = cx.weight_matrix(*table)?;
                Ok(vec![TensorType::matrix(rows, hidden)])
            }
            OpKind::RmsNorm { weight, .. } => {
                cx.arity(1)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                let len = cx.weight_vector(*weight)?;
                if len == 0 || cols % len != 0 {
                    return Err(cx.fault(format!(
                        "{cols} columns are no multiple of the weight's {len}"
                    )));
                }
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::Linear { weight } => {
                cx.arity(1)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                Ok(vec![TensorType::matrix(rows, cx.reduce(*weight, cols)?)])
            }
            OpKind::RopeTable {
                head_dim,
                theta,
                factor,
            } => {
                let [rows] = cx.index_operands(["pos"])?;
                cx.even_head(*head_dim)?;
                if !(*theta > 0.0 && *factor > 0.0) {
                    return Err(cx.fault(format!(
                        "theta {theta} and factor {factor} must be positive"
                    )));
                }
                Ok(vec![TensorType::matrix(rows, *head_dim)])
            }
            OpKind::Rope { head_dim } => {
                cx.arity(2)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                cx.even_head(*head_dim)?;
                cx.expect_matrix(1, "table", rows, *head_dim)?;
                if cols % head_dim != 0 {
                    return Err(cx.fault(format!(
                        "{cols} columns are no multiple of head_dim {head_dim}"
                    )));
                }
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::KvWrite { cache } => {
                cx.arity(4)?;
                let (rows, cols) = cx.matrix(0, "k")?;
                let width = cx.cache_width(*cache)?;
                if cols != width {
                    return Err(cx.fault(format!("k has {cols} columns, the cache holds {width}")));
                }
                cx.expect_matrix(1, "v", rows, width)?;
                cx.expect_index(2, "pos", rows)?;
                cx.expect_index(3, "slot", rows)?;
                Ok(vec![])
            }
            OpKind::Attention { cache, heads, .. } => {
                cx.arity(3)?;
                let (rows, cols) = cx.matrix(0, "q")?;
                let head_dim = cx.heads(*cache, *heads)?;
                if heads.checked_mul(head_dim) != Some(cols) {
                    return Err(cx.fault(format!(
                        "q has {cols} columns, not {heads} heads of {head_dim}"
                    )));
                }
                cx.expect_index(1, "pos", rows)?;
                cx.expect_index(2, "slot", rows)?;
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::Gelu => {
                cx.arity(1)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::Mul | OpKind::Add => {
                cx.arity(2)?;
                let (rows, cols) = cx.matrix(0, "a")?;
                cx.expect_matrix(1, "b", rows, cols)?;
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::Softcap { cap } => {
                cx.arity(1)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                cx.cap(*cap)?;
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::SelectRows => {
                cx.arity(2)?;
                let (_, cols) = cx.matrix(0, "x")?;
                let rows = cx.index(1, "rows")?;
                Ok(vec![TensorType::matrix(rows, cols)])
            }
            OpKind::SelectIndex => {
                cx.arity(2)?;
                cx.index(0, "x")?;
                let rows = cx.index(1, "rows")?;
                Ok(vec![TensorType::index(rows)])
            }
            OpKind::Columns { start, len } => {
                cx.arity(1)?;
                let (rows, cols) = cx.matrix(0, "x")?;
                if *len == 0 || start.checked_add(*len).is_none_or(|end| end > cols) {
                    return Err(cx.fault(format!("columns {start}..+{len} of {cols}")));
                }
                Ok(vec![TensorType::matrix(rows, *len)])
            }
            OpKind::FusedLinear {
                weight,
                post_norm,
                norm,
                epilogue,
                ..
            } => {
                if operands.len() != 1 && operands.len() != 2 {
                    return Err(cx.fault(format!(
                        "takes x, or x and residual, not {} operands",
                        operands.len()
                    )));
                }
                let (rows, cols) = cx.matrix(0, "x")?;
                for id in [post_norm, norm].into_iter().flatten() {
                    let len = cx.weight_vector(*id)?;
                    if len != cols {
                        return Err(cx.fault(format!("norm weight has {len} values, a row {cols}")));
                    }
                }
                let n = cx.reduce(*weight, cols)?;
                let width = match epilogue {
                    Epilogue::None => n,
                    Epilogue::Softcap { cap } => {
                        cx.cap(*cap)?;
                        n
                    }
                    Epilogue::Geglu { width } => {
                        let padded = width.div_ceil(GEGLU_BLOCK).saturating_mul(2 * GEGLU_BLOCK);
                        if *width == 0 || padded != n {
                            return Err(cx.fault(format!(
                                "geglu of width {width} needs {padded} rows, not {n}"
                            )));
                        }
                        *width
                    }
                };
                let y = TensorType::matrix(rows, width);
                if operands.len() == 1 {
                    return Ok(vec![y]);
                }
                cx.expect_matrix(1, "residual", rows, cols)?;
                Ok(vec![TensorType::matrix(rows, cols), y])
            }
            OpKind::RopeKv {
                cache,
                q_heads,
                q_norm,
                k_norm,
                ..
            } => {
                cx.arity(4)?;
                let (rows, cols) = cx.matrix(0, "qkv")?;
                let head_dim = cx.heads(*cache, *q_heads)?;
                cx.even_head(head_dim)?;
                let kv_heads = cx.module.caches[cache.index()].kv_heads;
                let want = (u64::from(*q_heads) + 2 * u64::from(kv_heads)) * u64::from(head_dim);
                if u64::from(cols) != want {
                    return Err(cx.fault(format!("qkv has {cols} columns, not {want}")));
                }
                for id in [q_norm, k_norm].into_iter().flatten() {
                    let len = cx.weight_vector(*id)?;
                    if len != head_dim {
                        return Err(
                            cx.fault(format!("head norm has {len} values, a head {head_dim}"))
                        );
                    }
                }
                cx.expect_matrix(1, "table", rows, head_dim)?;
                cx.expect_index(2, "pos", rows)?;
                cx.expect_index(3, "slot", rows)?;
                Ok(vec![TensorType::matrix(rows, q_heads * head_dim)])
            }
        }
    }
}

/// Operand checks with messages in one voice.
struct Infer<'a> {
    op: &'static str,
    module: &'a Module,
    operands: &'a [TensorType],
}

impl Infer<'_> {
    fn fault(&self, what: String) -> TypeFault {
        TypeFault { op: self.op, what }
    }

    fn arity(&self, want: usize) -> Result<(), TypeFault> {
        match self.operands.len() {
            n if n == want => Ok(()),
            n => Err(self.fault(format!("takes {want} operands, not {n}"))),
        }
    }

    fn matrix(&self, i: usize, name: &str) -> Result<(Dim, u32), TypeFault> {
        let ty = &self.operands[i];
        ty.as_matrix()
            .ok_or_else(|| self.fault(format!("{name} must be an f32 matrix, not {ty}")))
    }

    fn index(&self, i: usize, name: &str) -> Result<Dim, TypeFault> {
        let ty = &self.operands[i];
        ty.as_index()
            .ok_or_else(|| self.fault(format!("{name} must be an i32 vector, not {ty}")))
    }

    fn index_operands(&self, names: [&str; 1]) -> Result<[Dim; 1], TypeFault> {
        self.arity(1)?;
        Ok([self.index(0, names[0])?])
    }

    fn expect_matrix(&self, i: usize, name: &str, rows: Dim, cols: u32) -> Result<(), TypeFault> {
        let want = TensorType::matrix(rows, cols);
        match &self.operands[i] {
            ty if *ty == want => Ok(()),
            ty => Err(self.fault(format!("{name} must be {want}, not {ty}"))),
        }
    }

    fn expect_index(&self, i: usize, name: &str, rows: Dim) -> Result<(), TypeFault> {
        let want = TensorType::index(rows);
        match &self.operands[i] {
            ty if *ty == want => Ok(()),
            ty => Err(self.fault(format!("{name} must be {want}, not {ty}"))),
        }
    }

    fn weight_vector(&self, id: WeightId) -> Result<u32, TypeFault> {
        let w = self
            .module
            .weights
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        match (w.dtype, w.shape.as_slice()) {
            (DType::F32 | DType::F16 | DType::Bf16, [n]) => Ok(*n),
            _ => Err(self.fault(format!("@{} must be a float vector", w.name))),
        }
    }

    fn weight_matrix(&self, id: WeightId) -> Result<(u32, u32), TypeFault> {
        let w = self
            .module
            .weights
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        match (w.dtype, w.shape.as_slice()) {
            (DType::I32, _) => Err(self.fault(format!("@{} is of integers", w.name))),
            (_, [n, k]) => Ok((*n, *k)),
            _ => Err(self.fault(format!("@{} must be a matrix", w.name))),
        }
    }

    fn reduce(&self, weight: WeightId, cols: u32) -> Result<u32, TypeFault> {
        let (n, k) = self.weight_matrix(weight)?;
        if k != cols {
            let name = &self.module.weights[weight.index()].name;
            return Err(self.fault(format!("x has {cols} columns, @{name} is [{n}, {k}]")));
        }
        Ok(n)
    }

    fn cache_width(&self, id: CacheId) -> Result<u32, TypeFault> {
        let c = self
            .module
            .caches
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        c.kv_heads
            .checked_mul(c.head_dim)
            .ok_or_else(|| self.fault(format!("@{} is too wide", c.name)))
    }

    /// Head dimension of the cache, if `heads` query heads can share its KV heads evenly.
    fn heads(&self, id: CacheId, heads: u32) -> Result<u32, TypeFault> {
        let c = self
            .module
            .caches
            .get(id.index())
            .ok_or_else(|| self.fault(format!("{id} is not declared")))?;
        if heads == 0 || c.kv_heads == 0 || heads % c.kv_heads != 0 {
            return Err(self.fault(format!(
                "{heads} query heads do not divide over {} KV heads",
                c.kv_heads
            )));
        }
        Ok(c.head_dim)
    }

    fn even_head(&self, head_dim: u32) -> Result<(), TypeFault> {
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(self.fault(format!("head_dim {head_dim} must be even and positive")));
        }
        Ok(())
    }

    fn cap(&self, cap: f32) -> Result<(), TypeFault> {
        if !(cap.is_finite() && cap > 0.0) {
            return Err(self.fault(format!("cap {cap} must be positive")));
        }
        Ok(())
    }
}
