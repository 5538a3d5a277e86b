//! A small valid bundle for the tests of this crate: every step, every format, two caches, two programs.

use crate::cpu::{CpuStep, Epilogue, LinearStep, Residual, activation_bytes};
use crate::format::{References, Writer};
use crate::layout::Format;
use crate::manifest::*;
use std::io::Cursor;

pub const VOCAB: u32 = 40;
pub const HIDDEN: u32 = 8;
pub const HEAD_DIM: u32 = 4;
pub const CONTEXT: u32 = 64;
pub const SLOTS: u32 = 2;
pub const PREFILL_ROWS: u32 = 16;
pub const TOKENIZER: &[u8] = b"tables of some tokenizer";

pub const EMBEDDING: u32 = 0;
pub const NORM: u32 = 1;
pub const QKV: u32 = 2;
pub const HEAD_NORM: u32 = 3;
pub const GATE_UP: u32 = 5;
pub const DOWN: u32 = 6;
pub const DOWN_COLS: u32 = 10;

/// The manifest, weights placed, and the length of the weights section.
pub fn manifest() -> (Manifest, u64) {
    let matrix = |name, format, rows, cols| weight(name, format, rows, cols, WeightKind::Matrix);
    let vector = |name, cols| weight(name, Format::F32, 1, cols, WeightKind::Vector);
    let mut weights = vec![
        matrix("embedding", Format::Q8, VOCAB, HIDDEN),
        vector("norm", HIDDEN),
        matrix("qkv", Format::F16, 4 * HEAD_DIM, HIDDEN),
        vector("head_norm", HEAD_DIM),
        matrix("out_proj", Format::Q4, HIDDEN, HIDDEN),
        matrix("gate_up", Format::F32, 32, HIDDEN),
        matrix("down", Format::Bf16, HIDDEN, DOWN_COLS),
    ];
    let weights_bytes = place_weights(&mut weights);

    let (prefill, prefill_bytes) = program("prefill", Phase::Prefill, PREFILL_ROWS, 4);
    let (decode, decode_bytes) = program("decode", Phase::Decode, SLOTS, SLOTS);
    let value_bytes = prefill_bytes.max(decode_bytes);
    let mut end = value_bytes;
    let mut cache = |name: &str, format, element: u64, capacity: u32, window| {
        let bytes = u64::from(SLOTS * capacity * HEAD_DIM) * 2 * element;
        let offset = end.next_multiple_of(64);
        end = offset + bytes;
        Cache {
            name: name.into(),
            format,
            kv_heads: 1,
            head_dim: HEAD_DIM,
            capacity,
            window,
            offset,
            bytes,
        }
    };
    let caches = vec![
        cache("l0", Format::F32, 4, CONTEXT, None),
        cache("l1", Format::F16, 2, 8 + PREFILL_ROWS - 1, Some(8)),
    ];
    let manifest = Manifest {
        model: ModelFacts {
            name: "sample".into(),
            architecture: "none".into(),
            parameters: 1000,
            layers: 2,
            hidden: HIDDEN,
            quantization: "mixed".into(),
            notes: vec!["made for tests".into()],
        },
        provenance: Provenance {
            compiler: "0.1.0".into(),
            options: vec!["--quant q8".into()],
            sources: vec![SourceFile {
                name: "model.safetensors".into(),
                bytes: 4000,
                xxh3_128: [7; 16],
            }],
        },
        text: TextFacts {
            has_tokenizer: true,
            bos: Some(2),
            eos: Some(1),
            stop_tokens: vec![1, 39],
            chat_template: Some("{{ bos_token }}\n".into()),
            special_tokens: vec![("bos_token".into(), "<bos>".into())],
            sampling: SamplingDefaults {
                do_sample: Some(true),
                temperature: Some(1.0),
                top_k: Some(64),
                top_p: Some(0.95),
                min_p: None,
                repetition_penalty: Some(1.1),
            },
        },
        limits: Limits {
            vocab: VOCAB,
            context: CONTEXT,
            slots: SLOTS,
        },
        arena: Arena {
            bytes: end,
            cache_bytes: end - value_bytes,
            caches,
        },
        weights,
        kernels: Vec::new(),
        npu: crate::npu::Npu::default(),
        plans: vec![Plan {
            name: "cpu".into(),
            devices: vec![Device::Cpu],
            programs: vec![prefill, decode],
        }],
    };
    (manifest, weights_bytes)
}

