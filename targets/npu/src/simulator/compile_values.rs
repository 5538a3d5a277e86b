//! Compiles ops on values: arithmetic, conversions, and the vector dialect.

use super::SimulationError;
use super::compile::{Compiler, Frame, Place, is_wide};
use super::compile_vectors::{positions, stretch, strides};
use super::program::*;
use crate::module::{Op, OpKind, Scalar, Type};

impl<'m> Compiler<'m> {
    pub(super) fn word(
        &self,
        frame: &Frame,
        op: &Op,
        operand: usize,
    ) -> Result<Word, SimulationError> {
        match op.operands.get(operand).map(|value| frame.places[*value]) {
            Some(Place::Words(word)) => Ok(word),
            _ => Err(self.unsupported(op, "an operand of this type")),
        }
    }

    fn wide_of(&self, frame: &Frame, op: &Op, operand: usize) -> Result<Wide, SimulationError> {
        match op.operands.get(operand).map(|value| frame.places[*value]) {
            Some(Place::Wide(register)) => Ok(register),
            _ => Err(self.unsupported(op, "an operand of this type")),
        }
    }

    /// Charges an op on a vector, or on a scalar that is no index: addresses run beside everything else.
    fn charge_vector(&mut self, ty: &Type) {
        let bits = ty.element().map_or(0, Scalar::bits) as usize * ty.lanes();
        match ty {
            Type::Vector { .. } => {
                // The vector unit works on 512 bits.
                let count = bits.div_ceil(512).max(1) as u64;
                self.charge(|cost| cost.vector += 16 * count);
            }
            Type::Scalar(Scalar::Index) => {}
            Type::Scalar(_) | Type::Memory(_) | Type::Subview(_) => {
                self.charge(|cost| cost.scalar += 16);
            }
        }
    }

