//! How far the weights are on their way to a GPU: one line on a terminal that is overwritten and then removed.
//!
//! Small loads, which are over before a line could be read, say nothing.

use crate::cli::output;
use gembin_runtime::drivers::vulkan::Progress;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

/// Loads of fewer bytes are not told of.
const WORTH_TELLING: u64 = 512 << 20;

/// Percent shown last, plus one.
static SHOWN: AtomicU64 = AtomicU64::new(0);

/// Shows progress, if there is a terminal to show it on.
pub(crate) fn on_terminal() -> Option<Progress> {
    std::io::stderr().is_terminal().then_some(show)
}

fn show(done: u64, total: u64) {
    if let Some(line) = line(done, total, &SHOWN) {
        output::to_stderr(&line);
    }
}

/// What to write, if the percentage has grown since `shown`.
fn line(done: u64, total: u64, shown: &AtomicU64) -> Option<String> {
    if total < WORTH_TELLING {
        return None;
    }
    if done >= total {
        shown.store(0, Ordering::Relaxed);
        return Some("\r\x1b[K".to_owned());
    }
    let percent = done.saturating_mul(100) / total;
    // Several threads report; the one that raises the mark writes.
    let earlier = shown.fetch_max(percent + 1, Ordering::Relaxed);
    (earlier <= percent)
        .then(|| format!("\rloading weights: {percent}% of {}", output::bytes(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_percent_is_shown_once_and_the_line_is_removed() {
        let shown = AtomicU64::new(0);
        let total = 1 << 30;
        let at = |percent: u64| line(total * percent / 100 + 1, total, &shown);
        assert_eq!(at(1).unwrap(), "\rloading weights: 1% of 1.0 GiB");
        assert_eq!(at(1), None);
        assert_eq!(at(0), None, "a slower thread");
        assert!(at(2).is_some());
        assert_eq!(line(total, total, &shown).unwrap(), "\r\x1b[K");
        assert_eq!(line(5, 10, &shown), None);
    }
}
