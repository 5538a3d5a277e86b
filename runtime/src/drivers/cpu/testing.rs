//! Test helpers: the instruction sets of this machine, a packer for weights, and a driver over a hand-made plan.

use super::{CpuDriver, Isa};
use crate::arena::Arena;
use crate::drivers::{Call, Driver, LoadContext, Row};
use gembin_bundle::cpu::{CpuStep, activation_bytes};
use gembin_bundle::layout::{self, Format};
use gembin_bundle::manifest::{
    self, Buffer, Cache, Device, Limits, Manifest, Phase, Plan, Program, RowSet, Span, Step,
    WeightEntry, WeightKind, Work,
};
use half::{bf16, f16};
use std::io::Write;
use std::sync::{Arc, Once};

/// The instruction sets this machine has. Those it lacks are told once, past the capture of passing tests' output, in
/// lines that `make test` counts: a test that cannot run must not look like one that passed.
pub(crate) fn isas() -> Vec<Isa> {
    static TOLD: Once = Once::new();
    let (have, lack): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|i| i.is_available());
    TOLD.call_once(|| {
        for isa in lack {
            let line = format!(
                "\nskipped: kernels for {}, which this processor lacks\n",
                isa.name()
            );
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("standard error is open");
        }
    });
    have
}

/// A small generator of reproducible numbers (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.signed()).collect()
    }
}

/// A packed matrix and the values it stands for.
pub(crate) struct Packed {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<u8>,
    pub scales: Vec<u8>,
    pub values: Vec<f32>,
}

/// Packs a row-major matrix into the bundle's layout.
pub(crate) fn pack(format: Format, rows: usize, cols: usize, x: &[f32]) -> Packed {
    let (r32, c32) = (rows as u32, cols as u32);
    let mut data = vec![0u8; layout::data_bytes(format, r32, c32) as usize];
    let mut scales = vec![0u8; layout::scale_bytes(format, r32, c32) as usize];
    let mut values = x.to_vec();
    if format == Format::Q4 {
        // Padding stands for 0, which is stored as 8.
        data.fill(0x88);
    }
    for row in 0..rows {
        for group in 0..cols.div_ceil(32) {
            let span = row * cols + group * 32..row * cols + cols.min(group * 32 + 32);
            let largest = x[span.clone()].iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let most = if format == Format::Q4 { 7.0 } else { 127.0 };
            let scale = f16::from_f32(largest / most);
            if format.is_quantized() {
                let at = layout::scale_index(c32, row as u32, group as u32) as usize * 2;
                scales[at..at + 2].copy_from_slice(&scale.to_bits().to_le_bytes());
            }
            for i in span {
                let col = i - row * cols;
                let word = layout::word_index(format, c32, row as u32, col as u32) as usize * 4;
                let integer = (x[i] / scale.to_f32()).round().clamp(-most, most);
                match format {
                    Format::F32 => data[word..word + 4].copy_from_slice(&x[i].to_le_bytes()),
                    Format::F16 | Format::Bf16 => {
                        let (bits, value) = if format == Format::F16 {
                            let h = f16::from_f32(x[i]);
                            (h.to_bits(), h.to_f32())
                        } else {
                            let h = bf16::from_f32(x[i]);
                            (h.to_bits(), h.to_f32())
                        };
                        let at = word + col % 2 * 2;
                        data[at..at + 2].copy_from_slice(&bits.to_le_bytes());
                        values[i] = value;
                    }
                    Format::Q8 => {
                        data[word + col % 4] = integer as i8 as u8;
                        values[i] = integer * scale.to_f32();
                    }
                    Format::Q4 => {
                        let shift = if col % 8 < 4 { 0 } else { 4 };
                        let byte = &mut data[word + col % 4];
                        *byte = *byte & !(15 << shift) | (((integer + 8.0) as u8) << shift);
                        values[i] = integer * scale.to_f32();
                    }
                }
            }
        }
    }
    Packed {
        format,
        rows,
        cols,
        data,
        scales,
        values,
    }
}

/// A plan under construction: one program.
pub(crate) struct Bench {
    weights: Vec<WeightEntry>,
    section: Vec<u8>,
    caches: Vec<Cache>,
    arena_bytes: u64,
    steps: Vec<CpuStep>,
    pub max_rows: u32,
    pub context: u32,
    pub slots: u32,
    pub vocab: u32,
}

impl Bench {
    pub fn new(max_rows: u32) -> Self {
        Self {
            weights: Vec::new(),
            section: Vec::new(),
            caches: Vec::new(),
            arena_bytes: 0,
            steps: Vec::new(),
            max_rows,
            context: 4096,
            slots: 4,
            vocab: 64,
        }
    }

    fn plane(&mut self, bytes: &[u8]) -> Span {
        let offset = self
            .section
            .len()
            .next_multiple_of(layout::PLANE_ALIGN as usize);
        self.section.resize(offset, 0);
        self.section.extend_from_slice(bytes);
        Span {
            offset: offset as u64,
            bytes: bytes.len() as u64,
        }
    }

    pub fn matrix(&mut self, packed: &Packed) -> u32 {
        let (data, scales) = (self.plane(&packed.data), self.plane(&packed.scales));
        self.entry(
            packed.format,
            packed.rows,
            packed.cols,
            WeightKind::Matrix,
            data,
            scales,
        )
    }

