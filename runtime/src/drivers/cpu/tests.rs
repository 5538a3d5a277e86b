//! The small steps against f64, calls that must be refused, and what does not fit a kernel's own tests.

use super::testing::{Bench, Random, assert_close, isas, pack, rows};
use crate::drivers::{Call, Driver, DriverError, Row};
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::RowSet;

const FORMATS: [Format; 5] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8,
    Format::Q4,
];

fn f64s(x: impl IntoIterator<Item = f32>) -> Vec<f64> {
    x.into_iter().map(f64::from).collect()
}

#[test]
fn embedding_gathers_rows_of_any_format() {
    let mut random = Random(10);
    let (n, k) = (64, 77);
    for format in FORMATS {
        let w = pack(format, n, k, &random.values(n * k));
        let mut bench = Bench::new(8);
        let table = bench.matrix(&w);
        let out = bench.buffer(RowSet::Seq, k);
        bench.step(CpuStep::Embed {
            table,
            scale: 1.5,
            out,
        });
        let tokens = [63, 0, 17, 16, 15];
        let call: Vec<Row> = tokens
            .map(|token| Row {
                token,
                pos: 0,
                slot: 0,
            })
            .into();
        let want = tokens
            .iter()
            .flat_map(|&t| {
                w.values[t as usize * k..][..k]
                    .iter()
                    .map(|&v| 1.5 * f64::from(v))
            })
            .collect::<Vec<_>>();
        for isa in isas() {
            let mut loaded = bench.load(isa, 2);
            loaded.run(&call, &[]);
            assert_close(
                &format!("{isa:?} {format:?}"),
                &loaded.read(out, 5),
                &want,
                1e-6,
            );
        }
    }
}

#[test]
fn rope_norms_rotates_and_stores() {
    // The same heads through the fused step and through its parts must attend alike.
    let mut random = Random(11);
    let (heads, kv, d, n) = (3usize, 1usize, 40usize, 9);
    let width = (heads + 2 * kv) * d;
    let (q_norm, k_norm) = (random.values(d), random.values(d));
    let mut bench = Bench::new(16);
    let (qw, kw) = (bench.vector(&q_norm), bench.vector(&k_norm));
    let caches = [0, 1].map(|_| bench.cache(Format::F16, kv as u32, d as u32, 64, None));
    let qkv = bench.buffer(RowSet::Seq, width);
    let table = bench.buffer(RowSet::Seq, d);
    let q = bench.buffer(RowSet::Seq, heads * d);
    let fused = bench.buffer(RowSet::Seq, heads * d);
    let parts: Vec<_> = [heads, heads, heads, kv, kv, kv, kv]
        .iter()
        .map(|h| bench.buffer(RowSet::Seq, h * d))
        .collect();
    let [q0, q1, q2, k0, k1, k2, v0] = parts[..] else {
        unreachable!()
    };
    let by_parts = bench.buffer(RowSet::Seq, heads * d);
    bench.step(CpuStep::RopeTable {
        theta: 1e4,
        factor: 8.0,
        out: table,
    });
    bench.step(CpuStep::RopeKv {
        qkv,
        table,
        cache: caches[0],
        q_heads: heads as u32,
        q_norm: Some(qw),
        k_norm: Some(kw),
        eps: 1e-6,
        out: q,
    });
    let attention = |q, cache, out| CpuStep::Attention {
        q,
        cache,
        heads: heads as u32,
        scale: 0.3,
        softcap: 0.0,
        out,
    };
    bench.step(attention(q, caches[0], fused));
    let column = |start: usize, out| CpuStep::Columns {
        x: qkv,
        start: (start * d) as u32,
        out,
    };
    bench.step(column(0, q0));
    bench.step(column(heads, k0));
    bench.step(column(heads + kv, v0));
    bench.step(CpuStep::RmsNorm {
        x: q0,
        weight: qw,
        eps: 1e-6,
        offset: 0.0,
        out: q1,
    });
    bench.step(CpuStep::RmsNorm {
        x: k0,
        weight: kw,
        eps: 1e-6,
        offset: 0.0,
        out: k1,
    });
    bench.step(CpuStep::Rope {
        x: q1,
        table,
        out: q2,
    });
    bench.step(CpuStep::Rope {
        x: k1,
        table,
        out: k2,
    });
    bench.step(CpuStep::KvWrite {
        k: k2,
        v: v0,
        cache: caches[1],
    });
    bench.step(attention(q2, caches[1], by_parts));
    let data = random.values(n * width);
    for isa in isas() {
        let mut loaded = bench.load(isa, 2);
        loaded.write(qkv, &data);
        loaded.run(&rows(50, n), &[]);
        assert_eq!(loaded.read(q, n), loaded.read(q2, n), "{isa:?}");
        assert_eq!(loaded.read(fused, n), loaded.read(by_parts, n), "{isa:?}");
        let mut want = Vec::new();
        for (i, row) in data.chunks(width).enumerate() {
            for head in row[..heads * d].chunks(d) {
                let mean = head.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / d as f64;
                let scale = 1.0 / (mean + 1e-6).sqrt();
                let x: Vec<f64> = head
                    .iter()
                    .zip(&q_norm)
                    .map(|(&v, &w)| f64::from(v) * scale * f64::from(w))
                    .collect();
                let turned = |j: usize| {
                    let pair = j % (d / 2);
                    let frequency = 1e4f64.powf(-(2.0 * pair as f64) / d as f64) / 8.0;
                    let (s, c) = ((50 + i) as f64 * frequency).sin_cos();
                    if j < d / 2 {
                        x[j] * c - x[j + d / 2] * s
                    } else {
                        x[j] * c + x[pair] * s
                    }
                };
                want.extend((0..d).map(turned));
            }
        }
        assert_close(&format!("{isa:?} q"), &loaded.read(q, n), &want, 1e-5);
    }
}

