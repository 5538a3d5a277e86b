//! A tiny model as a bundle file, laid down by hand: two layers with an embedding, attention over a full cache and
//! over a ring, a gated MLP and an output head. Its weights are random; what is tested is how a model is run.
//!
//! Nothing of the compiler is used, so the runtime's tests stand alone.

#![allow(dead_code, reason = "each test binary uses a part of this module")]

pub mod command;

use gembin_bundle::cpu::{CpuStep, Epilogue, LinearStep, Residual, activation_bytes};
use gembin_bundle::format::{References, Writer};
use gembin_bundle::gpu::{Access, Resource};
use gembin_bundle::layout::{Format, word_index};
use gembin_bundle::manifest::{
    Arena, Buffer, Cache, Device, Limits, Manifest, ModelFacts, Phase, Plan, Program, Provenance,
    RowSet, SamplingDefaults, Span, Step, TextFacts, WeightEntry, WeightKind, Work, place_weights,
};
use gembin_bundle::npu::{
    ArgumentNeed, Code, Design, Generation, InstructionStream, Npu, NpuStep, RowsStream,
};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Tokens: a few more than the story model's tokenizer has, and no multiple of 16.
pub const VOCAB: u32 = 1030;
/// Positions of a sequence.
pub const CONTEXT: u32 = 96;
/// Sequences.
pub const SLOTS: u32 = 3;
/// Window of the second layer.
pub const WINDOW: u32 = 4;
/// Rows of the largest prefill program.
pub const CHUNK: u32 = 8;
/// Positions the ring of the second layer holds.
pub const RING: u32 = WINDOW + CHUNK - 1;
/// Token that ends a generation.
pub const STOP: u32 = 1;

const HIDDEN: u32 = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 16;
const MLP: u32 = 96;
const LAYERS: usize = 2;
const EPS: f32 = 1e-6;

/// Writes the bundle into `dir` and returns its path.
pub fn write(dir: &Path, references: Option<&References>) -> PathBuf {
    write_as(dir, "tiny.gembin", references)
}

/// Writes the bundle with a plan for an NPU in front, of a design that was not built.
pub fn write_with_npu(dir: &Path) -> PathBuf {
    let mut model = manifest();
    npu_plan(&mut model);
    write_model(dir, "npu.gembin", model, None, None)
}

fn npu_plan(model: &mut Manifest) {
    let mut streams = Vec::new();
    let mut programs = model.plans[0].programs.clone();
    for program in &mut programs {
        let outs = program.max_outs;
        streams.push(InstructionStream {
            name: format!("everything {}", program.name),
            design: 0,
            arguments: vec![
                ArgumentNeed {
                    access: Access::Read,
                    bytes: 16,
                },
                ArgumentNeed {
                    access: Access::Write,
                    bytes: u64::from(outs * VOCAB * 4),
                },
            ],
            words: Vec::new(),
        });
        program.steps = vec![Step {
            label: "everything".into(),
            work: Work::Npu(NpuStep {
                rows: program.logits.rows,
                streams: vec![RowsStream {
                    rows: outs,
                    stream: streams.len() as u32 - 1,
                }],
                buffers: vec![Resource::Call, Resource::Value(program.logits)],
            }),
        }];
    }
    model.npu = Npu {
        designs: vec![Design {
            name: "one for all".into(),
            generation: Generation::Npu1,
            columns: 4,
            code: Code::NotBuilt {
                mlir: "module {\n}\n".into(),
            },
        }],
        streams,
    };
    let plan = Plan {
        name: "npu".into(),
        devices: vec![Device::Xdna],
        programs,
    };
    model.plans.insert(0, plan);
}

/// Writes the bundle with the story model's tokenizer and a chat template.
pub fn write_with_text(dir: &Path) -> PathBuf {
    let json = include_bytes!("../../../testdata/models/story-gemma3/tokenizer.json");
    let tables = gembin_tokenizer::compile(json).unwrap();
    write_all(dir, "text.gembin", None, Some(&tables))
}

