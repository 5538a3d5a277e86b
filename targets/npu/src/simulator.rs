//! Executes a module as the array would.
//!
//! Takes what [`Module`] reads from text and nothing of the lowering that wrote it. [`Allocation`] says what buffers,
//! locks, channels and streams the module becomes; cores run their compiled programs, channels move descriptors through
//! their patterns, and the host's sequence queues transfers and waits. Whoever can go on does; when nobody can and the
//! sequence is not over, that is a deadlock and every waiting party is named. Results are the array's, bit by bit.
//!
//! Time is an estimate. Every party has a clock of its own, locks carry the time at which they were given, and whoever
//! takes one waits until then: that is a schedule of the array without contention but for the streams' four bytes a
//! cycle and the rates of shims and DDR. A core's straight code takes as long as its busiest unit (loads, stores, vector,
//! matrix, scalar), which is what a software pipeline comes to; arithmetic on indices is free; entering a loop costs a
//! few cycles.

mod compile;
mod compile_control;
mod compile_values;
mod compile_vectors;
mod ddr;
mod execute;
mod lanes;
mod memory;
mod program;
mod report;
mod sequence;
mod state;
mod streams;
mod words;

pub use memory::HostBuffer;
pub use report::{CoreReport, Report, SimulationError, StreamReport};

use crate::allocation::Allocation;
use crate::array::Array;
use crate::module::{Module, Port};
use ddr::Bandwidth;
use execute::CoreState;
use memory::Memory;
use sequence::SequenceState;
use state::{ANYONE, EndState, NOBODY, Stop, Store, TICKS, Tokens, Wrong};
use streams::ChannelState;

/// A configured array: a module, and what its cores, buffers and FIFOs hold between dispatches.
#[derive(Clone, Debug)]
pub struct Simulator {
    module: Module,
    array: Array,
    allocation: Allocation,
    store: Store,
    /// First memory of each pool.
    pool_base: Vec<usize>,
    /// Memory of the first buffer.
    buffer_base: usize,
    cores: Vec<CoreState>,
    channels: Vec<ChannelState>,
    /// Bandwidth of DDR, reading and writing.
    ddr: [Bandwidth; 2],
    /// Bytes of a stream in a cycle.
    stream_bytes: u64,
    /// When the last dispatch ended.
    ticks: u64,
    patience: u64,
}

/// Runs one sequence of a module on an array as it is after configuration.
pub fn run(
    module: &Module,
    array: &Array,
    sequence: &str,
    buffers: &mut [HostBuffer],
) -> Result<Report, SimulationError> {
    Simulator::new(module, array)?.run(sequence, buffers)
}

impl Simulator {
    /// Configures an array.
    pub fn new(module: &Module, array: &Array) -> Result<Simulator, SimulationError> {
        let allocation = Allocation::of(module, array);
        let mut store = Store::default();
        let mut pool_base = Vec::new();
        for pool in &allocation.pools {
            pool_base.push(store.memories.len());
            let fifo = &module.fifos[pool.fifo];
            let bytes = memory_bytes("aie.objectfifo", fifo.line, pool.element.bytes())?;
            for _ in 0..pool.depth {
                store.memories.push(Memory::unwritten(bytes));
                store.holders.push(NOBODY);
            }
        }
        let buffer_base = store.memories.len();
        for buffer in &module.buffers {
            let bytes = memory_bytes("aie.buffer", buffer.line, buffer.memory.bytes())?;
            let mut memory = Memory::unwritten(bytes);
            if let Some(initial) = &buffer.initial {
                let element = buffer.memory.element;
                let each = bytes / initial.lanes.len().max(1);
                for (at, lane) in initial.lanes.iter().enumerate() {
                    let lane = if element == crate::module::Scalar::Bf16 {
                        lane >> 16
                    } else {
                        *lane
                    };
                    let each = each.min(8);
                    memory
                        .write(at * each, each)
                        .copy_from_slice(&lane.to_le_bytes()[..each]);
                }
            }
            store.memories.push(memory);
            store.holders.push(ANYONE);
        }
        store.locks = allocation
            .locks
            .iter()
            .map(|lock| lock.initial)
            .chain(module.locks.iter().map(|lock| lock.initial))
            .map(Tokens::new)
            .collect();
        for end in &allocation.ends {
            store.ends.push(EndState {
                base: pool_base[end.pool],
                depth: allocation.pools[end.pool].depth,
                first: 0,
                held: 0,
                acquire: end.acquire,
                release: end.release,
                produces: end.port == Port::Produce,
                loaded_before: 0,
            });
        }
        let mut cores = Vec::new();
        for core in &module.cores {
            let program = compile::compile(module, array, &allocation, core)?;
            let stacks = store.memories.len();
            for (_, memory) in &program.fixed {
                // One for each, used or not: the position says which.
                let bytes = match memory {
                    program::Memory::Stack(bytes) => *bytes,
                    program::Memory::Buffer(_) => 0,
                };
                store.memories.push(Memory::unwritten(bytes));
                store.holders.push(ANYONE);
            }
            let memory_of = |memory, at| match memory {
                program::Memory::Buffer(buffer) => (buffer_base + buffer) as u32,
                program::Memory::Stack(_) => (stacks + at) as u32,
            };
            cores.push(CoreState::new(program, memory_of, allocation.locks.len()));
        }
        let ddr = Bandwidth::new(array.rates.ddr_bytes_per_s / array.clock_hz / TICKS as f64);
        let channels = vec![ChannelState::default(); allocation.channels.len()];
        Ok(Simulator {
            module: module.clone(),
            array: array.clone(),
            allocation,
            store,
            pool_base,
            buffer_base,
            cores,
            channels,
            ddr: [ddr.clone(), ddr],
            stream_bytes: u64::from(array.rates.core_stream_bytes_per_cycle).max(1),
            ticks: 0,
            patience: 4_000_000_000,
        })
    }

