//! The weights of a checkpoint, mapped, and decoded to f32 row by row.
//!
//! Nothing is read whole: packing asks for rows, and [`Checkpoint::advise_done`] gives pages back. Knows names, shapes
//! and element types, not what a tensor means.

use super::error::{ImportError, one_line};
use super::header::{self, HeaderEntry};
use super::json::{Object, file_name, read_object, refuse_irregular};
use gembin_ir::DType;
use half::slice::HalfFloatSliceExt;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// The only file of a checkpoint that is not sharded.
const SINGLE: &str = "model.safetensors";
/// The index of one that is.
const INDEX: &str = "model.safetensors.index.json";

/// A mapped file of weights.
struct Shard {
    name: String,
    map: Mmap,
}

/// Where a tensor is.
struct Located {
    shard: usize,
    entry: HeaderEntry,
}

/// What a tensor is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorInfo<'a> {
    /// Element type, if it is one that is read.
    pub dtype: Option<DType>,
    /// As spelled in the file.
    pub dtype_name: &'a str,
    /// Outermost first.
    pub shape: &'a [u64],
}

/// The tensors of a checkpoint. Reads of several threads may run at once.
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Located>,
    files: Vec<PathBuf>,
    allow_nonfinite: bool,
    /// A file with bytes that belong to no tensor, and where they are.
    unclaimed: Option<(String, String)>,
}

impl Checkpoint {
    /// Maps the weights in `dir`: `model.safetensors`, or else the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// A file that is missing, damaged, or disagrees with the index.
    pub fn open(dir: &Path, allow_nonfinite: bool) -> Result<Self, ImportError> {
        let mut checkpoint = Self {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            files: Vec::new(),
            allow_nonfinite,
            unclaimed: None,
        };
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.exists() {
            checkpoint.add_shard(single, SINGLE)?;
        } else if let Some(map) = read_object(&index)? {
            checkpoint.files.push(index);
            let listed = weight_map(&Object::new(INDEX, &map))?;
            for shard in listed.values().collect::<BTreeSet<_>>() {
                let path = dir.join(shard);
                if !path.exists() {
                    return Err(ImportError::MissingShard {
                        shard: one_line(shard),
                        index: INDEX.to_owned(),
                    });
                }
                checkpoint.add_shard(path, shard)?;
            }
            checkpoint.agree_with(&listed)?;
        } else {
            return Err(ImportError::NoWeights {
                dir: dir.to_owned(),
                hint: other_formats(dir),
            });
        }
        Ok(checkpoint)
    }

    /// Refuses files with bytes that belong to no tensor; to be asked when all tensors are known to be there.
    ///
    /// # Errors
    /// When there are such bytes.
    pub(crate) fn refuse_unclaimed(&self) -> Result<(), ImportError> {
        match &self.unclaimed {
            None => Ok(()),
            Some((file, what)) => Err(ImportError::Safetensors {
                file: file.clone(),
                what: what.clone(),
            }),
        }
    }

