//! Prologues on the simulated array against plain f32 arithmetic.

use super::*;
use crate::aie::DialectVersion;
use crate::cost::CoreTile;
use crate::design::linear::pack::{Token, quantize};
use crate::design::linear::weights::WeightForm;
use crate::design::random::Random;
use crate::design::vector::{Programs, Work};
use crate::legality;
use crate::module::Module;
use crate::simulator::{HostBuffer, Report, Simulator};

const EPS: f32 = 1e-6;

/// Norm of the difference over norm.
pub(in crate::design) fn distance(values: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (row, want) in values.iter().zip(expected) {
        assert_eq!(row.len(), want.len());
        for (value, want) in row.iter().zip(want) {
            error += f64::from(value - want).powi(2);
            size += f64::from(*want).powi(2);
        }
    }
    (error / size).sqrt()
}

/// A configured array, legal.
pub(in crate::design) fn configured(design: &Vector, works: &[Work]) -> Simulator {
    let array = Array::npu1();
    let text = design
        .emit(array, DialectVersion::Subviews, "vector", works)
        .unwrap();
    let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
    let faults: Vec<String> = legality::check(&module, array)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Simulator::new(&module, array).unwrap_or_else(|error| panic!("{error}"))
}

/// Tokens out of activations, in the order of the matrix's columns.
pub(in crate::design) fn tokens_of(
    layout: &Activations,
    form: WeightForm,
    features: u32,
    tokens: u32,
    bytes: &[u8],
) -> Vec<Token> {
    let (depth, passes) = (layout.depth as usize, layout.passes as usize);
    let pass_bytes = 16 * depth;
    (0..tokens as usize)
        .map(|token| {
            let pair = &bytes[token / 16 * (passes + 1) * pass_bytes..];
            let (panel, lane) = (token / 8 % 2, token % 8);
            let scale = &pair[panel * depth * 8 + lane * 4..][..4];
            assert_eq!(scale, &pair[panel * depth * 8 + 32 + lane * 4..][..4]);
            let mut integers = vec![0; features as usize];
            for position in 0..passes * depth {
                let (pass, within) = (position / depth, position % depth);
                let value = pair[(pass + 1) * pass_bytes + (panel * depth + within) * 8 + lane];
                match integers.get_mut(form.column(position as u32) as usize) {
                    Some(integer) => *integer = value as i8,
                    None => assert_eq!(value, 0, "position {position} is no feature"),
                }
            }
            Token {
                integers,
                scale: f32::from_le_bytes(scale.try_into().unwrap()),
            }
        })
        .collect()
}

pub(in crate::design) fn values_of(tokens: &[Token]) -> Vec<Vec<f32>> {
    tokens
        .iter()
        .map(|token| {
            token
                .integers
                .iter()
                .map(|integer| f32::from(*integer) * token.scale)
                .collect()
        })
        .collect()
}

fn rms_norm(row: &[f32], weight: &[f32]) -> Vec<f32> {
    let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
    let factor = 1.0 / ((squares / row.len() as f64) as f32 + EPS).sqrt();
    row.iter()
        .zip(weight)
        .map(|(x, w)| x * factor * w)
        .collect()
}

fn linear(form: WeightForm, depth: u32) -> Linear {
    Linear {
        form,
        tile: CoreTile {
            tokens: 32,
            depth,
            outputs: 32,
        },
        most_depth: 2048,
        native_rows: 4,
    }
}

fn work(linear: &Linear, tokens: u32, features: u32, inputs: Inputs) -> Prepare {
    let shape = linear::Shape {
        tokens,
        depth: features,
        outputs: 64,
    };
    Prepare {
        inputs,
        features,
        eps: EPS,
        layout: Activations::of(linear, Array::npu1(), shape),
    }
}

const ALL: Inputs = Inputs {
    x: true,
    post_norm: true,
    residual: true,
    norm: true,
};

