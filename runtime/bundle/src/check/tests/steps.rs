//! Faults of steps: where buffers lie, what they share, what shapes and numbers their step demands.

use super::*;
use crate::cpu::Epilogue;

/// Changes fields of a step: `refuse_step!("label", Variant { fields }, statements, "message")`.
macro_rules! refuse_step {
    ($label:literal, $variant:ident { $($field:ident),+ }, $change:expr, $expect:expr) => {
        refuse($expect, |m| match step(m, $label) {
            CpuStep::$variant { $($field,)+ .. } => $change,
            other => panic!("{other:?}"),
        })
    };
}

fn remove(m: &mut Manifest, label: &str) {
    prefill(m).steps.retain(|step| step.label != label);
}

#[test]
fn buffers_lie_in_the_value_area() {
    let place = "plan \"cpu\", program \"prefill\", step 0 \"embed\": out";
    refuse_step!("embed", Embed { out }, out.offset = 1 << 30, place);
    refuse_step!(
        "embed",
        Embed { out },
        out.offset = u64::MAX - 63,
        "leaves the arena's value area"
    );
    refuse_step!(
        "embed",
        Embed { out },
        out.offset = 32,
        "out at 32 is not aligned to 64"
    );
    // Into the caches.
    refuse("leaves the arena's value area", |m| {
        let cache = m.arena.caches[0].offset;
        match step(m, "embed") {
            CpuStep::Embed { out, .. } => out.offset = cache,
            other => panic!("{other:?}"),
        }
    });
    refuse("leaves the arena's value area", |m| {
        linear(m, "head").scratch.offset = m_value_end(m)
    });
    // More rows than were planned for.
    refuse("value area", |m| {
        prefill(m).max_rows = 1000;
        m.limits.context = 1000;
        let (l0, l1) = m.arena.caches.split_at_mut(1);
        for cache in [&mut l0[0], &mut l1[0]] {
            cache.capacity = 1000;
            let element = if cache.format == Format::F32 { 4 } else { 2 };
            cache.bytes = 2 * 1000 * 4 * 2 * element;
        }
        l1[0].offset = l0[0].offset + l0[0].bytes;
        let end = l1[0].offset + l1[0].bytes;
        m.arena.cache_bytes += end - m.arena.bytes;
        m.arena.bytes = end;
    });
}

fn m_value_end(m: &Manifest) -> u64 {
    m.arena.bytes - m.arena.cache_bytes
}

/// Does `change` to operand after operand of the prefill program, each time from a fresh sample, and expects the
/// error to name the step and to contain `expect`.
#[track_caller]
fn refuse_each(
    expect: &str,
    pick: for<'a> fn(&'a mut CpuStep) -> Vec<&'a mut Buffer>,
    change: impl Fn(&mut Buffer, &Manifest),
) {
    let (mut sample, _) = sample::manifest();
    let steps = prefill(&mut sample).steps.clone();
    let mut changed = 0;
    for (index, step) in steps.into_iter().enumerate() {
        let Work::Cpu(mut work) = step.work else {
            panic!("the sample is the processor's")
        };
        for operand in 0..pick(&mut work).len() {
            let (original, _) = sample::manifest();
            let place = format!("step {index} {:?}", step.label);
            let error = check_changed(|m| {
                let Work::Cpu(work) = &mut prefill(m).steps[index].work else {
                    panic!("the sample is the processor's")
                };
                change(pick(work)[operand], &original);
            })
            .expect_err(&place);
            let text = error.to_string();
            assert!(text.contains(&place) && text.contains(expect), "{text}");
            changed += 1;
        }
    }
    assert!(changed > 20, "{changed}");
}

