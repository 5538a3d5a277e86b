//! Memory that knows which of its bytes were ever written: buffers in tiles, elements of FIFOs, buffers of the host.

use crate::module::Pattern;

/// Bytes, each written or not.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    bytes: Vec<u8>,
    /// A bit for each byte.
    written: Vec<u64>,
    /// Whether every bit is set: most checks end here.
    whole: bool,
}

impl Memory {
    /// Memory that was written.
    pub fn written(bytes: Vec<u8>) -> Memory {
        Memory {
            written: vec![u64::MAX; bytes.len().div_ceil(64)],
            bytes,
            whole: true,
        }
    }

    /// Memory that was not.
    pub fn unwritten(bytes: usize) -> Memory {
        Memory {
            bytes: vec![0; bytes],
            written: vec![0; bytes.div_ceil(64)],
            whole: bytes == 0,
        }
    }

    /// All bytes, whether written or not.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Size.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was written.
    pub fn forget(&mut self) {
        if !self.bytes.is_empty() {
            self.written.fill(0);
            self.whole = false;
        }
    }

    /// The first byte of a range that was never written.
    pub fn first_unwritten(&self, at: usize, count: usize) -> Option<usize> {
        if self.whole {
            return None;
        }
        let mut position = at;
        let end = at + count;
        while position < end {
            let word = position / 64;
            let bit = position % 64;
            let here = (end - position).min(64 - bit);
            let mask = (u64::MAX >> (64 - here)) << bit;
            let missing = !self.written[word] & mask;
            if missing != 0 {
                return Some(word * 64 + missing.trailing_zeros() as usize);
            }
            position += here;
        }
        None
    }

    /// Bytes of a range, which must lie inside.
    pub fn read(&self, at: usize, count: usize) -> &[u8] {
        &self.bytes[at..at + count]
    }

    /// A range to write, which must lie inside.
    pub fn write(&mut self, at: usize, count: usize) -> &mut [u8] {
        if !self.whole {
            self.mark(at, count);
        }
        &mut self.bytes[at..at + count]
    }

    fn mark(&mut self, at: usize, count: usize) {
        let mut position = at;
        let end = at + count;
        while position < end {
            let bit = position % 64;
            let here = (end - position).min(64 - bit);
            self.written[position / 64] |= (u64::MAX >> (64 - here)) << bit;
            position += here;
        }
        // Worth looking only where the end was reached.
        if end == self.bytes.len() && self.first_unwritten_word().is_none() {
            self.whole = true;
        }
    }

    fn first_unwritten_word(&self) -> Option<usize> {
        let full = self.bytes.len() / 64;
        let rest = self.bytes.len() % 64;
        let whole = self.written[..full]
            .iter()
            .position(|word| *word != u64::MAX);
        whole.or_else(|| {
            let mask = (1u64 << rest) - 1;
            (rest > 0 && self.written[full] & mask != mask).then_some(full)
        })
    }

    /// Whether all of it was written.
    pub fn is_whole(&self) -> bool {
        self.whole || self.first_unwritten(0, self.len()).is_none()
    }
}

/// A buffer of the host, as a dispatch is given it.
#[derive(Clone, Debug)]
pub struct HostBuffer(pub(crate) Memory);

impl HostBuffer {
    /// A buffer with contents.
    pub fn input(bytes: impl Into<Vec<u8>>) -> HostBuffer {
        HostBuffer(Memory::written(bytes.into()))
    }

    /// A buffer without: reading it before the array wrote it is an error.
    pub fn output(bytes: usize) -> HostBuffer {
        HostBuffer(Memory::unwritten(bytes))
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Whether every byte was written.
    pub fn is_whole(&self) -> bool {
        self.0.is_whole()
    }
}

/// Contiguous pieces of an access pattern: where each starts and how long it is, in bytes, in the order of the stream.
///
/// Sizes and strides are in elements of `element_bytes`, outermost first. Offsets may be negative or past the memory:
/// who uses the pieces checks them.
pub fn pieces(
    start: i64,
    sizes_and_strides: &[(i64, i64)],
    element_bytes: i64,
) -> impl Iterator<Item = (i64, usize)> {
    let mut dims: Vec<(i64, i64)> = sizes_and_strides
        .iter()
        .filter(|(size, _)| *size != 1)
        .map(|(size, stride)| (*size, *stride * element_bytes))
        .collect();
    let mut run = element_bytes;
    while let Some((size, stride)) = dims.last().copied() {
        if stride != run {
            break;
        }
        run *= size;
        dims.pop();
    }
    let count = dims.iter().fold(1i64, |count, (size, _)| {
        count.saturating_mul((*size).max(0))
    });
    let mut index = vec![0i64; dims.len()];
    let mut at = start * element_bytes;
    (0..count).map(move |_| {
        let piece = (at, run.max(0) as usize);
        for dim in (0..dims.len()).rev() {
            let (size, stride) = dims[dim];
            index[dim] += 1;
            at += stride;
            if index[dim] < size {
                break;
            }
            at -= stride * size;
            index[dim] = 0;
        }
        piece
    })
}

/// Pieces of a descriptor of `length` elements from `offset`.
pub fn descriptor_pieces(
    offset: i64,
    length: i64,
    pattern: &Pattern,
    element_bytes: i64,
) -> Vec<(i64, usize)> {
    let contiguous = [(length, 1)];
    let dims = if pattern.0.is_empty() {
        &contiguous
    } else {
        pattern.0.as_slice()
    };
    pieces(offset, dims, element_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_come_apart_into_pieces() {
        // 2 x 3 blocks of 2 x 4 bytes in rows of 12.
        let all: Vec<_> = pieces(0, &[(2, 24), (3, 4), (2, 12), (4, 1)], 1).collect();
        assert_eq!(all.len(), 12);
        assert_eq!(&all[..4], &[(0, 4), (12, 4), (4, 4), (16, 4)]);
        assert_eq!(all[6], (24, 4));
        // What is contiguous is one piece, whatever its dimensions.
        let whole: Vec<_> = pieces(3, &[(1, 0), (4, 8), (8, 1)], 4).collect();
        assert_eq!(whole, [(12, 128)]);
        // A stride of 0 repeats.
        let repeated: Vec<_> = pieces(0, &[(2, 0), (4, 1)], 1).collect();
        assert_eq!(repeated, [(0, 4), (0, 4)]);
    }

    #[test]
    fn memory_knows_what_was_written() {
        let mut memory = Memory::unwritten(200);
        memory.write(0, 70).fill(1);
        assert_eq!(memory.first_unwritten(0, 70), None);
        assert_eq!(memory.first_unwritten(60, 20), Some(70));
        memory.write(130, 70);
        assert!(!memory.is_whole());
        memory.write(70, 60);
        assert!(memory.is_whole());
        memory.forget();
        assert_eq!(memory.first_unwritten(5, 1), Some(5));
    }
}
