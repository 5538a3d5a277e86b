//! What a run says: counts and times when it went well, who was wrong or waits for whom when it did not.

use super::sequence::SequenceState;
use super::state::{Stop, TICKS};
use super::{Simulator, streams};
use crate::allocation::{Direction, TileKind};
use crate::module::{Port, Sequence, StepKind};
use std::fmt;

/// What a dispatch did.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Cycles from its first instruction to its last transfer; an estimate.
    pub cycles: u64,
    /// The same in seconds at the array's clock.
    pub seconds: f64,
    /// Bytes read from host buffers.
    pub host_bytes_read: u64,
    /// Bytes written to host buffers.
    pub host_bytes_written: u64,
    /// Cores, in the module's order.
    pub cores: Vec<CoreReport>,
    /// Streams.
    pub streams: Vec<StreamReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{} cycles ({:.1} us), {} bytes read, {} written",
            self.cycles,
            self.seconds * 1e6,
            self.host_bytes_read,
            self.host_bytes_written
        )?;
        for core in &self.cores {
            let (column, row) = core.tile;
            writeln!(
                f,
                "core ({column}, {row}): busy {:.0} %, {} matrix instructions, {} bytes loaded, {} stored",
                100.0 * core.busy_cycles as f64 / self.cycles.max(1) as f64,
                core.matrix_instructions,
                core.bytes_loaded,
                core.bytes_stored
            )?;
        }
        for stream in &self.streams {
            writeln!(
                f,
                "@{}: {} bytes to {} consumers, busy {:.0} %",
                stream.fifo,
                stream.bytes,
                stream.destinations,
                100.0 * stream.busy_cycles as f64 / self.cycles.max(1) as f64
            )?;
        }
        Ok(())
    }
}

/// What a core did.
#[derive(Clone, PartialEq, Debug)]
pub struct CoreReport {
    /// Column and row.
    pub tile: (i64, i64),
    /// Cycles it computed.
    pub busy_cycles: u64,
    /// Matrix instructions.
    pub matrix_instructions: u64,
    /// Bytes it loaded.
    pub bytes_loaded: u64,
    /// Bytes it stored.
    pub bytes_stored: u64,
    /// Instructions of the interpreter.
    pub instructions: u64,
}

/// What a stream carried.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamReport {
    /// FIFO.
    pub fifo: String,
    /// Bytes.
    pub bytes: u64,
    /// Cycles in which it moved them.
    pub busy_cycles: u64,
    /// Consumers.
    pub destinations: usize,
}

