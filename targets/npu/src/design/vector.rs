//! One configuration for what works along a token's features: norms and quantization before a product, the gate after
//! one, rotation of heads.
//!
//! The host's buffers hold panels of 8 tokens. A **column** of the array takes one panel at a time; each element that its
//! shim moves is shared out to the column's four cores by its memory tile, and what they make is joined there again:
//!
//! | stream of a column | element |
//! |---|---|
//! | `vector_in_C` | 4 parts of `16 * chunk` bytes, one a core: `chunk` features of bfloat16 or half as many of f32 |
//! | `vector_out_C` | 4 parts of `8 * chunk` bytes: `chunk` features of int8, half as many of bfloat16 or a quarter of f32 |
//!
//! Norms and the scale of a quantized token need sums and maxima over all features: the four cores pass theirs up and
//! the total down, through memory that neighbours share. Between its passes over a panel a core keeps its features,
//! rounded to bfloat16, so that nothing is read twice where they fit.
//!
//! Each dispatch begins with a table: a header for each core (`header`) and what the cores keep for all panels, such as the
//! norms' weights. Numbers of everything come from there, so a program for one shape is the program for all; what a
//! dispatch does not want, it wants 0 times.

pub(crate) mod arithmetic;
pub(crate) mod header;
pub(crate) mod program;
mod quantize;
pub(crate) mod schedule;
pub(crate) mod streams;
#[cfg(test)]
mod tests;

use super::gelu::Gelu;
use super::linear::PANEL;
use super::prepare::Prepare;
use super::rope::{self, Rope};
use crate::aie::{self, DialectVersion, EmitError};
use crate::array::Array;
use streams::Streams;
use thiserror::Error;

/// Why work has no configuration.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VectorError {
    /// No chunk suits the shapes and a core's memory.
    #[error(
        "{work} does not fit a core of {array}: passes of a product are more than 64 features, a quarter of a normed panel must fit a core's memory"
    )]
    NoDesign {
        /// The work.
        work: String,
        /// The array.
        array: String,
    },
    /// The module was refused.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

/// Stack of a core.
const STACK_BYTES: u32 = 2048;
/// Elements at each end of a FIFO.
const DEPTH: u32 = 2;
/// Most descriptors of a shim's queue for one direction that two rounds of transfers take together.
pub(super) const QUEUE: usize = 4;
/// What the configuration is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vector {
    /// Features that a core takes at a time.
    pub chunk: u32,
    /// Most features of a panel that can be normed.
    pub most_normed: u32,
    /// Most features that a core keeps between passes over a panel.
    pub kept: u32,
    /// Largest head.
    pub most_head: u32,
    /// Which programs the cores have.
    pub programs: Programs,
}

/// Programs that share a configuration.
///
/// Together they are estimated to fill a core's program memory nearly; products of f32, of which the estimate counts each
/// as one instruction and the vendor's lowering makes some twenty, may be too much then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Programs {
    /// Everything.
    All,
    /// Prologues and gates.
    Panels,
    /// Rotation.
    Rope,
}

impl Programs {
    fn has(self, work: &Work) -> bool {
        match (self, work) {
            (Programs::All, _) | (Programs::Rope, Work::Rope(_)) => true,
            (Programs::Panels, Work::Prepare(_) | Work::Gelu(_)) => true,
            (Programs::Panels, Work::Rope(_)) => false,
            (Programs::Rope, Work::Prepare(_) | Work::Gelu(_)) => false,
        }
    }
}

/// One dispatch's work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    /// Prologue of a product.
    Prepare(Prepare),
    /// Gate of a feed-forward network.
    Gelu(Gelu),
    /// Rotation, and what attention reads.
    Rope(Rope),
}

impl Work {
    /// The name of its sequence.
    pub fn name(&self) -> String {
        match self {
            Work::Prepare(work) => work.name(),
            Work::Gelu(work) => work.name(),
            Work::Rope(work) => work.name(),
        }
    }

