//! Ctrl-C (and SIGTERM, SIGHUP): the first press asks the command to stop at the next token, the second one kills.
//! Files that grow past the shell's limit are errors of writing, not the death of the program.

use crate::cli::{output, output_file};
use anyhow::Context;
use gembin_runtime::drivers;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// 128 + SIGINT, what a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

static PRESSES: AtomicU32 = AtomicU32::new(0);
/// Nothing is running that could be stopped half-way: a press ends the program.
static IDLE: AtomicBool = AtomicBool::new(false);

/// Starts listening.
pub(crate) fn install() -> anyhow::Result<()> {
    // A write past `ulimit -f` then fails with EFBIG, and the command can tell of it and tidy up.
    // SAFETY: ignoring a signal installs no handler and touches no memory.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    ctrlc::set_handler(|| {
        let earlier = PRESSES.fetch_add(1, Ordering::Relaxed);
        let is_idle = IDLE.load(Ordering::Relaxed);
        if is_idle && std::io::stderr().is_terminal() {
            output::to_stderr("\n");
        }
        if is_idle || earlier > 0 {
            output_file::remove_unfinished();
            drivers::drain();
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

/// While `wait` runs, which waits for the user or only reads, a press ends the program at once.
pub(crate) fn while_idle<T>(wait: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::Relaxed);
    let result = wait();
    IDLE.store(false, Ordering::Relaxed);
    result
}
