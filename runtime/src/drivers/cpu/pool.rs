//! Threads of the CPU driver: persistent workers, one wake a call, and a barrier cheap enough to stand between steps.
//!
//! The caller is thread 0. Work is split statically by the kernels themselves; the pool only starts everybody, lets
//! them meet, and gets everybody back, also when one of them panics. Waiting spins first, because steps last
//! microseconds and sleeping costs more, then yields a few times, and then sleeps until woken: a thread that waits for
//! one that has no core must not keep a core from it. How long it spins is learned from how the last waits ended
//! ([`Patience`]), and a team larger than the machine does not spin at all.

mod futex;

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most rounds of `pause` within a call before a waiting thread sleeps: some ten microseconds, about what falling
/// asleep and waking cost, and below the run of pauses at which a hypervisor takes the core away.
const BARRIER_SPINS: u32 = 2_000;
/// Most rounds of `pause` before an idle worker sleeps: long enough to stay awake while a token is sampled.
const IDLE_SPINS: u32 = 20_000;

/// A team of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The caller's, kept over calls.
    patience: Patience,
}

/// What a thread sees of its team while it works.
pub(crate) struct Team<'a> {
    shared: &'a Shared,
    /// This thread, `0..threads`.
    pub thread: usize,
    /// All threads.
    pub threads: usize,
    /// What the barrier's value was, or will be, once everybody came to the last barrier this thread came to.
    met: Cell<u32>,
    patience: &'a Patience,
}

/// Another thread of the team panicked; whoever sees this returns at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Broken;

