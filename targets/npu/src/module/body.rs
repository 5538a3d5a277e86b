//! Programs of cores as a tree of ops: what the upstream dialects and the AIE dialect's core ops mean, decoded once.

use super::{Port, Type};

/// A value of a body: an index into [`Body::values`].
pub type ValueId = usize;

/// A program.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Body {
    /// Types of all values.
    pub values: Vec<Type>,
    /// Values that come from the device around the program.
    pub captures: Vec<(ValueId, Capture)>,
    /// What it does.
    pub block: Block,
}

/// What a program takes from the device around it.
#[derive(Clone, PartialEq, Debug)]
pub enum Capture {
    /// A buffer.
    Buffer(usize),
    /// A lock.
    Lock(usize),
    /// A constant.
    Constant(Constant),
}

/// Ops in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Block {
    /// Values it is entered with.
    pub arguments: Vec<ValueId>,
    /// Its ops.
    pub ops: Vec<Op>,
}

/// An op.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    /// MLIR's name of it.
    pub name: String,
    /// Line of the text.
    pub line: usize,
    /// What it does.
    pub kind: OpKind,
    /// What it takes.
    pub operands: Vec<ValueId>,
    /// What it gives.
    pub results: Vec<ValueId>,
    /// Its regions, each of one block.
    pub blocks: Vec<Block>,
}

/// Elements of a constant, outermost first: integers with their sign extended, floating-point numbers as the bits of an
/// f32.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Constant {
    /// One for each element.
    pub lanes: Vec<i64>,
}

/// For each dimension of something the dimension it comes from, or none.
pub type Spread = Vec<Option<usize>>;

/// Operations of two integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in MLIR's arith dialect")]
pub enum IntBinary {
    Add,
    Sub,
    Mul,
    DivSigned,
    DivUnsigned,
    FloorDivSigned,
    CeilDivSigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MinUnsigned,
    MaxSigned,
    MaxUnsigned,
    ShiftLeft,
    ShiftRightSigned,
    ShiftRightUnsigned,
    And,
    Or,
    Xor,
}

/// Operations of two floating-point numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in MLIR's arith dialect")]
pub enum FloatBinary {
    Add,
    Sub,
    Mul,
    Div,
    /// What is no number wins.
    Maximum,
    /// What is no number wins.
    Minimum,
    /// What is no number loses.
    MaxNum,
    /// What is no number loses.
    MinNum,
}

/// Functions of one floating-point number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in MLIR's math dialect")]
pub enum MathFunction {
    Negate,
    Abs,
    Exp,
    Exp2,
    Log,
    Log2,
    Sqrt,
    Rsqrt,
    Tanh,
    Erf,
    Sin,
    Cos,
    Floor,
    Ceil,
    Round,
    RoundEven,
}

/// Comparisons of integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in MLIR's arith dialect")]
pub enum Compare {
    Eq,
    Ne,
    LtSigned,
    LeSigned,
    GtSigned,
    GeSigned,
    LtUnsigned,
    LeUnsigned,
    GtUnsigned,
    GeUnsigned,
}

/// Comparisons of floating-point numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloatCompare {
    /// Holds of equal numbers.
    pub equal: bool,
    /// Holds where the left is greater.
    pub greater: bool,
    /// Holds where the left is less.
    pub less: bool,
    /// Holds where one is no number.
    pub unordered: bool,
}

/// How a reduction combines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as in MLIR's vector dialect")]
pub enum Reduction {
    Add,
    Mul,
    MinSigned,
    MinUnsigned,
    MaxSigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    /// What is no number wins.
    Maximum,
    /// What is no number wins.
    Minimum,
    /// What is no number loses.
    MaxNum,
    /// What is no number loses.
    MinNum,
}

/// A contraction: which of its loops each operand's dimensions follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contraction {
    /// Number of loops.
    pub loops: usize,
    /// Loops of the left operand.
    pub left: Vec<usize>,
    /// Loops of the right operand.
    pub right: Vec<usize>,
    /// Loops of the accumulator.
    pub accumulator: Vec<usize>,
    /// How products are combined.
    pub kind: Reduction,
}

