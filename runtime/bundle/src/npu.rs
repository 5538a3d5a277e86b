//! Steps of the NPU's driver: runs of instruction streams, on a configured array, over spans of the arena, weights and
//! caches.
//!
//! A [`Design`] configures the array, which takes milliseconds: a plan has few of them, and each keeps columns of the
//! array as long as the plan is loaded. An [`InstructionStream`] moves data through a configured array, and is cheap to
//! change: shapes differ in streams, not in designs.
//!
//! Interface of every stream: up to five buffers, in the order of [`NpuStep::buffers`]; the stream adds to their
//! addresses. What varies from call to call is in [`Resource::Call`], as [`crate::gpu`] has it. Words of rows that a call
//! lacks are zero there. A stream for more rows than the call has works on the rest, too: on whatever lies there, row 0 of
//! slot 0 included; that this does no harm, in caches above all, is the compiler's concern.
//!
//! Steps run in order, each after the one before it is done.
//!
//! The bounds proof is the one of [`crate::gpu`]: a stream's author states in [`InstructionStream::arguments`] how many
//! bytes of each buffer it touches, the check proves that every step binds at least that. The array itself knows no
//! bounds: it reaches what the process can reach. A bundle's streams and configurations are trusted as its compiler is.

use crate::gpu::{Access, Resource};
use crate::manifest::{Manifest, Plan, RowSet, Work};
use serde::{Deserialize, Serialize};

/// Index into [`Npu::designs`].
pub type DesignIdx = u32;
/// Index into [`Npu::streams`].
pub type StreamIdx = u32;

/// Most buffers of a stream: a kernel is told of further ones in another way.
pub const MAX_ARGUMENTS: usize = 5;
/// Most designs of a plan: as many as there are hardware contexts.
pub const MAX_DESIGNS: usize = 6;
/// Unit in which the array's DMAs move data.
pub const WORD_BYTES: u64 = 4;

/// Everything that the NPU's steps of all plans share.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Npu {
    /// Configurations of the array.
    pub designs: Vec<Design>,
    /// Instruction streams.
    pub streams: Vec<InstructionStream>,
}

/// A generation of NPUs. Code for one does not run on another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Generation {
    /// XDNA1: Phoenix, Hawk Point.
    Npu1,
    /// XDNA2: Strix, Strix Halo, Krackan.
    Npu2,
}

impl Generation {
    /// Columns that a program can use.
    pub fn columns(self) -> u32 {
        match self {
            Generation::Npu1 => 4,
            Generation::Npu2 => 8,
        }
    }

    /// The name in bundles and tools.
    pub fn name(self) -> &'static str {
        match self {
            Generation::Npu1 => "npu1",
            Generation::Npu2 => "npu2",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Generation::Npu1 => "XDNA1 (npu1)",
            Generation::Npu2 => "XDNA2 (npu2)",
        }
    }
}

/// A configuration of the array: routes, descriptors, programs of the cores.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Design {
    /// What it is: `gemm i8 4x4`. Unique.
    pub name: String,
    /// What it was made for.
    pub generation: Generation,
    /// Columns it takes.
    pub columns: u32,
    /// What the vendor's compiler made of it, if it was there.
    pub code: Code,
}

/// A design as far as it was built.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Code {
    /// The image that configures the array.
    Pdi(Vec<u8>),
    /// There was no compiler for it: nothing that a device could run.
    NotBuilt {
        /// What that compiler would have been given, the streams included.
        mlir: String,
    },
}

/// What moves data through a configured array.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InstructionStream {
    /// What it is, with the shapes it was made for: `gemm i8 256x1152x6912`. Unique.
    pub name: String,
    /// The configuration it is for.
    pub design: DesignIdx,
    /// What it touches, in the order of its buffers.
    pub arguments: Vec<ArgumentNeed>,
    /// Its words; none if the design was not built.
    pub words: Vec<u32>,
}

/// What a stream does with a buffer, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArgumentNeed {
    /// Read or written.
    pub access: Access,
    /// Bytes it touches, from the buffer's start on.
    pub bytes: u64,
}

/// One run of a stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NpuStep {
    /// The rows that the work grows with; where a call has none of them, the step is left out.
    pub rows: RowSet,
    /// Streams for ever more rows, the last for as many as there can be; the first that is for enough of them runs.
    pub streams: Vec<RowsStream>,
    /// What they work on.
    pub buffers: Vec<Resource>,
}

/// A stream, and how many rows it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowsStream {
    /// Most rows.
    pub rows: u32,
    /// The stream.
    pub stream: StreamIdx,
}

impl NpuStep {
    /// The stream for so many rows; `None` where there are more than the step is for.
    pub fn stream_for(&self, rows: u32) -> Option<StreamIdx> {
        self.streams
            .iter()
            .find(|choice| choice.rows >= rows)
            .map(|choice| choice.stream)
    }
}

/// Designs that steps of a plan run on, by index, each once.
pub fn designs_of(manifest: &Manifest, plan: &Plan) -> Vec<DesignIdx> {
    let mut designs: Vec<DesignIdx> = plan
        .programs
        .iter()
        .flat_map(|program| &program.steps)
        .filter_map(|step| match &step.work {
            Work::Npu(work) => Some(work),
            Work::Cpu(_) | Work::Gpu(_) => None,
        })
        .flat_map(|work| &work.streams)
        .filter_map(|choice| manifest.npu.streams.get(choice.stream as usize))
        .map(|stream| stream.design)
        .collect();
    designs.sort_unstable();
    designs.dedup();
    designs
}

/// Names of the plan's designs that were not built.
pub fn not_built<'a>(manifest: &'a Manifest, plan: &Plan) -> Vec<&'a str> {
    designs_of(manifest, plan)
        .into_iter()
        .filter_map(|design| manifest.npu.designs.get(design as usize))
        .filter(|design| matches!(design.code, Code::NotBuilt { .. }))
        .map(|design| design.name.as_str())
        .collect()
}
