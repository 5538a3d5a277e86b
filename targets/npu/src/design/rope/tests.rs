//! Rotations on the simulated array against plain f32 arithmetic.

use super::*;
use crate::design::prepare::pack::{narrow_bytes, panels};
use crate::design::prepare::tests::{configured, distance};
use crate::design::random::Random;
use crate::design::vector::{Programs, Work};
use crate::simulator::{HostBuffer, Report, Simulator};
use half::bf16;

const EPS: f32 = 1e-6;

fn rotated(head: &[f32], norm: Option<&[f32]>, angles: impl Fn(usize) -> [f32; 2]) -> Vec<f32> {
    let mut head = head.to_vec();
    if let Some(weight) = norm {
        let squares: f64 = head.iter().map(|x| f64::from(*x).powi(2)).sum();
        let factor = 1.0 / ((squares / head.len() as f64) as f32 + EPS).sqrt();
        for (x, w) in head.iter_mut().zip(weight) {
            *x *= factor * w;
        }
    }
    let half = head.len() / 2;
    for pair in 0..half {
        let (a, b, [cosine, sine]) = (head[pair], head[half + pair], angles(pair));
        head[pair] = a * cosine - b * sine;
        head[half + pair] = b * cosine + a * sine;
    }
    head
}

/// Models' heads, with norms and without, tokens that fill no round: on one configuration.
#[test]
fn rotations_are_right_on_the_simulated_array() {
    let array = Array::npu1();
    let design = Vector {
        chunk: 16,
        most_normed: 64,
        kept: 64,
        most_head: 256,
        programs: Programs::All,
    };
    let case = |tokens, query_heads, kv_heads, head, norms: [bool; 2], positions| Rope {
        tokens,
        query_heads,
        kv_heads,
        head,
        positions,
        query_factor: 0.0625,
        eps: EPS,
        query_norm: norms[0],
        key_norm: norms[1],
    };
    let cases = [
        case(70, 4, 1, 64, [true, true], 96),
        case(1, 8, 4, 256, [false, false], 96),
        case(33, 4, 2, 128, [false, true], 96),
        case(40, 3, 1, 32, [true, false], 96),
        // Heads too far apart for a stride.
        case(9, 2, 3, 256, [true, true], 8200),
    ];
    for case in &cases {
        assert!(case.is_done_by(&design, array), "{}", case.name());
    }
    let mut simulator = configured(&design, &cases.map(Work::Rope));
    for (seed, work) in (1..).zip(cases) {
        check(&design, &mut simulator, &work, seed);
    }
}

/// Runs one and compares.
pub(in crate::design) fn check(
    design: &Vector,
    simulator: &mut Simulator,
    work: &Rope,
    seed: u64,
) -> Report {
    let array = Array::npu1();
    let mut random = Random(seed);
    let (head, heads) = (work.head as usize, work.heads() as usize);
    let qkv: Vec<Vec<f32>> = (0..work.tokens)
        .map(|_| {
            (0..heads * head)
                .map(|_| bf16::from_f32(random.normal() * 4.0).to_f32())
                .collect()
        })
        .collect();
    let weights: Vec<f32> = (0..2 * head).map(|_| 1.0 + random.normal() * 0.3).collect();
    let norms = [
        work.query_norm.then_some(&weights[..head]),
        work.key_norm.then_some(&weights[head..]),
    ];
    let angles = |token: u32, pair: u32| {
        let frequency = 10_000_f64.powf(-f64::from(2 * pair) / f64::from(work.head));
        let angle = f64::from(token + 1000) * frequency;
        [angle.cos() as f32, angle.sin() as f32]
    };
    let all = work.panels(array);
    let bytes = work.buffer_bytes(design, array);
    let mut buffers = [
        HostBuffer::input(narrow_bytes(&panels(&qkv, all, (heads * head) as u32))),
        HostBuffer::input(pack::table(work, design, array, norms, angles)),
        HostBuffer::output(bytes[2] as usize),
        HostBuffer::output(bytes[3] as usize),
        HostBuffer::output(bytes[4] as usize),
    ];
    let report = simulator
        .run(&work.name(), &mut buffers)
        .unwrap_or_else(|error| panic!("{}: {error}", work.name()));
    let number = |buffer: &HostBuffer, at: usize| {
        let bytes = &buffer.bytes()[2 * at..];
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    };
    let (query_heads, kv_heads) = (work.query_heads as usize, work.kv_heads as usize);
    let positions = work.positions as usize;
    let (mut made, mut expected) = (Vec::new(), Vec::new());
    for (token, row) in qkv.iter().enumerate() {
        for (at, values) in row.chunks(head).enumerate() {
            let angles = |pair| angles(token as u32, pair as u32);
            let is_query = at < query_heads;
            let of_kind = (at - if is_query { 0 } else { query_heads }) % kv_heads.max(1);
            let is_key = !is_query && at < query_heads + kv_heads;
            expected.push(match (is_query, is_key) {
                (true, _) => rotated(values, norms[0], angles)
                    .iter()
                    .map(|x| x * work.query_factor)
                    .collect(),
                (_, true) => rotated(values, norms[1], angles),
                _ => values.to_vec(),
            });
            made.push(
                (0..head)
                    .map(|feature| {
                        let panel = token / 8 * head + feature;
                        match (is_query, is_key) {
                            (true, _) => {
                                let first = token / 8 * query_heads * head + at * head;
                                number(&buffers[QUERIES], (first + feature) * 8 + token % 8)
                            }
                            (_, true) => number(
                                &buffers[KEYS],
                                (of_kind * positions + token) * head + feature,
                            ),
                            _ => number(
                                &buffers[VALUES],
                                (of_kind * positions / 8 * head + panel) * 8 + token % 8,
                            ),
                        }
                    })
                    .collect::<Vec<f32>>(),
            );
            if !is_query && !is_key {
                assert_eq!(made.last(), expected.last(), "values change nothing");
            }
        }
    }
    let far = distance(&made, &expected);
    println!("{}: {} cycles, off by {far:.5}", work.name(), report.cycles);
    assert!(far < 0.01, "{}: off by {far}", work.name());
    report
}
