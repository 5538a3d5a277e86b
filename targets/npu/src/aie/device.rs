//! What stands on the array: tiles, object FIFOs, links, cores, and the run-time sequences that feed them.

use super::DialectVersion;
use super::body::{Body, Element};
use super::ops::{Make, Ops, Step};
use crate::array::Array;
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationLike, OperationPrintingFlags};
use melior::ir::{Block, BlockRef, Location, Module, Region, RegionLike, Type, Value};
use std::cell::RefCell;
use std::rc::Rc;
use thiserror::Error;

/// Why a module could not be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EmitError {
    /// MLIR's verifier refused it: a mistake in a design.
    #[error("MLIR refuses the module for the NPU: {0}")]
    Refused(String),
}

/// Builds one array configuration and returns its module's text, in generic form and verified.
///
/// # Errors
/// When MLIR's verifier refuses what was built.
pub fn emit(
    array: &Array,
    version: DialectVersion,
    name: &str,
    build: impl for<'b> FnOnce(&Device<'_, 'b>),
) -> Result<String, EmitError> {
    let context = crate::mlir::context();
    // What the verifier says goes into the error, not to stderr.
    let said = Rc::new(RefCell::new(Vec::<String>::new()));
    let sink = said.clone();
    context.attach_diagnostic_handler(move |diagnostic| {
        sink.borrow_mut().push(diagnostic.to_string());
        true
    });
    let location = Location::unknown(&context);
    let ops = Ops {
        context: &context,
        location,
        version,
    };
    let module = Module::new(location);
    let region = Region::new();
    {
        let block = region.append_block(Block::new(&[]));
        let device = Device { ops, block };
        build(&device);
        block.append_operation(ops.make("aie.end").build());
    }
    module.body().append_operation(
        ops.make("aie.device")
            .i32("device", array.mlir_device)
            .text("sym_name", name)
            .region(region)
            .build(),
    );
    let operation = module.as_operation();
    if !operation.verify() {
        return Err(EmitError::Refused(said.borrow().join("; ")));
    }
    operation
        .to_string_with_flags(OperationPrintingFlags::new().print_generic_operation_form())
        .map_err(|error| EmitError::Refused(error.to_string()))
}

/// The array's inside.
pub struct Device<'c, 'b> {
    ops: Ops<'c>,
    block: BlockRef<'c, 'b>,
}

/// A tile.
#[derive(Clone, Copy)]
pub struct TileRef<'c, 'b> {
    value: Value<'c, 'b>,
}

/// An object FIFO: a bounded queue of equal elements from one tile to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fifo {
    /// Its symbol.
    pub name: String,
    /// Type of what an element holds.
    pub element: Element,
    /// How many of them an element holds.
    pub elements: u32,
    /// Elements at each end.
    pub depth: u32,
    /// How the producer's DMA walks over an element; empty: in order.
    pub to_stream: Vec<Step>,
}

/// An end of a FIFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// Where elements are filled.
    Produce,
    /// Where they are used.
    Consume,
}

impl Port {
    pub(super) fn number(self) -> i32 {
        match self {
            Port::Produce => 0,
            Port::Consume => 1,
        }
    }
}

impl Fifo {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> u32 {
        self.elements * self.element.bytes()
    }
}

impl<'c, 'b> Device<'c, 'b> {
    fn append(&self, make: Make<'c, '_>) {
        self.block.append_operation(make.build());
    }

    /// The tile at a place.
    pub fn tile(&self, column: u32, row: u32) -> TileRef<'c, 'b> {
        let made = self.block.append_operation(
            self.ops
                .make("aie.tile")
                .i32("col", column as i32)
                .i32("row", row as i32)
                .result(self.ops.index())
                .build(),
        );
        TileRef {
            value: made.result(0).expect("a tile is a value").into(),
        }
    }

