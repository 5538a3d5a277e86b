//! What linears and the row kernels around them are lowered to: programs that pass the bundle's check at any shape, how
//! many dispatches and barriers, how large matrices are cut, and what the kernels look like.

use super::*;
use crate::kernel::{Guards, Kernels};
use crate::{LowerError, lower_with, testing};
use gembin_bundle::cpu::{CpuStep, Epilogue, Residual};
use gembin_bundle::gpu::{GpuStep, Resource};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{
    Arena, Buffer, Device, Limits, Manifest, Plan, Program, Span, Step, WeightEntry, WeightKind,
    Work, place_weights,
};

const FORMATS: [Format; 5] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8,
    Format::Q4,
];

/// A model of a layer: an embedding, a linear with everything around it, and a head.
#[derive(Clone, Copy, Debug)]
struct Model {
    format: Format,
    hidden: u32,
    inner: u32,
    geglu: bool,
    vocab: u32,
    slots: u32,
    chunk: u32,
    /// Divides the frequencies of the rope table.
    factor: f32,
}

const SMALL: Model = Model {
    format: Format::Q4,
    hidden: 64,
    inner: 32,
    geglu: true,
    vocab: 96,
    slots: 3,
    chunk: 20,
    factor: 1.0,
};

// Weights by their order in `Model::manifest`.
const TABLE: u32 = 0;
const INNER: u32 = 1;
const HEAD: u32 = 2;
const POST_NORM: u32 = 3;
const NORM: u32 = 4;

/// Places values one after the other.
struct Places(u64);

impl Places {
    fn span(&mut self, bytes: u64) -> Span {
        let offset = self.0.next_multiple_of(64);
        self.0 = offset + bytes;
        Span { offset, bytes }
    }

    fn buffer(&mut self, rows: RowSet, max_rows: u32, cols: u32) -> Buffer {
        let span = self.span(u64::from(max_rows) * u64::from(cols) * 4);
        Buffer {
            offset: span.offset,
            rows,
            cols,
        }
    }
}

impl Model {
    fn program(self, phase: Phase) -> (Program, u64) {
        let (name, max_rows) = match phase {
            Phase::Prefill => ("prefill", self.chunk),
            Phase::Decode => ("decode", self.slots),
        };
        let mut places = Places(0);
        let mut seq = |cols| places.buffer(RowSet::Seq, max_rows, cols);
        let [x, from, to] = [seq(self.hidden), seq(self.hidden), seq(self.hidden)];
        let table = seq(64);
        let inner_cols = self.inner / if self.geglu { 2 } else { 1 };
        let inner = seq(inner_cols);
        let mut out = |cols| places.buffer(RowSet::Out, max_rows, cols);
        let [selected, head_from, head_to] = [out(inner_cols), out(inner_cols), out(inner_cols)];
        let logits = out(self.vocab);
        let scratch = places.span(scratch_bytes(max_rows, self.hidden, false));
        let head_scratch = places.span(scratch_bytes(max_rows, inner_cols, true));
        let linear = LinearStep {
            x,
            post_norm: Some(POST_NORM),
            residual: Some(Residual { from, to }),
            norm: Some(NORM),
            eps: 1e-6,
            weight: INNER,
            epilogue: match self.geglu {
                true => Epilogue::Geglu,
                false => Epilogue::None,
            },
            out: inner,
            scratch,
        };
        let head = LinearStep {
            x: selected,
            post_norm: None,
            residual: Some(Residual {
                from: head_from,
                to: head_to,
            }),
            norm: None,
            eps: 1e-6,
            weight: HEAD,
            epilogue: Epilogue::Softcap { cap: 30.0 },
            out: logits,
            scratch: head_scratch,
        };
        let embed = |out| CpuStep::Embed {
            table: TABLE,
            scale: 8.0,
            out,
        };
        let select = |out| CpuStep::SelectRows { x: inner, out };
        let steps = [
            embed(x),
            embed(from),
            CpuStep::RopeTable {
                theta: 10_000.0,
                factor: self.factor,
                out: table,
            },
            CpuStep::Linear(linear),
            select(selected),
            select(head_from),
            CpuStep::Linear(head),
        ];
        let program = Program {
            name: name.into(),
            phase,
            max_rows,
            max_outs: max_rows,
            logits,
            candidates: None,
            steps: steps
                .into_iter()
                .map(|step| Step {
                    label: "step".into(),
                    work: Work::Cpu(step),
                })
                .collect(),
        };
        (program, places.0)
    }

