//! Blocking on a 32-bit word: the futex of Linux, and the same contract over a condition variable elsewhere.
//!
//! Not a lock and not a counter of sleepers: who sleeps, and when it is worth a system call to wake them, is the
//! caller's business.

#[cfg(target_os = "linux")]
pub(super) use linux::{wait, wake_all};
#[cfg(not(target_os = "linux"))]
pub(super) use portable::{wait, wake_all};

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::AtomicU32;

    /// Sleeps until woken if `word` still is `value`. May return at any time without cause.
    ///
    /// The comparison and going to sleep are one step to [`wake_all`]: a change of the word followed by a wake either
    /// is seen here or finds the sleeper.
    pub(in super::super) fn wait(word: &AtomicU32, value: u32) {
        // SAFETY: the word is valid for the length of the call; no timeout is given. Whatever the call says (the word
        // differs, a signal came), the caller looks at the word again.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                value,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }

    /// Wakes everybody who sleeps on `word`.
    pub(in super::super) fn wake_all(word: &AtomicU32) {
        // SAFETY: the call takes the address as a name and touches no memory.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            );
        }
    }
}

#[cfg(any(test, not(target_os = "linux")))]
mod portable {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Condvar, Mutex, PoisonError};

    /// One bed for all words: whoever is woken for another word's sake sleeps again.
    static LOCK: Mutex<()> = Mutex::new(());
    static CHANGED: Condvar = Condvar::new();

    /// Sleeps until woken if `word` still is `value`. May return at any time without cause.
    ///
    /// The comparison is made under the lock that [`wake_all`] takes after the word has changed.
    pub(in super::super) fn wait(word: &AtomicU32, value: u32) {
        let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        if word.load(Ordering::SeqCst) == value {
            drop(CHANGED.wait(guard));
        }
    }

    /// Wakes everybody who sleeps on `word`.
    pub(in super::super) fn wake_all(_word: &AtomicU32) {
        drop(LOCK.lock());
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    type Wait = fn(&AtomicU32, u32);
    type Wake = fn(&AtomicU32);
    const BOTH: [(Wait, Wake); 2] = [
        (super::wait, super::wake_all),
        (super::portable::wait, super::portable::wake_all),
    ];

    #[test]
    fn a_changed_word_does_not_let_sleep() {
        for (wait, _) in BOTH {
            wait(&AtomicU32::new(1), 0);
        }
    }

    #[test]
    fn sleepers_wake_and_do_not_spin() {
        for (wait, wake_all) in BOTH {
            let word = AtomicU32::new(0);
            let returns = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while word.load(Ordering::SeqCst) == 0 {
                            wait(&word, 0);
                            returns.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(50) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                word.store(1, Ordering::SeqCst);
                wake_all(&word);
            });
            let returns = returns.into_inner();
            assert!(returns < 100, "{returns} returns in 50 ms");
        }
    }
}