/// Why a run ended early.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum SimulationError {
    #[error("the module has no run-time sequence `{name}`")]
    NoSequence { name: String },
    #[error("sequence `{name}` takes {expected} buffers, {given} were given")]
    Arguments {
        name: String,
        expected: usize,
        given: usize,
    },
    #[error("buffer {at} has {given} bytes, the sequence takes {expected}")]
    ArgumentSize {
        at: usize,
        expected: i64,
        given: usize,
    },
    #[error("line {line}: `{op}`: {what} cannot be simulated")]
    Unsupported {
        op: String,
        line: usize,
        what: String,
    },
    #[error("line {line}: `{op}`: core of {tile} is not at the {port} side of @{fifo}")]
    NoEnd {
        op: String,
        line: usize,
        fifo: String,
        tile: String,
        port: Port,
    },
    #[error("line {line}: @{fifo} has no end at a shim, so the host cannot move it")]
    NoShimEnd { line: usize, fifo: String },
    #[error("core of {tile}, line {line}: `{op}`: {what}")]
    Core {
        tile: String,
        op: String,
        line: usize,
        what: String,
    },
    #[error("core of {tile} ran {instructions} instructions without waiting: it runs for ever")]
    RunsForEver { tile: String, instructions: u64 },
    #[error("@{fifo} at {tile}: sends byte {at} of element {element}, which was never written")]
    SentUnwritten {
        fifo: String,
        tile: String,
        element: usize,
        at: usize,
    },
    #[error("@{fifo} at {tile}: descriptor of its channel {}: {what}", in_or_out(*.direction))]
    Descriptor {
        fifo: String,
        tile: String,
        direction: Direction,
        channel: usize,
        what: String,
    },
    #[error("line {line}: reads byte {at} of buffer {argument}, which was never written")]
    HostUnwritten {
        line: usize,
        argument: usize,
        at: usize,
    },
    #[error(
        "line {line}: transfer of @{fifo} reaches bytes {from} to {to}, out of bounds of a buffer of {size} bytes"
    )]
    HostOutOfBounds {
        line: usize,
        fifo: String,
        from: i64,
        to: i64,
        size: usize,
    },
    #[error("line {line}: transfer of @{fifo} moves {bytes} bytes, too many to simulate at once")]
    TooLong {
        line: usize,
        fifo: String,
        bytes: i64,
    },
    #[error(
        "line {line}: transfer of @{fifo} takes descriptor {id} while the one of line {other} uses it: wait for that first"
    )]
    DescriptorInUse {
        line: usize,
        fifo: String,
        id: i64,
        other: usize,
    },
    #[error(
        "line {line}: {tasks} transfers of @{fifo} have not started, its queue holds 4: wait for some first"
    )]
    QueueFull {
        line: usize,
        fifo: String,
        tasks: usize,
    },
    #[error(
        "line {line}: touches byte {at} of buffer {argument} while the transfer of line {other} may not be done: wait for it first"
    )]
    Race {
        line: usize,
        other: usize,
        argument: usize,
        at: i64,
    },
    #[error("line {line}: waits for @{fifo}, of which no transfer that issues a token is queued")]
    WaitsForNothing { line: usize, fifo: String },
    #[error("line {line}: word {index} is out of bounds of @{buffer}, which has {words}")]
    ParameterOutOfBounds {
        line: usize,
        buffer: String,
        index: i64,
        words: usize,
    },
    #[error("deadlock: {}", .waiting.join("; "))]
    Deadlock { waiting: Vec<String> },
    #[error("left over at the end: {}", .what.join("; "))]
    LeftOver { what: Vec<String> },
}

