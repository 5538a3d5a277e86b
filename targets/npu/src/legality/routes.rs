//! Whether the streams fit through the switches.
//!
//! A switch has so many ports to each neighbour. Streams are routed as trees of shortest paths, and those that share a
//! full port again and again at a rising price, as routers of circuits do it: what is found fits, and what is not found
//! in many rounds is refused with the port that stays too narrow. The vendor's router may choose other paths.

use super::Checker;
use crate::allocation::TileKind;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Rounds of routing before it is given up.
const ROUNDS: usize = 60;

/// Ports of a switch to the next ones: towards the cores, back, and to the sides where there are any.
#[derive(Clone, Copy)]
struct Ports {
    north: usize,
    south: usize,
    side: usize,
}

/// Of both generations, from the dialect's target model.
const PORTS: Ports = Ports {
    north: 6,
    south: 4,
    side: 4,
};

type Place = (i64, i64);
type Port = (Place, Place);

impl Checker<'_> {
    pub(super) fn routes(&mut self) {
        self.routes_through(PORTS);
    }

    fn routes_through(&mut self, ports: Ports) {
        let mut history: HashMap<Port, u64> = HashMap::new();
        let mut full: BTreeMap<Port, Vec<usize>> = BTreeMap::new();
        for round in 0..ROUNDS {
            let mut used: HashMap<Port, Vec<usize>> = HashMap::new();
            for stream in 0..self.allocation.streams.len() {
                let Some(tree) = self.tree(ports, stream, &used, &history, round as u64) else {
                    let fifo = self.allocation.streams[stream].fifo;
                    self.fifo_fault(
                        fifo,
                        "no way through the switches leads from its producer to its consumers",
                    );
                    return;
                };
                for port in tree {
                    used.entry(port).or_default().push(stream);
                }
            }
            full = used
                .into_iter()
                .filter(|(port, streams)| streams.len() > self.count(ports, port.0, port.1))
                .collect();
            if full.is_empty() {
                return;
            }
            for port in full.keys() {
                *history.entry(*port).or_insert(0) += 1;
            }
        }
        if let Some((port, streams)) = full.into_iter().next() {
            let names: Vec<String> = streams
                .iter()
                .map(|stream| {
                    let fifo = self.allocation.streams[*stream].fifo;
                    format!("@{}", self.module.fifos[fifo].name)
                })
                .collect();
            let ((column, row), (to_column, to_row)) = port;
            let what = format!(
                "{} streams ({}) need the way to ({to_column}, {to_row}), it has {} ports",
                streams.len(),
                names.join(", "),
                self.count(ports, port.0, port.1)
            );
            self.fault(format!("switch of ({column}, {row})"), 0, what);
        }
    }

    /// Ports from one switch to its neighbour.
    fn count(&self, ports: Ports, from: Place, to: Place) -> usize {
        match (to.0 - from.0, to.1 - from.1) {
            (0, 1) => ports.north,
            (0, -1) => ports.south,
            // Memory tiles have none to the sides.
            (1 | -1, 0) if TileKind::of(self.array, from.1) != TileKind::Memory => ports.side,
            _ => 0,
        }
    }

    /// Ports that a stream takes to all its ends, cheapest first.
    fn tree(
        &self,
        ports: Ports,
        stream: usize,
        used: &HashMap<Port, Vec<usize>>,
        history: &HashMap<Port, u64>,
        round: u64,
    ) -> Option<Vec<Port>> {
        let place = |channel: usize| {
            let tile = &self.module.tiles[self.allocation.channels[channel].tile];
            (tile.column, tile.row)
        };
        let stream = &self.allocation.streams[stream];
        let mut reached = vec![place(stream.source)];
        let mut tree = Vec::new();
        for destination in &stream.destinations {
            let path = self.path(ports, &reached, place(*destination), used, history, round)?;
            for port in path {
                reached.push(port.1);
                tree.push(port);
            }
        }
        tree.sort_unstable();
        tree.dedup();
        Some(tree)
    }

    fn path(
        &self,
        ports: Ports,
        from: &[Place],
        to: Place,
        used: &HashMap<Port, Vec<usize>>,
        history: &HashMap<Port, u64>,
        round: u64,
    ) -> Option<Vec<Port>> {
        let (columns, rows) = (
            i64::from(self.array.columns),
            i64::from(self.array.first_core_row + self.array.core_rows),
        );
        let mut best: HashMap<Place, (u64, Option<Place>)> = HashMap::new();
        let mut heap = BinaryHeap::new();
        for start in from {
            best.insert(*start, (0, None));
            heap.push((std::cmp::Reverse(0), *start));
        }
        while let Some((std::cmp::Reverse(cost), at)) = heap.pop() {
            if at == to {
                break;
            }
            if best.get(&at).is_some_and(|(known, _)| *known < cost) {
                continue;
            }
            for (dx, dy) in [(0, 1), (0, -1), (1, 0), (-1, 0)] {
                let next = (at.0 + dx, at.1 + dy);
                let count = self.count(ports, at, next);
                if count == 0 || !(0..columns).contains(&next.0) || !(0..rows).contains(&next.1) {
                    continue;
                }
                let port = (at, next);
                let taken = used.get(&port).map_or(0, Vec::len);
                let over = (taken + 1).saturating_sub(count) as u64;
                let price =
                    10 + 5 * history.get(&port).copied().unwrap_or(0) + over * 10 * (round + 1);
                let total = cost + price;
                if best.get(&next).is_none_or(|(known, _)| total < *known) {
                    best.insert(next, (total, Some(at)));
                    heap.push((std::cmp::Reverse(total), next));
                }
            }
        }
        let mut path = Vec::new();
        let mut at = to;
        while let Some(before) = best.get(&at)?.1 {
            path.push((before, at));
            at = before;
        }
        path.reverse();
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Allocation;
    use crate::array::Array;
    use crate::module::Module;

    /// The hardware's own ports carry whatever its DMA channels can send, so narrower ones show that they are counted.
    #[test]
    fn streams_share_ports_until_there_are_none() {
        let text = include_str!("../../../../testdata/targets/npu/product_four_cores.mlir");
        let module = Module::read(text).unwrap();
        let array = Array::npu1();
        let allocation = Allocation::of(&module, array);
        let faults = |ports| {
            let mut checker = Checker {
                module: &module,
                array,
                allocation: &allocation,
                faults: Vec::new(),
            };
            checker.routes_through(ports);
            checker.faults
        };
        assert!(faults(PORTS).is_empty());
        // Two streams up from each memory tile and two back: as few ports as that are enough.
        let enough = Ports {
            north: 2,
            south: 2,
            side: 1,
        };
        assert!(faults(enough).is_empty());
        let short = Ports { north: 1, ..enough };
        let fault = faults(short).remove(0).to_string();
        assert!(
            fault.contains("2 streams") && fault.contains("it has 1 ports"),
            "{fault}"
        );
        let cut = Ports { side: 0, ..enough };
        let fault = faults(cut).remove(0).to_string();
        assert!(fault.contains("no way through the switches"), "{fault}");
    }
}