/// A call's work, its lifetime erased: `run` returns only when nobody uses it any more.
type Job = *const (dyn Fn(&Team<'_>) + Sync);

struct Shared {
    threads: usize,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    broken: AtomicBool,
    /// Number of the current call; workers wait for it to change.
    epoch: Gate,
    /// Workers that have not finished the current call; the caller waits for 0.
    busy: Gate,
    /// [`ARRIVAL`] for every thread that came to every barrier of this call, and [`BROKEN`].
    barrier: Gate,
}

/// A panicked thread's mark in the barrier's value.
const BROKEN: u32 = 1;
/// What arriving adds to the barrier's value.
const ARRIVAL: u32 = 2;

// SAFETY: `job` is written by the caller only while every worker waits for a new epoch (`busy` is 0), and published by
// the change of `epoch`; all other fields are atomics.
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
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spins = |most| if threads > cores { 0 } else { most };
        let shared = Arc::new(Shared {
            threads,
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            epoch: Gate::default(),
            busy: Gate::default(),
            barrier: Gate::default(),
        });
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
            patience: Patience::new(spins(BARRIER_SPINS)),
        };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let idle = Patience::new(spins(IDLE_SPINS));
            let patience = Patience::new(spins(BARRIER_SPINS));
            // On failure `pool` is dropped, which stops the workers already started.
            pool.workers.push(
                std::thread::Builder::new()
                    .name(format!("cpu-{thread}"))
                    .spawn(move || work(&shared, thread, &idle, &patience))?,
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
        // Nobody looks at these two between calls, and the epoch publishes them.
        shared.barrier.value.store(0, Ordering::Relaxed);
        shared
            .busy
            .value
            .store(shared.threads as u32 - 1, Ordering::Relaxed);
        shared.epoch.value.fetch_add(1, Ordering::SeqCst);
        shared.epoch.wake();
        shared.run_guarded(erased, 0, &self.patience);
        shared.busy.wait(&self.patience, |busy| busy == 0);
        if shared.broken.load(Ordering::Acquire) {
            return Err(Broken);
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.value.fetch_add(1, Ordering::SeqCst);
        self.shared.epoch.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Calls the job; a panic breaks the team, so that nobody waits for this thread.
    fn run_guarded(&self, job: Job, thread: usize, patience: &Patience) {
        let team = Team {
            shared: self,
            thread,
            threads: self.threads,
            met: Cell::new(0),
            patience,
        };
        // SAFETY: the job lives until `run` returns, and `run` waits for every thread.
        let job = unsafe { &*job };
        if catch_unwind(AssertUnwindSafe(|| job(&team))).is_err() {
            self.broken.store(true, Ordering::Release);
            // The mark changes the very value that others sleep on, so it wakes as an arrival does.
            self.barrier.value.fetch_or(BROKEN, Ordering::SeqCst);
            self.barrier.wake();
        }
    }
}

impl Team<'_> {
    /// Returns when all threads of the team have come here. What they wrote before is visible after.
    ///
    /// # Errors
    /// When a thread panicked and will not come.
    pub fn barrier(&self) -> Result<(), Broken> {
        if self.threads == 1 {
            return Ok(());
        }
        // The last arrival is what the others wait for: one change of one cache line by each thread and nothing more.
        // Arrivals only ever add up, wrapping, so a thread that is slow to look cannot miss that all have come: at most
        // the next barrier's arrivals, fewer than a whole team's, have been added since.
        let barrier = &self.shared.barrier;
        let all = ARRIVAL.wrapping_mul(self.threads as u32);
        let met = self.met.get().wrapping_add(all);
        self.met.set(met);
        let mut value = barrier
            .value
            .fetch_add(ARRIVAL, Ordering::SeqCst)
            .wrapping_add(ARRIVAL);
        if value & !BROKEN == met {
            barrier.wake();
        } else {
            value = barrier.wait(self.patience, |value| {
                value & BROKEN != 0 || value.wrapping_sub(met) < all
            });
        }
        if value & BROKEN != 0 {
            return Err(Broken);
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

/// A value that threads wait on. Each has cache lines of its own, two of them, as processors fetch lines in pairs.
///
/// No wake-up is missed. A waker changes `value` (1) and then reads `sleepers` (2); a sleeper adds itself to `sleepers`
/// (3) and then reads `value` (4); all four are sequentially consistent, hence in one order. Either 3 comes before 2,
/// and the waker makes the system call: if the sleeper is asleep by then it wakes, and if not, the system compares
/// `value` with what 4 read, finds it changed by 1 and does not let it sleep. Or 2 comes before 3; then 1 comes before
/// 4, and the sleeper sees the change itself. (`value` would have to change 2^31 times between 4 and falling asleep to
/// look unchanged, but all changes wait for the sleeper after a few.)
#[derive(Default)]
#[repr(align(128))]
struct Gate {
    value: AtomicU32,
    /// Threads that sleep on `value`, or are about to.
    sleepers: AtomicU32,
}

impl Gate {
    /// Wakes the sleepers, after a sequentially consistent change of `value` that they wait for.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            futex::wake_all(&self.value);
        }
    }

    /// Returns the first value seen that is `done`; what was written before it was set is visible.
    fn wait(&self, patience: &Patience, done: impl Fn(u32) -> bool) -> u32 {
        let (mut spins, yields) = patience.spins_and_yields();
        loop {
            let value = self.value.load(Ordering::Acquire);
            if done(value) {
                patience.spun();
                return value;
            }
            if spins == 0 {
                break;
            }
            spins -= 1;
            std::hint::spin_loop();
        }
        if yields != 0 {
            let start = Instant::now();
            for _ in 0..yields {
                std::thread::yield_now();
                let value = self.value.load(Ordering::Acquire);
                if done(value) {
                    patience.yielded(start.elapsed());
                    return value;
                }
            }
        }
        patience.slept();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let value = self.value.load(Ordering::SeqCst);
            if done(value) {
                // Early or late, this only decides whether a needless system call is made.
                self.sleepers.fetch_sub(1, Ordering::Relaxed);
                return value;
            }
            futex::wait(&self.value, value);
        }
    }
}

/// How long a thread spins, and how often it yields, before it sleeps.
///
/// When spinning was in vain, somebody waited for lacks a core, and the spinner may hold it: the next wait spins half as
/// long, but not less than a quarter, because a sleeper that wakes beside a stranger on its core may wait for it for
/// milliseconds, every time.
///
/// A team larger than the machine only yields, which hands the core to the rest of the team in a fraction of a sleep's
/// time. Here too a stranger may take it for milliseconds; then there are no more yields for a while. At the least
/// patience every 32nd wait has all of it, so that a machine that has become quiet is found out.
struct Patience {
    most_spins: u32,
    /// Times that the patience is halved, at most [`Patience::LEAST`].
    halved: Cell<u32>,
    /// Waits at the least patience.
    waits: Cell<u32>,
}

impl Patience {
    const LEAST: u32 = 5;
    const YIELDS: u32 = 8;
    /// Yields that took longer than this gave the core to a stranger.
    const LONG: Duration = Duration::from_micros(500);

    fn new(most_spins: u32) -> Self {
        Self {
            most_spins,
            halved: Cell::new(0),
            waits: Cell::new(0),
        }
    }

    fn spins_and_yields(&self) -> (u32, u32) {
        let halved = self.halved.get();
        if self.most_spins != 0 {
            return (self.most_spins >> halved.min(2), Self::YIELDS);
        }
        if halved < Self::LEAST {
            return (0, Self::YIELDS >> (halved / 2));
        }
        self.waits.set(self.waits.get().wrapping_add(1));
        let whole = self.waits.get().is_multiple_of(32);
        (0, if whole { Self::YIELDS } else { 0 })
    }

    fn spun(&self) {
        // Without spinning, to have come last or late says nothing.
        if self.most_spins != 0 {
            self.halved.set(0);
        }
    }

    fn yielded(&self, time: Duration) {
        self.halved.set(if time > Self::LONG {
            Self::LEAST
        } else {
            self.halved.get().saturating_sub(1)
        });
    }

    fn slept(&self) {
        self.halved.set((self.halved.get() + 1).min(Self::LEAST));
    }
}

/// A worker's life.
fn work(shared: &Shared, thread: usize, idle: &Patience, patience: &Patience) {
    let mut seen = 0;
    loop {
        seen = shared.epoch.wait(idle, |epoch| epoch != seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the caller wrote the job before the epoch that was just acquired, and does not write it again before
        // `busy` is 0.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            shared.run_guarded(job, thread, patience);
        }
        if shared.busy.value.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.busy.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

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
            std::thread::sleep(Duration::from_millis(30));
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
    fn many_short_barriers_pass_with_few_or_many_threads() {
        // 33 threads are more than most machines have cores: every wait sleeps.
        for (threads, rounds) in [(2, 20_000), (3, 5_000), (33, 300)] {
            let mut pool = Pool::new(threads).unwrap();
            let seen: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..3 {
                seen.iter().for_each(|own| own.store(0, Ordering::Relaxed));
                pool.run(&|team| {
                    for round in 1..=rounds {
                        seen[team.thread].store(round, Ordering::Relaxed);
                        team.barrier().unwrap();
                        // The neighbour wrote this round's number and may be at most one ahead.
                        let next = &seen[(team.thread + 1) % team.threads];
                        let next = next.load(Ordering::Relaxed);
                        assert!(next == round || next == round + 1, "{next} in {round}");
                    }
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn barriers_pass_whether_waits_spin_or_sleep() {
        // One thread comes late by turns: by nothing, by less than the spinning lasts, by much more.
        let mut pool = Pool::new(2).unwrap();
        let delays = [0, 0, 3, 20, 45, 60, 300, 2_000].map(Duration::from_micros);
        let turn = AtomicUsize::new(0);
        pool.run(&|team| {
            for round in 0..400 {
                if round % 2 == team.thread {
                    let start = Instant::now();
                    while start.elapsed() < delays[round / 2 % delays.len()] {
                        std::hint::spin_loop();
                    }
                    turn.store(round, Ordering::Relaxed);
                }
                team.barrier().unwrap();
                assert_eq!(turn.load(Ordering::Relaxed), round);
                team.barrier().unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn a_panic_wakes_sleepers() {
        for threads in [2, 9] {
            let mut pool = Pool::new(threads).unwrap();
            let told = AtomicUsize::new(0);
            let result = pool.run(&|team| {
                team.barrier().unwrap();
                if team.thread == 1 {
                    std::thread::sleep(Duration::from_millis(20));
                    panic!("on purpose");
                }
                assert_eq!(team.barrier(), Err(Broken));
                assert_eq!(team.barrier(), Err(Broken));
                told.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(result, Err(Broken));
            assert_eq!(told.into_inner(), threads - 1);
        }
    }

    #[test]
    fn barriers_outlast_the_wrap_of_their_count() {
        let mut pool = Pool::new(3).unwrap();
        pool.run(&|team| {
            // As if nearly 2^31 arrivals lay behind: two barriers are left before the sum wraps.
            let start = 0u32.wrapping_sub(6 * ARRIVAL);
            if team.thread == 0 {
                team.shared.barrier.value.fetch_add(start, Ordering::SeqCst);
            }
            while team.shared.barrier.value.load(Ordering::SeqCst) < start {
                std::thread::yield_now();
            }
            team.met.set(start);
            for _ in 0..10 {
                team.barrier().unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn spinning_in_vain_makes_it_shorter_until_it_helps() {
        let patience = Patience::new(4_000);
        for spins in [4_000, 2_000, 1_000, 1_000] {
            assert_eq!(patience.spins_and_yields(), (spins, 8));
            patience.slept();
        }
        patience.spun();
        assert_eq!(patience.spins_and_yields(), (4_000, 8));
    }

    #[test]
    fn yielding_in_vain_ends_and_is_tried_again() {
        let patience = Patience::new(0);
        let mut waits = Vec::new();
        for _ in 0..37 {
            waits.push(patience.spins_and_yields());
            patience.slept();
        }
        assert_eq!(waits[..5], [(0, 8), (0, 8), (0, 4), (0, 4), (0, 2)]);
        assert!(waits[5..36].iter().all(|&wait| wait == (0, 0)));
        assert_eq!(waits[36], (0, 8));
        patience.yielded(Duration::ZERO);
        assert_eq!(patience.spins_and_yields(), (0, 2));
        patience.spun();
        assert_eq!(patience.spins_and_yields(), (0, 2));
        patience.yielded(Duration::from_millis(3));
        assert_eq!(patience.spins_and_yields(), (0, 0));
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
