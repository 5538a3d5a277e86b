//! Programs of cores: where they run, their stack and size, how they use FIFOs, and ops that the vendor's lowering takes
//! wrongly or not at all.

use super::Checker;
use crate::allocation::{CoreEnd, TileKind};
use crate::array::Operands;
use crate::module::{Block, Body, Contraction, Core, Function, Op, OpKind, Port, Scalar, Type};
use std::collections::{BTreeMap, HashMap};

/// Stack that any program needs: saved registers, spilled vectors and a call.
const LEAST_STACK_BYTES: i64 = 512;

/// Bytes of an instruction bundle: what the program-size estimate counts with.
const BUNDLE_BYTES: i64 = 16;

/// What a program without anything in it takes: start-up code.
const RUNTIME_BYTES: i64 = 512;

/// Elements held of a FIFO's side.
type Held = BTreeMap<(usize, bool), i64>;

impl Checker<'_> {
    pub(super) fn cores(&mut self) {
        for (index, core) in self.module.cores.iter().enumerate() {
            let tile = &self.module.tiles[core.tile];
            let op = format!("aie.core of {tile}");
            let mut faults = Vec::new();
            if self.kind(core.tile) != TileKind::Core {
                faults.push((
                    core.line,
                    format!(
                        "row {} has no cores, they are in rows {} to {}",
                        tile.row,
                        self.array.first_core_row,
                        self.array.first_core_row + self.array.core_rows - 1
                    ),
                ));
            }
            let twin = self.module.cores[..index]
                .iter()
                .find(|other| other.tile == core.tile);
            if let Some(twin) = twin {
                faults.push((
                    core.line,
                    format!("the tile has a core already, in line {}", twin.line),
                ));
            }
            self.stack(core, &mut faults);
            if !core.dynamic_fifos {
                self.turns(core, &mut faults);
            }
            let bytes = self.program_bytes(core);
            let limit = i64::from(self.array.core.program_bytes);
            if bytes > limit {
                faults.push((
                    core.line,
                    format!("its program is estimated at {bytes} bytes, a core has {limit}"),
                ));
            }
            let mut walker = Walker {
                checker: self,
                core,
                faults: &mut faults,
                counts: HashMap::new(),
            };
            walker.block(&core.body.block, Held::new());
            self.ops(&core.body, &mut faults);
            for (line, what) in faults {
                self.fault(op.clone(), line, what);
            }
        }
        for function in &self.module.functions {
            let mut faults = Vec::new();
            match &function.body {
                Some(body) => self.ops(body, &mut faults),
                None if function.link_with.is_none() => faults.push((
                    function.line,
                    "has neither a body nor an object file to link with".to_owned(),
                )),
                None => {}
            }
            for (line, what) in faults {
                self.fault(format!("func.func @{}", function.name), line, what);
            }
        }
    }

    fn stack(&self, core: &Core, faults: &mut Vec<(usize, String)>) {
        let mut needed = LEAST_STACK_BYTES;
        core.body.block.walk(&mut |op| {
            if let OpKind::Allocate = op.kind
                && let Some(Type::Memory(memory)) =
                    op.results.first().map(|value| &core.body.values[*value])
            {
                needed += memory.bytes();
            }
        });
        match core.stack_bytes {
            None => faults.push((
                core.line,
                format!(
                    "states no stack_size; the {} bytes it then has grow into buffers unnoticed",
                    self.array.core.default_stack_bytes
                ),
            )),
            Some(stated) if stated < needed => faults.push((
                core.line,
                format!("stack_size {stated} is too small, it needs {needed}"),
            )),
            Some(stated) if stated % 32 != 0 => faults.push((
                core.line,
                format!(
                    "stack_size {stated} is no multiple of 32, so vectors on it are not aligned"
                ),
            )),
            Some(_) => {}
        }
    }

    /// What a core's program takes, about: one bundle for each vector register that an op gives, loops that turn FIFOs
    /// over unrolled as the vendor's lowering does.
    fn program_bytes(&self, core: &Core) -> i64 {
        let mut called: Vec<&Function> = Vec::new();
        let mut bytes = RUNTIME_BYTES + self.block_bytes(core, &core.body, &core.body.block);
        core.body.block.walk(&mut |op| {
            if let OpKind::Call { callee } = &op.kind
                && let Some(function) = self.module.functions.iter().find(|f| f.name == *callee)
                && !called.iter().any(|other| std::ptr::eq(*other, function))
            {
                called.push(function);
            }
        });
        for function in called {
            if let Some(body) = &function.body {
                bytes += self.block_bytes(core, body, &body.block);
            }
        }
        bytes
    }

    fn block_bytes(&self, core: &Core, body: &Body, block: &Block) -> i64 {
        let mut bytes = 0;
        for op in &block.ops {
            let vectors: i64 = op
                .results
                .iter()
                .chain(match op.kind {
                    OpKind::VectorStore { .. } => op.operands.first(),
                    _ => None,
                })
                .map(|value| match &body.values[*value] {
                    Type::Vector { element, .. } => {
                        let bits = body.values[*value].lanes() as i64 * i64::from(element.bits());
                        bits.div_euclid(512).max(1)
                    }
                    Type::Scalar(_) => 1,
                    Type::Memory(_) | Type::Subview(_) => 0,
                })
                .sum();
            let bundles = match &op.kind {
                OpKind::Constant(_)
                | OpKind::ShapeCast
                | OpKind::ExtendSigned
                | OpKind::ExtendFloat => 0,
                // Functions of the scalar library, or tables.
                OpKind::Math(_) => 12 * vectors,
                OpKind::FloatBinary(crate::module::FloatBinary::Div) => 12 * vectors,
                OpKind::Reduce { .. } => 8 * vectors,
                OpKind::Acquire { .. } | OpKind::Release { .. } | OpKind::UseLock { .. } => 3,
                OpKind::For | OpKind::If | OpKind::While => 6,
                _ => vectors,
            };
            let inner: i64 = op
                .blocks
                .iter()
                .map(|block| self.block_bytes(core, body, block))
                .sum();
            let turns = match op.kind {
                OpKind::For if !core.dynamic_fifos => op
                    .blocks
                    .first()
                    .map_or(1, |block| self.unrolled(core, block)),
                _ => 1,
            };
            bytes += bundles * BUNDLE_BYTES + inner * turns;
        }
        bytes
    }

    /// Ops that lower wrongly, or not at all.
    fn ops(&self, body: &Body, faults: &mut Vec<(usize, String)>) {
        let mut made_by: HashMap<usize, &Op> = HashMap::new();
        body.block.walk(&mut |op| {
            for result in &op.results {
                made_by.insert(*result, op);
            }
        });
        body.block.walk(&mut |op| match &op.kind {
            OpKind::VectorLoad { transfer: true, .. } | OpKind::VectorStore { transfer: true } => {
                let load = !op.results.is_empty();
                let (memory, vector) = if load {
                    (op.operands[0], op.results[0])
                } else {
                    (op.operands[1], op.operands[0])
                };
                if let Type::Memory(memory) = &body.values[memory] {
                    let window = body.values[vector].shape();
                    let lead = memory.shape.len() - window.len();
                    let mut run = 1;
                    let mut contiguous = true;
                    let dims = window.iter().zip(&memory.strides[lead..]);
                    for (size, stride) in dims.rev().filter(|(size, _)| **size != 1) {
                        contiguous &= *stride == run;
                        run *= size;
                    }
                    if !contiguous {
                        faults.push((op.line, format!(
                            "`{}` of a window of {window:?} of {memory} is not contiguous; it lowers to one contiguous access",
                            op.name
                        )));
                    }
                }
            }
            OpKind::Contract(contraction) => {
                if let Some(what) = self.contraction(body, op, contraction, &made_by) {
                    faults.push((op.line, what));
                }
            }
            OpKind::Call { callee } if !self.module.functions.iter().any(|f| f.name == *callee) => {
                faults.push((op.line, format!("calls @{callee}, which does not exist")));
            }
            _ => {}
        });
    }

    fn contraction(
        &self,
        body: &Body,
        op: &Op,
        contraction: &Contraction,
        made_by: &HashMap<usize, &Op>,
    ) -> Option<String> {
        // The operand before it was widened.
        let origin = |mut value: usize| {
            while let Some(op) = made_by.get(&value)
                && let OpKind::ExtendSigned | OpKind::ExtendFloat | OpKind::ShapeCast = op.kind
            {
                value = op.operands[0];
            }
            body.values[value].element()
        };
        let (left, right) = (origin(op.operands[0])?, origin(op.operands[1])?);
        let size = |loops: &[usize], shape: &[i64], at: usize| {
            loops.iter().position(|l| *l == at).map(|dim| shape[dim])
        };
        let (left_shape, right_shape) = (
            body.values[op.operands[0]].shape(),
            body.values[op.operands[1]].shape(),
        );
        let standard = contraction.loops == 3
            && contraction.left.len() == 2
            && contraction.right.len() == 2
            && contraction.accumulator.len() == 2;
        if !standard {
            return Some("`vector.contract` is no product of two matrices".to_owned());
        }
        let (m_loop, k_loop) = (contraction.left[0], contraction.left[1]);
        let n_loop = contraction.accumulator[1];
        let m = left_shape[0];
        let k = left_shape[1];
        let n = size(&contraction.right, right_shape, n_loop)?;
        if contraction.accumulator[0] != m_loop || !contraction.right.contains(&k_loop) {
            return Some("`vector.contract` is no product of two matrices".to_owned());
        }
        let native = |operands: Operands| {
            let shape = self.array.matrix(operands);
            (i64::from(shape.m), i64::from(shape.k), i64::from(shape.n))
        };
        let allowed = match (left, right) {
            (Scalar::Int(8), Scalar::Int(8)) => Some(native(Operands::I8)),
            (Scalar::Bf16, Scalar::Bf16) => Some(native(Operands::Bf16)),
            (Scalar::Int(8), Scalar::Int(4)) => {
                let (m, k, n) = native(Operands::I8);
                Some((m, 2 * k, n))
            }
            _ => None,
        };
        match allowed {
            None => Some(format!(
                "`vector.contract` of {left} and {right} has no matrix instruction"
            )),
            Some(shape) if shape != (m, k, n) => Some(format!(
                "`vector.contract` of {m}x{k}x{n} {left} does not lower, the matrix unit does {}x{}x{}",
                shape.0, shape.1, shape.2
            )),
            Some(_) => None,
        }
    }
}

