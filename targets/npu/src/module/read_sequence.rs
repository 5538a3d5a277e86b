//! Reads run-time sequences: transfers as one op or as tasks, waits, parameters.

use super::attributes as text;
use super::body::Capture;
use super::read::{Known, Reader, Scope, fifo_named, key_of, ops, result_key};
use super::*;
use melior::ir::ValueLike;
use melior::ir::block::BlockLike;
use std::collections::HashMap;

/// Values of a sequence.
struct Values<'s> {
    scope: &'s Scope,
    /// Which argument.
    arguments: HashMap<usize, usize>,
    /// Constants.
    constants: HashMap<usize, i64>,
    /// Tasks.
    tasks: HashMap<usize, Transfer>,
    /// Descriptors that tasks have, by the tile of their shim.
    in_use: Vec<(TileIndex, i64)>,
}

pub(super) fn sequence(
    op: &Reader,
    module: &Module,
    scope: &Scope,
) -> Result<Sequence, ModuleError> {
    op.only(&["sym_name"])?;
    let block = op.block()?;
    let mut arguments = Vec::new();
    let mut values = Values {
        scope,
        arguments: HashMap::new(),
        constants: HashMap::new(),
        tasks: HashMap::new(),
        in_use: Vec::new(),
    };
    for index in 0..block.argument_count() {
        let Ok(argument) = block.argument(index) else {
            continue;
        };
        let ty = argument.r#type().to_string();
        let memory = text::memory(&ty)
            .ok_or_else(|| op.malformed(format!("argument {index} is `{ty}`, no memory")))?;
        values.arguments.insert(key_of(argument), index);
        arguments.push(memory);
    }
    let mut steps = Vec::new();
    for step in ops(block) {
        if let Some(kind) = values.step(&step, module)? {
            steps.push(Step {
                kind,
                line: step.line,
            });
        }
    }
    Ok(Sequence {
        name: op
            .optional("sym_name", |name| text::string(name).map(str::to_owned))?
            .unwrap_or_else(|| "sequence".to_owned()),
        arguments,
        steps,
        line: op.line,
    })
}

