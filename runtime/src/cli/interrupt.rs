//! Ctrl-C (and SIGTERM, SIGHUP): the first press asks the command to stop at the next token, the second one kills.

use crate::cli::output;
use anyhow::Context;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// 128 + SIGINT, what a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

static PRESSES: AtomicU32 = AtomicU32::new(0);
/// Nothing is running: a press ends the program.
static IDLE: AtomicBool = AtomicBool::new(false);

/// Starts listening.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let earlier = PRESSES.fetch_add(1, Ordering::Relaxed);
        if IDLE.load(Ordering::Relaxed) {
            output::to_stderr("\n");
            std::process::exit(EXIT_CODE.into());
        }
        if earlier > 0 {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user wants the command to stop.
pub(crate) fn requested() -> bool {
    PRESSES.load(Ordering::Relaxed) > 0
}

/// Forgets earlier presses: the next piece of work starts fresh.
pub(crate) fn clear() {
    PRESSES.store(0, Ordering::Relaxed);
}

/// While `wait` runs, waiting for the user, a press ends the program at once.
pub(crate) fn while_idle<T>(wait: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::Relaxed);
    let result = wait();
    IDLE.store(false, Ordering::Relaxed);
    result
}
