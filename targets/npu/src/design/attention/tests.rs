//! Attention on the simulated array against plain arithmetic; search and prediction.

use super::*;
use crate::design::random::Random;
use crate::legality;
use crate::module::Module;
use crate::simulator::{HostBuffer, Report, Simulator};
use half::bf16;

/// Numbers as bfloat16 has them.
fn many(random: &mut Random, count: usize, size: f32) -> Vec<f32> {
    (0..count)
        .map(|_| bf16::from_f32(random.signed() * size).to_f32())
        .collect()
}

/// A random call.
struct Case {
    design: Attention,
    shape: Shape,
    /// Position of the first token.
    first: u32,
    scale: f32,
    /// `[tokens][query heads][head dim]`, without factor or rounding.
    queries: Vec<f32>,
    /// `[kv heads][capacity][head dim]`, as in the cache.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    /// `size` says how far apart scores are.
    fn new(design: Attention, shape: Shape, first: u32, size: f32, seed: u64) -> Self {
        let mut random = Random(seed);
        let heads = (design.query_heads * design.head_dim) as usize;
        let cache = (design.kv_heads * shape.capacity * design.head_dim) as usize;
        Self {
            design,
            shape,
            first,
            scale: 1.0 / (design.head_dim as f32).sqrt(),
            queries: (0..shape.tokens as usize * heads)
                .map(|_| random.signed() * size)
                .collect(),
            keys: many(&mut random, cache, 1.7),
            values: many(&mut random, cache, 1.0),
        }
    }

    /// Makes scores rise over the positions. They get so large that it matters how queries are rounded: from now on they
    /// are what is in the panels.
    fn drift(&mut self, a_position: f32) {
        let dim = self.design.head_dim as usize;
        let capacity = self.shape.capacity as usize;
        for (at, key) in self.keys.iter_mut().enumerate() {
            let position = at / dim % capacity;
            *key = bf16::from_f32(*key + a_position * position as f32).to_f32();
        }
        let factor = self.design.query_factor(self.scale);
        for query in &mut self.queries {
            *query = bf16::from_f32((*query + 1.0) * factor).to_f32() / factor;
        }
    }

    fn cache(&self) -> Vec<u8> {
        let design = &self.design;
        let dim = design.head_dim as usize;
        let capacity = self.shape.capacity as usize;
        let layout = pack::CacheWriter::new(design, self.shape.capacity);
        let mut elements = vec![bf16::ZERO; 2 * self.keys.len()];
        for head in 0..design.kv_heads as usize {
            for position in 0..capacity {
                for feature in 0..dim {
                    let at = (head * capacity + position) * dim + feature;
                    elements[layout.key(head, position, feature)] = bf16::from_f32(self.keys[at]);
                    elements[layout.value(head, position, feature)] =
                        bf16::from_f32(self.values[at]);
                }
            }
        }
        elements.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// `[tokens][query heads][head dim]`.
    fn expected(&self) -> Vec<f64> {
        let design = &self.design;
        let dim = design.head_dim as usize;
        let heads = design.query_heads as usize;
        let mut results = Vec::new();
        for token in 0..self.shape.tokens as usize {
            let last = self.first as usize + token;
            let window = self
                .shape
                .window
                .map_or(usize::MAX, |window| window as usize);
            let from = (last + 1).saturating_sub(window);
            for head in 0..heads {
                let kv_head = head / design.group() as usize;
                let query = &self.queries[(token * heads + head) * dim..][..dim];
                let row = |of: &[f32], position: usize| -> Vec<f32> {
                    let at = (kv_head * self.shape.capacity as usize + position) * dim;
                    of[at..at + dim].to_vec()
                };
                let scores: Vec<f64> = (from..=last)
                    .map(|position| {
                        let key = row(&self.keys, position);
                        let dot: f64 = query
                            .iter()
                            .zip(&key)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum();
                        let score = dot * f64::from(self.scale);
                        match design.cap.map(f64::from) {
                            Some(cap) => cap * (score / cap).tanh(),
                            None => score,
                        }
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let all: f64 = weights.iter().sum();
                let mut sums = vec![0.0; dim];
                for (position, weight) in (from..=last).zip(&weights) {
                    let value = row(&self.values, position);
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum += weight / all * f64::from(value);
                    }
                }
                results.extend(sums);
            }
        }
        results
    }

    fn run(&self, simulator: &mut Simulator) -> (Vec<bf16>, Report) {
        let array = Array::npu1();
        let design = &self.design;
        let dim = design.head_dim;
        let factor = design.query_factor(self.scale);
        let bytes = design.buffer_bytes(array, self.shape);
        let queries = pack::queries(design, array, self.shape, |token, head, feature| {
            factor * self.queries[((token * design.query_heads + head) * dim + feature) as usize]
        });
        let mut buffers = [
            HostBuffer::input(queries),
            HostBuffer::input(self.cache()),
            HostBuffer::input(pack::parameters(design, array, self.shape, self.first)),
            HostBuffer::output(bytes[3] as usize),
        ];
        let report = simulator
            .run(&sequence_name(self.shape), &mut buffers)
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.shape));
        let missing = buffers[3].0.first_unwritten(0, bytes[3] as usize);
        assert_eq!(missing, None, "{:?}", self.shape);
        (
            pack::results(design, self.shape, buffers[3].bytes()),
            report,
        )
    }

