//! Weights made of other weights: declared once however many ops ask for them, and named after their parts.

use gembin_ir::{DType, Layout, Module, Weight, WeightExpr, WeightId};

/// The weight of this expression, declared if the module lacks it.
pub(crate) fn derive(
    module: &mut Module,
    name: String,
    dtype: DType,
    shape: Vec<u32>,
    expr: WeightExpr,
) -> WeightId {
    let known = module
        .weights
        .iter()
        .position(|w| w.dtype == dtype && same_expr(&w.expr, &expr));
    if let Some(i) = known {
        return WeightId::new(i);
    }
    let name = unique(module, name);
    module.add_weight(Weight {
        name,
        dtype,
        shape,
        expr,
        layout: Layout::RowMajor,
    })
}

/// The dtype that holds rows of all `parts` unchanged; none if a quantized one would have to be unpacked.
pub(crate) fn common_dtype(module: &Module, parts: &[WeightId]) -> Option<DType> {
    let mut dtypes = parts.iter().map(|id| module.weight(*id).dtype);
    let first = dtypes.next()?;
    let mut common = first;
    for dtype in dtypes {
        if dtype != first {
            common = DType::F32;
        }
    }
    let packed = |id: &WeightId| match module.weight(*id).dtype {
        DType::Q8 | DType::Q4 | DType::I32 => true,
        DType::F32 | DType::F16 | DType::Bf16 => false,
    };
    if common != first && parts.iter().any(packed) {
        return None;
    }
    Some(common)
}

/// `l0.q`, `l0.k`, `l0.v` -> `l0.qkv`; `mlp.gate_proj.weight`, `mlp.up_proj.weight` -> `mlp.gate_up_proj.weight`.
pub(crate) fn joined_name(module: &Module, parts: &[WeightId]) -> String {
    let names: Vec<&str> = parts
        .iter()
        .map(|id| module.weight(*id).name.as_str())
        .collect();
    let Some((first, rest)) = names.split_first() else {
        return String::from("joined");
    };
    let is_break = |c: char| c == '.' || c == '_';
    let mut prefix = *first;
    for name in rest {
        while !name.starts_with(prefix) {
            let mut shorter = prefix.chars();
            shorter.next_back();
            prefix = shorter.as_str();
        }
    }
    let prefix = match prefix.rfind(is_break) {
        Some(i) => &prefix[..=i],
        None => "",
    };
    let tails: Vec<&str> = names.iter().map(|name| &name[prefix.len()..]).collect();
    let mut suffix = tails[0];
    for tail in &tails {
        while !tail.ends_with(suffix) {
            let mut shorter = suffix.chars();
            shorter.next();
            suffix = shorter.as_str();
        }
    }
    let suffix = match suffix.find(is_break) {
        Some(i) => &suffix[i..],
        None => "",
    };
    let middles: Vec<&str> = tails
        .iter()
        .map(|tail| &tail[..tail.len() - suffix.len()])
        .collect();
    let letters = middles.iter().all(|m| m.chars().count() == 1);
    format!(
        "{prefix}{}{suffix}",
        middles.join(if letters { "" } else { "_" })
    )
}

fn unique(module: &Module, name: String) -> String {
    // Weights and caches share one space of names.
    let taken = |name: &str| {
        module.weights.iter().any(|w| w.name == name)
            || module.caches.iter().any(|c| c.name == name)
    };
    if !taken(&name) {
        return name;
    }
    (2u64..)
        .map(|n| format!("{name}.{n}"))
        .find(|name| !taken(name))
        .unwrap_or(name)
}

/// Equality that holds for a NaN constant too, so that a weight is never derived twice.
fn same_expr(a: &WeightExpr, b: &WeightExpr) -> bool {
    match (a, b) {
        (WeightExpr::Offset { of: a, add: x }, WeightExpr::Offset { of: b, add: y }) => {
            a == b && x.to_bits() == y.to_bits()
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gembin_ir::{Cache, DimBounds};

    fn module(weights: &[(&str, DType)]) -> (Module, Vec<WeightId>) {
        let bounds = DimBounds {
            chunk: 1,
            outs: 1,
            context: 1,
            slots: 1,
        };
        let mut module = Module::new("m", bounds);
        let ids = weights
            .iter()
            .map(|(name, dtype)| {
                module.add_weight(Weight {
                    name: (*name).into(),
                    dtype: *dtype,
                    shape: vec![4, 4],
                    expr: WeightExpr::Tensor((*name).into()),
                    layout: Layout::RowMajor,
                })
            })
            .collect();
        (module, ids)
    }

    fn joined(names: &[&str]) -> String {
        let weights: Vec<_> = names.iter().map(|n| (*n, DType::F32)).collect();
        let (module, ids) = module(&weights);
        joined_name(&module, &ids)
    }

    #[test]
    fn names_join_where_the_parts_differ() {
        assert_eq!(joined(&["l0.q", "l0.k", "l0.v"]), "l0.qkv");
        assert_eq!(
            joined(&["a.0.gate_proj.weight", "a.0.up_proj.weight"]),
            "a.0.gate_up_proj.weight"
        );
        assert_eq!(joined(&["gate", "go"]), "gate_go");
        assert_eq!(joined(&["é.x", "ê.x"]), "éê.x");
        assert_eq!(joined(&["w", "w"]), "ww");
    }

    #[test]
    fn equal_dtypes_stay_and_unequal_ones_meet_in_f32() {
        let (m, ids) = module(&[
            ("a", DType::Bf16),
            ("b", DType::Bf16),
            ("c", DType::F16),
            ("d", DType::Q8),
        ]);
        assert_eq!(common_dtype(&m, &ids[..2]), Some(DType::Bf16));
        assert_eq!(common_dtype(&m, &ids[..3]), Some(DType::F32));
        assert_eq!(common_dtype(&m, &ids[2..]), None);
        assert_eq!(common_dtype(&m, &ids[3..]), Some(DType::Q8));
    }

    #[test]
    fn an_expression_is_declared_once_and_never_steals_a_name() {
        let (mut m, ids) = module(&[("a", DType::F32), ("b", DType::F32)]);
        let expr = WeightExpr::Offset {
            of: ids[0],
            add: f32::NAN,
        };
        let one = derive(&mut m, "b".into(), DType::F32, vec![4], expr.clone());
        let two = derive(&mut m, "b".into(), DType::F32, vec![4], expr);
        assert_eq!(one, two);
        assert_eq!(m.weight(one).name, "b.2");
        m.add_cache(Cache {
            name: "kv".into(),
            dtype: DType::F32,
            kv_heads: 1,
            head_dim: 2,
            window: None,
            capacity: None,
            place: None,
        });
        let expr = WeightExpr::ConcatRows(ids);
        let three = derive(&mut m, "kv".into(), DType::F32, vec![8, 4], expr);
        assert_eq!(
            m.weight(three).name,
            "kv.2",
            "caches and weights share names"
        );
    }
}