/// Runs one and compares; returns the report, and the activations with their distance.
pub(in crate::design) fn check(
    design: &Vector,
    simulator: &mut Simulator,
    form: WeightForm,
    work: &Prepare,
    tokens: u32,
    seed: u64,
) -> (Report, f64, Vec<u8>) {
    let array = Array::npu1();
    let mut random = Random(seed);
    let Prepare {
        inputs, features, ..
    } = *work;
    let stored = features.next_multiple_of(16);
    let padded = work.padded_features(design, array);
    let mut rows_of = |size: f32| -> Vec<Vec<f32>> {
        (0..tokens)
            .map(|_| (0..features).map(|_| random.normal() * size).collect())
            .collect()
    };
    let x: Vec<Vec<f32>> = rows_of(3.0)
        .into_iter()
        .map(|row| {
            row.into_iter()
                .map(|x| half::bf16::from_f32(x).to_f32())
                .collect()
        })
        .collect();
    let residual = rows_of(20.0);
    let mut weights = rows_of(0.3);
    weights.resize(2, weights[0].clone());
    for weight in weights.iter_mut().flatten() {
        *weight += 1.0;
    }
    let (post, norm) = (
        inputs.post_norm.then_some(&weights[0][..]),
        inputs.norm.then_some(&weights[1][..]),
    );
    let panels = work.layout.panels;
    let mut buffers = Vec::new();
    if inputs.x {
        let mut values = pack::panels(&x, panels, stored);
        values.resize(work.buffer_bytes(design, array)[0] as usize / 2, f32::NAN);
        buffers.push(HostBuffer::input(pack::narrow_bytes(&values)));
    }
    if inputs.residual {
        let values = pack::panels(&residual, panels, padded);
        buffers.push(HostBuffer::input(pack::float_bytes(&values)));
    }
    buffers.push(HostBuffer::input(pack::table(
        work, design, array, post, norm,
    )));
    let bytes = work.buffer_bytes(design, array);
    if inputs.residual {
        buffers.push(HostBuffer::output(bytes[buffers.len()] as usize));
    }
    // What is not written of a header stays.
    buffers.push(HostBuffer::input(vec![0x55; work.layout.bytes as usize]));
    let report = simulator
        .run(&work.name(), &mut buffers)
        .unwrap_or_else(|error| panic!("{}: {error}", work.name()));

    let expected_sums: Vec<Vec<f32>> = (0..tokens as usize)
        .map(|token| {
            let t = match (inputs.x, post) {
                (true, Some(weight)) => rms_norm(&x[token], weight),
                (true, None) => x[token].clone(),
                (false, _) => vec![0.0; features as usize],
            };
            match inputs.residual {
                true => t.iter().zip(&residual[token]).map(|(t, r)| t + r).collect(),
                false => t,
            }
        })
        .collect();
    if inputs.residual {
        let sums = &buffers[buffers.len() - 2];
        assert!(
            sums.is_whole(),
            "{}: a byte of the sums is missing",
            work.name()
        );
        let values: Vec<f32> = sums
            .bytes()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let far = distance(
            &pack::rows(&values, padded, tokens, features),
            &expected_sums,
        );
        assert!(far < 1e-5, "{}: sums are off by {far}", work.name());
    }
    let expected: Vec<Token> = expected_sums
        .iter()
        .map(|row| match norm {
            Some(weight) => quantize(&rms_norm(row, weight)),
            None => quantize(row),
        })
        .collect();
    let activations = buffers.last().unwrap();
    let tokens = tokens_of(&work.layout, form, features, tokens, activations.bytes());
    for (token, expected) in tokens.iter().zip(&expected) {
        for (integer, expected) in token.integers.iter().zip(&expected.integers) {
            assert!((i32::from(*integer) - i32::from(*expected)).abs() <= 1);
        }
    }
    let counts = &activations.bytes()[64..72];
    assert_eq!(counts[..4], work.layout.passes.to_le_bytes());
    assert_eq!(counts[4..], work.layout.pairs.to_le_bytes());
    let far = distance(&values_of(&tokens), &values_of(&expected));
    assert!(far < 0.01, "{}: activations are off by {far}", work.name());
    let bytes = buffers.last().unwrap().bytes().to_vec();
    (report, far, bytes)
}

