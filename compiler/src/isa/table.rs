//! The report as aligned text.

use super::{Figures, Outcome, Report, Row};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Heads of the columns. `loop` columns count in loops alone.
const COLUMNS: [&str; 19] = [
    "kernel",
    "variant",
    "wave",
    "VGPR",
    "SGPR",
    "spill",
    "scratch",
    "LDS",
    "waves/SIMD",
    "code B",
    "instr",
    "dot4",
    "wmma",
    "pk+mix",
    "fma",
    "loads",
    "narrow",
    "latency",
    "1/thr",
];

/// Columns that hold words; the others hold figures, and stand to the right.
const WORDS: [&str; 3] = ["kernel", "variant", "loads"];

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(COLUMNS);
    for (column, head) in table.column_iter_mut().zip(COLUMNS) {
        column.set_padding((0, 2));
        if !WORDS.contains(&head) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &report.rows {
        if let Outcome::Code(figures) = &row.outcome {
            table.add_row(cells(row, figures));
        }
    }
    let mut text = format!("{}\n", report.device.name);
    if !table.is_empty() {
        text.push('\n');
    }
    for line in table.lines().filter(|_| !table.is_empty()) {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for row in &report.rows {
        let (word, why) = match &row.outcome {
            Outcome::Code(_) => continue,
            Outcome::Unsupported(why) => ("left out", why),
            Outcome::Failed(why) => ("failed", why),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{word}: {} {}: {why}", row.kernel, row.variant);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn cells(row: &Row, f: &Figures) -> [String; 19] {
    let all = &f.listing.all;
    let inner = &f.listing.in_loops;
    // `12 (8)`: twelve, eight of them in loops. Straight code needs no such remark.
    let counted = |all: u32, looping: u32| match (all, looping) {
        (0, _) => "-".to_owned(),
        (all, looping) if all == looping || inner.instructions == 0 => all.to_string(),
        (all, looping) => format!("{all} ({looping})"),
    };
    [
        row.kernel.clone(),
        row.variant.clone(),
        format!(
            "{}{}",
            f.subgroup,
            if row.subgroup_by_driver { "*" } else { "" }
        ),
        f.vgprs.to_string(),
        f.sgprs.to_string(),
        match (f.spilled_vgprs, f.spilled_sgprs) {
            (0, 0) => "-".into(),
            (v, s) => format!("{v}v {s}s"),
        },
        or_dash(f.scratch_bytes),
        or_dash(f.lds_bytes),
        f.waves_per_simd.to_string(),
        f.code_bytes.to_string(),
        counted(all.instructions, inner.instructions),
        counted(all.dot4, inner.dot4),
        counted(all.wmma, inner.wmma),
        counted(
            all.packed_fma + all.mix_fma,
            inner.packed_fma + inner.mix_fma,
        ),
        counted(all.fma, inner.fma),
        widths(&all.loads),
        counted(all.narrow_loads(), inner.narrow_loads()),
        f.latency_cycles.to_string(),
        f.inverse_throughput_cycles.to_string(),
    ]
}

fn or_dash(count: u32) -> String {
    match count {
        0 => "-".into(),
        count => count.to_string(),
    }
}

/// `128x4 32x1`: four loads of 128 bits, one of 32.
fn widths(loads: &BTreeMap<u32, u32>) -> String {
    match loads.is_empty() {
        true => "-".into(),
        false => {
            let each = loads.iter().rev();
            let each = each.map(|(bits, count)| format!("{bits}x{count}"));
            each.collect::<Vec<_>>().join(" ")
        }
    }
}