/// The chat template of [`write_with_text`].
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\
    [{{ 'model' if m.role == 'assistant' else m.role }}]{{ m.content }}{% endfor %}[model]";

/// Writes the bundle as `name`.
pub fn write_as(dir: &Path, name: &str, references: Option<&References>) -> PathBuf {
    write_all(dir, name, references, None)
}

fn write_all(
    dir: &Path,
    name: &str,
    references: Option<&References>,
    tokenizer: Option<&[u8]>,
) -> PathBuf {
    let mut model = manifest();
    if tokenizer.is_some() {
        model.text.has_tokenizer = true;
        model.text.chat_template = Some(TEMPLATE.into());
        model.text.special_tokens = vec![("bos_token".into(), "<bos>".into())];
    }
    write_model(dir, name, model, references, tokenizer)
}

fn write_model(
    dir: &Path,
    name: &str,
    model: Manifest,
    references: Option<&References>,
    tokenizer: Option<&[u8]>,
) -> PathBuf {
    let path = dir.join(name);
    let file = File::create(&path).unwrap();
    let reserved = references.map(|r| References::section_bytes(r.tokens.len() as u32, VOCAB));
    let mut writer = Writer::new(file, &model, tokenizer, reserved).unwrap();
    let mut random = Random(7);
    for weight in &model.weights {
        writer.write(&plane(weight, &mut random)).unwrap();
    }
    writer.finish(model, references).unwrap();
    path
}

fn manifest() -> Manifest {
    let mut weights = Weights::default();
    let model = Tiny::new(&mut weights);
    let mut entries = weights.0;
    place_weights(&mut entries);

    let mut arena = Bump(0);
    let large = model.buffers(&mut arena, CHUNK, CHUNK);
    let value_bytes = arena.0;
    let caches: Vec<Cache> = [(CONTEXT, None), (RING, Some(WINDOW))]
        .into_iter()
        .enumerate()
        .map(|(layer, (capacity, window))| {
            let bytes = u64::from(2 * SLOTS * KV_HEADS * HEAD_DIM * capacity) * 4;
            Cache {
                name: format!("l{layer}"),
                format: Format::F32,
                kv_heads: KV_HEADS,
                head_dim: HEAD_DIM,
                capacity,
                window,
                offset: arena.take(bytes),
                bytes,
            }
        })
        .collect();
    let programs = vec![
        model.program("prefill_3", Phase::Prefill, 3, 2, &large),
        model.program("prefill_8", Phase::Prefill, CHUNK, 4, &large),
        model.program("decode_1", Phase::Decode, 1, 1, &large),
        model.program("decode_3", Phase::Decode, SLOTS, SLOTS, &large),
    ];
    Manifest {
        model: ModelFacts {
            name: "tiny".into(),
            architecture: "by hand".into(),
            parameters: 0,
            layers: LAYERS as u32,
            hidden: HIDDEN,
            quantization: "f32".into(),
            notes: vec!["random weights".into()],
        },
        provenance: Provenance {
            compiler: "by hand".into(),
            options: Vec::new(),
            sources: Vec::new(),
        },
        text: TextFacts {
            has_tokenizer: false,
            bos: Some(2),
            eos: Some(STOP),
            stop_tokens: vec![STOP],
            chat_template: None,
            special_tokens: Vec::new(),
            sampling: SamplingDefaults::default(),
        },
        limits: Limits {
            vocab: VOCAB,
            context: CONTEXT,
            slots: SLOTS,
        },
        arena: Arena {
            bytes: arena.0,
            cache_bytes: arena.0 - value_bytes,
            caches,
        },
        weights: entries,
        kernels: Vec::new(),
        npu: Npu::default(),
        plans: vec![Plan {
            name: "cpu".into(),
            devices: vec![Device::Cpu],
            programs,
        }],
    }
}

/// Indices of the weights.
struct Tiny {
    embedding: u32,
    layers: Vec<Layer>,
    final_norm: u32,
}