    /// Compiles an op that makes values of values.
    pub(super) fn value(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
    ) -> Result<(), SimulationError> {
        let Some(&result) = op.results.first() else {
            return Err(self.unsupported(op, "an op without results"));
        };
        let body = frame.body;
        let ty = &body.values[result];
        let element = ty
            .element()
            .ok_or_else(|| self.unsupported(op, "a result of this type"))?;
        // Vectors of indices are of words: what they count fits.
        if matches!(ty, Type::Vector { .. }) && is_wide(element) && element != Scalar::Index {
            return Err(self.unsupported(op, format!("a vector of {element}")));
        }
        let n = ty.lanes() as u32;
        let shift = 32 - element.bits().min(32);
        let operand_type = op.operands.first().map(|value| &body.values[*value]);
        let operand_element = operand_type.and_then(Type::element).unwrap_or(element);
        let operand_shift = 32 - operand_element.bits().min(32);
        let wide_result = matches!(ty, Type::Scalar(_)) && is_wide(element);
        let wide_operand =
            matches!(operand_type, Some(Type::Scalar(_))) && is_wide(operand_element);

        // What changes no word.
        let same = match &op.kind {
            OpKind::ShapeCast | OpKind::ExtendFloat => true,
            OpKind::ExtendSigned => wide_result == wide_operand,
            OpKind::Bitcast => operand_element == element,
            OpKind::Broadcast => {
                operand_type.is_some_and(|from| from.lanes() == ty.lanes())
                    && wide_result == wide_operand
            }
            OpKind::Extract { position } => position.is_empty(),
            _ => false,
        };
        if same {
            frame.places[result] = frame.places[op.operands[0]];
            if element.bits() >= frame.bits[op.operands[0]] {
                frame.bits[result] = frame.bits[op.operands[0]];
            }
            return Ok(());
        }
        if let OpKind::Constant(constant) = &op.kind {
            frame.places[result] = self.constant(ty, constant);
            return Ok(());
        }
        if !matches!(op.kind, OpKind::Contract(_)) {
            self.charge_vector(ty);
        }
        if wide_result || (wide_operand && !matches!(op.kind, OpKind::Broadcast)) {
            return self.wide_value(frame, op, result, element, operand_element);
        }
        if let OpKind::Deinterleave = op.kind {
            return self.deinterleave(frame, op);
        }
        // Operands that are found in front of the result.
        let d = |compiler: &mut Self, frame: &mut Frame| {
            let d = compiler.words(n as usize);
            frame.places[result] = Place::Words(d);
            d
        };
        match &op.kind {
            OpKind::IntBinary(kind) => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let d = d(self, frame);
                self.emit(Instr::IntBinary {
                    op: *kind,
                    d,
                    a,
                    b,
                    n,
                    shift,
                });
            }
            OpKind::FloatBinary(kind) => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let d = d(self, frame);
                self.emit(Instr::FloatBinary {
                    op: *kind,
                    d,
                    a,
                    b,
                    n,
                });
                self.round(element, d, n);
            }
            OpKind::Math(function) => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::Math {
                    function: *function,
                    d,
                    a,
                    n,
                });
                self.round(element, d, n);
            }
            OpKind::Fma => {
                let (a, b, c) = (
                    self.word(frame, op, 0)?,
                    self.word(frame, op, 1)?,
                    self.word(frame, op, 2)?,
                );
                let d = d(self, frame);
                self.emit(Instr::Fma { d, a, b, c, n });
                self.round(element, d, n);
            }
            OpKind::AbsInt => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::AbsInt { d, a, n, shift });
            }
            OpKind::Compare(compare) => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let d = d(self, frame);
                self.emit(Instr::IntCompare {
                    compare: *compare,
                    d,
                    a,
                    b,
                    n,
                });
            }
            OpKind::FloatCompare(compare) => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let d = d(self, frame);
                self.emit(Instr::FloatCompare {
                    compare: *compare,
                    d,
                    a,
                    b,
                    n,
                });
            }
            OpKind::Select => {
                let (c, a, b) = (
                    self.word(frame, op, 0)?,
                    self.word(frame, op, 1)?,
                    self.word(frame, op, 2)?,
                );
                let one = matches!(operand_type, Some(Type::Scalar(_)));
                let d = d(self, frame);
                self.emit(if one {
                    Instr::SelectAll { d, c, a, b, n }
                } else {
                    Instr::Select { d, c, a, b, n }
                });
            }
            OpKind::ExtendUnsigned => {
                let a = self.word(frame, op, 0)?;
                let bits = frame.bits[op.operands[0]];
                let d = d(self, frame);
                frame.bits[result] = (operand_element.bits().min(bits) + 1).min(32);
                self.emit(Instr::ExtendUnsigned {
                    d,
                    a,
                    n,
                    shift: operand_shift,
                });
            }
            OpKind::Truncate => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::Truncate { d, a, n, shift });
            }
            OpKind::IntToFloat { signed } => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::IntToFloat {
                    d,
                    a,
                    n,
                    signed: *signed,
                    shift: operand_shift,
                });
                self.round(element, d, n);
            }
            OpKind::FloatToInt { signed } => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::FloatToInt {
                    d,
                    a,
                    n,
                    signed: *signed,
                    shift,
                });
            }
            OpKind::TruncateFloat => {
                let a = self.word(frame, op, 0)?;
                let d = d(self, frame);
                self.emit(Instr::Copy { d, a, n });
                self.round(element, d, n);
            }
            OpKind::Bitcast => {
                let a = self.word(frame, op, 0)?;
                let from_lanes = operand_type.map_or(0, Type::lanes) as u32;
                let d = d(self, frame);
                self.emit(Instr::Bitcast {
                    d,
                    a,
                    from: operand_element,
                    to: element,
                    from_lanes,
                    to_lanes: n,
                });
            }
            OpKind::Broadcast => {
                let a = if wide_operand {
                    let wide = self.wide_of(frame, op, 0)?;
                    let d = self.words(1);
                    self.emit(Instr::WordFromWide { d, a: wide, shift });
                    d
                } else {
                    self.word(frame, op, 0)?
                };
                let from = operand_type.map_or(&[][..], Type::shape);
                let bits = frame.bits[op.operands[0]];
                let from_lanes = operand_type.map_or(1, Type::lanes) as u32;
                let stretched = from
                    .iter()
                    .zip(&ty.shape()[ty.shape().len() - from.len()..])
                    .any(|(from, to)| from != to);
                let d = d(self, frame);
                frame.bits[result] = bits;
                if stretched {
                    let gather = stretch(from, ty.shape());
                    self.emit(Instr::Gather { d, a, from: gather });
                } else {
                    self.emit(Instr::Fill {
                        d,
                        a,
                        n: from_lanes,
                        count: n,
                    });
                }
            }
            OpKind::FromElements => {
                let from = (0..op.operands.len())
                    .map(|operand| self.word(frame, op, operand))
                    .collect::<Result<_, _>>()?;
                let d = d(self, frame);
                self.emit(Instr::Collect { d, from });
            }
            OpKind::Transpose { permutation } => {
                let a = self.word(frame, op, 0)?;
                let bits = frame.bits[op.operands[0]];
                let from = operand_type.map_or(&[][..], Type::shape);
                if permutation.len() != from.len() {
                    return Err(self.unsupported(op, "such a permutation"));
                }
                let strides = strides(from);
                let moved: Vec<usize> = permutation.iter().map(|dim| strides[*dim]).collect();
                let from = positions(ty.shape(), &moved);
                let d = d(self, frame);
                frame.bits[result] = bits;
                self.emit(Instr::Gather { d, a, from });
            }
            OpKind::Extract { position } => self.extract(frame, op, result, position)?,
            OpKind::Insert { position } => {
                let (b, a) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let (base, terms) = self.position(frame, op, 2, position, ty.shape())?;
                let count = operand_type.map_or(1, Type::lanes) as u32;
                let d = d(self, frame);
                if terms.is_empty() {
                    let rows = Box::new([base]);
                    self.emit(Instr::Replace {
                        d,
                        a,
                        n,
                        b,
                        rows,
                        row: count,
                    });
                } else {
                    self.emit(Instr::InsertAt {
                        d,
                        a,
                        n,
                        b,
                        base,
                        terms,
                        count,
                    });
                }
            }
            OpKind::Shuffle { mask } => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let from = operand_type.map_or(&[][..], Type::shape);
                let row = from.get(1..).unwrap_or(&[]).iter().product::<i64>().max(1);
                let words = mask
                    .iter()
                    .flat_map(|at| (0..row).map(move |word| (at.max(&0) * row + word) as u32))
                    .collect();
                let first = operand_type.map_or(0, Type::lanes) as u32;
                let d = d(self, frame);
                self.emit(Instr::Gather2 {
                    d,
                    a,
                    b,
                    n: first,
                    from: words,
                });
            }
            OpKind::Interleave => {
                let (a, b) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let half = n / 2;
                let from = (0..n).map(|at| at / 2 + (at % 2) * half).collect();
                let d = d(self, frame);
                self.emit(Instr::Gather2 {
                    d,
                    a,
                    b,
                    n: half,
                    from,
                });
            }
            OpKind::ExtractSlice { offsets } => {
                let a = self.word(frame, op, 0)?;
                let bits = frame.bits[op.operands[0]];
                let strides = strides(operand_type.map_or(&[][..], Type::shape));
                let base: usize = offsets
                    .iter()
                    .zip(&strides)
                    .map(|(at, stride)| *at as usize * stride)
                    .sum();
                let from = positions(ty.shape(), &strides)
                    .iter()
                    .map(|at| at + base as u32)
                    .collect();
                let d = d(self, frame);
                frame.bits[result] = bits;
                self.emit(Instr::Gather { d, a, from });
            }
            OpKind::InsertSlice { offsets } => {
                let (b, a) = (self.word(frame, op, 0)?, self.word(frame, op, 1)?);
                let strides = strides(ty.shape());
                let source = operand_type.map_or(&[][..], Type::shape);
                let base: usize = offsets
                    .iter()
                    .zip(&strides)
                    .map(|(at, stride)| *at as usize * stride)
                    .sum();
                let (row, outer) = source.split_last().unwrap_or((&1, &[]));
                let from = strides.len() - source.len();
                let rows = positions(outer, &strides[from..])
                    .iter()
                    .map(|at| at + base as u32)
                    .collect();
                let row = *row as u32;
                let d = d(self, frame);
                self.emit(Instr::Replace {
                    d,
                    a,
                    n,
                    b,
                    rows,
                    row,
                });
            }
            OpKind::Contract(contraction) => self.contract(frame, op, result, contraction)?,
            OpKind::Reduce { kind, dimensions } => {
                let a = self.word(frame, op, 0)?;
                let c = if op.operands.len() > 1 {
                    Some(self.word(frame, op, 1)?)
                } else {
                    None
                };
                let from = operand_type.map_or(&[][..], Type::shape);
                // Words of the result that each word of the operand goes into.
                let kept: Vec<usize> = (0..from.len())
                    .filter(|dim| !dimensions.contains(dim))
                    .collect();
                let kept_shape: Vec<i64> = kept.iter().map(|dim| from[*dim]).collect();
                let kept_strides = strides(&kept_shape);
                let mut into_strides = vec![0; from.len()];
                for (dim, stride) in kept.iter().zip(&kept_strides) {
                    into_strides[*dim] = *stride;
                }
                let into = positions(from, &into_strides);
                // A tree of halves: a few instructions a halving.
                let steps = u64::from(into.len().next_power_of_two().trailing_zeros());
                self.charge(|cost| cost.vector += 16 * steps);
                let float = element.is_float();
                let d = d(self, frame);
                self.emit(Instr::Reduce {
                    d,
                    a,
                    c,
                    n,
                    into,
                    kind: *kind,
                    float,
                    shift,
                });
                self.round(element, d, n);
            }
            OpKind::Step => {
                let d = d(self, frame);
                let lanes = (0..n as i32).collect();
                self.emit(Instr::Const { d, lanes });
            }
            OpKind::Constant(_)
            | OpKind::ShapeCast
            | OpKind::ExtendFloat
            | OpKind::ExtendSigned
            | OpKind::Deinterleave
            | OpKind::For
            | OpKind::If
            | OpKind::While
            | OpKind::Condition
            | OpKind::Yield
            | OpKind::Return
            | OpKind::End
            | OpKind::Call { .. }
            | OpKind::Allocate
            | OpKind::Load
            | OpKind::Store
            | OpKind::Subview { .. }
            | OpKind::MemoryCast { .. }
            | OpKind::ByteView
            | OpKind::SameMemory
            | OpKind::VectorLoad { .. }
            | OpKind::VectorStore { .. }
            | OpKind::Acquire { .. }
            | OpKind::Access { .. }
            | OpKind::Release { .. }
            | OpKind::UseLock { .. } => return Err(self.unsupported(op, "a use like this")),
        }
        Ok(())
    }

    pub(super) fn round(&mut self, element: Scalar, d: Word, n: u32) {
        if element == Scalar::Bf16 {
            self.emit(Instr::RoundBf16 { d, n });
        }
    }

    /// Ops that take or give a wide register.
    fn wide_value(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
        result: usize,
        element: Scalar,
        operand_element: Scalar,
    ) -> Result<(), SimulationError> {
        let place = match &op.kind {
            OpKind::IntBinary(kind) => {
                let (a, b) = (self.wide_of(frame, op, 0)?, self.wide_of(frame, op, 1)?);
                let d = self.wide();
                self.emit(Instr::WideBinary { op: *kind, d, a, b });
                Place::Wide(d)
            }
            OpKind::Compare(compare) => {
                let (a, b) = (self.wide_of(frame, op, 0)?, self.wide_of(frame, op, 1)?);
                let d = self.words(1);
                self.emit(Instr::WideCompare {
                    compare: *compare,
                    d,
                    a,
                    b,
                });
                Place::Words(d)
            }
            OpKind::Select => {
                let condition = self.word(frame, op, 0)?;
                let (a, b) = (self.wide_of(frame, op, 1)?, self.wide_of(frame, op, 2)?);
                let d = self.wide();
                self.emit(Instr::WideSelect { d, condition, a, b });
                Place::Wide(d)
            }
            OpKind::ExtendSigned | OpKind::ExtendUnsigned if is_wide(element) => {
                if is_wide(operand_element) {
                    // An index and an integer of 64 bits are the same.
                    frame.places[op.operands[0]]
                } else {
                    let a = self.word(frame, op, 0)?;
                    let mask = match op.kind {
                        OpKind::ExtendUnsigned => u64::MAX >> (64 - operand_element.bits()),
                        _ => u64::MAX,
                    };
                    let d = self.wide();
                    self.emit(Instr::WideFromWord { d, a, mask });
                    Place::Wide(d)
                }
            }
            // A cast of an index to something narrower keeps the low bits.
            OpKind::ExtendSigned | OpKind::ExtendUnsigned | OpKind::Truncate
                if !is_wide(element) =>
            {
                let a = self.wide_of(frame, op, 0)?;
                let d = self.words(1);
                let shift = 32 - element.bits();
                self.emit(Instr::WordFromWide { d, a, shift });
                Place::Words(d)
            }
            OpKind::IntToFloat { signed } => {
                let a = self.wide_of(frame, op, 0)?;
                let d = self.words(1);
                self.emit(Instr::WideToFloat {
                    d,
                    a,
                    signed: *signed,
                });
                self.round(element, d, 1);
                Place::Words(d)
            }
            OpKind::FloatToInt { signed } => {
                let a = self.word(frame, op, 0)?;
                let d = self.wide();
                self.emit(Instr::FloatToWide {
                    d,
                    a,
                    signed: *signed,
                });
                Place::Wide(d)
            }
            _ => return Err(self.unsupported(op, format!("{operand_element} and {element} here"))),
        };
        frame.places[result] = place;
        Ok(())
    }
}
