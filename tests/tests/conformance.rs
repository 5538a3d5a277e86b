//! One suite of cases for every device: what the interpreter computes, the processor and Vulkan compute.
//!
//! A case is a random model whose shapes are no multiples of any tile, a way to quantize it, and a chunk. It is run
//! in chunks past its window and past a ring of its cache, then token by token, for one sequence and for several.
//! Logits of every token are compared with the interpreter's, which reads the very bytes of the bundle.

use gembin_bundle::gpu::MatrixShape;
use gembin_compiler::assemble::WeightTable;
use gembin_compiler::pipeline::{self, CompileOptions, KvFormat, Quant};
use gembin_compiler::reference::PackedWeights;
use gembin_ir::interp::{Inputs, Interpreter};
use gembin_passes::Stage;
use gembin_runtime::drivers::vulkan::{CacheFolder, Gpu, Variants, VulkanOptions};
use gembin_runtime::engine::{Engine, OpenOptions, Wanted};
use gembin_runtime::loader::{Bundle, Integrity};
use gembin_tests::random_model::{Random, RandomModel};
use gembin_tests::{mesa, relative_l2, scratch_dir};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A model, how it is compiled, and how close devices must come.
struct Case {
    model: RandomModel,
    quant: Quant,
    kv: KvFormat,
    chunk: u32,
    sequences: u32,
}

/// Largest relative distances from the interpreter: of prefilled rows, and of decoded ones.
#[derive(Clone, Copy)]
struct Tolerance {
    prefill: f64,
    decode: f64,
}

/// Logits of a run, row by row.
struct Logits {
    prefill: Vec<Vec<f32>>,
    decode: Vec<Vec<f32>>,
}

const GEMMA2: RandomModel = RandomModel {
    name: "gemma2",
    gemma3: false,
    hidden: 70,
    ffn: 94,
    heads: 6,
    kv_heads: 2,
    head_dim: 34,
    vocab: 301,
    window: 11,
    sliding: &[true, false],
    seed: 1,
    broken: false,
};

const GEMMA3: RandomModel = RandomModel {
    name: "gemma3",
    gemma3: true,
    hidden: 132,
    ffn: 200,
    heads: 3,
    kv_heads: 1,
    head_dim: 96,
    vocab: 517,
    window: 19,
    sliding: &[true, false],
    seed: 2,
    broken: false,
};

const WIDE: RandomModel = RandomModel {
    name: "wide",
    gemma3: true,
    hidden: 1030,
    ffn: 2100,
    heads: 4,
    kv_heads: 4,
    head_dim: 256,
    vocab: 4099,
    window: 33,
    sliding: &[true],
    seed: 3,
    broken: false,
};

const QUANTS: [(Quant, KvFormat); 4] = [
    (Quant::None, KvFormat::F32),
    (Quant::None, KvFormat::F16),
    (Quant::Q8, KvFormat::F16),
    (Quant::Q4, KvFormat::F16),
];

/// Tokens of a run: prefilled past two chunks and the ring, then decoded.
const PREFILL: usize = 75;
const DECODE: usize = 6;
const CONTEXT: u32 = 96;

/// Tokens of a slot's prompt.
fn prompt(slot: usize) -> usize {
    PREFILL - 3 * slot
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, (quant, kv)) in QUANTS.into_iter().enumerate() {
        for (model, chunk) in [(GEMMA2, 32), (GEMMA3, 37), (WIDE, 64)] {
            cases.push(Case {
                model,
                quant,
                kv,
                chunk,
                // So that one, several and more than a tile of sequences meet every format.
                sequences: [1, 3, 9][(index + chunk as usize) % 3],
            });
        }
    }
    cases
}

impl Case {
    fn name(&self) -> String {
        format!(
            "{} {} kv {} chunk {} sequences {}",
            self.model.name,
            self.quant.name(),
            self.kv.name(),
            self.chunk,
            self.sequences
        )
    }

    fn options(&self) -> CompileOptions {
        CompileOptions {
            quant: self.quant,
            kv: Some(self.kv),
            context: Some(CONTEXT),
            sequences: self.sequences,
            chunk: Some(self.chunk),
            ..CompileOptions::default()
        }
    }

    /// The text of a slot: each has its own, and its own length of prompt.
    fn tokens(&self, slot: usize) -> Vec<u32> {
        let mut random = Random(self.model.seed + 100 + slot as u64);
        (0..prompt(slot) + DECODE)
            .map(|_| (random.bits() % self.model.vocab as u64) as u32)
            .collect()
    }