    /// With the processor's plan alone, and the bytes of its weights.
    fn manifest(self) -> (Manifest, u64) {
        let (prefill, prefill_end) = self.program(Phase::Prefill);
        let (decode, decode_end) = self.program(Phase::Decode);
        let inner_cols = self.inner / if self.geglu { 2 } else { 1 };
        let mut weights = [
            ("table", self.vocab, self.hidden, WeightKind::Matrix),
            ("inner", self.inner, self.hidden, WeightKind::Matrix),
            ("head", self.vocab, inner_cols, WeightKind::Matrix),
            ("post_norm", 1, self.hidden, WeightKind::Vector),
            ("norm", 1, self.hidden, WeightKind::Vector),
        ]
        .map(|(name, rows, cols, kind)| WeightEntry {
            name: name.into(),
            format: match kind {
                WeightKind::Matrix => self.format,
                WeightKind::Vector => Format::F32,
            },
            rows,
            cols,
            kind,
            data: Span::default(),
            scales: Span::default(),
            checksum: 0,
        })
        .to_vec();
        let weights_bytes = place_weights(&mut weights);
        let manifest = Manifest {
            limits: Limits {
                vocab: self.vocab,
                context: 1000,
                slots: self.slots,
            },
            arena: Arena {
                bytes: prefill_end.max(decode_end).next_multiple_of(64),
                cache_bytes: 0,
                caches: Vec::new(),
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

    /// With the GPU's plan too, as the bundle would have it, after the bundle's check.
    fn lowered(self) -> Manifest {
        let (manifest, weights_bytes) = self.manifest();
        testing::lowered(manifest, weights_bytes, &self)
    }
}

/// The dispatches of a program of the GPU's plan, with their kernels' names.
fn dispatches<'a>(manifest: &'a Manifest, program: &str) -> Vec<(&'a str, &'a GpuStep)> {
    let programs = &manifest.plans[1].programs;
    let found = programs.iter().find(|p| p.name == program).unwrap();
    found
        .steps
        .iter()
        .map(|step| match &step.work {
            Work::Gpu(step) => (manifest.kernels[step.kernel as usize].name.as_str(), step),
            Work::Cpu(_) | Work::Npu(_) => panic!("a step of another device in the GPU's plan"),
        })
        .collect()
}

/// First words of the names of a program's kernels.
fn kinds<'a>(manifest: &'a Manifest, program: &str) -> Vec<&'a str> {
    dispatches(manifest, program)
        .into_iter()
        .map(|(name, _)| name.split(' ').next().unwrap())
        .filter(|kind| !kind.starts_with("candidates"))
        .collect()
}

