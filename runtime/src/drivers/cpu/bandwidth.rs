//! What the memory gives: the rate at which the processor's threads can read, which bounds decoding.
//!
//! Reads a block much larger than the caches, in huge pages where the system has them, and does nothing else with it.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernel over a slice; the contract is the instruction set's"
)]

use super::isa::Isa;
use super::pool::{Pool, share};
use super::simd::{Simd, kernel};
use crate::arena::Arena;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes read in a pass: many times the largest last-level caches of desktop processors.
const BYTES: usize = 1 << 30;
/// Passes, of which the fastest counts: a shared machine is disturbed now and then, never helped.
const PASSES: usize = 5;

kernel!(
    /// Adds up a slice, to make sure that it was read. Any bytes are good.
    fn sum = sum_body(bytes: &[u8]) -> u64
);

#[inline(always)]
unsafe fn sum_body<S: Simd>(bytes: &[u8]) -> u64 {
    // Integer sums may be taken in any order, so the compiler uses several of the widest registers.
    let words = bytes.as_chunks::<8>().0.iter();
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

/// Reads memory with `threads` threads (0: one a core) and returns bytes a second.
///
/// # Errors
/// When memory or threads cannot be had.
pub fn read_bytes_per_s(isa: Isa, threads: usize) -> std::io::Result<f64> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut pool = Pool::new(threads)?;
    let block = Arena::new(BYTES)?;
    block.prefer_huge_pages();
    // SAFETY: the block is that long, mapped and zeroed, and nobody else has it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(block.base(), block.bytes()) };
    // Untouched pages are all the same page of zeros, which would be read from the cache.
    for page in bytes.chunks_mut(4096) {
        page[0] = 1;
    }
    let bytes = &*bytes;
    let total = AtomicU64::new(0);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        let ran = pool.run(&|team| {
            let part = share(bytes.len() / 256, team.thread, team.threads);
            // SAFETY: the caller's instruction set was found on this processor.
            let part = unsafe { sum(isa, &bytes[part.start * 256..part.end * 256]) };
            total.fetch_add(part, Ordering::Relaxed);
        });
        if ran.is_err() {
            return Err(std::io::Error::other(
                "a thread of the measurement panicked",
            ));
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(total.load(Ordering::Relaxed));
    Ok(BYTES as f64 / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 31 % 251) as u8).collect();
        let want = bytes.as_chunks::<8>().0.iter().fold(0u64, |sum, word| {
            sum.wrapping_add(u64::from_ne_bytes(*word))
        });
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // SAFETY: the instruction set is available.
            assert_eq!(unsafe { sum(isa, &bytes) }, want, "{}", isa.name());
        }
    }
}
