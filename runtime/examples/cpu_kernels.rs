//! Measures the CPU driver's matrix products on the exact shapes of real models, through the driver itself.
//!
//! ```sh
//! cargo run --release -p gembin-runtime --example cpu_kernels -- [gemv|hot|gemm|all] [threads] [isa] [format]
//! ```
//!
//! - gemv: one row by weights much larger than the caches, in GB/s of weight bytes, each round beside a loop that only
//!   reads the same bytes, because the memory of a shared machine is not equally fast from one second to the next.
//! - hot: one row by weights that stay in the second-level cache: what the kernel could do with a faster memory.
//! - gemm: 16 to 256 rows, in tera-operations a second (a multiplication and an addition are two).
//!
//! Weights are random bytes: nothing here checks results, the tests do.

use gembin_bundle::cpu::{CpuStep, Epilogue, LinearStep, activation_bytes};
use gembin_bundle::layout::{Format, PLANE_ALIGN, data_bytes, scale_bytes};
use gembin_bundle::manifest::{
    self, Buffer, Device, Limits, Manifest, Phase, Plan, Program, RowSet, Span, Step, WeightEntry,
    WeightKind, Work,
};
use gembin_runtime::arena::Arena;
use gembin_runtime::drivers::cpu::{CpuDriver, Isa};
use gembin_runtime::drivers::{Call, Driver, LoadContext, Row};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of weights a measurement goes through: many times any last-level cache.
const COLD_BYTES: u64 = 768 << 20;
const ROUNDS: usize = 7;

/// Outputs, inputs, and whether the outputs are gate and up.
const SHAPES: [(&str, u32, u32, bool); 4] = [
    ("gate+up 13824x1152", 13824, 1152, true),
    ("down 1152x6912", 1152, 6912, false),
    ("qkv 1536x1152", 1536, 1152, false),
    ("head 262144x1152", 262_144, 1152, false),
];

/// The weights section: anonymous memory in ordinary pages, as a mapped file has them.
struct Section(Arena);

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the arena is that long, initialised, and not written after it was filled.
        unsafe { std::slice::from_raw_parts(self.0.base(), self.0.bytes()) }
    }
}

fn section(bytes: u64) -> Section {
    let arena = Arena::new(bytes as usize).expect("memory for the weights");
    // Positive halves near 0.006 when read as f16, harmless integers, small normal bf16 and f32.
    let mut state = 1u64;
    for i in 0..bytes as usize / 8 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let word = (state >> 16) & 0x03ff_03ff_03ff_03ff | 0x1c00_1c00_1c00_1c00;
        // SAFETY: within the arena, which is page-aligned.
        unsafe { arena.base().cast::<u64>().add(i).write(word) };
    }
    Section(arena)
}

struct Case {
    driver: CpuDriver,
    section: Arc<Section>,
    steps: usize,
    bytes: u64,
    operations: f64,
}

