//! A small program for an NPU, the array that computes it, and what it must compute; for tests.
//!
//! Five kinds of instruction streams on two designs: one makes values of a call's tokens, one adds a weight, one stores
//! rows in a cache, one sums what the cache has of a sequence, one makes logits and the likeliest token.

use super::fake::{Executor, FakeNpu, Launch, Setup};
use super::{XdnaDriver, XdnaOptions};
use crate::arena::Arena;
use crate::drivers::{DriverError, LoadContext, Row};
use gembin_bundle::gpu::{Access, Resource};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{
    self, Buffer, Cache, Limits, Manifest, Phase, Plan, Program, RowSet, Span, Step, WeightEntry,
    WeightKind, Work, place_weights,
};
use gembin_bundle::npu::{
    ArgumentNeed, Code, Design, Generation, InstructionStream, Npu, NpuStep, RowsStream,
};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const COLS: u32 = 16;
pub(super) const VOCAB: u32 = 16;
pub(super) const CONTEXT: u32 = 32;
pub(super) const SLOTS: u32 = 2;
pub(super) const PREFILL_ROWS: u32 = 8;
pub(super) const PREFILL_OUTS: u32 = 2;

pub(super) const PREFILL: usize = 0;
pub(super) const DECODE: usize = 1;

const FILL: u32 = 1;
const ADD: u32 = 2;
const STORE: u32 = 3;
const SUM: u32 = 4;
const HEAD: u32 = 5;

/// Configurations, by which the array is checked to have the right one.
pub(super) const GEMM: [u8; 8] = *b"gemm.pdi";
pub(super) const HEADS: [u8; 8] = *b"head.pdi";

/// Bytes of a row of values.
const ROW: u64 = COLS as u64 * 4;

fn need(access: Access, bytes: u64) -> ArgumentNeed {
    ArgumentNeed { access, bytes }
}

fn keys_bytes() -> u64 {
    u64::from(SLOTS * CONTEXT) * ROW
}

fn call_bytes(rows: u32) -> u64 {
    4 * (4 + 4 * u64::from(rows))
}

/// Streams by kind and rows, as steps ask for them.
#[derive(Default)]
struct Streams {
    table: Vec<InstructionStream>,
    known: HashMap<(u32, u32), u32>,
}

impl Streams {
    fn of(&mut self, kind: u32, rows: u32) -> RowsStream {
        let values = u64::from(rows) * ROW;
        let (design, name, arguments) = match kind {
            FILL => (
                0,
                "fill",
                vec![
                    need(Access::Read, call_bytes(rows)),
                    need(Access::Write, values),
                ],
            ),
            ADD => (
                0,
                "add",
                vec![
                    need(Access::Read, values),
                    need(Access::Read, ROW),
                    need(Access::Write, values),
                ],
            ),
            STORE => (
                0,
                "store",
                vec![
                    need(Access::Read, values),
                    need(Access::Read, call_bytes(rows)),
                    need(Access::ReadWrite, keys_bytes()),
                ],
            ),
            SUM => (
                0,
                "sum",
                vec![
                    need(Access::Read, call_bytes(rows)),
                    need(Access::Read, keys_bytes()),
                    need(Access::Write, values),
                ],
            ),
            _ => (
                1,
                "head",
                vec![
                    need(Access::Read, values),
                    need(Access::Read, 16),
                    need(Access::Write, u64::from(rows * VOCAB * 4)),
                    need(Access::Write, u64::from(rows) * 8),
                ],
            ),
        };
        let table = &mut self.table;
        let stream = *self.known.entry((kind, rows)).or_insert_with(|| {
            table.push(InstructionStream {
                name: format!("{name} {rows}"),
                design,
                arguments,
                words: vec![kind, rows, COLS],
            });
            table.len() as u32 - 1
        });
        RowsStream { rows, stream }
    }
}

fn program(phase: Phase, streams: &mut Streams) -> Program {
    let (name, max_rows, max_outs, choices) = match phase {
        Phase::Prefill => ("prefill", PREFILL_ROWS, PREFILL_OUTS, vec![4, PREFILL_ROWS]),
        Phase::Decode => ("decode", SLOTS, SLOTS, vec![SLOTS]),
    };
    let value = |place: u64, rows: RowSet, cols: u32| Buffer {
        offset: place * 1024,
        rows,
        cols,
    };
    let x = value(0, RowSet::Seq, COLS);
    let y = value(1, RowSet::Seq, COLS);
    let z = value(2, RowSet::Seq, COLS);
    let logits = value(3, RowSet::Out, VOCAB);
    let likely = value(4, RowSet::Out, 2);
    let bias = Resource::Data {
        weight: 0,
        piece: Span {
            offset: 0,
            bytes: ROW,
        },
        gathered: false,
    };
    let mut step = |label: &str, kind: u32, rows: RowSet, buffers: Vec<Resource>| {
        let choices = if rows == RowSet::Seq {
            choices.clone()
        } else {
            vec![max_outs]
        };
        Step {
            label: label.into(),
            work: Work::Npu(NpuStep {
                rows,
                streams: choices.iter().map(|&rows| streams.of(kind, rows)).collect(),
                buffers,
            }),
        }
    };
    let (seq, out) = (RowSet::Seq, RowSet::Out);
    let v = Resource::Value;
    let steps = vec![
        step("fill", FILL, seq, vec![Resource::Call, v(x)]),
        step("add", ADD, seq, vec![v(x), bias, v(y)]),
        step(
            "store",
            STORE,
            seq,
            vec![v(y), Resource::Call, Resource::Keys(0)],
        ),
        step(
            "sum",
            SUM,
            seq,
            vec![Resource::Call, Resource::Keys(0), v(z)],
        ),
        step(
            "head",
            HEAD,
            out,
            vec![v(z), Resource::Call, v(logits), v(likely)],
        ),
    ];
    Program {
        name: name.into(),
        phase,
        max_rows,
        max_outs,
        logits,
        candidates: Some(likely),
        steps,
    }
}

