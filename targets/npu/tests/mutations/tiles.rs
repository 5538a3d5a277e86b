//! The checker refuses what does not fit a tile.

use super::*;

#[test]
fn the_checker_refuses_what_does_not_fit_a_tile() {
    caught(
        "a FIFO too deep for memory",
        ONE,
        &[(
            "sym_name = \"a_core\", elemNumber = 2 : i32",
            "sym_name = \"a_core\", elemNumber = [2 : i32, 60 : i32]",
        )],
        Checker,
        &[
            "tile (0, 2)",
            "65536",
            "@a_core 60 x 1024",
            "@c_core 2 x 4096",
            "stack 1024",
        ],
    );
    caught(
        "a memory tile that overflows",
        ONE,
        &[(
            "sym_name = \"b_in\", elemNumber = 2 : i32",
            "sym_name = \"b_in\", elemNumber = 520 : i32",
        )],
        Checker,
        &["tile (0, 1)", "memory tile has 524288", "@b_in 520 x 1024"],
    );
    caught(
        "a fifth column",
        FOUR,
        &[(
            "%shim1 = \"aie.tile\"() {col = 1",
            "%shim1 = \"aie.tile\"() {col = 4",
        )],
        Checker,
        &["column 4 is out of range", "4 columns"],
    );
    caught(
        "a second column of a device of one",
        ONE,
        &[(
            "%tile = \"aie.tile\"() {col = 0",
            "%tile = \"aie.tile\"() {col = 1",
        )],
        Checker,
        &["column 1 is out of range", "1 columns"],
    );
    caught(
        "a seventh row",
        ONE,
        &[("row = 2 : i32", "row = 6 : i32")],
        Checker,
        &["row 6 is out of range"],
    );
    caught(
        "another generation's device",
        ONE,
        &[("device = 5 : i32", "device = 10 : i32")],
        Checker,
        &["device 10"],
    );
    caught(
        "no stack size",
        ONE,
        &[("{stack_size = 1024 : i32}", "{}")],
        Checker,
        &["aie.core", "stack_size", "1024"],
    );
    caught(
        "a stack too small",
        ONE,
        &[("stack_size = 1024", "stack_size = 256")],
        Checker,
        &["stack_size 256 is too small", "512"],
    );
    caught(
        "two cores on a tile",
        FOUR,
        &[("\"aie.core\"(%tile01)", "\"aie.core\"(%tile00)")],
        Checker,
        &["tile (0, 2)", "has a core already"],
    );
    caught(
        "a core in a memory tile",
        ONE,
        &[("\"aie.core\"(%tile)", "\"aie.core\"(%memory)")],
        Checker,
        &["row 1 has no cores"],
    );
    caught(
        "a third input of a core",
        PARAMETER,
        &[
            (
                "    \"aie.objectfifo\"(%shim, %tile)",
                "    \"aie.objectfifo\"(%far, %tile) {sym_name = \"x\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<64xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()\n    \"aie.objectfifo\"(%far, %tile) {sym_name = \"y\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<64xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()\n    \"aie.objectfifo\"(%shim, %tile)",
            ),
            (
                "    %parameters",
                "    %far = \"aie.tile\"() {col = 0 : i32, row = 0 : i32} : () -> index\n    %parameters",
            ),
        ],
        Checker,
        &[
            "tile (1, 3)",
            "needs 3 DMA channels in",
            "@x, @y, @in",
            "a core has 2",
        ],
    );
    caught(
        "too many descriptors",
        ONE,
        &[(
            "sym_name = \"a_core\", elemNumber = 2 : i32",
            "sym_name = \"a_core\", elemNumber = [2 : i32, 14 : i32]",
        )],
        Checker,
        &["needs 18 buffer descriptors", "a core has 16"],
    );
    caught(
        "more descriptors than a channel reaches",
        ONE,
        &[(
            "sym_name = \"a_in\", elemNumber = 2 : i32",
            "sym_name = \"a_in\", elemNumber = 12 : i32",
        )],
        Checker,
        &["even DMA channels need", "24 of 48"],
    );
    caught(
        "a program too large",
        ONE,
        &[(
            "%zero = arith.constant dense<0> : vector<32xi32>",
            "%zero = arith.constant dense<0> : vector<32xi32>\n      %huge = arith.constant dense<0> : vector<32768xi32>\n      %more = arith.addi %huge, %huge : vector<32768xi32>",
        )],
        Checker,
        &["estimated at", "16384"],
    );
    caught(
        "a buffer outside the memory",
        PARAMETER,
        &[(
            "{sym_name = \"parameters\"}",
            "{sym_name = \"parameters\", address = 65530 : i32}",
        )],
        Checker,
        &["@parameters", "65530 to 65546", "65536"],
    );
    caught(
        "a buffer in the stack",
        PARAMETER,
        &[(
            "{sym_name = \"parameters\"}",
            "{sym_name = \"parameters\", address = 512 : i32}",
        )],
        Checker,
        &["@parameters", "lies in the stack"],
    );
    caught(
        "a fifth bank",
        PARAMETER,
        &[(
            "{sym_name = \"parameters\"}",
            "{sym_name = \"parameters\", mem_bank = 4 : i32}",
        )],
        Checker,
        &["bank 4", "4 banks"],
    );
    caught(
        "too many locks",
        PARAMETER,
        &[(
            "    %parameters",
            "    %l = \"aie.lock\"(%tile) {lockID = 16 : i32, init = 0 : i32, sym_name = \"l\"} : (index) -> index\n    %parameters",
        )],
        Checker,
        &["aie.lock l", "number 16", "16 locks"],
    );
}
