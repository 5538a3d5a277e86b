//! Weights of a made checkpoint: which tensor goes to which shard, and writing the shards.
//!
//! Blocks of values are made and written by all cores at once, each at its own place in the file, so that no more than
//! one block a core is ever in memory.

use super::SynthError;
use super::noise::{Noise, VALUES_A_DRAW};
use crate::import::{Config, TensorShape, tensor_shapes};
use crate::progress::Progress;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of tensors in a shard. A tensor that is larger has a shard of its own.
const SHARD_BYTES: u64 = 2 << 30;
/// Bytes made at a time by a core.
const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks between two looks at the progress bar and the interrupt flag.
const BATCH_BLOCKS: usize = 64;
/// bf16.
const VALUE_BYTES: u64 = 2;
/// Norm weights are distances from 1; those of trained models spread about so much.
const NORM_STD_DEV: f32 = 0.15;

/// What was written.
pub(super) struct Written {
    pub shards: usize,
    pub bytes: u64,
}

/// A block of a tensor.
struct Block<'a> {
    noise: &'a Noise,
    first_value: u64,
    offset: u64,
    bytes: u64,
}

/// Writes all tensors of `config` into `dir`.
///
/// # Errors
/// A file that cannot be written, or an interrupt.
pub(super) fn write(
    dir: &Path,
    config: &Config,
    seed: u64,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Written, SynthError> {
    let tensors: Vec<TensorShape> = tensor_shapes(config).collect();
    let shards = split(&tensors);
    let total = tensors.iter().map(bytes_of).sum();
    progress.stage("writing weights", total);
    let mut weight_map = Map::new();
    for (n, shard) in shards.iter().enumerate() {
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            of => format!("model-{:05}-of-{of:05}.safetensors", n + 1),
        };
        write_shard(&dir.join(&file), shard, seed, progress, cancel)?;
        let listed = shard
            .iter()
            .map(|t| (t.name.clone(), Value::String(file.clone())));
        weight_map.extend(listed);
    }
    if shards.len() > 1 {
        let parameters = total / VALUE_BYTES;
        let index = json!({
            "metadata": {"total_parameters": parameters, "total_size": total},
            "weight_map": weight_map,
        });
        super::write_json(&dir.join("model.safetensors.index.json"), &index)?;
    }
    Ok(Written {
        shards: shards.len(),
        bytes: total,
    })
}

/// Writes a file with the header of all tensors of `config` and nothing where their values go.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn write_holes(dir: &Path, config: &Config) -> Result<(), SynthError> {
    let tensors: Vec<TensorShape> = tensor_shapes(config).collect();
    let path = dir.join("model.safetensors");
    let header = header(&tensors);
    let bytes = header.len() as u64 + tensors.iter().map(bytes_of).sum::<u64>();
    File::create_new(&path)
        .and_then(|file| {
            file.write_all_at(&header, 0)?;
            file.set_len(bytes)
        })
        .map_err(|source| SynthError::io(&path, source))
}

fn bytes_of(tensor: &TensorShape) -> u64 {
    tensor.shape.iter().map(|n| u64::from(*n)).product::<u64>() * VALUE_BYTES
}

/// Cuts the list of tensors where a shard would grow too large.
fn split(tensors: &[TensorShape]) -> Vec<&[TensorShape]> {
    let mut shards = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (n, tensor) in tensors.iter().enumerate() {
        let more = bytes_of(tensor);
        if n > first && bytes + more > SHARD_BYTES {
            shards.push(&tensors[first..n]);
            (first, bytes) = (n, 0);
        }
        bytes += more;
    }
    shards.push(&tensors[first..]);
    shards
}

/// Standard deviation that keeps the size of activations: `1 / sqrt(fan in)`. For the embedding, whose rows are
/// multiplied by `sqrt(hidden)` on the way in, that gives a unit residual stream and logits of about unit size.
fn std_dev(shape: &[u32]) -> f32 {
    match shape {
        [_, columns] => (*columns as f32).sqrt().recip(),
        _ => NORM_STD_DEV,
    }
}

fn write_shard(
    path: &Path,
    tensors: &[TensorShape],
    seed: u64,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<(), SynthError> {
    let fail = |source| SynthError::io(path, source);
    let file = File::create_new(path).map_err(fail)?;
    let header = header(tensors);
    file.write_all_at(&header, 0).map_err(fail)?;
    let mut offset = header.len() as u64;
    for tensor in tensors {
        let noise = Noise::new(seed, &tensor.name, std_dev(&tensor.shape));
        let bytes = bytes_of(tensor);
        let blocks: Vec<Block<'_>> = (0..bytes.div_ceil(BLOCK_BYTES))
            .map(|n| Block {
                noise: &noise,
                first_value: n * BLOCK_BYTES / VALUE_BYTES,
                offset: offset + n * BLOCK_BYTES,
                bytes: BLOCK_BYTES.min(bytes - n * BLOCK_BYTES),
            })
            .collect();
        for batch in blocks.chunks(BATCH_BLOCKS) {
            if cancel.load(Ordering::Relaxed) {
                return Err(SynthError::Interrupted);
            }
            batch
                .par_iter()
                .try_for_each_init(Vec::new, |buffer, block| write_block(&file, block, buffer))
                .map_err(fail)?;
            progress.advance(batch.iter().map(|b| b.bytes).sum());
        }
        offset += bytes;
    }
    Ok(())
}

fn write_block(file: &File, block: &Block<'_>, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    const { assert!((BLOCK_BYTES / VALUE_BYTES).is_multiple_of(VALUES_A_DRAW)) };
    // At most BLOCK_BYTES, which fits.
    buffer.resize(block.bytes as usize, 0);
    block.noise.fill(block.first_value, buffer);
    file.write_all_at(buffer, block.offset)
}

/// Length and JSON of a safetensors file, padded so that the data is aligned to 8 bytes.
fn header(tensors: &[TensorShape]) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + bytes_of(tensor);
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]});
        map.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut json = Value::Object(map).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, rows: u32) -> TensorShape {
        TensorShape {
            name: name.to_owned(),
            shape: vec![rows, 1 << 20],
        }
    }

    #[test]
    fn shards_stay_below_their_limit_unless_a_tensor_is_larger() {
        // 2 MiB a row: 1024 rows fill a shard.
        let tensors = [
            tensor("a", 600),
            tensor("b", 424),
            tensor("c", 1),
            tensor("d", 1500),
            tensor("e", 2),
        ];
        let sizes: Vec<usize> = split(&tensors).iter().map(|s| s.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }
}
