//! Holds a module to the limits of an array.
//!
//! The vendor's tools refuse some designs late and accept others that the hardware then runs wrongly; here both are
//! refused, all at once, before anything is handed over. What a FIFO takes of buffers, locks, channels and descriptors
//! is what [`Allocation`] says, which is also what the simulator executes. Knows nothing of what a program computes:
//! deadlocks, unwritten memory and leftovers are the [`simulator`](crate::simulator)'s.

mod cores;
mod fifos;
mod routes;
mod sequences;
mod tiles;
mod turns;

use crate::allocation::{Allocation, TileKind};
use crate::array::Array;
use crate::module::{Module, TileIndex};
use std::fmt;

/// Something that a module may not do on an array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The op: its name and symbol, or the tile.
    pub op: String,
    /// Line of the text; 0 where none is known.
    pub line: usize,
    /// The limit, and the numbers that break it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.op, self.what)
    }
}

/// All faults of a module, in the order of its text within each kind; none when it is legal.
pub fn check(module: &Module, array: &Array) -> Vec<Fault> {
    let allocation = Allocation::of(module, array);
    let mut checker = Checker {
        module,
        array,
        allocation: &allocation,
        faults: Vec::new(),
    };
    checker.device();
    checker.tiles();
    checker.fifos();
    checker.links();
    checker.patterns();
    checker.memory();
    checker.channels();
    checker.locks();
    checker.cores();
    checker.sequences();
    // Routes of tiles that are nowhere mean nothing.
    if checker.faults.is_empty() {
        checker.routes();
    }
    checker.faults
}

/// Columns that a device of this number may use of an array; none where it is of another array.
///
/// The numbers are the dialect's of 2026; those before, where they meant something else, are taken too: 8 was XDNA1's
/// four columns and 9 all of XDNA2.
pub fn columns_of(device: i64, array: &Array) -> Option<u32> {
    if array.name == "npu1" {
        return match device {
            4 | 8 => Some(array.columns),
            5..=7 => Some(device as u32 - 4),
            _ => None,
        };
    }
    match device {
        8 | 9 => Some(array.columns),
        10..=15 => Some(device as u32 - 8),
        _ => None,
    }
}

struct Checker<'m> {
    module: &'m Module,
    array: &'m Array,
    allocation: &'m Allocation,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, op: impl Into<String>, line: usize, what: impl Into<String>) {
        self.faults.push(Fault {
            op: op.into(),
            line,
            what: what.into(),
        });
    }

    fn kind(&self, tile: TileIndex) -> TileKind {
        TileKind::of(self.array, self.module.tiles[tile].row)
    }

    fn fifo_fault(&mut self, fifo: usize, what: impl Into<String>) {
        let fifo = &self.module.fifos[fifo];
        let (op, line) = (format!("aie.objectfifo @{}", fifo.name), fifo.line);
        self.fault(op, line, what);
    }

    fn device(&mut self) {
        if columns_of(self.module.device, self.array).is_none() {
            let what = format!(
                "device {} is not of {}, whose number is {}",
                self.module.device, self.array.title, self.array.mlir_device
            );
            self.fault("aie.device", 1, what);
        }
    }
}