struct Layer {
    norm: u32,
    qkv: u32,
    q_norm: u32,
    o: u32,
    mlp_norm: u32,
    gate_up: u32,
    down: u32,
}

/// Places of the values, for the largest program; smaller ones use the same.
struct Buffers {
    x: [u64; 2],
    table: u64,
    qkv: u64,
    q: u64,
    attended: u64,
    branch: u64,
    gated: u64,
    selected: u64,
    logits: u64,
    scratch: Span,
}

impl Tiny {
    fn new(weights: &mut Weights) -> Self {
        Self {
            embedding: weights.matrix("embedding", VOCAB, HIDDEN),
            layers: (0..LAYERS)
                .map(|l| Layer {
                    norm: weights.vector(&format!("l{l}.norm"), HIDDEN),
                    qkv: weights.matrix(
                        &format!("l{l}.qkv"),
                        (HEADS + 2 * KV_HEADS) * HEAD_DIM,
                        HIDDEN,
                    ),
                    q_norm: weights.vector(&format!("l{l}.q_norm"), HEAD_DIM),
                    o: weights.matrix(&format!("l{l}.o"), HIDDEN, HEADS * HEAD_DIM),
                    mlp_norm: weights.vector(&format!("l{l}.mlp_norm"), HIDDEN),
                    gate_up: weights.matrix(&format!("l{l}.gate_up"), 2 * MLP, HIDDEN),
                    down: weights.matrix(&format!("l{l}.down"), HIDDEN, MLP),
                })
                .collect(),
            final_norm: weights.vector("final_norm", HIDDEN),
        }
    }

    fn buffers(&self, arena: &mut Bump, rows: u32, outs: u32) -> Buffers {
        let mut rows_of = |cols: u32, rows: u32| arena.take(u64::from(cols) * u64::from(rows) * 4);
        let mut buffers = Buffers {
            x: [rows_of(HIDDEN, rows), rows_of(HIDDEN, rows)],
            table: rows_of(HEAD_DIM, rows),
            qkv: rows_of((HEADS + 2 * KV_HEADS) * HEAD_DIM, rows),
            q: rows_of(HEADS * HEAD_DIM, rows),
            attended: rows_of(HEADS * HEAD_DIM, rows),
            branch: rows_of(HIDDEN, rows),
            gated: rows_of(MLP, rows),
            selected: rows_of(HIDDEN, outs),
            logits: rows_of(VOCAB, outs),
            scratch: Span::default(),
        };
        let bytes = activation_bytes(rows, MLP);
        buffers.scratch = Span {
            offset: arena.take(bytes),
            bytes,
        };
        buffers
    }

