//! A plan's steps with every address resolved: what a call needs of them beside its rows.

use super::errors::unavailable;
use super::memory::{Buffer, Heap, PAGE_BYTES};
use crate::drivers::DriverError;
use gembin_bundle::gpu::{CALL_HEADER_WORDS, CALL_ROW_WORDS, Resource};
use gembin_bundle::manifest::{Manifest, Plan, RowSet, Work};
use gembin_bundle::npu::{DesignIdx, NpuStep, StreamIdx};

/// The buffers that steps work on.
pub(super) struct Bound<'a> {
    pub(super) arena: &'a Buffer,
    pub(super) weights: Option<&'a Buffer>,
    pub(super) call: &'a Buffer,
}

/// A step's stream for some number of rows.
pub(super) struct Run {
    /// Most rows.
    pub(super) rows: u32,
    /// Index of the context, in the order of the plan's designs.
    pub(super) context: usize,
    /// Where the stream lies.
    pub(super) stream: u64,
    /// Its length.
    pub(super) words: u32,
}

/// A step.
pub(super) struct Prepared {
    pub(super) rows: RowSet,
    pub(super) runs: Vec<Run>,
    /// Addresses of its buffers.
    pub(super) buffers: Vec<u64>,
    /// Every buffer object it touches.
    pub(super) uses: Vec<u32>,
}

/// Streams of a plan, in one piece of the heap.
pub(super) struct Streams {
    buffer: Buffer,
    /// First byte of each stream of the manifest's table that the plan uses.
    places: Vec<(StreamIdx, u64)>,
}

impl Streams {
    /// Stores every stream that the plan uses.
    pub(super) fn new(heap: &Heap, manifest: &Manifest, plan: &Plan) -> Result<Self, DriverError> {
        let mut used: Vec<StreamIdx> = steps(plan)
            .flat_map(|step| &step.streams)
            .map(|choice| choice.stream)
            .collect();
        used.sort_unstable();
        used.dedup();
        let mut places = Vec::with_capacity(used.len());
        let mut bytes = Vec::with_capacity(used.len());
        let mut end = 0u64;
        for stream in used {
            let words = &manifest.npu.streams[stream as usize].words;
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            places.push((stream, end));
            // Whole pages: what firmware asks of a stream's start is told nowhere, and pages meet any wish.
            let next = (end + data.len() as u64).next_multiple_of(PAGE_BYTES);
            bytes.push((end, data));
            end = next;
        }
        let parts: Vec<(u64, &[u8])> = bytes
            .iter()
            .map(|(at, data)| (*at, data.as_slice()))
            .collect();
        let buffer = heap.store(&parts, "instruction streams")?;
        Ok(Self { buffer, places })
    }

    fn address(&self, stream: StreamIdx) -> u64 {
        let place = self
            .places
            .binary_search_by_key(&stream, |&(stream, _)| stream)
            .expect("every stream of the plan was stored");
        self.buffer.address() + self.places[place].1
    }
}

fn steps(plan: &Plan) -> impl Iterator<Item = &NpuStep> {
    plan.programs
        .iter()
        .flat_map(|program| &program.steps)
        .filter_map(|step| match &step.work {
            Work::Npu(work) => Some(work),
            Work::Cpu(_) | Work::Gpu(_) => None,
        })
}

/// Bytes of the call's words for so many rows.
pub(super) fn call_bytes(rows: u32) -> u64 {
    4 * (CALL_HEADER_WORDS + u64::from(rows) * CALL_ROW_WORDS)
}

/// Resolves every step of the plan: one list a program. Steps of other devices are refused.
pub(super) fn prepare(
    manifest: &Manifest,
    plan: &Plan,
    designs: &[DesignIdx],
    streams: &Streams,
    bound: &Bound<'_>,
) -> Result<Vec<Vec<Prepared>>, DriverError> {
    plan.programs
        .iter()
        .map(|program| {
            program
                .steps
                .iter()
                .map(|step| match &step.work {
                    Work::Npu(work) => step_of(manifest, work, designs, streams, bound),
                    Work::Cpu(_) | Work::Gpu(_) => Err(unavailable(format!(
                        "step {:?} of program {:?} is another device's, which the NPU cannot take turns with",
                        step.label, program.name
                    ))),
                })
                .collect()
        })
        .collect()
}

fn step_of(
    manifest: &Manifest,
    step: &NpuStep,
    designs: &[DesignIdx],
    streams: &Streams,
    bound: &Bound<'_>,
) -> Result<Prepared, DriverError> {
    let runs = step
        .streams
        .iter()
        .map(|choice| {
            let stream = &manifest.npu.streams[choice.stream as usize];
            let context = designs
                .binary_search(&stream.design)
                .expect("the plan's designs are those of its streams");
            Run {
                rows: choice.rows,
                context,
                stream: streams.address(choice.stream),
                words: stream.words.len() as u32,
            }
        })
        .collect();
    let mut uses = vec![streams.buffer.handle()];
    let mut buffers = Vec::with_capacity(step.buffers.len());
    for resource in &step.buffers {
        let (buffer, offset) = place(manifest, *resource, bound)?;
        if !uses.contains(&buffer.handle()) {
            uses.push(buffer.handle());
        }
        buffers.push(buffer.address() + offset);
    }
    Ok(Prepared {
        rows: step.rows,
        runs,
        buffers,
        uses,
    })
}

/// Which buffer holds a resource, and from which byte on.
fn place<'a>(
    manifest: &Manifest,
    resource: Resource,
    bound: &Bound<'a>,
) -> Result<(&'a Buffer, u64), DriverError> {
    let weights = || {
        bound
            .weights
            .ok_or_else(|| unavailable("the bundle's section of weights is empty"))
    };
    Ok(match resource {
        Resource::Value(buffer) => (bound.arena, buffer.offset),
        Resource::Data { weight, piece, .. } => {
            let plane = manifest.weights[weight as usize].data;
            (weights()?, plane.offset + piece.offset)
        }
        Resource::Scales { weight, piece, .. } => {
            let plane = manifest.weights[weight as usize].scales;
            (weights()?, plane.offset + piece.offset)
        }
        Resource::Keys(cache) => (bound.arena, manifest.arena.caches[cache as usize].offset),
        Resource::Values(cache) => {
            let cache = &manifest.arena.caches[cache as usize];
            (bound.arena, cache.offset + cache.bytes / 2)
        }
        Resource::Call => (bound.call, 0),
    })
}
