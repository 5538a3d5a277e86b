//! The interpreter's KV caches: rows by slot and by position modulo capacity, each with the position it holds, so that
//! a read of something never written, or overwritten in a ring, is an error and not a wrong number.

use crate::module::{Cache, DimBounds};
use crate::types::DType;
use half::f16;
use std::collections::{HashMap, HashSet};

/// Keys and values of one position, all heads.
#[derive(Debug)]
pub(crate) struct Row {
    pub position: u32,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// One KV cache. Grows with what is stored, not with what the bounds allow.
#[derive(Debug)]
pub(crate) struct KvCache {
    rows: HashMap<(u32, u32), Row>,
    capacity: u32,
    context: u32,
    slots: u32,
    window: Option<u32>,
    half: bool,
}

impl KvCache {
    /// An empty cache with the planned capacity, or room for the whole context.
    pub fn new(cache: &Cache, bounds: &DimBounds) -> Self {
        Self {
            rows: HashMap::new(),
            capacity: cache.capacity.unwrap_or(bounds.context).max(1),
            context: bounds.context,
            slots: bounds.slots,
            window: cache.window,
            half: cache.dtype == DType::F16,
        }
    }

    /// Stores a row of keys and values for each of `pos` and `slot`. Positions of a slot at or after the first one
    /// stored now belong to a sequence that was abandoned, and are forgotten.
    pub fn store<'a>(
        &mut self,
        pos: &[i32],
        slot: &[i32],
        row: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) -> Result<(), String> {
        let mut keys = Vec::with_capacity(pos.len());
        let mut seen = HashSet::new();
        let mut first: HashMap<u32, u32> = HashMap::new();
        for (r, (&p, &s)) in pos.iter().zip(slot).enumerate() {
            let key @ (s, p) = self
                .checked(p, s)
                .map_err(|what| format!("row {r}: {what}"))?;
            if !seen.insert(key) {
                return Err(format!(
                    "row {r}: position {p} of slot {s} is stored twice in one call"
                ));
            }
            keys.push(key);
            let first = first.entry(s).or_insert(p);
            *first = p.min(*first);
        }
        self.rows
            .retain(|(s, _), row| first.get(s).is_none_or(|first| row.position < *first));
        for (r, (s, position)) in keys.into_iter().enumerate() {
            let (k, v) = row(r);
            let (k, v) = (self.rounded(k), self.rounded(v));
            let held = self.rows.entry((s, position % self.capacity));
            // Of two positions that share a row of the ring, the later one stays, in whatever order they come.
            let later = match &held {
                std::collections::hash_map::Entry::Occupied(held) => held.get().position < position,
                std::collections::hash_map::Entry::Vacant(_) => true,
            };
            if later {
                held.insert_entry(Row { position, k, v });
            }
        }
        Ok(())
    }

    /// The rows that a query at `pos` of `slot` sees, oldest first.
    pub fn visible(&self, pos: i32, slot: i32) -> Result<Vec<&Row>, String> {
        let (slot, pos) = self.checked(pos, slot)?;
        let first = match self.window {
            Some(window) => (pos + 1).saturating_sub(window),
            None => 0,
        };
        (first..=pos)
            .map(|p| match self.rows.get(&(slot, p % self.capacity)) {
                Some(row) if row.position == p => Ok(row),
                Some(row) => Err(format!(
                    "position {p} of slot {slot} was overwritten by position {} in a ring of {}, \
                     and the query at {pos} needs it",
                    row.position, self.capacity
                )),
                None => Err(format!(
                    "position {p} of slot {slot} was never stored, and the query at {pos} needs it"
                )),
            })
            .collect()
    }

    fn checked(&self, pos: i32, slot: i32) -> Result<(u32, u32), String> {
        let p = u32::try_from(pos).ok().filter(|p| *p < self.context);
        let p =
            p.ok_or_else(|| format!("position {pos} is outside the context of {}", self.context))?;
        let s = u32::try_from(slot).ok().filter(|s| *s < self.slots);
        let s = s.ok_or_else(|| format!("slot {slot} is not one of {}", self.slots))?;
        Ok((s, p))
    }

