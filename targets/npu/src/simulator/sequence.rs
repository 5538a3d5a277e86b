//! Run-time sequences: what the host's instructions do to the array, one after another.

use super::memory::{HostBuffer, pieces};
use super::state::{TICKS, Tokens};
use super::streams::{Record, Task};
use super::{SimulationError, Simulator};
use crate::allocation::Direction;
use crate::module::{Sequence, StepKind, Transfer};

/// A sequence while it runs.
#[derive(Clone, Debug)]
pub struct SequenceState {
    /// Next step.
    pub at: usize,
    /// Its own time.
    pub ticks: u64,
}

/// Cycles that the controller takes for an instruction; of the order of the register writes it makes.
const STEP_CYCLES: u64 = 100;

/// Most that a transfer may move: it is held as a whole while it is under way.
const MOST_BYTES: i64 = 1 << 32;

/// Tasks that a channel holds beside the one under way.
pub const QUEUE_DEPTH: usize = 4;

impl Simulator {
    /// Does one step, unless it has to wait: whether it did.
    pub(super) fn step(
        &mut self,
        sequence: &Sequence,
        state: &mut SequenceState,
        buffers: &[HostBuffer],
    ) -> Result<bool, SimulationError> {
        let Some(step) = sequence.steps.get(state.at) else {
            return Ok(false);
        };
        match &step.kind {
            StepKind::Transfer(transfer) => {
                self.queue(sequence, transfer, step.line, state.ticks, buffers)?;
            }
            StepKind::Wait { fifo } => {
                let channel = self.shim_channel(*fifo, step.line)?;
                let record = self.channels[channel]
                    .records
                    .iter_mut()
                    .find(|record| record.token && !record.waited);
                let Some(record) = record else {
                    return Err(SimulationError::WaitsForNothing {
                        line: step.line,
                        fifo: self.fifo_name(*fifo),
                    });
                };
                let Some(ended) = record.ended else {
                    return Ok(false);
                };
                record.waited = true;
                state.ticks = state.ticks.max(ended);
            }
            StepKind::WriteParameter {
                buffer,
                index,
                value,
            } => {
                let memory = &mut self.store.memories[self.buffer_base + buffer];
                let at = index * 4;
                if at < 0 || at + 4 > memory.len() as i64 {
                    return Err(SimulationError::ParameterOutOfBounds {
                        line: step.line,
                        buffer: self.module.buffers[*buffer].name.clone(),
                        index: *index,
                        words: memory.len() / 4,
                    });
                }
                let value = (*value as i32).to_le_bytes();
                memory.write(at as usize, 4).copy_from_slice(&value);
            }
            StepKind::SetLock { lock, value } => {
                let lock = self.allocation.locks.len() + lock;
                self.store.locks[lock] = Tokens::default();
                self.store.locks[lock].give((*value).max(0) as usize, state.ticks);
            }
        }
        state.at += 1;
        state.ticks += STEP_CYCLES * TICKS;
        Ok(true)
    }

    /// The channel of a FIFO at a shim.
    pub(super) fn shim_channel(&self, fifo: usize, line: usize) -> Result<usize, SimulationError> {
        self.allocation
            .channels
            .iter()
            .position(|channel| channel.fifo == fifo && channel.chain.is_empty())
            .ok_or_else(|| SimulationError::NoShimEnd {
                line,
                fifo: self.fifo_name(fifo),
            })
    }

