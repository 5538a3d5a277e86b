//! Which column does what, and the order of transfers with DDR.

use super::streams::{Column, Streams};
use super::{Attention, PANEL, Shape, pack};
use crate::aie::{Fifo, Sequence, Transfer};
use crate::array::Array;
use std::collections::VecDeque;

/// The sequence's buffers.
const QUERIES: usize = 0;
const CACHE: usize = 1;
const PARAMETERS: usize = 2;
const RESULTS: usize = 3;

/// Most words of an innermost run: a shim's descriptor counts fewer than 1024 where it has more dimensions.
const MOST_RUN_WORDS: u64 = 1023;
/// Most steps of a descriptor's outermost dimension.
const MOST_STEPS: u32 = 64;

/// What a column does at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// Its column.
    pub(super) column: u32,
    /// First of its query heads.
    pub(super) head: u32,
    /// First of its panels of tokens.
    pub(super) panel: u32,
    /// First block of the cache that any of its queries may see.
    pub(super) first_block: u32,
    /// Blocks that they may see.
    pub(super) blocks: u32,
}

impl Attention {
    /// All items of a shape, those of a column in its order. Columns are dealt items in turn, there and back: later
    /// tokens see more.
    pub(super) fn items(&self, array: &Array, shape: Shape) -> Vec<Item> {
        let panels = shape.tokens.div_ceil(PANEL);
        let positions = self.tile.positions;
        let first = shape.context.saturating_sub(shape.tokens);
        let least = first.saturating_sub(shape.slack);
        let mut items: Vec<Item> = Vec::new();
        for panel in (0..panels).step_by(self.panels_of_item(array).max(1) as usize) {
            let here = (panels - panel).min(self.panels_of_item(array));
            let window = shape.window.unwrap_or(u32::MAX);
            let from = (least + panel * PANEL).saturating_sub(window - 1) / positions;
            let to = (first + ((panel + here) * PANEL).min(shape.tokens)).div_ceil(positions);
            for head in (0..self.query_heads).step_by(self.heads_of_core() as usize) {
                let number = items.len() as u32;
                let (round, place) = (number / array.columns, number % array.columns);
                items.push(Item {
                    column: if round.is_multiple_of(2) {
                        place
                    } else {
                        array.columns - 1 - place
                    },
                    head,
                    panel,
                    first_block: from,
                    blocks: to - from,
                });
            }
        }
        items
    }
}

/// A shape's transfers.
pub(super) struct Schedule<'d> {
    pub(super) design: &'d Attention,
    pub(super) array: &'d Array,
    pub(super) shape: Shape,
    pub(super) streams: &'d Streams,
}

/// Transfers of one FIFO under way, and the descriptors that they take in turn.
struct UnderWay<'d> {
    fifo: &'d Fifo,
    buffer: usize,
    first_descriptor: u32,
    most: u32,
    descriptors: VecDeque<u32>,
    started: u32,
}

impl<'d> UnderWay<'d> {
    fn new(fifo: &'d Fifo, buffer: usize, first_descriptor: u32, most: u32) -> Self {
        Self {
            fifo,
            buffer,
            first_descriptor,
            most,
            descriptors: VecDeque::new(),
            started: 0,
        }
    }

    /// Starts a transfer, when another may be under way.
    fn start(&mut self, sequence: &Sequence<'_, '_>, offset_words: u64, walk: [(u64, u64); 4]) {
        self.start_of(sequence, self.buffer, offset_words, walk);
    }

    fn start_of(
        &mut self,
        sequence: &Sequence<'_, '_>,
        buffer: usize,
        offset_words: u64,
        walk: [(u64, u64); 4],
    ) {
        if self.descriptors.len() as u32 == self.most {
            self.wait(sequence);
        }
        let descriptor = self.first_descriptor + self.started % self.most;
        self.started += 1;
        sequence.start(&Transfer {
            buffer,
            fifo: self.fifo.name.clone(),
            descriptor,
            offset_words,
            walk,
            is_awaited: true,
        });
        self.descriptors.push_back(descriptor);
    }

    fn wait(&mut self, sequence: &Sequence<'_, '_>) {
        if self.descriptors.pop_front().is_some() {
            sequence.wait(&self.fifo.name);
        }
    }

    fn finish(mut self, sequence: &Sequence<'_, '_>) {
        while !self.descriptors.is_empty() {
            self.wait(sequence);
        }
    }
}

/// What is under way in a column. A channel's queue holds four transfers.
struct ColumnUnderWay<'d> {
    queries: UnderWay<'d>,
    cache: UnderWay<'d>,
    results: UnderWay<'d>,
}

