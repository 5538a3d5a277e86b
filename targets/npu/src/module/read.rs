//! Reads a device: tiles, FIFOs, links, buffers, locks, functions.

use super::attributes as text;
use super::body::Capture;
use super::read_core;
use super::*;
use melior::ir::RegionLike;
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationLike, OperationRef};
use melior::ir::{BlockRef, ValueLike};
use std::collections::HashMap;

/// An op with its attributes as text: what every reader works on.
pub(super) struct Reader<'c, 'a> {
    pub op: OperationRef<'c, 'a>,
    pub name: String,
    pub line: usize,
    attributes: Vec<(String, String)>,
}

impl<'c, 'a> Reader<'c, 'a> {
    pub fn new(op: OperationRef<'c, 'a>) -> Self {
        let mut name = op.name().as_string_ref().as_str().unwrap_or("?").to_owned();
        if name == super::calls::CALL {
            name = "func.call".to_owned();
        }
        let location = op.location();
        let line = if location.is_file_line_col_range() {
            location.file_line_col_range_start_line()
        } else {
            0
        };
        let attributes = op
            .attributes()
            .map(|(key, value)| {
                let key = key.as_string_ref().as_str().unwrap_or("?").to_owned();
                (key, value.to_string())
            })
            .collect();
        Reader {
            op,
            name,
            line,
            attributes,
        }
    }

    pub fn malformed(&self, what: impl Into<String>) -> ModuleError {
        ModuleError::Malformed {
            op: self.name.clone(),
            line: self.line,
            what: what.into(),
        }
    }

    /// Refuses attributes that are not among these.
    pub fn only(&self, known: &[&str]) -> Result<(), ModuleError> {
        match self
            .attributes
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()))
        {
            Some((attribute, _)) => Err(ModuleError::UnknownAttribute {
                op: self.name.clone(),
                attribute: attribute.clone(),
                line: self.line,
            }),
            None => Ok(()),
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// An attribute that must be there, read by `parse`.
    pub fn required<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ModuleError> {
        let Some(value) = self.text(key) else {
            return Err(self.malformed(format!("attribute `{key}` is missing")));
        };
        parse(value).ok_or_else(|| {
            self.malformed(format!("attribute `{key}` cannot be read from `{value}`"))
        })
    }

    /// An attribute that may be missing.
    pub fn optional<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ModuleError> {
        match self.text(key) {
            None => Ok(None),
            Some(_) => self.required(key, parse).map(Some),
        }
    }

    pub fn int(&self, key: &str) -> Result<i64, ModuleError> {
        self.required(key, text::int)
    }

    pub fn symbol_name(&self) -> Result<String, ModuleError> {
        self.required("sym_name", |value| text::string(value).map(str::to_owned))
    }

    pub fn operands(&self) -> Vec<usize> {
        self.op.operands().map(key_of).collect()
    }

    pub fn result_types(&self) -> Vec<String> {
        self.op
            .results()
            .map(|value| value.r#type().to_string())
            .collect()
    }

    /// The only block of the only region.
    pub fn block(&self) -> Result<BlockRef<'c, 'a>, ModuleError> {
        self.op
            .region(0)
            .ok()
            .and_then(|region| region.first_block())
            .filter(|block| block.next_in_region().is_none())
            .ok_or_else(|| self.malformed("has no region of one block"))
    }
}

/// Identity of a value.
pub(super) fn key_of<'c>(value: impl ValueLike<'c>) -> usize {
    value.to_raw().ptr as usize
}

/// Ops of a block, in order.
pub(super) fn ops<'c, 'a>(block: BlockRef<'c, 'a>) -> Vec<Reader<'c, 'a>> {
    let mut all = Vec::new();
    let mut next = block.first_operation();
    while let Some(op) = next {
        next = op.next_in_block();
        all.push(Reader::new(op));
    }
    all
}

/// What values of the device stand for.
#[derive(Clone)]
pub(super) enum Known {
    Tile(TileIndex),
    Captured(Capture, Option<Type>),
}

/// Names and values of the device, for the programs in it.
pub(super) struct Scope {
    pub values: HashMap<usize, Known>,
    pub fifos: HashMap<String, usize>,
}