    /// The files read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the tensor of that name is.
    pub(crate) fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        let entry = &self.tensors.get(name)?.entry;
        Some(TensorInfo {
            dtype: entry.dtype.and_then(readable),
            dtype_name: &entry.dtype_name,
            shape: &entry.shape,
        })
    }

    /// Whether two tensors have the same element type, shape and bytes.
    pub(crate) fn same_content(&self, a: &str, b: &str) -> bool {
        match (self.tensors.get(a), self.tensors.get(b)) {
            (Some(a), Some(b)) => {
                a.entry.dtype_name == b.entry.dtype_name
                    && a.entry.shape == b.entry.shape
                    && self.bytes(a) == self.bytes(b)
            }
            _ => false,
        }
    }

    /// Decodes whole rows from `first_row` on into `out`; a vector is one row.
    ///
    /// # Errors
    /// An unknown name, rows that are not there, an element type that is not read, or, unless they are allowed, NaN
    /// and infinity, with the place of the first one.
    pub fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        let shown = one_line(tensor);
        let located = self
            .tensors
            .get(tensor)
            .ok_or_else(|| format!("no tensor {shown} in the checkpoint"))?;
        let entry = &located.entry;
        let unreadable = || format!("tensor {shown} has dtype {}", one_line(&entry.dtype_name));
        let dtype = entry.dtype.and_then(readable).ok_or_else(unreadable)?;
        let element_bytes = match dtype {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I32 | DType::Q8 | DType::Q4 => return Err(unreadable()),
        };
        let bytes = self.bytes(located);
        // The header was checked: the product of the shape is the number of elements in the file.
        let columns = entry.shape.last().map_or(1, |n| *n as usize);
        let rows = first_row
            .checked_mul(columns)
            .and_then(|n| n.checked_mul(element_bytes))
            .and_then(|start| {
                let end = start.checked_add(out.len().checked_mul(element_bytes)?)?;
                bytes.get(start..end)
            })
            .ok_or_else(|| {
                format!(
                    "tensor {shown} of shape {:?} lacks {} values from row {first_row} on",
                    entry.shape,
                    out.len()
                )
            })?;
        let finite = match dtype {
            DType::F32 => decode_f32(rows, out),
            DType::F16 => decode_f16(rows, out),
            DType::Bf16 => decode_bf16(rows, out),
            DType::I32 | DType::Q8 | DType::Q4 => return Err(unreadable()),
        };
        if finite || self.allow_nonfinite {
            return Ok(());
        }
        let at = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Err(format!(
            "tensor {shown} holds {} at row {}, column {}; --allow-nonfinite compiles it all the same",
            out[at],
            first_row + at / columns.max(1),
            at % columns.max(1)
        ))
    }

    /// Gives the pages of a tensor back to the system; a later read takes them from the file again.
    pub fn advise_done(&self, tensor: &str) {
        let Some(located) = self.tensors.get(tensor) else {
            return;
        };
        let (start, end) = (located.entry.start, located.entry.end);
        let map = &self.shards[located.shard].map;
        // SAFETY: the mapping is read-only and of a file: dropped pages read as the file's content again.
        let dropped =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // Only a hint: a system that refuses it keeps the pages.
        drop(dropped);
    }

    fn bytes(&self, located: &Located) -> &[u8] {
        &self.shards[located.shard].map[located.entry.start..located.entry.end]
    }

    fn add_shard(&mut self, path: PathBuf, name: &str) -> Result<(), ImportError> {
        let map = map_file(&path)?;
        // Rows are read front to back; only a hint, so a refusal does not matter.
        drop(map.advise(Advice::Sequential));
        let name = one_line(name);
        let header = header::read(&map).map_err(|what| ImportError::Safetensors {
            file: name.clone(),
            what,
        })?;
        if let (Some(what), None) = (header.unclaimed, &self.unclaimed) {
            self.unclaimed = Some((name.clone(), what));
        }
        let shard = self.shards.len();
        for entry in header.entries {
            let tensor = entry.name.clone();
            if let Some(other) = self.tensors.insert(tensor, Located { shard, entry }) {
                let tensor = one_line(&other.entry.name);
                return Err(ImportError::Duplicate {
                    first: format!("{tensor} in {}", self.shards[other.shard].name),
                    second: format!("{tensor} in {name}"),
                });
            }
        }
        self.shards.push(Shard { name, map });
        self.files.push(path);
        Ok(())
    }

    /// Checks that every tensor is where the index says, and no other is there.
    fn agree_with(&self, listed: &BTreeMap<String, String>) -> Result<(), ImportError> {
        for (tensor, shard) in listed {
            let found = self.tensors.get(tensor).map(|t| &self.shards[t.shard].name);
            if found != Some(&one_line(shard)) {
                return Err(ImportError::IndexMismatch {
                    shard: one_line(shard),
                    tensor: one_line(tensor),
                    what: "is not in it, though the index says so",
                });
            }
        }
        match self.tensors.iter().find(|(t, _)| !listed.contains_key(*t)) {
            None => Ok(()),
            Some((tensor, located)) => Err(ImportError::IndexMismatch {
                shard: self.shards[located.shard].name.clone(),
                tensor: one_line(tensor),
                what: "is in it, but not in the index",
            }),
        }
    }
}

impl gembin_ir::weights::TensorSource for Checkpoint {
    fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        Checkpoint::read_rows(self, tensor, first_row, out)
    }
}

