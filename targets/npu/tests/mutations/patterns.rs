//! The checker refuses FIFOs, links and patterns that the hardware cannot do.

use super::*;

#[test]
fn the_checker_refuses_patterns_that_descriptors_cannot_do() {
    let stride = |to: &'static str| [("<size = 8, stride = 128>, <size = 4, stride = 8>", to)];
    caught(
        "a stride of 2 bytes",
        ONE,
        &stride("<size = 8, stride = 128>, <size = 4, stride = 2>"),
        Checker,
        &["@a_core", "to the stream", "2 bytes is no multiple of 4"],
    );
    caught(
        "a stride of 0",
        ONE,
        &stride("<size = 8, stride = 128>, <size = 4, stride = 0>"),
        Checker,
        &["@a_core", "a stride of 0"],
    );
    caught(
        "a stride too long",
        ONE,
        &stride("<size = 8, stride = 128>, <size = 4, stride = 600000>"),
        Checker,
        &["@a_core", "150000 words", "131071"],
    );
    caught(
        "a pattern past the element",
        ONE,
        &stride("<size = 8, stride = 256>, <size = 4, stride = 8>"),
        Checker,
        &["@a_core", "reach element", "of 1024"],
    );
    caught(
        "a pattern that leaves some out",
        ONE,
        &stride("<size = 7, stride = 128>, <size = 4, stride = 8>"),
        Checker,
        &["@a_core", "make 896 elements", "1024"],
    );
    caught(
        "five dimensions",
        ONE,
        &stride("<size = 2, stride = 512>, <size = 4, stride = 128>, <size = 4, stride = 8>"),
        Checker,
        &["@a_core", "5 dimensions", "have 4"],
    );
    caught(
        "an inner run of 2 bytes",
        ONE,
        &[(
            "<size = 4, stride = 32>, <size = 8, stride = 1>",
            "<size = 16, stride = 32>, <size = 2, stride = 1>",
        )],
        Checker,
        &["@a_core", "innermost runs of 2 bytes"],
    );
    caught(
        "an inner stride of 2",
        ONE,
        &[(
            "<size = 4, stride = 32>, <size = 8, stride = 1>",
            "<size = 4, stride = 32>, <size = 8, stride = 2>",
        )],
        Checker,
        &["@a_core", "innermost stride of 2"],
    );
    caught(
        "dimensions at a shim",
        ONE,
        &[(
            "elemType = !aie.objectfifo<memref<32x32xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>",
            "elemType = !aie.objectfifo<memref<32x32xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 1024, stride = 1>]>",
        )],
        Checker,
        &["@a_in", "a shim's end takes no dimensions"],
    );
    caught(
        "a core's pattern of four dimensions",
        ONE,
        &[(
            "sym_name = \"c_core\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>",
            "sym_name = \"c_core\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 4, stride = 256>, <size = 4, stride = 64>, <size = 8, stride = 8>, <size = 8, stride = 1>]>",
        )],
        Checker,
        &["@c_core", "4 dimensions", "have 3"],
    );
    caught(
        "a link of elements that do not divide",
        ONE,
        &[(
            "elemType = !aie.objectfifo<memref<32x32xi8>>",
            "elemType = !aie.objectfifo<memref<25x32xi8>>",
        )],
        Checker,
        &[
            "aie.objectfifo.link [@a_in] -> [@a_core]",
            "800 and 1024 do not divide",
        ],
    );
    caught(
        "a join with a gap",
        FOUR,
        &[("src_offsets = [0, 128]", "src_offsets = [0, 96]")],
        Checker,
        &[
            "[@c00, @c01] -> [@c_out0]",
            "@c01 starts at 96",
            "end at 128",
        ],
    );
    caught(
        "a join of three into two",
        FOUR,
        &[("src_offsets = [0, 128]", "src_offsets = [0]")],
        Checker,
        &["1 offsets for 2 parts"],
    );
    caught(
        "a join that does not cover",
        FOUR,
        &[("memref<16x16xi32>", "memref<24x16xi32>")],
        Checker,
        &["@c_out0", "end at 256", "has 384"],
    );
    caught(
        "a FIFO that no link takes on",
        ONE,
        &[(
            "    \"aie.objectfifo.link\"() {fifoIns = [@a_in], fifoOuts = [@a_core], src_offsets = [], dst_offsets = []} : () -> ()\n",
            "",
        )],
        Checker,
        &["@a_in", "no link takes", "@a_core", "no link fills"],
    );
    caught(
        "a depth that becomes another",
        ONE,
        &[(
            "sym_name = \"a_core\", elemNumber = 2 : i32",
            "sym_name = \"a_core\", elemNumber = 4 : i32",
        )],
        Checker,
        &["@a_core", "a depth of 4 becomes 2", "tile (0, 2)"],
    );
    caught(
        "a stride longer than the element",
        ONE,
        &[(
            "<size = 8, stride = 128>, <size = 4, stride = 8>",
            "<size = 8, stride = 128>, <size = 1, stride = 2048>, <size = 4, stride = 8>",
        )],
        Checker,
        &[
            "@a_core",
            "5 dimensions",
            "a stride of 2048 elements",
            "has 1024",
        ],
    );
}
