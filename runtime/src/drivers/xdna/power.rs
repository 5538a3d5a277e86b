//! Power modes of an NPU: names as its vendor's tool has them, and the kernel's numbers.

use super::uapi;
use std::fmt;
use std::str::FromStr;

/// How much power the NPU may take. One mode holds for the whole NPU and every program that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerMode {
    /// As the kernel's driver sees fit.
    Default,
    /// The lowest clock.
    PowerSaver,
    /// A clock in between.
    Balanced,
    /// The highest clock.
    Performance,
    /// The highest clock, held without pause.
    Turbo,
}

impl PowerMode {
    /// Every mode, from the kernel's number 0 on.
    pub const ALL: [PowerMode; 5] = [
        PowerMode::Default,
        PowerMode::PowerSaver,
        PowerMode::Balanced,
        PowerMode::Performance,
        PowerMode::Turbo,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            PowerMode::Default => "default",
            PowerMode::PowerSaver => "powersaver",
            PowerMode::Balanced => "balanced",
            PowerMode::Performance => "performance",
            PowerMode::Turbo => "turbo",
        }
    }

    /// The kernel's number.
    pub(super) fn number(self) -> u8 {
        match self {
            PowerMode::Default => uapi::POWER_DEFAULT,
            PowerMode::PowerSaver => uapi::POWER_LOW,
            PowerMode::Balanced => uapi::POWER_MEDIUM,
            PowerMode::Performance => uapi::POWER_HIGH,
            PowerMode::Turbo => uapi::POWER_TURBO,
        }
    }

    /// The mode of a number of the kernel's.
    pub(super) fn of_number(number: u8) -> Option<PowerMode> {
        PowerMode::ALL
            .into_iter()
            .find(|mode| mode.number() == number)
    }
}

impl fmt::Display for PowerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PowerMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PowerMode::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| {
                let names = PowerMode::ALL.map(PowerMode::name).join(", ");
                format!("it must be one of {names}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_back_and_forth() {
        for mode in PowerMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(PowerMode::of_number(mode.number()), Some(mode));
        }
        assert_eq!(PowerMode::of_number(9), None);
        assert!("fast".parse::<PowerMode>().unwrap_err().contains("turbo"));
    }
}