/// Maps a file for reading.
pub(crate) fn map_file(path: &Path) -> Result<Mmap, ImportError> {
    let io = |cause| ImportError::Io {
        path: path.to_owned(),
        cause,
    };
    refuse_irregular(path, &std::fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is private and read-only, and only ever read as bytes, so any content is valid. As with
    // every mapped input, the file must not be cut short by someone else meanwhile; a compiler cannot guard a user
    // against a checkpoint that he deletes while it is compiled.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// `weight_map` of an index: tensor to shard, with shards kept inside the checkpoint's directory.
fn weight_map(index: &Object<'_>) -> Result<BTreeMap<String, String>, ImportError> {
    let map = index
        .object("weight_map")?
        .ok_or_else(|| index.fault("weight_map", "is absent"))?;
    let mut listed = BTreeMap::new();
    for (tensor, _) in map.entries() {
        let shard = map.text(tensor)?.unwrap_or_default();
        let inside = Path::new(shard)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if shard.is_empty() || !inside {
            return Err(ImportError::ShardPath {
                shard: one_line(shard),
                index: INDEX.to_owned(),
            });
        }
        listed.insert(tensor.clone(), shard.to_owned());
    }
    Ok(listed)
}

/// What to do if the weights are there, but in another format.
fn other_formats(dir: &Path) -> &'static str {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return "";
    };
    let mut hint = "";
    for path in entries.flatten().map(|e| e.path()) {
        let name = file_name(&path);
        if name.starts_with("pytorch_model") {
            return "; pytorch_model files are not read: save the model with safe_serialization";
        }
        if name.ends_with(".gguf") {
            hint = "; GGUF files are not read: give the checkpoint it was made from";
        }
    }
    hint
}

/// The IR's name of an element type, if it is one that is read.
fn readable(dtype: Dtype) -> Option<DType> {
    if dtype == Dtype::F32 {
        Some(DType::F32)
    } else if dtype == Dtype::F16 {
        Some(DType::F16)
    } else if dtype == Dtype::BF16 {
        Some(DType::Bf16)
    } else {
        None
    }
}

// Each decoder returns whether all values are finite. The check rides along as a maximum of the exponent bits, which
// vectorises, where an early exit would not.

fn decode_bf16(bytes: &[u8], out: &mut [f32]) -> bool {
    const EXPONENT: u16 = 0x7f80;
    let mut most = 0;
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let bits = u16::from_le_bytes(*b);
        most = most.max(bits & EXPONENT);
        *x = f32::from_bits(u32::from(bits) << 16);
    }
    most != EXPONENT
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut most = 0;
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        let bits = u32::from_le_bytes(*b);
        most = most.max(bits & EXPONENT);
        *x = f32::from_bits(bits);
    }
    most != EXPONENT
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) -> bool {
    const EXPONENT: u16 = 0x7c00;
    // A block at a time, so that the conversion is the processor's vector instruction where it has one.
    const BLOCK: usize = 256;
    let mut block = [half::f16::ZERO; BLOCK];
    let mut most = 0;
    for (xs, bs) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let values = &mut block[..xs.len()];
        for (v, b) in values.iter_mut().zip(bs.as_chunks::<2>().0) {
            *v = half::f16::from_le_bytes(*b);
            most = most.max(v.to_bits() & EXPONENT);
        }
        values.convert_to_f32_slice(xs);
    }
    most != EXPONENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes16(values: impl Iterator<Item = u16>) -> Vec<u8> {
        values.flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn all_16_bit_patterns_decode_as_the_standard_says() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let mut x = [0.0f32];
            let finite = decode_bf16(&bytes, &mut x);
            assert_eq!(x[0].to_bits(), u32::from(bits) << 16);
            assert_eq!(finite, x[0].is_finite());
            let finite = decode_f16(&bytes, &mut x);
            let want = half::f16::from_bits(bits).to_f32();
            assert!(
                x[0] == want || (x[0].is_nan() && want.is_nan()),
                "{bits:#x}"
            );
            assert_eq!(finite, want.is_finite(), "{bits:#x}");
        }
    }

    #[test]
    fn blocks_of_f16_keep_their_order() {
        let bytes = bytes16((0..1000).map(|n| half::f16::from_f32(n as f32).to_bits()));
        let mut out = vec![0.0; 1000];
        assert!(decode_f16(&bytes, &mut out));
        assert!(out.iter().enumerate().all(|(n, x)| *x == n as f32));
    }

    #[test]
    fn f32_is_taken_bit_by_bit() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE / 2.0];
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut out = [0.0; 3];
        assert!(decode_f32(&bytes, &mut out));
        assert_eq!(out.map(f32::to_bits), values.map(f32::to_bits));
        assert!(!decode_f32(&f32::NAN.to_le_bytes(), &mut out[..1]));
    }
}
