//! What gemm's kernels look like, that they can be made for any shape, and how a large weight is cut.

use super::*;
use crate::kernel::{Guards, Kernels};
use crate::{lower_with, testing};
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::manifest::{
    Arena, Buffer, Device, Limits, Manifest, Phase, Plan, Program, Span, Step, WeightEntry,
    WeightKind, Work,
};

const FORMATS: [Format; 5] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8,
    Format::Q4,
];
const EPILOGUES: [Epilogue; 3] = [
    Epilogue::None,
    Epilogue::Geglu,
    Epilogue::Softcap { cap: 30.0 },
];

fn shape(rows: u32, n: u32, k: u32, format: Format, epilogue: Epilogue) -> GemmShape {
    let cols = match epilogue {
        Epilogue::Geglu => n / 2,
        Epilogue::None | Epilogue::Softcap { .. } => n,
    };
    GemmShape {
        max_rows: rows,
        rows: RowSet::Seq,
        k,
        n,
        format,
        epilogue,
        out_cols: cols,
        y_cols: cols,
    }
}

#[test]
fn kernels_of_a_small_shape() {
    let shape = shape(20, 64, 96, Format::Q4, Epilogue::Geglu);
    let tuning = GemmTuning {
        tile_m: 16,
        tile_n: 32,
        tile_k: 32,
        subgroup_m: 16,
        subgroup_n: 32,
        stages: 2,
        slices: 1,
    };
    let int8 = GemmTuning {
        stages: 1,
        ..tuning
    };
    let variants = vec![
        matrix_variant(&shape, MatrixShape::F16x16, tuning),
        matrix_variant(&shape, MatrixShape::F16x8, GemmTuning::matrix8()),
        matrix_variant(&shape, MatrixShape::I8x16x32, int8),
        matrix_variant(&shape, MatrixShape::I8x16, int8),
        matrix_variant(&shape, MatrixShape::I8x8, GemmTuning::matrix8()),
        portable_variant(&shape),
    ];
    let mut kernels = Kernels::new(Guards::Off);
    let spec = Spec {
        variants,
        ..spec(&shape)
    };
    kernels.add(spec).unwrap();
    let (kernel, sources) = kernels.sources().next().unwrap();
    testing::snapshot(kernel, sources, "gemm");
}

#[test]
fn every_format_and_epilogue_has_kernels_at_odd_shapes() {
    let mut kernels = Kernels::new(Guards::Off);
    for format in FORMATS {
        for epilogue in EPILOGUES {
            for (rows, n, k) in [(1, 32, 33), (17, 96, 100), (512, 13824, 1152)] {
                let spec = spec(&shape(rows, n, k, format, epilogue));
                let name = spec.name.clone();
                let index = kernels
                    .add(spec)
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                for variant in &kernels.get(index).variants {
                    // 48 KiB: the least that a device with 16 x 16 x 16 matrices has; 16 KiB: that any device has.
                    let limit = match variant.needs.matrix {
                        Some(MatrixShape::F16x16 | MatrixShape::I8x16 | MatrixShape::I8x16x32) => {
                            48 << 10
                        }
                        Some(MatrixShape::F16x8 | MatrixShape::I8x8) | None => 16 << 10,
                    };
                    assert!(variant.workgroup_bytes <= limit, "{name} {}", variant.name);
                    let invocations: u32 = variant.workgroup.iter().product();
                    assert!(invocations <= 256, "{name} {}", variant.name);
                }
            }
        }
    }
}

