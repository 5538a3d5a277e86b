//! The checker refuses transfers that shims cannot do.

use super::*;

#[test]
fn the_checker_refuses_transfers_that_shims_cannot_do() {
    caught(
        "a sixth buffer argument",
        ONE,
        &[(
            "%C: memref<32x32xi32>)",
            "%C: memref<32x32xi32>, %D: memref<4xi8>, %E: memref<4xi8>, %F: memref<4xi8>)",
        )],
        Checker,
        &["takes 6 buffer arguments", "has 5"],
    );
    caught(
        "an id of 16",
        ONE,
        &[("{id = 1 : i64", "{id = 16 : i64")],
        Checker,
        &["@b_in", "id 16", "16 descriptors"],
    );
    caught(
        "an id used twice",
        ONE,
        &[("{id = 1 : i64", "{id = 0 : i64")],
        Checker,
        &["@b_in", "id 0 is used again"],
    );
    caught(
        "no token to wait for",
        ONE,
        &[("{id = 0 : i64, issue_token = true, ", "{id = 0 : i64, ")],
        Checker,
        &["dma_wait of @a_in", "issue_token"],
    );
    caught(
        "an output that nobody waits for",
        ONE,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @c_out} : () -> ()\n",
            "",
        )],
        Checker,
        &["without waiting for the output of @c_out"],
    );
    caught(
        "a wait too many",
        ONE,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @c_out} : () -> ()\n",
            "      \"aiex.npu.dma_wait\"() {symbol = @c_out} : () -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @c_out} : () -> ()\n",
        )],
        Checker,
        &["dma_wait of @c_out", "no transfer is under way"],
    );
    caught(
        "a transfer past its buffer",
        ONE,
        &[(
            "static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>)",
            "static_strides = array<i64: 0, 0, 36, 1>} : (memref<32x32xi8>)",
        )],
        Checker,
        &["@a_in", "reaches element 1147", "1024"],
    );
    caught(
        "an offset without a stride",
        ONE,
        &[(
            "static_offsets = array<i64: 0, 0, 0, 0>",
            "static_offsets = array<i64: 0, 1, 0, 0>",
        )],
        Checker,
        &["@a_in", "offset 1 counts for nothing"],
    );
    caught(
        "an offset of 2 bytes",
        ONE,
        &[(
            "static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>",
            "static_offsets = array<i64: 0, 0, 0, 2>, static_sizes = array<i64: 1, 1, 32, 28>",
        )],
        Checker,
        &["@a_in", "starts at byte 2"],
    );
    caught(
        "runs of 2 bytes",
        ONE,
        &[
            (
                "static_sizes = array<i64: 1, 1, 32, 32>",
                "static_sizes = array<i64: 1, 16, 32, 2>",
            ),
            (
                "static_strides = array<i64: 0, 0, 32, 1>",
                "static_strides = array<i64: 0, 2, 32, 1>",
            ),
        ],
        Checker,
        &["innermost runs of 2 bytes", "stride of 2 bytes"],
    );
    caught(
        "65 steps with a stride",
        PARAMETER,
        &[(
            "static_sizes = array<i64: 1, 1, 1, 320>, static_strides = array<i64: 0, 0, 0, 1>",
            "static_sizes = array<i64: 80, 1, 1, 4>, static_strides = array<i64: 4, 0, 0, 1>",
        )],
        Checker,
        &["outermost size of 80", "64"],
    );
    caught(
        "a parameter out of bounds",
        PARAMETER,
        &[("index = 1 : i32, value = 0", "index = 4 : i32, value = 0")],
        Checker,
        &["rtp_write of @parameters", "word 4", "of 4"],
    );
    caught(
        "half an element",
        ONE,
        &[(
            "static_sizes = array<i64: 1, 1, 32, 32>",
            "static_sizes = array<i64: 1, 1, 16, 32>",
        )],
        Checker,
        &["@a_in", "512 bytes", "1024"],
    );
    caught(
        "a FIFO without a shim",
        ONE,
        &[("metadata = @a_in", "metadata = @a_core")],
        Checker,
        &["@a_core", "no end at a shim"],
    );
    caught(
        "a token that nobody takes",
        ONE,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @a_in} : () -> ()\n",
            "",
        )],
        Checker,
        &["1 tokens of @a_in are never taken"],
    );
}