/// As many copies of one product as fill `total` bytes of weights.
fn case(
    isa: Isa,
    threads: usize,
    format: Format,
    shape: (u32, u32, bool),
    rows: u32,
    total: u64,
    hot: bool,
) -> Case {
    let (n, k, gated) = shape;
    let (data, scales) = (data_bytes(format, n, k), scale_bytes(format, n, k));
    let copies = (total / (data + scales)).clamp(1, 400);
    let (mut weights, mut end) = (Vec::new(), 0u64);
    let mut plane = |bytes: u64| {
        let offset = end.next_multiple_of(PLANE_ALIGN);
        end = offset + bytes;
        Span { offset, bytes }
    };
    let once = [plane(data), plane(scales)];
    for i in 0..copies {
        let planes = if hot || i == 0 {
            once
        } else {
            [plane(data), plane(scales)]
        };
        weights.push(WeightEntry {
            name: format!("w{i}"),
            format,
            rows: n,
            cols: k,
            kind: WeightKind::Matrix,
            data: planes[0],
            scales: planes[1],
            checksum: 0,
        });
    }
    let section = Arc::new(section(end.next_multiple_of(4096)));
    let out_cols = if gated { n / 2 } else { n };
    let x = Buffer {
        offset: 0,
        rows: RowSet::Seq,
        cols: k,
    };
    let out = Buffer {
        offset: (u64::from(rows) * u64::from(k) * 4).next_multiple_of(64),
        rows: RowSet::Seq,
        cols: out_cols,
    };
    let scratch = Span {
        offset: (out.offset + u64::from(rows) * u64::from(out_cols) * 4).next_multiple_of(64),
        bytes: activation_bytes(rows, k),
    };
    let epilogue = if gated {
        Epilogue::Geglu
    } else {
        Epilogue::None
    };
    let steps: Vec<Step> = (0..copies as u32)
        .map(|weight| Step {
            label: format!("product {weight}"),
            work: Work::Cpu(CpuStep::Linear(LinearStep {
                x,
                post_norm: None,
                residual: None,
                norm: None,
                eps: 1e-6,
                weight,
                epilogue,
                out,
                scratch,
            })),
        })
        .collect();
    let count = steps.len();
    let arena = Arc::new(Arena::new((scratch.offset + scratch.bytes) as usize).expect("arena"));
    for i in 0..(rows * k) as usize {
        // SAFETY: the arena begins with the input.
        unsafe {
            arena
                .base()
                .cast::<f32>()
                .add(i)
                .write((i % 97) as f32 / 97.0 - 0.5)
        };
    }
    let manifest = Manifest {
        limits: Limits {
            vocab: 1,
            context: 1,
            slots: 1,
        },
        arena: manifest::Arena {
            bytes: arena.bytes() as u64,
            cache_bytes: 0,
            caches: Vec::new(),
        },
        weights,
        plans: vec![Plan {
            name: "cpu".into(),
            devices: vec![Device::Cpu],
            programs: vec![Program {
                name: "bench".into(),
                phase: Phase::Prefill,
                max_rows: rows,
                max_outs: 0,
                candidates: None,
                logits: out,
                steps,
            }],
        }],
        ..Manifest::default()
    };
    let context = LoadContext {
        manifest: Arc::new(manifest),
        plan: 0,
        weights: section.clone(),
        arena,
        threads,
    };
    Case {
        driver: CpuDriver::load(&context, isa).expect("driver"),
        section,
        steps: count,
        bytes: copies * (data + scales),
        operations: 2.0 * copies as f64 * f64::from(n) * f64::from(k) * f64::from(rows),
    }
}

impl Case {
    fn seconds(&mut self, rows: usize) -> f64 {
        let rows = vec![
            Row {
                token: 0,
                pos: 0,
                slot: 0
            };
            rows
        ];
        let start = Instant::now();
        let call = Call {
            rows: &rows,
            outs: &[],
        };
        self.driver.submit(0, 0..self.steps, call).expect("call");
        start.elapsed().as_secs_f64()
    }

    /// Seconds to read the weights and do nothing with them.
    fn read_seconds(&self, threads: usize) -> f64 {
        let bytes: &[u8] = (*self.section).as_ref();
        let share = bytes.len() / threads / 4096 * 4096;
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in bytes.chunks_exact(share).take(threads) {
                scope.spawn(move || std::hint::black_box(read(part)));
            }
        });
        start.elapsed().as_secs_f64() * bytes.len() as f64 / (share * threads) as f64
    }
}

