//! The order of a dispatch's transfers: column by column, round by round, a round being a panel or what begins a dispatch.

use super::QUEUE;
use super::streams::Streams;
use crate::aie::{Sequence, Transfer};

/// Descriptors of a shim for one direction.
const DESCRIPTORS: u32 = 8;

/// A walk over a buffer, in words of 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Walk {
    pub(crate) buffer: usize,
    pub(crate) offset_words: u64,
    pub(crate) walk: [(u64, u64); 4],
}

/// What a column moves together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Round {
    pub(crate) inputs: Vec<Walk>,
    pub(crate) outputs: Vec<Walk>,
}

impl Round {
    /// A panel's last transfers beside those of its last round, or in a round of their own where a queue is too short.
    pub(crate) fn with_outputs(mut rounds: Vec<Round>, outputs: Vec<Walk>) -> Vec<Round> {
        match rounds.last_mut() {
            Some(last) if last.outputs.len() + outputs.len() <= QUEUE => {
                last.outputs.extend(outputs);
            }
            _ => rounds.push(Round {
                inputs: Vec::new(),
                outputs,
            }),
        }
        rounds
    }
}

impl Walk {
    /// One run of words.
    pub(crate) fn run(buffer: usize, offset_words: u64, words: u64) -> Self {
        Self {
            buffer,
            offset_words,
            walk: [(1, 0), (1, 0), (1, 0), (words, 1)],
        }
    }

    /// A walk whose outermost dimension may be longer than a descriptor's, cut into such as fit.
    pub(crate) fn cut(self, most: u64) -> Vec<Self> {
        let (size, stride) = self.walk[0];
        (0..size.div_ceil(most))
            .map(|part| {
                let mut cut = self;
                cut.walk[0].0 = (size - part * most).min(most);
                cut.offset_words += part * most * stride;
                cut
            })
            .collect()
    }
}

/// Writes all columns' rounds: two rounds of a column are under way where its queues hold both.
pub(crate) fn write(sequence: &Sequence<'_, '_>, streams: &Streams, columns: &[Vec<Round>]) {
    let longest = columns
        .iter()
        .flatten()
        .map(|round| round.inputs.len().max(round.outputs.len()))
        .max()
        .unwrap_or(0);
    let under_way = if longest * 2 <= QUEUE { 2 } else { 1 };
    let rounds = columns.iter().map(Vec::len).max().unwrap_or(0);
    for at in 0..rounds + under_way {
        for (column, own) in streams.columns.iter().zip(columns) {
            if let Some(round) = at.checked_sub(under_way).and_then(|at| own.get(at)) {
                // Every transfer to DDR tells its end; of those from there, the last.
                if !round.inputs.is_empty() {
                    sequence.wait(&column.input.name);
                }
                for _ in &round.outputs {
                    sequence.wait(&column.output.name);
                }
            }
        }
        for (column, own) in streams.columns.iter().zip(columns) {
            let Some(round) = own.get(at) else { continue };
            let slot = (at % under_way) as u32 * DESCRIPTORS / under_way as u32;
            for (fifo, walks, first, all) in [
                (&column.input, &round.inputs, 0, false),
                (&column.output, &round.outputs, DESCRIPTORS, true),
            ] {
                for (index, walk) in walks.iter().enumerate() {
                    sequence.start(&Transfer {
                        buffer: walk.buffer,
                        fifo: fifo.name.clone(),
                        descriptor: first + slot + index as u32,
                        offset_words: walk.offset_words,
                        walk: walk.walk,
                        is_awaited: all || index + 1 == walks.len(),
                    });
                }
            }
        }
    }
}
