//! A module of the AIE dialects as plain data: what is read back from emitted text.
//!
//! Owns the types and the way in, [`Module::read`]: MLIR parses and verifies the text, [`irdl`](crate::irdl) verifies
//! the ops of the AIE dialects, and the reader turns what is left into structures that know no MLIR. Stricter than the
//! dialect itself: an op or an attribute that is not known here is refused and named, because the dialect ignores
//! unknown names silently and a misspelt one would change nothing. Limits of an array are [`legality`](crate::legality)'s
//! business, meaning is the [`simulator`](crate::simulator)'s.

mod attributes;
mod body;
mod calls;
mod diagnostics;
mod read;
mod read_core;
mod read_sequence;
mod types;

pub use body::{
    Block, Body, Capture, Compare, Constant, Contraction, FloatBinary, FloatCompare, IntBinary,
    MathFunction, Op, OpKind, Reduction, Spread,
};
pub use types::{MemRef, Scalar, Type};

pub(crate) use diagnostics::Diagnostics;

use std::fmt;

/// Index of a tile in [`Module::tiles`].
pub type TileIndex = usize;

/// A device and all that is configured on it.
#[derive(Clone, PartialEq, Debug)]
pub struct Module {
    /// Name of the device op, where it has one.
    pub name: Option<String>,
    /// Value of the dialect's device enumeration.
    pub device: i64,
    /// Tiles in use.
    pub tiles: Vec<Tile>,
    /// Object FIFOs.
    pub fifos: Vec<Fifo>,
    /// Links of FIFOs through a tile.
    pub links: Vec<Link>,
    /// Buffers in tiles.
    pub buffers: Vec<Buffer>,
    /// Locks declared by themselves.
    pub locks: Vec<Lock>,
    /// Programs of cores.
    pub cores: Vec<Core>,
    /// Functions that cores call.
    pub functions: Vec<Function>,
    /// What the host has done at run time.
    pub sequences: Vec<Sequence>,
}

/// A tile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tile {
    /// Column.
    pub column: i64,
    /// Row.
    pub row: i64,
    /// Line of the text.
    pub line: usize,
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "tile ({}, {})", self.column, self.row)
    }
}

/// Sizes and strides of an access pattern, outermost first, in elements.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pattern(pub Vec<(i64, i64)>);

/// How many elements the ends of a FIFO hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Depth {
    /// One number: cores get what their acquires need, the rest gets this.
    Shared(i64),
    /// The producer's, then each consumer's.
    Ends(Vec<i64>),
}

/// An object FIFO.
#[derive(Clone, PartialEq, Debug)]
pub struct Fifo {
    /// Symbol.
    pub name: String,
    /// Tile of the producer.
    pub producer: TileIndex,
    /// Tiles of the consumers.
    pub consumers: Vec<TileIndex>,
    /// Elements.
    pub depth: Depth,
    /// Type of an element.
    pub element: MemRef,
    /// Pattern in which the producer's DMA reads.
    pub to_stream: Pattern,
    /// Pattern in which each consumer's DMA writes.
    pub from_stream: Vec<Pattern>,
    /// Whether neighbours use DMAs although they share memory.
    pub via_dma: bool,
    /// Line of the text.
    pub line: usize,
}

/// A link of FIFOs.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    /// FIFOs that end at the tile.
    pub inputs: Vec<usize>,
    /// FIFOs that start there.
    pub outputs: Vec<usize>,
    /// Offsets of the inputs in the output's element, in elements; of a join.
    pub source_offsets: Vec<i64>,
    /// Offsets of the outputs in the input's element, in elements; of a distribution.
    pub destination_offsets: Vec<i64>,
    /// Line of the text.
    pub line: usize,
}

/// A buffer in a tile.
#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    /// Symbol.
    pub name: String,
    /// Where it is.
    pub tile: TileIndex,
    /// What it holds.
    pub memory: MemRef,
    /// Address in the tile, where fixed.
    pub address: Option<i64>,
    /// Bank, where fixed.
    pub bank: Option<i64>,
    /// Contents at the start.
    pub initial: Option<Constant>,
    /// Line of the text.
    pub line: usize,
}

/// A lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Symbol, where it has one.
    pub name: Option<String>,
    /// Tile.
    pub tile: TileIndex,
    /// Number in the tile, where fixed.
    pub id: Option<i64>,
    /// Value at the start.
    pub initial: i64,
    /// Line of the text.
    pub line: usize,
}

/// The program of a core.
#[derive(Clone, PartialEq, Debug)]
pub struct Core {
    /// Where it runs.
    pub tile: TileIndex,
    /// Stack, where stated.
    pub stack_bytes: Option<i64>,
    /// Whether lowering keeps count of FIFO elements at run time, instead of repeating loops until the count is back.
    pub dynamic_fifos: bool,
    /// What it does.
    pub body: Body,
    /// Line of the text.
    pub line: usize,
}

