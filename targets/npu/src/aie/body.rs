//! What runs inside a core: loops, index arithmetic, vectors, and the ends of object FIFOs.
//!
//! Vectors are one-dimensional except around the matrix unit, as the vendor's lowering wants them: contiguous loads
//! shaped to native tiles. The lengths that it turns into vector instructions are 512 bits (and 256 for loads); others
//! become scalar code, so the methods here do not offer them.

use super::DialectVersion;
use super::device::{Fifo, Port};
use super::ops::{Make, Ops};
use melior::ir::attribute::{DenseElementsAttribute, FloatAttribute, IntegerAttribute};
use melior::ir::block::BlockLike;
use melior::ir::{Attribute, Block, BlockRef, Region, RegionLike, Type, Value, ValueLike};

/// Types of elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// 8-bit integers.
    I8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> u32 {
        match self {
            Element::I8 => 1,
            Element::I16 | Element::Bf16 => 2,
            Element::I32 | Element::F32 => 4,
        }
    }

    pub(super) fn r#type(self, ops: Ops<'_>) -> Type<'_> {
        match self {
            Element::I8 => ops.int(8),
            Element::I16 => ops.int(16),
            Element::I32 => ops.int(32),
            Element::Bf16 => Type::bfloat16(ops.context),
            Element::F32 => Type::float32(ops.context),
        }
    }
}

/// A block of ops inside a core.
#[derive(Clone, Copy)]
pub struct Body<'c, 'b> {
    pub(super) ops: Ops<'c>,
    pub(super) block: BlockRef<'c, 'b>,
}

impl<'c, 'b> Body<'c, 'b> {
    pub(super) fn new(ops: Ops<'c>, block: BlockRef<'c, 'b>) -> Self {
        Self { ops, block }
    }

    pub(super) fn append(&self, make: Make<'c, '_>) {
        self.block.append_operation(make.build());
    }

    pub(super) fn value(&self, make: Make<'c, '_>) -> Value<'c, 'b> {
        let operation = self.block.append_operation(make.build());
        operation
            .result(0)
            .expect("an op made with a result has one")
            .into()
    }

    pub(super) fn vector_type(&self, lanes: u64, element: Element) -> Type<'c> {
        Type::vector(&[lanes], element.r#type(self.ops))
    }

    /// An index.
    pub fn index(&self, value: u64) -> Value<'c, 'b> {
        let value = IntegerAttribute::new(self.ops.index(), value as i64);
        self.value(
            self.ops
                .make("arith.constant")
                .result(self.ops.index())
                .with("value", value),
        )
    }

    /// A vector of equal integers.
    pub fn splat_int(&self, lanes: u64, element: Element, value: i64) -> Value<'c, 'b> {
        let value: Attribute = IntegerAttribute::new(element.r#type(self.ops), value).into();
        self.splat(lanes, element, value)
    }

    /// A vector of equal floats.
    pub fn splat_float(&self, lanes: u64, element: Element, value: f64) -> Value<'c, 'b> {
        let value: Attribute =
            FloatAttribute::new(self.ops.context, element.r#type(self.ops), value).into();
        self.splat(lanes, element, value)
    }

    /// A vector of these integers.
    pub fn ints(&self, element: Element, values: &[i64]) -> Value<'c, 'b> {
        let r#type = self.vector_type(values.len() as u64, element);
        let values: Vec<Attribute<'c>> = values
            .iter()
            .map(|&value| IntegerAttribute::new(element.r#type(self.ops), value).into())
            .collect();
        let value = DenseElementsAttribute::new(r#type, &values)
            .expect("as many values as lanes, of their type");
        self.value(
            self.ops
                .make("arith.constant")
                .result(r#type)
                .with("value", value),
        )
    }

    fn splat(&self, lanes: u64, element: Element, value: Attribute<'c>) -> Value<'c, 'b> {
        let r#type = self.vector_type(lanes, element);
        let value = DenseElementsAttribute::new(r#type, &[value])
            .expect("one value of the vector's own type");
        self.value(
            self.ops
                .make("arith.constant")
                .result(r#type)
                .with("value", value),
        )
    }

    pub(super) fn binary<'v>(
        &self,
        name: &'static str,
        a: Value<'c, 'v>,
        b: Value<'c, 'v>,
    ) -> Value<'c, 'b> {
        self.value(self.ops.make(name).operands(&[a, b]).result(a.r#type()))
    }

    /// `a + b` of integers or indices.
    pub fn add<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.addi", a, b)
    }

    /// `a - b` of integers or indices.
    pub fn subtract<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.subi", a, b)
    }

    /// The lesser of two indices.
    pub fn least<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.minui", a, b)
    }

    /// Bits that both integers have.
    pub fn and<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.andi", a, b)
    }

    /// `a * b` of integers or indices.
    pub fn multiply<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.muli", a, b)
    }

    /// `a >> b` of integers, rounding down.
    pub fn shift_right<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.shrsi", a, b)
    }

    /// `a - b` of floats.
    pub fn subtract_float<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.subf", a, b)
    }

    /// `a * b` of floats.
    pub fn multiply_float<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.mulf", a, b)
    }

    /// `index / divisor` of an index.
    pub fn divide(&self, index: Value<'c, '_>, divisor: u64) -> Value<'c, 'b> {
        let divisor = self.index(divisor);
        self.binary("arith.divui", index, divisor)
    }

    /// `index % divisor` of an index.
    pub fn modulo(&self, index: Value<'c, '_>, divisor: u64) -> Value<'c, 'b> {
        let divisor = self.index(divisor);
        self.binary("arith.remui", index, divisor)
    }

    /// `sum of index * scale` of indices.
    pub fn address<'v>(&self, terms: &[(Value<'c, 'v>, u64)]) -> Value<'c, 'b> {
        let mut sum: Option<Value<'c, 'b>> = None;
        for &(index, scale) in terms {
            let term = self.multiply(index, self.index(scale));
            sum = Some(match sum {
                Some(sum) => self.add(sum, term),
                None => term,
            });
        }
        sum.unwrap_or_else(|| self.index(0))
    }

