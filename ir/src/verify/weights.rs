//! Rules 3 to 5: weights, their expressions, and caches.

use super::{At, Verifier};
use crate::entity::{CacheId, WeightId};
use crate::module::{Layout, WeightExpr};
use crate::types::DType;
use crate::weights::MAX_EXPR_DEPTH;

impl Verifier<'_> {
    pub(super) fn weights(&mut self) {
        for index in 0..self.module.weights.len() {
            let id = WeightId::new(index);
            if let Err(what) = self.weight(id) {
                self.fault(At::Weight(id), what);
            }
            if let Err(what) = self.expression(id) {
                self.fault(At::Weight(id), what);
            }
        }
        for (index, depth) in self.depths().into_iter().enumerate() {
            let at = At::Weight(WeightId::new(index));
            match depth {
                None => self.fault(at, "its expression leads back to itself"),
                Some(depth) if depth > MAX_EXPR_DEPTH => {
                    self.fault(
                        at,
                        format!("its expression is nested {depth} deep, over {MAX_EXPR_DEPTH}"),
                    );
                }
                Some(_) => {}
            }
        }
    }

    fn weight(&self, id: WeightId) -> Result<(), String> {
        let weight = self.module.weight(id);
        let is_matrix = weight.shape.len() == 2;
        if !is_matrix && weight.shape.len() != 1 {
            return Err(format!(
                "has {} dimensions, must have 1 or 2",
                weight.shape.len()
            ));
        }
        if weight.shape.contains(&0) {
            return Err("a dimension is 0".to_owned());
        }
        let values = weight
            .shape
            .iter()
            .fold(1, |n: u64, d| n.saturating_mul(u64::from(*d)));
        if values > u64::MAX / 4 {
            return Err("its size overflows".to_owned());
        }
        if weight.dtype == DType::I32 {
            return Err("i32 is for values, not for weights".to_owned());
        }
        if weight.dtype.is_quantized() && !is_matrix {
            return Err(format!("{} is for matrices only", weight.dtype));
        }
        if weight.layout == Layout::Rows16 && !is_matrix {
            return Err("rows16 is for matrices only".to_owned());
        }
        Ok(())
    }

    /// Shapes in the expression of one weight.
    fn expression(&self, id: WeightId) -> Result<(), String> {
        let weight = self.module.weight(id);
        let shape_of = |part: WeightId| -> Result<&[u32], String> {
            let part = self.module.weights.get(part.index());
            part.map(|part| part.shape.as_slice())
                .ok_or_else(|| "a part is not declared".to_owned())
        };
        let matrix = |part: WeightId| match shape_of(part)? {
            [rows, cols] => Ok((*rows, *cols)),
            _ => Err(format!(
                "@{} must be a matrix",
                self.module.weight(part).name
            )),
        };
        let expect_matrix = |rows: u64, cols: u32| match weight.shape.as_slice() {
            [r, c] if u64::from(*r) == rows && *c == cols => Ok(()),
            _ => Err(format!("its parts give [{rows}, {cols}]")),
        };
        match &weight.expr {
            WeightExpr::Tensor(_) => Ok(()),
            WeightExpr::ConcatRows(parts) => {
                let [first, ..] = parts.as_slice() else {
                    return Err("concat of nothing".to_owned());
                };
                let (_, cols) = matrix(*first)?;
                let mut rows = 0;
                for part in parts {
                    let (part_rows, part_cols) = matrix(*part)?;
                    if part_cols != cols {
                        return Err(format!(
                            "concat of @{} with {cols} columns and @{} with {part_cols}",
                            self.module.weight(*first).name,
                            self.module.weight(*part).name
                        ));
                    }
                    rows += u64::from(part_rows);
                }
                expect_matrix(rows, cols)
            }
            WeightExpr::InterleaveRows { a, b, block } => {
                let ((rows, cols), b_shape) = (matrix(*a)?, matrix(*b)?);
                if (rows, cols) != b_shape {
                    return Err(format!(
                        "interleave of @{} [{rows}, {cols}] and @{} [{}, {}]",
                        self.module.weight(*a).name,
                        self.module.weight(*b).name,
                        b_shape.0,
                        b_shape.1
                    ));
                }
                if *block == 0 {
                    return Err("interleave by blocks of 0 rows".to_owned());
                }
                let padded = u64::from(rows.div_ceil(*block)) * u64::from(*block);
                expect_matrix(2 * padded, cols)
            }
            WeightExpr::Offset { of, add } => {
                if !add.is_finite() {
                    return Err(format!("offset by {add}"));
                }
                if shape_of(*of)? != weight.shape {
                    return Err(format!(
                        "@{} has another shape",
                        self.module.weight(*of).name
                    ));
                }
                Ok(())
            }
        }
    }

    /// How deep each weight's expression is nested; none if it leads to a cycle. No recursion: a chain of weights can
    /// be as long as the module.
    fn depths(&self) -> Vec<Option<usize>> {
        let weights = &self.module.weights;
        let parts = |i: usize| -> Vec<usize> {
            let ids = match &weights[i].expr {
                WeightExpr::Tensor(_) => vec![],
                WeightExpr::ConcatRows(parts) => parts.clone(),
                WeightExpr::InterleaveRows { a, b, .. } => vec![*a, *b],
                WeightExpr::Offset { of, .. } => vec![*of],
            };
            let indices = ids.into_iter().map(WeightId::index);
            indices.filter(|i| *i < weights.len()).collect()
        };
        // Weights whose parts are all known, from those without parts upwards; what is never reached is in a cycle
        // or made of one.
        let mut missing: Vec<usize> = (0..weights.len()).map(|i| parts(i).len()).collect();
        let mut users = vec![Vec::new(); weights.len()];
        for i in 0..weights.len() {
            for part in parts(i) {
                users[part].push(i);
            }
        }
        let mut depths = vec![None; weights.len()];
        let mut ready: Vec<usize> = (0..weights.len()).filter(|i| missing[*i] == 0).collect();
        while let Some(i) = ready.pop() {
            let below = parts(i).into_iter().filter_map(|part| depths[part]).max();
            depths[i] = Some(below.map_or(0, |depth: usize| depth + 1));
            for &user in &users[i] {
                missing[user] -= 1;
                if missing[user] == 0 {
                    ready.push(user);
                }
            }
        }
        depths
    }

    pub(super) fn caches(&mut self) {
        for index in 0..self.module.caches.len() {
            let id = CacheId::new(index);
            if let Err(what) = self.cache(id) {
                self.fault(At::Cache(id), what);
            }
        }
    }

    fn cache(&self, id: CacheId) -> Result<(), String> {
        let cache = self.module.cache(id);
        match cache.dtype {
            DType::F32 | DType::F16 => {}
            DType::Bf16 | DType::I32 | DType::Q8 | DType::Q4 => {
                return Err(format!(
                    "{} is no dtype of a cache, f32 and f16 are",
                    cache.dtype
                ));
            }
        }
        let zero = [
            ("kv_heads", Some(cache.kv_heads)),
            ("head_dim", Some(cache.head_dim)),
            ("window", cache.window),
            ("capacity", cache.capacity),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, n)| *n == Some(0)) {
            return Err(format!("{name} is 0"));
        }
        let needed = cache.capacity_needed(&self.module.bounds);
        match cache.capacity {
            Some(capacity) if capacity < needed => Err(format!(
                "capacity {capacity} loses positions that a query may see, {needed} are needed"
            )),
            Some(_) | None => Ok(()),
        }
    }
}