    /// Whether a configuration can do it.
    pub fn is_done_by(&self, design: &Vector, array: &Array) -> bool {
        design.programs.has(self)
            && match self {
                Work::Prepare(work) => work.is_done_by(design, array),
                Work::Gelu(work) => work.is_done_by(design, array),
                Work::Rope(work) => work.is_done_by(design, array),
            }
    }

    /// What it is predicted to take.
    pub fn predict(&self, design: &Vector, array: &Array) -> Prediction {
        match self {
            Work::Prepare(work) => work.predict(design, array),
            Work::Gelu(work) => work.predict(design, array),
            Work::Rope(work) => work.predict(design, array),
        }
    }

    /// Bytes of its buffers.
    pub fn buffer_bytes(&self, design: &Vector, array: &Array) -> Vec<u64> {
        match self {
            Work::Prepare(work) => work.buffer_bytes(design, array),
            Work::Gelu(work) => work.buffer_bytes(design, array),
            Work::Rope(work) => work.buffer_bytes(design, array),
        }
    }
}

/// What a dispatch is predicted to take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Of the busiest core.
    pub compute_s: f64,
    /// Of the busiest column's way through its shim.
    pub stream_s: f64,
    /// Of all columns' traffic with DDR.
    pub memory_s: f64,
    /// Bytes read and written in DDR.
    pub ddr_bytes: f64,
}

impl Prediction {
    /// Time without the dispatch.
    pub fn seconds(&self) -> f64 {
        self.compute_s.max(self.stream_s).max(self.memory_s)
    }

    /// What so many panels take, each with these costs; a column reads the table once.
    pub(crate) fn of_panels(array: &Array, panels: u32, table: f64, each: PanelCosts) -> Self {
        let rounds = f64::from(panels.div_ceil(array.columns));
        let busy_columns = f64::from(panels.min(array.columns));
        let channel = array
            .rates
            .shim_channel_bytes_per_s
            .min(f64::from(array.rates.core_stream_bytes_per_cycle) * array.clock_hz);
        let read = f64::from(panels) * each.read + busy_columns * table;
        let written = f64::from(panels) * each.written;
        Self {
            compute_s: rounds * each.cycles / array.clock_hz,
            stream_s: (rounds * each.read + table).max(rounds * each.written) / channel,
            memory_s: read.max(written) / array.rates.ddr_bytes_per_s_in_gemm,
            ddr_bytes: read + written,
        }
    }
}

/// What a panel costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct PanelCosts {
    /// Bytes from DDR.
    pub(crate) read: f64,
    /// Bytes to DDR.
    pub(crate) written: f64,
    /// Cycles of every core of its column.
    pub(crate) cycles: f64,
}

/// Where a core's memory goes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreMemory {
    /// Elements of the streams.
    pub streams: u32,
    /// Features kept between passes.
    pub kept: u32,
    /// What comes once a dispatch or once a panel: weights of norms, angles.
    pub tables: u32,
    /// Everything small, and room to change lanes.
    pub small: u32,
    /// Stack.
    pub stack: u32,
}

impl CoreMemory {
    /// All of it.
    pub fn bytes(&self) -> u32 {
        self.streams + self.kept + self.tables + self.small + self.stack
    }
}