    /// `value` as indices.
    pub fn to_index(&self, value: Value<'c, '_>) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.index_cast")
                .operands(&[value])
                .result(self.ops.index()),
        )
    }

    /// The same bits as lanes of another type.
    pub fn bitcast(&self, value: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("vector.bitcast")
                .operands(&[value])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// Lanes as wider integers of the same value.
    pub fn widen(&self, value: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.extsi")
                .operands(&[value])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// Lanes as narrower integers: their lower bits.
    pub fn narrow(&self, value: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.trunci")
                .operands(&[value])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// Lanes rounded to a narrower float.
    pub fn round_float(&self, value: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.truncf")
                .operands(&[value])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// `memory[at..at + lanes]`.
    pub fn load<'v>(
        &self,
        memory: Value<'c, 'v>,
        at: Value<'c, 'v>,
        lanes: u64,
        element: Element,
    ) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("vector.load")
                .operands(&[memory, at])
                .result(self.vector_type(lanes, element))
                .i64("alignment", alignment(lanes, element)),
        )
    }

    /// `memory[at..at + lanes] = value`.
    pub fn store<'v>(
        &self,
        value: Value<'c, 'v>,
        memory: Value<'c, 'v>,
        at: Value<'c, 'v>,
        lanes: u64,
        element: Element,
    ) {
        self.append(
            self.ops
                .make("vector.store")
                .operands(&[value, memory, at])
                .i64("alignment", alignment(lanes, element)),
        );
    }

    /// `memory[at]`.
    pub fn load_scalar<'v>(
        &self,
        memory: Value<'c, 'v>,
        at: Value<'c, 'v>,
        element: Element,
    ) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("memref.load")
                .operands(&[memory, at])
                .result(element.r#type(self.ops)),
        )
    }

    /// One lane.
    pub fn lane(&self, value: Value<'c, '_>, lane: u32, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("vector.extract")
                .operands(&[value])
                .result(element.r#type(self.ops))
                .i64s("static_position", &[i64::from(lane)]),
        )
    }

    /// One instruction of the matrix unit on 8-bit integers: `sums [rows x 8] + left [rows x 8] * right [8 x 8]`, all as
    /// flat vectors in row-major order, the sums 32 bits wide. The unit has 4 `rows` (XDNA1) or 8 (XDNA2).
    pub fn multiply_tiles_i8<'v>(
        &self,
        rows: u32,
        left: Value<'c, 'v>,
        right: Value<'c, 'v>,
        sums: Value<'c, 'v>,
    ) -> Value<'c, 'b> {
        let rows = u64::from(rows);
        let shaped = |value, shape: [u64; 2], element: Element| {
            self.value(
                self.ops
                    .make("vector.shape_cast")
                    .operands(&[value])
                    .result(Type::vector(&shape, element.r#type(self.ops))),
            )
        };
        let widened = |value, shape: [u64; 2]| {
            self.value(
                self.ops
                    .make("arith.extsi")
                    .operands(&[shaped(value, shape, Element::I8)])
                    .result(Type::vector(&shape, self.ops.int(32))),
            )
        };
        let left = widened(left, [rows, 8]);
        let right = widened(right, [8, 8]);
        let sums = shaped(sums, [rows, 8], Element::I32);
        let product = self.value(
            self.ops
                .make("vector.contract")
                .operands(&[left, right, sums])
                .result(Type::vector(&[rows, 8], self.ops.int(32)))
                .with("indexing_maps", self.ops.product_maps())
                .with("iterator_types", self.ops.product_iterators())
                .with("kind", self.ops.sum_kind()),
        );
        self.value(
            self.ops
                .make("vector.shape_cast")
                .operands(&[product])
                .result(self.vector_type(rows * 8, Element::I32)),
        )
    }

    /// `for index in from..to { values = body(index, values) }`; returns the last values.
    pub fn repeat<'v>(
        &self,
        from: Value<'c, 'v>,
        to: Value<'c, 'v>,
        values: &[Value<'c, 'v>],
        body: impl for<'x> FnOnce(&Body<'c, 'x>, Value<'c, 'x>, &[Value<'c, 'x>]) -> Vec<Value<'c, 'x>>,
    ) -> Vec<Value<'c, 'b>> {
        let types: Vec<Type<'c>> = values.iter().map(ValueLike::r#type).collect();
        let mut arguments = vec![(self.ops.index(), self.ops.location)];
        arguments.extend(types.iter().map(|&r#type| (r#type, self.ops.location)));
        let region = Region::new();
        {
            let block = region.append_block(Block::new(&arguments));
            let argument = |index: usize| -> Value<'c, '_> {
                block
                    .argument(index)
                    .expect("the block was made with it")
                    .into()
            };
            let carried: Vec<Value> = (1..arguments.len()).map(argument).collect();
            let inner = Body::new(self.ops, block);
            let next = body(&inner, argument(0), &carried);
            inner.append(self.ops.make("scf.yield").operands(&next));
        }
        let step = self.index(1);
        let mut operands = vec![from, to, step];
        operands.extend_from_slice(values);
        let made = self.block.append_operation(
            self.ops
                .make("scf.for")
                .operands(&operands)
                .results(&types)
                .region(region)
                .build(),
        );
        (0..types.len())
            .map(|index| made.result(index).expect("the op was made with it").into())
            .collect()
    }

    /// `for index in 0..times { body(index) }`.
    pub fn times(&self, times: u64, body: impl for<'x> FnOnce(&Body<'c, 'x>, Value<'c, 'x>)) {
        let (from, to) = (self.index(0), self.index(times));
        self.repeat(from, to, &[], |inner, index, _| {
            body(inner, index);
            Vec::new()
        });
    }

    /// The body's work again and again, for as long as data comes.
    pub fn forever(&self, body: impl for<'x> FnOnce(&Body<'c, 'x>)) {
        self.times(u64::from(u32::MAX), |inner, _| body(inner));
    }

    /// Waits for the next element of a FIFO's end and returns its memory.
    pub fn acquire(&self, fifo: &Fifo, port: Port) -> Value<'c, 'b> {
        let element = self
            .ops
            .memref(u64::from(fifo.elements), fifo.element.r#type(self.ops));
        let acquire = self
            .ops
            .make("aie.objectfifo.acquire")
            .i32("port", port.number())
            .symbol("objFifo_name", &fifo.name)
            .i32("size", 1);
        match self.ops.version {
            DialectVersion::Elements => self.value(acquire.result(element)),
            DialectVersion::Subviews => {
                let view = self.value(acquire.result(self.ops.subview_type(element)));
                self.value(
                    self.ops
                        .make("aie.objectfifo.subview.access")
                        .operands(&[view])
                        .result(element)
                        .i32("index", 0),
                )
            }
        }
    }

    /// Gives an end's oldest element back.
    pub fn release(&self, fifo: &Fifo, port: Port) {
        self.append(
            self.ops
                .make("aie.objectfifo.release")
                .i32("port", port.number())
                .symbol("objFifo_name", &fifo.name)
                .i32("size", 1),
        );
    }

    pub(super) fn end(&self) {
        self.append(self.ops.make("aie.end"));
    }
}

/// What an access can rely on: its own size, as far as the core's loads go.
fn alignment(lanes: u64, element: Element) -> i64 {
    (lanes * u64::from(element.bytes())).min(64) as i64
}
