//! Attributes read from MLIR's text of them.
//!
//! Text, because the attributes of the AIE dialects are opaque to MLIR, and because one way for all is less than two.

use super::body::{Constant, Spread};
use super::types::{Scalar, Type, list, split};
use super::{Pattern, Type as ValueType};

/// Largest magnitude that an attribute may have: products of two and a few bytes stay inside an i64, and no array has
/// anything as large.
const LARGEST: i64 = 1 << 30;

/// `5 : i32`, `-1`, `true`; larger ones than [`LARGEST`] are refused, but for MLIR's mark of what is dynamic.
pub fn int(text: &str) -> Option<i64> {
    let number = text.split_once(" : ").map_or(text, |(number, _)| number);
    match number.trim() {
        "true" | "unit" => Some(1),
        "false" => Some(0),
        number => number
            .parse()
            .ok()
            .filter(|value: &i64| *value == i64::MIN || (-LARGEST..=LARGEST).contains(value)),
    }
}

/// A value of 32 bits with a sign or without.
pub fn word(text: &str) -> Option<i64> {
    let number = text.split_once(" : ").map_or(text, |(number, _)| number);
    let value: i64 = number.trim().parse().ok()?;
    (i64::from(i32::MIN)..=i64::from(u32::MAX))
        .contains(&value)
        .then_some(value)
}

/// `[0, 1024]`, `array<i64: 0, 1024>`.
pub fn ints(text: &str) -> Option<Vec<i64>> {
    if let Some(inner) = text
        .strip_prefix("array<")
        .and_then(|text| text.strip_suffix('>'))
    {
        let values = inner.split_once(':').map_or("", |(_, values)| values);
        return list(values).map(int).collect();
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    list(inner).map(int).collect()
}

/// `@name`.
pub fn symbol(text: &str) -> Option<&str> {
    let name = text.strip_prefix('@')?;
    Some(
        name.strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'))
            .unwrap_or(name),
    )
}

/// `[@a, @b]`.
pub fn symbols(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    list(inner).map(symbol).collect()
}

/// `"name"`.
pub fn string(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

/// `#aie<bd_dim_layout_array[<size = 8, stride = 128>, ...]>`, or `[]`.
pub fn pattern(text: &str) -> Option<Pattern> {
    if text == "[]" {
        return Some(Pattern::default());
    }
    let inner = text
        .strip_prefix("#aie<bd_dim_layout_array")?
        .strip_suffix('>')?;
    pattern_list(inner)
}

/// `#aie<bd_dim_layout_array_array[[...], [...]]>`, or `[]`.
pub fn patterns(text: &str) -> Option<Vec<Pattern>> {
    if text == "[]" {
        return Some(Vec::new());
    }
    let inner = text
        .strip_prefix("#aie<bd_dim_layout_array_array[")?
        .strip_suffix("]>")?;
    split(inner).into_iter().map(pattern_list).collect()
}

fn pattern_list(text: &str) -> Option<Pattern> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    split(inner)
        .into_iter()
        .map(|part| {
            let part = part.strip_prefix('<')?.strip_suffix('>')?;
            let (size, stride) = part.split_once(',')?;
            let size = size.trim().strip_prefix("size")?.trim_start();
            let stride = stride.trim().strip_prefix("stride")?.trim_start();
            Some((
                int(size.strip_prefix('=')?)?,
                int(stride.strip_prefix('=')?)?,
            ))
        })
        .collect::<Option<_>>()
        .map(Pattern)
}

/// `affine_map<(d0, d1, d2) -> (d0, d2)>` as the input of each result; none for a constant zero.
pub fn projection(text: &str) -> Option<(usize, Spread)> {
    let inner = text.strip_prefix("affine_map<")?.strip_suffix('>')?;
    let (inputs, results) = inner.split_once("->")?;
    let inputs: Vec<&str> = list(inputs.trim().strip_prefix('(')?.strip_suffix(')')?).collect();
    let results = results.trim().strip_prefix('(')?.strip_suffix(')')?;
    let spread = list(results)
        .map(|result| {
            if result == "0" {
                return Some(None);
            }
            inputs.iter().position(|input| *input == result).map(Some)
        })
        .collect::<Option<_>>()?;
    Some((inputs.len(), spread))
}

/// `0 : i32`, `1.0 : f32`, `dense<0> : vector<8xi32>`, `dense<"0x...">`.
pub fn constant(text: &str) -> Option<Constant> {
    if text == "true" || text == "false" {
        return Some(Constant {
            lanes: vec![-int(text)?],
        });
    }
    let (value, ty) = text.rsplit_once(" : ")?;
    let ty = match ty.strip_prefix("tensor<").or(ty.strip_prefix("memref<")) {
        Some(inner) => Type::parse(&format!("vector<{inner}"))?,
        None => Type::parse(ty)?,
    };
    let (element, count) = (ty.element()?, ty.lanes());
    let lanes = match value.strip_prefix("dense<") {
        None => vec![element_of(value, element)?],
        Some(inner) => {
            let inner = inner.strip_suffix('>')?;
            if let Some(bytes) = string(inner) {
                raw(bytes.strip_prefix("0x")?, element)?
            } else if inner.is_empty() {
                Vec::new()
            } else {
                inner
                    .split(['[', ']', ','])
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| element_of(part, element))
                    .collect::<Option<Vec<_>>>()?
            }
        }
    };
    match lanes.len() {
        n if n == count => Some(Constant { lanes }),
        1 => Some(Constant {
            lanes: vec![lanes[0]; count],
        }),
        _ => None,
    }
}

