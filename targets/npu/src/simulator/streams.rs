//! DMA channels and the streams between them: descriptors taken in turn, bytes moved as soon as every side is ready.
//!
//! A stream has no memory of its own here: a transfer moves while its source and all its destinations have one under
//! way. The few words that switches hold would only let the source be ahead by as much.

use super::memory::{HostBuffer, descriptor_pieces};
use super::state::{NOBODY, Store, TICKS};
use super::{SimulationError, Simulator};
use crate::allocation::{Channel, Descriptor, Direction};
use std::collections::VecDeque;

/// A channel while it runs.
#[derive(Clone, Debug, Default)]
pub struct ChannelState {
    /// Its own time.
    pub ticks: u64,
    /// Of that, what it moved.
    pub busy: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Next descriptor of the chain.
    next: usize,
    /// What is under way.
    pub active: Option<Active>,
    /// Tasks that wait, at a shim.
    pub queue: VecDeque<Task>,
    /// Tasks that are done or under way, at a shim: when each started and ended.
    pub records: Vec<Record>,
}

/// A transfer under way.
#[derive(Clone, Debug)]
pub struct Active {
    /// Bytes from memory, or for it.
    data: Vec<u8>,
    /// How many of them moved.
    pub done: usize,
    /// All of them.
    pub total: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A descriptor of the chain.
    Chain(usize),
    /// A task of the host.
    Task(Task),
}

/// A transfer that the host queued.
#[derive(Clone, Debug)]
pub struct Task {
    /// Which record it has.
    pub record: usize,
    /// Which buffer of the dispatch.
    pub argument: usize,
    /// Pieces of the buffer, in the order of the stream.
    pub pieces: Vec<(i64, usize)>,
    /// Line of the text.
    pub line: usize,
}

/// What became of a task.
#[derive(Clone, Debug)]
pub struct Record {
    /// Descriptor it took.
    pub id: i64,
    /// When it was queued.
    pub queued: u64,
    /// When it started.
    pub started: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// Whether its end can be waited for.
    pub token: bool,
    /// Whether it was.
    pub waited: bool,
    /// Which buffer of the dispatch.
    pub argument: usize,
    /// Whether it writes the buffer.
    pub writes: bool,
    /// Pieces of the buffer, sorted.
    pub span: Vec<(i64, usize)>,
    /// Line of the text.
    pub line: usize,
}

/// Cycles from a lock to the first byte, and from the last byte to a lock.
const DESCRIPTOR_CYCLES: u64 = 4;

impl Simulator {
    /// Moves what a stream can move: whether that was anything.
    pub(super) fn advance(
        &mut self,
        stream: usize,
        buffers: &mut [HostBuffer],
    ) -> Result<bool, SimulationError> {
        let source = self.allocation.streams[stream].source;
        let fan = self.allocation.streams[stream].destinations.len();
        let mut progress = false;
        loop {
            progress |= self.start(source, buffers)?;
            let mut ready = self.channels[source].active.is_some();
            for at in 0..fan {
                let destination = self.allocation.streams[stream].destinations[at];
                progress |= self.start(destination, buffers)?;
                ready &= self.channels[destination].active.is_some();
            }
            if !ready {
                return Ok(progress);
            }
            let left = |channel: usize| {
                let active = self.channels[channel].active.as_ref();
                active.map_or(0, |active| active.total - active.done)
            };
            let all = || {
                std::iter::once(source)
                    .chain(self.allocation.streams[stream].destinations.iter().copied())
            };
            let count = all().map(left).min().unwrap_or(0);
            let begin = all()
                .map(|channel| self.channels[channel].ticks)
                .max()
                .unwrap_or(0);
            let members: Vec<usize> = all().collect();
            let mut end = begin + count as u64 * TICKS / self.stream_bytes;
            for channel in &members {
                if self.is_shim(*channel) {
                    end = end.max(self.through_ddr(*channel, begin, count));
                }
            }
            let (from, to) = {
                let active = self.channels[source].active.as_ref();
                active.map_or((0, 0), |active| (active.done, active.done + count))
            };
            let chunk: Vec<u8> = match &self.channels[source].active {
                Some(active) => active.data[from..to].to_vec(),
                None => Vec::new(),
            };
            for channel in &members {
                let state = &mut self.channels[*channel];
                state.ticks = end;
                state.busy += end - begin;
                state.bytes += count as u64;
                if let Some(active) = &mut state.active {
                    if *channel != source {
                        active.data.extend_from_slice(&chunk);
                    }
                    active.done += count;
                }
            }
            for channel in members {
                self.finish(channel, buffers)?;
            }
            progress = true;
        }
    }

