//! Compiles programs of cores: memory, and what cores do with FIFOs. Control flow is in
//! [`compile_control`](super::compile_control), values are in [`compile_values`](super::compile_values).
//!
//! Casts that change no word (extending a sign, another shape) give no instruction: the value is the same register.

use super::SimulationError;
use super::program::*;
use crate::allocation::Allocation;
use crate::array::Array;
use crate::module::{
    Block, Body, Capture, Constant, Core, MemRef, Module, Op, OpKind, Scalar, Type,
};

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// Nowhere yet.
    None,
    /// Words.
    Words(Word),
    /// A wide register.
    Wide(Wide),
    /// Memory.
    View(View),
    /// Elements that an end of a FIFO holds.
    Held(u32),
    /// A lock.
    Lock(u32),
}

pub(super) struct Compiler<'m> {
    pub module: &'m Module,
    pub array: &'m Array,
    allocation: &'m Allocation,
    core: &'m Core,
    pub program: Program,
    origin: Origin,
    /// Cost of straight code since the last account, and where that stands.
    cost: Cost,
    account_at: Option<usize>,
    /// Functions being inlined.
    pub calls: Vec<String>,
}

/// A body while it is compiled: places of its values, and how many bits they really have.
pub(super) struct Frame<'m> {
    pub body: &'m Body,
    pub places: Vec<Place>,
    pub bits: Vec<u32>,
}

/// Use of a core's units by straight code, in sixteenths of a cycle.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub loads: u64,
    pub stores: u64,
    pub vector: u64,
    pub matrix: u64,
    pub scalar: u64,
    pub counts: Account,
}

/// Compiles the program of a core.
pub fn compile(
    module: &Module,
    array: &Array,
    allocation: &Allocation,
    core: &Core,
) -> Result<Program, SimulationError> {
    let mut compiler = Compiler {
        module,
        array,
        allocation,
        core,
        program: Program::default(),
        origin: Origin {
            name: 0,
            line: core.line as u32,
        },
        cost: Cost::default(),
        account_at: None,
        calls: Vec::new(),
    };
    compiler.program.names.push("aie.core".to_owned());
    let mut frame = compiler.frame(&core.body)?;
    compiler.block(&mut frame, &core.body.block)?;
    compiler.flush();
    compiler.emit(Instr::Exit);
    Ok(compiler.program)
}

