//! What core programs are compiled to: instructions over three files of registers.
//!
//! Words of 32 bits hold scalars and vectors (a vector is a run of words, padded to [`LANES`]), wide registers hold
//! indices and integers of 64 bits, views hold memory. A register is written once, after what it is made from: the
//! interpreter relies on operands lying in front of results. Only [`Instr::Copy`] goes backwards, into what a loop
//! carries.

use crate::module::{
    Compare, FloatBinary, FloatCompare, IntBinary, MathFunction, Reduction, Scalar,
};

/// Vectors are padded to so many words.
pub const LANES: usize = 16;

/// A run of words: where it starts.
pub type Word = u32;
/// A wide register.
pub type Wide = u32;
/// A register of memory.
pub type View = u32;

/// One index of an access.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Register that holds it.
    pub register: Wide,
    /// Elements from one to the next.
    pub stride: i64,
    /// The last value that stays inside.
    pub last: i64,
}

/// An access to memory.
#[derive(Clone, Debug)]
pub struct Access {
    /// The memory.
    pub view: View,
    /// Indices, outermost first.
    pub indices: Box<[Index]>,
    /// Where each contiguous row of the window starts, in elements behind the indices.
    pub rows: Box<[i64]>,
    /// Elements of a row.
    pub row: u32,
    /// What they are.
    pub element: Scalar,
}

/// Shape of a matrix product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of the left operand.
    pub m: u32,
    /// Columns of it.
    pub k: u32,
    /// Columns of the right one.
    pub n: u32,
    /// Whether the right operand is given as n rows of k.
    pub transposed: bool,
    /// Arithmetic.
    pub kind: ProductKind,
}

/// Arithmetic of a matrix product.
#[derive(Clone, Copy, Debug)]
pub enum ProductKind {
    /// Integers whose sums of products are exact in an f32.
    Small,
    /// Integers; 32 minus the width of the sums.
    Int(u32),
    /// Floating-point numbers, sums in f32.
    Float,
    /// Floating-point numbers, sums in bfloat16.
    Bf16,
}

/// An instruction. `d` is written; `n` is a number of words.
#[derive(Clone, Debug)]
pub enum Instr {
    Jump(u32),
    /// Leaves a loop when its variable has reached the end.
    ForTest {
        variable: Wide,
        end: Wide,
        exit: u32,
    },
    ForNext {
        variable: Wide,
        step: Wide,
        head: u32,
    },
    BranchUnless {
        condition: Word,
        to: u32,
    },
    /// Time and counts of the straight code behind it.
    Account(Box<Account>),
    Exit,
    Acquire {
        end: u32,
        count: u32,
        view: View,
    },
    Element {
        end: u32,
        index: u32,
        d: View,
    },
    Release {
        end: u32,
        count: u32,
    },
    UseLock {
        lock: u32,
        acquire: bool,
        exact: bool,
        value: i64,
    },

    WideConst {
        d: Wide,
        value: i64,
    },
    WideCopy {
        d: Wide,
        a: Wide,
    },
    WideBinary {
        op: IntBinary,
        d: Wide,
        a: Wide,
        b: Wide,
    },
    WideCompare {
        compare: Compare,
        d: Word,
        a: Wide,
        b: Wide,
    },
    WideSelect {
        d: Wide,
        condition: Word,
        a: Wide,
        b: Wide,
    },
    WideFromWord {
        d: Wide,
        a: Word,
        mask: u64,
    },
    WordFromWide {
        d: Word,
        a: Wide,
        shift: u32,
    },
    WideToFloat {
        d: Word,
        a: Wide,
        signed: bool,
    },
    FloatToWide {
        d: Wide,
        a: Word,
        signed: bool,
    },
    WideLoad {
        d: Wide,
        access: Box<Access>,
    },
    WideStore {
        a: Wide,
        access: Box<Access>,
    },

    ViewCopy {
        d: View,
        a: View,
    },
    ViewMove {
        d: View,
        a: View,
        offset_bytes: i64,
        terms: Box<[(Wide, i64)]>,
    },
    ViewFresh {
        view: View,
    },

    Load {
        d: Word,
        access: Box<Access>,
    },
    Store {
        a: Word,
        access: Box<Access>,
    },