/// Reads every cache line of `bytes`; the result keeps the loads alive.
fn read(bytes: &[u8]) -> i64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.is_available() {
        // SAFETY: the processor has AVX-512.
        return unsafe { read_avx512(bytes) };
    }
    let mut sum = 0i64;
    for i in (0..bytes.len()).step_by(8) {
        sum = sum.wrapping_add(i64::from(bytes[i]));
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(bytes: &[u8]) -> i64 {
    use std::arch::x86_64::{
        _mm512_add_epi64, _mm512_loadu_si512, _mm512_reduce_add_epi64, _mm512_setzero_si512,
    };
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut at = 0;
    while at + 256 <= bytes.len() {
        // SAFETY: 256 bytes from `at` are within `bytes`.
        let p = unsafe { bytes.as_ptr().add(at) };
        // SAFETY: as above; the loads are unaligned ones.
        let lines = unsafe {
            [
                _mm512_loadu_si512(p.cast()),
                _mm512_loadu_si512(p.add(64).cast()),
                _mm512_loadu_si512(p.add(128).cast()),
                _mm512_loadu_si512(p.add(192).cast()),
            ]
        };
        sums[0] = _mm512_add_epi64(sums[0], lines[0]);
        sums[1] = _mm512_add_epi64(sums[1], lines[1]);
        sums[2] = _mm512_add_epi64(sums[2], lines[2]);
        sums[3] = _mm512_add_epi64(sums[3], lines[3]);
        at += 256;
    }
    let pairs = [
        _mm512_add_epi64(sums[0], sums[1]),
        _mm512_add_epi64(sums[2], sums[3]),
    ];
    _mm512_reduce_add_epi64(_mm512_add_epi64(pairs[0], pairs[1]))
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let what = arguments.first().map_or("all", String::as_str);
    let threads = arguments
        .get(1)
        .map_or(2, |t| t.parse().expect("a number of threads"));
    let isa = match arguments.get(2) {
        Some(name) => Isa::from_name(name),
        None => Isa::from_environment(),
    }
    .unwrap_or_else(|e| panic!("{e}"));
    println!(
        "{}, {threads} threads, medians of {ROUNDS} rounds",
        isa.title()
    );
    let only = arguments.get(3).map(String::as_str);
    let mut formats = vec![Format::Q8, Format::Q4, Format::Bf16];
    formats.retain(|format| only.is_none_or(|name| name == format.name()));
    if what == "gemv" || what == "all" {
        for &format in &formats {
            for (name, n, k, gated) in SHAPES {
                let mut case = case(isa, threads, format, (n, k, gated), 1, COLD_BYTES, false);
                let (mut ours, mut reads) = (Vec::new(), Vec::new());
                for round in 0..=ROUNDS {
                    let read = case.read_seconds(threads);
                    let own = case.seconds(1);
                    // The first round touches everything once.
                    if round > 0 {
                        ours.push(case.bytes as f64 / own / 1e9);
                        reads.push(case.bytes as f64 / read / 1e9);
                    }
                }
                let ratio = median(ours.iter().zip(&reads).map(|(a, b)| a / b).collect());
                println!(
                    "gemv {:4} {name:20} {:6.1} GB/s of {:6.1} read: {:3.0} %",
                    format.name(),
                    median(ours),
                    median(reads),
                    100.0 * ratio
                );
            }
        }
    }
    if what == "hot" || what == "all" {
        for &format in &formats {
            let mut case = case(isa, threads, format, (256, 1152, false), 1, 64 << 20, true);
            case.seconds(1);
            let rates = (0..ROUNDS)
                .map(|_| case.bytes as f64 / case.seconds(1) / 1e9)
                .collect();
            println!(
                "hot  {:4} 256x1152 {:6.1} GB/s",
                format.name(),
                median(rates)
            );
        }
    }
    if what == "gemm" || what == "all" {
        for &format in &formats {
            for (name, n, k, gated) in &SHAPES[..3] {
                for rows in [16, 128, 256] {
                    let mut case = case(
                        isa,
                        threads,
                        format,
                        (*n, *k, *gated),
                        rows,
                        64 << 20,
                        false,
                    );
                    case.seconds(rows as usize);
                    let rates = (0..ROUNDS)
                        .map(|_| case.operations / case.seconds(rows as usize) / 1e12)
                        .collect();
                    println!(
                        "gemm {:4} {name:20} {rows:4} rows {:7.3} TOPS",
                        format.name(),
                        median(rates)
                    );
                }
            }
        }
    }
}