/// The weight that is added.
pub(super) fn bias() -> Vec<f32> {
    (0..COLS).map(|c| 0.25 * c as f32).collect()
}

/// The manifest, and the length of its section of weights.
pub(super) fn manifest() -> (Manifest, u64) {
    let mut weights = vec![WeightEntry {
        name: "bias".into(),
        format: Format::F32,
        rows: 1,
        cols: COLS,
        kind: WeightKind::Vector,
        data: Span::default(),
        scales: Span::default(),
        checksum: 0,
    }];
    let weights_bytes = place_weights(&mut weights);
    let mut streams = Streams::default();
    let programs = vec![
        program(Phase::Prefill, &mut streams),
        program(Phase::Decode, &mut streams),
    ];
    let design = |name: &str, columns: u32, pdi: [u8; 8]| Design {
        name: name.into(),
        generation: Generation::Npu1,
        columns,
        code: Code::Pdi(pdi.to_vec()),
    };
    let value_bytes = 5 * 1024;
    let cache_bytes = 2 * keys_bytes();
    let manifest = Manifest {
        limits: Limits {
            vocab: VOCAB,
            context: CONTEXT,
            slots: SLOTS,
        },
        arena: manifest::Arena {
            bytes: value_bytes + cache_bytes,
            cache_bytes,
            caches: vec![Cache {
                name: "l0".into(),
                format: Format::F32,
                kv_heads: 1,
                head_dim: COLS,
                capacity: CONTEXT,
                window: None,
                offset: value_bytes,
                bytes: cache_bytes,
            }],
        },
        weights,
        npu: Npu {
            designs: vec![design("gemm", 4, GEMM), design("head", 1, HEADS)],
            streams: streams.table,
        },
        plans: vec![Plan {
            name: "npu".into(),
            devices: vec![manifest::Device::Xdna],
            programs,
        }],
        ..Manifest::default()
    };
    (manifest, weights_bytes)
}

