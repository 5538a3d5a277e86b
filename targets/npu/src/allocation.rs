//! What the vendor's lowering makes of object FIFOs: buffers, locks, DMA channels with their chains of descriptors, and
//! streams between them.
//!
//! The rules are those of mlir-aie's object FIFO lowering for AIE2: neighbours that share memory need no DMA; a FIFO
//! given one depth has in a core one element more than the core acquires at once; a link through a tile has one set of
//! buffers, those of its larger side; distributing and joining take a descriptor and a pair of locks for each part.
//! Both the [`legality`](crate::legality) checker and the [`simulator`](crate::simulator) work on this, so that what is
//! counted is what is executed. Decides nothing about limits.

use crate::array::Array;
use crate::module::{Depth, Fifo, Link, MemRef, Module, OpKind, Pattern, Port, TileIndex};

/// Index into [`Allocation::pools`].
pub type PoolIndex = usize;
/// Index into [`Allocation::locks`].
pub type LockIndex = usize;
/// Index into [`Allocation::channels`].
pub type ChannelIndex = usize;

/// Kind of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TileKind {
    /// Port to DDR.
    Shim,
    /// Memory of a column.
    Memory,
    /// Core.
    Core,
}

impl TileKind {
    /// Kind of the tile in this row.
    pub fn of(array: &Array, row: i64) -> TileKind {
        if row <= 0 {
            TileKind::Shim
        } else if row < i64::from(array.first_core_row) {
            TileKind::Memory
        } else {
            TileKind::Core
        }
    }
}

/// Elements of a FIFO in a tile.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    /// FIFO whose elements they are.
    pub fifo: usize,
    /// Where they are.
    pub tile: TileIndex,
    /// How many.
    pub depth: usize,
    /// What each is.
    pub element: MemRef,
}

/// A counting lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountingLock {
    /// Where it is.
    pub tile: TileIndex,
    /// Value at the start.
    pub initial: i64,
    /// What it counts.
    pub counts: String,
}

/// A transfer of a channel's chain.
#[derive(Clone, PartialEq, Debug)]
pub struct Descriptor {
    /// Elements it reads or writes.
    pub pool: PoolIndex,
    /// Which of them.
    pub element: usize,
    /// Where in it, in elements of its type.
    pub offset: i64,
    /// How much, in elements of its type.
    pub length: i64,
    /// In which order; empty for the order of memory.
    pub pattern: Pattern,
    /// Taken before.
    pub acquire: LockIndex,
    /// Given after.
    pub release: LockIndex,
}

/// Direction of a DMA channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From a stream to memory.
    In,
    /// From memory to a stream.
    Out,
}

/// A DMA channel in use.
#[derive(Clone, PartialEq, Debug)]
pub struct Channel {
    /// Where it is.
    pub tile: TileIndex,
    /// Which way.
    pub direction: Direction,
    /// FIFO it moves.
    pub fifo: usize,
    /// What it repeats for ever; empty at a shim, where the host gives tasks.
    pub chain: Vec<Descriptor>,
}

/// A stream from one channel to one or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// FIFO it carries.
    pub fifo: usize,
    /// Where it starts.
    pub source: ChannelIndex,
    /// Where it ends.
    pub destinations: Vec<ChannelIndex>,
}

/// How a core at one end of a FIFO uses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreEnd {
    /// The FIFO.
    pub fifo: usize,
    /// The core's tile.
    pub tile: TileIndex,
    /// Side.
    pub port: Port,
    /// Elements it turns over.
    pub pool: PoolIndex,
    /// Taken by acquiring.
    pub acquire: LockIndex,
    /// Given by releasing.
    pub release: LockIndex,
}

/// What a module takes of the array.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Allocation {
    /// Elements.
    pub pools: Vec<Pool>,
    /// Locks of FIFOs.
    pub locks: Vec<CountingLock>,
    /// DMA channels.
    pub channels: Vec<Channel>,
    /// Streams.
    pub streams: Vec<Stream>,
    /// Ends at cores.
    pub ends: Vec<CoreEnd>,
    /// FIFOs through memory that neighbours share.
    pub shared: Vec<usize>,
}

/// One end's buffers: a pool, its locks in pairs (free, full) and the part of each element that is this end's.
#[derive(Clone, Debug)]
struct Placed {
    pool: PoolIndex,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    offset: i64,
    length: i64,
    free: LockIndex,
    full: LockIndex,
}

impl Allocation {
    /// Allocates a module as the vendor's lowering would.
    pub fn of(module: &Module, array: &Array) -> Allocation {
        let mut allocation = Allocation::default();
        // Buffers of links stand in place of their FIFOs' own at the tile of the link.
        let mut at_link: Vec<(usize, Port, Placed)> = Vec::new();
        for link in &module.links {
            allocation.link(module, array, link, &mut at_link);
        }
        for (index, fifo) in module.fifos.iter().enumerate() {
            allocation.fifo(module, array, index, fifo, &at_link);
        }
        allocation
    }

