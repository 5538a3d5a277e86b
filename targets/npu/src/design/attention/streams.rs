//! The FIFOs of attention, and where they run on the array: each column by itself, from its shim through its memory tile
//! to its four cores and back.

use super::program::{Memory, Program};
use super::{Attention, CACHE_DEPTH, CACHE_MEMORY_DEPTH, MEMORY_DEPTH, PANEL, STACK_BYTES};
use crate::aie::{self, Element, Fifo, Step};
use crate::array::Array;

/// The design's FIFOs, a column each.
pub(super) struct Streams {
    pub(super) columns: Vec<Column>,
}

/// The FIFOs of a column.
pub(super) struct Column {
    /// Keys and values: from DDR, and to all cores.
    pub(super) cache: (Fifo, Fifo),
    /// Tiles of queries: of all cores, and of each.
    pub(super) queries: (Fifo, Vec<Fifo>),
    /// Units of results: of each core, and joined.
    pub(super) results: (Vec<Fifo>, Fifo),
}

impl Streams {
    pub(super) fn new(design: &Attention, array: &Array) -> Self {
        let fifo = |name: String, elements: u32, depth: u32| Fifo {
            name,
            element: Element::Bf16,
            elements,
            depth,
            to_stream: Vec::new(),
        };
        let rows = array.core_rows;
        let tile = design.tile.queries * design.head_dim;
        let columns = (0..array.columns)
            .map(|column| Column {
                cache: (
                    fifo(
                        format!("cache_{column}"),
                        design.block(),
                        CACHE_MEMORY_DEPTH,
                    ),
                    Fifo {
                        to_stream: blocks_of_cache(design),
                        ..fifo(
                            format!("cache_{column}_cores"),
                            design.cache_element(),
                            CACHE_DEPTH,
                        )
                    },
                ),
                queries: (
                    fifo(format!("queries_{column}"), tile * rows, MEMORY_DEPTH),
                    (0..rows)
                        .map(|row| Fifo {
                            to_stream: blocks_of_queries(design),
                            // A core keeps it while it works: there is no room for the next.
                            ..fifo(format!("queries_{column}_{row}"), tile, 1)
                        })
                        .collect(),
                ),
                results: (
                    (0..rows)
                        .map(|row| Fifo {
                            to_stream: features_in_order(design),
                            ..fifo(format!("results_{column}_{row}"), design.unit(), 1)
                        })
                        .collect(),
                    fifo(
                        format!("results_{column}"),
                        design.unit() * rows,
                        MEMORY_DEPTH,
                    ),
                ),
            })
            .collect();
        Self { columns }
    }

    /// Tiles, FIFOs, links and cores.
    pub(super) fn place<'c, 'b>(
        &self,
        design: &Attention,
        array: &Array,
        device: &aie::Device<'c, 'b>,
    ) {
        for (index, column) in (0..).zip(&self.columns) {
            let shim = device.tile(index, 0);
            let memory = device.tile(index, 1);
            let cores: Vec<_> = (0..array.core_rows)
                .map(|row| device.tile(index, array.first_core_row + row))
                .collect();
            let (from_ddr, to_cores) = &column.cache;
            device.fifo(from_ddr, shim, &[memory]);
            device.fifo(to_cores, memory, &cores);
            device.forward(from_ddr, to_cores);
            let (from_ddr, parts) = &column.queries;
            device.fifo(from_ddr, shim, &[memory]);
            for (part, &core) in parts.iter().zip(&cores) {
                device.fifo(part, memory, &[core]);
            }
            device.distribute(from_ddr, &parts.iter().collect::<Vec<_>>());
            let (parts, joined) = &column.results;
            for (part, &core) in parts.iter().zip(&cores) {
                device.fifo(part, core, &[memory]);
            }
            device.fifo(joined, memory, &[shim]);
            device.join(&parts.iter().collect::<Vec<_>>(), joined);
            for (row, &tile) in (0..).zip(&cores) {
                let buffer = |name: &str, element: Element, bytes: u32| {
                    let name = format!("{name}_{index}_{row}");
                    device.buffer(tile, &name, bytes / element.bytes(), element)
                };
                let room = design.core_memory();
                let memory = Memory {
                    sums: buffer("sums", Element::F32, room.sums),
                    scores: buffer("scores", Element::F32, room.scores),
                    weights: buffer("weights", Element::Bf16, room.weights),
                    anchors: buffer("anchors", Element::F32, room.anchors),
                };
                let program = Program {
                    design,
                    row,
                    queries: &column.queries.1[row as usize],
                    cache: &column.cache.1,
                    results: &column.results.0[row as usize],
                };
                device.core(tile, STACK_BYTES, |body| program.write(body, &memory));
            }
        }
    }
}

/// `[positions][head dim]` to `[head dim/8][positions][8]`. Values, `[positions/8][head dim][8]`, go the same way: to
/// `[head dim/8][positions/8][8 features, head dim/8 apart][8]`.
fn blocks_of_cache(design: &Attention) -> Vec<Step> {
    steps(&[
        (design.head_dim / 8, 8),
        (design.tile.positions, design.head_dim),
        (8, 1),
    ])
}

/// `[units][head dim][8]` to `[units][head dim/8][2][8][4]`.
fn blocks_of_queries(design: &Attention) -> Vec<Step> {
    let eights = design.units() * design.head_dim / 8;
    steps(&[(eights, 64), (2, 4), (8, PANEL), (4, 1)])
}

/// `[head dim/8][2][8 features, head dim/8 apart][4]` to `[head dim][8]`.
fn features_in_order(design: &Attention) -> Vec<Step> {
    steps(&[(8, 4), (design.head_dim / 4, 32), (4, 1)])
}

fn steps(walk: &[(u32, u32)]) -> Vec<Step> {
    walk.iter()
        .map(|&(size, stride)| Step { size, stride })
        .collect()
}