    /// Size of the error beside the size of what is expected.
    fn error(&self, results: &[bf16]) -> f64 {
        let (mut error, mut size) = (0.0, 0.0);
        let expected = self.expected();
        assert_eq!(results.len(), expected.len());
        for (result, expected) in results.iter().zip(expected) {
            error += (f64::from(*result) - expected).powi(2);
            size += expected * expected;
        }
        (error / size).sqrt()
    }
}

fn shape(tokens: u32, context: u32, window: Option<u32>) -> Shape {
    Shape {
        tokens,
        context,
        slack: 0,
        window,
        capacity: context.next_multiple_of(64).max(256),
    }
}

/// The module, legal and read back from its text.
fn emitted(design: &Attention, version: DialectVersion, shapes: &[Shape]) -> Module {
    let array = Array::npu1();
    let text = design.emit(array, version, "attention", shapes).unwrap();
    let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
    let faults = legality::check(&module, array);
    assert!(
        faults.is_empty(),
        "{design:?}: {} faults, the first: {}",
        faults.len(),
        faults[0]
    );
    module
}

fn configured(design: &Attention, shapes: &[Shape]) -> Simulator {
    let module = emitted(design, DialectVersion::default(), shapes);
    Simulator::new(&module, Array::npu1()).unwrap_or_else(|error| panic!("{error}"))
}

fn design(head_dim: u32, query_heads: u32, kv_heads: u32, tile: [u32; 3]) -> Attention {
    Attention {
        head_dim,
        query_heads,
        kv_heads,
        cap: None,
        tile: QueryTile {
            queries: tile[0],
            positions: tile[1],
            features: tile[2],
        },
    }
}

fn run_all(design: Attention, calls: &[(Shape, u32, f32)]) {
    let shapes: Vec<Shape> = calls.iter().map(|(shape, _, _)| *shape).collect();
    let mut simulator = configured(&design, &shapes);
    for (seed, &(shape, first, size)) in (1..).zip(calls) {
        let case = Case::new(design, shape, first, size, seed);
        let (results, report) = case.run(&mut simulator);
        let error = case.error(&results);
        println!(
            "{} features, {} tokens from {first}, window {:?}: error {error:.5}, {} cycles",
            design.head_dim, shape.tokens, shape.window, report.cycles
        );
        assert!(error < 0.01, "{design:?} {shape:?}: {error}");
    }
}

/// One configuration runs all shapes one after another: odd numbers of tokens, contexts, windows.
#[test]
fn small_heads_are_right_on_the_simulated_array() {
    run_all(
        design(64, 4, 1, [32, 32, 32]),
        &[
            (shape(40, 40, None), 0, 2.0),
            (shape(1, 1, None), 0, 2.0),
            (shape(3, 77, None), 74, 4.0),
            (shape(100, 230, Some(48)), 130, 2.0),
        ],
    );
    run_all(
        design(96, 4, 2, [32, 16, 32]),
        &[(shape(12, 50, Some(20)), 38, 2.0)],
    );
    // More transfers an item than a channel queues.
    run_all(
        design(64, 8, 4, [16, 16, 64]),
        &[(shape(70, 6400, None), 6330, 2.0)],
    );
}

