//! The checker refuses programs that misuse FIFOs or do not lower.

use super::*;

#[test]
fn the_checker_refuses_programs_that_misuse_fifos() {
    caught(
        "a release dropped",
        ONE,
        &[(RELEASE_A, "")],
        Checker,
        &[
            "a turn of `scf.for`",
            "0 elements of @a_core",
            "ends with 1",
        ],
    );
    caught(
        "a release twice",
        ONE,
        &[(RELEASE_A, &RELEASE_A.repeat(2))],
        Checker,
        &["releases 1 elements of @a_core with 0 acquired"],
    );
    caught(
        "an acquire beyond the depth",
        ONE,
        &[
            (
                "sym_name = \"a_core\", elemNumber = 2 : i32",
                "sym_name = \"a_core\", elemNumber = [2 : i32, 2 : i32]",
            ),
            (
                "objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> !aie",
                "objFifo_name = @a_core, port = 1 : i32, size = 3 : i32} : () -> !aie",
            ),
            (
                "objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> ()",
                "objFifo_name = @a_core, port = 1 : i32, size = 3 : i32} : () -> ()",
            ),
        ],
        Checker,
        &["acquires 3 elements of @a_core", "depth here is 2"],
    );
    caught(
        "the wrong side of a FIFO",
        ONE,
        &[(
            "objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> !aie",
            "objFifo_name = @a_core, port = 0 : i32, size = 1 : i32} : () -> !aie",
        )],
        Checker,
        &["acquires @a_core to produce", "not at that side"],
    );
    caught(
        "another core's FIFO",
        FOUR,
        &[(
            "objFifo_name = @a0, port = 1",
            "objFifo_name = @a1, port = 1",
        )],
        Checker,
        &["tile (0, 2)", "acquires @a1 to consume", "not at that side"],
    );
    caught(
        "an element beyond those acquired",
        ONE,
        &[("(%held_b) {index = 0 : i32}", "(%held_b) {index = 1 : i32}")],
        Checker,
        &["accesses element 1 of 1"],
    );
    caught(
        "a product that the matrix unit has not",
        ONE,
        &[
            (
                "vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>",
                "vector.shape_cast %a_line : vector<32xi8> to vector<2x16xi8>",
            ),
            (
                "vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>",
                "vector.shape_cast %b_line : vector<64xi8> to vector<16x4xi8>",
            ),
            (
                "arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>",
                "arith.extsi %a_tile : vector<2x16xi8> to vector<2x16xi32>",
            ),
            (
                "arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>",
                "arith.extsi %b_tile : vector<16x4xi8> to vector<16x4xi32>",
            ),
            (
                "%sum_tile = vector.shape_cast %before : vector<32xi32> to vector<4x8xi32>",
                "%sum_tile = arith.constant dense<0> : vector<2x4xi32>",
            ),
            (
                ": vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>",
                ": vector<2x16xi32>, vector<16x4xi32> into vector<2x4xi32>",
            ),
            (
                "vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>",
                "arith.constant dense<0> : vector<32xi32>",
            ),
        ],
        Checker,
        &["vector.contract", "2x16x4", "4x8x8"],
    );
    caught(
        "a window that is not contiguous",
        ONE,
        &[
            (
                "!aie.objectfifosubview<memref<1024xi8>>\n        %a = \"aie.objectfifo.subview.access\"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<1024xi8>>) -> memref<1024xi8>",
                "!aie.objectfifosubview<memref<32x32xi8>>\n        %a = \"aie.objectfifo.subview.access\"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<32x32xi8>>) -> memref<32x32xi8>",
            ),
            (
                "%a_line = vector.load %a[%a_at] {alignment = 32 : i64} : memref<1024xi8>, vector<32xi8>",
                "%outside = arith.constant 0 : i8\n              %a_tile = vector.transfer_read %a[%c0, %c0], %outside {in_bounds = [true, true]} : memref<32x32xi8>, vector<4x8xi8>",
            ),
            (
                "              %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>\n",
                "",
            ),
            (
                "sym_name = \"a_core\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi8>>",
                "sym_name = \"a_core\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<32x32xi8>>",
            ),
        ],
        Checker,
        &["vector.transfer_read", "not contiguous"],
    );
    caught(
        "a function that does not exist",
        PARAMETER,
        &[("func.call @apply", "func.call @supply")],
        Checker,
        &["@supply", "does not exist"],
    );
    caught(
        "a loop of unknown turns",
        FOUR,
        &[
            (
                "      %zero = arith.constant dense<0> : vector<32xi32>\n",
                "      %zero = arith.constant dense<0> : vector<32xi32>\n      %parts = arith.addi %c1, %c1 : index\n",
            ),
            ("%part = %c0 to %c2", "%part = %c0 to %parts"),
        ],
        Checker,
        &["turns @a0, @b0 over", "dynamic_objfifo_lowering"],
    );
    caught(
        "an element left out of every turn",
        FOUR,
        &[("%part = %c0 to %c2", "%part = %c0 to %c1")],
        Checker,
        &[
            "takes 1 of the 2 elements of @a0",
            "begins at the first again",
        ],
    );
}
