//! Text in, text out: `testdata/passes/<pass>/<case>.gir` and the `.snap` beside it.
//!
//! Every output must verify and survive printing and parsing, and must mean what the input means.

use crate::weights::assert_same_meaning;
use gembin_ir::{DType, Function, Module, Op, OpKind, text, verify::verify};
use gembin_passes::{
    QuantOptions, Scratch, fold_norm_offsets, fuse, lay_out, plan_memory, quantize, sink_select,
};
use std::path::PathBuf;

/// Working memory of the size of the first operand, for linears.
pub struct CopyOfInput;

impl Scratch for CopyOfInput {
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        match (&op.kind, op.operands.first()) {
            (OpKind::FusedLinear { .. }, Some(x)) => {
                let ty = &function.value(*x).ty;
                module.bounds.value_bytes(&function.name, ty).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

fn folder(pass: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/passes")
        .join(pass)
}

/// The module in a fixture.
pub fn load(pass: &str, case: &str) -> Module {
    let path = folder(pass).join(format!("{case}.gir"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let module = text::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if let Err(faults) = verify(&module) {
        panic!("{}: {faults}", path.display());
    }
    module
}

/// Runs `run` on the fixture, compares the text with the snapshot, and returns the module before and after.
fn check(pass: &str, case: &str, run: impl Fn(&mut Module) -> String) -> (Module, Module) {
    let before = load(pass, case);
    let mut after = before.clone();
    let note = run(&mut after);
    let printed = text::print(&after);
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(folder(pass));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description("cargo insta test -p gembin-passes --review");
    settings.bind(|| insta::assert_snapshot!(case, format!("{note}{printed}")));
    if let Err(faults) = verify(&after) {
        panic!("{faults}");
    }
    assert_eq!(
        text::parse(&printed).expect("what was printed parses"),
        after
    );
    let mut again = before.clone();
    run(&mut again);
    assert_eq!(again, after, "the pass is not deterministic");
    (before, after)
}

fn check_meaning(pass: &str, case: &str, run: fn(&mut Module)) {
    let (before, after) = check(pass, case, |module| {
        run(module);
        String::new()
    });
    assert_same_meaning(&before, &after);
}

#[test]
fn fold_shares_what_is_shared() {
    check_meaning("fold_norm_offsets", "shared_weight", fold_norm_offsets);
}

#[test]
fn fuse_gemma1() {
    check_meaning("fuse", "gemma1", fuse);
}

#[test]
fn fuse_gemma2() {
    check_meaning("fuse", "gemma2", fuse);
}

#[test]
fn fuse_gemma3() {
    check_meaning("fuse", "gemma3", fuse);
}

#[test]
fn fuse_refuses_norms_it_cannot_take() {
    check_meaning("fuse", "norm_refusals", fuse);
}

#[test]
fn fuse_refuses_geglu_when_a_part_is_needed_elsewhere() {
    check_meaning("fuse", "geglu_refusals", fuse);
}

#[test]
fn fuse_refuses_rope_kv_of_unequal_epsilons() {
    check_meaning("fuse", "rope_kv_refusals", fuse);
}

#[test]
fn fuse_takes_columns_that_are_there_or_refuses() {
    check_meaning("fuse", "rope_kv_columns", fuse);
}

#[test]
fn fuse_merges_unequal_dtypes_as_f32() {
    check_meaning("fuse", "unequal_dtypes", fuse);
}

#[test]
fn select_stops_at_the_last_cache_write() {
    check_meaning("sink_select", "gemma3", sink_select);
}

#[test]
fn select_works_on_fused_ops() {
    check_meaning("sink_select", "fused", sink_select);
}

#[test]
fn select_keeps_rows_that_others_want() {
    check_meaning("sink_select", "other_users", sink_select);
}

#[test]
fn quantize_keeps_a_tied_table_one_weight() {
    check_quantize("tied", Some(DType::Q4));
}

#[test]
fn quantize_tells_heads_from_matrices() {
    check_quantize("untied", None);
}

#[test]
fn a_head_kept_as_it_is_stays_so_where_it_is_a_linear_too() {
    let mut module = load("quantize", "tied");
    let options = QuantOptions {
        matrices: Some(DType::Q4),
        head: None,
        cache: DType::F32,
    };
    quantize(&mut module, &options);
    let dtype = |name: &str| {
        module
            .weights
            .iter()
            .find(|w| w.name == name)
            .unwrap()
            .dtype
    };
    assert_eq!(dtype("embed"), DType::Bf16);
    assert_eq!(dtype("l0.qkv"), DType::Q4);
}

fn check_quantize(case: &str, matrices: Option<DType>) {
    let options = QuantOptions {
        matrices,
        head: Some(DType::Q8),
        cache: DType::F16,
    };
    let (before, after) = check("quantize", case, |module| {
        quantize(module, &options);
        String::new()
    });
    assert_eq!(before.functions, after.functions, "only formats may change");
}

#[test]
fn lay_out_blocks_matrices_that_ops_use() {
    check_meaning("lay_out", "mixed", lay_out);
}

#[test]
fn plan_gemma3() {
    let (before, after) = check("plan_memory", "gemma3", |module| {
        let report = plan_memory(module, &CopyOfInput).unwrap();
        format!("{report}\n\n")
    });
    assert_same_meaning(&before, &after);
}