fn in_or_out(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

/// Counts before a run.
pub(super) struct Snapshot {
    cores: Vec<(u64, super::program::Account, u64)>,
    channels: Vec<(u64, u64)>,
}

impl Simulator {
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            cores: self
                .cores
                .iter()
                .map(|core| (core.busy, core.counts, core.executed))
                .collect(),
            channels: self
                .channels
                .iter()
                .map(|channel| (channel.bytes, channel.busy))
                .collect(),
        }
    }

    pub(super) fn report(&self, before: &Snapshot, ticks: u64) -> Report {
        let moved = |direction| {
            self.channels
                .iter()
                .zip(&before.channels)
                .enumerate()
                .filter(|(channel, _)| {
                    self.is_shim(*channel)
                        && self.allocation.channels[*channel].direction == direction
                })
                .map(|(_, (now, before))| now.bytes - before.0)
                .sum()
        };
        let cores = self.cores.iter().zip(&self.module.cores).zip(&before.cores);
        let cycles = ticks / TICKS;
        Report {
            cycles,
            seconds: cycles as f64 / self.array.clock_hz,
            host_bytes_read: moved(Direction::Out),
            host_bytes_written: moved(Direction::In),
            cores: cores
                .map(|((now, core), (busy, counts, executed))| {
                    let tile = &self.module.tiles[core.tile];
                    CoreReport {
                        tile: (tile.column, tile.row),
                        busy_cycles: (now.busy - busy) / TICKS,
                        matrix_instructions: now.counts.matrix - counts.matrix,
                        bytes_loaded: now.counts.loaded - counts.loaded,
                        bytes_stored: now.counts.stored - counts.stored,
                        instructions: now.executed - executed,
                    }
                })
                .collect(),
            streams: self
                .allocation
                .streams
                .iter()
                .map(|stream| {
                    let now = &self.channels[stream.source];
                    let before = &before.channels[stream.source];
                    StreamReport {
                        fifo: self.fifo_name(stream.fifo),
                        bytes: now.bytes - before.0,
                        busy_cycles: (now.busy - before.1) / TICKS,
                        destinations: stream.destinations.len(),
                    }
                })
                .collect(),
        }
    }

    /// Everybody who waits, and for what.
    pub(super) fn deadlock(&self, sequence: &Sequence, state: &SequenceState) -> SimulationError {
        let mut waiting = Vec::new();
        if let Some(step) = sequence.steps.get(state.at) {
            let what = match &step.kind {
                StepKind::Wait { fifo } => {
                    format!("for the transfer of @{}", self.fifo_name(*fifo))
                }
                StepKind::Transfer(_)
                | StepKind::WriteParameter { .. }
                | StepKind::SetLock { .. } => "at a step that never waits".to_owned(),
            };
            waiting.push(format!("the sequence waits at line {} {what}", step.line));
        }
        for (core, state) in self.cores.iter().enumerate() {
            let tile = self.core_tile(core);
            let line = state.program.origins[state.at].line;
            match &state.stop {
                Some(Stop::Acquire { end, lacks }) => {
                    let end = &self.allocation.ends[*end as usize];
                    waiting.push(format!(
                        "core of {tile} waits at line {line} for {lacks} of the {}",
                        self.allocation.locks[end.acquire].counts
                    ));
                }
                Some(Stop::Lock { lock, value }) => {
                    let lock = &self.module.locks[*lock as usize];
                    let name = lock.name.as_deref().unwrap_or("without a name");
                    waiting.push(format!(
                        "core of {tile} waits at line {line} for lock {name} to be {value}"
                    ));
                }
                Some(Stop::Exit) => waiting.push(format!("core of {tile} has ended")),
                Some(Stop::Tired) | None => {}
            }
        }
        for (channel, state) in self.allocation.channels.iter().zip(&self.channels) {
            let tile = &self.module.tiles[channel.tile];
            let what = match TileKind::of(&self.array, tile.row) {
                TileKind::Shim => "shim",
                TileKind::Memory => "memory tile",
                TileKind::Core => "core's memory",
            };
            let place = format!(
                "DMA {} of @{} at {what} ({}, {})",
                in_or_out(channel.direction),
                self.fifo_name(channel.fifo),
                tile.column,
                tile.row
            );
            if let Some(active) = &state.active {
                waiting.push(format!(
                    "{place} moved {} of {} bytes",
                    active.done, active.total
                ));
            } else if let Some(lock) = streams::awaits(channel, state, &self.store) {
                waiting.push(format!(
                    "{place} waits for {}",
                    self.allocation.locks[lock].counts
                ));
            }
        }
        SimulationError::Deadlock { waiting }
    }

    /// Refuses what is under way although nobody will ever take it.
    pub(super) fn left_over(&self) -> Result<(), SimulationError> {
        let mut what = Vec::new();
        for (channel, state) in self.allocation.channels.iter().zip(&self.channels) {
            let fifo = self.fifo_name(channel.fifo);
            let tile = &self.module.tiles[channel.tile];
            for record in state.records.iter().filter(|record| record.ended.is_none()) {
                what.push(format!(
                    "the transfer of @{fifo} of line {} never ends",
                    record.line
                ));
            }
            if channel.chain.is_empty() {
                continue;
            }
            // A channel that took its lock beforehand and moved nothing is at rest; one that reads has data to send.
            if let Some(active) = &state.active
                && (active.done > 0 || channel.direction == Direction::Out)
            {
                what.push(format!(
                    "@{fifo} at {tile} moved {} of {} bytes",
                    active.done, active.total
                ));
            }
        }
        for (end, state) in self.allocation.ends.iter().zip(&self.store.ends) {
            if end.port != Port::Consume {
                continue;
            }
            let mut count = self.store.locks[end.acquire].0.len();
            // Acquired while the core waits for something else, and not looked at yet. Elements that a core keeps for
            // good it has looked at.
            let core = self
                .module
                .cores
                .iter()
                .position(|core| core.tile == end.tile);
            if core.is_some_and(|core| self.cores[core].counts.loaded == state.loaded_before) {
                count += state.held;
            }
            if count > 0 {
                what.push(format!(
                    "{count} elements of @{} that the core of {} never uses",
                    self.fifo_name(end.fifo),
                    self.module.tiles[end.tile]
                ));
            }
        }
        if what.is_empty() {
            Ok(())
        } else {
            Err(SimulationError::LeftOver { what })
        }
    }
}