/// What an op does.
#[derive(Clone, PartialEq, Debug)]
pub enum OpKind {
    /// `arith.constant`.
    Constant(Constant),
    /// `arith.addi` and its like.
    IntBinary(IntBinary),
    /// `arith.addf` and its like.
    FloatBinary(FloatBinary),
    /// `math.exp` and its like.
    Math(MathFunction),
    /// `math.absi`.
    AbsInt,
    /// `arith.cmpi`.
    Compare(Compare),
    /// `arith.cmpf`.
    FloatCompare(FloatCompare),
    /// `arith.select`.
    Select,
    /// `arith.extsi`, `arith.index_cast`.
    ExtendSigned,
    /// `arith.extui`, `arith.index_castui`.
    ExtendUnsigned,
    /// `arith.trunci`.
    Truncate,
    /// `arith.sitofp`, `arith.uitofp`.
    IntToFloat {
        /// Whether the integer has a sign.
        signed: bool,
    },
    /// `arith.fptosi`, `arith.fptoui`.
    FloatToInt {
        /// Whether the integer has a sign.
        signed: bool,
    },
    /// `arith.extf`.
    ExtendFloat,
    /// `arith.truncf`.
    TruncateFloat,
    /// `arith.bitcast`, `vector.bitcast`.
    Bitcast,
    /// `vector.fma`, `math.fma`.
    Fma,
    /// `scf.for`: bounds, step and initial values; one block.
    For,
    /// `scf.if`: one block or two.
    If,
    /// `scf.while`: condition and body.
    While,
    /// `scf.condition`.
    Condition,
    /// `scf.yield`.
    Yield,
    /// `func.return`.
    Return,
    /// `aie.end`.
    End,
    /// `func.call`.
    Call {
        /// The function.
        callee: String,
    },
    /// `memref.alloca`, `memref.alloc`.
    Allocate,
    /// `memref.load`.
    Load,
    /// `memref.store`.
    Store,
    /// `memref.subview`: a constant offset in elements, and strides of the operands behind the memory.
    Subview {
        /// Constant part of the offset.
        offset: i64,
        /// Stride of each dynamic offset.
        strides: Vec<i64>,
    },
    /// `memref.cast`, `memref.collapse_shape`, `memref.expand_shape`, `memref.reinterpret_cast` without an offset.
    MemoryCast {
        /// Elements that the view starts later.
        offset: i64,
    },
    /// `memref.view`: the operand behind the memory is an offset in bytes.
    ByteView,
    /// `memref.assume_alignment`, `vector.load`'s like: the memory itself.
    SameMemory,
    /// `vector.load`, `vector.transfer_read` of the innermost dimensions.
    VectorLoad {
        /// Operands behind the indices, which say what stands outside; must not be needed.
        padding: usize,
        /// Whether it was a transfer, whose windows the vendor's lowering takes for contiguous.
        transfer: bool,
    },
    /// `vector.store`, `vector.transfer_write`.
    VectorStore {
        /// Whether it was a transfer.
        transfer: bool,
    },
    /// `vector.broadcast`, `vector.splat`.
    Broadcast,
    /// `vector.shape_cast`.
    ShapeCast,
    /// `vector.extract`: static positions, then operands for the negative ones.
    Extract {
        /// Positions, outermost first; none for a dynamic one.
        position: Vec<Option<i64>>,
    },
    /// `vector.insert`.
    Insert {
        /// Positions, outermost first; none for a dynamic one.
        position: Vec<Option<i64>>,
    },
    /// `vector.from_elements`.
    FromElements,
    /// `vector.transpose`.
    Transpose {
        /// For each dimension of the result that of the operand.
        permutation: Vec<usize>,
    },
    /// `vector.contract`.
    Contract(Contraction),
    /// `vector.multi_reduction`, `vector.reduction`.
    Reduce {
        /// How.
        kind: Reduction,
        /// Dimensions that go away.
        dimensions: Vec<usize>,
    },
    /// `vector.shuffle`.
    Shuffle {
        /// For each row of the result that of both operands together.
        mask: Vec<i64>,
    },
    /// `vector.interleave`.
    Interleave,
    /// `vector.deinterleave`.
    Deinterleave,
    /// `vector.extract_strided_slice`.
    ExtractSlice {
        /// Offsets of the leading dimensions.
        offsets: Vec<i64>,
    },
    /// `vector.insert_strided_slice`.
    InsertSlice {
        /// Offsets of all dimensions.
        offsets: Vec<i64>,
    },
    /// `vector.step`.
    Step,
    /// `aie.objectfifo.acquire`; it gives a subview, or the first element itself.
    Acquire {
        /// The FIFO.
        fifo: usize,
        /// Side.
        port: Port,
        /// Elements held afterwards.
        count: i64,
    },
    /// `aie.objectfifo.subview.access`.
    Access {
        /// Which of the elements held.
        index: i64,
    },
    /// `aie.objectfifo.release`.
    Release {
        /// The FIFO.
        fifo: usize,
        /// Side.
        port: Port,
        /// Elements given away.
        count: i64,
    },
    /// `aie.use_lock`.
    UseLock {
        /// Whether it waits and takes, or gives.
        acquire: bool,
        /// Whether it waits for exactly this value.
        exact: bool,
        /// How many.
        value: i64,
    },
}

impl Block {
    /// Calls `visit` with every op, those of regions behind the op they belong to.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Op)) {
        for op in &self.ops {
            visit(op);
            for block in &op.blocks {
                block.walk(visit);
            }
        }
    }
}
