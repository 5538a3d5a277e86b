//! Snapshots of designs' modules: what stands on the array, the first core's program and the beginning of each sequence.
//! Cores differ in their FIFOs' names alone, and sequences go on as they begin.

/// Lines of a sequence that are kept.
const SEQUENCE_LINES: usize = 24;

/// Compares a module, shortened, with its snapshot.
pub(crate) fn assert_module(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../../testdata/targets/npu");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(format!("{name}.mlir"), shortened(text)));
}

fn shortened(text: &str) -> String {
    let mut kept = String::new();
    let mut cores = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        kept += line;
        kept.push('\n');
        let most = if line.contains("\"aie.core\"(") {
            cores += 1;
            if cores == 1 { usize::MAX } else { 0 }
        } else if line.contains("\"aie.runtime_sequence\"(") {
            SEQUENCE_LINES
        } else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut left_out = 0;
        for (index, inner) in lines.by_ref().enumerate() {
            let is_end = inner.trim_start().starts_with("})")
                && inner.len() - inner.trim_start().len() == indent;
            if is_end {
                if left_out > 0 {
                    kept += &format!("{:indent$}  // {left_out} lines more\n", "");
                }
                kept += inner;
                kept.push('\n');
                break;
            }
            if index < most {
                kept += inner;
                kept.push('\n');
            } else {
                left_out += 1;
            }
        }
    }
    kept
}
