//! What cores do once in a while: scalars between indices and vectors, choices of way, the greatest lane. And the matrix
//! unit on bfloat16.

use super::body::{Body, Element};
use super::lanes::Compare;
use melior::ir::attribute::IntegerAttribute;
use melior::ir::block::BlockLike;
use melior::ir::{Block, Region, RegionLike, Type, Value, ValueLike};

impl<'c, 'b> Body<'c, 'b> {
    /// An integer.
    pub fn int(&self, element: Element, value: i64) -> Value<'c, 'b> {
        let r#type = element.r#type(self.ops);
        self.value(
            self.ops
                .make("arith.constant")
                .result(r#type)
                .with("value", IntegerAttribute::new(r#type, value)),
        )
    }

    /// An index as an integer.
    pub fn from_index(&self, index: Value<'c, '_>, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.index_cast")
                .operands(&[index])
                .result(element.r#type(self.ops)),
        )
    }

    /// The greater of two signed integers or indices.
    pub fn most_signed<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.maxsi", a, b)
    }

    /// The lesser of two signed integers or indices.
    pub fn least_signed<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.minsi", a, b)
    }

    /// The greatest of all lanes, signed.
    pub fn most_of_lanes(&self, value: Value<'c, '_>, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("vector.reduction")
                .operands(&[value])
                .result(element.r#type(self.ops))
                .with("kind", self.ops.most_kind()),
        )
    }

    /// `a < b` of signed scalars.
    pub fn is_less<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.compared(Compare::Less, a, b, self.ops.int(1))
    }

    /// `if condition { body() }`.
    pub fn when(&self, condition: Value<'c, '_>, body: impl for<'x> FnOnce(&Body<'c, 'x>)) {
        let region = Region::new();
        {
            let block = region.append_block(Block::new(&[]));
            let inner = Body::new(self.ops, block);
            body(&inner);
            inner.append(self.ops.make("scf.yield"));
        }
        self.block.append_operation(
            self.ops
                .make("scf.if")
                .operands(&[condition])
                .region(region)
                .region(Region::new())
                .build(),
        );
    }

    /// One instruction of the matrix unit on bfloat16: `sums [4 x 4] + left [4 x 8] * right [8 x 4]`, all as flat vectors
    /// in row-major order, the sums f32.
    pub fn multiply_tiles_bf16<'v>(
        &self,
        left: Value<'c, 'v>,
        right: Value<'c, 'v>,
        sums: Value<'c, 'v>,
    ) -> Value<'c, 'b> {
        let shaped = |value: Value<'c, 'v>, shape: [u64; 2], element: Element| {
            self.value(
                self.ops
                    .make("vector.shape_cast")
                    .operands(&[value])
                    .result(Type::vector(&shape, element.r#type(self.ops))),
            )
        };
        let widened = |value: Value<'c, 'v>, shape: [u64; 2]| {
            self.value(
                self.ops
                    .make("arith.extf")
                    .operands(&[shaped(value, shape, Element::Bf16)])
                    .result(Type::vector(&shape, Element::F32.r#type(self.ops))),
            )
        };
        let left = widened(left, [4, 8]);
        let right = widened(right, [8, 4]);
        let sums = shaped(sums, [4, 4], Element::F32);
        let product = self.value(
            self.ops
                .make("vector.contract")
                .operands(&[left, right, sums])
                .result(sums.r#type())
                .with("indexing_maps", self.ops.product_maps())
                .with("iterator_types", self.ops.product_iterators())
                .with("kind", self.ops.sum_kind()),
        );
        self.value(
            self.ops
                .make("vector.shape_cast")
                .operands(&[product])
                .result(self.vector_type(16, Element::F32)),
        )
    }
}
