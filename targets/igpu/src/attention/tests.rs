//! What the kernels around attention look like, and that programs with them pass the bundle's check at any shape.

use super::*;
use crate::kernel::{Guards, Kernels};
use crate::linear::scratch_bytes;
use crate::{lower_with, testing};
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::{Extent, Resource};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{
    Arena, Device, Limits, Manifest, Plan, Program, Span, Step, WeightEntry, WeightKind, Work,
    place_weights,
};

const VOCAB: u32 = 100;
const CONTEXT: u32 = 128;
const SLOTS: u32 = 3;

/// A model of one attention: embedding as q, k and v, then the head.
#[derive(Clone, Copy, Debug)]
struct Model {
    kv_heads: u32,
    group: u32,
    head_dim: u32,
    format: Format,
    window: Option<u32>,
    q_norm: bool,
    k_norm: bool,
    softcap: f32,
}

const SMALL: Model = Model {
    kv_heads: 1,
    group: 2,
    head_dim: 32,
    format: Format::F16,
    window: Some(40),
    q_norm: true,
    k_norm: true,
    softcap: 0.0,
};

/// A phase and, for prefill, whether only the rows asked for attend.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Rows {
    Prefill,
    PrefillOuts,
    Decode,
}

impl Model {
    fn heads(self) -> u32 {
        self.kv_heads * self.group
    }

    fn qkv_cols(self) -> u32 {
        (self.heads() + 2 * self.kv_heads) * self.head_dim
    }

    /// A program of the processor, and the bytes of its values.
    fn program(self, rows: Rows, max_rows: u32) -> (Program, u64) {
        let (heads, qkv_cols) = (self.heads(), self.qkv_cols());
        let mut end = 0;
        let mut take = |bytes: u64| {
            let offset = end;
            end = (offset + bytes).next_multiple_of(64);
            Span { offset, bytes }
        };
        let mut buffer = |rows: RowSet, cols: u32, words: u32| Buffer {
            offset: take(u64::from(max_rows) * u64::from(words.max(cols)) * 4).offset,
            rows,
            cols,
        };
        let last = match rows {
            Rows::Prefill | Rows::Decode => RowSet::Seq,
            Rows::PrefillOuts => RowSet::Out,
        };
        let qkv = buffer(RowSet::Seq, qkv_cols, 0);
        let table = buffer(RowSet::Seq, self.head_dim, 0);
        let q = buffer(RowSet::Seq, heads * self.head_dim, 0);
        let q_last = match rows {
            Rows::Prefill | Rows::Decode => q,
            Rows::PrefillOuts => buffer(last, q.cols, 0),
        };
        let attended = buffer(last, q.cols, part_words(heads, self.head_dim));
        let selected = match rows {
            Rows::Prefill | Rows::Decode => buffer(RowSet::Out, q.cols, 0),
            Rows::PrefillOuts => attended,
        };
        let logits = buffer(RowSet::Out, VOCAB, 0);
        let scratch = take(scratch_bytes(max_rows, q.cols, true));
        let rope_kv = CpuStep::RopeKv {
            qkv,
            table,
            cache: 0,
            q_heads: heads,
            q_norm: self.q_norm.then_some(1),
            k_norm: self.k_norm.then_some(2),
            eps: 1e-6,
            out: q,
        };
        let attention = CpuStep::Attention {
            q: q_last,
            cache: 0,
            heads,
            scale: 0.25,
            softcap: self.softcap,
            out: attended,
        };
        let head = LinearStep {
            x: attended,
            post_norm: None,
            residual: None,
            norm: None,
            eps: 0.0,
            weight: 3,
            epilogue: Epilogue::None,
            out: logits,
            scratch,
        };
        let mut steps = vec![
            CpuStep::Embed {
                table: 0,
                scale: 1.0,
                out: qkv,
            },
            CpuStep::RopeTable {
                theta: 1e4,
                factor: 1.0,
                out: table,
            },
            rope_kv,
        ];
        match rows {
            Rows::Prefill => steps.extend([
                attention,
                CpuStep::SelectRows {
                    x: attended,
                    out: selected,
                },
                CpuStep::Linear(LinearStep {
                    x: selected,
                    ..head
                }),
            ]),
            Rows::PrefillOuts => steps.extend([
                CpuStep::SelectRows { x: q, out: q_last },
                attention,
                CpuStep::Linear(head),
            ]),
            Rows::Decode => steps.extend([
                attention,
                CpuStep::Linear(LinearStep {
                    out: Buffer {
                        rows: RowSet::Seq,
                        ..logits
                    },
                    ..head
                }),
            ]),
        }
        let (phase, logits) = match rows {
            Rows::Prefill | Rows::PrefillOuts => (Phase::Prefill, logits),
            Rows::Decode => (
                Phase::Decode,
                Buffer {
                    rows: RowSet::Seq,
                    ..logits
                },
            ),
        };
        let program = Program {
            name: "program".into(),
            phase,
            max_rows,
            max_outs: max_rows,
            logits,
            candidates: None,
            steps: steps
                .into_iter()
                .enumerate()
                .map(|(index, step)| Step {
                    label: format!("step{index}"),
                    work: Work::Cpu(step),
                })
                .collect(),
        };
        (program, end)
    }

