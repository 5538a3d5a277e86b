//! The kernels' templates, by name.

/// Every file of `kernels/`, without its extension.
pub const ALL: &[(&str, &str)] = &[("call", include_str!("../kernels/call.wgsl"))];