    /// A FIFO from a tile to one or several, which all get every element.
    pub fn fifo(&self, fifo: &Fifo, producer: TileRef<'c, 'b>, consumers: &[TileRef<'c, 'b>]) {
        let mut ends = vec![producer.value];
        ends.extend(consumers.iter().map(|tile| tile.value));
        let element = self
            .ops
            .memref(u64::from(fifo.elements), fifo.element.r#type(self.ops));
        let in_order: Vec<&[Step]> = consumers.iter().map(|_| &[][..]).collect();
        self.append(
            self.ops
                .make("aie.objectfifo")
                .operands(&ends)
                .text("sym_name", &fifo.name)
                .i32("elemNumber", fifo.depth as i32)
                .with(
                    "elemType",
                    melior::ir::attribute::TypeAttribute::new(self.ops.fifo_type(element)),
                )
                .with("dimensionsToStream", self.ops.walk(&fifo.to_stream))
                .with("dimensionsFromStreamPerConsumer", self.ops.walks(&in_order)),
        );
    }

    /// Passes a memory tile's elements on.
    pub fn forward(&self, from: &Fifo, to: &Fifo) {
        self.link(&[(from, None)], to);
    }

    /// Distributes each element of a FIFO in a memory tile, one part after the other, to several others.
    pub fn distribute(&self, from: &Fifo, to: &[&Fifo]) {
        let mut offset = 0;
        let mut offsets = Vec::new();
        for fifo in to {
            offsets.push(self.ops.i64_attribute(i64::from(offset)));
            offset += fifo.elements;
        }
        let outputs: Vec<_> = to.iter().map(|fifo| self.ops.symbol(&fifo.name)).collect();
        self.append(
            self.ops
                .make("aie.objectfifo.link")
                .with("fifoIns", self.ops.array(&[self.ops.symbol(&from.name)]))
                .with("fifoOuts", self.ops.array(&outputs))
                .with("src_offsets", self.ops.array(&[]))
                .with("dst_offsets", self.ops.array(&offsets)),
        );
    }

    /// Joins the elements of several FIFOs in a memory tile, one behind the other, to one element of another.
    pub fn join(&self, from: &[&Fifo], to: &Fifo) {
        let mut offset = 0;
        let parts: Vec<(&Fifo, Option<u32>)> = from
            .iter()
            .map(|fifo| {
                let at = offset;
                offset += fifo.elements;
                (*fifo, Some(at))
            })
            .collect();
        self.link(&parts, to);
    }

    fn link(&self, from: &[(&Fifo, Option<u32>)], to: &Fifo) {
        let inputs: Vec<_> = from
            .iter()
            .map(|(fifo, _)| self.ops.symbol(&fifo.name))
            .collect();
        let offsets: Vec<_> = from
            .iter()
            .filter_map(|(_, offset)| *offset)
            .map(|offset| self.ops.i64_attribute(i64::from(offset)))
            .collect();
        self.append(
            self.ops
                .make("aie.objectfifo.link")
                .with("fifoIns", self.ops.array(&inputs))
                .with("fifoOuts", self.ops.array(&[self.ops.symbol(&to.name)]))
                .with("src_offsets", self.ops.array(&offsets))
                .with("dst_offsets", self.ops.array(&[])),
        );
    }

    /// Memory of a core that is its own.
    pub fn buffer(
        &self,
        tile: TileRef<'c, 'b>,
        name: &str,
        elements: u32,
        element: Element,
    ) -> Value<'c, 'b> {
        let r#type = self
            .ops
            .memref(u64::from(elements), element.r#type(self.ops));
        let made = self.block.append_operation(
            self.ops
                .make("aie.buffer")
                .operands(&[tile.value])
                .text("sym_name", name)
                .result(r#type)
                .build(),
        );
        made.result(0).expect("a buffer is a value").into()
    }

    /// A core's program.
    pub fn core(
        &self,
        tile: TileRef<'c, 'b>,
        stack_bytes: u32,
        program: impl for<'x> FnOnce(&Body<'c, 'x>),
    ) {
        let region = Region::new();
        {
            let block = region.append_block(Block::new(&[]));
            let body = Body::new(self.ops, block);
            program(&body);
            body.end();
        }
        self.append(
            self.ops
                .make("aie.core")
                .operands(&[tile.value])
                .i32("stack_size", stack_bytes as i32)
                // Loops over elements have bounds that are known at run time: which element is next must be too.
                .bool("dynamic_objfifo_lowering", true)
                .result(self.ops.index())
                .region(region),
        );
    }

    /// A run-time sequence over buffers of the host, each so many bytes.
    pub fn sequence(
        &self,
        name: &str,
        buffer_bytes: &[u64],
        program: impl for<'x> FnOnce(&Sequence<'c, 'x>),
    ) {
        // Words: offsets, sizes and strides of a shim's descriptor are whole words.
        let arguments: Vec<(Type<'c>, Location<'c>)> = buffer_bytes
            .iter()
            .map(|bytes| {
                let r#type = self.ops.memref(bytes.div_ceil(4), self.ops.int(32));
                (r#type, self.ops.location)
            })
            .collect();
        let region = Region::new();
        {
            let block = region.append_block(Block::new(&arguments));
            program(&Sequence {
                ops: self.ops,
                block,
            });
        }
        self.append(
            self.ops
                .make("aie.runtime_sequence")
                .text("sym_name", name)
                .region(region),
        );
    }
}

/// A run-time sequence: what the array's controller does, in order.
pub struct Sequence<'c, 'b> {
    ops: Ops<'c>,
    block: BlockRef<'c, 'b>,
}

/// One descriptor of a shim: a walk over a buffer of the host, in words of 4 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Which of the sequence's buffers.
    pub buffer: usize,
    /// The FIFO whose end at the shim it feeds or drains.
    pub fifo: String,
    /// Which descriptor of the shim.
    pub descriptor: u32,
    /// Where the walk begins.
    pub offset_words: u64,
    /// The walk, outermost dimension first. The outermost may have a stride of 0: the same again.
    pub walk: [(u64, u64); 4],
    /// Whether its end can be waited for.
    pub is_awaited: bool,
}

impl Sequence<'_, '_> {
    /// Starts a transfer.
    pub fn start(&self, transfer: &Transfer) {
        let buffer = self
            .block
            .argument(transfer.buffer)
            .expect("a buffer that the sequence has");
        let sizes: Vec<i64> = transfer.walk.iter().map(|(size, _)| *size as i64).collect();
        let strides: Vec<i64> = transfer
            .walk
            .iter()
            .map(|(_, stride)| *stride as i64)
            .collect();
        // The innermost stride is 1, so that dimension's offset counts words.
        let offsets = [0, 0, 0, transfer.offset_words as i64];
        self.block.append_operation(
            self.ops
                .make("aiex.npu.dma_memcpy_nd")
                .operands(&[buffer.into()])
                .symbol("metadata", &transfer.fifo)
                .i64("id", i64::from(transfer.descriptor))
                .bool("issue_token", transfer.is_awaited)
                .i64s("static_offsets", &offsets)
                .i64s("static_sizes", &sizes)
                .i64s("static_strides", &strides)
                .i32s("operandSegmentSizes", &[1, 0, 0, 0])
                .build(),
        );
    }

    /// Waits until the oldest awaited transfer of a FIFO has ended.
    pub fn wait(&self, fifo: &str) {
        self.block.append_operation(
            self.ops
                .make("aiex.npu.dma_wait")
                .symbol("symbol", fifo)
                .build(),
        );
    }
}