    /// As an f16 cache holds it: what exceeds f16 saturates, as infinities would be NaN one dot product later.
    fn rounded(&self, x: &[f32]) -> Vec<f32> {
        if self.half {
            let (low, high) = (f16::MIN.to_f32(), f16::MAX.to_f32());
            x.iter()
                .map(|x| f16::from_f32(x.clamp(low, high)).to_f32())
                .collect()
        } else {
            x.to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: u32, window: Option<u32>) -> KvCache {
        let cache = Cache {
            name: "kv".into(),
            dtype: DType::F16,
            kv_heads: 1,
            head_dim: 1,
            window,
            capacity: Some(capacity),
            place: None,
        };
        let bounds = DimBounds {
            chunk: 4,
            outs: 1,
            context: 16,
            slots: 2,
        };
        KvCache::new(&cache, &bounds)
    }

    fn store(cache: &mut KvCache, positions: std::ops::Range<i32>) {
        let pos: Vec<i32> = positions.collect();
        let rows: Vec<[f32; 1]> = pos.iter().map(|p| [*p as f32]).collect();
        cache
            .store(&pos, &vec![0; pos.len()], |r| (&rows[r], &rows[r]))
            .expect("stores");
    }

    fn seen(cache: &KvCache, pos: i32) -> Result<Vec<u32>, String> {
        Ok(cache
            .visible(pos, 0)?
            .iter()
            .map(|row| row.position)
            .collect())
    }

    #[test]
    fn a_window_sees_itself_and_those_before() {
        let mut cache = ring(16, Some(3));
        store(&mut cache, 0..4);
        assert_eq!(seen(&cache, 1), Ok(vec![0, 1]));
        assert_eq!(seen(&cache, 3), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_ring_keeps_the_window_and_refuses_what_it_lost() {
        let mut cache = ring(4, Some(3));
        store(&mut cache, 0..4);
        store(&mut cache, 4..6);
        assert_eq!(seen(&cache, 5), Ok(vec![3, 4, 5]));
        assert_eq!(seen(&cache, 4), Ok(vec![2, 3, 4]));
        let lost = seen(&cache, 3).expect_err("position 1 is gone");
        assert!(
            lost.contains("position 1 of slot 0 was overwritten by position 5"),
            "{lost}"
        );
    }

    #[test]
    fn going_back_forgets_what_came_after() {
        let mut cache = ring(16, None);
        store(&mut cache, 0..6);
        store(&mut cache, 3..4);
        assert_eq!(seen(&cache, 3), Ok(vec![0, 1, 2, 3]));
        let stale = seen(&cache, 4).expect_err("4 belongs to the old sequence");
        assert!(stale.contains("never stored"), "{stale}");
    }

    #[test]
    fn values_are_rounded_to_f16() {
        let mut cache = ring(16, None);
        let x = [1.0 + 1.0 / 4096.0];
        cache.store(&[0], &[0], |_| (&x, &x)).expect("stores");
        assert_eq!(cache.visible(0, 0).expect("stored")[0].k, [1.0]);
    }

    #[test]
    fn values_beyond_f16_saturate() {
        let mut cache = ring(16, None);
        let (k, v) = ([1e6], [f32::NEG_INFINITY]);
        cache.store(&[0], &[0], |_| (&k, &v)).expect("stores");
        let nan = [f32::NAN];
        cache.store(&[1], &[0], |_| (&nan, &k)).expect("stores");
        let rows = cache.visible(1, 0).expect("stored");
        assert_eq!(
            (&rows[0].k[..], &rows[0].v[..]),
            (&[65504.0][..], &[-65504.0][..])
        );
        assert!(rows[1].k[0].is_nan());
    }

    #[test]
    fn positions_and_slots_out_of_range_are_refused() {
        let mut cache = ring(16, None);
        let x = [0.0];
        for (pos, slot, want) in [
            (-1, 0, "position -1"),
            (16, 0, "position 16"),
            (0, 2, "slot 2"),
            (0, -1, "slot -1"),
        ] {
            let got = cache
                .store(&[pos], &[slot], |_| (&x, &x))
                .expect_err("refused");
            assert!(got.contains(want), "{got}");
        }
        let twice = cache
            .store(&[1, 1], &[0, 0], |_| (&x, &x))
            .expect_err("refused");
        assert!(twice.contains("stored twice"), "{twice}");
    }
}