pub(super) fn module(parsed: &melior::ir::Module) -> Result<Module, ModuleError> {
    let mut device = None;
    for op in ops(parsed.body()) {
        if op.name != "aie.device" {
            return Err(ModuleError::UnknownOp {
                op: op.name,
                line: op.line,
                place: "beside a device",
            });
        }
        if device.is_some() {
            return Err(op.malformed("is the second device; a module has one"));
        }
        device = Some(op);
    }
    let Some(device) = device else {
        return Err(ModuleError::Mlir("the module has no `aie.device`".into()));
    };
    device.only(&["device", "sym_name"])?;
    let mut module = Module {
        name: device.optional("sym_name", |name| text::string(name).map(str::to_owned))?,
        device: device.int("device")?,
        tiles: Vec::new(),
        fifos: Vec::new(),
        links: Vec::new(),
        buffers: Vec::new(),
        locks: Vec::new(),
        cores: Vec::new(),
        functions: Vec::new(),
        sequences: Vec::new(),
    };
    let mut scope = Scope {
        values: HashMap::new(),
        fifos: HashMap::new(),
    };
    let inner = ops(device.block()?);
    // Names first: ops may refer to FIFOs that come later.
    for op in &inner {
        if op.name == "aie.objectfifo" {
            let index = scope.fifos.len();
            if scope.fifos.insert(op.symbol_name()?, index).is_some() {
                return Err(op.malformed(format!("`{}` is declared twice", op.symbol_name()?)));
            }
        }
    }
    for op in &inner {
        device_op(op, &mut module, &mut scope)?;
    }
    Ok(module)
}

fn device_op(op: &Reader, module: &mut Module, scope: &mut Scope) -> Result<(), ModuleError> {
    match op.name.as_str() {
        "aie.tile" => {
            op.only(&["col", "row"])?;
            let tile = Tile {
                column: op.int("col")?,
                row: op.int("row")?,
                line: op.line,
            };
            scope
                .values
                .insert(result_key(op)?, Known::Tile(module.tiles.len()));
            module.tiles.push(tile);
        }
        "aie.objectfifo" => {
            let fifo = fifo(op, scope)?;
            module.fifos.push(fifo);
        }
        "aie.objectfifo.link" => {
            op.only(&["fifoIns", "fifoOuts", "src_offsets", "dst_offsets"])?;
            let fifos = |key| {
                let names = op.required(key, |value| {
                    text::symbols(value)
                        .map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
                })?;
                names
                    .iter()
                    .map(|name| fifo_named(op, scope, name))
                    .collect::<Result<Vec<_>, _>>()
            };
            module.links.push(Link {
                inputs: fifos("fifoIns")?,
                outputs: fifos("fifoOuts")?,
                source_offsets: op.required("src_offsets", text::ints)?,
                destination_offsets: op.required("dst_offsets", text::ints)?,
                line: op.line,
            });
        }
        "aie.buffer" => {
            op.only(&["sym_name", "address", "mem_bank", "initial_value"])?;
            let types = op.result_types();
            let memory = types
                .first()
                .and_then(|ty| text::memory(ty))
                .ok_or_else(|| op.malformed("gives no memory of a known type"))?;
            let buffer = Buffer {
                name: op.symbol_name()?,
                tile: tile_of(op, scope, 0)?,
                memory: memory.clone(),
                address: op.optional("address", text::int)?,
                bank: op.optional("mem_bank", text::int)?,
                initial: op.optional("initial_value", text::constant)?,
                line: op.line,
            };
            let capture = Capture::Buffer(module.buffers.len());
            scope.values.insert(
                result_key(op)?,
                Known::Captured(capture, Some(Type::Memory(memory))),
            );
            module.buffers.push(buffer);
        }
        "aie.lock" => {
            op.only(&["sym_name", "lockID", "init"])?;
            let lock = Lock {
                name: op.optional("sym_name", |name| text::string(name).map(str::to_owned))?,
                tile: tile_of(op, scope, 0)?,
                id: op.optional("lockID", text::int)?,
                initial: op.optional("init", text::int)?.unwrap_or(0),
                line: op.line,
            };
            let capture = Capture::Lock(module.locks.len());
            scope
                .values
                .insert(result_key(op)?, Known::Captured(capture, None));
            module.locks.push(lock);
        }
        "aie.core" => {
            op.only(&["stack_size", "dynamic_objfifo_lowering"])?;
            module.cores.push(Core {
                tile: tile_of(op, scope, 0)?,
                stack_bytes: op.optional("stack_size", text::int)?,
                dynamic_fifos: op
                    .optional("dynamic_objfifo_lowering", text::int)?
                    .unwrap_or(0)
                    != 0,
                body: read_core::body(op, scope)?,
                line: op.line,
            });
        }
        "func.func" => {
            op.only(&[
                "sym_name",
                "function_type",
                "sym_visibility",
                "link_with",
                "llvm.emit_c_interface",
            ])?;
            let declared = op
                .op
                .region(0)
                .ok()
                .and_then(|region| region.first_block())
                .is_none();
            module.functions.push(Function {
                name: op.symbol_name()?,
                link_with: op
                    .optional("link_with", |name| text::string(name).map(str::to_owned))?,
                body: if declared {
                    None
                } else {
                    Some(read_core::body(op, scope)?)
                },
                line: op.line,
            });
        }
        "arith.constant" => {
            let constant = op.required("value", text::constant)?;
            let ty = op.result_types().first().and_then(|ty| Type::parse(ty));
            scope.values.insert(
                result_key(op)?,
                Known::Captured(Capture::Constant(constant), ty),
            );
        }
        "aie.runtime_sequence" | "aiex.runtime_sequence" => {
            let sequence = super::read_sequence::sequence(op, module, scope)?;
            module.sequences.push(sequence);
        }
        "aie.end" => op.only(&[])?,
        _ => {
            return Err(ModuleError::UnknownOp {
                op: op.name.clone(),
                line: op.line,
                place: "in a device",
            });
        }
    }
    Ok(())
}

