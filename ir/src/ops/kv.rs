//! `kv_write`, and `rope_kv`: what lies between a merged QKV projection and attention, in one op.

pub(super) mod kv_write {
    use crate::entity::CacheId;
    use crate::interp::frame::{Datum, Frame};
    use crate::ops::infer::{Infer, Inferred};

    pub fn infer(cx: &Infer<'_>, cache: CacheId) -> Inferred {
        cx.arity(4)?;
        let (rows, cols) = cx.matrix(0, "k")?;
        let width = cx.cache_width(cache)?;
        if cols != width {
            return Err(cx.fault(format!("k has {cols} columns, the cache holds {width}")));
        }
        cx.expect_matrix(1, "v", rows, width)?;
        cx.expect_index(2, "pos", rows)?;
        cx.expect_index(3, "slot", rows)?;
        Ok(vec![])
    }

    pub fn eval(frame: &mut Frame<'_>, cache: CacheId) -> Result<Vec<Datum>, String> {
        let (k, v) = (frame.matrix(0)?, frame.matrix(1)?);
        let (pos, slot) = (frame.index(2)?, frame.index(3)?);
        frame.caches[cache.index()].store(pos, slot, |r| (k.row(r), v.row(r)))?;
        Ok(vec![])
    }
}

pub(super) mod rope_kv {
    use crate::entity::{CacheId, WeightId};
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::interp::math;
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(
        cx: &Infer<'_>,
        cache: CacheId,
        q_heads: u32,
        q_norm: Option<WeightId>,
        k_norm: Option<WeightId>,
        eps: f32,
    ) -> Inferred {
        cx.arity(4)?;
        let (rows, cols) = cx.matrix(0, "qkv")?;
        cx.eps(eps)?;
        let head_dim = cx.heads(cache, q_heads)?;
        cx.even_head(head_dim)?;
        let kv_heads = cx.module.cache(cache).kv_heads;
        // At most 3 * 2^32 heads of 2^32 elements: below 2^66, so the product alone needs care.
        let heads = u64::from(q_heads) + 2 * u64::from(kv_heads);
        if heads.checked_mul(u64::from(head_dim)) != Some(u64::from(cols)) {
            return Err(cx.fault(format!(
                "qkv has {cols} columns, not {heads} heads of {head_dim}"
            )));
        }
        for id in [q_norm, k_norm].into_iter().flatten() {
            let len = cx.weight_vector(id)?;
            if len != head_dim {
                return Err(cx.fault(format!("head norm has {len} values, a head {head_dim}")));
            }
        }
        cx.expect_matrix(1, "table", rows, head_dim)?;
        cx.expect_index(2, "pos", rows)?;
        cx.expect_index(3, "slot", rows)?;
        Ok(vec![TensorType::matrix(rows, q_heads * head_dim)])
    }

    pub fn eval(
        frame: &mut Frame<'_>,
        cache: CacheId,
        q_heads: u32,
        q_norm: Option<WeightId>,
        k_norm: Option<WeightId>,
        eps: f32,
    ) -> Result<Vec<Datum>, String> {
        let (qkv, table) = (frame.matrix(0)?, frame.matrix(1)?);
        let (pos, slot) = (frame.index(2)?, frame.index(3)?);
        let declared = frame.module.cache(cache);
        let q_cols = q_heads as usize * declared.head_dim as usize;
        let kv_cols = declared.kv_heads as usize * declared.head_dim as usize;
        let q = rotated(frame, qkv, 0..q_cols, table, q_norm, eps)?;
        let k = rotated(frame, qkv, q_cols..q_cols + kv_cols, table, k_norm, eps)?;
        let v_start = q_cols + kv_cols;
        frame.caches[cache.index()].store(pos, slot, |r| (k.row(r), &qkv.row(r)[v_start..]))?;
        Ok(vec![q.into()])
    }

    /// Some columns of `qkv`, normed and rotated head by head.
    fn rotated(
        frame: &Frame<'_>,
        qkv: &Tensor,
        columns: std::ops::Range<usize>,
        table: &Tensor,
        norm: Option<WeightId>,
        eps: f32,
    ) -> Result<Tensor, String> {
        let mut out = qkv.columns(columns)?;
        if let Some(id) = norm {
            math::rms_norm(&mut out.data, &frame.weight_vector(id)?, eps, 0.0);
        }
        for r in 0..out.rows {
            math::rope(out.row_mut(r), table.row(r));
        }
        Ok(out)
    }
}