    /// When a shim's channel has moved so many bytes that were there at `begin`.
    fn through_ddr(&mut self, channel: usize, begin: u64, count: usize) -> u64 {
        let direction = self.allocation.channels[channel].direction;
        let rates = &self.array.rates;
        let ticks = |bytes_per_s: f64| {
            (count as f64 * self.array.clock_hz / bytes_per_s * TICKS as f64) as u64
        };
        let own = begin + ticks(rates.shim_channel_bytes_per_s);
        own.max(self.ddr[usize::from(direction == Direction::In)].carry(begin, count))
    }

    pub(super) fn is_shim(&self, channel: usize) -> bool {
        self.allocation.channels[channel].chain.is_empty()
    }

    /// Starts a channel's next transfer, if it has one and its lock allows: whether it did.
    fn start(&mut self, channel: usize, buffers: &[HostBuffer]) -> Result<bool, SimulationError> {
        if self.channels[channel].active.is_some() {
            return Ok(false);
        }
        let allocated = &self.allocation.channels[channel];
        if allocated.chain.is_empty() {
            let Some(task) = self.channels[channel].queue.pop_front() else {
                return Ok(false);
            };
            let total = task.pieces.iter().map(|(_, bytes)| bytes).sum();
            let data = match allocated.direction {
                Direction::Out => self.read_host(&task, &buffers[task.argument], total)?,
                Direction::In => Vec::with_capacity(total),
            };
            let state = &mut self.channels[channel];
            let record = &mut state.records[task.record];
            state.ticks = state.ticks.max(record.queued);
            record.started = Some(state.ticks);
            state.active = Some(Active {
                data,
                done: 0,
                total,
                what: What::Task(task),
            });
            return Ok(true);
        }
        let at = self.channels[channel].next;
        let descriptor = &allocated.chain[at];
        let Some(time) = self.store.locks[descriptor.acquire].take(1) else {
            return Ok(false);
        };
        let bytes_of = i64::from(
            self.allocation.pools[descriptor.pool]
                .element
                .element
                .bits(),
        ) / 8;
        let total = (descriptor.length * bytes_of).max(0) as usize;
        let data = match allocated.direction {
            Direction::Out => self.gather(channel, allocated, descriptor, total)?,
            Direction::In => Vec::with_capacity(total),
        };
        let state = &mut self.channels[channel];
        state.ticks = state.ticks.max(time) + DESCRIPTOR_CYCLES * TICKS;
        state.next = (at + 1) % allocated.chain.len();
        state.active = Some(Active {
            data,
            done: 0,
            total,
            what: What::Chain(at),
        });
        Ok(true)
    }

    fn read_host(
        &self,
        task: &Task,
        buffer: &HostBuffer,
        total: usize,
    ) -> Result<Vec<u8>, SimulationError> {
        let mut data = Vec::with_capacity(total);
        for (at, bytes) in &task.pieces {
            // Bounds were checked when it was queued.
            let at = *at as usize;
            if let Some(at) = buffer.0.first_unwritten(at, *bytes) {
                return Err(SimulationError::HostUnwritten {
                    line: task.line,
                    argument: task.argument,
                    at,
                });
            }
            data.extend_from_slice(buffer.0.read(at, *bytes));
        }
        Ok(data)
    }

