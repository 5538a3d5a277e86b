//! Compiles control flow: loops, choices and calls, and what is carried between blocks. Functions are compiled in place.

use super::SimulationError;
use super::compile::{Compiler, Frame, Place};
use super::program::*;
use crate::module::{Block, Op};

/// What entering a loop costs beside its iterations.
const LOOP_CYCLES: u64 = 8;
/// What a call costs.
const CALL_CYCLES: u64 = 12;

impl<'m> Compiler<'m> {
    /// Copies values into places, all at once.
    fn assign(
        &mut self,
        frame: &Frame,
        op: &Op,
        from: &[usize],
        to: &[(Place, usize)],
    ) -> Result<(), SimulationError> {
        // Through places of their own where one is read after another was written.
        let clash = from.iter().enumerate().any(|(at, value)| {
            to[..at.min(to.len())]
                .iter()
                .any(|(place, _)| *place == frame.places[*value])
        });
        let mut sources: Vec<Place> = from.iter().map(|value| frame.places[*value]).collect();
        if clash {
            for (source, (_, lanes)) in sources.iter_mut().zip(to) {
                let between = match *source {
                    Place::Words(_) => Place::Words(self.words(*lanes)),
                    Place::Wide(_) => Place::Wide(self.wide()),
                    Place::View(_) => Place::View(self.view()),
                    other @ (Place::None | Place::Held(_) | Place::Lock(_)) => other,
                };
                self.copy(op, between, *source, *lanes)?;
                *source = between;
            }
        }
        for (source, (place, lanes)) in sources.into_iter().zip(to) {
            self.copy(op, *place, source, *lanes)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        op: &Op,
        to: Place,
        from: Place,
        lanes: usize,
    ) -> Result<(), SimulationError> {
        match (to, from) {
            (to, from) if to == from => {}
            (Place::Words(d), Place::Words(a)) => {
                let n = lanes as u32;
                self.emit(Instr::Copy { d, a, n });
            }
            (Place::Wide(d), Place::Wide(a)) => {
                self.emit(Instr::WideCopy { d, a });
            }
            (Place::View(d), Place::View(a)) => {
                self.emit(Instr::ViewCopy { d, a });
            }
            _ => return Err(self.unsupported(op, "carrying such a value")),
        }
        Ok(())
    }

    fn targets(&self, frame: &Frame, values: &[usize]) -> Vec<(Place, usize)> {
        values
            .iter()
            .map(|value| (frame.places[*value], frame.body.values[*value].lanes()))
            .collect()
    }

    fn yielded<'b>(&self, op: &Op, block: &'b Block) -> Result<&'b [usize], SimulationError> {
        block
            .ops
            .last()
            .map(|last| last.operands.as_slice())
            .ok_or_else(|| self.unsupported(op, "an empty region"))
    }

    pub(super) fn for_loop(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
    ) -> Result<(), SimulationError> {
        self.flush();
        let block = op
            .blocks
            .first()
            .ok_or_else(|| self.unsupported(op, "no body"))?;
        let (&[lower, upper, step], initial) = op
            .operands
            .split_first_chunk::<3>()
            .ok_or_else(|| self.unsupported(op, "no bounds"))?;
        let (Place::Wide(lower), Place::Wide(end), Place::Wide(step)) =
            (frame.places[lower], frame.places[upper], frame.places[step])
        else {
            return Err(self.unsupported(op, "a loop over another type than index or i64"));
        };
        let variable = self.wide();
        frame.places[block.arguments[0]] = Place::Wide(variable);
        let carried = &block.arguments[1..];
        for argument in carried {
            frame.places[*argument] = self.fresh(&frame.body.values[*argument]);
        }
        let targets = self.targets(frame, carried);
        self.assign(frame, op, initial, &targets)?;
        // Filling and draining the pipeline of an inner loop, or the jumps of an outer one.
        self.charge(|cost| cost.scalar += 16 * LOOP_CYCLES);
        self.flush();
        self.emit(Instr::WideCopy {
            d: variable,
            a: lower,
        });
        let test = self.emit(Instr::Jump(0));
        self.block(frame, block)?;
        self.flush();
        self.at(op);
        let yielded = self.yielded(op, block)?;
        self.assign(frame, op, yielded, &targets)?;
        self.emit(Instr::ForNext {
            variable,
            step,
            head: test as u32,
        });
        self.program.code[test] = Instr::ForTest {
            variable,
            end,
            exit: self.program.code.len() as u32,
        };
        for (result, argument) in op.results.iter().zip(carried) {
            frame.places[*result] = frame.places[*argument];
        }
        Ok(())
    }

    pub(super) fn if_else(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
    ) -> Result<(), SimulationError> {
        self.charge(|cost| cost.scalar += 16);
        self.flush();
        let Some(Place::Words(condition)) = op.operands.first().map(|value| frame.places[*value])
        else {
            return Err(self.unsupported(op, "such a condition"));
        };
        for &result in &op.results {
            frame.places[result] = self.fresh(&frame.body.values[result]);
        }
        let targets = self.targets(frame, &op.results);
        let branch = self.emit(Instr::Jump(0));
        let mut skip = None;
        for (at, block) in op.blocks.iter().enumerate() {
            if at == 1 {
                skip = Some(self.emit(Instr::Jump(0)));
                self.program.code[branch] = Instr::BranchUnless {
                    condition,
                    to: self.program.code.len() as u32,
                };
            }
            self.block(frame, block)?;
            self.flush();
            self.at(op);
            let yielded = self.yielded(op, block)?;
            self.assign(frame, op, yielded, &targets)?;
        }
        let end = self.program.code.len() as u32;
        match skip {
            Some(skip) => self.program.code[skip] = Instr::Jump(end),
            None => {
                self.program.code[branch] = Instr::BranchUnless { condition, to: end };
            }
        }
        Ok(())
    }

    pub(super) fn while_loop(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
    ) -> Result<(), SimulationError> {
        self.flush();
        let [before, after] = op.blocks.as_slice() else {
            return Err(self.unsupported(op, "no two regions"));
        };
        for argument in before.arguments.iter().chain(&after.arguments) {
            frame.places[*argument] = self.fresh(&frame.body.values[*argument]);
        }
        let (into, onward) = (
            self.targets(frame, &before.arguments),
            self.targets(frame, &after.arguments),
        );
        self.assign(frame, op, &op.operands, &into)?;
        let head = self.program.code.len() as u32;
        self.block(frame, before)?;
        self.charge(|cost| cost.scalar += 16);
        self.flush();
        self.at(op);
        let condition = self.yielded(op, before)?;
        let Some((&condition, passed)) = condition.split_first() else {
            return Err(self.unsupported(op, "no condition"));
        };
        let Place::Words(condition) = frame.places[condition] else {
            return Err(self.unsupported(op, "such a condition"));
        };
        self.assign(frame, op, passed, &onward)?;
        let branch = self.emit(Instr::Jump(0));
        self.block(frame, after)?;
        self.flush();
        self.at(op);
        let yielded = self.yielded(op, after)?;
        self.assign(frame, op, yielded, &into)?;
        self.emit(Instr::Jump(head));
        self.program.code[branch] = Instr::BranchUnless {
            condition,
            to: self.program.code.len() as u32,
        };
        for (result, argument) in op.results.iter().zip(&after.arguments) {
            frame.places[*result] = frame.places[*argument];
        }
        Ok(())
    }

    pub(super) fn call(
        &mut self,
        frame: &mut Frame<'m>,
        op: &'m Op,
        callee: &str,
    ) -> Result<(), SimulationError> {
        let module = self.module;
        let function = module.functions.iter().find(|f| f.name == callee);
        let Some(body) = function.and_then(|function| function.body.as_ref()) else {
            return Err(self.unsupported(op, format!("`@{callee}`, which has no body here,")));
        };
        if self.calls.iter().any(|name| name == callee) {
            return Err(self.unsupported(op, format!("`@{callee}`, which calls itself,")));
        }
        self.charge(|cost| cost.scalar += 16 * CALL_CYCLES);
        self.flush();
        self.calls.push(callee.to_owned());
        let mut inner = self.frame(body)?;
        for (argument, operand) in body.block.arguments.iter().zip(&op.operands) {
            inner.places[*argument] = frame.places[*operand];
            inner.bits[*argument] = frame.bits[*operand];
        }
        self.block(&mut inner, &body.block)?;
        let returned = self.yielded(op, &body.block)?;
        for (result, value) in op.results.iter().zip(returned) {
            frame.places[*result] = inner.places[*value];
            frame.bits[*result] = inner.bits[*value];
        }
        self.calls.pop();
        self.flush();
        Ok(())
    }
}