impl Values<'_> {
    /// What an op does; none where it only makes a value.
    fn step(&mut self, op: &Reader, module: &Module) -> Result<Option<StepKind>, ModuleError> {
        Ok(Some(match op.name.as_str() {
            "aiex.npu.dma_memcpy_nd" => StepKind::Transfer(self.transfer(op)?),
            "aiex.npu.dma_wait" => {
                op.only(&["symbol"])?;
                let name = op.required("symbol", |s| text::symbol(s).map(str::to_owned))?;
                StepKind::Wait {
                    fifo: fifo_named(op, self.scope, &name)?,
                }
            }
            "aiex.npu.rtp_write" => {
                op.only(&["buffer", "index", "value"])?;
                let name = op.required("buffer", |value| {
                    text::symbol(value)
                        .or_else(|| text::string(value))
                        .map(str::to_owned)
                })?;
                let buffer = module.buffers.iter().position(|buffer| buffer.name == name);
                StepKind::WriteParameter {
                    buffer: buffer.ok_or_else(|| {
                        op.malformed(format!("names buffer `@{name}`, which does not exist"))
                    })?,
                    index: op.int("index")?,
                    // An attribute, or in later versions of the dialect an operand.
                    value: match op.text("value") {
                        Some(_) => op.required("value", text::word)?,
                        None => self.constant(op)?,
                    },
                }
            }
            "aiex.set_lock" => {
                op.only(&["value"])?;
                let operand = op.operands().first().copied();
                let known = operand.and_then(|key| self.scope.values.get(&key));
                let Some(Known::Captured(Capture::Lock(lock), _)) = known else {
                    return Err(op.malformed("names no lock"));
                };
                StepKind::SetLock {
                    lock: *lock,
                    value: op.int("value")?,
                }
            }
            "arith.constant" => {
                let constant = op.required("value", text::constant)?;
                if let [value] = constant.lanes.as_slice() {
                    self.constants.insert(result_key(op)?, *value);
                }
                return Ok(None);
            }
            "aiex.dma_configure_task_for" => {
                let task = self.task(op, module)?;
                self.tasks.insert(result_key(op)?, task);
                return Ok(None);
            }
            "aiex.dma_start_task" => {
                op.only(&[])?;
                StepKind::Transfer(self.task_of(op)?.clone())
            }
            "aiex.dma_await_task" => {
                op.only(&[])?;
                let fifo = self.task_of(op)?.fifo;
                self.free(op, module)?;
                StepKind::Wait { fifo }
            }
            "aiex.dma_free_task" => {
                op.only(&[])?;
                self.free(op, module)?;
                return Ok(None);
            }
            "aie.end" => return Ok(None),
            _ => {
                return Err(ModuleError::UnknownOp {
                    op: op.name.clone(),
                    line: op.line,
                    place: "in a run-time sequence",
                });
            }
        }))
    }

    fn constant(&self, op: &Reader) -> Result<i64, ModuleError> {
        let operand = op.operands().first().copied();
        if let Some(value) = operand.and_then(|key| self.constants.get(&key)) {
            return Ok(*value);
        }
        match operand.and_then(|key| self.scope.values.get(&key)) {
            Some(Known::Captured(Capture::Constant(constant), _)) if constant.lanes.len() == 1 => {
                Ok(constant.lanes[0])
            }
            Some(_) | None => Err(op.malformed("writes no constant value")),
        }
    }

    fn argument(&self, op: &Reader) -> Result<usize, ModuleError> {
        op.operands()
            .first()
            .and_then(|key| self.arguments.get(key))
            .copied()
            .ok_or_else(|| op.malformed("moves no buffer of the sequence"))
    }

    fn transfer(&self, op: &Reader) -> Result<Transfer, ModuleError> {
        op.only(&[
            "id",
            "metadata",
            "operandSegmentSizes",
            "static_offsets",
            "static_sizes",
            "static_strides",
            "issue_token",
        ])?;
        if op.required("operandSegmentSizes", text::ints)? != [1, 0, 0, 0] {
            return Err(op.malformed("has dynamic offsets, sizes or strides; make them constants"));
        }
        let four = |key| {
            op.required(key, |value| {
                text::ints(value).and_then(|values| <[i64; 4]>::try_from(values).ok())
            })
        };
        let name = op.required("metadata", |s| text::symbol(s).map(str::to_owned))?;
        Ok(Transfer {
            fifo: fifo_named(op, self.scope, &name)?,
            argument: self.argument(op)?,
            id: op.int("id")?,
            offsets: four("static_offsets")?,
            sizes: four("static_sizes")?,
            strides: four("static_strides")?,
            issue_token: op.optional("issue_token", text::int)?.unwrap_or(0) != 0,
        })
    }

    fn task_of(&self, op: &Reader) -> Result<&Transfer, ModuleError> {
        op.operands()
            .first()
            .and_then(|key| self.tasks.get(key))
            .ok_or_else(|| op.malformed("names no task"))
    }

    /// Gives a task's descriptor back.
    fn free(&mut self, op: &Reader, module: &Module) -> Result<(), ModuleError> {
        let task = self.task_of(op)?;
        let taken = (shim_of(module, task.fifo), task.id);
        self.in_use.retain(|other| *other != taken);
        Ok(())
    }

    /// A task of one descriptor. The vendor's compiler numbers descriptors: the lowest that is free.
    fn task(&mut self, op: &Reader, module: &Module) -> Result<Transfer, ModuleError> {
        op.only(&["alloc", "issue_token", "repeat_count"])?;
        let name = op.required("alloc", |s| text::symbol(s).map(str::to_owned))?;
        let fifo = fifo_named(op, self.scope, &name)?;
        let inner = ops(op.block()?);
        let [bd, end] = inner.as_slice() else {
            return Err(op.malformed("has not one descriptor; chains are not supported"));
        };
        if bd.name != "aie.dma_bd" || end.name != "aie.end" {
            return Err(op.malformed("has not one descriptor; chains are not supported"));
        }
        bd.only(&["offset", "len", "dimensions", "burst_length"])?;
        let repeats = op.optional("repeat_count", text::int)?.unwrap_or(0) + 1;
        let offset = bd.optional("offset", text::int)?.unwrap_or(0);
        let length = bd.int("len")?;
        let dims = bd
            .optional("dimensions", text::pattern)?
            .unwrap_or_default()
            .0;
        let (mut sizes, mut strides) = ([1; 4], [0; 4]);
        if dims.is_empty() {
            (sizes[3], strides[3]) = (length, 1);
        }
        if dims.len() > 4 {
            return Err(bd.malformed("has more than four dimensions"));
        }
        for (at, (size, stride)) in dims.iter().rev().enumerate() {
            (sizes[3 - at], strides[3 - at]) = (*size, *stride);
        }
        // The outermost of four is the repetition; with fewer there is none but the count.
        if dims.len() < 4 {
            sizes[0] = repeats;
        }
        let covered: i64 = sizes[1..].iter().product();
        if sizes[0] != repeats || covered != length {
            return Err(bd.malformed(format!(
                "moves {length} elements {repeats} times, its dimensions {covered} elements {} times",
                sizes[0]
            )));
        }
        if offset != 0 && strides[3] != 1 {
            return Err(bd.malformed("has an offset and an innermost stride other than 1"));
        }
        let tile = shim_of(module, fifo);
        let id = (0..)
            .find(|id| !self.in_use.contains(&(tile, *id)))
            .unwrap_or(0);
        self.in_use.push((tile, id));
        Ok(Transfer {
            fifo,
            argument: self.argument(bd)?,
            id,
            offsets: [0, 0, 0, offset],
            sizes,
            strides,
            issue_token: op.optional("issue_token", text::int)?.unwrap_or(0) != 0,
        })
    }
}

/// The shim's tile of a FIFO; its producer where it has none.
fn shim_of(module: &Module, fifo: usize) -> TileIndex {
    let fifo = &module.fifos[fifo];
    std::iter::once(&fifo.producer)
        .chain(&fifo.consumers)
        .copied()
        .find(|tile| module.tiles[*tile].row == 0)
        .unwrap_or(fifo.producer)
}
