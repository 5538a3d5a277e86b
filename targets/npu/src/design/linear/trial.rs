//! Random products to hold a design to: a matrix in a bundle's layout, tokens, what the array is to make of them step by
//! step in plain arithmetic, and the run on the simulated array.

use super::pack::{self, Token};
use super::weights::{GROUP, WeightForm};
use super::{Linear, Shape, sequence_name};
use crate::array::Array;
use crate::design::random::Random;
use crate::simulator::{HostBuffer, Report, SimulationError, Simulator};
use gembin_bundle::layout::{self, Format};
use half::bf16;

/// A random product.
pub struct Trial {
    shape: Shape,
    form: WeightForm,
    /// `[outputs][depth]`, as stored: -127..=127 or -8..=7.
    weights: Vec<i32>,
    /// `[outputs][groups]`.
    scales: Vec<f32>,
    tokens: Vec<Token>,
}

impl Trial {
    /// The same numbers for the same seed.
    pub fn new(form: WeightForm, shape: Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let most = if form.bits() == 8 { 127 } else { 7 };
        let groups = shape.depth.div_ceil(GROUP);
        let weights = (0..shape.outputs * shape.depth)
            .map(|_| random.integer(most))
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
                integers: (0..shape.depth)
                    .map(|_| random.integer(127) as i8)
                    .collect(),
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

    /// A matrix of these floats, `[outputs][depth]`, rounded in groups, and no tokens.
    #[cfg(test)]
    pub(in crate::design) fn rounded(form: WeightForm, shape: Shape, floats: &[f32]) -> Self {
        let most = if form.bits() == 8 { 127.0 } else { 7.0 };
        let (mut weights, mut scales) = (Vec::new(), Vec::new());
        for row in floats.chunks(shape.depth as usize) {
            for group in row.chunks(GROUP as usize) {
                let largest = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let scale = largest / most;
                scales.push(scale);
                weights.extend(group.iter().map(|x| (x / scale).round() as i32));
            }
        }
        Self {
            shape,
            form,
            weights,
            scales,
            tokens: Vec::new(),
        }
    }

    /// A row of the matrix: as stored, or as the cores bring it to one scale.
    #[cfg(test)]
    pub(in crate::design) fn row(&self, row: u32, unpacked: bool) -> Vec<f32> {
        let depth = self.shape.depth;
        let groups = depth.div_ceil(GROUP);
        let largest = (0..groups)
            .map(|group| self.scale(row, group))
            .fold(0.0, f32::max);
        (0..depth)
            .map(|column| {
                let weight = self.weights[(row * depth + column) as usize];
                let scale = self.scale(row, column / GROUP);
                if !unpacked {
                    return weight as f32 * scale;
                }
                let multiplier = i32::from(pack::multiplier(scale, largest));
                self.form.unpacked(weight, multiplier) as f32
                    * (f64::from(largest) * self.form.unit()) as f32
            })
            .collect()
    }

    /// The scale of a row's group.
    pub fn scale(&self, row: u32, group: u32) -> f32 {
        self.scales[(row * self.shape.depth.div_ceil(GROUP) + group) as usize]
    }

    /// The data plane of the bundle, and beyond it what happens to follow.
    pub fn plane(&self, bytes: u64) -> Vec<u8> {
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
    pub fn expected(&self, design: &Linear) -> Vec<bf16> {
        let Shape { depth, outputs, .. } = self.shape;
        let groups = depth.div_ceil(GROUP);
        let mut results = vec![bf16::ZERO; self.tokens.len() * outputs as usize];
        let shift = design.sum_shift();
        for row in 0..outputs {
            let largest = (0..groups)
                .map(|group| self.scale(row, group))
                .fold(0.0, f32::max);
            let row_scale = pack::row_scale(design, largest);
            let weights: Vec<i32> = (0..depth)
                .map(|column| {
                    let weight = self.weights[(row * depth + column) as usize];
                    let scale = self.scale(row, column / GROUP);
                    let multiplier = i32::from(pack::multiplier(scale, largest));
                    self.form.unpacked(weight, multiplier)
                })
                .collect();
            for (index, token) in self.tokens.iter().enumerate() {
                let sum: i32 = weights
                    .iter()
                    .zip(&token.integers)
                    .map(|(weight, integer)| weight * i32::from(*integer))
                    .sum();
                let sum = match shift {
                    0 => sum,
                    _ => (sum + (1 << (shift - 1))) >> shift,
                };
                let value = sum as f32 * token.scale * row_scale;
                results[index * outputs as usize + row as usize] = bf16::from_f32(value);
            }
        }
        results
    }

    /// The same without any rounding but that of weights and activations.
    pub fn exact(&self) -> Vec<f64> {
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

    /// Runs it on a configured array; `None` in place of the results: not all of them were written.
    ///
    /// # Errors
    /// What the simulator finds wrong.
    pub fn run(
        &self,
        design: &Linear,
        array: &Array,
        simulator: &mut Simulator,
    ) -> Result<(Option<Vec<bf16>>, Report), SimulationError> {
        let shape = self.shape;
        let mut buffers = [
            HostBuffer::input(pack::activations(design, array, shape, &self.tokens)),
            HostBuffer::input(self.plane(design.weight_bytes(shape))),
            HostBuffer::input(pack::scale_table(design, shape, |row, group| {
                self.scale(row, group)
            })),
            HostBuffer::output(design.result_bytes(array, shape) as usize),
        ];
        let report = simulator.run(&sequence_name(shape), &mut buffers)?;
        let results = design.first_spare_byte(array, shape) as usize;
        let is_whole = buffers[3].0.first_unwritten(0, results).is_none();
        let results = is_whole.then(|| pack::results(shape, buffers[3].bytes()));
        Ok((results, report))
    }
}
