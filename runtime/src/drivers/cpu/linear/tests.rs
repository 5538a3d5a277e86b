//! Products in every format, instruction set and shape against f64, and that bits do not depend on rows or threads.

use super::super::isa::Isa;
use super::super::testing::{Bench, Packed, Random, assert_close, isas, pack, rows};
use gembin_bundle::cpu::{CpuStep, Epilogue, LinearStep, Residual};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{Buffer, RowSet};

const FORMATS: [Format; 5] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8,
    Format::Q4,
];

struct Case {
    bench: Bench,
    x: Buffer,
    out: Buffer,
}

fn plain(w: &Packed, epilogue: Epilogue, out_cols: usize) -> Case {
    let mut bench = Bench::new(64);
    let weight = bench.matrix(w);
    let x = bench.buffer(RowSet::Seq, w.cols);
    let scratch = bench.scratch(w.cols);
    let out = bench.buffer(RowSet::Seq, out_cols);
    bench.step(CpuStep::Linear(LinearStep {
        x,
        post_norm: None,
        residual: None,
        norm: None,
        eps: 1e-6,
        weight,
        epilogue,
        out,
        scratch,
    }));
    Case { bench, x, out }
}

/// The activations as the integer kernels see them.
fn as_quantized(x: &[f32], cols: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(cols) {
        for group in row.chunks(32) {
            let largest = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let scale = f64::from(largest / 127.0);
            y.extend(
                group
                    .iter()
                    .map(|v| f64::from((v * inverse).round_ties_even()) * scale),
            );
        }
    }
    y
}

fn reference(w: &Packed, x: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = if w.format.is_quantized() {
        as_quantized(x, w.cols)
    } else {
        x.iter().map(|&v| f64::from(v)).collect()
    };
    let mut y = Vec::new();
    for row in x.chunks(w.cols) {
        for weights in w.values.chunks(w.cols) {
            y.push(
                row.iter()
                    .zip(weights)
                    .map(|(a, &b)| a * f64::from(b))
                    .sum(),
            );
        }
    }
    y
}

#[test]
fn products_match_f64_in_every_shape() {
    let mut random = Random(1);
    for (n, k) in [
        (331, 120),
        (1, 96),
        (16, 33),
        (17, 1),
        (48, 1000),
        (33, 832),
    ] {
        for format in FORMATS {
            let w = pack(format, n, k, &random.values(n * k));
            let case = plain(&w, Epilogue::None, n);
            for isa in isas() {
                for count in [1, 2, 3, 4, 5, 7, 8, 9, 13, 20, 64] {
                    let x = random.values(count * k);
                    let mut loaded = case.bench.load(isa, 2);
                    loaded.write(case.x, &x);
                    loaded.run(&rows(0, count), &[]);
                    let what = format!("{isa:?} {format:?} [{n}, {k}] by {count} rows");
                    let want = reference(&w, &x);
                    // A thousand products in one f32 sum.
                    assert_close(&what, &loaded.read(case.out, count), &want, 1e-4);
                }
            }
        }
    }
}

