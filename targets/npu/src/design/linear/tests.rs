//! Products on the simulated array against plain arithmetic, bit by bit; search and prediction.

use super::pack::{self, Token};
use super::weights::GROUP;
use super::*;
use crate::module::Module;
use crate::simulator::{HostBuffer, Report, Simulator};
use gembin_bundle::layout::{self, Format};
use half::bf16;

/// A repeatable stream of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }

    fn signed(&mut self, most: i32) -> i32 {
        self.below(2 * most as u64 + 1) as i32 - most
    }
}

/// A random matrix in a bundle's layout, and tokens to multiply with.
struct Case {
    shape: Shape,
    form: WeightForm,
    /// `[outputs][depth]`, as stored: -127..=127 or -8..=7.
    weights: Vec<i32>,
    /// `[outputs][groups]`.
    scales: Vec<f32>,
    tokens: Vec<Token>,
}

impl Case {
    fn new(form: WeightForm, shape: Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let most = if form.bits() == 8 { 127 } else { 7 };
        let groups = shape.depth.div_ceil(GROUP);
        let weights = (0..shape.outputs * shape.depth)
            .map(|_| random.signed(most))
            .collect();
        let scales = (0..shape.outputs)
            .flat_map(|_| {
                let row = 0.001 + random.below(1000) as f32 * 1e-5;
                (0..groups)
                    .map(|_| match form.has_groups() {
                        true => row * (random.below(100) + 1) as f32 / 100.0,
                        false => row,
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        let tokens = (0..shape.tokens)
            .map(|_| Token {
                integers: (0..shape.depth).map(|_| random.signed(127) as i8).collect(),
                scale: 0.01 + random.below(1000) as f32 * 1e-4,
            })
            .collect();
        Self {
            shape,
            form,
            weights,
            scales,
            tokens,
        }
    }

    fn scale(&self, row: u32, group: u32) -> f32 {
        self.scales[(row * self.shape.depth.div_ceil(GROUP) + group) as usize]
    }

    /// The data plane of the bundle, and beyond it what happens to follow.
    fn plane(&self, bytes: u64) -> Vec<u8> {
        let format = match self.form {
            WeightForm::Rows8 | WeightForm::Groups8 => Format::Q8,
            WeightForm::Groups4 => Format::Q4,
        };
        let Shape { depth, outputs, .. } = self.shape;
        let mut plane = vec![0x5A; bytes as usize];
        plane[..layout::data_bytes(format, outputs, depth) as usize].fill(0);
        for row in 0..outputs {
            for column in 0..depth {
                let weight = self.weights[(row * depth + column) as usize];
                let word = layout::word_index(format, depth, row, column) as usize * 4;
                if self.form.bits() == 8 {
                    plane[word + (column % 4) as usize] = weight as u8;
                } else {
                    let within = column % 8;
                    let nibble = ((weight + 8) as u8) << (within / 4 * 4);
                    plane[word + (within % 4) as usize] |= nibble;
                }
            }
        }
        plane
    }

    /// What the array is to compute, step by step in plain arithmetic.
    fn expected(&self, design: &Linear) -> Vec<bf16> {
        let Shape { depth, outputs, .. } = self.shape;
        let groups = depth.div_ceil(GROUP);
        let mut results = Vec::new();
        for token in &self.tokens {
            for row in 0..outputs {
                let largest = (0..groups)
                    .map(|group| self.scale(row, group))
                    .fold(0.0, f32::max);
                let sum: i32 = (0..depth)
                    .map(|column| {
                        let weight = self.weights[(row * depth + column) as usize];
                        let multiplier =
                            i32::from(pack::multiplier(self.scale(row, column / GROUP), largest));
                        let weight = match self.form {
                            WeightForm::Rows8 => weight,
                            WeightForm::Groups8 => (weight * multiplier + 64) >> 7,
                            WeightForm::Groups4 => (weight * multiplier + 4) >> 3,
                        };
                        weight * i32::from(token.integers[column as usize])
                    })
                    .sum();
                let shift = design.sum_shift();
                let sum = match shift {
                    0 => sum,
                    _ => (sum + (1 << (shift - 1))) >> shift,
                };
                let value = sum as f32 * token.scale * pack::row_scale(design, largest);
                results.push(bf16::from_f32(value));
            }
        }
        results
    }

    /// The same without any rounding but that of weights and activations.
    fn exact(&self) -> Vec<f64> {
        let Shape { depth, outputs, .. } = self.shape;
        let mut results = Vec::new();
        for token in &self.tokens {
            for row in 0..outputs {
                let sum: f64 = (0..depth)
                    .map(|column| {
                        f64::from(self.weights[(row * depth + column) as usize])
                            * f64::from(self.scale(row, column / GROUP))
                            * f64::from(token.integers[column as usize])
                    })
                    .sum();
                results.push(sum * f64::from(token.scale));
            }
        }
        results
    }

    fn run(&self, design: &Linear, simulator: &mut Simulator) -> (Vec<bf16>, Report) {
        let array = Array::npu1();
        let shape = self.shape;
        let mut buffers = [
            HostBuffer::input(pack::activations(design, array, shape, &self.tokens)),
            HostBuffer::input(self.plane(design.weight_bytes(shape))),
            HostBuffer::input(pack::scale_table(design, shape, |row, group| {
                self.scale(row, group)
            })),
            HostBuffer::output(design.result_bytes(array, shape) as usize),
        ];
        let report = simulator
            .run(&sequence_name(shape), &mut buffers)
            .unwrap_or_else(|error| panic!("{shape:?}: {error}"));
        let missing = buffers[3]
            .0
            .first_unwritten(0, design.first_spare_byte(array, shape) as usize);
        assert_eq!(
            missing, None,
            "{shape:?}: a byte of the results was not written"
        );
        (pack::results(shape, buffers[3].bytes()), report)
    }
}

fn shape(tokens: u32, depth: u32, outputs: u32) -> Shape {
    Shape {
        tokens,
        depth,
        outputs,
    }
}

fn configured(design: &Linear, version: DialectVersion, shapes: &[Shape]) -> Simulator {
    let text = design
        .emit(Array::npu1(), version, "linear", shapes)
        .unwrap();
    let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
    Simulator::new(&module, Array::npu1()).unwrap_or_else(|error| panic!("{error}"))
}

/// Every form, odd sizes: one configuration runs all shapes one after another.
#[test]
fn products_are_bit_exact_on_the_simulated_array() {
    for form in [WeightForm::Rows8, WeightForm::Groups8, WeightForm::Groups4] {
        let depth = if form == WeightForm::Groups4 { 96 } else { 64 };
        let design = Linear {
            form,
            tile: CoreTile {
                tokens: 32,
                depth,
                outputs: 32,
            },
            most_depth: 2048,
        };
        let shapes = [
            shape(1, 64, 128),
            // Neither depth nor outputs are multiples of anything; one block of outputs laps over another.
            shape(40, 200, 150),
            // Two blocks of tokens, several segments of scales.
            shape(130, 1184, 48),
            shape(17, 2048, 160),
        ];
        let mut simulator = configured(&design, DialectVersion::Subviews, &shapes);
        for (seed, shape) in (1..).zip(shapes) {
            let case = Case::new(form, shape, seed);
            let (results, report) = case.run(&design, &mut simulator);
            let expected = case.expected(&design);
            let wrong = results
                .iter()
                .zip(&expected)
                .filter(|(a, b)| a != b)
                .count();
            assert_eq!(
                wrong,
                0,
                "{form:?} {shape:?}: {wrong} of {} differ",
                results.len()
            );
            println!("{form:?} {shape:?}: {} cycles", report.cycles);
        }
    }
}

/// Bringing groups to one scale a row costs little: the error of results beside exact arithmetic, relative to their size.
#[test]
fn one_scale_a_row_stays_within_1_percent() {
    for form in [WeightForm::Rows8, WeightForm::Groups8, WeightForm::Groups4] {
        let design = Linear {
            form,
            tile: CoreTile {
                tokens: 32,
                depth: 96,
                outputs: 32,
            },
            most_depth: 2048,
        };
        let case = Case::new(form, shape(24, 2048, 64), 5);
        let (mut error, mut size) = (0.0, 0.0);
        for (result, exact) in case.expected(&design).iter().zip(case.exact()) {
            error += (f64::from(*result) - exact).powi(2);
            size += exact * exact;
        }
        let relative = (error / size).sqrt();
        println!("{form:?}: {relative:.5}");
        assert!(relative < 0.01, "{form:?}: {relative}");
    }
}

/// The tiles that are chosen for a real model's matrices: what is predicted of their products, and what the simulator
/// counts for a piece of one.
#[test]
fn predictions_agree_with_the_simulated_array() {
    let array = Array::npu1();
    for form in [WeightForm::Rows8, WeightForm::Groups4] {
        let design = Linear::search(array, form, &gemma_3_4b(512)).unwrap();
        let shape = shape(512, 1280, 2 * design.tile.outputs * array.columns);
        let mut simulator = configured(&design, DialectVersion::Elements, &[shape]);
        let case = Case::new(form, shape, 9);
        let (_, report) = case.run(&design, &mut simulator);
        let predicted = design.predict(array, shape).compute_s * array.clock_hz;
        let busy = report
            .cores
            .iter()
            .map(|core| core.busy_cycles)
            .max()
            .unwrap_or(0);
        println!(
            "{form:?} {:?}: {busy} busy of {} cycles, {predicted:.0} predicted",
            design.tile, report.cycles
        );
        let ratio = busy as f64 / predicted;
        assert!((0.8..1.2).contains(&ratio), "{form:?}: {ratio}");
    }
}

/// Products of a layer of Gemma 3 4B.
fn gemma_3_4b(tokens: u32) -> Vec<(Shape, u32)> {
    [(2560, 4096), (2048, 2560), (2560, 20480), (10240, 2560)]
        .map(|(depth, outputs)| (shape(tokens, depth, outputs), 34))
        .to_vec()
}
