//! Broken modules: good ones with one edit each, caught by the reader, the checker or the simulator with the message
//! that says what is wrong. The modules themselves pass all three.
#![cfg(feature = "mlir")]

use gembin_target_npu::array::Array;
use gembin_target_npu::legality::check;
use gembin_target_npu::module::Module;
use gembin_target_npu::simulator::{HostBuffer, Simulator};

const ONE: &str = include_str!("../../../testdata/targets/npu/product_one_core.mlir");
const FOUR: &str = include_str!("../../../testdata/targets/npu/product_four_cores.mlir");
const PARAMETER: &str = include_str!("../../../testdata/targets/npu/parameter_one_core.mlir");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Reader,
    Checker,
    Simulator,
}
use Stage::*;

/// Who finds what is wrong with a module first, and in which words.
fn judge(text: &str) -> Result<(), (Stage, String)> {
    let module = Module::read(text).map_err(|error| (Reader, error.to_string()))?;
    let faults = check(&module, Array::npu1());
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err((Checker, lines.join("\n")));
    }
    simulate(&module).map_err(|error| (Simulator, error))
}

/// Runs every sequence; the last argument of each is its output.
fn simulate(module: &Module) -> Result<(), String> {
    let mut array = Simulator::new(module, Array::npu1())
        .map_err(|error| error.to_string())?
        .with_patience(2_000_000);
    for sequence in &module.sequences {
        let last = sequence.arguments.len().saturating_sub(1);
        let mut buffers: Vec<HostBuffer> = sequence
            .arguments
            .iter()
            .enumerate()
            .map(|(at, argument)| {
                let bytes = argument.bytes() as usize;
                if at == last {
                    HostBuffer::output(bytes)
                } else {
                    HostBuffer::input(vec![3; bytes])
                }
            })
            .collect();
        array
            .run(&sequence.name, &mut buffers)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn edited(name: &str, text: &str, edits: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{name}: nothing to edit: {from}");
        text = text.replacen(from, to, 1);
    }
    text
}

/// Asserts that an edit is found by this stage, in these words.
fn caught(name: &str, text: &str, edits: &[(&str, &str)], stage: Stage, words: &[&str]) {
    let text = edited(name, text, edits);
    let Err((by, message)) = judge(&text) else {
        panic!("{name}: nobody found it");
    };
    assert_eq!(by, stage, "{name}: {message}");
    for word in words {
        assert!(
            message.contains(word),
            "{name}: `{word}` is not in: {message}"
        );
    }
}

#[test]
fn nothing_is_wrong_with_the_modules_themselves() {
    for text in [ONE, FOUR, PARAMETER] {
        if let Err((stage, message)) = judge(text) {
            panic!("{stage:?}: {message}");
        }
    }
}

const RELEASE_A: &str = "        \"aie.objectfifo.release\"() {objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> ()\n";
const RELEASE_C: &str = "        \"aie.objectfifo.release\"() {objFifo_name = @c_core, port = 0 : i32, size = 1 : i32} : () -> ()\n";

#[test]
fn the_reader_refuses_what_it_does_not_know() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case; 14] = [
        (
            "an unknown op",
            &[("\"aie.objectfifo.link\"", "\"aie.objectfifo.bind\"")],
            &["aie.objectfifo.bind", "not known"],
        ),
        (
            "an unknown op in a core",
            &[("\"aie.objectfifo.release\"", "\"aie.objectfifo.free\"")],
            &["aie.objectfifo.free"],
        ),
        (
            "a misspelt optional attribute",
            &[("{stack_size = 1024", "{stack_bytes = 1024")],
            &["aie.core", "stack_bytes", "unknown attribute"],
        ),
        (
            "a misspelt token",
            &[("issue_token = true", "issue_tokens = true")],
            &["issue_tokens", "unknown attribute"],
        ),
        (
            "a missing attribute",
            &[(
                "sym_name = \"a_in\", elemNumber = 2 : i32, ",
                "sym_name = \"a_in\", ",
            )],
            &["elemNumber"],
        ),
        (
            "an attribute of another type",
            &[("port = 1 : i32", "port = \"consume\"")],
            &["base attribute", "aie.objectfifo.acquire"],
        ),
        (
            "a column that is a string",
            &[("col = 0 : i32", "col = \"0\"")],
            &["aie.tile"],
        ),
        (
            "a FIFO that does not exist",
            &[("objFifo_name = @a_core", "objFifo_name = @a_cores")],
            &["@a_cores", "does not exist"],
        ),
        (
            "a link of a FIFO that does not exist",
            &[("fifoIns = [@b_in]", "fifoIns = [@b_inn]")],
            &["@b_inn"],
        ),
        (
            "a pattern that is none",
            &[("<size = 8, stride = 128>", "<size = 8, step = 128>")],
            &["dimensionsToStream"],
        ),
        (
            "three sizes",
            &[(
                "static_sizes = array<i64: 1, 1, 32, 32>",
                "static_sizes = array<i64: 1, 32, 32>",
            )],
            &["static_sizes"],
        ),
        (
            "a type mismatch of an upstream op",
            &[(
                "arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>",
                "arith.extsi %a_tile : vector<4x8xi8> to vector<4x4xi32>",
            )],
            &["MLIR refuses"],
        ),
        (
            "a value that does not exist",
            &[("vector.load %a[%a_at]", "vector.load %a[%a_on]")],
            &["MLIR refuses", "undeclared"],
        ),
        (
            "a FIFO twice",
            &[("sym_name = \"b_in\"", "sym_name = \"a_in\"")],
            &["a_in", "twice"],
        ),
    ];
    for (name, edits, words) in cases {
        caught(name, ONE, edits, Reader, words);
    }
}

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
}

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
}

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
}

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