impl<'d> ColumnUnderWay<'d> {
    fn new(column: &'d Column) -> Self {
        Self {
            queries: UnderWay::new(&column.queries.0, QUERIES, 0, 4),
            cache: UnderWay::new(&column.cache.0, CACHE, 4, 4),
            results: UnderWay::new(&column.results.1, RESULTS, 8, 4),
        }
    }
}

impl Schedule<'_> {
    pub(super) fn write(&self, sequence: &Sequence<'_, '_>) {
        let columns = &self.streams.columns;
        let mut under_way: Vec<_> = columns.iter().map(ColumnUnderWay::new).collect();
        let items = self.design.items(self.array, self.shape);
        let numbered: Vec<(u64, Item)> = (0..).zip(items).collect();
        for round in numbered.chunks(columns.len().max(1)) {
            // Waiting for results of one column must not keep the others from reading ahead.
            for &(number, item) in round {
                let column = &mut under_way[item.column as usize];
                self.queries(sequence, &mut column.queries, item);
                self.cache(sequence, &mut column.cache, number, item);
            }
            for &(_, item) in round {
                self.results(sequence, &mut under_way[item.column as usize].results, item);
            }
        }
        for column in under_way {
            column.queries.finish(sequence);
            column.cache.finish(sequence);
            column.results.finish(sequence);
        }
    }

    /// Words of a panel of all query heads.
    fn panel_words(&self) -> u64 {
        u64::from(self.design.query_heads) * self.unit_words()
    }

    fn unit_words(&self) -> u64 {
        u64::from(self.design.unit() / 2)
    }

    /// Where an item's first unit is.
    fn first_word(&self, item: Item) -> u64 {
        u64::from(item.panel) * self.panel_words() + u64::from(item.head) * self.unit_words()
    }

    /// Tiles of queries of the column's cores.
    fn queries(&self, sequence: &Sequence<'_, '_>, fifo: &mut UnderWay, item: Item) {
        let heads = u64::from(self.design.heads_of_core()) * self.unit_words();
        let panels = u64::from(self.design.panels_of_item(self.array));
        let (runs, run) = runs(heads);
        fifo.start(
            sequence,
            self.first_word(item),
            [(1, 0), (panels, self.panel_words()), (runs, run), (run, 1)],
        );
    }

    /// The header, then keys and values.
    fn cache(&self, sequence: &Sequence<'_, '_>, fifo: &mut UnderWay, number: u64, item: Item) {
        let block = u64::from(self.design.block() / 2);
        let header = u64::from(pack::HEADER_BYTES / 4);
        fifo.start_of(
            sequence,
            PARAMETERS,
            number * header,
            [(block / header, 0), (1, 0), (1, 0), (header, 1)],
        );
        let capacity = u64::from(self.shape.capacity);
        let values = capacity * u64::from(self.design.head_dim / 2);
        let kv_head = u64::from(item.head / self.design.group());
        let (runs, run) = runs(block);
        for from in (0..item.blocks).step_by(MOST_STEPS as usize) {
            let blocks = (item.blocks - from).min(MOST_STEPS);
            let offset = kv_head * 2 * values + u64::from(item.first_block + from) * block;
            fifo.start(
                sequence,
                offset,
                [
                    (u64::from(blocks), block),
                    (2, values),
                    (runs, run),
                    (run, 1),
                ],
            );
        }
    }

    /// Units of results: of each panel and head of a tile, those of the four cores.
    fn results(&self, sequence: &Sequence<'_, '_>, fifo: &mut UnderWay, item: Item) {
        let rows = u64::from(self.array.core_rows);
        let heads = u64::from(self.design.heads_of_core());
        let panels = u64::from(self.design.panels_of_core());
        let unit = self.unit_words();
        let row = panels * self.panel_words();
        let (runs, run) = runs(unit);
        let first = self.first_word(item);
        if runs == 1 {
            let panel = (panels, self.panel_words());
            fifo.start(
                sequence,
                first,
                [panel, (heads, unit), (rows, row), (run, 1)],
            );
        } else {
            for panel in 0..panels {
                let first = first + panel * self.panel_words();
                let walk = [(heads, unit), (rows, row), (runs, run), (run, 1)];
                fifo.start(sequence, first, walk);
            }
        }
    }
}

/// So many words as equal runs that a descriptor counts, as few as can be: how many, and how long.
fn runs(words: u64) -> (u64, u64) {
    (1..=words)
        .map(|count| (count, words / count))
        .find(|(count, run)| count * run == words && *run <= MOST_RUN_WORDS)
        .unwrap_or((words, 1))
}