    fn link(
        &mut self,
        module: &Module,
        array: &Array,
        link: &Link,
        at_link: &mut Vec<(usize, Port, Placed)>,
    ) {
        let (Some(&first_in), Some(&first_out)) = (link.inputs.first(), link.outputs.first())
        else {
            return;
        };
        let (inner, outer) = (&module.fifos[first_in], &module.fifos[first_out]);
        let tile = outer.producer;
        let join = link.inputs.len() > 1;
        let distribute = !join && link.outputs.len() > 1;
        let owned_by_input = if join {
            false
        } else {
            distribute || inner.element.elements() >= outer.element.elements()
        };
        let (owner, depth) = if owned_by_input {
            let consumer = inner.consumers.iter().position(|at| *at == tile);
            let depth = depth(module, array, first_in, consumer.map(|at| at + 1), tile);
            (first_in, depth)
        } else {
            (first_out, depth(module, array, first_out, Some(0), tile))
        };
        let element = module.fifos[owner].element.clone();
        let total = element.elements();
        let pool = self.pool(owner, tile, depth, element);
        let name = &module.fifos[owner].name;
        let offsets = if join {
            link.source_offsets.clone()
        } else if distribute {
            link.destination_offsets.clone()
        } else {
            vec![0]
        };
        let parts: Vec<Part> = offsets
            .iter()
            .enumerate()
            .map(|(part, &offset)| {
                let end = offsets.get(part + 1).copied().unwrap_or(total);
                let suffix = if offsets.len() > 1 {
                    format!(" part {part}")
                } else {
                    String::new()
                };
                let (free, full) = self.lock_pair(tile, depth, &format!("@{name}{suffix}"));
                Part {
                    offset,
                    length: end - offset,
                    free,
                    full,
                }
            })
            .collect();
        for (at, &input) in link.inputs.iter().enumerate() {
            let parts = match parts.get(at) {
                Some(part) if join => vec![*part],
                Some(_) | None => parts.clone(),
            };
            at_link.push((input, Port::Consume, Placed { pool, parts }));
        }
        for (at, &output) in link.outputs.iter().enumerate() {
            let parts = match parts.get(at) {
                Some(part) if distribute => vec![*part],
                Some(_) | None => parts.clone(),
            };
            at_link.push((output, Port::Produce, Placed { pool, parts }));
        }
    }

    fn fifo(
        &mut self,
        module: &Module,
        array: &Array,
        index: usize,
        fifo: &Fifo,
        at_link: &[(usize, Port, Placed)],
    ) {
        let linked = |port| {
            at_link
                .iter()
                .find(|(fifo, at, _)| *fifo == index && *at == port)
                .map(|(_, _, placed)| placed.clone())
        };
        if !needs_dma(module, array, index) {
            let consumer = fifo.consumers[0];
            // Whose memory both reach; the producer's where both would do.
            let tile = if reaches(module, array, consumer, fifo.producer) {
                fifo.producer
            } else {
                consumer
            };
            let depth = match &fifo.depth {
                Depth::Shared(depth) => *depth,
                Depth::Ends(ends) => ends[0],
            };
            let placed = self.placed(module, index, tile, depth.max(0) as usize);
            self.end(module, array, index, fifo.producer, Port::Produce, &placed);
            self.end(module, array, index, consumer, Port::Consume, &placed);
            self.shared.push(index);
            return;
        }
        let shim = |tile: TileIndex| TileKind::of(array, module.tiles[tile].row) == TileKind::Shim;
        let source_placed = if shim(fifo.producer) {
            None
        } else {
            let own = linked(Port::Produce);
            Some(own.unwrap_or_else(|| {
                let depth = depth(module, array, index, Some(0), fifo.producer);
                let placed = self.placed(module, index, fifo.producer, depth);
                self.end(module, array, index, fifo.producer, Port::Produce, &placed);
                placed
            }))
        };
        let source = self.channel(
            index,
            fifo.producer,
            Direction::Out,
            source_placed,
            &fifo.to_stream,
        );
        let mut destinations = Vec::new();
        for (at, &tile) in fifo.consumers.iter().enumerate() {
            let at_links_tile =
                linked(Port::Consume).filter(|placed| self.pools[placed.pool].tile == tile);
            let placed = if shim(tile) {
                None
            } else {
                Some(at_links_tile.unwrap_or_else(|| {
                    let depth = depth(module, array, index, Some(at + 1), tile);
                    let placed = self.placed(module, index, tile, depth);
                    self.end(module, array, index, tile, Port::Consume, &placed);
                    placed
                }))
            };
            destinations.push(self.channel(
                index,
                tile,
                Direction::In,
                placed,
                &fifo.from_stream[at],
            ));
        }
        self.streams.push(Stream {
            fifo: index,
            source,
            destinations,
        });
    }

    fn pool(&mut self, fifo: usize, tile: TileIndex, depth: usize, element: MemRef) -> PoolIndex {
        self.pools.push(Pool {
            fifo,
            tile,
            depth,
            element,
        });
        self.pools.len() - 1
    }

    fn lock_pair(&mut self, tile: TileIndex, depth: usize, name: &str) -> (LockIndex, LockIndex) {
        let free = self.locks.len();
        for (counts, initial) in [("free", depth as i64), ("full", 0)] {
            self.locks.push(CountingLock {
                tile,
                initial,
                counts: format!("{counts} elements of {name}"),
            });
        }
        (free, free + 1)
    }