pub(super) fn result_key(op: &Reader) -> Result<usize, ModuleError> {
    op.op
        .result(0)
        .map(key_of)
        .map_err(|_| op.malformed("gives nothing"))
}

fn tile_of(op: &Reader, scope: &Scope, operand: usize) -> Result<TileIndex, ModuleError> {
    match op
        .operands()
        .get(operand)
        .and_then(|key| scope.values.get(key))
    {
        Some(Known::Tile(tile)) => Ok(*tile),
        Some(Known::Captured(..)) | None => {
            Err(op.malformed(format!("operand {operand} is no tile")))
        }
    }
}

pub(super) fn fifo_named(op: &Reader, scope: &Scope, name: &str) -> Result<usize, ModuleError> {
    scope
        .fifos
        .get(name)
        .copied()
        .ok_or_else(|| op.malformed(format!("names FIFO `@{name}`, which does not exist")))
}

fn fifo(op: &Reader, scope: &Scope) -> Result<Fifo, ModuleError> {
    op.only(&[
        "sym_name",
        "elemNumber",
        "elemType",
        "dimensionsToStream",
        "dimensionsFromStreamPerConsumer",
        "disable_synchronization",
        "plio",
        "via_DMA",
    ])?;
    for key in ["disable_synchronization", "plio"] {
        if op.optional(key, text::int)?.unwrap_or(0) != 0 {
            return Err(op.malformed(format!("`{key}` is not supported")));
        }
    }
    let consumers = (1..op.operands().len())
        .map(|operand| tile_of(op, scope, operand))
        .collect::<Result<Vec<_>, _>>()?;
    if consumers.is_empty() {
        return Err(op.malformed("has no consumer"));
    }
    let depth = op.required("elemNumber", |value| {
        if value.starts_with('[') || value.starts_with("array<") {
            text::ints(value).map(Depth::Ends)
        } else {
            text::int(value).map(Depth::Shared)
        }
    })?;
    if let Depth::Ends(ends) = &depth
        && ends.len() != consumers.len() + 1
    {
        return Err(op.malformed(format!(
            "`elemNumber` has {} depths for one producer and {} consumers",
            ends.len(),
            consumers.len()
        )));
    }
    let mut from_stream = op.required("dimensionsFromStreamPerConsumer", text::patterns)?;
    if from_stream.is_empty() {
        from_stream = vec![Pattern::default(); consumers.len()];
    }
    if from_stream.len() != consumers.len() {
        return Err(op.malformed(format!(
            "`dimensionsFromStreamPerConsumer` has {} patterns for {} consumers",
            from_stream.len(),
            consumers.len()
        )));
    }
    Ok(Fifo {
        name: op.symbol_name()?,
        producer: tile_of(op, scope, 0)?,
        consumers,
        depth,
        element: op.required("elemType", text::memory)?,
        to_stream: op.required("dimensionsToStream", text::pattern)?,
        from_stream,
        via_dma: op.optional("via_DMA", text::int)?.unwrap_or(0) != 0,
        line: op.line,
    })
}
