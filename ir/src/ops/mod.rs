//! The ops: what each computes, its attributes, operands and result types.
//!
//! An op is defined in one place: its entry in the table below (meaning, attributes, name in text) and the module that
//! the entry names (`infer`: result types and the rules for operands; `eval`: its value, which is its meaning made
//! exact). Enum, printer, parser, inference, verifier and interpreter all follow from these.
//!
//! Rows are tokens. `x[r, c]` is row `r`, column `c`. A weight matrix has a row per output, `w[n, k]`.
//! Attributes that name weights or caches are ids into the module's tables.

mod attention;
mod attr;
mod elementwise;
mod embed;
mod infer;
mod kv;
mod linear;
mod norm;
mod rope;
mod select;

pub use attr::{Attr, AttrReader};
pub use linear::{Epilogue, GEGLU_BLOCK};

use crate::entity::{CacheId, WeightId};
use crate::interp::frame::{Datum, Frame};
use crate::module::Module;
use crate::types::TensorType;
use attr::AttrType;
use infer::Infer;

/// Why an op cannot take the operands it was given.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{op}: {what}")]
pub struct TypeFault {
    /// The op's name.
    pub op: &'static str,
    /// What was expected and what was found.
    pub what: String,
}

/// The table of ops. An entry reads `Variant { attribute: type, .. } = "name in text" in file::module;`.
macro_rules! ops {
    ($(
        $(#[$doc:meta])*
        $variant:ident $({ $( $(#[$field_doc:meta])* $field:ident : $ty:ty ),* $(,)? })? = $name:literal
            in $file:ident :: $op:ident;
    )*) => {
        /// An op with its attributes.
        #[derive(Clone, PartialEq, Debug)]
        pub enum OpKind {
            $( $(#[$doc])* $variant $({ $( $(#[$field_doc])* $field: $ty ),* })?, )*
        }

        impl OpKind {
            /// Names of all ops.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name in `.gir` text.
            pub fn name(&self) -> &'static str {
                match self {
                    $( OpKind::$variant { .. } => $name, )*
                }
            }

            /// The attributes with their names, in order of declaration.
            pub fn attributes(&self) -> Vec<(&'static str, Attr)> {
                match self {
                    $( OpKind::$variant { $($($field),*)? } =>
                        vec![$($( (stringify!($field), AttrType::to_attr(*$field)) ),*)?], )*
                }
            }

            /// Every weight the op names, for renaming.
            pub fn weights_mut(&mut self) -> Vec<&mut WeightId> {
                match self {
                    $( OpKind::$variant { $($($field),*)? } => {
                        let weights: Vec<Option<&mut WeightId>> =
                            vec![$($( AttrType::weight_mut($field) ),*)?];
                        weights.into_iter().flatten().collect()
                    } )*
                }
            }

            /// The op of that name with attributes taken from `from`; none if there is no such op.
            pub fn read<R: AttrReader + ?Sized>(
                name: &str,
                from: &mut R,
            ) -> Option<Result<Self, R::Error>> {
                // An op without attributes leaves `from` untouched.
                let _ = &from;
                match name {
                    $( $name => {
                        $($( let $field = match <$ty as AttrType>::read(stringify!($field), from) {
                            Ok(value) => value,
                            Err(error) => return Some(Err(error)),
                        }; )*)?
                        Some(Ok(OpKind::$variant { $($($field),*)? }))
                    } )*
                    _ => None,
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
                let cx = Infer { op: self.name(), module, operands };
                match self {
                    $( OpKind::$variant { $($($field),*)? } =>
                        $file::$op::infer(&cx, $($(*$field),*)?), )*
                }
            }

            /// Results for the operands in `frame`, whose types have been inferred before.
            pub(crate) fn eval(&self, frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
                match self {
                    $( OpKind::$variant { $($($field),*)? } =>
                        $file::$op::eval(frame, $($(*$field),*)?), )*
                }
            }
        }
    };
}

ops! {
    // ---- what importers emit ----

    /// `(ids i32[r]) -> f32[r, h]`: row `ids[r]` of `table`, times `scale`.
    Embed {
        /// A row a token.
        table: WeightId,
        /// Factor of every value.
        scale: f32,
    } = "embed" in embed::rows;

    /// `(x f32[r, c]) -> f32[r, c]`: root-mean-square norm over each run of `weight.len()` columns:
    /// `x * rsqrt(mean(x^2) + eps) * (offset + weight)`. Source: Zhang & Sennrich 2019.
    /// With a weight shorter than a row, each head is normed by itself.
    RmsNorm {
        /// A vector.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// Added to the weight: 1 in Gemma 1 to 3.
        offset: f32,
    } = "rms_norm" in norm::rms_norm;

    /// `(x f32[r, k]) -> f32[r, n]`: `x w^T`.
    Linear {
        /// `[n, k]`.
        weight: WeightId,
    } = "linear" in linear::plain;

    /// `(pos i32[r]) -> f32[r, head_dim]`: cosines, then sines, of `pos * theta^(-2i/head_dim) / factor` for
    /// `i < head_dim/2`. Source: Su et al. 2021; `factor` is linear position interpolation (Chen et al. 2023).
    RopeTable {
        /// Elements of a head.
        head_dim: u32,
        /// Base of the frequencies.
        theta: f32,
        /// Positions are divided by it.
        factor: f32,
    } = "rope_table" in rope::table;

    /// `(x f32[r, h*d], table f32[r, d]) -> f32[r, h*d]`: rotates the pairs `(i, i + d/2)` of every head.
    Rope {
        /// Elements of a head, `d`.
        head_dim: u32,
    } = "rope" in rope::rotate;

    /// `(k f32[r, kv*d], v f32[r, kv*d], pos i32[r], slot i32[r]) -> ()`: stores row `r` at `pos[r]` of `slot[r]`.
    /// What the slot held from the call's first position on is forgotten.
    KvWrite {
        /// Where to.
        cache: CacheId,
    } = "kv_write" in kv::kv_write;

    /// `(q f32[r, heads*d], pos i32[r], slot i32[r]) -> f32[r, heads*d]`: causal attention of each row over the
    /// positions `<= pos` of its slot (the last `window` of them if the cache has a window). Query head `h` reads KV
    /// head `h * kv_heads / heads`. Scores are `q.k * scale`, then `cap * tanh(s / cap)` if `softcap` > 0.
    Attention {
        /// Keys and values.
        cache: CacheId,
        /// Query heads.
        heads: u32,
        /// Factor of the scores.
        scale: f32,
        /// Bound of the scores; 0 for none.
        softcap: f32,
    } = "attention" in attention::causal;

    /// `(x) -> x`: GELU, tanh approximation. Source: Hendrycks & Gimpel 2016.
    Gelu = "gelu" in elementwise::gelu;

    /// `(a, b) -> a * b`, element by element.
    Mul = "mul" in elementwise::mul;

    /// `(a, b) -> a + b`, element by element.
    Add = "add" in elementwise::add;

    /// `(x) -> cap * tanh(x / cap)`. Source: Gemma 2 report, section 2.
    Softcap {
        /// Bound of the result.
        cap: f32,
    } = "softcap" in elementwise::softcap;

    /// `(x f32[r, c], rows i32[o]) -> f32[o, c]`: rows `rows[o]` of `x`.
    SelectRows = "select_rows" in select::select_rows;

    /// `(x i32[r], rows i32[o]) -> i32[o]`: entries `rows[o]` of `x`.
    SelectIndex = "select_index" in select::select_index;

    // ---- what passes make of them ----

    /// `(x f32[r, c]) -> f32[r, len]`: columns `start .. start + len`.
    Columns {
        /// First column.
        start: u32,
        /// How many.
        len: u32,
    } = "columns" in select::columns;

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
        /// `[n, k]`.
        weight: WeightId,
        /// Norm of `x` before the residual is added.
        post_norm: Option<WeightId>,
        /// Norm before the product.
        norm: Option<WeightId>,
        /// Epsilon of both norms.
        eps: f32,
        /// What happens to the sums.
        epilogue: Epilogue,
    } = "fused_linear" in linear::fused;

    /// `(qkv f32[r, (q_heads + 2*kv)*d], table f32[r, d], pos i32[r], slot i32[r]) -> f32[r, q_heads*d]`:
    /// norms (if given) and rotates the heads of q and k, stores k and v in the cache, returns q.
    RopeKv {
        /// Where k and v go.
        cache: CacheId,
        /// Query heads.
        q_heads: u32,
        /// Norm of each query head.
        q_norm: Option<WeightId>,
        /// Norm of each key head.
        k_norm: Option<WeightId>,
        /// Epsilon of both norms.
        eps: f32,
    } = "rope_kv" in kv::rope_kv;
}

impl OpKind {
    /// Every weight the op names, in order of declaration.
    pub fn weights(&self) -> Vec<WeightId> {
        let weight = |(_, attr): (_, Attr)| match attr {
            Attr::Weight(id) => Some(id),
            Attr::OptionalWeight(id) => id,
            Attr::F32(_) | Attr::U32(_) | Attr::Cache(_) | Attr::Epilogue(_) => None,
        };
        self.attributes().into_iter().filter_map(weight).collect()
    }

    /// The cache the op stores into or reads.
    pub fn cache(&self) -> Option<CacheId> {
        self.cache_written().or(self.cache_read())
    }

    /// The cache whose rows the op stores.
    pub fn cache_written(&self) -> Option<CacheId> {
        match self {
            OpKind::KvWrite { cache } | OpKind::RopeKv { cache, .. } => Some(*cache),
            OpKind::Embed { .. }
            | OpKind::RmsNorm { .. }
            | OpKind::Linear { .. }
            | OpKind::RopeTable { .. }
            | OpKind::Rope { .. }
            | OpKind::Attention { .. }
            | OpKind::Gelu
            | OpKind::Mul
            | OpKind::Add
            | OpKind::Softcap { .. }
            | OpKind::SelectRows
            | OpKind::SelectIndex
            | OpKind::Columns { .. }
            | OpKind::FusedLinear { .. } => None,
        }
    }

    /// The cache that the op reads.
    pub fn cache_read(&self) -> Option<CacheId> {
        match self {
            OpKind::Attention { cache, .. } => Some(*cache),
            OpKind::KvWrite { .. }
            | OpKind::RopeKv { .. }
            | OpKind::Embed { .. }
            | OpKind::RmsNorm { .. }
            | OpKind::Linear { .. }
            | OpKind::RopeTable { .. }
            | OpKind::Rope { .. }
            | OpKind::Gelu
            | OpKind::Mul
            | OpKind::Add
            | OpKind::Softcap { .. }
            | OpKind::SelectRows
            | OpKind::SelectIndex
            | OpKind::Columns { .. }
            | OpKind::FusedLinear { .. } => None,
        }
    }

    /// Whether a result may take the very place of an operand that dies here: each element of the result depends on
    /// the operands' elements at the same index alone.
    pub fn works_in_place(&self) -> bool {
        match self {
            OpKind::Gelu | OpKind::Mul | OpKind::Add | OpKind::Softcap { .. } => true,
            OpKind::KvWrite { .. }
            | OpKind::RopeKv { .. }
            | OpKind::Embed { .. }
            | OpKind::RmsNorm { .. }
            | OpKind::Linear { .. }
            | OpKind::RopeTable { .. }
            | OpKind::Rope { .. }
            | OpKind::Attention { .. }
            | OpKind::SelectRows
            | OpKind::SelectIndex
            | OpKind::Columns { .. }
            | OpKind::FusedLinear { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OpKind;
    use crate::entity::WeightId;

    #[test]
    fn names_are_unique() {
        let mut names = OpKind::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OpKind::NAMES.len());
    }

    #[test]
    fn weights_mut_reaches_required_and_optional_weights() {
        let mut op = OpKind::FusedLinear {
            weight: WeightId::new(1),
            post_norm: None,
            norm: Some(WeightId::new(2)),
            eps: 1e-6,
            epilogue: super::Epilogue::None,
        };
        for id in op.weights_mut() {
            *id = WeightId::new(id.index() + 10);
        }
        let OpKind::FusedLinear { weight, norm, .. } = op else {
            unreachable!("still a fused_linear")
        };
        assert_eq!((weight.index(), norm.map(|n| n.index())), (11, Some(12)));
    }
}