    fn queue(
        &mut self,
        sequence: &Sequence,
        transfer: &Transfer,
        line: usize,
        now: u64,
        buffers: &[HostBuffer],
    ) -> Result<(), SimulationError> {
        let channel = self.shim_channel(transfer.fifo, line)?;
        let (tile, direction) = {
            let channel = &self.allocation.channels[channel];
            (channel.tile, channel.direction)
        };
        let element_bytes = i64::from(sequence.arguments[transfer.argument].element.bits()) / 8;
        let dims: Vec<(i64, i64)> = transfer
            .sizes
            .iter()
            .copied()
            .zip(transfer.strides.iter().copied())
            .collect();
        let size = buffers[transfer.argument].0.len();
        let moved = transfer.elements().saturating_mul(element_bytes);
        if moved > MOST_BYTES {
            return Err(SimulationError::TooLong {
                line,
                fifo: self.fifo_name(transfer.fifo),
                bytes: moved,
            });
        }
        let mut span = Vec::new();
        for (at, bytes) in pieces(
            transfer.start().clamp(-(1 << 40), 1 << 40),
            &dims,
            element_bytes,
        ) {
            if at < 0 || at + bytes as i64 > size as i64 {
                return Err(SimulationError::HostOutOfBounds {
                    line,
                    fifo: self.fifo_name(transfer.fifo),
                    from: at,
                    to: at + bytes as i64,
                    size,
                });
            }
            span.push((at, bytes));
        }
        // A descriptor belongs to a shim: whoever used it last must be done.
        let name = self.fifo_name(transfer.fifo);
        for (other, state) in self.channels.iter().enumerate() {
            if self.allocation.channels[other].tile != tile || !self.is_shim(other) {
                continue;
            }
            for record in &state.records {
                if record.id == transfer.id && record.ended.is_none_or(|ended| ended > now) {
                    return Err(SimulationError::DescriptorInUse {
                        line,
                        fifo: name,
                        id: transfer.id,
                        other: record.line,
                    });
                }
            }
        }
        let pending = self.channels[channel]
            .records
            .iter()
            .filter(|record| record.started.is_none_or(|started| started > now))
            .count();
        if pending > QUEUE_DEPTH {
            return Err(SimulationError::QueueFull {
                line,
                fifo: name,
                tasks: pending,
            });
        }
        let writes = direction == Direction::In;
        let mut sorted = span.clone();
        sorted.sort_unstable();
        self.races(transfer, &sorted, writes, line, now)?;
        let token = transfer.issue_token || writes;
        let state = &mut self.channels[channel];
        state.records.push(Record {
            id: transfer.id,
            queued: now,
            started: None,
            ended: None,
            token,
            waited: false,
            argument: transfer.argument,
            writes,
            span: sorted,
            line,
        });
        state.queue.push_back(Task {
            record: state.records.len() - 1,
            argument: transfer.argument,
            pieces: span,
            line,
        });
        Ok(())
    }

    /// Refuses a transfer that touches what another one, not known to be done, writes; or the other way round.
    fn races(
        &self,
        transfer: &Transfer,
        span: &[(i64, usize)],
        writes: bool,
        line: usize,
        now: u64,
    ) -> Result<(), SimulationError> {
        let bounds = |span: &[(i64, usize)]| {
            let last = span.last().map_or(0, |(at, bytes)| at + *bytes as i64);
            (span.first().map_or(0, |(at, _)| *at), last)
        };
        let (from, to) = bounds(span);
        for (channel, state) in self.channels.iter().enumerate() {
            if !self.is_shim(channel) {
                continue;
            }
            for record in &state.records {
                let (start, end) = bounds(&record.span);
                if record.argument != transfer.argument
                    || !(writes || record.writes)
                    || record.ended.is_some_and(|ended| ended <= now)
                    || start >= to
                    || from >= end
                {
                    continue;
                }
                let (mut a, mut b) = (span.iter().peekable(), record.span.iter().peekable());
                while let (Some((x, x_bytes)), Some((y, y_bytes))) = (a.peek(), b.peek()) {
                    let (x_end, y_end) = (x + *x_bytes as i64, y + *y_bytes as i64);
                    if *x < y_end && *y < x_end {
                        return Err(SimulationError::Race {
                            line,
                            other: record.line,
                            argument: transfer.argument,
                            at: *x.max(y),
                        });
                    }
                    if x_end <= y_end {
                        a.next();
                    } else {
                        b.next();
                    }
                }
            }
        }
        Ok(())
    }
}