    Const {
        d: Word,
        lanes: Box<[i32]>,
    },
    Copy {
        d: Word,
        a: Word,
        n: u32,
    },
    IntBinary {
        op: IntBinary,
        d: Word,
        a: Word,
        b: Word,
        n: u32,
        shift: u32,
    },
    IntCompare {
        compare: Compare,
        d: Word,
        a: Word,
        b: Word,
        n: u32,
    },
    FloatBinary {
        op: FloatBinary,
        d: Word,
        a: Word,
        b: Word,
        n: u32,
    },
    FloatCompare {
        compare: FloatCompare,
        d: Word,
        a: Word,
        b: Word,
        n: u32,
    },
    Math {
        function: MathFunction,
        d: Word,
        a: Word,
        n: u32,
    },
    RoundBf16 {
        d: Word,
        n: u32,
    },
    AbsInt {
        d: Word,
        a: Word,
        n: u32,
        shift: u32,
    },
    Select {
        d: Word,
        c: Word,
        a: Word,
        b: Word,
        n: u32,
    },
    /// One condition for all.
    SelectAll {
        d: Word,
        c: Word,
        a: Word,
        b: Word,
        n: u32,
    },
    ExtendUnsigned {
        d: Word,
        a: Word,
        n: u32,
        shift: u32,
    },
    Truncate {
        d: Word,
        a: Word,
        n: u32,
        shift: u32,
    },
    IntToFloat {
        d: Word,
        a: Word,
        n: u32,
        signed: bool,
        shift: u32,
    },
    FloatToInt {
        d: Word,
        a: Word,
        n: u32,
        signed: bool,
        shift: u32,
    },
    Bitcast {
        d: Word,
        a: Word,
        from: Scalar,
        to: Scalar,
        from_lanes: u32,
        to_lanes: u32,
    },
    Fma {
        d: Word,
        a: Word,
        b: Word,
        c: Word,
        n: u32,
    },
    /// Repeats `a` of `n` words to `count` words.
    Fill {
        d: Word,
        a: Word,
        n: u32,
        count: u32,
    },
    /// Word `i` is word `from[i]` of `a`.
    Gather {
        d: Word,
        a: Word,
        from: Box<[u32]>,
    },
    /// Word `i` is word `from[i]` of `a` and, behind its `n`, of `b`.
    Gather2 {
        d: Word,
        a: Word,
        b: Word,
        n: u32,
        from: Box<[u32]>,
    },
    /// Word `i` of the concatenation of scalars.
    Collect {
        d: Word,
        from: Box<[Word]>,
    },
    /// A copy of `a` of `n` words with `b` of `count` words put at `at`, and so on through `rows` of the stride.
    Replace {
        d: Word,
        a: Word,
        n: u32,
        b: Word,
        rows: Box<[u32]>,
        row: u32,
    },
    /// Words of `a` at an index computed while it runs.
    ExtractAt {
        d: Word,
        a: Word,
        base: u32,
        terms: Box<[(Wide, u32, u32)]>,
        n: u32,
    },
    InsertAt {
        d: Word,
        a: Word,
        n: u32,
        b: Word,
        base: u32,
        terms: Box<[(Wide, u32, u32)]>,
        count: u32,
    },
    Product {
        d: Word,
        a: Word,
        b: Word,
        c: Word,
        product: Product,
    },
    /// For each step: word of the sums, of the left and of the right operand.
    Contract {
        d: Word,
        a: Word,
        b: Word,
        c: Word,
        n: u32,
        steps: Box<[(u32, u32, u32)]>,
        kind: Reduction,
        arithmetic: ProductKind,
    },
    /// Word `into[i]` of the result takes in word `i` of `a`.
    Reduce {
        d: Word,
        a: Word,
        c: Option<Word>,
        n: u32,
        into: Box<[u32]>,
        kind: Reduction,
        float: bool,
        shift: u32,
    },
}

/// Time and counts of straight code.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Sixteenths of a cycle.
    pub ticks: u64,
    /// Matrix instructions.
    pub matrix: u64,
    /// Bytes loaded.
    pub loaded: u64,
    /// Bytes stored.
    pub stored: u64,
}

/// Where an instruction came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Index into [`Program::names`].
    pub name: u32,
    /// Line of the text.
    pub line: u32,
}

/// A compiled program.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Instructions.
    pub code: Vec<Instr>,
    /// Where each came from.
    pub origins: Vec<Origin>,
    /// Names of ops.
    pub names: Vec<String>,
    /// Words.
    pub words: usize,
    /// Wide registers.
    pub wides: usize,
    /// Views.
    pub views: usize,
    /// Views of fixed memory: register and memory.
    pub fixed: Vec<(View, Memory)>,
}

/// Memory that a program has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A buffer of the device.
    Buffer(usize),
    /// Its stack: so many bytes.
    Stack(usize),
}