    /// Writes and compiles it: the checkpoint's folder and the bundle.
    fn compile(&self, dir: &Path) -> PathBuf {
        let bundle = dir.join("m.gembin");
        self.model.write(dir);
        pipeline::compile(
            dir,
            &bundle,
            &self.options(),
            &gembin_compiler::progress::Silent,
            &AtomicBool::new(false),
        )
        .unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        bundle
    }

    /// What the interpreter computes from the bundle's own bytes.
    fn interpret(&self, dir: &Path, bundle: &Path) -> Logits {
        let imported =
            pipeline::import_and_run(dir, &self.options(), Stage::Plan).expect("imports");
        let module = &imported.module;
        let mut table = WeightTable::of(module);
        gembin_bundle::manifest::place_weights(&mut table.entries);
        let bundle = Bundle::open(bundle, Integrity::Weights).expect("a sound bundle");
        let bytes = bundle.weights();
        let weights = PackedWeights {
            table: &table,
            bytes: (*bytes).as_ref(),
        };
        let mut interpreter = Interpreter::new(module, &weights).with_int8_activations();
        let mut logits = Logits {
            prefill: Vec::new(),
            decode: Vec::new(),
        };
        for slot in 0..self.sequences as usize {
            self.interpret_slot(&mut interpreter, slot, &mut logits);
        }
        logits
    }

    fn interpret_slot(&self, interpreter: &mut Interpreter<'_>, slot: usize, logits: &mut Logits) {
        let tokens = self.tokens(slot);
        let mut done = 0;
        while done < tokens.len() {
            let (function, count) = match done < prompt(slot) {
                true => ("prefill", (prompt(slot) - done).min(self.chunk as usize)),
                false => ("decode", 1),
            };
            let ids: Vec<i32> = tokens[done..done + count]
                .iter()
                .map(|&t| t as i32)
                .collect();
            let pos: Vec<i32> = (done..done + count).map(|p| p as i32).collect();
            let out: Vec<i32> = (0..count as i32).collect();
            let results = interpreter
                .call(
                    function,
                    &Inputs {
                        ids: &ids,
                        pos: &pos,
                        slot: &vec![slot as i32; count],
                        out: if function == "prefill" { &out } else { &[] },
                    },
                )
                .expect("the interpreter runs");
            let rows = (0..count).map(|row| results[0].row(row).to_vec());
            match function {
                "prefill" => logits.prefill.extend(rows),
                _ => logits.decode.extend(rows),
            }
            done += count;
        }
    }

    /// The texts of all slots in one engine, decoded together.
    fn run(&self, bundle: &Path, options: &OpenOptions) -> Logits {
        let mut engine =
            Engine::open(bundle, options).unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        let mut logits = Logits {
            prefill: Vec::new(),
            decode: Vec::new(),
        };
        let slots = 0..self.sequences as usize;
        for slot in slots.clone() {
            engine
                .prefill(
                    slot,
                    &self.tokens(slot)[..prompt(slot)],
                    Wanted::Every(&mut |_, block| {
                        let rows = block.chunks(self.model.vocab).map(<[f32]>::to_vec);
                        logits.prefill.extend(rows);
                        ControlFlow::Continue(())
                    }),
                )
                .unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        }
        let mut decoded: Vec<Vec<Vec<f32>>> = vec![Vec::new(); slots.len()];
        for step in 0..DECODE {
            // In another order than the slots'.
            let calls: Vec<(usize, u32)> = slots
                .clone()
                .rev()
                .map(|slot| (slot, self.tokens(slot)[prompt(slot) + step]))
                .collect();
            let rows = engine
                .decode(&calls)
                .unwrap_or_else(|e| panic!("{}: {e}", self.name()));
            for ((slot, _), row) in calls.iter().zip(rows.chunks(self.model.vocab)) {
                decoded[*slot].push(row.to_vec());
            }
        }
        logits.decode = decoded.concat();
        logits
    }