#[test]
fn keys_and_values_beyond_f16_leave_attention_finite() {
    let (d, n) = (40, 3);
    let data = [vec![1e-3; d], vec![1e6; d], vec![-1e6; d]]
        .concat()
        .repeat(n);
    let mut bench = Bench::new(4);
    let caches = [0, 1].map(|_| bench.cache(Format::F16, 1, d as u32, 64, None));
    let qkv = bench.buffer(RowSet::Seq, 3 * d);
    let table = bench.buffer(RowSet::Seq, d);
    let [q, k, v] = [0, 1, 2].map(|_| bench.buffer(RowSet::Seq, d));
    let outs = [0, 1].map(|_| bench.buffer(RowSet::Seq, d));
    bench.step(CpuStep::RopeTable {
        theta: 1e4,
        factor: 1.0,
        out: table,
    });
    bench.step(CpuStep::RopeKv {
        qkv,
        table,
        cache: caches[0],
        q_heads: 1,
        q_norm: None,
        k_norm: None,
        eps: 1e-6,
        out: q,
    });
    for (part, out) in [k, v].into_iter().enumerate() {
        let start = ((part + 1) * d) as u32;
        bench.step(CpuStep::Columns { x: qkv, start, out });
    }
    bench.step(CpuStep::KvWrite {
        k,
        v,
        cache: caches[1],
    });
    for (cache, out) in caches.into_iter().zip(outs) {
        bench.step(CpuStep::Attention {
            q,
            cache,
            heads: 1,
            scale: 1e-3,
            softcap: 0.0,
            out,
        });
    }
    for isa in isas() {
        let mut loaded = bench.load(isa, 2);
        loaded.write(qkv, &data);
        loaded.run(&rows(0, n), &[]);
        for out in outs {
            // Every value saturates alike, so their mean is what each of them became.
            let want = vec![-65_504.0; n * d];
            assert_close(&format!("{isa:?}"), &loaded.read(out, n), &want, 1e-5);
        }
    }
}