    fn gather(
        &self,
        channel: usize,
        allocated: &Channel,
        descriptor: &Descriptor,
        total: usize,
    ) -> Result<Vec<u8>, SimulationError> {
        let memory = &self.store.memories[self.pool_base[descriptor.pool] + descriptor.element];
        let mut data = Vec::with_capacity(total);
        for (at, bytes) in self.descriptor_pieces(channel, allocated, descriptor)? {
            if let Some(at) = memory.first_unwritten(at, bytes) {
                return Err(SimulationError::SentUnwritten {
                    fifo: self.fifo_name(allocated.fifo),
                    tile: self.module.tiles[allocated.tile].to_string(),
                    element: descriptor.element,
                    at,
                });
            }
            data.extend_from_slice(memory.read(at, bytes));
        }
        Ok(data)
    }

    /// Pieces of a descriptor, all inside its element.
    fn descriptor_pieces(
        &self,
        channel: usize,
        allocated: &Channel,
        descriptor: &Descriptor,
    ) -> Result<Vec<(usize, usize)>, SimulationError> {
        let element = &self.allocation.pools[descriptor.pool].element;
        let bytes_of = i64::from(element.element.bits()) / 8;
        let size = element.bytes();
        let wrong = |what: String| SimulationError::Descriptor {
            fifo: self.fifo_name(allocated.fifo),
            tile: self.module.tiles[allocated.tile].to_string(),
            direction: allocated.direction,
            channel,
            what,
        };
        let covered = descriptor
            .pattern
            .0
            .iter()
            .fold(1i64, |product, (size, _)| product.saturating_mul(*size));
        if !descriptor.pattern.0.is_empty() && covered != descriptor.length {
            return Err(wrong(format!(
                "its pattern covers {covered} elements of {}",
                descriptor.length
            )));
        }
        let pieces = descriptor_pieces(
            descriptor.offset,
            descriptor.length,
            &descriptor.pattern,
            bytes_of,
        );
        pieces
            .into_iter()
            .map(|(at, bytes)| {
                if at < 0 || at + bytes as i64 > size {
                    return Err(wrong(format!(
                        "its pattern reaches bytes {at} to {} of an element of {size} bytes",
                        at + bytes as i64
                    )));
                }
                Ok((at as usize, bytes))
            })
            .collect()
    }

    /// Ends a channel's transfer when all of it moved.
    fn finish(
        &mut self,
        channel: usize,
        buffers: &mut [HostBuffer],
    ) -> Result<(), SimulationError> {
        if self.channels[channel]
            .active
            .as_ref()
            .is_none_or(|active| active.done < active.total)
        {
            return Ok(());
        }
        let Some(active) = self.channels[channel].active.take() else {
            return Ok(());
        };
        let allocated = &self.allocation.channels[channel];
        match active.what {
            What::Task(task) => {
                if allocated.direction == Direction::In {
                    let mut from = 0;
                    for (at, bytes) in &task.pieces {
                        buffers[task.argument]
                            .0
                            .write(*at as usize, *bytes)
                            .copy_from_slice(&active.data[from..from + bytes]);
                        from += bytes;
                    }
                }
                let state = &mut self.channels[channel];
                state.records[task.record].ended = Some(state.ticks);
            }
            What::Chain(at) => {
                let descriptor = &allocated.chain[at];
                if allocated.direction == Direction::In {
                    let pieces = self.descriptor_pieces(channel, allocated, descriptor)?;
                    let memory = self.pool_base[descriptor.pool] + descriptor.element;
                    debug_assert_eq!(self.store.holders[memory], NOBODY);
                    let mut from = 0;
                    for (at, bytes) in pieces {
                        self.store.memories[memory]
                            .write(at, bytes)
                            .copy_from_slice(&active.data[from..from + bytes]);
                        from += bytes;
                    }
                }
                let state = &mut self.channels[channel];
                state.ticks += DESCRIPTOR_CYCLES * TICKS;
                self.store.locks[descriptor.release].give(1, state.ticks);
            }
        }
        Ok(())
    }
}

/// Locks that a channel waits for, if it waits for one.
pub(super) fn awaits(channel: &Channel, state: &ChannelState, store: &Store) -> Option<usize> {
    if state.active.is_some() || channel.chain.is_empty() {
        return None;
    }
    let lock = channel.chain[state.next].acquire;
    store.locks[lock].0.is_empty().then_some(lock)
}
