//! Threads of the CPU driver: persistent workers, one wake a call, and a barrier cheap enough to stand between steps.
//!
//! The caller is thread 0. Work is split statically by the kernels themselves; the pool only starts everybody, lets
//! them meet, and gets everybody back, also when one of them panics. Waiting spins first, because steps last
//! microseconds, then yields, so that a machine with fewer free cores than threads still makes progress, and between
//! calls finally parks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Rounds of `pause` before a waiting thread starts to yield.
const BARRIER_SPINS: u32 = 4_000;
/// Rounds of `pause` before an idle worker parks: long enough to stay awake while a token is sampled.
const IDLE_SPINS: u32 = 20_000;

/// A team of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What a thread sees of its team while it works.
pub(crate) struct Team<'a> {
    shared: &'a Shared,
    /// This thread, `0..threads`.
    pub thread: usize,
    /// All threads.
    pub threads: usize,
}

/// Another thread of the team panicked; whoever sees this returns at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Broken;

/// A call's work, its lifetime erased: `run` returns only when nobody uses it any more.
type Job = *const (dyn Fn(&Team<'_>) + Sync);

struct Shared {
    threads: usize,
    /// Number of the current call; workers wait for it to change.
    epoch: AtomicU32,
    job: std::cell::UnsafeCell<Option<Job>>,
    /// Workers that have not finished the current call.
    busy: AtomicUsize,
    stop: AtomicBool,
    broken: AtomicBool,
    /// By worker: whether it is parked, or about to be.
    parked: Box<[AtomicBool]>,
    barrier_arrived: AtomicUsize,
    barrier_epoch: AtomicU32,
}

// SAFETY: `job` is written by the caller only while every worker waits for a new epoch (`busy` is 0), and published by
// the release store of `epoch`; all other fields are atomics.
unsafe impl Sync for Shared {}
// SAFETY: the job is `Sync`, so it may be called from any thread.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` workers.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            epoch: AtomicU32::new(0),
            job: std::cell::UnsafeCell::new(None),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            barrier_arrived: AtomicUsize::new(0),
            barrier_epoch: AtomicU32::new(0),
        });
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
        };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            // On failure `pool` is dropped, which stops the workers already started.
            pool.workers.push(
                std::thread::Builder::new()
                    .name(format!("cpu-{thread}"))
                    .spawn(move || work(&shared, thread))?,
            );
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` on every thread and returns when all have finished.
    ///
    /// # Errors
    /// When a thread panicked, now or in an earlier call.
    pub fn run(&mut self, job: &(dyn Fn(&Team<'_>) + Sync)) -> Result<(), Broken> {
        let shared = &*self.shared;
        if shared.broken.load(Ordering::Acquire) {
            return Err(Broken);
        }
        // SAFETY: only the lifetime changes; below, this function does not return before `busy` is 0 again, after
        // which no worker touches the job.
        let erased = unsafe {
            std::mem::transmute::<&(dyn Fn(&Team<'_>) + Sync), &'static (dyn Fn(&Team<'_>) + Sync)>(
                job,
            )
        };
        // SAFETY: every worker waits for the next epoch and reads `job` only after it.
        unsafe { *shared.job.get() = Some(erased) };
        shared.busy.store(shared.threads - 1, Ordering::Relaxed);
        // Sequentially consistent with the `parked` flag: either the worker sees the new epoch before it parks, or we
        // see its flag and wake it.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.run_guarded(erased, 0);
        let mut waiter = Waiter::default();
        while shared.busy.load(Ordering::Acquire) != 0 {
            waiter.pause();
        }
        if shared.broken.load(Ordering::Acquire) {
            return Err(Broken);
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its jobs, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Calls the job; a panic breaks the team, so that nobody waits for this thread.
    fn run_guarded(&self, job: Job, thread: usize) {
        let team = Team {
            shared: self,
            thread,
            threads: self.threads,
        };
        // SAFETY: the job lives until `run` returns, and `run` waits for every thread.
        let job = unsafe { &*job };
        if catch_unwind(AssertUnwindSafe(|| job(&team))).is_err() {
            self.broken.store(true, Ordering::Release);
        }
    }
}

impl Team<'_> {
    /// Returns when all threads of the team have come here. What they wrote before is visible after.
    ///
    /// # Errors
    /// When a thread panicked and will not come.
    pub fn barrier(&self) -> Result<(), Broken> {
        let shared = self.shared;
        if shared.threads == 1 {
            return Ok(());
        }
        let epoch = shared.barrier_epoch.load(Ordering::Acquire);
        if shared.barrier_arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.threads {
            shared.barrier_arrived.store(0, Ordering::Relaxed);
            shared
                .barrier_epoch
                .store(epoch.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        let mut waiter = Waiter::default();
        while shared.barrier_epoch.load(Ordering::Acquire) == epoch {
            if shared.broken.load(Ordering::Acquire) {
                return Err(Broken);
            }
            waiter.pause();
        }
        Ok(())
    }

    /// This thread's contiguous share of `items`, the same for equal arguments.
    pub fn share(&self, items: usize) -> std::ops::Range<usize> {
        share(items, self.thread, self.threads)
    }
}

/// Part `part` of `items` cut into `parts` nearly equal contiguous ranges.
pub(crate) fn share(items: usize, part: usize, parts: usize) -> std::ops::Range<usize> {
    let (each, more) = (items / parts, items % parts);
    let start = part * each + part.min(more);
    start..start + each + usize::from(part < more)
}

/// Spins, then yields.
#[derive(Default)]
struct Waiter {
    rounds: u32,
}

impl Waiter {
    fn pause(&mut self) {
        if self.rounds < BARRIER_SPINS {
            self.rounds += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, thread: usize) {
    let parked = &shared.parked[thread - 1];
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            if spins < IDLE_SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            parked.store(true, Ordering::SeqCst);
            while shared.epoch.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
        seen = shared.epoch.load(Ordering::Acquire);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the caller wrote the job before the epoch that was just acquired, and does not write it again before
        // `busy` is 0.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            shared.run_guarded(job, thread);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_once_a_call_and_meets_at_barriers() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).unwrap();
            let counter = AtomicUsize::new(0);
            for call in 0..200 {
                pool.run(&|team| {
                    for round in 1..=3 {
                        counter.fetch_add(1, Ordering::Relaxed);
                        team.barrier().unwrap();
                        let seen = counter.load(Ordering::Relaxed);
                        assert_eq!(seen, (call * 3 + round) * threads);
                        team.barrier().unwrap();
                    }
                })
                .unwrap();
            }
            assert_eq!(counter.load(Ordering::Relaxed), 600 * threads);
        }
    }

    #[test]
    fn parked_workers_wake() {
        let mut pool = Pool::new(2).unwrap();
        let ran = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            pool.run(&|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert_eq!(ran.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn a_panic_breaks_the_call_instead_of_hanging_it() {
        for panicking in 0..2 {
            let mut pool = Pool::new(2).unwrap();
            let result = pool.run(&|team| {
                assert!(team.thread != panicking, "on purpose");
                let _ = team.barrier();
            });
            assert_eq!(result, Err(Broken));
            assert_eq!(pool.run(&|_| {}), Err(Broken));
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for items in [0, 1, 7, 36, 100] {
            for parts in [1, 2, 3, 16] {
                let all: Vec<usize> = (0..parts).flat_map(|p| share(items, p, parts)).collect();
                assert_eq!(all, (0..items).collect::<Vec<_>>());
            }
        }
    }
}
