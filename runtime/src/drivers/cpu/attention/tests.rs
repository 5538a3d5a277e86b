//! Attention against f64 with every feature, and that bits do not depend on how rows are grouped or spread.

use super::super::testing::{Bench, Loaded, Random, assert_close, isas, rows};
use crate::drivers::Row;
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{Buffer, RowSet};
use half::f16;

struct Case {
    bench: Bench,
    shape: Shape,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: u32,
    window: Option<u32>,
    softcap: f32,
    format: Format,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let mut bench = Bench::new(300);
        let cache = bench.cache(
            shape.format,
            shape.kv_heads as u32,
            shape.head_dim as u32,
            shape.capacity,
            shape.window,
        );
        let q = bench.buffer(RowSet::Seq, shape.heads * shape.head_dim);
        let k = bench.buffer(RowSet::Seq, shape.kv_heads * shape.head_dim);
        let v = bench.buffer(RowSet::Seq, shape.kv_heads * shape.head_dim);
        let out = bench.buffer(RowSet::Seq, shape.heads * shape.head_dim);
        bench.step(CpuStep::KvWrite { k, v, cache });
        bench.step(CpuStep::Attention {
            q,
            cache,
            heads: shape.heads as u32,
            scale: 0.25,
            softcap: shape.softcap,
            out,
        });
        Self {
            bench,
            shape,
            q,
            k,
            v,
            out,
        }
    }

    fn call(&self, loaded: &mut Loaded, rows: &[Row], data: &[Vec<f32>; 3], at: usize) -> Vec<f32> {
        for (buffer, values) in [self.q, self.k, self.v].into_iter().zip(data) {
            let cols = buffer.cols as usize;
            loaded.write(buffer, &values[at * cols..(at + rows.len()) * cols]);
        }
        loaded.run(rows, &[]);
        loaded.read(self.out, rows.len())
    }

    fn data(&self, random: &mut Random, n: usize) -> [Vec<f32>; 3] {
        [self.q, self.k, self.v].map(|b| random.values(n * b.cols as usize))
    }

    /// Attention of one sequence from position 0, in f64.
    fn reference(&self, data: &[Vec<f32>; 3], n: usize) -> Vec<f64> {
        let s = self.shape;
        let stored = |x: f32| match s.format {
            Format::F16 => f64::from(f16::from_f32(x).to_f32()),
            _ => f64::from(x),
        };
        let d = s.head_dim;
        let mut out = Vec::new();
        for pos in 0..n {
            let first = (pos + 1).saturating_sub(s.window.unwrap_or(u32::MAX) as usize);
            for head in 0..s.heads {
                let kv = head * s.kv_heads / s.heads;
                let q = &data[0][(pos * s.heads + head) * d..][..d];
                let row = |x: &[f32], p: usize| -> Vec<f64> {
                    let x = &x[(p * s.kv_heads + kv) * d..][..d];
                    x.iter().map(|&v| stored(v)).collect()
                };
                let scores: Vec<f64> = (first..=pos)
                    .map(|p| {
                        let k = row(&data[1], p);
                        let dot: f64 = q.iter().zip(&k).map(|(&a, b)| f64::from(a) * b).sum();
                        let score = dot * 0.25;
                        let cap = f64::from(s.softcap);
                        if cap > 0.0 {
                            cap * (score / cap).tanh()
                        } else {
                            score
                        }
                    })
                    .collect();
                let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut y = vec![0.0; d];
                for (w, p) in weights.iter().zip(first..) {
                    for (y, v) in y.iter_mut().zip(row(&data[2], p)) {
                        *y += w / total * v;
                    }
                }
                out.extend(y);
            }
        }
        out
    }
}

const SHAPE: Shape = Shape {
    heads: 4,
    kv_heads: 2,
    head_dim: 48,
    capacity: 512,
    window: None,
    softcap: 0.0,
    format: Format::F16,
};

fn shapes() -> Vec<Shape> {
    vec![
        SHAPE,
        Shape {
            format: Format::F32,
            heads: 1,
            kv_heads: 1,
            head_dim: 24,
            ..SHAPE
        },
        Shape {
            kv_heads: 1,
            softcap: 2.0,
            head_dim: 64,
            ..SHAPE
        },
        Shape {
            heads: 8,
            kv_heads: 1,
            window: Some(16),
            capacity: 200,
            head_dim: 20,
            ..SHAPE
        },
        Shape {
            heads: 3,
            kv_heads: 3,
            window: Some(100),
            capacity: 161,
            ..SHAPE
        },
    ]
}

#[test]
fn prompts_and_tokens_match_f64() {
    let mut random = Random(5);
    let n = 290;
    for shape in shapes() {
        let case = Case::new(shape);
        let data = case.data(&mut random, n);
        let want = case.reference(&data, n);
        for isa in isas() {
            // Chunks that keep within the ring: window + rows - 1 <= capacity.
            let mut loaded = case.bench.load(isa, 2);
            let mut got = Vec::new();
            let mut at = 0;
            for count in [60, 1, 1, 37, 61, 2, 50, 1].into_iter().cycle() {
                let count = count.min(n - at);
                got.extend(case.call(&mut loaded, &rows(at as u32, count), &data, at));
                at += count;
                if at == n {
                    break;
                }
            }
            assert_close(&format!("{isa:?} {shape:?}"), &got, &want, 2e-5);
        }
    }
}

#[test]
fn bits_depend_neither_on_grouping_nor_on_threads() {
    let mut random = Random(6);
    let n = 150;
    for shape in shapes() {
        let case = Case::new(shape);
        let data = case.data(&mut random, n);
        for isa in isas() {
            let mut single = Vec::new();
            let mut loaded = case.bench.load(isa, 1);
            for at in 0..n {
                single.extend(case.call(&mut loaded, &rows(at as u32, 1), &data, at));
            }
            for (threads, step) in [(2, 1), (3, 1), (1, 50), (2, 30)] {
                let mut loaded = case.bench.load(isa, threads);
                let mut got = Vec::new();
                for at in (0..n).step_by(step) {
                    got.extend(case.call(&mut loaded, &rows(at as u32, step), &data, at));
                }
                assert_eq!(
                    got, single,
                    "{isa:?} {shape:?} {threads} threads, {step} rows"
                );
            }
        }
    }
}

#[test]
fn slots_do_not_see_each_other() {
    let mut random = Random(7);
    let case = Case::new(SHAPE);
    let data = case.data(&mut random, 80);
    for isa in isas() {
        // Two sequences of 40 positions, a token of each a call, against each alone.
        let mut alone = Vec::new();
        for half in [0, 40] {
            let mut loaded = case.bench.load(isa, 2);
            alone.extend(case.call(&mut loaded, &rows(0, 40), &data, half));
        }
        let mut loaded = case.bench.load(isa, 2);
        let cols = SHAPE.heads * SHAPE.head_dim;
        for pos in 0..40 {
            let pair: [Vec<f32>; 3] = std::array::from_fn(|i| {
                let cols = [case.q, case.k, case.v][i].cols as usize;
                let row = |at: usize| data[i][at * cols..(at + 1) * cols].to_vec();
                [row(pos), row(40 + pos)].concat()
            });
            let batch = [1, 3].map(|slot| Row {
                token: 0,
                pos: pos as u32,
                slot,
            });
            let got = case.call(&mut loaded, &batch, &pair, 0);
            assert_eq!(got[..cols], alone[pos * cols..(pos + 1) * cols], "{isa:?}");
            assert_eq!(got[cols..], alone[(40 + pos) * cols..(41 + pos) * cols]);
        }
    }
}
