//! The simulator finds what only running shows, and needs no checker for it.

use super::*;

#[test]
fn the_simulator_finds_what_only_running_shows() {
    caught(
        "a transfer that is missing",
        ONE,
        &[
            (
                "      \"aiex.npu.dma_wait\"() {symbol = @b_in} : () -> ()\n",
                "",
            ),
            (
                "      \"aiex.npu.dma_memcpy_nd\"(%B) {id = 1 : i64, issue_token = true, metadata = @b_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()\n",
                "",
            ),
        ],
        Simulator,
        &[
            "deadlock",
            "the sequence waits",
            "transfer of @c_out",
            "core of tile (0, 2) waits",
            "full elements of @b_core",
            "DMA in of @c_out at shim (0, 0) moved 0 of 4096",
        ],
    );
    caught(
        "a cycle of waits",
        FOUR,
        &[
            // The outputs are waited for before the second column's inputs are even queued.
            (
                "      \"aiex.npu.dma_wait\"() {symbol = @c_out0} : () -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @c_out1} : () -> ()\n",
                "",
            ),
            (
                "      \"aiex.npu.dma_memcpy_nd\"(%B) {id = 2 : i64, metadata = @b_in1",
                "      \"aiex.npu.dma_wait\"() {symbol = @c_out0} : () -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @c_out1} : () -> ()\n      \"aiex.npu.dma_memcpy_nd\"(%B) {id = 2 : i64, metadata = @b_in1",
            ),
        ],
        Simulator,
        &[
            "deadlock",
            "core of tile (1, 2) waits",
            "core of tile (1, 3) waits",
            "full elements of @b1",
        ],
    );
    caught(
        "a core that waits for what it makes itself",
        PARAMETER,
        &[
            (
                "    %parameters",
                "    %ring = \"aie.lock\"(%tile) {lockID = 15 : i32, init = 0 : i32, sym_name = \"ring\"} : (index) -> index\n    %parameters",
            ),
            (
                "        %factor = memref.load",
                "        \"aie.use_lock\"(%ring) {action = 2 : i32, value = 1 : i32} : (index) -> ()\n        %factor = memref.load",
            ),
            (
                "        \"aie.objectfifo.release\"() {objFifo_name = @in",
                "        \"aie.use_lock\"(%ring) {action = 1 : i32, value = 1 : i32} : (index) -> ()\n        \"aie.objectfifo.release\"() {objFifo_name = @in",
            ),
        ],
        Simulator,
        &["deadlock", "core of tile (1, 3) waits", "lock ring to be 1"],
    );
    caught(
        "a result that is never stored",
        ONE,
        &[(
            "            vector.store %sum, %c[%c_at] {alignment = 32 : i64} : memref<1024xi32>, vector<32xi32>\n",
            "",
        )],
        Simulator,
        &["@c_core", "sends byte 0 of element 0", "never written"],
    );
    caught(
        "a result read before it is written",
        FOUR,
        &[(
            "          vector.store %zero, %c[%at] : memref<128xi32>, vector<32xi32>\n",
            "",
        )],
        Simulator,
        &[
            "core of tile (0, 2)",
            "vector.load",
            "reads byte 0",
            "never written",
        ],
    );
    caught(
        "an element used after its release",
        ONE,
        &[
            (RELEASE_A, ""),
            (
                "        scf.for %row = %c0",
                "        \"aie.objectfifo.release\"() {objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> ()\n        scf.for %row = %c0",
            ),
        ],
        Simulator,
        &["vector.load", "element of @a_core that is not acquired"],
    );
    caught(
        "a result written after its release",
        ONE,
        &[
            (RELEASE_C, ""),
            (
                "        scf.for %row = %c0",
                "        \"aie.objectfifo.release\"() {objFifo_name = @c_core, port = 0 : i32, size = 1 : i32} : () -> ()\n        scf.for %row = %c0",
            ),
        ],
        Simulator,
        &["vector.store", "element of @c_core that is not acquired"],
    );
    caught(
        "an index past the element",
        ONE,
        &[("%row = %c0 to %c8", "%row = %c0 to %c32")],
        Simulator,
        &[
            "vector.load",
            "index 1024 of dimension 0 is out of bounds",
            "992",
        ],
    );
    caught(
        "a parameter that is never written",
        PARAMETER,
        &[(
            "      \"aiex.npu.rtp_write\"() {buffer = @parameters, index = 1 : i32, value = 0 : i32} : () -> ()\n",
            "",
        )],
        Simulator,
        &["memref.load", "reads byte 4", "never written"],
    );
    caught(
        "data that is left over",
        ONE,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @b_in} : () -> ()\n",
            "      \"aiex.npu.dma_memcpy_nd\"(%A) {id = 3 : i64, metadata = @a_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @b_in} : () -> ()\n",
        )],
        Simulator,
        &["left over", "@a_core"],
    );
    caught(
        "an output read back too early",
        PARAMETER,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @out} : () -> ()\n",
            "      \"aiex.npu.dma_memcpy_nd\"(%Y) {id = 2 : i64, metadata = @in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, 320>, static_strides = array<i64: 0, 0, 0, 1>} : (memref<5x64xi32>) -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @out} : () -> ()\n",
        )],
        Simulator,
        &["touches byte 0 of buffer 1", "wait for it first"],
    );
    caught(
        "an input that was never written",
        PARAMETER,
        &[
            (
                "\"aiex.npu.dma_memcpy_nd\"(%X)",
                "\"aiex.npu.dma_memcpy_nd\"(%Y)",
            ),
            (
                "\"aiex.npu.dma_memcpy_nd\"(%Y) {id = 1 : i64, issue_token = true, metadata = @out",
                "\"aiex.npu.dma_memcpy_nd\"(%X) {id = 1 : i64, issue_token = true, metadata = @out",
            ),
        ],
        Simulator,
        &["reads byte 0 of buffer 1", "never written"],
    );
    caught(
        "a descriptor used again too early",
        ONE,
        &[(
            "      \"aiex.npu.dma_wait\"() {symbol = @b_in} : () -> ()\n",
            "      \"aiex.npu.dma_memcpy_nd\"(%A) {id = 2 : i64, metadata = @a_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @b_in} : () -> ()\n",
        )],
        Simulator,
        &["takes descriptor 2", "wait for that first"],
    );
    caught(
        "a core that never waits",
        PARAMETER,
        &[(
            "        %factor = memref.load",
            "        scf.for %spin = %c0 to %forever step %c1 {\n        }\n        %factor = memref.load",
        )],
        Simulator,
        &["core of tile (1, 3)", "runs for ever"],
    );
    let five = "      \"aiex.npu.dma_memcpy_nd\"(%X) {id = ID : i64, metadata = @in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, 64>, static_strides = array<i64: 0, 0, 0, 1>} : (memref<5x64xi32>) -> ()\n";
    let many: String = (2..10)
        .map(|id| five.replace("ID", &id.to_string()))
        .collect();
    caught(
        "a queue that is full",
        PARAMETER,
        &[(
            "      \"aiex.npu.dma_memcpy_nd\"(%Y)",
            &format!("{many}      \"aiex.npu.dma_memcpy_nd\"(%Y)"),
        )],
        Simulator,
        &["transfers of @in have not started", "holds 4"],
    );
}