/// Every combination of inputs, odd sizes, both orders of columns: on one configuration, one after another.
#[test]
fn prologues_are_right_on_the_simulated_array() {
    let design = Vector {
        chunk: 16,
        most_normed: 512,
        kept: 128,
        most_head: 64,
        programs: Programs::All,
    };
    let without = |x, post_norm, residual, norm| Inputs {
        x,
        post_norm,
        residual,
        norm,
    };
    let cases: Vec<(WeightForm, Prepare, u32)> = [
        (WeightForm::Groups8, 64, 256, ALL, 70),
        (WeightForm::Groups4, 128, 200, ALL, 5),
        (
            WeightForm::Groups8,
            128,
            512,
            without(false, false, true, true),
            16,
        ),
        (
            WeightForm::Rows8,
            64,
            330,
            without(true, false, false, false),
            40,
        ),
        (
            WeightForm::Groups4,
            64,
            64,
            without(true, true, true, false),
            9,
        ),
        (
            WeightForm::Groups8,
            64,
            130,
            without(true, false, true, true),
            1,
        ),
        (
            WeightForm::Groups8,
            64,
            130,
            without(true, false, false, true),
            1,
        ),
        // Passes that are no whole elements: all together are, and half of one is left over.
        (WeightForm::Groups4, 160, 320, ALL, 20),
        (WeightForm::Groups4, 160, 448, ALL, 20),
        (WeightForm::Groups8, 96, 64, ALL, 20),
    ]
    .into_iter()
    .map(|(form, depth, features, inputs, tokens)| {
        let work = work(&linear(form, depth), tokens, features, inputs);
        assert!(work.is_done_by(&design, Array::npu1()), "{}", work.name());
        (form, work, tokens)
    })
    .collect();
    let works: Vec<Work> = cases
        .iter()
        .map(|(_, work, _)| Work::Prepare(*work))
        .collect();
    let mut simulator = configured(&design, &works);
    for (seed, (form, work, tokens)) in (1..).zip(&cases) {
        let (report, far, _) = check(&design, &mut simulator, *form, work, *tokens, seed);
        let busy = report.cores.iter().map(|core| core.busy_cycles).max();
        println!(
            "{}: {} cycles, {busy:?} busy, off by {far:.5}",
            work.name(),
            report.cycles
        );
    }
}

/// Byte by byte, what is written is what the host would pack for the product of the same integers and scales.
#[test]
fn activations_are_what_products_read() {
    let array = Array::npu1();
    let design = Vector {
        chunk: 16,
        most_normed: 512,
        kept: 128,
        most_head: 64,
        programs: Programs::Panels,
    };
    for (form, depth, features, tokens) in [
        (WeightForm::Groups8, 64, 200, 70),
        (WeightForm::Groups4, 160, 448, 20),
    ] {
        let linear = linear(form, depth);
        let work = work(&linear, tokens, features, ALL);
        let mut simulator = configured(&design, &[Work::Prepare(work)]);
        let (_, _, bytes) = check(&design, &mut simulator, form, &work, tokens, 7);
        let made = tokens_of(&work.layout, form, features, tokens, &bytes);
        let shape = linear::Shape {
            tokens,
            depth: features,
            outputs: 64,
        };
        let packed = linear::pack::activations(&linear, array, shape, &made);
        let pass_bytes = (16 * depth) as usize;
        let pair_bytes = pass_bytes * (work.layout.passes as usize + 1);
        let pairs = bytes
            .chunks_exact(pair_bytes)
            .zip(packed.chunks_exact(pair_bytes));
        for (made, packed) in pairs {
            // Of headers the scales, and the first panel's counts: the rest is not looked at.
            let second = pass_bytes / 2;
            for part in [0..72, second..second + 64, pass_bytes..pair_bytes] {
                assert_eq!(made[part.clone()], packed[part], "{}", work.name());
            }
        }
    }
}
