//! What tiles have: places in the array, memory, DMA channels, descriptors, locks.

use super::{Checker, columns_of};
use crate::allocation::{Direction, TileKind};
use crate::array::Tile as Limits;
use crate::module::TileIndex;

/// Buffers start at multiples of this.
const ALIGNMENT_BYTES: i64 = 32;

/// Largest value of a lock: 6 bits.
const LOCK_MAXIMUM: i64 = 63;

impl Checker<'_> {
    pub(super) fn tiles(&mut self) {
        let columns = columns_of(self.module.device, self.array).unwrap_or(self.array.columns);
        let rows = self.array.first_core_row + self.array.core_rows;
        for (index, tile) in self.module.tiles.iter().enumerate() {
            let op = format!("aie.{tile}");
            if tile.column < 0 || tile.column >= i64::from(columns) {
                let what = format!(
                    "column {} is out of range, the device has {columns} columns",
                    tile.column
                );
                self.fault(op.clone(), tile.line, what);
            }
            if tile.row < 0 || tile.row >= i64::from(rows) {
                let what = format!(
                    "row {} is out of range, the array has {rows} rows",
                    tile.row
                );
                self.fault(op.clone(), tile.line, what);
            }
            let twin = self.module.tiles[..index]
                .iter()
                .find(|other| (other.column, other.row) == (tile.column, tile.row));
            if let Some(twin) = twin {
                let what = format!("is declared again, line {} declared it", twin.line);
                self.fault(op, tile.line, what);
            }
        }
    }

    fn limits(&self, tile: TileIndex) -> Option<&'static str> {
        match self.kind(tile) {
            TileKind::Shim => None,
            TileKind::Memory => Some("memory tile"),
            TileKind::Core => Some("core"),
        }
    }

    pub(super) fn limits_of(&self, tile: TileIndex) -> Option<&Limits> {
        match self.kind(tile) {
            TileKind::Shim => None,
            TileKind::Memory => Some(&self.array.memory_tile),
            TileKind::Core => Some(&self.array.core),
        }
    }

    pub(super) fn memory(&mut self) {
        for tile in 0..self.module.tiles.len() {
            let (Some(limits), Some(kind)) = (self.limits_of(tile), self.limits(tile)) else {
                continue;
            };
            let (memory_bytes, banks) = (i64::from(limits.memory_bytes), i64::from(limits.banks));
            let default_stack = i64::from(limits.default_stack_bytes);
            let mut total = 0;
            let mut parts = Vec::new();
            let core = self.module.cores.iter().find(|core| core.tile == tile);
            let stack = core.map_or(0, |core| core.stack_bytes.unwrap_or(default_stack));
            if stack > 0 {
                total += stack;
                parts.push(format!("stack {stack}"));
            }
            let round =
                |bytes: i64| (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
            for pool in self
                .allocation
                .pools
                .iter()
                .filter(|pool| pool.tile == tile)
            {
                let bytes = pool.element.bytes();
                total += pool.depth as i64 * round(bytes);
                let name = &self.module.fifos[pool.fifo].name;
                parts.push(format!("@{name} {} x {bytes}", pool.depth));
            }
            let mut faults = Vec::new();
            let mut fixed: Vec<(i64, i64, String)> = Vec::new();
            for buffer in self
                .module
                .buffers
                .iter()
                .filter(|buffer| buffer.tile == tile)
            {
                let bytes = buffer.memory.bytes();
                let op = format!("aie.buffer @{}", buffer.name);
                total += round(bytes);
                parts.push(format!("@{} {bytes}", buffer.name));
                if let Some(bank) = buffer.bank.filter(|bank| !(0..banks).contains(bank)) {
                    let what = format!("bank {bank} is out of range, a {kind} has {banks} banks");
                    faults.push((op.clone(), buffer.line, what));
                }
                let Some(address) = buffer.address else {
                    continue;
                };
                let end = address + bytes;
                if address < 0 || end > memory_bytes {
                    let what = format!(
                        "addresses {address} to {end} are out of range, a {kind} has {memory_bytes} bytes"
                    );
                    faults.push((op.clone(), buffer.line, what));
                }
                if address < stack {
                    let what = format!("address {address} lies in the stack of {stack} bytes");
                    faults.push((op.clone(), buffer.line, what));
                }
                for (other, other_end, name) in &fixed {
                    if address < *other_end && *other < end {
                        let what = format!("addresses {address} to {end} overlap @{name}");
                        faults.push((op.clone(), buffer.line, what));
                    }
                }
                fixed.push((address, end, buffer.name.clone()));
            }
            for (op, line, what) in faults {
                self.fault(op, line, what);
            }
            if total > memory_bytes {
                let tile = &self.module.tiles[tile];
                let what = format!(
                    "needs {total} bytes of memory ({}), a {kind} has {memory_bytes}",
                    parts.join(" + ")
                );
                self.fault(format!("aie.{tile}"), tile.line, what);
            }
        }
        for buffer in &self.module.buffers {
            if self.kind(buffer.tile) == TileKind::Shim {
                let what = "is in a shim, which has no memory";
                let op = format!("aie.buffer @{}", buffer.name);
                self.faults.push(super::Fault {
                    op,
                    line: buffer.line,
                    what: what.to_owned(),
                });
            }
        }
    }

    pub(super) fn channels(&mut self) {
        for tile in 0..self.module.tiles.len() {
            let (kind, dma_in, dma_out, descriptors) = match self.kind(tile) {
                TileKind::Shim => {
                    let shim = &self.array.shim;
                    ("shim", shim.dma_in, shim.dma_out, shim.descriptors)
                }
                TileKind::Memory => {
                    let limits = &self.array.memory_tile;
                    (
                        "memory tile",
                        limits.dma_in,
                        limits.dma_out,
                        limits.descriptors,
                    )
                }
                TileKind::Core => {
                    let limits = &self.array.core;
                    ("core", limits.dma_in, limits.dma_out, limits.descriptors)
                }
            };
            let (op, line) = {
                let tile = &self.module.tiles[tile];
                (format!("aie.{tile}"), tile.line)
            };
            let mut used = 0;
            // In a memory tile even channels reach the first half of the descriptors and odd ones the second.
            let mut halves = [0, 0];
            for (direction, word, limit) in [
                (Direction::In, "in", dma_in),
                (Direction::Out, "out", dma_out),
            ] {
                let channels: Vec<_> = self
                    .allocation
                    .channels
                    .iter()
                    .filter(|channel| channel.tile == tile && channel.direction == direction)
                    .collect();
                for (number, channel) in channels.iter().enumerate() {
                    used += channel.chain.len();
                    halves[number % 2] += channel.chain.len();
                }
                if channels.len() > limit as usize {
                    let names: Vec<String> = channels
                        .iter()
                        .map(|channel| format!("@{}", self.module.fifos[channel.fifo].name))
                        .collect();
                    let what = format!(
                        "needs {} DMA channels {word} ({}), a {kind} has {limit}",
                        channels.len(),
                        names.join(", ")
                    );
                    self.fault(op.clone(), line, what);
                }
            }
            if used > descriptors as usize {
                let what = format!("needs {used} buffer descriptors, a {kind} has {descriptors}");
                self.fault(op.clone(), line, what);
            } else if self.kind(tile) == TileKind::Memory {
                for (parity, half) in ["even", "odd"].into_iter().zip(halves) {
                    if half > descriptors as usize / 2 {
                        let what = format!(
                            "its {parity} DMA channels need {half} buffer descriptors, they reach {} of {descriptors}",
                            descriptors / 2
                        );
                        self.fault(op.clone(), line, what);
                    }
                }
            }
        }
    }

    pub(super) fn locks(&mut self) {
        for tile in 0..self.module.tiles.len() {
            let limit = self
                .limits_of(tile)
                .map_or(self.array.shim.locks, |limits| limits.locks);
            let of_fifos = self
                .allocation
                .locks
                .iter()
                .filter(|lock| lock.tile == tile)
                .count();
            let own = self.module.locks.iter().filter(|lock| lock.tile == tile);
            let count = of_fifos + own.count();
            if count > limit as usize {
                let tile = &self.module.tiles[tile];
                let what = format!("needs {count} locks, it has {limit}");
                self.fault(format!("aie.{tile}"), tile.line, what);
            }
        }
        let mut faults = Vec::new();
        for lock in &self.allocation.locks {
            if lock.initial > LOCK_MAXIMUM {
                let what = format!(
                    "counts {} {}, a lock counts to {LOCK_MAXIMUM}",
                    lock.initial, lock.counts
                );
                let tile = &self.module.tiles[lock.tile];
                faults.push((format!("aie.{tile}"), tile.line, what));
            }
        }
        for (index, lock) in self.module.locks.iter().enumerate() {
            let name = lock.name.as_deref().unwrap_or("without a name");
            let op = format!("aie.lock {name}");
            let limit = self
                .limits_of(lock.tile)
                .map_or(self.array.shim.locks, |limits| limits.locks);
            if !(0..=LOCK_MAXIMUM).contains(&lock.initial) {
                let what = format!(
                    "starts at {}, a lock counts to {LOCK_MAXIMUM}",
                    lock.initial
                );
                faults.push((op.clone(), lock.line, what));
            }
            if let Some(id) = lock.id {
                if !(0..i64::from(limit)).contains(&id) {
                    let what = format!("number {id} is out of range, the tile has {limit} locks");
                    faults.push((op.clone(), lock.line, what));
                }
                let twin = self.module.locks[..index]
                    .iter()
                    .any(|other| other.tile == lock.tile && other.id == lock.id);
                if twin {
                    let what = format!("number {id} is taken by another lock of the tile");
                    faults.push((op, lock.line, what));
                }
            }
        }
        for (op, line, what) in faults {
            self.fault(op, line, what);
        }
    }
}
