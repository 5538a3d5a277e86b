//! The header of a safetensors file: which tensors lie where, believed only after everything was checked.
//!
//! The element types are the `safetensors` crate's. Its own check of a whole file adds up offsets before it compares
//! them with the length, which a hostile header makes overflow, keeps the last of two equal names, and does not name
//! what is wrong; the checks here do.
//!
//! Source: the format's description: 8 bytes of header length, little endian; a JSON object; the data, without holes.

use super::error::one_line;
use safetensors::Dtype;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashSet;
use std::fmt;

/// Longest header that is read: the format's own limit.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// A tensor of a file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct HeaderEntry {
    /// Unique in the file.
    pub name: String,
    /// `None`: a type that the crate does not know.
    pub dtype: Option<Dtype>,
    /// As spelled in the header.
    pub dtype_name: String,
    /// Outermost first.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub start: usize,
    /// Byte after the last one; within the file.
    pub end: usize,
}

/// The tensors of a file.
#[derive(PartialEq, Debug)]
pub(crate) struct Header {
    /// In the order of their bytes, which do not overlap.
    pub entries: Vec<HeaderEntry>,
    /// Where there are bytes that belong to no tensor, which the format forbids. Told after everything else, because
    /// a tensor that was taken out of the header is better told by its name.
    pub unclaimed: Option<String>,
}

/// Reads the header of a whole file's bytes.
///
/// # Errors
/// What is wrong with the file, on one line.
pub(crate) fn read(file: &[u8]) -> Result<Header, String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!(
            "truncated: {} bytes hold no safetensors header",
            file.len()
        ));
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > MOST_HEADER_BYTES {
        return Err(format!(
            "a header of {header_bytes} bytes, at most {MOST_HEADER_BYTES} are allowed; is this a safetensors file?"
        ));
    }
    let header = usize::try_from(header_bytes)
        .ok()
        .and_then(|n| rest.get(..n))
        .ok_or_else(|| {
            format!(
                "truncated: the header has {header_bytes} bytes, the file only {} after its length",
                rest.len()
            )
        })?;
    let RawHeader(raw) = serde_json::from_slice(header)
        .map_err(|e| format!("corrupt header: {}", one_line(&e.to_string())))?;
    let data_start = 8 + header.len();
    place(raw, data_start, file.len() - data_start)
}

/// Checks that the tensors lie in the data and share none of it.
fn place(
    raw: Vec<(String, RawTensor)>,
    data_start: usize,
    data_bytes: usize,
) -> Result<Header, String> {
    let mut entries = Vec::with_capacity(raw.len());
    for (name, tensor) in raw {
        let shown = one_line(&name);
        let (begin, end) = tensor.data_offsets;
        if begin > end {
            return Err(format!(
                "corrupt header: tensor {shown} ends at byte {end}, before its start {begin}"
            ));
        }
        if end > data_bytes as u64 {
            return Err(format!(
                "truncated: tensor {shown} ends at byte {end} of the data, which has {data_bytes}"
            ));
        }
        let dtype = serde_json::from_value::<Dtype>(tensor.dtype.clone().into()).ok();
        // Other types are refused by name later, which says more than their size.
        if let Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) = dtype {
            let bits = tensor
                .shape
                .iter()
                .try_fold(dtype.bitsize() as u64, |n, d| n.checked_mul(*d));
            if bits != (end - begin).checked_mul(8) {
                return Err(format!(
                    "corrupt header: tensor {shown} of {} {:?} does not have {} bytes",
                    one_line(&tensor.dtype),
                    tensor.shape,
                    end - begin
                ));
            }
        }
        // Both are at most `data_bytes`, a usize.
        let offset = |n: u64| data_start + usize::try_from(n).expect("offset within the file");
        entries.push(HeaderEntry {
            dtype,
            dtype_name: tensor.dtype,
            shape: tensor.shape,
            start: offset(begin),
            end: offset(end),
            name,
        });
    }
    entries.sort_by_key(|e| (e.start, e.end));
    let mut unclaimed = None;
    let mut at = data_start;
    for e in &entries {
        let shown = || one_line(&e.name);
        if e.start < at {
            return Err(format!(
                "corrupt header: tensor {} overlaps the one before",
                shown()
            ));
        }
        if e.start > at && unclaimed.is_none() {
            unclaimed = Some(format!(
                "corrupt header: tensor {} leaves a hole before it",
                shown()
            ));
        }
        at = e.end;
    }
    let surplus = data_start + data_bytes - at;
    if surplus != 0 && unclaimed.is_none() {
        unclaimed = Some(format!(
            "corrupt: {surplus} bytes after the last tensor belong to none"
        ));
    }
    Ok(Header { entries, unclaimed })
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Name and description of each tensor, in the header's order.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("{name} occurs twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let tensor = map.next_value_seed(Named(&name))?;
                tensors.push((name, tensor));
            }
        }
        Ok(RawHeader(tensors))
    }
}

