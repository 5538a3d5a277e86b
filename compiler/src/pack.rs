//! Packs weights: evaluates a weight's expression row by row, quantizes, and arranges the bytes as the bundle's layout
//! wants them.
//!
//! Works in batches of 16-row blocks, in parallel, so that memory stays bounded whatever the matrix's size. The bytes
//! do not depend on the number of threads.

use gembin_bundle::layout::{self, BLOCK_ROWS, Format, GROUP};
use gembin_bundle::manifest::{WeightEntry, WeightKind};
use gembin_ir::weights::{TensorSource, eval_rows};
use gembin_ir::{Module, WeightExpr, WeightId};
use gembin_passes::quant;
use half::{bf16, f16};
use rayon::prelude::*;

const BLOCK: usize = BLOCK_ROWS as usize;
const GROUP_LEN: usize = GROUP as usize;

/// Packed bytes of one batch: about this many, so that a batch and its f32 rows stay far below the memory bound.
const BATCH_BYTES: usize = 16 << 20;

/// Packs the weight `id` as its table entry describes it; `sink` receives the data plane, then the scale plane, in
/// order and in pieces.
///
/// # Errors
/// The source's message if the weight cannot be read, or the sink's error.
pub fn pack_weight<E: From<String>>(
    module: &Module,
    source: &dyn TensorSource,
    id: WeightId,
    entry: &WeightEntry,
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let cols = entry.cols as usize;
    match entry.kind {
        WeightKind::Vector => {
            let mut values = vec![0.0; cols];
            eval_rows(module, source, id, 0, &mut values)?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            sink(&bytes)
        }
        WeightKind::Matrix => {
            let block_bytes = entry.format.words(entry.cols) as usize * BLOCK * 4;
            let scale_bytes = match entry.format.is_quantized() {
                true => layout::groups(entry.cols) as usize * BLOCK * 2,
                false => 0,
            };
            let blocks = layout::row_blocks(entry.rows) as usize;
            let batch = (BATCH_BYTES / block_bytes).clamp(1, blocks);
            let mut data = vec![0u8; batch * block_bytes];
            let mut scales = vec![0u8; blocks * scale_bytes];
            for first in (0..blocks).step_by(batch) {
                let count = batch.min(blocks - first);
                let data = &mut data[..count * block_bytes];
                let batch_scales = &mut scales[first * scale_bytes..(first + count) * scale_bytes];
                // A plane of zero-sized chunks cannot be split; give formats without scales empty slices instead.
                let scale_chunks: Vec<&mut [u8]> = match scale_bytes {
                    0 => (0..count).map(|_| Default::default()).collect(),
                    n => batch_scales.chunks_mut(n).collect(),
                };
                data.par_chunks_mut(block_bytes)
                    .zip(scale_chunks)
                    .enumerate()
                    .try_for_each_init(Vec::new, |rows: &mut Vec<f32>, (i, (data, scales))| {
                        let first_row = (first + i) * BLOCK;
                        let count = BLOCK.min(entry.rows as usize - first_row);
                        rows.clear();
                        rows.resize(count * cols, 0.0);
                        eval_rows(module, source, id, first_row, rows)?;
                        encode_block(entry.format, rows, cols, data, scales);
                        Ok::<(), String>(())
                    })?;
                sink(data)?;
            }
            if scales.is_empty() {
                Ok(())
            } else {
                sink(&scales)
            }
        }
    }
}

/// The checkpoint's tensors that the weight `id` is made of.
pub fn tensors_of(module: &Module, id: WeightId) -> Vec<&str> {
    match &module.weight(id).expr {
        WeightExpr::Tensor(name) => vec![name],
        WeightExpr::ConcatRows(parts) => parts
            .iter()
            .flat_map(|part| tensors_of(module, *part))
            .collect(),
        WeightExpr::InterleaveRows { a, b, .. } => [*a, *b]
            .into_iter()
            .flat_map(|part| tensors_of(module, part))
            .collect(),
        WeightExpr::Offset { of, .. } => tensors_of(module, *of),
    }
}

/// Encodes up to 16 rows of `cols` values into one block: words `[words][16]`, scales `[groups][16]`.
///
/// Missing rows and columns beyond the last are encoded as the value zero.
pub fn encode_block(format: Format, rows: &[f32], cols: usize, data: &mut [u8], scales: &mut [u8]) {
    let (words, _) = data.as_chunks_mut::<4>();
    match format {
        Format::F32 => each_value(rows, cols, |lane, col, v| {
            words[col * BLOCK + lane] = v.to_le_bytes()
        }),
        Format::F16 | Format::Bf16 => {
            data.fill(0);
            let (words, _) = data.as_chunks_mut::<4>();
            each_value(rows, cols, |lane, col, v| {
                let bits = match format {
                    Format::F16 => f16::from_f32(v).to_bits(),
                    _ => bf16::from_f32(v).to_bits(),
                };
                let word = &mut words[(col / 2) * BLOCK + lane];
                word[(col % 2) * 2..][..2].copy_from_slice(&bits.to_le_bytes());
            });
        }
        Format::Q8 | Format::Q4 => {
            // Zero is the byte 0 in q8 and the nibble 8 in q4.
            data.fill(if format == Format::Q4 { 0x88 } else { 0 });
            scales.fill(0);
            let (words, _) = data.as_chunks_mut::<4>();
            let (scales, _) = scales.as_chunks_mut::<2>();
            for (lane, row) in rows.chunks(cols).enumerate() {
                for (g, values) in row.chunks(GROUP_LEN).enumerate() {
                    let mut group = [0.0; GROUP_LEN];
                    group[..values.len()].copy_from_slice(values);
                    let scale = if format == Format::Q8 {
                        let (scale, q) = quant::quantize_q8(&group);
                        for (w, q) in q.as_chunks::<4>().0.iter().enumerate() {
                            words[(g * 8 + w) * BLOCK + lane] = q.map(|v| v as u8);
                        }
                        scale
                    } else {
                        let (scale, q) = quant::quantize_q4(&group);
                        for (w, q) in q.as_chunks::<8>().0.iter().enumerate() {
                            words[(g * 4 + w) * BLOCK + lane] =
                                std::array::from_fn(|b| q[b] | (q[b + 4] << 4));
                        }
                        scale
                    };
                    scales[g * BLOCK + lane] = scale.to_bits().to_le_bytes();
                }
            }
        }
    }
}