#[test]
fn programs_of_any_shape_pass_the_check() {
    let shapes = [
        (70, 96, true, 101, 1, 5),
        (132, 302, false, 517, 3, 37),
        (1030, 64, true, 4099, 9, 64),
        (33, 1, false, 17, 2, 1),
        (36_864, 32, true, 96, 1, 17),
    ];
    for format in FORMATS {
        for (hidden, inner, geglu, vocab, slots, chunk) in shapes {
            let model = Model {
                format,
                hidden,
                inner,
                geglu,
                vocab,
                slots,
                chunk,
                factor: 8.0,
            };
            let manifest = model.lowered();
            for kernel in manifest
                .kernels
                .iter()
                .filter(|k| !k.name.starts_with("gemm"))
            {
                for variant in &kernel.variants {
                    let name = format!("{} {}", kernel.name, variant.name);
                    assert!(variant.workgroup_bytes <= 32 << 10, "{name}");
                    assert!(variant.workgroup.iter().product::<u32>() <= 512, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_row_is_one_dispatch_a_linear() {
    let manifest = SMALL.lowered();
    let rows = ["embed", "embed", "rope_table", "gemv", "select_rows"];
    let head = ["select_rows", "gemv"];
    assert_eq!(kinds(&manifest, "decode-1"), [&rows[..], &head].concat());
}

#[test]
fn several_rows_are_prepared_first_and_many_multiplied_by_gemm() {
    let manifest = SMALL.lowered();
    let embed = ["embed", "embed", "rope_table"];
    let head = ["select_rows", "select_rows", "prepare", "gemv_rows"];
    let few = ["prepare", "gemv_rows"];
    assert_eq!(
        kinds(&manifest, "decode"),
        [&embed[..], &few, &head].concat()
    );
    let many = ["prepare", "gemm"];
    assert_eq!(
        kinds(&manifest, "prefill"),
        [&embed[..], &many, &head].concat()
    );
}

#[test]
fn a_row_too_long_for_workgroup_memory_is_prepared() {
    for (hidden, kind) in [(21_504, "gemv"), (36_864, "prepare")] {
        let long = Model { hidden, ..SMALL };
        let manifest = long.lowered();
        assert_eq!(kinds(&manifest, "decode-1")[3], kind, "{hidden}");
    }
}

#[test]
fn pieces_of_a_large_head_make_all_columns_once_without_waiting() {
    for (format, hidden) in [(Format::Q8, 1152), (Format::F32, 640)] {
        let model = Model {
            format,
            hidden: 64,
            inner: 2 * hidden,
            vocab: 262_144 + 16,
            slots: 2,
            ..SMALL
        };
        let manifest = model.lowered();
        let all = dispatches(&manifest, "decode-1");
        let (last, rest) = all
            .iter()
            .filter(|(name, _)| name.starts_with("gemv "))
            .skip(1)
            .map(|(_, step)| step)
            .collect::<Vec<_>>()
            .split_last()
            .map(|(last, rest)| (*last, rest.to_vec()))
            .unwrap();
        assert!(!rest.is_empty(), "{format:?}");
        let written = |step: &GpuStep| {
            let kernel = &manifest.kernels[step.kernel as usize];
            step.bindings
                .iter()
                .zip(&kernel.bindings)
                .filter_map(|(resource, need)| match resource {
                    Resource::Value(buffer) if need.access != gembin_bundle::gpu::Access::Read => {
                        Some(*buffer)
                    }
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        // The first stores the sum with the residual, before its columns.
        let mut next = written(rest[0])[1].offset;
        for (index, step) in rest.iter().chain([&last]).enumerate() {
            let buffers = written(step);
            assert_eq!(buffers.len(), if index == 0 { 2 } else { 1 });
            let columns = buffers.last().unwrap();
            assert_eq!(columns.offset, next, "{format:?}");
            next += u64::from(columns.cols) * 4;
            assert!(
                index == 0 || !step.barrier,
                "{format:?}: piece {index} waits"
            );
        }
        let logits = manifest.plans[1].programs[0].logits;
        assert_eq!(logits.cols, model.vocab);
        let decode = manifest.plans[1]
            .programs
            .iter()
            .find(|p| p.name == "decode-1");
        let logits = decode.unwrap().logits;
        assert_eq!(next, logits.offset + u64::from(logits.cols) * 4);
    }
}

#[test]
fn a_large_table_is_bound_in_pieces() {
    let embeds = |format, hidden| {
        let model = Model {
            format,
            hidden,
            vocab: 262_144,
            ..SMALL
        };
        let manifest = model.lowered();
        dispatches(&manifest, "decode-1")
            .iter()
            .filter(|(name, _)| name.starts_with("embed "))
            // The call and the result are no pieces.
            .map(|(_, step)| step.bindings.len() - 2)
            .collect::<Vec<_>>()
    };
    // Data and scales of three pieces, twice; a table of ten pieces takes two dispatches.
    assert_eq!(embeds(Format::Q8, 1152), [6, 6]);
    assert_eq!(embeds(Format::F32, 1152), [7, 3, 7, 3]);
}

#[test]
fn what_no_kernel_does_is_refused() {
    let lower = |manifest: &Manifest| lower_with(manifest, &mut Kernels::new(Guards::Off));
    let far = Model {
        factor: 1e-5,
        ..SMALL
    };
    let error = lower(&far.manifest().0).unwrap_err();
    assert!(
        matches!(&error, LowerError::Unsupported { what, .. } if what.contains("rotation")),
        "{error}"
    );

    let (mut manifest, _) = SMALL.manifest();
    for program in &mut manifest.plans[0].programs {
        for step in &mut program.steps {
            if let Work::Cpu(CpuStep::Linear(linear)) = &mut step.work {
                linear.scratch.bytes = 64;
            }
        }
    }
    let error = lower(&manifest).unwrap_err();
    assert!(
        matches!(&error, LowerError::Unsupported { what, .. } if what.contains("scratch")),
        "{error}"
    );
}

fn snapshot(model: Model, kind: &str) {
    testing::snapshot_of(&model.manifest().0, kind);
}

#[test]
fn kernels_of_a_small_shape() {
    let f16 = Model {
        format: Format::F16,
        ..SMALL
    };
    snapshot(SMALL, "gemv q4");
    snapshot(f16, "gemv f16");
    snapshot(SMALL, "gemv_rows");
    snapshot(SMALL, "prepare int8");
    snapshot(SMALL, "prepare f16 or int8");
    snapshot(f16, "prepare f16");
    snapshot(f16, "prepare f32");
    snapshot(SMALL, "embed q4");
    snapshot(SMALL, "rope_table");
    snapshot(SMALL, "select_rows");
}
