//! What cores do lane by lane beside integers: arithmetic of floats, comparing and choosing, scalars into and out of
//! vectors, and the transposition of small tiles.

use super::body::{Body, Element};
use melior::ir::{Type, Value, ValueLike};

/// What of two integers is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// Whether they are equal.
    Equal,
    /// Whether the first is less, as signed numbers.
    Less,
}

impl Compare {
    /// The value of `arith.cmpi`'s predicate.
    fn predicate(self) -> i64 {
        match self {
            Compare::Equal => 0,
            Compare::Less => 2,
        }
    }
}

impl<'c, 'b> Body<'c, 'b> {
    /// `a + b` of floats.
    pub fn add_float<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.addf", a, b)
    }

    /// The greater of two indices.
    pub fn most<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.maxui", a, b)
    }

    /// The greater of two floats.
    pub fn most_float<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.maximumf", a, b)
    }

    /// The lesser of two floats.
    pub fn least_float<'v>(&self, a: Value<'c, 'v>, b: Value<'c, 'v>) -> Value<'c, 'b> {
        self.binary("arith.minimumf", a, b)
    }

    /// Lanes as wider floats of the same value.
    pub fn widen_float(&self, value: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.extf")
                .operands(&[value])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// Whether it holds, lane by lane.
    pub fn compare<'v>(
        &self,
        compare: Compare,
        a: Value<'c, 'v>,
        b: Value<'c, 'v>,
        lanes: u64,
    ) -> Value<'c, 'b> {
        let truths = Type::vector(&[lanes], self.ops.int(1));
        self.compared(compare, a, b, truths)
    }

    /// A comparison of scalars or of vectors, whose truths are of this type.
    pub(super) fn compared<'v>(
        &self,
        compare: Compare,
        a: Value<'c, 'v>,
        b: Value<'c, 'v>,
        truths: Type<'c>,
    ) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.cmpi")
                .operands(&[a, b])
                .result(truths)
                .i64("predicate", compare.predicate()),
        )
    }

    /// `condition ? a : b`, lane by lane.
    pub fn select<'v>(
        &self,
        condition: Value<'c, 'v>,
        a: Value<'c, 'v>,
        b: Value<'c, 'v>,
    ) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("arith.select")
                .operands(&[condition, a, b])
                .result(a.r#type()),
        )
    }

    /// A scalar in every lane.
    pub fn spread(&self, scalar: Value<'c, '_>, lanes: u64, element: Element) -> Value<'c, 'b> {
        self.value(
            self.ops
                .make("vector.broadcast")
                .operands(&[scalar])
                .result(self.vector_type(lanes, element)),
        )
    }

    /// `memory[at] = value`.
    pub fn store_scalar<'v>(&self, value: Value<'c, 'v>, memory: Value<'c, 'v>, at: Value<'c, 'v>) {
        self.append(self.ops.make("memref.store").operands(&[value, memory, at]));
    }

    /// A flat vector of `rows x columns` with rows and columns exchanged, flat again.
    pub fn transpose(
        &self,
        value: Value<'c, '_>,
        [rows, columns]: [u64; 2],
        element: Element,
    ) -> Value<'c, 'b> {
        let element_type = element.r#type(self.ops);
        let cast = |value, r#type| {
            self.value(
                self.ops
                    .make("vector.shape_cast")
                    .operands(&[value])
                    .result(r#type),
            )
        };
        let shaped = cast(value, Type::vector(&[rows, columns], element_type));
        let transposed = self.value(
            self.ops
                .make("vector.transpose")
                .operands(&[shaped])
                .result(Type::vector(&[columns, rows], element_type))
                .i64s("permutation", &[1, 0]),
        );
        cast(transposed, self.vector_type(rows * columns, element))
    }
}