impl Vector {
    /// The configuration for all of these: the largest chunk that suits them, and as much kept as there is room for.
    ///
    /// # Errors
    /// When there is none; the error names the first that does not fit.
    pub fn for_works(
        array: &Array,
        programs: Programs,
        works: &[Work],
    ) -> Result<Self, VectorError> {
        let works = || works.iter().filter(|work| programs.has(work));
        let mut refused = String::new();
        for chunk in [128, 64, 32, 16] {
            let most = |of: fn(&Work) -> u32| works().map(of).max().unwrap_or(0).max(chunk);
            let mut design = Self {
                chunk,
                most_normed: most(|work| match work {
                    Work::Prepare(work) => work.features,
                    Work::Gelu(_) | Work::Rope(_) => 0,
                }),
                kept: 0,
                most_head: most(|work| match work {
                    Work::Rope(work) => work.head,
                    Work::Prepare(_) | Work::Gelu(_) => 0,
                }),
                programs,
            };
            let widest = most(|work| match work {
                Work::Prepare(work) => work.features,
                Work::Gelu(work) => work.width,
                Work::Rope(_) => 0,
            });
            design.kept = widest.div_ceil(design.block(array)) * chunk;
            while design.kept > chunk && !design.fits(array) {
                design.kept -= chunk;
            }
            if !design.fits(array) {
                refused = "the configuration".to_owned();
                continue;
            }
            match works().find(|work| !work.is_done_by(&design, array)) {
                None => return Ok(design),
                Some(work) => refused = work.name(),
            }
        }
        Err(VectorError::NoDesign {
            work: refused,
            array: array.name.clone(),
        })
    }

    /// Bytes of a core's part of an element that comes in.
    pub fn in_bytes(&self) -> u32 {
        self.chunk * PANEL * 2
    }

    /// Bytes of a core's part of an element that goes out.
    pub fn out_bytes(&self) -> u32 {
        self.chunk * PANEL
    }

    /// Features of a column's element.
    pub fn block(&self, array: &Array) -> u32 {
        self.chunk * array.core_rows
    }

    /// Floats of one norm's weights that a core keeps.
    pub(crate) fn weights(&self, array: &Array) -> u32 {
        self.most_normed.div_ceil(self.block(array)) * self.chunk
    }

    /// Floats of a core's tables: two norms' weights, or a panel's angles and two heads' weights.
    pub(crate) fn tables(&self, array: &Array) -> u32 {
        (2 * self.weights(array)).max(self.most_head * (PANEL + 2))
    }

    /// bfloat16 numbers that a core keeps: features of 8 tokens, or the head at hand.
    pub(crate) fn kept_numbers(&self) -> u32 {
        self.kept.max(self.most_head) * PANEL
    }

    /// Words of room: integers of a chunk, rows of the gate before they are used, or a head as it goes.
    pub(crate) fn room_words(&self) -> u32 {
        (self.chunk * PANEL).max(rope::ROWS_AT as u32 + self.most_head * PANEL / 2)
    }

    /// Where a core's memory goes.
    pub fn core_memory(&self, array: &Array) -> CoreMemory {
        CoreMemory {
            streams: DEPTH * (self.in_bytes() + self.out_bytes()),
            kept: self.kept_numbers() * 2,
            tables: self.tables(array) * 4,
            small: self.room_words() * 4 + streams::SMALL_BYTES,
            stack: STACK_BYTES,
        }
    }

    /// Bytes of a memory tile that the design takes.
    pub fn memory_tile_bytes(&self, array: &Array) -> u32 {
        DEPTH * array.core_rows * (self.in_bytes() + self.out_bytes())
    }

    /// Whether a core has room for it.
    pub fn fits(&self, array: &Array) -> bool {
        self.core_memory(array).bytes() <= array.core.memory_bytes
            && self.in_bytes() >= header::BYTES
    }

    /// The whole array's module with a sequence for each work.
    ///
    /// # Errors
    /// When MLIR refuses it.
    pub fn emit(
        &self,
        array: &Array,
        version: DialectVersion,
        name: &str,
        works: &[Work],
    ) -> Result<String, VectorError> {
        let text = aie::emit(array, version, name, |device| {
            let streams = Streams::new(self, array);
            streams.place(self, array, device);
            for work in works {
                let columns = match work {
                    Work::Prepare(work) => work.rounds(self, array),
                    Work::Gelu(work) => work.rounds(self, array),
                    Work::Rope(work) => work.rounds(self, array),
                };
                device.sequence(&work.name(), &work.buffer_bytes(self, array), |sequence| {
                    schedule::write(sequence, &streams, &columns);
                });
            }
        })?;
        Ok(text)
    }
}
