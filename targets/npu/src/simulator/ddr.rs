//! What all shims share: the memory's bandwidth in one direction.
//!
//! Parties run ahead of each other, so transfers do not come here in the order of their time. Time is cut into slices,
//! each of which carries so many bytes: a transfer takes what is left in the slices from its beginning on, whoever asked
//! for later ones before.

use super::state::TICKS;

/// Ticks of a slice.
const SLICE: u64 = 256 * TICKS;

/// One direction's bandwidth.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    bytes_per_slice: f64,
    /// Where the first slice begins.
    origin: u64,
    /// Bytes taken of each slice.
    taken: Vec<f64>,
}

impl Bandwidth {
    /// So many bytes in a tick.
    pub fn new(bytes_per_tick: f64) -> Bandwidth {
        Bandwidth {
            bytes_per_slice: bytes_per_tick * SLICE as f64,
            origin: 0,
            taken: Vec::new(),
        }
    }

    /// Forgets what is over: nothing will ask for a time before this.
    pub fn begin(&mut self, ticks: u64) {
        self.origin = ticks;
        self.taken.clear();
    }

    /// When so many bytes that could move from `begin` on have moved.
    pub fn carry(&mut self, begin: u64, bytes: usize) -> u64 {
        let begin = begin.max(self.origin);
        let mut left = bytes as f64;
        let mut slice = ((begin - self.origin) / SLICE) as usize;
        loop {
            if self.taken.len() <= slice {
                self.taken.resize(slice + 1, 0.0);
            }
            let taken = &mut self.taken[slice];
            let now = left.min(self.bytes_per_slice - *taken);
            *taken += now;
            left -= now;
            if left <= 0.0 {
                let part = (*taken / self.bytes_per_slice * SLICE as f64) as u64;
                // Inside a slice bytes move as fast as they come; only a full one holds them up.
                let within = self.origin + slice as u64 * SLICE;
                return if now < bytes as f64 || part >= SLICE {
                    (within + part).max(begin)
                } else {
                    begin
                };
            }
            slice += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_for_an_earlier_time_finds_it_free() {
        let mut ddr = Bandwidth::new(1.0);
        // Far ahead, four slices' worth.
        let ahead = ddr.carry(100 * SLICE, 4 * SLICE as usize);
        assert_eq!(ahead, 104 * SLICE);
        assert!(ddr.carry(0, 2 * SLICE as usize) <= 2 * SLICE);
        // The slices ahead are taken: this has to wait for the first free one.
        let behind = ddr.carry(101 * SLICE, SLICE as usize);
        assert_eq!(behind, 105 * SLICE);
        ddr.begin(200 * SLICE);
        assert_eq!(ddr.carry(0, SLICE as usize), 201 * SLICE);
    }
}
