//! How to run on an NPU.

use super::power::PowerMode;
use std::time::Duration;

/// How to run on an NPU; the defaults are for using it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XdnaOptions {
    /// The power mode to set; `None`: leave it as it is.
    pub power_mode: Option<PowerMode>,
    /// How long one command may take.
    pub timeout: Duration,
    /// Never import the weights' pages.
    pub no_import: bool,
}

impl Default for XdnaOptions {
    fn default() -> Self {
        Self {
            power_mode: None,
            // Longer than the kernel's driver waits before it resets the array, which tells more.
            timeout: Duration::from_secs(10),
            no_import: false,
        }
    }
}
