//! Norms and rotation of many rows, and storing their keys and values.

use super::chunk::is_f16;
use super::{call_need, fixed_need, literal, rows_need, unsupported, vector, wraps};
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Spec, VariantSpec};
use crate::lowering::Lowering;
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::gpu::{Access, Extent, Needs, Resource};
use gembin_bundle::manifest::RowSet;

/// Heads of a workgroup.
const HEADS: u32 = 8;

/// Norms and rotates q and k, stores k and v.
pub(crate) fn rope_kv(l: &mut Lowering<'_>, label: &str, step: &CpuStep) -> Result<(), LowerError> {
    let CpuStep::RopeKv {
        qkv,
        table,
        cache: cache_index,
        q_heads,
        q_norm,
        k_norm,
        eps,
        out,
    } = step
    else {
        return Err(unsupported(label, "this is no rotation"));
    };
    if qkv.rows != RowSet::Seq {
        return Err(unsupported(label, "keys are stored for every row"));
    }
    let cache = l.cache(*cache_index);
    let mut needs = vec![
        rows_need(Access::Read, qkv.cols),
        fixed_need(Access::ReadWrite, cache.bytes / 2),
        fixed_need(Access::ReadWrite, cache.bytes / 2),
        rows_need(Access::Write, out.cols),
        call_need(),
        rows_need(Access::Read, table.cols),
    ];
    let mut bindings = vec![
        Resource::Value(*qkv),
        Resource::Keys(*cache_index),
        Resource::Values(*cache_index),
        Resource::Value(*out),
        Resource::Call,
        Resource::Value(*table),
    ];
    let mut norms = [None, None];
    for (norm, weight) in norms.iter_mut().zip([q_norm, k_norm]) {
        if let Some(weight) = weight {
            *norm = Some(needs.len());
            let (need, resource) = vector(l, *weight);
            needs.push(need);
            bindings.push(resource);
        }
    }
    let [q, k] = norms.map(|norm| if norm.is_some() { "norm" } else { "as is" });
    let name = format!(
        "rope_kv q {q} k {k} eps {eps:?} {} {q_heads}x{}/{} in {} slots x {}{}",
        cache.format.name(),
        cache.head_dim,
        cache.kv_heads,
        l.limits().slots,
        cache.capacity,
        if wraps(l, cache) { " ring" } else { "" },
    );
    let constants = constants! {
        call_binding: 4,
        rows: "seq",
        q_norm: norms[0],
        k_norm: norms[1],
        eps: literal(*eps),
        head_dim: cache.head_dim,
        heads: *q_heads,
        kv_heads: cache.kv_heads,
        capacity: cache.capacity,
        wraps: wraps(l, cache),
        f16: is_f16(cache),
    };
    let spec = Spec {
        name,
        bindings: needs,
        variants: vec![VariantSpec {
            name: "portable",
            template: "rope_kv",
            constants,
            needs: Needs::default(),
            subgroup: None,
            tile: [HEADS, 1, 1],
        }],
    };
    let work = [
        Extent::Fixed(q_heads + 2 * cache.kv_heads),
        Extent::Rows(qkv.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bindings, Vec::new(), work)
}
