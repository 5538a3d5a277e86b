//! The kernels' templates, by name.

/// Every file of `kernels/`, without its extension.
pub const ALL: &[(&str, &str)] = &[
    ("rope_kv", include_str!("../kernels/rope_kv.wgsl")),
    ("cache_chunk", include_str!("../kernels/cache_chunk.wgsl")),
    (
        "attention_split",
        include_str!("../kernels/attention_split.wgsl"),
    ),
    ("call", include_str!("../kernels/call.wgsl")),
    (
        "gemm_epilogue",
        include_str!("../kernels/gemm_epilogue.wgsl"),
    ),
    ("gemm_matrix", include_str!("../kernels/gemm_matrix.wgsl")),
    ("gemm_tiled", include_str!("../kernels/gemm_tiled.wgsl")),
    ("gemm_weights", include_str!("../kernels/gemm_weights.wgsl")),
];
