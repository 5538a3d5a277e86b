//! What each sequence slot holds: its length, and how far its ring caches have been overwritten.
//!
//! Only arithmetic over positions; the caches' bytes belong to the arena. That a ring is large enough for the rows of
//! a call, all stored before the first one attends, is part of a bundle's check.

use gembin_bundle::manifest::{Cache, Limits};

/// A kind of cache, as far as keeping and losing positions goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ring {
    /// Positions held.
    capacity: u32,
    /// Positions a query sees, itself included.
    window: Option<u32>,
}

impl Ring {
    /// The lowest position that a query at `pos` sees.
    fn first_seen(self, pos: u32) -> u32 {
        self.window
            .map_or(0, |window| (pos + 1).saturating_sub(window))
    }
}

/// One sequence.
#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    /// Positions `0..len` are the sequence.
    len: u32,
    /// Positions ever written since the slot was reset: a ring of capacity `c` has lost those below `written - c`.
    written: u32,
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    rings: Vec<Ring>,
    context: u32,
}

impl Slots {
    /// Empty slots for these limits and caches.
    pub(super) fn new(limits: &Limits, caches: &[Cache]) -> Self {
        let mut rings = Vec::new();
        for cache in caches {
            let ring = Ring {
                capacity: cache.capacity,
                window: cache.window,
            };
            if !rings.contains(&ring) {
                rings.push(ring);
            }
        }
        Self {
            slots: vec![Slot::default(); limits.slots as usize],
            rings,
            context: limits.context,
        }
    }

    /// Number of slots.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Positions a sequence can have.
    pub(super) fn context(&self) -> usize {
        self.context as usize
    }

    /// Length of the sequence in `slot`.
    pub(super) fn len(&self, slot: usize) -> usize {
        self.slots[slot].len as usize
    }

    /// The slot is about to be written at `tokens` further positions. The sequence becomes longer only in
    /// [`Self::advance`], so that a failed call leaves it as it was.
    pub(super) fn will_write(&mut self, slot: usize, tokens: usize) {
        let slot = &mut self.slots[slot];
        slot.written = slot.written.max(slot.len + tokens as u32);
    }

    /// The positions announced by [`Self::will_write`] hold their tokens.
    pub(super) fn advance(&mut self, slot: usize, tokens: usize) {
        self.slots[slot].len += tokens as u32;
    }

    /// Shortens the sequence to its first `len` tokens and returns how many it keeps: `len`, or 0 where a ring has
    /// lost positions that the token at `len` would see. (Anything shorter would see even older ones.)
    pub(super) fn truncate(&mut self, slot: usize, len: usize) -> usize {
        let slot = &mut self.slots[slot];
        if len >= slot.len as usize {
            return slot.len as usize;
        }
        let len = len as u32;
        let held = self.rings.iter().all(|ring| {
            let lost = slot.written.saturating_sub(ring.capacity);
            ring.first_seen(len) >= lost
        });
        if held && len > 0 {
            slot.len = len;
        } else {
            *slot = Slot::default();
        }
        slot.len as usize
    }

    /// Empties the slot.
    pub(super) fn reset(&mut self, slot: usize) {
        self.slots[slot] = Slot::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gembin_bundle::layout::Format;

    fn slots(context: u32, rings: &[(u32, Option<u32>)]) -> Slots {
        let caches: Vec<Cache> = rings
            .iter()
            .map(|&(capacity, window)| Cache {
                name: String::new(),
                format: Format::F32,
                kv_heads: 1,
                head_dim: 1,
                capacity,
                window,
                offset: 0,
                bytes: 0,
            })
            .collect();
        let limits = Limits {
            vocab: 1,
            context,
            slots: 2,
        };
        Slots::new(&limits, &caches)
    }

    fn write(slots: &mut Slots, tokens: usize) {
        slots.will_write(0, tokens);
        slots.advance(0, tokens);
    }

    #[test]
    fn full_caches_keep_any_prefix() {
        let mut slots = slots(100, &[(100, None)]);
        write(&mut slots, 100);
        assert_eq!(slots.truncate(0, 60), 60);
        assert_eq!(slots.truncate(0, 1), 1);
        assert_eq!(slots.len(0), 1);
    }

    #[test]
    fn a_ring_that_has_not_wrapped_keeps_any_prefix() {
        let mut slots = slots(100, &[(16, Some(8))]);
        write(&mut slots, 16);
        assert_eq!(slots.truncate(0, 2), 2);
    }

    #[test]
    fn a_wrapped_ring_keeps_only_prefixes_whose_window_it_holds() {
        // 20 written into 16: positions 0..4 are lost. A token at 11 sees 4..=11, one at 10 sees 3.
        let mut a = slots(100, &[(16, Some(8))]);
        write(&mut a, 20);
        assert_eq!(a.truncate(0, 11), 11);
        let mut b = slots(100, &[(16, Some(8))]);
        write(&mut b, 20);
        assert_eq!(b.truncate(0, 10), 0);
        assert_eq!(b.len(0), 0);
    }

    #[test]
    fn what_a_ring_lost_stays_lost_after_truncation() {
        let mut slots = slots(100, &[(16, Some(8))]);
        write(&mut slots, 20);
        assert_eq!(slots.truncate(0, 12), 12);
        write(&mut slots, 1);
        assert_eq!(slots.truncate(0, 10), 0);
        // After the reset nothing is lost any more.
        write(&mut slots, 12);
        assert_eq!(slots.truncate(0, 10), 10);
    }

    #[test]
    fn a_failed_write_counts_as_lost_but_not_as_sequence() {
        let mut slots = slots(100, &[(16, Some(8))]);
        write(&mut slots, 12);
        slots.will_write(0, 9);
        assert_eq!(slots.len(0), 12);
        assert_eq!(slots.truncate(0, 11), 0);
    }

    #[test]
    fn truncation_never_lengthens() {
        let mut slots = slots(100, &[(100, None)]);
        write(&mut slots, 5);
        assert_eq!(slots.truncate(0, 9), 5);
    }

    #[test]
    fn slots_are_apart() {
        let mut slots = slots(100, &[(100, None)]);
        write(&mut slots, 5);
        assert_eq!(slots.len(1), 0);
        slots.reset(0);
        assert_eq!(slots.len(0), 0);
    }
}
