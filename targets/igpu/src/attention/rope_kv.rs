//! Norms and rotation of many rows, and storing their keys and values.

use super::chunk::is_f16;
use super::{unsupported, wraps};
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Spec, VariantSpec};
use crate::lowering::Lowering;
use crate::rows::literal;
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::gpu::{Access, Extent, Needs};
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
    let mut bound = Bindings::default();
    let input = bound.read(*qkv);
    let [keys, values] = bound.cache(Access::ReadWrite, *cache_index, cache);
    let result = bound.write(*out);
    let call = bound.call();
    let table = bound.read(*table);
    let norms = [q_norm, k_norm].map(|norm| norm.map(|w| bound.vector(w, l.weight(w))));
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
        qkv_binding: input,
        keys_binding: keys,
        values_binding: values,
        out_binding: result,
        call_binding: call,
        table_binding: table,
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
        bindings: bound.needs,
        variants: vec![VariantSpec {
            name: "portable",
            template: "rope_kv",
            constants,
            needs: Needs::default(),
            subgroup: None,
            tile: [HEADS, 1, 1],
            activations: None,
        }],
    };
    let work = [
        Extent::Fixed(q_heads + 2 * cache.kv_heads),
        Extent::Rows(qkv.rows),
        Extent::Fixed(1),
    ];
    l.dispatch(label, spec, bound.resources, Vec::new(), work)
}
