//! Reference results: the prompts, logits and greedy continuations beside each checkpoint, and how far ours are.
//!
//! A checkpoint's `golden.safetensors` holds for each prompt n: `input_ids.n` (`i64[T]`), `logits.n`
//! (`f32[T, vocab]`, f32 arithmetic on the stored weights) and `greedy.n` (`i64[G]`, the greedy continuation).

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// One prompt and what the reference made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// The checkpoint and the prompt's number, for messages: `gemma1-mqa prompt 0`.
    pub name: String,
    /// The prompt's tokens.
    pub input_ids: Vec<u32>,
    /// Logits after each token of the prompt, row-major `[input_ids.len(), vocab]`.
    pub logits: Vec<f32>,
    /// Width of a row of `logits`.
    pub vocab: usize,
    /// The tokens that greedy decoding appends to the prompt.
    pub greedy: Vec<u32>,
}

/// The goldens of `testdata/models/<model>`, in the order of their prompts; at least one.
pub fn goldens(model: &str) -> Vec<Golden> {
    let path = crate::model_dir(model).join("golden.safetensors");
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut goldens = Vec::new();
    while let Ok(input_ids) = file.tensor(&format!("input_ids.{}", goldens.len())) {
        let n = goldens.len();
        let name = format!("{model} prompt {n}");
        let tensor = |kind: &str| {
            file.tensor(&format!("{kind}.{n}"))
                .unwrap_or_else(|error| panic!("{name}: {kind}: {error}"))
        };
        let logits = tensor("logits");
        let &[rows, vocab] = logits.shape() else {
            panic!("{name}: logits have shape {:?}", logits.shape());
        };
        let input_ids = token_ids(&input_ids);
        assert_eq!(rows, input_ids.len(), "{name}: one row of logits a token");
        let greedy = token_ids(&tensor("greedy"));
        let logits = floats(&logits);
        goldens.push(Golden {
            name,
            input_ids,
            logits,
            vocab,
            greedy,
        });
    }
    assert!(!goldens.is_empty(), "{} has no prompt", path.display());
    goldens
}

/// The tensor `logits` of a file that `gemrun logits -o` wrote: its values and its shape.
pub fn read_logits(path: &std::path::Path) -> (Vec<f32>, Vec<usize>) {
    let bytes = std::fs::read(path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let logits = file
        .tensor("logits")
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (floats(&logits), logits.shape().to_vec())
}

/// The relative distance `||got - want||_2 / ||want||_2`, summed in f64; NaN where `got` holds one.
#[track_caller]
pub fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many values as the reference has");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let distance = norm(
        &mut got
            .iter()
            .zip(want)
            .map(|(&g, &w)| f64::from(g) - f64::from(w)),
    );
    let reference = norm(&mut want.iter().map(|&w| f64::from(w)));
    assert!(reference > 0.0, "the reference is all zeros");
    distance / reference
}

fn token_ids(tensor: &TensorView<'_>) -> Vec<u32> {
    assert_eq!(tensor.dtype(), Dtype::I64, "token ids are i64");
    let (values, rest) = tensor.data().as_chunks::<8>();
    assert!(rest.is_empty(), "whole values");
    let id = |&bytes: &[u8; 8]| u32::try_from(i64::from_le_bytes(bytes)).expect("ids fit in u32");
    values.iter().map(id).collect()
}

fn floats(tensor: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(tensor.dtype(), Dtype::F32, "logits are f32");
    let (values, rest) = tensor.data().as_chunks::<4>();
    assert!(rest.is_empty(), "whole values");
    values
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_golden_model_has_prompts_whose_greedy_start_follows_from_the_logits() {
        for model in crate::GOLDEN_MODELS {
            for golden in goldens(model) {
                let last = &golden.logits[golden.logits.len() - golden.vocab..];
                let best = (0..golden.vocab).max_by(|&a, &b| last[a].total_cmp(&last[b]));
                assert_eq!(best, Some(golden.greedy[0] as usize), "{}", golden.name);
            }
        }
    }

    #[test]
    fn relative_l2_is_zero_for_equal_one_for_zeros_and_nan_for_nan() {
        let want = [3.0, -4.0];
        assert_eq!(relative_l2(&want, &want), 0.0);
        assert_eq!(relative_l2(&[0.0, 0.0], &want), 1.0);
        assert!(relative_l2(&[f32::NAN, 0.0], &want).is_nan());
    }
}