/// Heads of 256 and 128 features in the tiles that are chosen for real models.
#[test]
fn large_heads_are_right_on_the_simulated_array() {
    let wide = design(256, 8, 4, [32, 32, 32]);
    run_all(
        wide,
        &[
            (shape(70, 150, None), 80, 2.0),
            (shape(32, 200, Some(64)), 168, 3.0),
        ],
    );
    let middle = design(128, 16, 8, [64, 16, 64]);
    run_all(middle, &[(shape(70, 150, None), 80, 2.0)]);
}

/// Gemma 2 bounds its scores.
#[test]
fn capped_scores_are_right_on_the_simulated_array() {
    let capped = Attention {
        cap: Some(50.0),
        ..design(64, 4, 2, [32, 32, 32])
    };
    run_all(
        capped,
        &[
            (shape(40, 40, None), 0, 2.0),
            // Most scores are near the cap.
            (shape(40, 90, None), 50, 90.0),
        ],
    );
}

/// A layer of each model: heads of queries and of keys, features, cap, and the shapes that must be.
const MODELS: [(&str, [u32; 2], u32, Option<f32>); 5] = [
    ("Gemma 2 2B", [8, 4], 256, Some(50.0)),
    ("Gemma 3 1B", [4, 1], 256, None),
    ("Gemma 3 4B", [8, 4], 256, None),
    ("Gemma 3 27B", [32, 16], 128, None),
    ("story model", [4, 1], 64, None),
];

fn searched(heads: [u32; 2], head_dim: u32, cap: Option<f32>) -> Attention {
    let prefill = Shape {
        capacity: 4096,
        ..shape(512, 512, None)
    };
    let later = Shape {
        context: 2048,
        ..prefill
    };
    Attention::search(
        Array::npu1(),
        head_dim,
        heads,
        cap,
        &[(prefill, 2), (later, 1)],
    )
    .unwrap()
}

/// Designs of real models at all their numbers of tokens are legal, and one configuration each.
#[test]
fn designs_of_real_models_are_legal() {
    let array = Array::npu1();
    for (name, heads, head_dim, cap) in MODELS {
        let design = searched(heads, head_dim, cap);
        let mut shapes = Vec::new();
        for tokens in [1, 32, 64, 256, 512] {
            for (context, window) in [(tokens, None), (4096, None), (4096, Some(1024))] {
                shapes.push(Shape {
                    tokens,
                    context,
                    slack: 0,
                    window,
                    capacity: 4096,
                });
            }
        }
        let memory = design.core_memory();
        println!(
            "{name}: {:?}, core {} of {} bytes, memory tile {} bytes",
            design.tile,
            memory.bytes(),
            array.core.memory_bytes,
            design.memory_tile_bytes(array),
        );
        for &shape in &shapes {
            let predicted = design.predict(array, shape);
            println!(
                "  {:4} tokens of {:4}, window {:?}: {:.3} ms (column {:.3}, compute {:.3}, memory {:.3}), {:.2} TOPS, {}",
                shape.tokens,
                shape.context,
                shape.window,
                predicted.seconds() * 1e3,
                predicted.column_s * 1e3,
                predicted.compute_s * 1e3,
                predicted.memory_s * 1e3,
                predicted.tops(),
                predicted.bound().name()
            );
        }
        let module = emitted(&design, DialectVersion::default(), &shapes);
        // The checker names what a program takes where there is no room for it.
        let mut without_program = array.clone();
        without_program.core.program_bytes = 0;
        println!("  {}", legality::check(&module, &without_program)[0].what);
    }
}

/// What is predicted, and what the simulator counts: the same but for products of f32, which the simulator takes for
/// single instructions. A cap has so many of them that the two cannot be compared.
#[test]
fn predictions_agree_with_the_simulated_array() {
    let array = Array::npu1();
    for (name, heads, head_dim, cap) in MODELS {
        let design = searched(heads, head_dim, cap);
        for shape in [shape(64, 512, Some(128)), shape(512, 512, None)] {
            let mut simulator = configured(&design, &[shape]);
            let case = Case::new(design, shape, shape.context - shape.tokens, 2.0, 11);
            let (results, report) = case.run(&mut simulator);
            let error = case.error(&results);
            let predicted = design.predict(array, shape).column_s * array.clock_hz;
            let ratio = report.cycles as f64 / predicted;
            println!(
                "{name}, {} tokens of {}: error {error:.5}, {} cycles, {predicted:.0} predicted: {ratio:.2}",
                shape.tokens, shape.context, report.cycles
            );
            assert!(error < 0.01, "{name} {shape:?}: {error}");
            if cap.is_none() {
                assert!((0.85..1.15).contains(&ratio), "{name} {shape:?}: {ratio}");
            }
        }
    }
}

