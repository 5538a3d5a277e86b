//! Decoding allocates nothing: not the engine, not the driver's threads, not the sampler, not the text stream.
//!
//! Alone in its file: the counting allocator counts for the whole process.

mod support;

use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use gembin_runtime::sampler::{Sampler, SamplingParams};
use gembin_runtime::stream::TextStream;
use gembin_tokenizer::Tokenizer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{SLOTS, VOCAB};

/// The system's allocator, counting calls that take memory.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's with the same arguments; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `alloc` and `dealloc`.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let before = TAKEN.load(Ordering::Relaxed);
    work();
    TAKEN.load(Ordering::Relaxed) - before
}

#[test]
fn decoding_sampling_and_streaming_allocate_nothing() {
    assert_eq!(
        allocations(|| drop(black_box(vec![1u8; 100]))),
        1,
        "the counter counts"
    );

    let dir = tempfile::TempDir::new().unwrap();
    let options = OpenOptions {
        threads: 2,
        ..OpenOptions::default()
    };
    let mut engine = Engine::open(&support::write(dir.path(), None), &options).unwrap();
    let json = include_bytes!("../../testdata/models/story-gemma3/tokenizer.json");
    let tokenizer = Tokenizer::from_vec(gembin_tokenizer::compile(json).unwrap()).unwrap();
    let params = SamplingParams {
        temperature: 0.9,
        top_k: 20,
        top_p: 0.95,
        min_p: 0.01,
        repetition_penalty: 1.1,
    };
    let mut sampler = Sampler::new(VOCAB as usize, params, 7).unwrap();
    let stops = ["never that".to_owned()];
    let mut stream = TextStream::new(&tokenizer, false, &stops).unwrap();
    let prompt = [2, 11, 5, 9];
    sampler.prompt(&prompt);
    let logits = engine.prefill(0, &prompt, Wanted::Last).unwrap();
    let mut token = sampler.sample(logits).unwrap();

    // Words and byte tokens in turn, whatever the model says.
    let shown = |i: u32, token: u32| {
        if i.is_multiple_of(3) {
            7 + 0x41 + i % 20
        } else {
            token
        }
    };
    let mut text_bytes = 0;
    let taken = allocations(|| {
        for i in 0..40 {
            sampler.accept(token);
            text_bytes += stream.push(shown(i, token)).len();
            let logits = engine.decode(&[(0, token)]).unwrap();
            token = sampler.sample(logits).unwrap();
        }
    });
    assert!(text_bytes > 0);
    assert_eq!(taken, 0, "allocations in 40 decoded tokens");

    for slot in 0..SLOTS as usize {
        engine.reset(slot).unwrap();
    }
    let taken = allocations(|| {
        for i in 0..40 {
            let tokens = [(2, i % VOCAB), (0, 3), (1, 5)];
            black_box(engine.decode(&tokens).unwrap());
        }
    });
    assert_eq!(taken, 0, "allocations in 40 calls of three sequences");
}
