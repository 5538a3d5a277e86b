//! `attention`: causal, grouped-query, over a KV cache.

pub(super) mod causal {
    use crate::entity::CacheId;
    use crate::interp::cache::Row;
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::interp::math;
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;
    use rayon::prelude::*;

    pub fn infer(
        cx: &Infer<'_>,
        cache: CacheId,
        heads: u32,
        _scale: f32,
        softcap: f32,
    ) -> Inferred {
        cx.arity(3)?;
        let (rows, cols) = cx.matrix(0, "q")?;
        let head_dim = cx.heads(cache, heads)?;
        if heads.checked_mul(head_dim) != Some(cols) {
            return Err(cx.fault(format!(
                "q has {cols} columns, not {heads} heads of {head_dim}"
            )));
        }
        if softcap != 0.0 {
            cx.cap(softcap)?;
        }
        cx.expect_index(1, "pos", rows)?;
        cx.expect_index(2, "slot", rows)?;
        Ok(vec![TensorType::matrix(rows, cols)])
    }

    pub fn eval(
        frame: &mut Frame<'_>,
        cache: CacheId,
        heads: u32,
        scale: f32,
        softcap: f32,
    ) -> Result<Vec<Datum>, String> {
        let q = frame.matrix(0)?;
        let (pos, slot) = (frame.index(1)?, frame.index(2)?);
        let declared = frame.module.cache(cache);
        let head_dim = declared.head_dim as usize;
        let queries_a_kv_head = (heads / declared.kv_heads) as usize;
        let held = &frame.caches[cache.index()];
        let mut out = Tensor::zeros(q.rows, q.cols)?;
        // A type-checked q has at least one column.
        out.data
            .par_chunks_mut(q.cols)
            .enumerate()
            .try_for_each(|(r, out)| {
                let rows = held.visible(pos[r], slot[r])?;
                let heads = q.row(r).chunks(head_dim).zip(out.chunks_mut(head_dim));
                for (h, (q, out)) in heads.enumerate() {
                    let kv_start = h / queries_a_kv_head * head_dim;
                    head(q, &rows, kv_start, scale, softcap, out);
                }
                Ok::<(), String>(())
            })?;
        Ok(vec![out.into()])
    }

    /// `out = softmax(scores(q)) v` of one head, whose keys and values start at column `kv_start` of a cache row.
    fn head(q: &[f32], rows: &[&Row], kv_start: usize, scale: f32, softcap: f32, out: &mut [f32]) {
        let kv = kv_start..kv_start + q.len();
        let mut scores: Vec<f32> = rows
            .iter()
            .map(|row| {
                let score = math::dot(q, &row.k[kv.clone()]) * scale;
                if softcap > 0.0 {
                    math::softcap(score, softcap)
                } else {
                    score
                }
            })
            .collect();
        math::softmax(&mut scores);
        out.fill(0.0);
        for (p, row) in scores.iter().zip(rows) {
            for (o, v) in out.iter_mut().zip(&row.v[kv.clone()]) {
                *o += p * v;
            }
        }
    }
}