#[test]
fn elementwise_steps_match_f64() {
    let mut random = Random(12);
    let (k, n) = (37, 5);
    let weight = random.values(k);
    let mut bench = Bench::new(8);
    let w = bench.vector(&weight);
    let a = bench.buffer(RowSet::Seq, k);
    let b = bench.buffer(RowSet::Seq, k);
    let outs: Vec<_> = (0..5).map(|_| bench.buffer(RowSet::Seq, k)).collect();
    let picked = bench.buffer(RowSet::Out, k);
    bench.step(CpuStep::Gelu { x: a, out: outs[0] });
    bench.step(CpuStep::Mul { a, b, out: outs[1] });
    bench.step(CpuStep::Add { a, b, out: outs[2] });
    bench.step(CpuStep::Softcap {
        x: a,
        cap: 0.5,
        out: outs[3],
    });
    bench.step(CpuStep::RmsNorm {
        x: a,
        weight: w,
        eps: 1e-6,
        offset: 1.0,
        out: outs[4],
    });
    bench.step(CpuStep::SelectRows { x: a, out: picked });
    let (x, y) = (random.values(n * k), random.values(n * k));
    for isa in isas() {
        let mut loaded = bench.load(isa, 2);
        loaded.write(a, &x);
        loaded.write(b, &y);
        loaded.run(&rows(0, n), &[1, 4]);
        let gelu =
            |v: f64| 0.5 * v * (1.0 + (0.797_884_560_8 * (v + 0.044_715 * v.powi(3))).tanh());
        let pairs = || f64s(x.clone()).into_iter().zip(f64s(y.clone()));
        let norms = x.chunks(k).flat_map(|row| {
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / k as f64;
            let scale = 1.0 / (mean + 1e-6).sqrt();
            let each = row.iter().zip(&weight);
            each.map(move |(&v, &w)| f64::from(v) * scale * (1.0 + f64::from(w)))
                .collect::<Vec<_>>()
        });
        let want: [Vec<f64>; 5] = [
            f64s(x.clone()).into_iter().map(gelu).collect(),
            pairs().map(|(a, b)| a * b).collect(),
            pairs().map(|(a, b)| a + b).collect(),
            f64s(x.clone())
                .into_iter()
                .map(|v| 0.5 * (v / 0.5).tanh())
                .collect(),
            norms.collect(),
        ];
        for (i, want) in want.iter().enumerate() {
            assert_close(
                &format!("{isa:?} step {i}"),
                &loaded.read(outs[i], n),
                want,
                1e-6,
            );
        }
        let rows = [&x[k..2 * k], &x[4 * k..]].concat();
        assert_eq!(loaded.read(picked, 2), rows, "{isa:?}");
    }
}

#[test]
fn calls_beyond_the_limits_are_refused() {
    let mut bench = Bench::new(4);
    let w = pack(Format::F32, 64, 16, &[1.0; 64 * 16]);
    let table = bench.matrix(&w);
    let out = bench.buffer(RowSet::Seq, 16);
    bench.step(CpuStep::Embed {
        table,
        scale: 1.0,
        out,
    });
    let mut loaded = bench.load(super::Isa::Scalar, 1);
    let good = Row {
        token: 1,
        pos: 1,
        slot: 1,
    };
    let cases: [(&[Row], &[u32], usize, &str); 6] = [
        (&[Row { token: 64, ..good }], &[], 1, "token 64"),
        (&[Row { pos: 4096, ..good }], &[], 1, "position 4096"),
        (&[Row { slot: 4, ..good }], &[], 1, "slot 4"),
        (&[good; 5], &[], 1, "5 rows"),
        (&[good], &[1], 1, "output row 1"),
        (&[good], &[], 2, "steps 0..2"),
    ];
    for (rows, outs, steps, part) in cases {
        let error = loaded
            .driver
            .submit(0, 0..steps, Call { rows, outs })
            .unwrap_err();
        assert!(matches!(error, DriverError::Failed { .. }));
        assert!(error.to_string().contains(part), "{error}");
    }
    loaded.run(&[good], &[0]);
}

#[test]
fn profiling_counts_only_while_it_is_on() {
    let mut bench = Bench::new(4);
    let a = bench.buffer(RowSet::Seq, 16);
    let b = bench.buffer(RowSet::Seq, 16);
    bench.step(CpuStep::Gelu { x: a, out: b });
    let mut loaded = bench.load(super::Isa::Scalar, 1);
    loaded.run(&rows(0, 4), &[]);
    assert_eq!(loaded.driver.step_ns(0).sum::<u64>(), 0);
    loaded.driver.set_profiling(true);
    loaded.run(&rows(0, 4), &[]);
    assert!(loaded.driver.step_ns(0).sum::<u64>() > 0);
}

#[test]
fn a_driver_describes_itself() {
    let bench = Bench::new(1);
    let loaded = bench.load(super::Isa::Scalar, 2);
    assert_eq!(loaded.driver.describe(), "cpu: scalar, 2 threads");
}