    pub fn vector(&mut self, values: &[f32]) -> u32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let data = self.plane(&bytes);
        let none = self.plane(&[]);
        self.entry(Format::F32, 1, values.len(), WeightKind::Vector, data, none)
    }

    fn entry(
        &mut self,
        format: Format,
        rows: usize,
        cols: usize,
        kind: WeightKind,
        data: Span,
        scales: Span,
    ) -> u32 {
        self.weights.push(WeightEntry {
            name: format!("w{}", self.weights.len()),
            format,
            rows: rows as u32,
            cols: cols as u32,
            kind,
            data,
            scales,
            checksum: 0,
        });
        self.weights.len() as u32 - 1
    }

    fn take(&mut self, bytes: u64) -> u64 {
        let offset = self.arena_bytes;
        self.arena_bytes = (offset + bytes).next_multiple_of(64);
        offset
    }

    pub fn buffer(&mut self, rows: RowSet, cols: usize) -> Buffer {
        Buffer {
            offset: self.take(u64::from(self.max_rows) * cols as u64 * 4),
            rows,
            cols: cols as u32,
        }
    }

    pub fn scratch(&mut self, cols: usize) -> Span {
        let bytes = activation_bytes(self.max_rows, cols as u32);
        Span {
            offset: self.take(bytes),
            bytes,
        }
    }

    pub fn cache(
        &mut self,
        format: Format,
        kv_heads: u32,
        head_dim: u32,
        capacity: u32,
        window: Option<u32>,
    ) -> u32 {
        let element = if format == Format::F16 { 2 } else { 4 };
        let bytes = 2 * u64::from(self.slots * kv_heads * capacity * head_dim) * element;
        let offset = self.take(bytes);
        self.caches.push(Cache {
            name: "kv".into(),
            format,
            kv_heads,
            head_dim,
            capacity,
            window,
            offset,
            bytes,
        });
        self.caches.len() as u32 - 1
    }

    pub fn step(&mut self, step: CpuStep) {
        self.steps.push(step);
    }

    pub fn load(&self, isa: Isa, threads: usize) -> Loaded {
        let manifest = Manifest {
            limits: Limits {
                vocab: self.vocab,
                context: self.context,
                slots: self.slots,
            },
            arena: manifest::Arena {
                bytes: self.arena_bytes,
                cache_bytes: 0,
                caches: self.caches.clone(),
            },
            weights: self.weights.clone(),
            plans: vec![Plan {
                name: "cpu".into(),
                devices: vec![Device::Cpu],
                programs: vec![Program {
                    name: "test".into(),
                    phase: Phase::Prefill,
                    max_rows: self.max_rows,
                    max_outs: self.max_rows,
                    logits: Buffer {
                        offset: 0,
                        rows: RowSet::Out,
                        cols: 1,
                    },
                    candidates: None,
                    steps: self
                        .steps
                        .iter()
                        .enumerate()
                        .map(|(i, step)| Step {
                            label: format!("step {i}"),
                            work: Work::Cpu(step.clone()),
                        })
                        .collect(),
                }],
            }],
            ..Manifest::default()
        };
        let arena = Arc::new(Arena::new(self.arena_bytes as usize).unwrap());
        let context = LoadContext {
            manifest: Arc::new(manifest),
            plan: 0,
            weights: Arc::new(Section::new(&self.section)),
            arena: Arc::clone(&arena),
            threads,
        };
        Loaded {
            driver: CpuDriver::load(&context, isa).unwrap(),
            arena,
        }
    }
}

/// A weights section aligned as a mapped file is.
struct Section {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Section {
    fn new(bytes: &[u8]) -> Self {
        let mut room = vec![0u8; bytes.len() + 4096];
        let start = room.as_ptr().align_offset(4096);
        room[start..start + bytes.len()].copy_from_slice(bytes);
        Self {
            bytes: room,
            start,
            len: bytes.len(),
        }
    }
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// A loaded plan with its arena.
pub(crate) struct Loaded {
    pub driver: CpuDriver,
    arena: Arc<Arena>,
}

impl Loaded {
    pub fn write(&mut self, buffer: Buffer, values: &[f32]) {
        let end = buffer.offset as usize + values.len() * 4;
        assert!(end <= self.arena.bytes());
        // SAFETY: within the arena, and no call is running.
        unsafe {
            let to = self.arena.base().add(buffer.offset as usize).cast::<f32>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }

    pub fn read(&self, buffer: Buffer, rows: usize) -> Vec<f32> {
        let n = rows * buffer.cols as usize;
        assert!(buffer.offset as usize + n * 4 <= self.arena.bytes());
        // SAFETY: within the arena, and no call is running.
        unsafe {
            let from = self.arena.base().add(buffer.offset as usize).cast::<f32>();
            std::slice::from_raw_parts(from, n).to_vec()
        }
    }

    pub fn run(&mut self, rows: &[Row], outs: &[u32]) {
        let steps = self.driver.step_ns(0).count();
        let call = Call { rows, outs };
        self.driver.submit(0, 0..steps, call).unwrap();
        self.driver.wait().unwrap();
    }
}

/// Rows of slot 0 at positions `from..`.
pub(crate) fn rows(from: u32, n: usize) -> Vec<Row> {
    (0..n as u32)
        .map(|i| Row {
            token: i % 64,
            pos: from + i,
            slot: 0,
        })
        .collect()
}

/// Asserts `|got - want| <= tolerance * max(1, |want|)` everywhere.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(
            error <= tolerance * w.abs().max(1.0),
            "{what}: element {i} is {g}, not {w}"
        );
    }
}