fn words(launch: &Launch<'_>, address: u64, count: usize) -> Result<Vec<u32>, String> {
    let bytes = launch.read(address, 4 * count)?;
    Ok(bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}

fn floats(launch: &Launch<'_>, address: u64, count: usize) -> Result<Vec<f32>, String> {
    Ok(words(launch, address, count)?
        .into_iter()
        .map(f32::from_bits)
        .collect())
}

fn put(launch: &mut Launch<'_>, address: u64, values: &[f32]) -> Result<(), String> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    launch.write(address, &bytes)
}

/// What the array does with a stream of ours.
fn execute(launch: &mut Launch<'_>) -> Result<(), String> {
    let [kind, rows, cols] = *launch.instructions() else {
        return Err(format!("a stream of {} words", launch.instructions().len()));
    };
    let (rows, cols) = (rows as usize, cols as usize);
    let (design, columns) = if kind == HEAD { (HEADS, 1) } else { (GEMM, 4) };
    if !launch.design().starts_with(&design) || launch.columns() != columns {
        return Err("the array is configured for something else".into());
    }
    let [a, b, c, d, none] = *launch.buffers() else {
        return Err("there must be five places for buffers".into());
    };
    if none != 0 {
        return Err("a fifth buffer".into());
    }
    match kind {
        FILL => {
            let call = words(launch, a, 4 + 4 * rows)?;
            for row in 0..rows {
                let token = call[4 + 4 * row] as f32;
                let values: Vec<f32> = (0..cols).map(|c| token + 0.5 * c as f32).collect();
                put(launch, b + (row * cols * 4) as u64, &values)?;
            }
        }
        ADD => {
            let x = floats(launch, a, rows * cols)?;
            let bias = floats(launch, b, cols)?;
            let sums: Vec<f32> = x
                .iter()
                .zip(bias.iter().cycle())
                .map(|(x, bias)| x + bias)
                .collect();
            put(launch, c, &sums)?;
        }
        STORE => {
            let y = floats(launch, a, rows * cols)?;
            let call = words(launch, b, 4 + 4 * rows)?;
            for row in 0..rows.min(call[0] as usize) {
                let (pos, slot) = (call[5 + 4 * row], call[6 + 4 * row]);
                let place = u64::from(slot * CONTEXT + pos) * ROW;
                put(launch, c + place, &y[row * cols..(row + 1) * cols])?;
            }
        }
        SUM => {
            let call = words(launch, a, 4 + 4 * rows)?;
            for row in 0..rows.min(call[0] as usize) {
                let (pos, slot) = (call[5 + 4 * row], call[6 + 4 * row]);
                let first = b + u64::from(slot * CONTEXT) * ROW;
                let keys = floats(launch, first, (pos as usize + 1) * cols)?;
                let sums: Vec<f32> = (0..cols)
                    .map(|c| keys.iter().skip(c).step_by(cols).sum())
                    .collect();
                put(launch, c + (row * cols * 4) as u64, &sums)?;
            }
        }
        HEAD => {
            let call = words(launch, b, 4)?;
            let outs = call[1] as usize;
            let call = words(launch, b, 4 + 4 * (call[0] as usize))?;
            for out in 0..outs {
                let row = call[7 + 4 * out] as u64;
                let z = floats(launch, a + row * ROW, cols)?;
                // The largest is in the middle.
                let logits: Vec<f32> = z
                    .iter()
                    .enumerate()
                    .map(|(v, z)| z - (v as f32 - 7.0).powi(2) * 10.0)
                    .collect();
                let best = (0..logits.len())
                    .max_by(|&l, &r| logits[l].total_cmp(&logits[r]))
                    .unwrap_or(0);
                put(launch, c + (out * cols * 4) as u64, &logits)?;
                let likely = [f32::from_bits(best as u32), logits[best]];
                put(launch, d + out as u64 * 8, &likely)?;
            }
        }
        other => return Err(format!("instruction {other}")),
    }
    Ok(())
}

/// The array of these tests.
pub(super) fn executor() -> Executor {
    Box::new(execute)
}

/// The logits that follow `tokens`.
pub(super) fn expected(tokens: &[u32]) -> Vec<f32> {
    (0..COLS as usize)
        .map(|c| {
            let sum: f32 = tokens
                .iter()
                .map(|&token| token as f32 + 0.5 * c as f32 + bias()[c])
                .sum();
            sum - (c as f32 - 7.0).powi(2) * 10.0
        })
        .collect()
}

/// Rows of consecutive tokens of a sequence.
pub(super) fn rows(slot: u32, first: u32, tokens: &[u32]) -> Vec<Row> {
    tokens
        .iter()
        .zip(first..)
        .map(|(&token, pos)| Row { token, pos, slot })
        .collect()
}

/// A machine, and what a driver is loaded with.
pub(super) struct Bench {
    pub(super) npu: Arc<FakeNpu>,
    pub(super) context: LoadContext,
}

impl Bench {
    pub(super) fn new(setup: Setup) -> Self {
        Self::with(setup, |_| {})
    }

    /// Of a changed manifest.
    pub(super) fn with(setup: Setup, change: impl FnOnce(&mut Manifest)) -> Self {
        let (mut manifest, weights_bytes) = manifest();
        change(&mut manifest);
        gembin_bundle::check::check(manifest.clone(), weights_bytes).expect("a sound manifest");
        // As a mapped file's: whole pages.
        let mut weights = memmap2::MmapMut::map_anon(weights_bytes as usize).expect("memory");
        for (place, value) in weights.chunks_exact_mut(4).zip(bias()) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        let arena = Arena::new(manifest.arena.bytes as usize).expect("an arena");
        Self {
            npu: FakeNpu::new(setup, executor()),
            context: LoadContext {
                manifest: Arc::new(manifest),
                plan: 0,
                weights: Arc::new(weights),
                arena: Arc::new(arena),
                threads: 1,
            },
        }
    }

    pub(super) fn load(&self) -> Result<XdnaDriver, DriverError> {
        self.load_with(&XdnaOptions::default())
    }

    pub(super) fn load_with(&self, options: &XdnaOptions) -> Result<XdnaDriver, DriverError> {
        XdnaDriver::load_on(&self.npu.system(), &self.context, options)
    }

    /// The reason why it does not load.
    #[track_caller]
    pub(super) fn refusal(&self) -> String {
        match self.load() {
            Ok(_) => panic!("loaded"),
            Err(error) => error.to_string(),
        }
    }

    /// Values of the arena.
    pub(super) fn values(&self, offset: u64, count: usize) -> Vec<f32> {
        // SAFETY: no call is under way on the driver, and tests hold no other view.
        unsafe { self.context.arena.f32s(offset, count).to_vec() }
    }

    /// Nothing is left, and nothing was done that should not be.
    #[track_caller]
    pub(super) fn expect_clean(&self) {
        assert_eq!(self.npu.living(), super::fake::Living::default());
        assert_eq!(self.npu.violations(), Vec::<String>::new());
    }
}