fn element_of(text: &str, element: Scalar) -> Option<i64> {
    match element {
        Scalar::Int(1) => Some(match text {
            "true" | "1" | "-1" => -1,
            "false" | "0" => 0,
            _ => return None,
        }),
        Scalar::Int(bits) => {
            let value: i128 = text.parse().ok()?;
            let shift = 128 - u32::from(bits);
            Some(((value << shift) >> shift) as i64)
        }
        Scalar::Index => text.parse().ok(),
        Scalar::F32 => {
            let bits = match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => text.parse::<f32>().ok()?.to_bits(),
            };
            Some(i64::from(bits))
        }
        Scalar::Bf16 => {
            let bits = match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok()? << 16,
                None => round_to_bf16(text.parse::<f32>().ok()?).to_bits(),
            };
            Some(i64::from(bits))
        }
    }
}

/// The nearest bfloat16, even where two are as near.
pub fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return f32::from_bits((bits & 0xffff_0000) | 0x0040_0000);
    }
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    f32::from_bits(rounded & 0xffff_0000)
}

/// Elements from their bytes in hexadecimal.
fn raw(hex: &str, element: Scalar) -> Option<Vec<i64>> {
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
        .collect::<Option<_>>()?;
    let size = (element.bits() / 8).max(1) as usize;
    let lanes = bytes.chunks_exact(size).map(|chunk| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(chunk);
        let value = i64::from_le_bytes(word);
        match element {
            Scalar::Int(1) => -(value & 1),
            Scalar::Int(bits) => {
                let shift = 64 - u32::from(bits).max(8);
                (value << shift) >> shift
            }
            Scalar::Index | Scalar::F32 => value,
            Scalar::Bf16 => value << 16,
        }
    });
    Some(lanes.collect())
}

/// A type that must be of memory.
pub fn memory(text: &str) -> Option<super::MemRef> {
    match ValueType::parse(text)? {
        ValueType::Memory(memory) | ValueType::Subview(memory) => Some(memory),
        ValueType::Scalar(_) | ValueType::Vector { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_from_the_dialects_text() {
        let text = "#aie<bd_dim_layout_array[<size = 8, stride = 128>, <size = 4, stride = 1>]>";
        assert_eq!(pattern(text), Some(Pattern(vec![(8, 128), (4, 1)])));
        assert_eq!(
            patterns("#aie<bd_dim_layout_array_array[[], [<size = 2, stride = 1>]]>"),
            Some(vec![Pattern::default(), Pattern(vec![(2, 1)])])
        );
        assert_eq!(
            patterns("#aie<bd_dim_layout_array_array[[]]>"),
            Some(vec![Pattern::default()])
        );
        assert_eq!(pattern("#aie<bd_dim_layout_array[<size = 8>]>"), None);
    }

    #[test]
    fn constants_read_in_every_spelling() {
        let lanes = |text| constant(text).map(|constant| constant.lanes);
        assert_eq!(lanes("dense<-1> : vector<3xi8>"), Some(vec![-1, -1, -1]));
        assert_eq!(
            lanes("dense<[[1, 2], [3, 4]]> : vector<2x2xi32>"),
            Some(vec![1, 2, 3, 4])
        );
        assert_eq!(lanes("dense<\"0x01FF\"> : vector<2xi8>"), Some(vec![1, -1]));
        assert_eq!(lanes("255 : i8"), Some(vec![-1]));
        assert_eq!(lanes("true"), Some(vec![-1]));
        assert_eq!(
            lanes("1.500000e+00 : bf16"),
            Some(vec![i64::from(1.5f32.to_bits())])
        );
        assert_eq!(lanes("0xFF800000 : f32"), Some(vec![0xFF80_0000]));
        assert_eq!(lanes("dense<[1, 2]> : vector<3xi8>"), None);
    }

    #[test]
    fn bf16_rounds_to_the_nearest_even() {
        assert_eq!(round_to_bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round_to_bf16(1.0 + 3.0 / 256.0), 1.0 + 2.0 / 128.0);
        assert!(round_to_bf16(f32::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::MAX), f32::INFINITY);
    }
}
