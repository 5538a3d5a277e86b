//! The reader refuses what it does not know.

use super::*;

#[test]
fn the_reader_refuses_what_it_does_not_know() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case; 16] = [
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
            "a number that no array has",
            &[(
                "<size = 8, stride = 128>",
                "<size = 8, stride = 9223372036854775807>",
            )],
            &["dimensionsToStream"],
        ),
        (
            "an element that no memory holds",
            &[(
                "!aie.objectfifo<memref<32x32xi8>>",
                "!aie.objectfifo<memref<4294967296x4294967296xi8>>",
            )],
            &["elemType"],
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