    /// The manifest with the processor's plan, and the length of its weights. `rows`: of its prefill.
    fn manifest(self, rows: Rows, chunk: u32) -> (Manifest, u64) {
        let (prefill, prefill_end) = self.program(rows, chunk);
        let (decode, decode_end) = self.program(Rows::Decode, SLOTS);
        let end = prefill_end.max(decode_end);
        let mut weights = [
            ("embedding", VOCAB, self.qkv_cols(), WeightKind::Matrix),
            ("q_norm", 1, self.head_dim, WeightKind::Vector),
            ("k_norm", 1, self.head_dim, WeightKind::Vector),
            (
                "head",
                VOCAB,
                self.heads() * self.head_dim,
                WeightKind::Matrix,
            ),
        ]
        .map(|(name, rows, cols, kind)| WeightEntry {
            name: name.into(),
            format: Format::F32,
            rows,
            cols,
            kind,
            data: Span::default(),
            scales: Span::default(),
            checksum: 0,
        })
        .to_vec();
        let weights_bytes = place_weights(&mut weights);
        let element: u64 = if self.format == Format::F16 { 2 } else { 4 };
        let capacity = match self.window {
            Some(window) => (window + chunk).min(CONTEXT),
            None => CONTEXT,
        };
        let cells = u64::from(SLOTS * self.kv_heads) * u64::from(capacity * self.head_dim);
        let bytes = 2 * cells * element;
        let cache = Cache {
            name: "cache".into(),
            format: self.format,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            capacity,
            window: self.window,
            offset: end,
            bytes,
        };
        let manifest = Manifest {
            limits: Limits {
                vocab: VOCAB,
                context: CONTEXT,
                slots: SLOTS,
            },
            arena: Arena {
                bytes: end + bytes,
                cache_bytes: bytes,
                caches: vec![cache],
            },
            weights,
            plans: vec![Plan {
                name: "cpu".into(),
                devices: vec![Device::Cpu],
                programs: vec![prefill, decode],
            }],
            ..Manifest::default()
        };
        (manifest, weights_bytes)
    }

    /// The same with the GPU's plan beside the processor's, as the bundle would have it.
    fn lowered(self, rows: Rows, chunk: u32) -> Manifest {
        let (manifest, weights_bytes) = self.manifest(rows, chunk);
        testing::lowered(manifest, weights_bytes, &(self, rows))
    }
}

fn models() -> impl Iterator<Item = Model> {
    let shapes = [
        (1, 4, 256),
        (4, 2, 256),
        (1, 1, 2),
        (2, 3, 34),
        (3, 1, 6),
        (1, 16, 64),
        (1, 11, 80),
        (2, 35, 32),
        (1, 3, 500),
        (1, 8, 512),
    ];
    shapes.into_iter().flat_map(|(kv_heads, group, head_dim)| {
        [(Format::F16, None, 50.0), (Format::F32, Some(33), 0.0)].map(
            |(format, window, softcap)| Model {
                kv_heads,
                group,
                head_dim,
                format,
                window,
                q_norm: head_dim != 80,
                k_norm: head_dim != 34,
                softcap,
            },
        )
    })
}