#[test]
fn float_products_keep_the_precision_of_f32() {
    // Rounding activations to one bf16 would be off by a thousandth; two parts leave at most 2^-17, 7.6e-6.
    let rms = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let mut random = Random(5);
    for (n, k) in [(331, 121), (17, 1), (48, 1153), (33, 832)] {
        for format in [Format::F32, Format::F16, Format::Bf16] {
            let w = pack(format, n, k, &random.values(n * k));
            let case = plain(&w, Epilogue::None, n);
            for isa in isas() {
                for count in [1, 2, 4, 6, 8, 13, 64] {
                    let x = random.values(count * k);
                    let mut loaded = case.bench.load(isa, 2);
                    loaded.write(case.x, &x);
                    loaded.run(&rows(0, count), &[]);
                    let want = reference(&w, &x);
                    let got = loaded.read(case.out, count);
                    let off = rms(&mut got.iter().zip(&want).map(|(&g, w)| f64::from(g) - w));
                    let relative = off / rms(&mut want.iter().copied());
                    assert!(
                        relative <= 8e-6,
                        "{isa:?} {format:?} [{n}, {k}] by {count} rows: off by {relative:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn extreme_integers_do_not_saturate() {
    let (n, k) = (32, 64);
    for format in [Format::Q8, Format::Q4] {
        for sign in [1.0, -1.0] {
            let w = pack(format, n, k, &vec![sign; n * k]);
            let case = plain(&w, Epilogue::None, n);
            for isa in isas() {
                for count in [1, 12] {
                    let x = vec![-1.0; count * k];
                    let mut loaded = case.bench.load(isa, 1);
                    loaded.write(case.x, &x);
                    loaded.run(&rows(0, count), &[]);
                    let what = format!("{isa:?} {format:?} {sign}");
                    assert_close(
                        &what,
                        &loaded.read(case.out, count),
                        &reference(&w, &x),
                        1e-6,
                    );
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_the_other_rows_nor_on_threads() {
    let mut random = Random(2);
    let (n, k, count) = (112, 1600, 29);
    let x = random.values(count * k);
    for format in FORMATS {
        let w = pack(format, n, k, &random.values(n * k));
        let case = plain(&w, Epilogue::None, n);
        for isa in isas() {
            let mut single = Vec::new();
            let mut loaded = case.bench.load(isa, 1);
            for row in x.chunks(k) {
                loaded.write(case.x, row);
                loaded.run(&rows(0, 1), &[]);
                single.extend(loaded.read(case.out, 1));
            }
            for threads in [1, 2, 3] {
                for together in [3, 8, 29] {
                    let mut loaded = case.bench.load(isa, threads);
                    loaded.write(case.x, &x[..together * k]);
                    loaded.run(&rows(0, together), &[]);
                    let got = loaded.read(case.out, together);
                    assert_eq!(got, single[..together * n], "{isa:?} {format:?} {threads}");
                }
            }
        }
    }
}

#[test]
fn integer_kernels_agree_in_every_instruction_set() {
    // Integer sums are exact, and floats are added in one order; only the scalar form rounds products separately.
    let mut random = Random(3);
    let (n, k, count) = (50, 360, 11);
    let x = random.values(count * k);
    for format in [Format::Q8, Format::Q4] {
        let w = pack(format, n, k, &random.values(n * k));
        let case = plain(&w, Epilogue::None, n);
        let outputs: Vec<(Isa, Vec<f32>)> = isas()
            .into_iter()
            .map(|isa| {
                let mut loaded = case.bench.load(isa, 1);
                loaded.write(case.x, &x);
                loaded.run(&rows(0, count), &[]);
                (isa, loaded.read(case.out, count))
            })
            .collect();
        let exact: Vec<f64> = outputs[0].1.iter().map(|&v| f64::from(v)).collect();
        for (isa, got) in &outputs {
            assert_close(&format!("{isa:?} against scalar"), got, &exact, 1e-5);
            if *isa != Isa::Scalar {
                assert_eq!(*got, outputs[1].1, "{isa:?} against {:?}", outputs[1].0);
            }
        }
    }
}

fn norm(x: &[f64], w: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + 1e-6).sqrt();
    x.iter()
        .zip(w)
        .map(|(v, &w)| v * scale * f64::from(w))
        .collect()
}

#[test]
fn prologue_and_epilogues_match_f64() {
    let mut random = Random(4);
    let (k, width) = (120usize, 37usize);
    let (post, pre) = (random.values(k), random.values(k));
    // Blocks of 16 gate rows and 16 up rows in turn.
    let gated = width.div_ceil(16) * 32;
    for (n, epilogue, cols) in [
        (gated, Epilogue::Geglu, width),
        (37, Epilogue::Softcap { cap: 1.5 }, 37),
    ] {
        let w = pack(Format::F32, n, k, &random.values(n * k));
        let mut bench = Bench::new(20);
        let weight = bench.matrix(&w);
        let (post_norm, norm_weight) = (bench.vector(&post), bench.vector(&pre));
        let x = bench.buffer(RowSet::Seq, k);
        let from = bench.buffer(RowSet::Seq, k);
        let to = bench.buffer(RowSet::Seq, k);
        let scratch = bench.scratch(k);
        let out = bench.buffer(RowSet::Seq, cols);
        bench.step(CpuStep::Linear(LinearStep {
            x,
            post_norm: Some(post_norm),
            residual: Some(Residual { from, to }),
            norm: Some(norm_weight),
            eps: 1e-6,
            weight,
            epilogue,
            out,
            scratch,
        }));
        for isa in isas() {
            for count in [1, 6, 20] {
                let (xs, residual) = (random.values(count * k), random.values(count * k));
                let mut loaded = bench.load(isa, 2);
                loaded.write(x, &xs);
                loaded.write(from, &residual);
                loaded.run(&rows(0, count), &[]);
                let (mut sums, mut want) = (Vec::new(), Vec::new());
                for (x, r) in xs.chunks(k).zip(residual.chunks(k)) {
                    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                    let t = norm(&x, &post);
                    let s: Vec<f64> = t.iter().zip(r).map(|(a, &b)| a + f64::from(b)).collect();
                    let a = norm(&s, &pre);
                    let dot = |row: usize| -> f64 {
                        let w = &w.values[row * k..(row + 1) * k];
                        a.iter().zip(w).map(|(a, &b)| a * f64::from(b)).sum()
                    };
                    sums.extend(s);
                    want.extend((0..cols).map(|c| match epilogue {
                        Epilogue::None => dot(c),
                        Epilogue::Softcap { cap } => {
                            let cap = f64::from(cap);
                            cap * (dot(c) / cap).tanh()
                        }
                        Epilogue::Geglu => {
                            let gate = dot(c / 16 * 32 + c % 16);
                            let u = 0.797_884_560_8 * (gate + 0.044_715 * gate.powi(3));
                            0.5 * gate * (1.0 + u.tanh()) * dot(c / 16 * 32 + 16 + c % 16)
                        }
                    }));
                }
                let what = format!("{isa:?} {epilogue:?} {count} rows");
                assert_close(&what, &loaded.read(to, count), &sums, 1e-5);
                assert_close(&what, &loaded.read(out, count), &want, 3e-5);
            }
        }
    }
}
