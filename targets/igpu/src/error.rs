//! Why a program has no form for the GPU.

/// Why lowering failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// A kernel of this crate is wrong.
    #[error("kernel {kernel:?}, variant {variant}: {what}")]
    Kernel {
        /// The kernel.
        kernel: String,
        /// The variant.
        variant: &'static str,
        /// What naga or the template engine says.
        what: String,
    },
    /// A step that has no kernel, with these shapes or at all.
    #[error("{step}: {what}")]
    Unsupported {
        /// The step's label.
        step: String,
        /// What there is no kernel for.
        what: String,
    },
}