/// A function of the device.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// Object file it comes from, when it is not in the module.
    pub link_with: Option<String>,
    /// What it does; none for a declaration. The block's arguments are the function's.
    pub body: Option<Body>,
    /// Line of the text.
    pub line: usize,
}

/// Run-time instructions of one dispatch.
#[derive(Clone, PartialEq, Debug)]
pub struct Sequence {
    /// Symbol.
    pub name: String,
    /// Buffers of the dispatch.
    pub arguments: Vec<MemRef>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Line of the text.
    pub line: usize,
}

/// One instruction of a sequence.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// Line of the text.
    pub line: usize,
}

/// What a sequence can do.
#[derive(Clone, PartialEq, Debug)]
pub enum StepKind {
    /// Queues a transfer between a host buffer and a FIFO.
    Transfer(Transfer),
    /// Waits for the oldest transfer of a FIFO that issues a token.
    Wait {
        /// The FIFO.
        fifo: usize,
    },
    /// Writes a word of a core's buffer.
    WriteParameter {
        /// The buffer.
        buffer: usize,
        /// Which word.
        index: i64,
        /// What is written.
        value: i64,
    },
    /// Sets a lock.
    SetLock {
        /// The lock.
        lock: usize,
        /// Its value from now on.
        value: i64,
    },
}

/// A transfer of a shim.
#[derive(Clone, PartialEq, Debug)]
pub struct Transfer {
    /// The FIFO whose end is at the shim.
    pub fifo: usize,
    /// Which buffer of the dispatch.
    pub argument: usize,
    /// Buffer descriptor.
    pub id: i64,
    /// Offsets, outermost first, in elements of their strides.
    pub offsets: [i64; 4],
    /// Sizes, outermost first.
    pub sizes: [i64; 4],
    /// Strides, outermost first, in elements.
    pub strides: [i64; 4],
    /// Whether its completion can be waited for, where the direction needs it said.
    pub issue_token: bool,
}

impl Transfer {
    /// Where it starts, in elements: what the hardware is given. A dimension without a stride has no offset.
    pub fn start(&self) -> i64 {
        self.offsets
            .iter()
            .zip(&self.strides)
            .map(|(offset, stride)| offset.saturating_mul(*stride))
            .fold(0, i64::saturating_add)
    }

    /// Elements it moves.
    pub fn elements(&self) -> i64 {
        self.sizes
            .iter()
            .fold(1, |product: i64, size| product.saturating_mul(*size))
    }
}

/// Side of a FIFO that a core is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Port {
    /// Fills elements.
    Produce,
    /// Reads elements.
    Consume,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Port::Produce => "produce",
            Port::Consume => "consume",
        })
    }
}

/// Why a text is no module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// MLIR refuses it.
    #[error("MLIR refuses the module: {0}")]
    Mlir(String),
    /// The definition of the AIE dialects refuses it.
    #[error("the definition of the AIE dialects refuses the module: {0}")]
    Dialect(String),
    /// An op that is not known.
    #[error("line {line}: `{op}` is not known {place}; use one of the ops that the target emits")]
    UnknownOp {
        /// Its name.
        op: String,
        /// Line of the text.
        line: usize,
        /// Where it stood.
        place: &'static str,
    },
    /// An attribute that is not known.
    #[error(
        "line {line}: `{op}` has an unknown attribute `{attribute}`, which the dialect would ignore: remove it or spell it right"
    )]
    UnknownAttribute {
        /// Name of the op.
        op: String,
        /// Name of the attribute.
        attribute: String,
        /// Line of the text.
        line: usize,
    },
    /// Something about an op that cannot be.
    #[error("line {line}: `{op}`: {what}")]
    Malformed {
        /// Name of the op.
        op: String,
        /// Line of the text.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl Module {
    /// Reads a module: text of MLIR, ops of the AIE dialects in the generic form.
    pub fn read(text: &str) -> Result<Module, ModuleError> {
        let context = crate::mlir::context();
        let diagnostics = Diagnostics::attach(&context);
        let parsed = melior::ir::Module::parse(&context, &calls::dress(text));
        let Some(parsed) = parsed else {
            return Err(ModuleError::Mlir(diagnostics.text()));
        };
        {
            use melior::ir::operation::OperationLike;
            if !parsed.as_operation().verify() {
                return Err(ModuleError::Mlir(diagnostics.text()));
            }
        }
        // A name that nobody knows is best said by the reader; what else is wrong with an op, by its definition.
        let module = read::module(&parsed);
        if let Err(ModuleError::UnknownOp { .. } | ModuleError::UnknownAttribute { .. }) = module {
            return module;
        }
        crate::irdl::verify(&parsed).map_err(ModuleError::Dialect)?;
        module
    }

    /// Index of the FIFO of this name.
    pub fn fifo(&self, name: &str) -> Option<usize> {
        self.fifos.iter().position(|fifo| fifo.name == name)
    }
}