fn each_value(rows: &[f32], cols: usize, mut put: impl FnMut(usize, usize, f32)) {
    for (lane, row) in rows.chunks(cols).enumerate() {
        for (col, v) in row.iter().enumerate() {
            put(lane, col, *v);
        }
    }
}

/// Decodes rows `first_row ..` of a packed matrix to f32; `out` holds whole rows. The inverse of [`encode_block`], bar
/// what quantization lost.
pub fn decode_rows(
    entry: &WeightEntry,
    data: &[u8],
    scales: &[u8],
    first_row: usize,
    out: &mut [f32],
) {
    let cols = entry.cols as usize;
    let (words, _) = data.as_chunks::<4>();
    let (scales, _) = scales.as_chunks::<2>();
    let words_per_row = entry.format.words(entry.cols) as usize;
    let groups = layout::groups(entry.cols) as usize;
    let scale = |block: usize, group: usize, lane: usize| {
        f16::from_bits(u16::from_le_bytes(
            scales[(block * groups + group) * BLOCK + lane],
        ))
        .to_f32()
    };
    let per_word = entry.format.values_per_word() as usize;
    for (i, row) in out.chunks_mut(cols).enumerate() {
        let (block, lane) = ((first_row + i) / BLOCK, (first_row + i) % BLOCK);
        let block_words = &words[block * words_per_row * BLOCK..][..words_per_row * BLOCK];
        for (w, values) in row.chunks_mut(per_word).enumerate() {
            let word = block_words[w * BLOCK + lane];
            match entry.format {
                Format::F32 => values[0] = f32::from_le_bytes(word),
                Format::F16 => each(values, |b| {
                    f16::from_le_bytes([word[2 * b], word[2 * b + 1]]).to_f32()
                }),
                Format::Bf16 => each(values, |b| {
                    bf16::from_le_bytes([word[2 * b], word[2 * b + 1]]).to_f32()
                }),
                Format::Q8 => {
                    let s = scale(block, w * per_word / GROUP_LEN, lane);
                    each(values, |b| s * f32::from(word[b] as i8));
                }
                Format::Q4 => {
                    let s = scale(block, w * per_word / GROUP_LEN, lane);
                    let nibble = |b: usize| {
                        if b < 4 {
                            word[b] & 15
                        } else {
                            word[b - 4] >> 4
                        }
                    };
                    each(values, |b| s * f32::from(nibble(b) as i8 - 8));
                }
            }
        }
    }
}

fn each(values: &mut [f32], f: impl Fn(usize) -> f32) {
    for (b, v) in values.iter_mut().enumerate() {
        *v = f(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gembin_bundle::manifest::Span;

    fn round_trip(format: Format, rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
        let values: Vec<f32> = (0..rows * cols)
            .map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        let entry = WeightEntry {
            name: "w".into(),
            format,
            rows: rows as u32,
            cols: cols as u32,
            kind: WeightKind::Matrix,
            data: Span::default(),
            scales: Span::default(),
            checksum: 0,
        };
        let mut data = vec![0xee; layout::data_bytes(format, rows as u32, cols as u32) as usize];
        let mut scales = vec![0xee; layout::scale_bytes(format, rows as u32, cols as u32) as usize];
        let blocks = layout::row_blocks(rows as u32) as usize;
        let (db, sb) = (data.len() / blocks, scales.len() / blocks);
        for b in 0..blocks {
            let part = &values[b * BLOCK * cols..values.len().min((b + 1) * BLOCK * cols)];
            encode_block(
                format,
                part,
                cols,
                &mut data[b * db..][..db],
                &mut scales[b * sb..][..sb],
            );
        }
        let mut back = vec![f32::NAN; rows * cols];
        decode_rows(&entry, &data, &scales, 0, &mut back);
        (values, back)
    }

    #[test]
    fn every_format_decodes_to_what_was_encoded() {
        for (rows, cols) in [(1, 1), (16, 32), (17, 33), (31, 120), (40, 96)] {
            for (format, tolerance) in [
                (Format::F32, 0.0),
                (Format::F16, 1e-3),
                (Format::Bf16, 4e-3),
                (Format::Q8, 5e-3),
                // The range of -1..1 in 15 steps; the search for the scale may clip the largest value by up to one.
                (Format::Q4, 2.0 / 15.0),
            ] {
                let (a, b) = round_trip(format, rows, cols);
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    assert!(
                        (a - b).abs() <= tolerance,
                        "{format:?} {rows}x{cols} value {i}: {a} became {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_word_of_a_value_is_where_the_layout_says() {
        let cols = 40usize;
        let rows: Vec<f32> = (0..16 * cols).map(|i| i as f32).collect();
        let mut data = vec![0; layout::data_bytes(Format::F32, 16, cols as u32) as usize];
        encode_block(Format::F32, &rows, cols, &mut data, &mut []);
        let at = layout::word_index(Format::F32, cols as u32, 5, 7) as usize * 4;
        assert_eq!(
            f32::from_le_bytes(data[at..at + 4].try_into().unwrap()),
            rows[5 * cols + 7]
        );
    }
}