/// Scores that rise, or fall, by hundreds over the context: references are raised again and again, or never.
#[test]
fn drifting_scores_are_right_on_the_simulated_array() {
    let design = design(64, 4, 2, [32, 32, 64]);
    let shape = shape(20, 250, None);
    let mut simulator = configured(&design, &[shape]);
    for drift in [0.15, -0.15, 0.6] {
        let mut case = Case::new(design, shape, 230, 1.0, 3);
        case.drift(drift);
        let (results, _) = case.run(&mut simulator);
        let error = case.error(&results);
        println!("scores drift by {drift}: error {error:.5}");
        assert!(error < 0.01, "{drift}: {error}");
    }
}

/// A sequence serves contexts that are shorter than it is made for, down to its slack.
#[test]
fn shorter_contexts_are_right_on_the_simulated_array() {
    let design = design(64, 2, 2, [32, 16, 32]);
    let shape = Shape {
        slack: 40,
        ..shape(10, 160, Some(50))
    };
    let mut simulator = configured(&design, &[shape]);
    for first in [110, 131, 150] {
        let case = Case::new(design, shape, first, 2.0, u64::from(first));
        let (results, _) = case.run(&mut simulator);
        let error = case.error(&results);
        assert!(error < 0.01, "{first}: {error}");
    }
}

/// Both texts of the dialect are legal and say the same.
#[test]
fn both_dialects_give_the_same_results() {
    let design = design(64, 4, 1, [32, 16, 64]);
    let shape = shape(9, 30, Some(12));
    let case = Case::new(design, shape, 21, 2.0, 5);
    let mut results = Vec::new();
    for version in [DialectVersion::Subviews, DialectVersion::Elements] {
        let module = emitted(&design, version, &[shape]);
        let mut simulator = Simulator::new(&module, Array::npu1()).unwrap();
        results.push(case.run(&mut simulator).0);
    }
    assert!(case.error(&results[0]) < 0.01);
    assert_eq!(results[0], results[1]);
}

#[test]
fn what_cannot_be_is_refused() {
    let array = Array::npu1();
    let design = design(64, 4, 1, [32, 16, 64]);
    let refused = |design: &Attention, array: &Array, shape: Shape| {
        design
            .emit(array, DialectVersion::default(), "attention", &[shape])
            .unwrap_err()
            .to_string()
    };
    let good = shape(8, 64, None);
    let wide = Attention {
        tile: QueryTile {
            queries: 256,
            ..design.tile
        },
        ..design
    };
    let uneven = Attention {
        query_heads: 3,
        kv_heads: 2,
        ..design
    };
    let far = Shape {
        capacity: 1 << 17,
        ..good
    };
    for (design, array, shape, message) in [
        (&design, Array::npu2(), good, "4 x 8 by 8 x 4, npu2"),
        (
            &wide,
            array,
            good,
            "no tile of attention fits a core of npu1",
        ),
        (&uneven, array, good, "3 of queries and 2 of keys"),
        (&design, array, Shape { tokens: 0, ..good }, "no token sees"),
        (&design, array, Shape { context: 7, ..good }, "context"),
        (
            &design,
            array,
            Shape {
                context: 300,
                ..good
            },
            "context",
        ),
        (&design, array, Shape { slack: 57, ..good }, "context"),
        (
            &design,
            array,
            Shape {
                capacity: 250,
                ..good
            },
            "no multiple of 16",
        ),
        (&design, array, far, "stride reaches"),
    ] {
        let said = refused(design, array, shape);
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn modules_are_snapshot() {
    let design = design(64, 2, 1, [16, 16, 16]);
    let text = design
        .emit(
            Array::npu1(),
            DialectVersion::default(),
            "attention",
            &[shape(40, 90, Some(64)), shape(1, 64, None)],
        )
        .unwrap();
    crate::design::snapshot::assert_module("attention", &text);
}
