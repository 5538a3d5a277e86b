//! What went wrong on a GPU, in words, as the drivers' error. Who can act on it, and how, is said in the same line.

use crate::drivers::DriverError;
use ash::vk;

/// The device's name in errors.
pub(super) const DEVICE: &str = "vulkan";

/// The GPU cannot be used, for a reason known before any work ran.
pub(super) fn unavailable(reason: impl Into<String>) -> DriverError {
    DriverError::Unavailable {
        device: DEVICE,
        reason: reason.into(),
    }
}

/// Loading failed in a call of Vulkan.
pub(super) fn refused(doing: &str, result: vk::Result) -> DriverError {
    unavailable(format!("cannot {doing}: {}", explain(result)))
}

/// The GPU failed while it ran `step`.
pub(super) fn failed(step: impl Into<String>, reason: impl Into<String>) -> DriverError {
    DriverError::Failed {
        device: DEVICE,
        step: step.into(),
        reason: reason.into(),
    }
}

/// A result code in words.
pub(super) fn explain(result: vk::Result) -> String {
    let words = match result {
        vk::Result::ERROR_OUT_OF_HOST_MEMORY => "out of memory",
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            "the GPU has too little free memory; close other programs, take a smaller bundle, or run with --device cpu"
        }
        vk::Result::ERROR_INITIALIZATION_FAILED => "the GPU's driver failed to start",
        vk::Result::ERROR_DEVICE_LOST => {
            "the GPU was lost: it hung, was reset or was taken away; start again, or run with --device cpu"
        }
        vk::Result::ERROR_MEMORY_MAP_FAILED => "the GPU's memory cannot be mapped",
        vk::Result::ERROR_LAYER_NOT_PRESENT => "the validation layer is not installed",
        vk::Result::ERROR_EXTENSION_NOT_PRESENT => "the GPU's driver lacks an extension",
        vk::Result::ERROR_FEATURE_NOT_PRESENT => "the GPU lacks a feature",
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => {
            "no Vulkan driver is installed; install the GPU's (Debian: mesa-vulkan-drivers)"
        }
        vk::Result::ERROR_TOO_MANY_OBJECTS => "too many objects",
        vk::Result::ERROR_OUT_OF_POOL_MEMORY => "out of descriptors",
        vk::Result::ERROR_INVALID_EXTERNAL_HANDLE => "the memory cannot be imported",
        other => return format!("Vulkan error {}", other.as_raw()),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_can_do_is_said() {
        let text = refused("allocate 5 bytes", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY).to_string();
        assert!(
            text.starts_with("vulkan: cannot allocate 5 bytes: the GPU has too little free memory"),
            "{text}"
        );
        assert_eq!(explain(vk::Result::from_raw(-77)), "Vulkan error -77");
    }
}
