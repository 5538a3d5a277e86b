//! Snapshots of emitted modules: what is different in them, once. Every core of a design is like the first, every sequence
//! like the first in what it is made of, so the others are left out.

use crate::mlir::context;
use melior::ir::Module;

/// Most lines of a sequence that are kept.
const SEQUENCE_LINES: usize = 60;

/// Holds a module to the snapshot of this name.
pub(super) fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../../testdata/targets/npu");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, trimmed(text)));
}

/// The module, printed as readably as MLIR does, without its second and further cores and sequences.
fn trimmed(text: &str) -> String {
    let context = context();
    let module = Module::parse(&context, text).expect("an emitted module reads back");
    let text = module.as_operation().to_string();
    let mut kept = String::new();
    let mut seen = [0, 0];
    // Where an op that is being left out, or a sequence that is kept in part, ends.
    let mut leaving: Option<String> = None;
    let mut sequence: Option<(String, usize)> = None;
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = line.trim_start().starts_with("})");
        if let Some(end) = &leaving {
            if ends && indent == end {
                leaving = None;
            }
            continue;
        }
        let kind = ["\"aie.core\"", "\"aie.runtime_sequence\""]
            .iter()
            .position(|op| line.contains(op));
        if let Some(kind) = kind {
            seen[kind] += 1;
            if seen[kind] > 1 {
                leaving = Some(indent.to_owned());
                continue;
            }
            if kind == 1 {
                sequence = Some((indent.to_owned(), 0));
            }
        }
        if let Some((end, lines)) = &mut sequence {
            *lines += 1;
            if ends && indent == end {
                sequence = None;
            } else if *lines == SEQUENCE_LINES {
                kept.push_str("      // and so on\n");
                continue;
            } else if *lines > SEQUENCE_LINES {
                continue;
            }
        }
        kept.push_str(line);
        kept.push('\n');
    }
    format!("{kept}// {} cores, {} sequences\n", seen[0], seen[1])
}
