//! What went wrong on an NPU, in words, as the drivers' error. Who can act on it, and how, is said in the same line.

use crate::drivers::DriverError;
use std::io;

/// The device's name in errors.
pub(super) const DEVICE: &str = "npu";

/// The NPU cannot be used, for a reason known before any work ran.
pub(super) fn unavailable(reason: impl Into<String>) -> DriverError {
    DriverError::Unavailable {
        device: DEVICE,
        reason: reason.into(),
    }
}

/// Loading failed in a call to the kernel.
pub(super) fn refused(doing: impl std::fmt::Display, error: &io::Error) -> DriverError {
    unavailable(format!("cannot {doing}: {}", explain(error)))
}

/// The NPU failed while it ran `step`.
pub(super) fn failed(step: impl Into<String>, reason: impl Into<String>) -> DriverError {
    DriverError::Failed {
        device: DEVICE,
        step: step.into(),
        reason: reason.into(),
    }
}

/// An error of the kernel in words.
pub(super) fn explain(error: &io::Error) -> String {
    let words = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "no permission; add your user to the group `render` and log in again"
        }
        Some(libc::ENOMEM) => {
            "out of memory, or of memory that may be locked; close other programs, or raise the limit (`ulimit -l`)"
        }
        Some(libc::ENOSPC) => "no room left in the NPU's 64 MiB of instruction memory",
        Some(libc::EAGAIN) => {
            "too little memory may be locked; raise the limit (`ulimit -l`) to 65536 or more"
        }
        Some(libc::ENODEV | libc::ENXIO | libc::EIO) => {
            "the NPU is gone: it was reset or its driver was unloaded; start again, or run with --device cpu"
        }
        Some(libc::EBUSY) => "the NPU is busy; close other programs that use it",
        Some(libc::EOPNOTSUPP) => {
            "the NPU's firmware or its kernel driver does not know how; update linux-firmware and the kernel"
        }
        Some(libc::EINVAL | libc::ENOTTY) => {
            "the kernel's driver refuses; it may be too old, Linux 6.14 is the first that has it"
        }
        _ => return error.to_string(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_can_do_is_said_in_one_line() {
        for code in 1..134 {
            let text = refused("do it", &io::Error::from_raw_os_error(code)).to_string();
            assert!(text.starts_with("npu: cannot do it: "), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert!(explain(&io::Error::from_raw_os_error(libc::EACCES)).contains("group `render`"));
    }
}
