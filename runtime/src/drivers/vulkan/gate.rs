//! Keeps the process from ending while a GPU works for it: a process that dies in mid-submit can wedge an integrated
//! GPU until the machine is started again.
//!
//! Submits are counted for the whole process. Whoever ends it without unwinding calls [`close`] first, which stops new
//! submits and waits for those under way.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest wait for work under way when the process ends.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

static GATE: Gate = Gate::new();

struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Calls of drivers whose work is under way.
    busy: usize,
    closed: bool,
}

/// A driver's work under way, until dropped.
pub(super) struct Busy {
    gate: &'static Gate,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.gate.lock().busy -= 1;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                busy: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&'static self) -> Busy {
        let mut state = self.lock();
        // The process is about to end: there is nothing to come back for.
        while state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        Busy { gate: self }
    }

    fn close(&self, longest: Duration) -> bool {
        let mut state = self.lock();
        state.closed = true;
        let (state, _) = self
            .changed
            .wait_timeout_while(state, longest, |state| state.busy > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.busy == 0
    }
}

/// Says that work is about to be submitted. Never returns once the process is ending.
pub(super) fn enter() -> Busy {
    GATE.enter()
}

/// Lets no more work be submitted and waits until what was is done, for a bounded time. The process must end after it.
pub fn close() {
    GATE.close(LONGEST_DRAIN);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn closing_waits_for_what_is_under_way_and_lets_nothing_in_after_it() {
        static LOCAL: Gate = Gate::new();
        static ENTERED: AtomicBool = AtomicBool::new(false);
        let busy = LOCAL.enter();
        assert!(!LOCAL.close(Duration::from_millis(1)), "still busy");
        std::thread::spawn(|| {
            let _busy = LOCAL.enter();
            ENTERED.store(true, Ordering::Relaxed);
        });
        let closing = std::thread::spawn(|| LOCAL.close(Duration::from_secs(60)));
        drop(busy);
        assert!(closing.join().unwrap(), "drained");
        assert!(!ENTERED.load(Ordering::Relaxed));
    }
}
