//! Rules 12 to 14: places in the arena.

use super::functions::needs_place;
use super::{At, PLACE_ALIGN, Verifier};
use crate::entity::{CacheId, ValueId};
use crate::module::{Function, Op, Place};
use std::collections::{BTreeMap, HashSet};

/// What is alive, by first byte: the byte after its last, and its name. Pairwise disjoint.
#[derive(Default)]
struct Alive(BTreeMap<u64, (u64, String)>);

impl Alive {
    /// Adds a place, or says what it overlaps. A place that ends beyond u64 has been reported before.
    fn insert(&mut self, place: Place, name: String) -> Result<(), String> {
        let end = place.offset.saturating_add(place.bytes);
        if place.bytes == 0 {
            return Ok(());
        }
        let below = self.0.range(..end).next_back();
        if let Some((offset, (other_end, other))) = below
            && *other_end > place.offset
        {
            return Err(format!(
                "{name} at {}+{} overlaps {other} at {offset}+{}",
                place.offset,
                place.bytes,
                other_end - offset
            ));
        }
        self.0.insert(place.offset, (end, name));
        Ok(())
    }

    /// Removes what `insert` added under that name; does nothing if it was refused.
    fn remove(&mut self, place: Place, name: &str) {
        if self
            .0
            .get(&place.offset)
            .is_some_and(|(_, alive)| alive == name)
        {
            self.0.remove(&place.offset);
        }
    }
}

impl Verifier<'_> {
    pub(super) fn memory(&mut self, index: usize) {
        if self.module.arena_bytes.is_none() {
            self.unplanned(index);
            return;
        }
        self.places(index);
        self.overlaps(index);
    }

    fn unplanned(&mut self, index: usize) {
        let function = &self.module.functions[index];
        let what = "has a place, but the module has no arena";
        for (i, value) in function.values.iter().enumerate() {
            if value.place.is_some() {
                self.fault(At::Value(index, ValueId::new(i)), what);
            }
        }
        for (i, op) in function.ops.iter().enumerate() {
            if op.scratch.is_some() {
                self.fault(At::Op(index, i), "has scratch, but the module has no arena");
            }
        }
    }

    /// Places of caches; part of rule 12 to 14 that concerns no function.
    pub(super) fn cache_places(&mut self) {
        let module = self.module;
        let mut alive = Alive::default();
        for (i, cache) in module.caches.iter().enumerate() {
            let at = At::Cache(CacheId::new(i));
            match (module.arena_bytes, cache.capacity, cache.place) {
                (None, _, None) => {}
                (None, _, Some(_)) => self.fault(at, "has a place, but the module has no arena"),
                (Some(_), Some(capacity), Some(place)) => {
                    let needed = cache.bytes(module.bounds.slots, capacity);
                    self.place(at, "it", place, needed);
                    if let Err(what) = alive.insert(place, format!("@{}", cache.name)) {
                        self.fault(at, what);
                    }
                }
                (Some(_), _, _) => {
                    self.fault(at, "memory is planned, but it has no capacity or no place")
                }
            }
        }
    }

    /// Rules 12 and 13 for the values and scratch of a function.
    fn places(&mut self, index: usize) {
        let module = self.module;
        let function = &module.functions[index];
        for id in &function.params {
            if function.value(*id).place.is_some() {
                self.fault(At::Value(index, *id), "is a parameter and has a place");
            }
        }
        for (i, op) in function.ops.iter().enumerate() {
            let at = At::Op(index, i);
            for id in &op.results {
                let value = function.value(*id);
                match value.place {
                    Some(place) => {
                        let needed = module.bounds.value_bytes(&function.name, &value.ty);
                        self.place(at, &id.to_string(), place, needed);
                    }
                    None if needs_place(&value.ty) => {
                        self.fault(at, format!("memory is planned, but {id} has no place"));
                    }
                    None => {}
                }
            }
            if let Some(place) = op.scratch {
                self.place(at, "its scratch", place, Some(0));
            }
        }
    }

    fn place(&mut self, at: At, name: &str, place: Place, needed: Option<u64>) {
        let arena = self.module.arena_bytes.unwrap_or(0);
        let Place { offset, bytes } = place;
        if offset.checked_add(bytes).is_none_or(|end| end > arena) {
            self.fault(
                at,
                format!("{name} at {offset}+{bytes} is outside the arena of {arena} bytes"),
            );
        }
        if offset % PLACE_ALIGN != 0 {
            self.fault(
                at,
                format!("{name} at {offset}+{bytes} is not aligned to {PLACE_ALIGN} bytes"),
            );
        }
        match needed {
            None => self.fault(at, format!("the size of {name} overflows")),
            Some(needed) if bytes < needed => {
                self.fault(
                    at,
                    format!("{name} at {offset}+{bytes} is too small, it needs {needed} bytes"),
                );
            }
            Some(_) => {}
        }
    }

    /// Rule 14.
    fn overlaps(&mut self, index: usize) {
        let module = self.module;
        let function = &module.functions[index];
        let last_use = function.last_uses();
        let mut alive = Alive::default();
        for cache in &module.caches {
            if let Some(place) = cache.place {
                // Caches that overlap each other are reported once for the module.
                let _ = alive.insert(place, format!("@{}", cache.name));
            }
        }
        for (i, op) in function.ops.iter().enumerate() {
            let at = At::Op(index, i);
            let place_of = |id: ValueId| function.value(id).place;
            let dies = |id: &ValueId| last_use[id.index()] == i;
            let mut dead: HashSet<ValueId> = HashSet::new();
            if op.kind.works_in_place() {
                dead.extend(op.operands.iter().copied().filter(dies));
                for what in half_in_place(function, op, &dead) {
                    self.fault(at, what);
                }
                for id in &dead {
                    if let Some(place) = place_of(*id) {
                        alive.remove(place, &id.to_string());
                    }
                }
            }
            for id in &op.results {
                if let Some(place) = place_of(*id)
                    && let Err(what) = alive.insert(place, id.to_string())
                {
                    self.fault(at, what);
                }
            }
            if let Some(place) = op.scratch {
                // Operands that died in place are still read while the op runs.
                let read = dead.iter().filter_map(|id| Some((*id, place_of(*id)?)));
                let clash = read.into_iter().find(|(_, other)| overlap(place, *other));
                let inserted = alive.insert(place, "scratch".to_owned());
                if let Some((id, _)) = clash {
                    self.fault(at, format!("scratch overlaps {id}"));
                } else if let Err(what) = inserted {
                    self.fault(at, what);
                }
                alive.remove(place, "scratch");
            }
            for id in op.operands.iter().chain(&op.results) {
                if last_use[id.index()] == i
                    && let Some(place) = place_of(*id)
                {
                    alive.remove(place, &id.to_string());
                }
            }
        }
    }
}

/// Results of an op that works in place which overlap an operand that dies there, but not at the same first byte.
fn half_in_place(function: &Function, op: &Op, dead: &HashSet<ValueId>) -> Vec<String> {
    let mut faults = Vec::new();
    for result in &op.results {
        for operand in dead {
            let places = (
                function.value(*result).place,
                function.value(*operand).place,
            );
            if let (Some(a), Some(b)) = places
                && overlap(a, b)
                && a.offset != b.offset
            {
                faults.push(format!(
                    "{result} overlaps {operand}, but not in the very same place"
                ));
            }
        }
    }
    faults
}

fn overlap(a: Place, b: Place) -> bool {
    a.offset < b.offset.saturating_add(b.bytes) && b.offset < a.offset.saturating_add(a.bytes)
}
