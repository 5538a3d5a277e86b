//! Types of values in core programs, read from MLIR's text of them.

use std::fmt;

/// An element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scalar {
    /// Integer of so many bits, without a sign of its own.
    Int(u8),
    /// Size of an address.
    Index,
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
}

impl Scalar {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Scalar> {
        Some(match text {
            "index" => Scalar::Index,
            "bf16" => Scalar::Bf16,
            "f32" => Scalar::F32,
            "i1" => Scalar::Int(1),
            "i4" | "ui4" | "si4" => Scalar::Int(4),
            "i8" | "ui8" | "si8" => Scalar::Int(8),
            "i16" | "ui16" | "si16" => Scalar::Int(16),
            "i32" | "ui32" | "si32" => Scalar::Int(32),
            "i64" | "ui64" | "si64" => Scalar::Int(64),
            _ => return None,
        })
    }

    /// Bits of one.
    pub fn bits(self) -> u32 {
        match self {
            Scalar::Int(bits) => u32::from(bits),
            Scalar::Index => 64,
            Scalar::Bf16 => 16,
            Scalar::F32 => 32,
        }
    }

    /// Whether it is a floating-point number.
    pub fn is_float(self) -> bool {
        match self {
            Scalar::Bf16 | Scalar::F32 => true,
            Scalar::Int(_) | Scalar::Index => false,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Scalar::Int(bits) => write!(f, "i{bits}"),
            Scalar::Index => f.write_str("index"),
            Scalar::Bf16 => f.write_str("bf16"),
            Scalar::F32 => f.write_str("f32"),
        }
    }
}

/// A view of memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MemRef {
    /// Sizes, outermost first.
    pub shape: Vec<i64>,
    /// Strides, outermost first, in elements.
    pub strides: Vec<i64>,
    /// What it holds.
    pub element: Scalar,
}

impl MemRef {
    /// Contiguous memory.
    pub fn contiguous(shape: Vec<i64>, element: Scalar) -> MemRef {
        let mut strides = vec![1; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension] * shape[dimension].max(1);
        }
        MemRef {
            shape,
            strides,
            element,
        }
    }

    /// Elements.
    pub fn elements(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Bytes, were it contiguous.
    pub fn bytes(&self) -> i64 {
        self.elements() * i64::from(self.element.bits()) / 8
    }

    fn parse(text: &str) -> Option<MemRef> {
        let mut parts = split(text).into_iter();
        let head = parts.next()?;
        let (shape, element) = shape_of(head)?;
        let mut memory = MemRef::contiguous(shape, element);
        for part in parts {
            // A layout, or a memory space, which means nothing here.
            let Some(layout) = part.strip_prefix("strided<") else {
                continue;
            };
            let strides = layout.strip_prefix('[')?.split_once(']')?.0;
            memory.strides = list(strides)
                .map(|stride| stride.parse().ok())
                .collect::<Option<_>>()?;
        }
        Some(memory)
    }
}

impl fmt::Display for MemRef {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("memref<")?;
        for size in &self.shape {
            write!(f, "{size}x")?;
        }
        write!(f, "{}>", self.element)
    }
}

/// Largest vector that is read; the array's registers hold far less.
const MOST_LANES: i64 = 1 << 20;

/// Type of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// One element.
    Scalar(Scalar),
    /// A vector.
    Vector {
        /// Sizes, outermost first.
        shape: Vec<i64>,
        /// What it holds.
        element: Scalar,
    },
    /// Memory.
    Memory(MemRef),
    /// Elements of a FIFO that a core holds.
    Subview(MemRef),
}

impl Type {
    /// Reads MLIR's text.
    pub fn parse(text: &str) -> Option<Type> {
        let inside = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('>');
        if let Some(inner) = inside("vector<") {
            let (shape, element) = shape_of(inner)?;
            (shape.iter().product::<i64>() <= MOST_LANES).then_some(())?;
            return Some(Type::Vector { shape, element });
        }
        if let Some(inner) = inside("memref<") {
            return Some(Type::Memory(MemRef::parse(inner)?));
        }
        for wrapper in ["!aie.objectfifosubview<", "!aie.objectfifo<"] {
            if let Some(inner) = inside(wrapper) {
                return match Type::parse(inner)? {
                    Type::Memory(memory) => Some(Type::Subview(memory)),
                    Type::Scalar(_) | Type::Vector { .. } | Type::Subview(_) => None,
                };
            }
        }
        Some(Type::Scalar(Scalar::parse(text)?))
    }

    /// The element, if it is a scalar or a vector.
    pub fn element(&self) -> Option<Scalar> {
        match self {
            Type::Scalar(element) | Type::Vector { element, .. } => Some(*element),
            Type::Memory(_) | Type::Subview(_) => None,
        }
    }

    /// Elements of a scalar or a vector.
    pub fn lanes(&self) -> usize {
        match self {
            Type::Scalar(_) => 1,
            Type::Vector { shape, .. } => shape.iter().product::<i64>().max(0) as usize,
            Type::Memory(_) | Type::Subview(_) => 0,
        }
    }

    /// Sizes of a vector, outermost first; none of a scalar.
    pub fn shape(&self) -> &[i64] {
        match self {
            Type::Scalar(_) => &[],
            Type::Vector { shape, .. } => shape,
            Type::Memory(memory) | Type::Subview(memory) => &memory.shape,
        }
    }
}

/// `4x8xi32` to sizes and element; sizes that are not constants are refused.
fn shape_of(text: &str) -> Option<(Vec<i64>, Scalar)> {
    let mut shape: Vec<i64> = Vec::new();
    let mut rest = text.trim();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let (size, after) = rest.split_once('x')?;
        shape.push(size.parse().ok()?);
        rest = after;
    }
    // Larger than any buffer of a host: sums of products of such sizes stay inside an i64.
    let elements = shape
        .iter()
        .try_fold(1i64, |product, size| product.checked_mul((*size).max(1)))?;
    (elements <= 1 << 40).then_some(())?;
    Some((shape, Scalar::parse(rest)?))
}

/// Parts between commas that stand in no bracket.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' | '[' | '(' | '{' => depth += 1,
            '>' if previous != '-' => depth -= 1,
            ']' | ')' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        previous = c;
    }
    let last = text[start..].trim();
    if !last.is_empty() || !parts.is_empty() {
        parts.push(last);
    }
    parts
}

/// Parts between commas, trimmed; none of an empty text.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_from_their_text() {
        assert_eq!(
            Type::parse("vector<4x8xi32>"),
            Some(Type::Vector {
                shape: vec![4, 8],
                element: Scalar::Int(32)
            })
        );
        let Some(Type::Memory(strided)) =
            Type::parse("memref<4x8xbf16, strided<[16, 1], offset: ?>>")
        else {
            panic!("a strided memory");
        };
        assert_eq!(strided.strides, [16, 1]);
        assert_eq!(strided.bytes(), 64);
        assert!(matches!(
            Type::parse("!aie.objectfifosubview<memref<1024xi8>>"),
            Some(Type::Subview(memory)) if memory.bytes() == 1024
        ));
        assert_eq!(Type::parse("vector<[4]xi32>"), None);
        assert_eq!(Type::parse("memref<?xi8>"), None);
    }
}
