//! Compiles the vector dialect's ops on shapes: positions, contractions, and where elements of a shape lie.

use super::SimulationError;
use super::compile::{Compiler, Frame, Place};
use super::program::*;
use crate::module::{Contraction, Op, Reduction, Scalar};

/// Position in a vector: what is constant of it, and registers with their factors and limits.
pub(super) type Position = (u32, Box<[(Wide, u32, u32)]>);

impl<'m> Compiler<'m> {
    /// Position in a vector: what is constant of it, and registers with their factors and limits.
    pub(super) fn position(
        &mut self,
        frame: &Frame,
        op: &Op,
        behind: usize,
        position: &[Option<i64>],
        shape: &[i64],
    ) -> Result<Position, SimulationError> {
        let strides = strides(shape);
        let mut base = 0;
        let mut terms = Vec::new();
        let mut next = behind;
        for (dim, at) in position.iter().enumerate() {
            let (Some(stride), Some(size)) = (strides.get(dim), shape.get(dim)) else {
                return Err(self.unsupported(op, "a position of more dimensions than the vector's"));
            };
            match at {
                Some(at) => base += *at as u32 * *stride as u32,
                None => {
                    let register = match op.operands.get(next).map(|value| frame.places[*value]) {
                        Some(Place::Wide(register)) => register,
                        Some(Place::Words(a)) => {
                            let d = self.wide();
                            self.emit(Instr::WideFromWord {
                                d,
                                a,
                                mask: u64::MAX,
                            });
                            d
                        }
                        _ => return Err(self.unsupported(op, "such a position")),
                    };
                    next += 1;
                    terms.push((register, *stride as u32, *size as u32));
                }
            }
        }
        Ok((base, terms.into()))
    }

    pub(super) fn extract(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
        result: usize,
        position: &[Option<i64>],
    ) -> Result<(), SimulationError> {
        let a = self.word(frame, op, 0)?;
        let shape = frame.body.values[op.operands[0]].shape();
        let n = frame.body.values[result].lanes() as u32;
        let (base, terms) = self.position(frame, op, 1, position, shape)?;
        let bits = frame.bits[op.operands[0]];
        let d = self.words(n as usize);
        frame.places[result] = Place::Words(d);
        frame.bits[result] = bits;
        if terms.is_empty() {
            self.emit(Instr::Copy { d, a: a + base, n });
        } else {
            self.emit(Instr::ExtractAt {
                d,
                a,
                base,
                terms,
                n,
            });
        }
        Ok(())
    }

    pub(super) fn deinterleave(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
    ) -> Result<(), SimulationError> {
        let a = self.word(frame, op, 0)?;
        for (odd, &result) in op.results.iter().enumerate() {
            let n = frame.body.values[result].lanes() as u32;
            let from = (0..n).map(|at| 2 * at + odd as u32).collect();
            let d = self.words(n as usize);
            frame.places[result] = Place::Words(d);
            self.emit(Instr::Gather { d, a, from });
        }
        Ok(())
    }

