//! What cores and DMAs share while they run, and why a core stops.

use super::memory::Memory;
use std::collections::VecDeque;

/// Sixteenths of a cycle in a cycle.
pub const TICKS: u64 = 16;

/// What cores and DMAs share: memory, who may touch it, and locks.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Elements of FIFOs, then buffers, then stacks.
    pub memories: Vec<Memory>,
    /// For each memory the end of a FIFO that holds it, [`ANYONE`] or [`NOBODY`].
    pub holders: Vec<u32>,
    /// Locks of FIFOs, then locks of their own.
    pub locks: Vec<Tokens>,
    /// What each core end holds.
    pub ends: Vec<EndState>,
}

/// Memory without a holder of its own.
pub const ANYONE: u32 = u32::MAX;
/// An element that no core holds.
pub const NOBODY: u32 = u32::MAX - 1;

/// A counting lock: for each count when it was given.
#[derive(Clone, Debug, Default)]
pub struct Tokens(pub VecDeque<u64>);

impl Tokens {
    /// A lock of this value.
    pub fn new(count: i64) -> Tokens {
        Tokens(std::iter::repeat_n(0, count.clamp(0, 4096) as usize).collect())
    }

    /// Takes so many, if there are: when the last of them was given.
    pub fn take(&mut self, count: usize) -> Option<u64> {
        if self.0.len() < count {
            return None;
        }
        Some(self.0.drain(..count).max().unwrap_or(0))
    }

    /// Gives so many.
    pub fn give(&mut self, count: usize, time: u64) {
        self.0.extend(std::iter::repeat_n(time, count));
    }
}

/// What a core end holds of its FIFO.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndState {
    /// Memory of the pool's first element.
    pub base: usize,
    /// Elements of the pool.
    pub depth: usize,
    /// The first element held.
    pub first: usize,
    /// How many.
    pub held: usize,
    /// Lock that acquiring takes.
    pub acquire: usize,
    /// Lock that releasing gives.
    pub release: usize,
    /// Whether elements are filled here.
    pub produces: bool,
    /// Bytes that the core had loaded when it last acquired some.
    pub loaded_before: u64,
}

/// Why a core stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It waits for an element.
    Acquire {
        /// End of the FIFO.
        end: u32,
        /// Elements it lacks.
        lacks: usize,
    },
    /// It waits for a lock.
    Lock {
        /// The lock, counted behind those of FIFOs.
        lock: u32,
        /// Value it waits for.
        value: i64,
    },
    /// Its program is over.
    Exit,
    /// It ran for too long without waiting.
    Tired,
}

/// What a core did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An index outside the memory.
    OutOfBounds {
        /// Dimension.
        dimension: usize,
        /// The index.
        index: i64,
        /// The last that would be inside.
        last: i64,
    },
    /// Bytes outside the memory behind a view.
    OutOfMemory {
        /// First byte.
        at: i64,
        /// Size of the memory.
        bytes: usize,
    },
    /// Memory that was never written.
    Unwritten {
        /// First such byte.
        at: usize,
    },
    /// An element that is not held.
    NotHeld {
        /// End of the FIFO.
        end: u32,
    },
    /// An element behind those held.
    BeyondHeld {
        /// End of the FIFO.
        end: u32,
        /// Which was asked for.
        index: u32,
        /// Elements held.
        held: usize,
    },
    /// More released than held.
    Released {
        /// End of the FIFO.
        end: u32,
        /// Elements released.
        count: u32,
        /// Elements held.
        held: usize,
    },
    /// An index outside a vector.
    OutOfVector {
        /// The index.
        index: i64,
        /// Elements there.
        size: u32,
    },
    /// A loop that does not get on.
    NoStep,
}