/// What the checker refuses must not run either where running shows it.
#[test]
fn the_simulator_does_not_need_the_checker() {
    for (name, edits, words) in [
        (
            "a release dropped",
            [(RELEASE_A, String::new())],
            "deadlock",
        ),
        (
            "a release twice",
            [(RELEASE_A, RELEASE_A.repeat(2))],
            "releases 1 of @a_core with 0 acquired",
        ),
        (
            "a wait for nothing",
            [(
                "issue_token = true, metadata = @a_in",
                "metadata = @a_in".to_owned(),
            )],
            "waits for @a_in",
        ),
        (
            "a transfer past its buffer",
            [(
                "array<i64: 0, 0, 32, 1>",
                "array<i64: 0, 0, 36, 1>".to_owned(),
            )],
            "out of bounds of a buffer of 1024",
        ),
        (
            "a pattern past the element",
            [(
                "<size = 8, stride = 128>",
                "<size = 8, stride = 256>".to_owned(),
            )],
            "reaches bytes",
        ),
        (
            "an element beyond those acquired",
            [(
                "(%held_b) {index = 0 : i32}",
                "(%held_b) {index = 1 : i32}".to_owned(),
            )],
            "beyond the 1 acquired",
        ),
    ] {
        let edits: Vec<(&str, &str)> = edits
            .iter()
            .map(|(from, to)| (*from, to.as_str()))
            .collect();
        let mut text = edited(name, ONE, &edits);
        if name == "a release dropped" {
            // The first turn gets through; the second finds nothing to acquire.
            text = text.replace(
                "    }) {sym_name = \"sequence\"}",
                "    }) {sym_name = \"sequence\"} : () -> ()\n    \"aie.runtime_sequence\"() ({\n    ^bb0(%A: memref<32x32xi8>, %B: memref<32x32xi8>, %C: memref<32x32xi32>):\n      \"aiex.npu.dma_memcpy_nd\"(%A) {id = 0 : i64, issue_token = true, metadata = @a_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 7, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()\n      \"aiex.npu.dma_wait\"() {symbol = @a_in} : () -> ()\n    }) {sym_name = \"again\"}",
            );
        }
        let module = Module::read(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let error = simulate(&module).expect_err(name);
        assert!(error.contains(words), "{name}: {error}");
    }
}
