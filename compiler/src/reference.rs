//! The reference run: what the packed weights compute on a short fixed input, by the interpreter.
//!
//! Stored in the bundle, it lets `gemrun verify` prove on any machine that the kernels there compute the model. It
//! reads the very bytes that were packed, so it also proves the packing.

use crate::assemble::WeightTable;
use crate::pack::decode_rows;
use gembin_bundle::manifest::WeightKind;
use gembin_ir::interp::{Inputs, Interpreter, WeightSource};
use gembin_ir::{Module, WeightId};

/// Tokens of the reference prompt, where chunk and context allow.
const PROMPT_TOKENS: u32 = 4;

/// Weights as the bundle stores them.
pub struct PackedWeights<'a> {
    /// The stored weights.
    pub table: &'a WeightTable,
    /// The weights section.
    pub bytes: &'a [u8],
}

impl WeightSource for PackedWeights<'_> {
    fn read_rows(&self, id: WeightId, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        let index = self
            .table
            .index(id)
            .ok_or_else(|| format!("{id} is not stored in the bundle"))?;
        let entry = &self.table.entries[index as usize];
        let plane = |span: gembin_bundle::manifest::Span| {
            let range = span.offset as usize..(span.offset + span.bytes) as usize;
            self.bytes
                .get(range)
                .ok_or_else(|| format!("@{} lies outside the weights", entry.name))
        };
        let data = plane(entry.data)?;
        match entry.kind {
            WeightKind::Matrix => decode_rows(entry, data, plane(entry.scales)?, first_row, out),
            WeightKind::Vector => {
                for (v, b) in out.iter_mut().zip(data.as_chunks::<4>().0) {
                    *v = f32::from_le_bytes(*b);
                }
            }
        }
        Ok(())
    }
}

/// A reference run's inputs.
pub struct Prompt {
    /// The prompt's tokens.
    pub tokens: Vec<u32>,
    /// The token decoded after them.
    pub next: u32,
}

/// A reference run's outputs.
pub struct Outputs {
    /// Logits after the prompt.
    pub prefill_logits: Vec<f32>,
    /// Logits after the decoded token.
    pub decode_logits: Vec<f32>,
}

/// The fixed input for a model of `vocab` tokens.
pub fn prompt(module: &Module, vocab: u32, bos: Option<u32>) -> Prompt {
    let bounds = module.bounds;
    let count = PROMPT_TOKENS
        .min(bounds.chunk)
        .min(bounds.context - 1)
        .max(1);
    // Spread over the vocabulary, so that rows far apart in the embedding are touched.
    let spread = |i: u32| ((u64::from(i) * 7919 + 13) * 104_729 % u64::from(vocab)) as u32;
    let tokens = (0..count)
        .map(|i| {
            if i == 0 {
                bos.unwrap_or(spread(0))
            } else {
                spread(i)
            }
        })
        .collect();
    Prompt {
        tokens,
        next: spread(count),
    }
}

/// Runs the prompt through `prefill`, then one token through `decode`.
///
/// # Errors
/// The interpreter's message.
pub fn run(
    module: &Module,
    weights: &dyn WeightSource,
    prompt: &Prompt,
) -> Result<Outputs, String> {
    let count = prompt.tokens.len() as u32;
    let mut interpreter = Interpreter::new(module, weights).with_int8_activations();
    let ids: Vec<i32> = prompt.tokens.iter().map(|t| *t as i32).collect();
    let pos: Vec<i32> = (0..count as i32).collect();
    let slot = vec![0; ids.len()];
    let mut call = |function: &str, inputs: Inputs<'_>| -> Result<Vec<f32>, String> {
        let mut results = interpreter
            .call(function, &inputs)
            .map_err(|e| e.to_string())?;
        Ok(results.swap_remove(0).data)
    };
    let last = [count as i32 - 1];
    let prefill = Inputs {
        ids: &ids,
        pos: &pos,
        slot: &slot,
        out: &last,
    };
    let (next, next_pos) = ([prompt.next as i32], [count as i32]);
    let decode = Inputs {
        ids: &next,
        pos: &next_pos,
        slot: &[0],
        out: &[],
    };
    Ok(Outputs {
        prefill_logits: call("prefill", prefill)?,
        decode_logits: call("decode", decode)?,
    })
}