    /// Elements of a FIFO's own.
    fn placed(&mut self, module: &Module, fifo: usize, tile: TileIndex, depth: usize) -> Placed {
        let element = module.fifos[fifo].element.clone();
        let length = element.elements();
        let (free, full) = self.lock_pair(tile, depth, &format!("@{}", module.fifos[fifo].name));
        let pool = self.pool(fifo, tile, depth, element);
        Placed {
            pool,
            parts: vec![Part {
                offset: 0,
                length,
                free,
                full,
            }],
        }
    }

    fn end(
        &mut self,
        module: &Module,
        array: &Array,
        fifo: usize,
        tile: TileIndex,
        port: Port,
        placed: &Placed,
    ) {
        if TileKind::of(array, module.tiles[tile].row) != TileKind::Core {
            return;
        }
        let part = placed.parts[0];
        let (acquire, release) = match port {
            Port::Produce => (part.free, part.full),
            Port::Consume => (part.full, part.free),
        };
        self.ends.push(CoreEnd {
            fifo,
            tile,
            port,
            pool: placed.pool,
            acquire,
            release,
        });
    }

    fn channel(
        &mut self,
        fifo: usize,
        tile: TileIndex,
        direction: Direction,
        placed: Option<Placed>,
        pattern: &Pattern,
    ) -> ChannelIndex {
        let mut chain = Vec::new();
        if let Some(placed) = placed {
            for element in 0..self.pools[placed.pool].depth {
                for part in &placed.parts {
                    let (acquire, release) = match direction {
                        Direction::In => (part.free, part.full),
                        Direction::Out => (part.full, part.free),
                    };
                    chain.push(Descriptor {
                        pool: placed.pool,
                        element,
                        offset: part.offset,
                        length: part.length,
                        pattern: pattern.clone(),
                        acquire,
                        release,
                    });
                }
            }
        }
        self.channels.push(Channel {
            tile,
            direction,
            fifo,
            chain,
        });
        self.channels.len() - 1
    }

    /// The end of a FIFO at this core and side.
    pub fn end_of(&self, fifo: usize, tile: TileIndex, port: Port) -> Option<usize> {
        self.ends
            .iter()
            .position(|end| end.fifo == fifo && end.tile == tile && end.port == port)
    }
}

/// Whether a FIFO goes through DMAs and a stream.
pub fn needs_dma(module: &Module, array: &Array, index: usize) -> bool {
    let fifo = &module.fifos[index];
    fifo.via_dma
        || fifo.consumers.len() != 1
        || !fifo.to_stream.0.is_empty()
        || fifo.from_stream.iter().any(|pattern| !pattern.0.is_empty())
        || module
            .links
            .iter()
            .any(|link| link.inputs.contains(&index) || link.outputs.contains(&index))
        || !(reaches(module, array, fifo.producer, fifo.consumers[0])
            || reaches(module, array, fifo.consumers[0], fifo.producer))
}

/// Whether the tile `from` reaches the memory of the tile `to`: a core its own and its neighbours' to the west, north and
/// south, a memory tile its own and its neighbours'.
pub fn reaches(module: &Module, array: &Array, from: TileIndex, to: TileIndex) -> bool {
    let (from, to) = (&module.tiles[from], &module.tiles[to]);
    let kind = TileKind::of(array, from.row);
    if kind != TileKind::of(array, to.row) {
        return false;
    }
    let (columns, rows) = (to.column - from.column, to.row - from.row);
    match kind {
        TileKind::Shim => false,
        TileKind::Memory => rows == 0 && columns.abs() <= 1,
        TileKind::Core => matches!((columns, rows), (0, -1..=1) | (-1, 0)),
    }
}

/// Elements of a FIFO at one end: end 0 is the producer's.
fn depth(
    module: &Module,
    array: &Array,
    index: usize,
    end: Option<usize>,
    tile: TileIndex,
) -> usize {
    let fifo = &module.fifos[index];
    let depth = match &fifo.depth {
        Depth::Ends(ends) => end.and_then(|end| ends.get(end)).copied().unwrap_or(0),
        Depth::Shared(depth) => {
            if TileKind::of(array, module.tiles[tile].row) != TileKind::Core {
                *depth
            } else {
                match most_acquired(module, index, tile) {
                    0 => *depth,
                    1 if *depth == 1 => 1,
                    most => most + 1,
                }
            }
        }
    };
    // What no memory holds is refused elsewhere; here it must only not exhaust ours.
    depth.clamp(0, 1024) as usize
}

/// The most elements of a FIFO that the core of a tile acquires at once.
pub fn most_acquired(module: &Module, index: usize, tile: TileIndex) -> i64 {
    let mut most = 0;
    for core in module.cores.iter().filter(|core| core.tile == tile) {
        core.body.block.walk(&mut |op| {
            if let OpKind::Acquire { fifo, count, .. } = op.kind
                && fifo == index
            {
                most = most.max(count);
            }
        });
    }
    most
}