/// Reads a tensor's description; errors say whose it is.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawTensor, D::Error> {
        RawTensor::deserialize(deserializer)
            .map_err(|e| serde::de::Error::custom(format!("tensor {}: {e}", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    fn file(header: &str, data_bytes: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data_bytes, 0);
        out
    }

    fn fault(header: &str, data_bytes: usize) -> String {
        match read(&file(header, data_bytes)) {
            Err(what) => what,
            Ok(header) => header.unclaimed.expect("must be refused"),
        }
    }

    #[test]
    fn tensors_that_tile_the_data_are_read() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[6,14]},
            "a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]}}"#;
        let got = read(&file(header, 14)).expect("valid");
        assert_eq!(got.unclaimed, None);
        let got = got.entries;
        let start = 8 + header.len();
        assert_eq!(got[0].name, "a");
        assert_eq!(got[0].shape, [3, 1]);
        assert_eq!((got[1].start, got[1].end), (start + 6, start + 14));
    }

    #[test]
    fn every_cut_is_refused() {
        let whole = file(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            8,
        );
        read(&whole).expect("valid");
        for n in 0..whole.len() {
            read(&whole[..n]).expect_err("a cut file must be refused");
        }
    }

    #[test]
    fn hostile_headers_are_named() {
        let t =
            |offsets: &str| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#);
        let cases = [
            (
                format!(r#"{{"a":{},"b":{}}}"#, t("[0,4]"), t("[0,4]")),
                4,
                "tensor b overlaps",
            ),
            (
                format!(r#"{{"a":{}}}"#, t("[4,8]")),
                8,
                "tensor a leaves a hole",
            ),
            (
                format!(r#"{{"a":{}}}"#, t("[0,4]")),
                5,
                "1 bytes after the last tensor",
            ),
            (format!(r#"{{"a":{}}}"#, t("[8,4]")), 8, "before its start"),
            (
                format!(r#"{{"a":{},"a":{}}}"#, t("[0,4]"), t("[4,8]")),
                8,
                "a occurs twice",
            ),
            (
                format!(r#"{{"a":{}}}"#, t("[0,18446744073709551615]")),
                8,
                "truncated: tensor a",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,0]}}"#
                    .into(),
                0,
                "does not have 0 bytes",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.into(),
                4,
                "tensor a: invalid value",
            ),
            ("[1]".into(), 0, "corrupt header"),
            ("{".into(), 0, "corrupt header"),
        ];
        for (header, data, want) in cases {
            let got = fault(&header, data);
            assert!(got.contains(want), "{header}: {got}");
            assert!(!got.contains('\n'), "{got}");
        }
    }

    #[test]
    fn a_huge_header_length_is_refused_before_it_is_believed() {
        let got = read(&u64::MAX.to_le_bytes()).expect_err("must be refused");
        assert!(got.contains("at most"), "{got}");
    }
}
