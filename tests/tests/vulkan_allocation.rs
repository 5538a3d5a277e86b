//! Decoding on a GPU allocates nothing on the host: not the engine, not the driver. What Vulkan itself allocates is its
//! own affair.
//!
//! Alone in its file: the counting allocator counts for the whole process.

use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use gembin_tests::{gemc, model_dir, scratch_dir};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting calls of this thread that take memory.
struct Counting;

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no counter any more, and is none that is counted.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

// SAFETY: every call is the system allocator's with the same arguments; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as for `alloc` and `dealloc`.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decoding_on_a_gpu_allocates_nothing() {
    let before = TAKEN.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(TAKEN.get() - before, 1, "the counter counts");

    let dir = scratch_dir();
    let bundle = dir.path().join("story.gembin");
    let (model, path) = (model_dir("story-gemma3"), bundle.to_str().expect("UTF-8"));
    let args = ["compile", model.to_str().expect("UTF-8"), "-o", path];
    gemc(args.into_iter().chain(["--context", "256"])).success();
    let options = OpenOptions {
        device: "vulkan".parse().expect("a device"),
        ..OpenOptions::default()
    };
    let mut engine = Engine::open(&bundle, &options).expect("a Vulkan device");
    engine
        .prefill(0, &[2, 11, 5, 9], Wanted::Last)
        .expect("runs");
    // The first call records what the others replay.
    engine.decode(&[(0, 7)]).expect("runs");
    let before = TAKEN.get();
    for token in 10..20 {
        engine.decode(&[(0, token)]).expect("runs");
        let mut predictions = engine.step(&[(0, token)]).expect("runs");
        let _ = std::hint::black_box(predictions.likely(0));
        predictions.logits().expect("fetched");
    }
    assert_eq!(TAKEN.get() - before, 0, "allocations in 20 tokens");
}
