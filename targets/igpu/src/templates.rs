//! The kernels' templates, by name.

/// Every file of `kernels/`, without its extension.
pub const ALL: &[(&str, &str)] = &[
    ("rope_kv", include_str!("../kernels/rope_kv.wgsl")),
    ("cache_chunk", include_str!("../kernels/cache_chunk.wgsl")),
    (
        "attention_matrix",
        include_str!("../kernels/attention_matrix.wgsl"),
    ),
    (
        "attention_split",
        include_str!("../kernels/attention_split.wgsl"),
    ),
    (
        "attention_tile",
        include_str!("../kernels/attention_tile.wgsl"),
    ),
    ("candidates", include_str!("../kernels/candidates.wgsl")),
    (
        "candidates_merge",
        include_str!("../kernels/candidates_merge.wgsl"),
    ),
    (
        "candidates_rank",
        include_str!("../kernels/candidates_rank.wgsl"),
    ),
    ("tile_of_rows", include_str!("../kernels/tile_of_rows.wgsl")),
    ("call", include_str!("../kernels/call.wgsl")),
    (
        "gemm_epilogue",
        include_str!("../kernels/gemm_epilogue.wgsl"),
    ),
    ("gemm_int8", include_str!("../kernels/gemm_int8.wgsl")),
    ("gemm_matrix", include_str!("../kernels/gemm_matrix.wgsl")),
    ("gemm_sums", include_str!("../kernels/gemm_sums.wgsl")),
    ("gemm_tiled", include_str!("../kernels/gemm_tiled.wgsl")),
    ("gemm_weights", include_str!("../kernels/gemm_weights.wgsl")),
    ("embed", include_str!("../kernels/embed.wgsl")),
    ("finish", include_str!("../kernels/finish.wgsl")),
    ("gemv", include_str!("../kernels/gemv.wgsl")),
    ("gemv_rows", include_str!("../kernels/gemv_rows.wgsl")),
    ("int8_groups", include_str!("../kernels/int8_groups.wgsl")),
    ("lanes", include_str!("../kernels/lanes.wgsl")),
    ("prepare", include_str!("../kernels/prepare.wgsl")),
    ("prologue", include_str!("../kernels/prologue.wgsl")),
    ("prologue_row", include_str!("../kernels/prologue_row.wgsl")),
    ("rope_table", include_str!("../kernels/rope_table.wgsl")),
    ("select_rows", include_str!("../kernels/select_rows.wgsl")),
    ("turns", include_str!("../kernels/turns.wgsl")),
    ("unit", include_str!("../kernels/unit.wgsl")),
];