    fn hold(&self, device: &str, got: &Logits, want: &Logits, tolerance: Tolerance) -> Vec<String> {
        let mut faults = Vec::new();
        let phases = [
            ("prefill", &got.prefill, &want.prefill, tolerance.prefill),
            ("decode", &got.decode, &want.decode, tolerance.decode),
        ];
        for (phase, got, want, most) in phases {
            assert_eq!(got.len(), want.len(), "{} {phase}", self.name());
            let distances = got.iter().zip(want).map(|(g, w)| relative_l2(g, w));
            let (row, worst) = distances
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .expect("rows");
            eprintln!(
                "{}: {device} {phase}: {worst:.2e} at row {row}",
                self.name()
            );
            // A NaN is no number below the bar.
            if worst.is_nan() || worst > most {
                faults.push(format!(
                    "{}: {device} {phase} row {row} is {worst:.2e} off, at most {most:.0e} is allowed",
                    self.name()
                ));
            }
        }
        faults
    }
}

/// Runs cases on a device and holds them to the interpreter.
fn conform(
    device: &str,
    cases: Vec<Case>,
    options: &OpenOptions,
    tolerance: impl Fn(&Case) -> Tolerance,
) {
    let mut faults = Vec::new();
    for case in cases {
        let dir = scratch_dir();
        let bundle = case.compile(dir.path());
        let want = case.interpret(dir.path(), &bundle);
        let got = case.run(&bundle, options);
        faults.extend(case.hold(device, &got, &want, tolerance(&case)));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_processor_computes_what_the_interpreter_computes() {
    let options = OpenOptions {
        device: "cpu".parse().expect("a device"),
        threads: 2,
        ..OpenOptions::default()
    };
    conform("cpu", cases(), &options, |case| match case.quant {
        Quant::None if case.kv == KvFormat::F32 => Tolerance {
            prefill: 1e-5,
            decode: 1e-5,
        },
        // A key on the other side of a half rounds to its neighbour.
        Quant::None => Tolerance {
            prefill: 2e-4,
            decode: 2e-4,
        },
        // A sum on the other side of a half moves an activation by a whole step.
        Quant::Q8 | Quant::Q4 => Tolerance {
            prefill: 1e-2,
            decode: 1e-2,
        },
    });
}

/// What Vulkan is held to.
fn on_a_gpu(case: &Case) -> Tolerance {
    match case.quant {
        // Prefill rounds activations to f16.
        Quant::None => Tolerance {
            prefill: 2e-3,
            decode: 2e-3,
        },
        Quant::Q8 | Quant::Q4 => Tolerance {
            prefill: 3e-2,
            decode: 2e-2,
        },
    }
}

fn vulkan(variants: Variants) -> OpenOptions {
    OpenOptions {
        device: "vulkan".parse().expect("a device"),
        vulkan: VulkanOptions {
            variants,
            cache: CacheFolder::None,
            ..VulkanOptions::default()
        },
        ..OpenOptions::default()
    }
}

#[test]
fn vulkan_computes_what_the_interpreter_computes() {
    let options = vulkan(Variants::Best);
    conform("vulkan", cases(), &options, on_a_gpu);
}

#[test]
fn vulkans_packed_dot_products_compute_the_same() {
    // A device with slow ones leaves them alone unless it is told otherwise.
    let options = vulkan(Variants::Named("dot4".into()));
    let mut cases = cases();
    cases.retain(|case| case.quant != Quant::None);
    conform("vulkan dot4", cases, &options, on_a_gpu);
}

/// Kinds of matrix units, and the variants on them.
const F16_MATRICES: [(MatrixShape, &str); 2] = [
    (MatrixShape::F16x8, "matrix8"),
    (MatrixShape::F16x16, "matrix16"),
];
const INT8_MATRICES: [(MatrixShape, &str); 3] = [
    (MatrixShape::I8x8, "int8-matrix8"),
    (MatrixShape::I8x16, "int8-matrix16"),
    (MatrixShape::I8x16x32, "int8-matrix16x32"),
];

/// Set where the device at hand is there for its matrices of 8 x 8 x 8: that it lacks them fails the tests.
const EXPECTED: &str = "GEMBIN_EXPECT_MATRICES";

/// Runs something with the variants on each of those kinds of matrix units that a device here has, on that device.
///
/// A device that has them must have the variants: the driver refuses a name that no kernel has. That none has any is
/// told: `make test` runs these tests once more on the Mesa that has, and counts a line `skipped:` where that Mesa is
/// not there either.
fn on_matrices(kinds: &[(MatrixShape, &str)], run: impl Fn(&str, &OpenOptions)) {
    let options = VulkanOptions::default();
    let gpus = gembin_runtime::drivers::vulkan::gpus(&options).expect("a Vulkan device");
    let with = |shape: MatrixShape| {
        gpus.iter().find(|gpu: &&Gpu| {
            let abilities = gpu.abilities.as_ref();
            abilities.is_ok_and(|abilities| abilities.matrices.contains(&shape))
        })
    };
    let mut lacking = Vec::new();
    for &(shape, variant) in kinds {
        let Some(gpu) = with(shape) else {
            lacking.push(variant);
            continue;
        };
        let options = OpenOptions {
            device: format!("vulkan:{}", gpu.index).parse().expect("a device"),
            ..vulkan(Variants::Named(variant.into()))
        };
        run(variant, &options);
    }
    let (_, smallest) = kinds[0];
    assert!(
        std::env::var_os(EXPECTED).is_none() || !lacking.contains(&smallest),
        "this device is here for its matrices and has none for {smallest}"
    );
    if lacking.len() == kinds.len() {
        mesa::tell_of_later(&format!(
            "vulkan {smallest}: no device here has its matrices"
        ));
    } else {
        println!(
            "note: no device here has matrices for {}",
            lacking.join(", ")
        );
    }
}

#[test]
fn vulkans_matrices_of_f16_compute_the_same() {
    on_matrices(&F16_MATRICES, |variant, options| {
        let mut cases = cases();
        cases.retain(|case| case.model.name != "wide");
        conform(&format!("vulkan {variant}"), cases, options, on_a_gpu);
    });
}

#[test]
fn vulkans_matrices_of_int8_compute_the_same() {
    on_matrices(&INT8_MATRICES, |variant, options| {
        let mut cases = cases();
        cases.retain(|case| case.quant != Quant::None && case.model.name != "wide");
        conform(&format!("vulkan {variant}"), cases, options, on_a_gpu);
    });
}

/// Sums of integers are exact, so nothing but the order of f32 sums differs, until an activation of some row lies so
/// close to a half that it rounds to the other side. In the first row of few layers none does.
#[test]
fn vulkans_matrices_of_int8_differ_in_rounding_alone() {
    on_matrices(&INT8_MATRICES, |variant, options| {
        for (model, quant) in [
            (GEMMA2, Quant::Q8),
            (GEMMA2, Quant::Q4),
            (GEMMA3, Quant::Q8),
            (GEMMA3, Quant::Q4),
        ] {
            let case = Case {
                model,
                quant,
                kv: KvFormat::F32,
                chunk: 32,
                sequences: 1,
            };
            let dir = scratch_dir();
            let bundle = case.compile(dir.path());
            let want = case.interpret(dir.path(), &bundle);
            let got = case.run(&bundle, options);
            let distance = relative_l2(&got.prefill[0], &want.prefill[0]);
            let about = format!("{}: {variant} first row {distance:.2e}", case.name());
            eprintln!("{about}");
            assert!(distance < 1e-5, "{about}");
        }
    });
}

#[test]
fn vulkans_plainest_kernels_compute_the_same() {
    let options = vulkan(Variants::Portable);
    let mut cases = cases();
    cases.retain(|case| case.model.name != "wide");
    conform("vulkan portable", cases, &options, on_a_gpu);
}

#[test]
fn what_is_no_number_is_told_in_decode_too() {
    let case = Case {
        model: RandomModel {
            broken: true,
            ..GEMMA3
        },
        quant: Quant::None,
        kv: KvFormat::F32,
        chunk: 32,
        sequences: 1,
    };
    let dir = scratch_dir();
    let bundle = dir.path().join("m.gembin");
    case.model.write(dir.path());
    let options = CompileOptions {
        allow_nonfinite: true,
        ..case.options()
    };
    let cancel = AtomicBool::new(false);
    pipeline::compile(
        dir.path(),
        &bundle,
        &options,
        &gembin_compiler::progress::Silent,
        &cancel,
    )
    .expect("compiles");
    for device in ["cpu", "vulkan"] {
        let options = OpenOptions {
            device: device.parse().expect("a device"),
            ..vulkan(Variants::Best)
        };
        let mut engine = Engine::open(&bundle, &options).expect("opens");
        engine.prefill(0, &[3], Wanted::Nothing).expect("runs");
        let logits = engine.decode(&[(0, 4)]).expect("runs");
        assert!(
            logits.iter().any(|logit| logit.is_nan()),
            "{device} makes numbers of what is none"
        );
    }
}