    pub(super) fn contract(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
        result: usize,
        contraction: &Contraction,
    ) -> Result<(), SimulationError> {
        let (a, b, c) = (
            self.word(frame, op, 0)?,
            self.word(frame, op, 1)?,
            self.word(frame, op, 2)?,
        );
        let ty = |operand: usize| &frame.body.values[op.operands[operand]];
        let (left, right, sum) = (ty(0).shape(), ty(1).shape(), ty(2).shape());
        let element = ty(2).element().unwrap_or(Scalar::F32);
        let mut sizes = vec![1i64; contraction.loops];
        for (loops, shape) in [
            (&contraction.left, left),
            (&contraction.right, right),
            (&contraction.accumulator, sum),
        ] {
            if loops.len() != shape.len() || loops.iter().any(|at| *at >= sizes.len()) {
                return Err(self.unsupported(op, "such maps"));
            }
            for (at, size) in loops.iter().zip(shape) {
                sizes[*at] = *size;
            }
        }
        let steps: i64 = sizes.iter().product();
        let reduced: i64 = (0..sizes.len())
            .filter(|at| !contraction.accumulator.contains(at))
            .map(|at| sizes[at])
            .product();
        let float = element.is_float();
        let bits = frame.bits[op.operands[0]].max(frame.bits[op.operands[1]]);
        self.charge_matrix(ty(0).element(), bits, float, steps as u64);
        let small = !float && element.bits() == 32 && bits <= 9 && reduced <= 32;
        let kind = match element {
            Scalar::Bf16 => ProductKind::Bf16,
            Scalar::F32 => ProductKind::Float,
            Scalar::Int(_) | Scalar::Index if small => ProductKind::Small,
            Scalar::Int(_) | Scalar::Index => ProductKind::Int(32 - element.bits().min(32)),
        };
        let n = frame.body.values[result].lanes() as u32;
        // (m, k), (k, n) or (n, k), (m, n): what the matrix unit does.
        let product = match (
            contraction.left.as_slice(),
            contraction.right.as_slice(),
            contraction.accumulator.as_slice(),
        ) {
            (&[m, k], &[k2, n], &[m2, n2]) if (m, k, n) == (m2, k2, n2) => Some((m, k, n, false)),
            (&[m, k], &[n, k2], &[m2, n2]) if (m, k, n) == (m2, k2, n2) => Some((m, k, n, true)),
            _ => None,
        }
        .map(|(m, k, n, transposed)| Product {
            m: sizes[m] as u32,
            k: sizes[k] as u32,
            n: sizes[n] as u32,
            transposed,
            kind,
        })
        .filter(|p| {
            contraction.kind == Reduction::Add
                && [p.m * p.k, p.k * p.n, p.m * p.n]
                    .iter()
                    .all(|lanes| *lanes as usize <= super::lanes::MATRIX_LANES)
        });
        let d = self.words(n as usize);
        frame.places[result] = Place::Words(d);
        if let Some(product) = product {
            self.emit(Instr::Product {
                d,
                a,
                b,
                c,
                product,
            });
            return Ok(());
        }
        if steps > 1 << 20 {
            return Err(self.unsupported(op, "a contraction of this size"));
        }
        let along = |loops: &[usize], shape: &[i64]| {
            let mut along = vec![0; sizes.len()];
            for (at, stride) in loops.iter().zip(strides(shape)) {
                along[*at] = stride;
            }
            positions(&sizes, &along)
        };
        let sums = along(&contraction.accumulator, sum);
        let lefts = along(&contraction.left, left);
        let rights = along(&contraction.right, right);
        let steps = sums
            .iter()
            .zip(lefts.iter().zip(rights.iter()))
            .map(|(sum, (left, right))| (*sum, *left, *right))
            .collect();
        self.emit(Instr::Contract {
            d,
            a,
            b,
            c,
            n,
            steps,
            kind: contraction.kind,
            arithmetic: kind,
        });
        Ok(())
    }

    /// Matrix instructions of a contraction of so many products.
    fn charge_matrix(&mut self, element: Option<Scalar>, bits: u32, float: bool, products: u64) {
        let operands = if float {
            crate::array::Operands::Bf16
        } else {
            crate::array::Operands::I8
        };
        let mut rate = u64::from(self.array.matrix(operands).macs_per_cycle);
        // Wider operands take as many passes as they have more bits.
        if !float {
            rate = rate * 8 / u64::from(bits.clamp(8, 32)).next_power_of_two().max(8);
        } else if element == Some(Scalar::F32) && bits > 16 {
            rate /= 8;
        }
        let count = products.div_ceil(rate.max(1));
        self.charge(|cost| {
            cost.matrix += 16 * count;
            cost.counts.matrix += count;
        });
    }
}

/// Words from one index of each dimension to the next.
pub(super) fn strides(shape: &[i64]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim].max(1) as usize;
    }
    strides
}

/// For each element of a shape, in order, where strides lead it.
pub(super) fn positions(shape: &[i64], strides: &[usize]) -> Box<[u32]> {
    let dims: Vec<(i64, i64)> = shape
        .iter()
        .zip(strides)
        .map(|(size, stride)| (*size, *stride as i64))
        .collect();
    super::memory::pieces(0, &dims, 1)
        .flat_map(|(at, run)| (0..run as i64).map(move |word| (at + word) as u32))
        .collect()
}

/// Where each element of a broadcast comes from.
pub(super) fn stretch(from: &[i64], to: &[i64]) -> Box<[u32]> {
    let lead = to.len() - from.len();
    let own = strides(from);
    let along: Vec<usize> = (0..to.len())
        .map(|dim| match dim.checked_sub(lead) {
            Some(dim) if from[dim] != 1 => own[dim],
            Some(_) | None => 0,
        })
        .collect();
    positions(to, &along)
}