#[test]
fn programs_of_any_shape_pass_the_check() {
    for model in models() {
        for (rows, chunk) in [(Rows::Prefill, 37), (Rows::PrefillOuts, 5)] {
            let manifest = model.lowered(rows, chunk);
            let ours = ["attention", "rope_kv", "candidates"];
            for kernel in &manifest.kernels {
                if !ours.iter().any(|kind| kernel.name.starts_with(kind)) {
                    continue;
                }
                for variant in &kernel.variants {
                    let name = format!("{} {}", kernel.name, variant.name);
                    // The least that devices with 16 x 16 x 16 matrices, and the least that any desktop device has.
                    let limit = if variant.name == "matrix16" { 48 } else { 32 };
                    assert!(variant.workgroup_bytes <= limit << 10, "{name}");
                    assert!(variant.workgroup.iter().product::<u32>() <= 256, "{name}");
                }
            }
        }
    }
}

#[test]
fn decode_norms_rotates_stores_and_attends_in_one_dispatch() {
    let manifest = SMALL.lowered(Rows::Prefill, 8);
    let programs = &manifest.plans[1].programs;
    let decode = programs.iter().find(|p| p.phase == Phase::Decode).unwrap();
    let attends: Vec<_> = decode
        .steps
        .iter()
        .filter_map(|step| match &step.work {
            Work::Gpu(step) => Some(step),
            Work::Cpu(_) | Work::Npu(_) => None,
        })
        .filter(|step| step.bindings.contains(&Resource::Keys(0)))
        .collect();
    assert_eq!(attends.len(), 1);
    assert_eq!(
        attends[0].work,
        [
            Extent::Fixed(SMALL.heads()),
            Extent::Fixed(SPLITS),
            Extent::Rows(RowSet::Seq)
        ]
    );
}

#[test]
fn a_rotation_for_another_attention_is_refused() {
    let (mut manifest, _) = SMALL.manifest(Rows::Prefill, 8);
    for step in &mut manifest.plans[0].programs[1].steps {
        if let Work::Cpu(CpuStep::Attention { q, .. }) = &mut step.work {
            q.offset += 64;
        }
    }
    let error = lower_with(&manifest, &mut Kernels::new(Guards::Off)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step3: it does not attend with what was rotated before"
    );
}

#[test]
fn heads_that_no_kernel_takes_are_refused() {
    for (head_dim, group) in [(514, 1), (1024, 2)] {
        let model = Model {
            head_dim,
            group,
            ..SMALL
        };
        let (manifest, _) = model.manifest(Rows::Prefill, 4);
        let error = lower_with(&manifest, &mut Kernels::new(Guards::Off)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "step3: the gpu takes heads of an even dimension of at most 512"
        );
    }
}

#[test]
fn matrices_serve_heads_made_of_them() {
    let variants = |head_dim, format| {
        let model = Model {
            head_dim,
            format,
            ..SMALL
        };
        let manifest = model.lowered(Rows::Prefill, 37);
        let kernel = manifest
            .kernels
            .into_iter()
            .find(|kernel| kernel.name.starts_with("attention_tile"));
        let variants = kernel.unwrap().variants;
        variants.into_iter().map(|v| v.name).collect::<Vec<_>>()
    };
    assert_eq!(
        variants(256, Format::F16),
        ["matrix16", "matrix8", "portable"]
    );
    assert_eq!(variants(40, Format::F16), ["matrix8", "portable"]);
    assert_eq!(variants(34, Format::F16), ["portable"]);
    assert_eq!(variants(256, Format::F32), ["portable"]);
}

fn snapshot(rows: Rows, kind: &str) {
    testing::snapshot_of(&SMALL.manifest(rows, 8).0, kind);
}

#[test]
fn kernels_of_a_small_shape() {
    snapshot(Rows::Prefill, "attention_split rope");
    snapshot(Rows::PrefillOuts, "attention_split out");
    snapshot(Rows::Prefill, "attention_tile");
    snapshot(Rows::Prefill, "rope_kv");
    snapshot(Rows::Prefill, "candidates 64");
    snapshot(Rows::Prefill, "candidates_merge");
}
