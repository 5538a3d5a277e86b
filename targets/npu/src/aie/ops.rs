//! Making single ops: operands, attributes and types, spelled once.

use super::DialectVersion;
use melior::Context;
use melior::ir::attribute::{
    ArrayAttribute, BoolAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute,
    FlatSymbolRefAttribute, IntegerAttribute, StringAttribute,
};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::{IntegerType, MemRefType};
use melior::ir::{Attribute, Identifier, Location, Operation, Region, Type, Value};

/// What all builders share.
#[derive(Clone, Copy)]
pub(super) struct Ops<'c> {
    pub(super) context: &'c Context,
    pub(super) location: Location<'c>,
    pub(super) version: DialectVersion,
}

/// One dimension of a descriptor's walk over memory, in elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// How often.
    pub size: u32,
    /// How far apart.
    pub stride: u32,
}

/// An op being made.
pub(super) struct Make<'c, 'v> {
    ops: Ops<'c>,
    name: &'static str,
    operands: Vec<Value<'c, 'v>>,
    results: Vec<Type<'c>>,
    attributes: Vec<(Identifier<'c>, Attribute<'c>)>,
    regions: Vec<Region<'c>>,
}

impl<'c> Ops<'c> {
    pub(super) fn make<'v>(self, name: &'static str) -> Make<'c, 'v> {
        Make {
            ops: self,
            name,
            operands: Vec::new(),
            results: Vec::new(),
            attributes: Vec::new(),
            regions: Vec::new(),
        }
    }

    pub(super) fn index(self) -> Type<'c> {
        Type::index(self.context)
    }

    pub(super) fn int(self, bits: u32) -> Type<'c> {
        IntegerType::new(self.context, bits).into()
    }

    pub(super) fn memref(self, elements: u64, element: Type<'c>) -> Type<'c> {
        MemRefType::new(element, &[elements as i64], None, None).into()
    }

    pub(super) fn i32_attribute(self, value: i32) -> Attribute<'c> {
        IntegerAttribute::new(self.int(32), i64::from(value)).into()
    }

    pub(super) fn i64_attribute(self, value: i64) -> Attribute<'c> {
        IntegerAttribute::new(self.int(64), value).into()
    }

    pub(super) fn symbol(self, name: &str) -> Attribute<'c> {
        FlatSymbolRefAttribute::new(self.context, name).into()
    }

    pub(super) fn array(self, values: &[Attribute<'c>]) -> Attribute<'c> {
        ArrayAttribute::new(self.context, values).into()
    }

    /// `C[m, n] += A[m, k] * B[k, n]`, over `(m, n, k)`.
    pub(super) fn product_maps(self) -> Attribute<'c> {
        self.parsed(
            "[affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>]",
        )
    }

    pub(super) fn product_iterators(self) -> Attribute<'c> {
        self.parsed(
            "[#vector.iterator_type<parallel>, #vector.iterator_type<parallel>, #vector.iterator_type<reduction>]",
        )
    }

    pub(super) fn sum_kind(self) -> Attribute<'c> {
        self.parsed("#vector.kind<add>")
    }

    /// The greatest of signed integers.
    pub(super) fn most_kind(self) -> Attribute<'c> {
        self.parsed("#vector.kind<maxsi>")
    }

    /// An attribute that melior has no constructor for.
    fn parsed(self, text: &str) -> Attribute<'c> {
        Attribute::parse(self.context, text).expect("the text of an attribute")
    }

    /// The AIE dialects' own types are unknown to this context: they can only be read from text.
    fn opaque_type(self, text: &str) -> Type<'c> {
        Type::parse(self.context, text).expect("the text of a type of the AIE dialects")
    }

    /// Type of a FIFO of such elements.
    pub(super) fn fifo_type(self, element: Type<'c>) -> Type<'c> {
        self.opaque_type(&format!("!aie.objectfifo<{element}>"))
    }

    /// Type of what acquiring returns, in the older dialect.
    pub(super) fn subview_type(self, element: Type<'c>) -> Type<'c> {
        self.opaque_type(&format!("!aie.objectfifosubview<{element}>"))
    }

    /// A walk over memory, outermost dimension first; none: in order.
    pub(super) fn walk(self, steps: &[Step]) -> Attribute<'c> {
        self.parsed(&format!("#aie<bd_dim_layout_array{}>", walk_text(steps)))
    }

    /// A walk for each of several consumers.
    pub(super) fn walks(self, walks: &[&[Step]]) -> Attribute<'c> {
        let walks: Vec<String> = walks.iter().map(|steps| walk_text(steps)).collect();
        self.parsed(&format!(
            "#aie<bd_dim_layout_array_array[{}]>",
            walks.join(", ")
        ))
    }
}

fn walk_text(steps: &[Step]) -> String {
    let steps: Vec<String> = steps
        .iter()
        .map(|step| format!("<size = {}, stride = {}>", step.size, step.stride))
        .collect();
    format!("[{}]", steps.join(", "))
}

impl<'c, 'v> Make<'c, 'v> {
    pub(super) fn operands(mut self, operands: &[Value<'c, 'v>]) -> Self {
        self.operands.extend_from_slice(operands);
        self
    }

    pub(super) fn result(mut self, r#type: Type<'c>) -> Self {
        self.results.push(r#type);
        self
    }

    pub(super) fn results(mut self, types: &[Type<'c>]) -> Self {
        self.results.extend_from_slice(types);
        self
    }

    pub(super) fn region(mut self, region: Region<'c>) -> Self {
        self.regions.push(region);
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Attribute<'c>>) -> Self {
        let name = Identifier::new(self.ops.context, name);
        self.attributes.push((name, value.into()));
        self
    }

    pub(super) fn i32(self, name: &str, value: i32) -> Self {
        let value = self.ops.i32_attribute(value);
        self.with(name, value)
    }

    pub(super) fn i64(self, name: &str, value: i64) -> Self {
        let value = IntegerAttribute::new(self.ops.int(64), value);
        self.with(name, value)
    }

    pub(super) fn bool(self, name: &str, value: bool) -> Self {
        let value = BoolAttribute::new(self.ops.context, value);
        self.with(name, value)
    }

    pub(super) fn text(self, name: &str, value: &str) -> Self {
        let value = StringAttribute::new(self.ops.context, value);
        self.with(name, value)
    }

    pub(super) fn symbol(self, name: &str, symbol: &str) -> Self {
        let value = self.ops.symbol(symbol);
        self.with(name, value)
    }

    pub(super) fn i32s(self, name: &str, values: &[i32]) -> Self {
        let value = DenseI32ArrayAttribute::new(self.ops.context, values);
        self.with(name, value)
    }

    pub(super) fn i64s(self, name: &str, values: &[i64]) -> Self {
        let value = DenseI64ArrayAttribute::new(self.ops.context, values);
        self.with(name, value)
    }

    pub(super) fn build(self) -> Operation<'c> {
        OperationBuilder::new(self.name, self.ops.location)
            .add_operands(&self.operands)
            .add_results(&self.results)
            .add_attributes(&self.attributes)
            .add_regions_vec(self.regions)
            .build()
            .expect("results are stated, so nothing can be left to infer")
    }
}