/// A prefill of one linear, lowered.
fn lowered(format: Format, rows: u32, cols: u32, epilogue: Epilogue) -> (Manifest, Program) {
    let out_cols = match epilogue {
        Epilogue::Geglu => rows / 2,
        Epilogue::None | Epilogue::Softcap { .. } => rows,
    };
    let max_rows = 64;
    let buffer = |offset, cols| Buffer {
        offset,
        rows: RowSet::Seq,
        cols,
    };
    let x = buffer(0, cols);
    let out = buffer(
        u64::from(max_rows * cols * 4).next_multiple_of(64),
        out_cols,
    );
    let scratch = Span {
        offset: (out.offset + u64::from(max_rows) * u64::from(out_cols) * 4).next_multiple_of(64),
        bytes: crate::linear::scratch_bytes(max_rows, cols, false),
    };
    let step = CpuStep::Linear(LinearStep {
        x,
        post_norm: None,
        residual: None,
        norm: None,
        eps: 1e-6,
        weight: 0,
        epilogue,
        out,
        scratch,
    });
    let mut weight = WeightEntry {
        name: "w".into(),
        format,
        rows,
        cols,
        kind: WeightKind::Matrix,
        data: Span::default(),
        scales: Span::default(),
        checksum: 0,
    };
    gembin_bundle::manifest::place_weights(std::slice::from_mut(&mut weight));
    let manifest = Manifest {
        limits: Limits {
            vocab: 32,
            context: 128,
            slots: 1,
        },
        arena: Arena {
            bytes: scratch.offset + scratch.bytes,
            cache_bytes: 0,
            caches: Vec::new(),
        },
        weights: vec![weight],
        plans: vec![Plan {
            name: "cpu".into(),
            devices: vec![Device::Cpu],
            programs: vec![Program {
                name: "prefill".into(),
                phase: Phase::Prefill,
                max_rows,
                max_outs: 1,
                logits: out,
                candidates: None,
                steps: vec![Step {
                    label: "linear".into(),
                    work: Work::Cpu(step),
                }],
            }],
        }],
        ..Manifest::default()
    };
    let mut kernels = Kernels::new(Guards::Off);
    let mut plan = lower_with(&manifest, &mut kernels).unwrap();
    let manifest = Manifest {
        kernels: kernels.finish(),
        ..manifest
    };
    (manifest, plan.programs.remove(0))
}

/// First column, columns, and the rows of the weight of each of a program's multiplications.
fn multiplications(manifest: &Manifest, program: &Program) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for step in &program.steps {
        let Work::Gpu(step) = &step.work else {
            continue;
        };
        if manifest.kernels[step.kernel as usize]
            .name
            .starts_with("gemm ")
        {
            let Extent::Fixed(rows) = step.work[1] else {
                panic!("a weight has as many rows in every call");
            };
            found.push((step.immediates[0], rows));
        }
    }
    found
}

#[test]
fn a_small_weight_is_one_dispatch() {
    for format in FORMATS {
        let (manifest, program) = lowered(format, 96, 128, Epilogue::None);
        assert_eq!(multiplications(&manifest, &program), [(0, 96)]);
    }
}

#[test]
fn pieces_of_a_large_weight_make_all_columns_once() {
    for (format, epilogue) in [
        (Format::Q8, Epilogue::None),
        (Format::Bf16, Epilogue::Geglu),
        (Format::F32, Epilogue::Softcap { cap: 30.0 }),
    ] {
        let rows = 262_144 + 32;
        let (manifest, program) = lowered(format, rows, 1152, epilogue);
        let found = multiplications(&manifest, &program);
        assert!(found.len() > 1, "{format:?}");
        let rows_a_column = match epilogue {
            Epilogue::Geglu => 2,
            Epilogue::None | Epilogue::Softcap { .. } => 1,
        };
        let mut next = 0;
        for (first_col, rows) in found {
            assert_eq!(first_col, next, "{format:?}");
            next = first_col + rows / rows_a_column;
        }
        assert_eq!(next, rows / rows_a_column, "{format:?}");
    }
}

#[test]
fn tiles_are_large_where_there_are_enough() {
    assert_eq!(GemmTuning::matrix16(512, 13_824).tile_m, 128);
    assert_eq!(GemmTuning::matrix16(512, 1152).tile_m, 64);
}
