//! Text in, steps out: planned modules and the programs they become.
//!
//! A fixture is the output of `gemc emit DIR --stage plan`; the snapshot beside it is updated with
//! `INSTA_UPDATE=always cargo test -p gembin-target-cpu` after reading the difference.

use gembin_bundle::cpu::CpuStep;
use gembin_bundle::manifest::{Program, Work};
use gembin_ir::WeightId;
use gembin_ir::text::parse;
use gembin_ir::verify::verify;
use gembin_target_cpu::{LowerError, lower};
use std::fmt::Write;

fn fixture(name: &str) -> gembin_ir::Module {
    let path = format!(
        "{}/../../testdata/targets/cpu/{name}.gir",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    parse(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn by_index(id: WeightId) -> u32 {
    id.index() as u32
}

fn print(programs: &[Program]) -> String {
    let mut text = String::new();
    for p in programs {
        writeln!(
            text,
            "{} {:?}: {} rows, {} outs, {:?}",
            p.name, p.phase, p.max_rows, p.max_outs, p.logits
        )
        .unwrap();
        for step in &p.steps {
            let Work::Cpu(work) = &step.work else {
                panic!("not a step of the processor")
            };
            writeln!(text, "  {}: {work:?}", step.label).unwrap();
        }
    }
    text
}

#[test]
fn a_planned_module_becomes_a_step_an_op() {
    let module = fixture("gemma2");
    let programs = lower(verify(&module).unwrap(), &by_index).unwrap();
    for (program, function) in programs.iter().zip(&module.functions) {
        // Positions and slots of selected rows come with the call, all other ops are steps.
        let selects = function
            .ops
            .iter()
            .filter(|op| op.kind.name() == "select_index")
            .count();
        assert_eq!(
            program.steps.len(),
            function.ops.len() - selects,
            "{}",
            program.name
        );
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../testdata/targets/cpu");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("gemma2", print(&programs)));
}

#[test]
fn decode_is_six_steps_a_layer_and_a_head() {
    let module = fixture("gemma2");
    let programs = lower(verify(&module).unwrap(), &by_index).unwrap();
    let decode = programs.iter().find(|p| p.name == "decode").unwrap();
    let layers = module.caches.len();
    // Around the layers: one rotation table, the embedding, the head.
    assert_eq!(decode.steps.len(), 6 * layers + 3);
    let attention = |work: &Work| matches!(work, Work::Cpu(CpuStep::Attention { .. }));
    assert_eq!(
        decode.steps.iter().filter(|s| attention(&s.work)).count(),
        layers
    );
}

#[test]
fn an_unplanned_module_is_refused() {
    let mut module = fixture("gemma2");
    module.arena_bytes = None;
    for function in &mut module.functions {
        function.values.iter_mut().for_each(|v| v.place = None);
        function.ops.iter_mut().for_each(|op| op.scratch = None);
    }
    module
        .caches
        .iter_mut()
        .for_each(|c| (c.place, c.capacity) = (None, None));
    let error = lower(verify(&module).unwrap(), &by_index).unwrap_err();
    assert!(matches!(error, LowerError::Unplanned { .. }), "{error}");
}
