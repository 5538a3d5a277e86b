//! The GPU target: turns lowered programs into dispatches of compute kernels, and makes the kernels.
//!
//! Starts from the processor's steps: they carry each op's meaning with buffers, weights and caches resolved, so the
//! two plans of a bundle agree on where every value lies. Each step becomes one or more dispatches ([`linear`],
//! [`attention`], `rows`); some neighbours become one. Kernels are WGSL templates, compiled by [`kernel`].
//! Knows nothing of Vulkan beyond the limits that every device has.

pub mod attention;
mod bindings;
mod candidates;
mod error;
pub mod gemm;
pub mod kernel;
pub mod linear;
mod lowering;
mod rows;
mod scratch;
mod spirv;
mod templates;
#[cfg(test)]
mod testing;

pub use error::LowerError;
pub use kernel::Guards;
pub use lowering::{Lowered, lower, lower_with};
pub use scratch::IgpuScratch;
pub use spirv::disassemble;