fn weight(name: &str, format: Format, rows: u32, cols: u32, kind: WeightKind) -> WeightEntry {
    WeightEntry {
        name: name.into(),
        format,
        rows,
        cols,
        kind,
        data: Span::default(),
        scales: Span::default(),
        checksum: 0,
    }
}

/// Two layers, the first fused, the second of plain steps, with the bytes of its values.
fn program(name: &str, phase: Phase, max_rows: u32, max_outs: u32) -> (Program, u64) {
    let mut end = 0;
    let mut take = |bytes: u64| {
        let offset = end;
        end = (offset + bytes).next_multiple_of(64);
        Span { offset, bytes }
    };
    let mut buffer = |rows: RowSet, cols: u32| Buffer {
        offset: take(u64::from(max_rows * cols * 4)).offset,
        rows,
        cols,
    };
    let seq = RowSet::Seq;
    let (x, table) = (buffer(seq, HIDDEN), buffer(seq, HEAD_DIM));
    let (qkv, q, attended) = (buffer(seq, 16), buffer(seq, HIDDEN), buffer(seq, HIDDEN));
    let (x1, gated) = (buffer(seq, HIDDEN), buffer(seq, DOWN_COLS));
    let (x2, normed, qkv2) = (buffer(seq, HIDDEN), buffer(seq, HIDDEN), buffer(seq, 16));
    let (q2, k2, v2) = (
        buffer(seq, HIDDEN),
        buffer(seq, HEAD_DIM),
        buffer(seq, HEAD_DIM),
    );
    let (q3, k3) = (buffer(seq, HIDDEN), buffer(seq, HEAD_DIM));
    let out = RowSet::Out;
    let (selected, gate, gelu) = (
        buffer(out, HIDDEN),
        buffer(out, DOWN_COLS),
        buffer(out, DOWN_COLS),
    );
    let (down, logits) = (buffer(out, HIDDEN), buffer(out, VOCAB));
    let scratch = take(activation_bytes(max_rows, DOWN_COLS));

    let linear = |x, weight, out| LinearStep {
        x,
        post_norm: None,
        residual: None,
        norm: None,
        eps: 0.0,
        weight,
        epilogue: Epilogue::None,
        out,
        scratch,
    };
    let steps = vec![
        (
            "embed",
            CpuStep::Embed {
                table: EMBEDDING,
                scale: 2.5,
                out: x,
            },
        ),
        (
            "rope_table",
            CpuStep::RopeTable {
                theta: 1e4,
                factor: 1.0,
                out: table,
            },
        ),
        (
            "l0.qkv",
            CpuStep::Linear(LinearStep {
                norm: Some(NORM),
                eps: 1e-6,
                ..linear(x, QKV, qkv)
            }),
        ),
        (
            "l0.rope_kv",
            CpuStep::RopeKv {
                qkv,
                table,
                cache: 0,
                q_heads: 2,
                q_norm: Some(HEAD_NORM),
                k_norm: None,
                eps: 1e-6,
                out: q,
            },
        ),
        (
            "l0.attention",
            CpuStep::Attention {
                q,
                cache: 0,
                heads: 2,
                scale: 0.5,
                softcap: 50.0,
                out: attended,
            },
        ),
        (
            "l0.gate_up",
            CpuStep::Linear(LinearStep {
                post_norm: Some(NORM),
                residual: Some(Residual { from: x, to: x1 }),
                norm: Some(NORM),
                eps: 1e-6,
                epilogue: Epilogue::Geglu,
                ..linear(attended, GATE_UP, gated)
            }),
        ),
        ("l0.down", CpuStep::Linear(linear(gated, DOWN, x2))),
        (
            "l1.norm",
            CpuStep::RmsNorm {
                x: x2,
                weight: HEAD_NORM,
                eps: 1e-6,
                offset: 1.0,
                out: normed,
            },
        ),
        ("l1.qkv", CpuStep::Linear(linear(normed, QKV, qkv2))),
        (
            "l1.q",
            CpuStep::Columns {
                x: qkv2,
                start: 0,
                out: q2,
            },
        ),
        (
            "l1.k",
            CpuStep::Columns {
                x: qkv2,
                start: 8,
                out: k2,
            },
        ),
        (
            "l1.v",
            CpuStep::Columns {
                x: qkv2,
                start: 12,
                out: v2,
            },
        ),
        (
            "l1.q_rope",
            CpuStep::Rope {
                x: q2,
                table,
                out: q3,
            },
        ),
        (
            "l1.k_rope",
            CpuStep::Rope {
                x: k2,
                table,
                out: k3,
            },
        ),
        (
            "l1.kv_write",
            CpuStep::KvWrite {
                k: k3,
                v: v2,
                cache: 1,
            },
        ),
        (
            "l1.attention",
            CpuStep::Attention {
                q: q3,
                cache: 1,
                heads: 2,
                scale: 0.5,
                softcap: 0.0,
                out: q2,
            },
        ),
        (
            "l1.add",
            CpuStep::Add {
                a: x2,
                b: q2,
                out: x2,
            },
        ),
        (
            "select",
            CpuStep::SelectRows {
                x: x2,
                out: selected,
            },
        ),
        (
            "gate",
            CpuStep::Linear(LinearStep {
                epilogue: Epilogue::Geglu,
                ..linear(selected, GATE_UP, gate)
            }),
        ),
        ("gelu", CpuStep::Gelu { x: gate, out: gelu }),
        (
            "mul",
            CpuStep::Mul {
                a: gate,
                b: gelu,
                out: gate,
            },
        ),
        ("down", CpuStep::Linear(linear(gate, DOWN, down))),
        (
            "head",
            CpuStep::Linear(LinearStep {
                epilogue: Epilogue::Softcap { cap: 30.0 },
                ..linear(down, EMBEDDING, logits)
            }),
        ),
        (
            "softcap",
            CpuStep::Softcap {
                x: logits,
                cap: 30.0,
                out: logits,
            },
        ),
    ];
    let steps = steps
        .into_iter()
        .map(|(label, work)| Step {
            label: label.into(),
            work: Work::Cpu(work),
        })
        .collect();
    let program = Program {
        name: name.into(),
        phase,
        max_rows,
        max_outs,
        logits,
        candidates: None,
        steps,
    };
    (program, end)
}

pub fn references() -> References {
    let logits = |first: u32| (first..first + VOCAB).map(|i| i as f32 / 8.0).collect();
    References {
        tokens: vec![2, 7, 11],
        prefill_logits: logits(3),
        decode_token: 5,
        decode_logits: logits(9),
        tolerance: 1e-3,
    }
}

/// Bytes of the bundle, planes written in chunks of `chunk` bytes.
pub fn bundle(chunk: usize) -> Vec<u8> {
    let (manifest, _) = manifest();
    let references = references();
    let references_bytes = references.encode().map(|bytes| bytes.len() as u64);
    // What an interrupted writer left there must not show through.
    let dirty = Cursor::new(vec![0xaa; 100]);
    let mut writer = Writer::new(dirty, &manifest, Some(TOKENIZER), references_bytes).unwrap();
    let mut state: u32 = 1;
    while let Some((_, _, left)) = writer.next_plane() {
        let bytes: Vec<u8> = (0..left.min(chunk as u64))
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        writer.write(&bytes).unwrap();
    }
    writer
        .finish(manifest, Some(&references))
        .unwrap()
        .into_inner()
}
