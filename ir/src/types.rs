//! Element types, dimensions and tensor types.

use std::fmt;

/// Element type of a tensor, or storage format of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 32-bit two's complement: token ids, positions, slots.
    I32,
    /// 8-bit integers in groups of [`DType::GROUP`] along a row, one f16 scale a group: 8.5 bits a weight.
    Q8,
    /// 4-bit integers in groups of [`DType::GROUP`] along a row, one f16 scale a group: 4.5 bits a weight.
    Q4,
}

impl DType {
    /// Weights a scale covers in the quantized formats, counted along a row (the reduction dimension).
    pub const GROUP: usize = 32;

    /// Every dtype, for parsers and tests.
    pub const ALL: [DType; 6] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I32,
        DType::Q8,
        DType::Q4,
    ];

    /// The spelling in `.gir` text.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::Q8 => "q8",
            DType::Q4 => "q4",
        }
    }

    /// Whether the format stores integers with group scales.
    pub fn is_quantized(self) -> bool {
        match self {
            DType::Q8 | DType::Q4 => true,
            DType::F32 | DType::F16 | DType::Bf16 | DType::I32 => false,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dimension of a value: known, or bounded by the module's [`DimBounds`](crate::DimBounds) and given at each call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// Known at compile time.
    Const(u32),
    /// `?seq`: rows (tokens) of this call, of one or of several sequences.
    Seq,
    /// `?out`: rows whose logits are asked for.
    Out,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Seq => f.write_str("?seq"),
            Dim::Out => f.write_str("?out"),
        }
    }
}

/// Type of a value: `f32[?seq, 1152]`.
///
/// Values are matrices `[rows, columns]` of f32, or vectors `[rows]` of i32 (ids, positions, slots, row indices).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// `f32[rows, cols]`.
    pub fn matrix(rows: Dim, cols: u32) -> Self {
        Self {
            dtype: DType::F32,
            shape: vec![rows, Dim::Const(cols)],
        }
    }

    /// `i32[rows]`.
    pub fn index(rows: Dim) -> Self {
        Self {
            dtype: DType::I32,
            shape: vec![rows],
        }
    }

    /// Rows and columns if this is an f32 matrix of known width.
    pub fn as_matrix(&self) -> Option<(Dim, u32)> {
        match (self.dtype, self.shape.as_slice()) {
            (DType::F32, &[rows, Dim::Const(cols)]) => Some((rows, cols)),
            _ => None,
        }
    }

    /// Rows if this is an i32 vector.
    pub fn as_index(&self) -> Option<Dim> {
        match (self.dtype, self.shape.as_slice()) {
            (DType::I32, &[rows]) => Some(rows),
            _ => None,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
