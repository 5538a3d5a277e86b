//! Each adjustment, on the smallest kernel that needs it.

use super::{adjust, disassemble};
use naga::back::spv;
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// Compiles WGSL as [`crate::kernel`] does and shows it before and after adjusting.
fn both(wgsl: &str) -> (String, Result<String, String>) {
    let options = naga::front::wgsl::Options {
        parse_doc_comments: false,
        capabilities: Capabilities::all(),
    };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(wgsl)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator
        .subgroup_stages(ShaderStages::all())
        .subgroup_operations(SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)));
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::DEBUG,
        fake_missing_bindings: true,
        use_storage_input_output_16: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let code = spv::write_vec(&module, &info, &options, None).unwrap();
    let before = disassemble(&code).unwrap();
    (before, adjust(code).map(|code| disassemble(&code).unwrap()))
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

const VIEWS: &str = "
enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read_write> y: array<vec4<u32>>;
var<workgroup> tile: array<vec4<u32>, 64>;
var<workgroup> tile_as_f16: array<f16, 64>;
var<workgroup> tile_as_f32: array<f32, 64>;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) local: u32) {
    tile[local] = y[local];
    workgroupBarrier();
    let a = coopLoadT<coop_mat16x16<f16, A>>(&tile_as_f16[0], 2u);
    let b = coopLoad<coop_mat16x16<f16, B>>(&tile_as_f16[32], 2u);
    var c = coop_mat16x16<f32, C>();
    c = coopMultiplyAdd(a, b, c);
    workgroupBarrier();
    coopStoreT(c, &tile_as_f32[0], 4u);
    subgroupBarrier();
    y[local] = tile[local];
}";

#[test]
fn views_lie_in_what_they_view() {
    let (before, after) = both(VIEWS);
    let after = after.unwrap();
    assert_eq!(
        count(&before, "= OpVariable  %") - count(&after, "= OpVariable  %"),
        2,
        "{after}"
    );
    assert_eq!(count(&after, "OpTypeRuntimeArray"), 1);
    assert_eq!(count(&after, " = OpTypeArray"), 1, "{after}");
    assert_eq!(count(&after, "OpCooperativeMatrixLoadKHR"), 2);
    assert_eq!(count(&after, "OpName"), 0);
}

#[test]
fn zero_matrices_are_constructed_and_stored() {
    let (before, after) = both(VIEWS);
    let matrices = |text: &str, op: &str| {
        let types: Vec<String> = text
            .lines()
            .filter(|line| line.contains("OpTypeCooperativeMatrixKHR"))
            .filter_map(|line| Some(format!("{op}  {} ", line.split(' ').next()?)))
            .collect();
        text.lines()
            .filter(|line| types.iter().any(|ty| format!("{line} ").contains(ty)))
            .count()
    };
    assert_eq!(matrices(&before, "OpConstantNull"), 1, "{before}");
    assert_eq!(matrices(&before, "OpCompositeConstruct"), 0, "{before}");
    let after = after.unwrap();
    assert_eq!(matrices(&after, "OpConstantNull"), 0, "{after}");
    assert_eq!(matrices(&after, "OpCompositeConstruct"), 1, "{after}");
}

#[test]
fn barriers_of_a_subgroup_order_workgroup_memory() {
    let (_, after) = both(VIEWS);
    let after = after.unwrap();
    // Acquire and release (8) of workgroup memory (256), named by both kinds of barriers.
    let semantics = after
        .lines()
        .find(|line| line.contains("OpConstant ") && line.trim_end().ends_with(" 264"))
        .and_then(|line| line.trim().split(' ').next())
        .unwrap_or_else(|| panic!("{after}"));
    let barriers: Vec<&str> = after
        .lines()
        .filter(|line| line.contains("OpControlBarrier"))
        .collect();
    assert_eq!(barriers.len(), 3);
    assert!(
        barriers
            .iter()
            .all(|line| line.trim_end().ends_with(semantics)),
        "{after}"
    );
}

#[test]
fn arrays_in_workgroup_memory_have_no_stride() {
    let (before, after) = both(VIEWS);
    assert!(count(&before, "ArrayStride") > 1);
    // The storage buffer's.
    assert_eq!(count(&after.unwrap(), "ArrayStride"), 1);
}

#[test]
fn halves_are_cast() {
    let (before, after) = both(
        "enable f16;
        @group(0) @binding(0) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1)
        fn main() {
            let halves = vec2<f16>(unpack2x16float(y[0])) * 2.0h;
            y[1] = pack2x16float(vec2<f32>(halves));
            y[2] = pack2x16float(unpack2x16float(y[3]) * 2.0);
        }",
    );
    let after = after.unwrap();
    assert_eq!(count(&before, "OpBitcast"), 0);
    assert_eq!(count(&after, "OpBitcast"), 2, "{after}");
}

#[test]
fn a_view_of_nothing_is_refused() {
    let (_, after) = both(&VIEWS.replace("tile_as_f32", "other_as_f32"));
    assert_eq!(after.unwrap_err(), "other_as_f32 is a view of no variable");
}

