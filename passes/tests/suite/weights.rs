//! Made-up tensors and calls, so that any module can be evaluated.

use gembin_ir::interp::{Inputs, Interpreter, Tensor};
use gembin_ir::weights::{ExprWeights, TensorSource};
use gembin_ir::{Module, OpKind, WeightExpr};
use std::collections::HashMap;

/// Tensors whose values are a hash of name and index: the same wherever they are asked for, and such that every
/// 16-bit brain float or wider holds them.
pub struct HashedTensors {
    cols: HashMap<String, usize>,
}

impl HashedTensors {
    /// For all tensors that `module` names.
    pub fn of(module: &Module) -> Self {
        let tensors = module.weights.iter().filter_map(|w| match &w.expr {
            WeightExpr::Tensor(name) => Some((name.clone(), w.rows_cols().1 as usize)),
            WeightExpr::ConcatRows(_)
            | WeightExpr::InterleaveRows { .. }
            | WeightExpr::Offset { .. } => None,
        });
        Self {
            cols: tensors.collect(),
        }
    }
}

impl TensorSource for HashedTensors {
    fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        let cols = *self.cols.get(tensor).ok_or("no such tensor")?;
        let name = tensor
            .bytes()
            .fold(0u64, |hash, byte| mix(hash ^ u64::from(byte)));
        let size = 1.7 / (cols as f32).sqrt();
        for (i, x) in out.iter_mut().enumerate() {
            let bits = mix(name ^ (first_row * cols + i) as u64);
            let value = size * ((bits >> 40) as f32 / (1 << 23) as f32 - 1.0);
            *x = f32::from_bits(value.to_bits() & 0xffff_0000);
        }
        Ok(())
    }
}

/// Source: the finalizer of MurmurHash3.
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Results of a conversation with the module: every slot is prefilled in two chunks, then two tokens are decoded in
/// all slots at once.
pub fn converse(module: &Module) -> Vec<Tensor> {
    let source = HashedTensors::of(module);
    let weights = ExprWeights {
        module,
        source: &source,
    };
    let mut interp = Interpreter::new(module, &weights);
    let vocab = module
        .functions
        .iter()
        .flat_map(|f| &f.ops)
        .find_map(|op| match op.kind {
            OpKind::Embed { table, .. } => Some(module.weight(table).rows_cols().0 as u64),
            _ => None,
        });
    let vocab = vocab.unwrap_or(1);
    let token = |slot: i32, pos: i32| (mix((slot * 1000 + pos) as u64) % vocab) as i32;
    let bounds = module.bounds;
    let chunks = [bounds.chunk as i32, bounds.chunk as i32 / 2 + 1];
    let end: i32 = chunks.iter().sum();
    assert!(
        end + 2 <= bounds.context as i32,
        "the fixture's context is too short"
    );
    let mut results = Vec::new();
    let mut call = |function: &str, pos: &[i32], slot: &[i32], out: &[i32]| {
        let ids: Vec<i32> = pos
            .iter()
            .zip(slot)
            .map(|(pos, slot)| token(*slot, *pos))
            .collect();
        let inputs = Inputs {
            ids: &ids,
            pos,
            slot,
            out,
        };
        match interp.call(function, &inputs) {
            Ok(tensors) => results.extend(tensors),
            Err(error) => panic!("{error}"),
        }
    };
    for slot in 0..bounds.slots as i32 {
        let mut pos = 0;
        for chunk in chunks {
            let rows: Vec<i32> = (pos..pos + chunk).collect();
            // The last row, the first, the last, ...: any order and repetitions are allowed.
            let wanted = bounds.outs.min(chunk as u32);
            let out: Vec<i32> = (0..wanted as i32)
                .map(|i| (i + 1) % 2 * (chunk - 1))
                .collect();
            call("prefill", &rows, &vec![slot; rows.len()], &out);
            pos += chunk;
        }
    }
    if module.function("decode").is_some() {
        let slots: Vec<i32> = (0..bounds.slots as i32).collect();
        for pos in [end, end + 1] {
            call("decode", &vec![pos; slots.len()], &slots, &[]);
        }
    }
    results
}

/// Fails unless both modules compute the same, to 1e-5 of the largest value, and something worth comparing.
pub fn assert_same_meaning(before: &Module, after: &Module) {
    for (i, largest) in assert_same_results(before, after).into_iter().enumerate() {
        assert!(
            largest > 1e-3,
            "result {i} says nothing: all values are small"
        );
    }
}

/// The same of modules whose results may vanish or overflow; returns the largest magnitude of each result.
pub fn assert_same_results(before: &Module, after: &Module) -> Vec<f32> {
    let (before, after) = (converse(before), converse(after));
    assert_eq!(before.len(), after.len());
    let mut all_largest = Vec::new();
    for (i, (a, b)) in before.iter().zip(&after).enumerate() {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols), "shape of result {i}");
        let largest = a.data.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (x, y) in a.data.iter().zip(&b.data) {
            let close = (x - y).abs() <= 1e-5 * largest.max(1.0);
            let same = x == y || (x.is_nan() && y.is_nan());
            assert!(close || same, "result {i}: {x} became {y}");
        }
        all_largest.push(largest);
    }
    all_largest
}