/// Follows what a program holds of its FIFOs.
struct Walker<'w, 'm> {
    checker: &'w Checker<'m>,
    core: &'m Core,
    faults: &'w mut Vec<(usize, String)>,
    /// What each acquire gave.
    counts: HashMap<usize, i64>,
}

impl Walker<'_, '_> {
    fn end(&self, fifo: usize, port: Port) -> Option<&CoreEnd> {
        self.checker
            .allocation
            .end_of(fifo, self.core.tile, port)
            .map(|end| &self.checker.allocation.ends[end])
    }

    fn name(&self, fifo: usize) -> &str {
        &self.checker.module.fifos[fifo].name
    }

    /// What is held behind a block that is entered with `held`; none where it is not known.
    fn block(&mut self, block: &Block, mut held: Held) -> Held {
        for op in &block.ops {
            match &op.kind {
                OpKind::Acquire { fifo, port, count } => {
                    let key = (*fifo, *port == Port::Produce);
                    let name = self.name(*fifo).to_owned();
                    match self.end(*fifo, *port) {
                        None => self.faults.push((
                            op.line,
                            format!("acquires @{name} to {port}, but is not at that side of it"),
                        )),
                        Some(end) => {
                            let depth = self.checker.allocation.pools[end.pool].depth;
                            if *count > depth as i64 {
                                self.faults.push((op.line, format!(
                                    "acquires {count} elements of @{name}, its depth here is {depth}"
                                )));
                            }
                        }
                    }
                    if *count < 1 {
                        self.faults
                            .push((op.line, format!("acquires {count} elements of @{name}")));
                    }
                    let now = held.entry(key).or_insert(0);
                    *now = (*now).max(*count);
                    for result in &op.results {
                        self.counts.insert(*result, *count);
                    }
                }
                OpKind::Access { index } => {
                    let count = op.operands.first().and_then(|value| self.counts.get(value));
                    if let Some(count) = count
                        && !(0..*count).contains(index)
                    {
                        self.faults.push((
                            op.line,
                            format!("accesses element {index} of {count} acquired"),
                        ));
                    }
                }
                OpKind::Release { fifo, port, count } => {
                    let key = (*fifo, *port == Port::Produce);
                    let name = self.name(*fifo).to_owned();
                    if self.end(*fifo, *port).is_none() {
                        self.faults.push((
                            op.line,
                            format!("releases @{name} to {port}, but is not at that side of it"),
                        ));
                    }
                    let now = held.entry(key).or_insert(0);
                    if *count > *now {
                        self.faults.push((
                            op.line,
                            format!("releases {count} elements of @{name} with {now} acquired"),
                        ));
                    }
                    *now = (*now - count).max(0);
                }
                OpKind::For | OpKind::While => {
                    let mut inside = held.clone();
                    for block in &op.blocks {
                        inside = self.block(block, inside);
                    }
                    for (&(fifo, produces), now) in &inside {
                        let before = held.get(&(fifo, produces)).copied().unwrap_or(0);
                        if *now != before {
                            let side = if produces {
                                Port::Produce
                            } else {
                                Port::Consume
                            };
                            let name = self.name(fifo).to_owned();
                            self.faults.push((op.line, format!(
                                "a turn of `{}` begins with {before} elements of @{name} to {side} and ends with {now}: release what it acquires",
                                op.name
                            )));
                        }
                    }
                    held = inside;
                }
                OpKind::If => {
                    let mut ways: Vec<Held> = op
                        .blocks
                        .iter()
                        .map(|block| self.block(block, held.clone()))
                        .collect();
                    if ways.len() == 1 {
                        ways.push(held.clone());
                    }
                    let clean = |way: &Held| -> Held {
                        way.iter()
                            .filter(|(_, count)| **count != 0)
                            .map(|(key, count)| (*key, *count))
                            .collect()
                    };
                    if ways
                        .windows(2)
                        .any(|pair| clean(&pair[0]) != clean(&pair[1]))
                    {
                        self.faults.push((
                            op.line,
                            format!(
                                "the ways through `{}` leave different elements acquired",
                                op.name
                            ),
                        ));
                    }
                    if let Some(way) = ways.into_iter().next() {
                        held = way;
                    }
                }
                _ => {}
            }
        }
        held
    }
}