impl<'m> Compiler<'m> {
    pub(super) fn frame(&mut self, body: &'m Body) -> Result<Frame<'m>, SimulationError> {
        let mut frame = Frame {
            body,
            places: vec![Place::None; body.values.len()],
            bits: body
                .values
                .iter()
                .map(|ty| ty.element().map_or(0, Scalar::bits))
                .collect(),
        };
        for (value, capture) in &body.captures {
            match capture {
                Capture::Buffer(buffer) => {
                    let view = self.view();
                    self.program.fixed.push((view, Memory::Buffer(*buffer)));
                    frame.places[*value] = Place::View(view);
                }
                Capture::Lock(lock) => frame.places[*value] = Place::Lock(*lock as u32),
                Capture::Constant(constant) => {
                    frame.places[*value] = self.constant(&body.values[*value], constant);
                }
            }
        }
        Ok(frame)
    }

    pub fn unsupported(&self, op: &Op, what: impl Into<String>) -> SimulationError {
        SimulationError::Unsupported {
            op: op.name.clone(),
            line: op.line,
            what: what.into(),
        }
    }

    pub fn emit(&mut self, instr: Instr) -> usize {
        self.program.code.push(instr);
        self.program.origins.push(self.origin);
        self.program.code.len() - 1
    }

    pub fn words(&mut self, count: usize) -> Word {
        let at = self.program.words;
        self.program.words += count.div_ceil(LANES).max(1) * LANES;
        at as Word
    }

    pub fn wide(&mut self) -> Wide {
        self.program.wides += 1;
        (self.program.wides - 1) as Wide
    }

    pub fn view(&mut self) -> View {
        self.program.views += 1;
        (self.program.views - 1) as View
    }

    pub fn fresh(&mut self, ty: &Type) -> Place {
        match ty {
            Type::Scalar(element) if is_wide(*element) => Place::Wide(self.wide()),
            Type::Scalar(_) | Type::Vector { .. } => Place::Words(self.words(ty.lanes())),
            Type::Memory(_) => Place::View(self.view()),
            Type::Subview(_) => Place::None,
        }
    }

    pub fn constant(&mut self, ty: &Type, constant: &Constant) -> Place {
        let place = self.fresh(ty);
        match place {
            Place::Wide(d) => {
                self.emit(Instr::WideConst {
                    d,
                    value: constant.lanes[0],
                });
            }
            Place::Words(d) => {
                let lanes = constant.lanes.iter().map(|lane| *lane as i32).collect();
                self.emit(Instr::Const { d, lanes });
            }
            Place::None | Place::View(_) | Place::Held(_) | Place::Lock(_) => {}
        }
        place
    }

    /// Adds to the cost of the straight code being compiled.
    pub fn charge(&mut self, add: impl FnOnce(&mut Cost)) {
        if self.account_at.is_none() {
            self.account_at = Some(self.emit(Instr::Account(Box::default())));
        }
        add(&mut self.cost);
    }

    /// Ends straight code: its units work side by side, so the busiest says how long it takes.
    pub(super) fn flush(&mut self) {
        if let Some(at) = self.account_at.take() {
            let cost = std::mem::take(&mut self.cost);
            let mut account = cost.counts;
            account.ticks = [
                cost.loads,
                cost.stores,
                cost.vector,
                cost.matrix,
                cost.scalar,
            ]
            .into_iter()
            .max()
            .unwrap_or(0);
            self.program.code[at] = Instr::Account(Box::new(account));
        }
    }

    pub(super) fn block(
        &mut self,
        frame: &mut Frame<'m>,
        block: &'m Block,
    ) -> Result<(), SimulationError> {
        for op in &block.ops {
            self.at(op);
            self.op(frame, op)?;
        }
        Ok(())
    }

    pub(super) fn at(&mut self, op: &Op) {
        let names = &mut self.program.names;
        let name = names.iter().position(|name| *name == op.name);
        let name = name.unwrap_or_else(|| {
            names.push(op.name.clone());
            names.len() - 1
        });
        self.origin = Origin {
            name: name as u32,
            line: op.line as u32,
        };
    }

    fn op(&mut self, frame: &mut Frame<'m>, op: &'m Op) -> Result<(), SimulationError> {
        match &op.kind {
            OpKind::For => self.for_loop(frame, op),
            OpKind::If => self.if_else(frame, op),
            OpKind::While => self.while_loop(frame, op),
            // Terminators are the business of the op around them.
            OpKind::Yield | OpKind::Condition | OpKind::Return | OpKind::End => Ok(()),
            OpKind::Call { callee } => self.call(frame, op, callee),
            OpKind::Acquire { fifo, port, count } => {
                self.flush();
                let end = self.end(op, *fifo, *port)?;
                let count =
                    u32::try_from(*count).map_err(|_| self.unsupported(op, "a negative count"))?;
                let mut view = View::MAX;
                for &result in &op.results {
                    frame.places[result] = match frame.body.values[result] {
                        Type::Memory(_) => {
                            view = self.view();
                            Place::View(view)
                        }
                        Type::Scalar(_) | Type::Vector { .. } | Type::Subview(_) => {
                            Place::Held(end)
                        }
                    };
                }
                self.emit(Instr::Acquire { end, count, view });
                Ok(())
            }
            OpKind::Access { index } => {
                let Place::Held(end) = frame.places[op.operands[0]] else {
                    return Err(self.unsupported(op, "what was not acquired"));
                };
                let d = self.view();
                frame.places[op.results[0]] = Place::View(d);
                let index =
                    u32::try_from(*index).map_err(|_| self.unsupported(op, "a negative index"))?;
                self.emit(Instr::Element { end, index, d });
                Ok(())
            }
            OpKind::Release { fifo, port, count } => {
                self.flush();
                let end = self.end(op, *fifo, *port)?;
                let count =
                    u32::try_from(*count).map_err(|_| self.unsupported(op, "a negative count"))?;
                self.emit(Instr::Release { end, count });
                Ok(())
            }
            OpKind::UseLock {
                acquire,
                exact,
                value,
            } => {
                self.flush();
                let Place::Lock(lock) = frame.places[op.operands[0]] else {
                    return Err(self.unsupported(op, "what is no lock"));
                };
                self.emit(Instr::UseLock {
                    lock,
                    acquire: *acquire,
                    exact: *exact,
                    value: *value,
                });
                Ok(())
            }
            OpKind::Allocate => {
                let Type::Memory(memory) = &frame.body.values[op.results[0]] else {
                    return Err(self.unsupported(op, "no memory"));
                };
                let view = self.view();
                let bytes = super::memory_bytes(&op.name, op.line, memory.bytes())?;
                self.program.fixed.push((view, Memory::Stack(bytes)));
                // Every time the op runs, what it gives is unwritten.
                self.emit(Instr::ViewFresh { view });
                frame.places[op.results[0]] = Place::View(view);
                Ok(())
            }
            OpKind::Subview { offset, strides } => {
                let a = self.view_of(frame, op, 0)?;
                let bytes = self.element_bytes(frame, op, op.operands[0])?;
                let terms = op.operands[1..]
                    .iter()
                    .zip(strides)
                    .map(|(operand, stride)| match frame.places[*operand] {
                        Place::Wide(register) => Ok((register, stride * bytes)),
                        _ => Err(self.unsupported(op, "an offset that is no index")),
                    })
                    .collect::<Result<Box<[_]>, _>>()?;
                self.move_view(frame, op, a, offset * bytes, terms)
            }
            OpKind::MemoryCast { offset } => {
                let a = self.view_of(frame, op, 0)?;
                let bytes = self.element_bytes(frame, op, op.operands[0])?;
                self.move_view(frame, op, a, offset * bytes, Box::default())
            }
            OpKind::ByteView => {
                let a = self.view_of(frame, op, 0)?;
                let Some(Place::Wide(register)) =
                    op.operands.get(1).map(|operand| frame.places[*operand])
                else {
                    return Err(self.unsupported(op, "a view without an offset"));
                };
                self.move_view(frame, op, a, 0, Box::new([(register, 1)]))
            }
            OpKind::SameMemory => {
                for &result in &op.results {
                    frame.places[result] = frame.places[op.operands[0]];
                }
                Ok(())
            }
            OpKind::Load | OpKind::VectorLoad { .. } => {
                let result = op.results[0];
                let extra = match op.kind {
                    OpKind::VectorLoad { padding, .. } => padding,
                    _ => 0,
                };
                let access = self.access(frame, op, 0, extra, result)?;
                let bytes = self.bytes_of(&frame.body.values[result]);
                let unit = u64::from(self.array.rates.core_load_bytes_per_cycle);
                self.charge(|cost| {
                    // Two units of half the width: a load of a few bytes takes one of them.
                    cost.loads += (2 * bytes).div_ceil(unit).max(1) * 8;
                    cost.counts.loaded += bytes;
                });
                let place = self.fresh(&frame.body.values[result]);
                frame.places[result] = place;
                match place {
                    Place::Wide(d) => self.emit(Instr::WideLoad { d, access }),
                    Place::Words(d) => self.emit(Instr::Load { d, access }),
                    _ => return Err(self.unsupported(op, "such a value")),
                };
                Ok(())
            }
            OpKind::Store | OpKind::VectorStore { .. } => {
                let access = self.access(frame, op, 1, 0, op.operands[0])?;
                let bytes = self.bytes_of(&frame.body.values[op.operands[0]]);
                let unit = u64::from(self.array.rates.core_store_bytes_per_cycle);
                self.charge(|cost| {
                    cost.stores += bytes.div_ceil(unit).max(1) * 16;
                    cost.counts.stored += bytes;
                });
                match frame.places[op.operands[0]] {
                    Place::Wide(a) => self.emit(Instr::WideStore { a, access }),
                    Place::Words(a) => self.emit(Instr::Store { a, access }),
                    _ => return Err(self.unsupported(op, "such a value")),
                };
                Ok(())
            }
            _ => self.value(frame, op),
        }
    }

    fn bytes_of(&self, ty: &Type) -> u64 {
        let bits = ty.element().map_or(0, Scalar::bits) as usize;
        (ty.lanes() * bits).div_ceil(8) as u64
    }

    fn end(&self, op: &Op, fifo: usize, port: crate::module::Port) -> Result<u32, SimulationError> {
        self.allocation
            .end_of(fifo, self.core.tile, port)
            .map(|end| end as u32)
            .ok_or_else(|| SimulationError::NoEnd {
                op: op.name.clone(),
                line: op.line,
                fifo: self.module.fifos[fifo].name.clone(),
                tile: self.module.tiles[self.core.tile].to_string(),
                port,
            })
    }

    fn view_of(&self, frame: &Frame, op: &Op, operand: usize) -> Result<View, SimulationError> {
        match op.operands.get(operand).map(|value| frame.places[*value]) {
            Some(Place::View(view)) => Ok(view),
            _ => Err(self.unsupported(op, "an operand that is no memory")),
        }
    }

    fn element_bytes(&self, frame: &Frame, op: &Op, value: usize) -> Result<i64, SimulationError> {
        match &frame.body.values[value] {
            Type::Memory(memory) => self.memory_element(op, memory),
            Type::Scalar(_) | Type::Vector { .. } | Type::Subview(_) => {
                Err(self.unsupported(op, "an operand that is no memory"))
            }
        }
    }

    fn memory_element(&self, op: &Op, memory: &MemRef) -> Result<i64, SimulationError> {
        match memory.element.bits() {
            1 => Ok(1),
            bits if bits % 8 == 0 => Ok(i64::from(bits / 8)),
            _ => Err(self.unsupported(op, format!("memory of {}", memory.element))),
        }
    }

    fn move_view(
        &mut self,
        frame: &mut Frame,
        op: &Op,
        a: View,
        offset_bytes: i64,
        terms: Box<[(Wide, i64)]>,
    ) -> Result<(), SimulationError> {
        let result = op.results[0];
        frame.places[result] = if offset_bytes == 0 && terms.is_empty() {
            Place::View(a)
        } else {
            let d = self.view();
            self.emit(Instr::ViewMove {
                d,
                a,
                offset_bytes,
                terms,
            });
            Place::View(d)
        };
        Ok(())
    }

    /// The access of an op whose memory is operand `at`, its indices behind it but for `extra` operands.
    fn access(
        &self,
        frame: &Frame,
        op: &Op,
        at: usize,
        extra: usize,
        value: usize,
    ) -> Result<Box<Access>, SimulationError> {
        let view = self.view_of(frame, op, at)?;
        let Type::Memory(memory) = &frame.body.values[op.operands[at]] else {
            return Err(self.unsupported(op, "an operand that is no memory"));
        };
        self.memory_element(op, memory)?;
        let ty = &frame.body.values[value];
        let window = ty.shape();
        let rank = memory.shape.len();
        let indices = &op.operands[at + 1..op.operands.len() - extra];
        if indices.len() != rank || window.len() > rank {
            return Err(self.unsupported(op, "as many indices"));
        }
        if ty.element() != Some(memory.element) {
            return Err(self.unsupported(op, "a vector of other elements than the memory's"));
        }
        let outer = rank - window.len();
        let extents: Vec<i64> = (0..rank)
            .map(|dim| if dim < outer { 1 } else { window[dim - outer] })
            .collect();
        let indices = indices
            .iter()
            .enumerate()
            .map(|(dim, operand)| match frame.places[*operand] {
                Place::Wide(register) => Ok(Index {
                    register,
                    stride: memory.strides[dim],
                    last: memory.shape[dim] - extents[dim],
                }),
                _ => Err(self.unsupported(op, "an index of another type")),
            })
            .collect::<Result<Box<[_]>, _>>()?;
        let mut dims: Vec<(i64, i64)> = extents
            .iter()
            .copied()
            .zip(memory.strides.iter().copied())
            .filter(|(size, _)| *size != 1)
            .collect();
        let mut row = 1;
        while let Some((size, stride)) = dims.last().copied()
            && stride == row
        {
            row *= size;
            dims.pop();
        }
        let rows = super::memory::pieces(0, &dims, 1)
            .map(|(at, _)| at)
            .collect();
        Ok(Box::new(Access {
            view,
            indices,
            rows,
            row: row as u32,
            element: memory.element,
        }))
    }
}

/// Whether an element lives in a wide register.
pub(super) fn is_wide(element: Scalar) -> bool {
    match element {
        Scalar::Index | Scalar::Int(33..) => true,
        Scalar::Int(_) | Scalar::Bf16 | Scalar::F32 => false,
    }
}