    /// Instructions that a core may execute without waiting before it counts as running for ever.
    pub fn with_patience(mut self, instructions: u64) -> Simulator {
        self.patience = instructions;
        self
    }

    /// Runs a sequence to its end, and the array until it rests.
    pub fn run(
        &mut self,
        sequence: &str,
        buffers: &mut [HostBuffer],
    ) -> Result<Report, SimulationError> {
        let found = self
            .module
            .sequences
            .iter()
            .find(|candidate| candidate.name == sequence);
        let Some(sequence) = found.cloned() else {
            return Err(SimulationError::NoSequence {
                name: sequence.to_owned(),
            });
        };
        if sequence.arguments.len() != buffers.len() {
            return Err(SimulationError::Arguments {
                name: sequence.name,
                expected: sequence.arguments.len(),
                given: buffers.len(),
            });
        }
        for (at, (argument, buffer)) in sequence.arguments.iter().zip(buffers.iter()).enumerate() {
            if argument.bytes() != buffer.0.len() as i64 {
                return Err(SimulationError::ArgumentSize {
                    at,
                    expected: argument.bytes(),
                    given: buffer.0.len(),
                });
            }
        }
        let before = self.snapshot();
        for channel in &mut self.channels {
            channel.records.clear();
        }
        let mut state = SequenceState {
            at: 0,
            ticks: self.ticks,
        };
        let begin = state.ticks;
        for direction in &mut self.ddr {
            direction.begin(begin);
        }
        loop {
            // A step at a time, and between them all that the array can do: what a step may rely on is then known.
            let mut progress = self.step(&sequence, &mut state, buffers)?;
            progress |= self.settle(buffers)?;
            if !progress {
                break;
            }
        }
        if state.at < sequence.steps.len() {
            return Err(self.deadlock(&sequence, &state));
        }
        self.left_over()?;
        self.ticks = self
            .channels
            .iter()
            .flat_map(|channel| channel.records.iter().filter_map(|record| record.ended))
            .fold(state.ticks, u64::max);
        Ok(self.report(&before, self.ticks - begin))
    }

    /// Lets cores and streams go on until none can: whether any could.
    fn settle(&mut self, buffers: &mut [HostBuffer]) -> Result<bool, SimulationError> {
        let mut any = false;
        loop {
            let mut progress = false;
            for stream in 0..self.allocation.streams.len() {
                progress |= self.advance(stream, buffers)?;
            }
            for core in 0..self.cores.len() {
                progress |= self.run_core(core)?;
            }
            if !progress {
                return Ok(any);
            }
            any = true;
        }
    }

    fn run_core(&mut self, core: usize) -> Result<bool, SimulationError> {
        let state = &mut self.cores[core];
        if state.stop == Some(Stop::Exit) {
            return Ok(false);
        }
        let (at, executed) = (state.at, state.executed);
        match state.run(&mut self.store, self.patience) {
            Ok(Stop::Tired) => Err(SimulationError::RunsForEver {
                tile: self.core_tile(core),
                instructions: self.patience,
            }),
            // One instruction was tried; more were executed.
            Ok(_) => Ok(self.cores[core].at != at || self.cores[core].executed > executed + 1),
            Err(wrong) => Err(self.core_error(core, wrong)),
        }
    }

    fn core_tile(&self, core: usize) -> String {
        self.module.tiles[self.module.cores[core].tile].to_string()
    }

    fn core_error(&self, core: usize, wrong: Wrong) -> SimulationError {
        let state = &self.cores[core];
        let origin = state.program.origins[state.at];
        let fifo = |end: u32| match self.allocation.ends.get(end as usize) {
            Some(end) => format!("@{}", self.fifo_name(end.fifo)),
            None => "its memory".to_owned(),
        };
        let what = match wrong {
            Wrong::OutOfBounds {
                dimension,
                index,
                last,
            } => format!(
                "index {index} of dimension {dimension} is out of bounds, the last inside is {last}"
            ),
            Wrong::OutOfMemory { at, bytes } => {
                format!("byte {at} is out of bounds of a memory of {bytes} bytes")
            }
            Wrong::Unwritten { at } => format!("reads byte {at}, which was never written"),
            Wrong::NotHeld { end } => {
                format!("touches an element of {} that is not acquired", fifo(end))
            }
            Wrong::BeyondHeld { end, index, held } => {
                format!(
                    "element {index} of {} is beyond the {held} acquired",
                    fifo(end)
                )
            }
            Wrong::Released { end, count, held } => {
                format!("releases {count} of {} with {held} acquired", fifo(end))
            }
            Wrong::OutOfVector { index, size } => {
                format!("position {index} is out of bounds of {size}")
            }
            Wrong::NoStep => "the loop's step is not positive".to_owned(),
        };
        SimulationError::Core {
            tile: self.core_tile(core),
            op: state.program.names[origin.name as usize].clone(),
            line: origin.line as usize,
            what,
        }
    }

    fn fifo_name(&self, fifo: usize) -> String {
        self.module.fifos[fifo].name.clone()
    }

    /// Cycles of all dispatches so far.
    pub fn cycles(&self) -> u64 {
        self.ticks / TICKS
    }
}

/// Largest memory in the array that is made, whatever a module says: twice a memory tile's.
const MOST_BYTES: i64 = 1 << 20;

fn memory_bytes(op: &str, line: usize, bytes: i64) -> Result<usize, SimulationError> {
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MOST_BYTES)
        .ok_or_else(|| SimulationError::Unsupported {
            op: op.to_owned(),
            line,
            what: format!("memory of {bytes} bytes"),
        })
}