    fn program(
        &self,
        name: &str,
        phase: Phase,
        max_rows: u32,
        max_outs: u32,
        at: &Buffers,
    ) -> Program {
        let seq = |offset, cols| Buffer {
            offset,
            rows: RowSet::Seq,
            cols,
        };
        let out = |offset, cols| Buffer {
            offset,
            rows: RowSet::Out,
            cols,
        };
        let linear = |x, residual, norm, weight, epilogue, out| {
            CpuStep::Linear(LinearStep {
                x,
                post_norm: None,
                residual,
                norm,
                eps: EPS,
                weight,
                epilogue,
                out,
                scratch: at.scratch,
            })
        };
        let x = at.x.map(|offset| seq(offset, HIDDEN));
        let (table, branch) = (seq(at.table, HEAD_DIM), seq(at.branch, HIDDEN));
        let qkv = seq(at.qkv, (HEADS + 2 * KV_HEADS) * HEAD_DIM);
        let q = seq(at.q, HEADS * HEAD_DIM);
        let attended = seq(at.attended, HEADS * HEAD_DIM);
        let gated = seq(at.gated, MLP);
        let mut steps = vec![
            (
                "embed".to_owned(),
                CpuStep::Embed {
                    table: self.embedding,
                    scale: 8.0,
                    out: x[0],
                },
            ),
            (
                "rope".to_owned(),
                CpuStep::RopeTable {
                    theta: 1e4,
                    factor: 1.0,
                    out: table,
                },
            ),
        ];
        for (l, layer) in self.layers.iter().enumerate() {
            let mut step = |label: &str, work| steps.push((format!("l{l}.{label}"), work));
            step(
                "qkv",
                linear(x[0], None, Some(layer.norm), layer.qkv, Epilogue::None, qkv),
            );
            step(
                "kv",
                CpuStep::RopeKv {
                    qkv,
                    table,
                    cache: l as u32,
                    q_heads: HEADS,
                    q_norm: Some(layer.q_norm),
                    k_norm: None,
                    eps: EPS,
                    out: q,
                },
            );
            step(
                "attention",
                CpuStep::Attention {
                    q,
                    cache: l as u32,
                    heads: HEADS,
                    scale: 0.25,
                    softcap: 0.0,
                    out: attended,
                },
            );
            step(
                "o",
                linear(attended, None, None, layer.o, Epilogue::None, branch),
            );
            let residual = Some(Residual {
                from: x[0],
                to: x[1],
            });
            step(
                "gate_up",
                linear(
                    branch,
                    residual,
                    Some(layer.mlp_norm),
                    layer.gate_up,
                    Epilogue::Geglu,
                    gated,
                ),
            );
            step(
                "down",
                linear(gated, None, None, layer.down, Epilogue::None, branch),
            );
            step(
                "add",
                CpuStep::Add {
                    a: x[1],
                    b: branch,
                    out: x[0],
                },
            );
        }
        let (selected, logits) = (out(at.selected, HIDDEN), out(at.logits, VOCAB));
        steps.push((
            "select".to_owned(),
            CpuStep::SelectRows {
                x: x[0],
                out: selected,
            },
        ));
        steps.push((
            "head".to_owned(),
            linear(
                selected,
                None,
                Some(self.final_norm),
                self.embedding,
                Epilogue::None,
                logits,
            ),
        ));
        Program {
            name: name.to_owned(),
            phase,
            max_rows,
            max_outs,
            logits,
            candidates: None,
            steps: steps
                .into_iter()
                .map(|(label, work)| Step {
                    label,
                    work: Work::Cpu(work),
                })
                .collect(),
        }
    }
}

#[derive(Default)]
struct Weights(Vec<WeightEntry>);

impl Weights {
    fn add(&mut self, name: &str, rows: u32, cols: u32, kind: WeightKind) -> u32 {
        self.0.push(WeightEntry {
            name: name.to_owned(),
            format: Format::F32,
            rows,
            cols,
            kind,
            data: Span::default(),
            scales: Span::default(),
            checksum: 0,
        });
        self.0.len() as u32 - 1
    }

    fn vector(&mut self, name: &str, cols: u32) -> u32 {
        self.add(name, 1, cols, WeightKind::Vector)
    }

    fn matrix(&mut self, name: &str, rows: u32, cols: u32) -> u32 {
        self.add(name, rows, cols, WeightKind::Matrix)
    }
}

/// A weight's data plane: norms around 1, matrices scaled by their columns so that values stay around 1.
fn plane(weight: &WeightEntry, random: &mut Random) -> Vec<u8> {
    let mut words = vec![0f32; weight.data.bytes as usize / 4];
    let scale = 1.5 / (weight.cols as f32).sqrt();
    match weight.kind {
        WeightKind::Vector => words
            .iter_mut()
            .for_each(|word| *word = 1.0 + 0.2 * random.next()),
        WeightKind::Matrix => {
            for row in 0..weight.rows {
                for col in 0..weight.cols {
                    let word = word_index(weight.format, weight.cols, row, col);
                    words[word as usize] = scale * random.next();
                }
            }
        }
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Numbers in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Places in the arena, one after the other.
struct Bump(u64);

impl Bump {
    fn take(&mut self, bytes: u64) -> u64 {
        let offset = self.0;
        self.0 = (offset + bytes).next_multiple_of(64);
        offset
    }
}