#[test]
fn every_operand_lies_in_the_value_area() {
    let area = "leaves the arena's value area";
    refuse_each(area, |s| operands(s).0, |b, _| b.offset = u64::MAX - 63);
    refuse_each(area, |s| operands(s).1, |b, _| b.offset = u64::MAX - 63);
    // The last 64 bytes in front of the caches, and the caches' first.
    for back in [64, 0] {
        let into_caches = |b: &mut Buffer, m: &Manifest| {
            b.offset = m_value_end(m) - back;
        };
        refuse_each(area, |s| operands(s).0, into_caches);
        refuse_each(area, |s| operands(s).1, into_caches);
    }
}

#[test]
fn every_operand_is_aligned() {
    refuse_each(
        "is not aligned to 64",
        |s| operands(s).0,
        |b, _| b.offset += 4,
    );
    refuse_each(
        "is not aligned to 64",
        |s| operands(s).1,
        |b, _| b.offset += 4,
    );
}

#[test]
fn every_operand_read_was_written() {
    // The start of the scratch area never holds a value.
    refuse_each(
        "which no earlier step has written",
        |s| operands(s).0,
        |b, m| {
            let mut m = m.clone();
            b.offset = linear(&mut m, "head").scratch.offset;
        },
    );
}

#[test]
fn no_step_writes_onto_a_part_of_what_it_reads() {
    let (mut sample, _) = sample::manifest();
    let steps = prefill(&mut sample).steps.clone();
    let mut tried = 0;
    for (index, step) in steps.into_iter().enumerate() {
        let Work::Cpu(mut work) = step.work else {
            panic!("the sample is the processor's")
        };
        let (reads, writes) = operands(&mut work);
        for (read, write) in (0..reads.len()).flat_map(|r| (0..writes.len()).map(move |w| (r, w))) {
            let error = check_changed(|m| {
                let Work::Cpu(work) = &mut prefill(m).steps[index].work else {
                    panic!("the sample is the processor's")
                };
                let (reads, mut writes) = operands(work);
                writes[write].offset = reads[read].offset + 64;
            })
            .expect_err(&step.label);
            assert!(error.what.contains("shares bytes with"), "{error}");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn operands_have_the_shapes_of_their_step() {
    refuse_step!(
        "embed",
        Embed { table },
        *table = 99,
        "table is weight 99 of a table of 7"
    );
    refuse_step!(
        "embed",
        Embed { table },
        *table = sample::NORM,
        "\"norm\" is a vector, must be a matrix"
    );
    refuse_step!(
        "embed",
        Embed { table },
        *table = sample::QKV,
        "has 16 rows, the vocabulary 40"
    );
    refuse_step!(
        "embed",
        Embed { out },
        out.cols = 4,
        "out has 4 columns, must have 8"
    );
    refuse_step!("embed", Embed { scale }, *scale = f32::NAN, "scale is NaN");

    refuse_step!(
        "rope_table",
        RopeTable { theta },
        *theta = 0.0,
        "theta is 0, must be positive"
    );
    refuse_step!(
        "rope_table",
        RopeTable { factor },
        *factor = f32::INFINITY,
        "factor is inf"
    );
    refuse_step!(
        "rope_table",
        RopeTable { out },
        out.cols = 3,
        "head_dim is 3, must be even"
    );
    refuse_step!(
        "rope_table",
        RopeTable { out },
        out.cols = 0,
        "head_dim is 0"
    );

    refuse_step!(
        "l0.rope_kv",
        RopeKv { cache },
        *cache = 2,
        "uses cache 2 of a table of 2"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { q_heads },
        *q_heads = 0,
        "0 query heads"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { q_heads },
        *q_heads = 3,
        "out has 8 columns, must have 12"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { q_heads },
        *q_heads = u32::MAX,
        "must have 17179869180"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { qkv },
        qkv.cols = 20,
        "qkv has 20 columns, must have 16"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { table },
        table.cols = 2,
        "table has 2 columns, must have 4"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { table },
        table.rows = RowSet::Out,
        "table has a row for each row asked for, qkv for every row"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { qkv, table, out },
        {
            qkv.rows = RowSet::Out;
            table.rows = RowSet::Out;
            out.rows = RowSet::Out;
        },
        "keys and values are stored for every row"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { out },
        out.rows = RowSet::Out,
        "out has a row for each row asked for"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { q_norm },
        *q_norm = Some(sample::NORM),
        "has 8 values, 4 are normed"
    );
    refuse_step!(
        "l0.rope_kv",
        RopeKv { k_norm },
        *k_norm = Some(sample::QKV),
        "is a matrix, must be a vector"
    );
    refuse_step!("l0.rope_kv", RopeKv { eps }, *eps = 0.0, "eps is 0");

    refuse_step!(
        "l0.attention",
        Attention { heads },
        *heads = 1,
        "q has 8 columns, must have 4"
    );
    refuse_step!(
        "l0.attention",
        Attention { heads },
        *heads = 0,
        "0 query heads"
    );
    refuse_step!(
        "l0.attention",
        Attention { scale },
        *scale = f32::NAN,
        "scale is NaN"
    );
    refuse_step!(
        "l0.attention",
        Attention { softcap },
        *softcap = -1.0,
        "softcap is -1"
    );
    refuse_step!(
        "l0.attention",
        Attention { out },
        out.cols = 16,
        "out has 16 columns, must have 8"
    );
    refuse_step!(
        "l0.attention",
        Attention { out },
        out.rows = RowSet::Out,
        "out has a row for each"
    );
    refuse_step!(
        "l0.attention",
        Attention { cache },
        *cache = 1,
        "cache \"l1\", into which no earlier step stores"
    );

    refuse_step!(
        "select",
        SelectRows { out },
        out.cols = 4,
        "out has 4 columns, must have 8"
    );
    refuse_step!(
        "select",
        SelectRows { out },
        out.rows = RowSet::Seq,
        "selects from every row"
    );
    refuse_step!(
        "select",
        SelectRows { x },
        x.rows = RowSet::Out,
        "selects from every row"
    );

    refuse_step!(
        "l1.norm",
        RmsNorm { weight },
        *weight = sample::QKV,
        "must be a vector"
    );
    refuse_step!(
        "l1.norm",
        RmsNorm { x, out },
        {
            x.cols = 6;
            out.cols = 6
        },
        "no multiple of the 4"
    );
    refuse_step!("l1.norm", RmsNorm { eps }, *eps = -1e-6, "must be positive");
    refuse_step!(
        "l1.norm",
        RmsNorm { offset },
        *offset = f32::NAN,
        "offset is NaN"
    );
    refuse_step!(
        "l1.norm",
        RmsNorm { out },
        out.cols = 4,
        "out has 4 columns, must have 8"
    );

    refuse_step!("l1.q_rope", Rope { table }, table.cols = 0, "head_dim is 0");
    refuse_step!(
        "l1.q_rope",
        Rope { table },
        table.cols = 6,
        "no multiple of the table's 6"
    );
    refuse_step!(
        "l1.q_rope",
        Rope { table },
        table.rows = RowSet::Out,
        "table has a row for each"
    );
    refuse_step!("l1.q_rope", Rope { out }, out.cols = 4, "out has 4 columns");

    refuse_step!(
        "l1.kv_write",
        KvWrite { k },
        k.cols = 8,
        "k has 8 columns, must have 4"
    );
    refuse_step!(
        "l1.kv_write",
        KvWrite { v },
        v.cols = 8,
        "v has 8 columns, must have 4"
    );
    refuse_step!(
        "l1.kv_write",
        KvWrite { k, v },
        {
            k.rows = RowSet::Out;
            v.rows = RowSet::Out
        },
        "stored for every row"
    );
    refuse_step!(
        "l1.kv_write",
        KvWrite { cache },
        *cache = u32::MAX,
        "uses cache 4294967295"
    );

    refuse_step!(
        "l1.v",
        Columns { start },
        *start = 13,
        "columns 13..17 of x, which has 16"
    );
    refuse_step!(
        "l1.v",
        Columns { start },
        *start = u32::MAX,
        "columns 4294967295..4294967299"
    );
    refuse_step!("l1.v", Columns { out }, out.cols = 0, "out has 0 columns");
    refuse_step!(
        "l1.v",
        Columns { out },
        out.rows = RowSet::Out,
        "out has a row for each"
    );

    refuse_step!(
        "gelu",
        Gelu { out },
        out.cols = 9,
        "out has 9 columns, must have 10"
    );
    refuse_step!(
        "mul",
        Mul { b },
        b.cols = 9,
        "b has 9 columns, must have 10"
    );
    refuse_step!(
        "l1.add",
        Add { b },
        b.rows = RowSet::Out,
        "b has a row for each"
    );
    refuse_step!("softcap", Softcap { cap }, *cap = 0.0, "cap is 0");
}

#[test]
fn rotated_heads_have_pairs() {
    refuse("step 3 \"l0.rope_kv\": head_dim is 1, must be even", |m| {
        let cache = &mut m.arena.caches[0];
        (cache.kv_heads, cache.head_dim) = (cache.head_dim, cache.kv_heads);
    });
}

#[test]
fn linears_have_the_shapes_of_their_weight() {
    refuse("weight is weight 7 of a table of 7", |m| {
        linear(m, "l0.qkv").weight = 7
    });
    refuse("is a vector, must be a matrix", |m| {
        linear(m, "l0.qkv").weight = sample::HEAD_NORM
    });
    refuse("x has 8 columns, must have 10", |m| {
        linear(m, "l0.qkv").weight = sample::DOWN
    });
    refuse("out has 15 columns, must have 16", |m| {
        linear(m, "l0.qkv").out.cols = 15
    });
    refuse("norm \"head_norm\" has 4 values, 8 are normed", |m| {
        linear(m, "l0.qkv").norm = Some(sample::HEAD_NORM)
    });
    refuse("post_norm \"qkv\" is a matrix", |m| {
        linear(m, "l0.qkv").post_norm = Some(sample::QKV)
    });
    refuse("eps is 0, must be positive", |m| {
        linear(m, "l0.qkv").eps = 0.0
    });
    refuse("eps is NaN, must be finite", |m| {
        linear(m, "l1.qkv").eps = f32::NAN
    });
    refuse(
        "geglu of 17 columns needs 64 rows, weight \"gate_up\" has 32",
        |m| linear(m, "l0.gate_up").out.cols = 17,
    );
    refuse(
        "geglu of 16 columns needs 32 rows, weight \"qkv\" has 16",
        |m| linear(m, "l0.qkv").epilogue = Epilogue::Geglu,
    );
    refuse("\"head\": out has 39 columns, must have 40", |m| {
        linear(m, "head").out.cols = 39
    });
    refuse("cap is inf", |m| {
        linear(m, "head").epilogue = Epilogue::Softcap { cap: f32::INFINITY }
    });
    refuse(
        "out has a row for each row asked for, x for every row",
        |m| linear(m, "l0.qkv").out.rows = RowSet::Out,
    );
    refuse("residual.from has 4 columns", |m| {
        linear(m, "l0.gate_up").residual.as_mut().unwrap().from.cols = 4
    });
    refuse("residual.to has a row for each", |m| {
        linear(m, "l0.gate_up").residual.as_mut().unwrap().to.rows = RowSet::Out
    });
    refuse("scratch has 4095 bytes, 4096 are needed", |m| {
        linear(m, "l0.qkv").scratch.bytes = 4095
    });
    refuse("scratch at", |m| linear(m, "l0.qkv").scratch.offset += 4);
    refuse("leaves the arena's value area", |m| {
        linear(m, "l0.qkv").scratch.bytes = u64::MAX
    });
}

#[test]
fn results_share_no_bytes() {
    refuse("out at 0 shares bytes with x", |m| {
        linear(m, "l0.qkv").out.offset = 0
    });
    refuse("scratch at 0 shares bytes with x", |m| {
        linear(m, "l0.qkv").scratch.offset = 0
    });
    refuse("scratch", |m| {
        let l = linear(m, "l0.qkv");
        l.scratch.offset = l.out.offset;
    });
    refuse("residual.to at 0 shares bytes with residual.from", |m| {
        let residual = linear(m, "l0.gate_up").residual.as_mut().unwrap();
        residual.to = residual.from;
    });
    refuse("out at", |m| {
        let l = linear(m, "l0.gate_up");
        l.out.offset = l.residual.unwrap().to.offset;
    });
    refuse_step!(
        "l1.norm",
        RmsNorm { x, out },
        *out = *x,
        "shares bytes with x"
    );
    // Element by element: onto the first operand exactly, not shifted, not onto the second.
    refuse_step!(
        "l1.add",
        Add { a, out },
        out.offset = a.offset + 64,
        "shares bytes with a"
    );
    refuse_step!("l1.add", Add { b, out }, *out = *b, "shares bytes with b");
    accept(|m| match step(m, "gelu") {
        CpuStep::Gelu { x, .. } => {
            let x = *x;
            linear(m, "gate").out = x;
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn values_are_written_before_they_are_read() {
    let missing = "which no earlier step has written";
    for label in [
        "embed",
        "rope_table",
        "l0.qkv",
        "l0.gate_up",
        "l1.k",
        "select",
        "gelu",
    ] {
        refuse(missing, |m| remove(m, label));
    }
    refuse("no step leaves the logits", |m| {
        remove(m, "head");
        remove(m, "softcap");
    });
    refuse("into which no earlier step stores", |m| {
        remove(m, "l1.kv_write")
    });
    // Overwritten in between: by a value, by scratch.
    refuse("\"l1.add\": reads a at", |m| {
        let CpuStep::Add { a, .. } = *step(m, "l1.add") else {
            panic!()
        };
        match step(m, "l1.attention") {
            CpuStep::Attention { out, .. } => out.offset = a.offset + 64,
            other => panic!("{other:?}"),
        }
    });
    refuse("\"l1.q_rope\": reads table at 512", |m| {
        linear(m, "l1.qkv").scratch.offset = 256
    });
    // Other columns of the same bytes are another value.
    refuse("written as 4 columns", |m| match step(m, "l1.k_rope") {
        CpuStep::Rope { x, out, .. } => {
            let offset = out.offset;
            *x = Buffer { offset: 0, ..*x };
            out.offset = offset;
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn attention_may_be_computed_for_the_wanted_rows_alone() {
    accept(|m| {
        let CpuStep::Attention { q, .. } = *step(m, "l1.attention") else {
            panic!()
        };
        // Select q, attend for the selected rows, keep the old sum as it is.
        let selected = match *step(m, "select") {
            CpuStep::SelectRows { out, .. } => out,
            ref other => panic!("{other:?}"),
        };
        let CpuStep::RmsNorm { out: free, .. } = *step(m, "l1.norm") else {
            panic!()
        };
        let wanted = Buffer {
            rows: RowSet::Out,
            ..free
        };
        remove(m, "l1.add");
        remove(m, "select");
        let attention = prefill(m)
            .steps
            .iter()
            .position(|step| step.label == "l1.attention")
            .unwrap();
        *step(m, "l1.attention") = CpuStep::Attention {
            q: wanted,
            cache: 1,
            heads: 2,
            scale: 0.5,
            softcap: 0.0,
            out: selected,
        };
        let mut select = prefill(m).steps[attention].clone();
        select.label = "l1.select".into();
        select.work = Work::Cpu(CpuStep::SelectRows { x: q, out: wanted });
        prefill(m).steps.insert(attention, select);
    });
}

#[test]
fn an_error_names_plan_program_and_step() {
    let error = check_changed(|m| linear(m, "head").eps = f32::NAN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plan \"cpu\", program \"prefill\", step 22 \"head\": eps is NaN, must be finite"
    );
}