#[test]
fn a_view_of_another_length_is_refused() {
    let (_, after) =
        both(&VIEWS.replace("tile_as_f32: array<f32, 64>", "tile_as_f32: array<f32, 65>"));
    assert_eq!(
        after.unwrap_err(),
        "tile_as_f32 has another length than what it views"
    );
}

#[test]
fn a_view_is_not_for_plain_loads() {
    let (_, after) = both(&VIEWS.replace(
        "y[local] = tile[local]",
        "y[local].x = u32(tile_as_f32[local])",
    ));
    assert_eq!(
        after.unwrap_err(),
        "a view is for loading and storing cooperative matrices only"
    );
}

/// A product over two steps; `VIEW` is how its factors are viewed.
const INTEGERS: &str = "
enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read_write> y: array<vec4<u32>>;
var<workgroup> tile: array<vec4<u32>, 64>;
var<workgroup> tile_as_VIEW: array<f16, 64>;
var<workgroup> tile_as_f32: array<f32, 64>;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) local: u32) {
    tile[local] = y[local];
    workgroupBarrier();
    let a = coopLoadT<coop_mat16x16<f16, A>>(&tile_as_VIEW[0], 2u);
    let b = coopLoad<coop_mat16x16<f16, B>>(&tile_as_VIEW[32], 2u);
    let one = coopMultiplyAdd(a, b, coop_mat16x16<f32, C>());
    let two = coopMultiplyAdd(a, b, one);
    workgroupBarrier();
    coopStoreT(two, &tile_as_f32[0], 4u);
    subgroupBarrier();
    y[local] = tile[local];
}";

#[test]
fn a_view_of_int8_makes_products_of_integers() {
    let after = both(&INTEGERS.replace("VIEW", "i8")).1.unwrap();
    assert_eq!(count(&after, "OpTypeFloat 16"), 0, "{after}");
    assert_eq!(count(&after, "OpTypeInt 8 1"), 1, "{after}");
    assert_eq!(count(&after, "OpCapability Float16"), 0, "{after}");
    assert_eq!(count(&after, "OpCapability Int8"), 1, "{after}");
    assert_eq!(count(&after, "MATRIX_RESULT_SIGNED_COMPONENTS_KHR"), 2);
    // Only the sums that leave the products, once.
    assert_eq!(count(&after, "OpConvertSToF"), 1, "{after}");
    let id = |line: &str, at: usize| line.split_whitespace().nth(at).unwrap().to_owned();
    let line = |what: &str| after.lines().find(|line| line.contains(what)).unwrap();
    let products: Vec<&str> = after
        .lines()
        .filter(|line| line.contains("OpCooperativeMatrixMulAddKHR"))
        .collect();
    assert_eq!(id(products[1], 6), id(products[0], 0), "{after}");
    assert_eq!(id(line("OpConvertSToF"), 4), id(products[1], 0), "{after}");
    assert_eq!(
        id(line("OpCooperativeMatrixStoreKHR"), 2),
        id(line("OpConvertSToF"), 0),
        "{after}"
    );
}

#[test]
fn a_long_view_of_int8_makes_long_products() {
    let after = both(&INTEGERS.replace("VIEW", "i8x32")).1.unwrap();
    let word = |line: &str, at: usize| line.split_whitespace().nth(at).unwrap().to_owned();
    let constant = |value: u32| -> Vec<String> {
        after
            .lines()
            .filter(|line| line.contains("OpConstant ") && line.ends_with(&format!(" {value}")))
            .map(|line| word(line, 0))
            .collect()
    };
    // Component, scope, rows, columns and use of a matrix.
    let sizes: Vec<[bool; 2]> = after
        .lines()
        .filter(|line| line.contains("OpTypeCooperativeMatrixKHR"))
        .map(|line| [word(line, 5), word(line, 6)].map(|id| constant(32).contains(&id)))
        .collect();
    // Sums of f32, the factors, and sums of int32.
    let want = [[false; 2], [false, true], [true, false], [false; 2]];
    assert_eq!(sizes, want, "{after}");
}

#[test]
fn a_product_of_int8_does_not_begin_with_floats() {
    let loaded = "coopLoadT<coop_mat16x16<f32, C>>(&tile_as_f32[0], 4u)";
    let wgsl = INTEGERS
        .replace("VIEW", "i8")
        .replace("coop_mat16x16<f32, C>());", &format!("{loaded});"));
    let error = both(&wgsl).1.unwrap_err();
    assert!(error.contains("begins with zero"), "{error}");
}

#[test]
fn f16_beside_int8_is_refused() {
    let wgsl = INTEGERS.replace("VIEW", "i8").replace(
        "tile[local] = y[local];",
        "tile[local] = y[local] + u32(f32(f16(f32(local))));",
    );
    let error = both(&wgsl).1.unwrap_err();
    assert!(error.contains("stand for int8"), "{error}");
}
