//! How to run on a GPU: what callers set, and what the environment sets for tests.

use super::instance::Validation;
use super::variants::Variants;
use super::weights::Progress;
use std::path::PathBuf;

/// How to run on a GPU; the defaults are for using it, the rest for tests.
#[derive(Clone, Debug)]
pub struct VulkanOptions {
    /// Which variants of kernels.
    pub variants: Variants,
    /// Checks by the validation layer; whatever it says is an error.
    pub validation: Validation,
    /// Buffers check their bounds, where the GPU can do that: a bundle's kernels are nobody's word. No slower where it
    /// was measured.
    pub robust: bool,
    /// Never import the weights' pages.
    pub no_import: bool,
    /// Upload weights through staging buffers even where memory is shared.
    pub stage_weights: bool,
    /// Multiply-adds of one submit, instead of what suits any GPU.
    pub submit_multiply_adds: Option<u64>,
    /// Where compiled pipelines are kept.
    pub cache: CacheFolder,
    /// Told how much of the weights has been loaded.
    pub progress: Option<Progress>,
}

/// Where compiled pipelines are kept.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum CacheFolder {
    /// `gembin` in the user's cache folder.
    #[default]
    User,
    /// There.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl Default for VulkanOptions {
    fn default() -> Self {
        Self {
            variants: Variants::default(),
            validation: Validation::default(),
            robust: true,
            no_import: false,
            stage_weights: false,
            submit_multiply_adds: None,
            cache: CacheFolder::default(),
            progress: None,
        }
    }
}

impl VulkanOptions {
    /// The options of the environment, for tests: `GEMBIN_VULKAN_VARIANTS` (`best`, `portable` or the name of a
    /// variant), `GEMBIN_VULKAN_VALIDATION` (`1`, or `sync` to check barriers too), `GEMBIN_VULKAN_ROBUST` (`0`: buffers do
    /// not check their bounds).
    ///
    /// # Errors
    /// A value that is none of these.
    pub fn from_environment() -> Result<Self, String> {
        let word = |name: &str| {
            std::env::var_os(name)
                .map(|value| value.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        Ok(Self {
            variants: Variants::from_words(&word("GEMBIN_VULKAN_VARIANTS")),
            validation: match word("GEMBIN_VULKAN_VALIDATION").as_str() {
                "" | "0" => Validation::Off,
                "1" => Validation::Calls,
                "sync" => Validation::Synchronization,
                other => {
                    return Err(format!(
                        "GEMBIN_VULKAN_VALIDATION is {other:?}; it must be 0, 1 or sync"
                    ));
                }
            },
            robust: match word("GEMBIN_VULKAN_ROBUST").as_str() {
                "" | "1" => true,
                "0" => false,
                other => {
                    return Err(format!(
                        "GEMBIN_VULKAN_ROBUST is {other:?}; it must be 0 or 1"
                    ));
                }
            },
            ..Self::default()
        })
    }
}
