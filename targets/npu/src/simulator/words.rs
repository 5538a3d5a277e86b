//! Elements of memory as words of the interpreter and back, and the same bits as elements of another width.

use super::lanes;
use crate::module::Scalar;

/// Bytes of an element in memory.
pub fn element_bytes(element: Scalar) -> usize {
    (element.bits() / 8).max(1) as usize
}

/// Elements of memory as words.
#[inline(always)]
pub fn widen(words: &mut [i32], bytes: &[u8], element: Scalar) {
    match element {
        Scalar::Int(1) => {
            for (word, byte) in words.iter_mut().zip(bytes) {
                *word = -i32::from(byte & 1);
            }
        }
        Scalar::Int(..=8) => {
            for (word, byte) in words.iter_mut().zip(bytes) {
                *word = i32::from(*byte as i8);
            }
        }
        Scalar::Int(9..=16) => {
            for (word, pair) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *word = i32::from(i16::from_le_bytes(*pair));
            }
        }
        Scalar::Bf16 => {
            for (word, pair) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *word = i32::from(i16::from_le_bytes(*pair)) << 16;
            }
        }
        Scalar::Int(_) | Scalar::F32 | Scalar::Index => {
            for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = i32::from_le_bytes(*four);
            }
        }
    }
}

/// Words as elements of memory.
#[inline(always)]
pub fn pack(bytes: &mut [u8], words: &[i32], element: Scalar) {
    match element {
        Scalar::Int(1) => {
            for (word, byte) in words.iter().zip(bytes) {
                *byte = (word & 1) as u8;
            }
        }
        Scalar::Int(..=8) => {
            for (word, byte) in words.iter().zip(bytes) {
                *byte = *word as u8;
            }
        }
        Scalar::Int(9..=16) => {
            for (word, pair) in words.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *pair = (*word as i16).to_le_bytes();
            }
        }
        Scalar::Bf16 => {
            for (word, pair) in words.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *pair = ((*word >> 16) as i16).to_le_bytes();
            }
        }
        Scalar::Int(_) | Scalar::F32 | Scalar::Index => {
            for (word, four) in words.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *four = word.to_le_bytes();
            }
        }
    }
}

/// The same bits as elements of another width, lowest first.
pub fn bitcast(d: &mut [i32], a: &[i32], from: Scalar, to: Scalar) {
    let raw = |word: i32, element: Scalar| match element {
        Scalar::Bf16 => u64::from(word as u32 >> 16),
        Scalar::F32 | Scalar::Index => u64::from(word as u32),
        Scalar::Int(bits) => u64::from(word as u32) & (u64::MAX >> (64 - u32::from(bits).min(32))),
    };
    let (from_bits, to_bits) = (from.bits().min(32), to.bits().min(32));
    let mut pool = 0u64;
    let mut have = 0;
    let mut source = a.iter();
    for d in d {
        while have < to_bits {
            let Some(word) = source.next() else {
                break;
            };
            pool |= raw(*word, from) << have;
            have += from_bits;
        }
        let bits = pool & (u64::MAX >> (64 - to_bits));
        pool >>= to_bits;
        have = have.saturating_sub(to_bits);
        *d = match to {
            Scalar::Bf16 => (bits as i32) << 16,
            Scalar::F32 | Scalar::Index => bits as i32,
            Scalar::Int(_) => lanes::narrow(bits as i32, 32 - to_bits),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_keep_their_order_through_casts() {
        let mut nibbles = [0; 4];
        bitcast(&mut nibbles, &[0x2f, -0x7f], Scalar::Int(8), Scalar::Int(4));
        assert_eq!(nibbles, [-1, 2, 1, -8]);
        let mut bytes = [0; 2];
        bitcast(&mut bytes, &nibbles, Scalar::Int(4), Scalar::Int(8));
        assert_eq!(bytes, [0x2f, -0x7f]);
        let mut one = [0];
        let bf16 = 1.5f32.to_bits() as i32;
        bitcast(&mut one, &[bf16], Scalar::Bf16, Scalar::Int(16));
        assert_eq!(one, [0x3fc0]);
    }
}
