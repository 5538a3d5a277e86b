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
