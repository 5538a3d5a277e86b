//! JSON objects read key by key, with errors that name the file and the key.
//!
//! Knows nothing of what the keys mean. An absent key and a null are both `None`, unless asked for apart.

use super::error::{ImportError, one_line};
use serde_json::{Map, Value};
use std::path::Path;

/// Most bytes of a configuration file that are read.
pub(crate) const SMALL_FILE_BYTES: u64 = 64 << 20;

/// Reads a file of text, unless it is absurdly long. `None` if there is no such file.
pub(crate) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, ImportError> {
    let io = |cause| ImportError::Io {
        path: path.to_owned(),
        cause,
    };
    let bytes = match std::fs::metadata(path) {
        Ok(meta) => {
            refuse_irregular(path, &meta)?;
            meta.len()
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    if bytes > SMALL_FILE_BYTES {
        return Err(ImportError::TooLarge {
            file: file_name(path),
            bytes,
            limit: SMALL_FILE_BYTES,
        });
    }
    std::fs::read(path).map(Some).map_err(io)
}

/// Refuses what is no regular file, before it is opened: opening a pipe waits until somebody writes to it.
pub(crate) fn refuse_irregular(path: &Path, meta: &std::fs::Metadata) -> Result<(), ImportError> {
    match meta.is_file() {
        true => Ok(()),
        false => Err(ImportError::NotAFile {
            path: path.to_owned(),
        }),
    }
}

/// The last component of a path, for messages.
pub(crate) fn file_name(path: &Path) -> String {
    match path.file_name() {
        Some(name) => one_line(&name.to_string_lossy()),
        None => one_line(&path.to_string_lossy()),
    }
}

/// Parses a file that holds one JSON object. `None` if there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, ImportError> {
    let Some(bytes) = read_small(path)? else {
        return Ok(None);
    };
    let fault = |what: String| ImportError::Json {
        file: file_name(path),
        what,
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(other) => Err(fault(format!(
            "must hold a JSON object, not {}",
            shown(&other)
        ))),
        Err(e) => Err(fault(format!(
            "not valid JSON: {}",
            one_line(&e.to_string())
        ))),
    }
}

/// A value in a message.
pub(crate) fn shown(value: &Value) -> String {
    one_line(&value.to_string())
}

/// An object of a file.
#[derive(Clone)]
pub(crate) struct Object<'a> {
    file: &'a str,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The whole file.
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self {
            file,
            prefix: String::new(),
            map,
        }
    }

    /// An error about `key`.
    pub fn fault(&self, key: &str, what: impl Into<String>) -> ImportError {
        ImportError::Key {
            file: self.file.to_owned(),
            key: format!("{}{}", self.prefix, one_line(key)),
            what: what.into(),
        }
    }

    fn must_be(&self, key: &str, want: &str, got: &Value) -> ImportError {
        self.fault(key, format!("must be {want}, not {}", shown(got)))
    }

    /// The value, also if it is null.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The value, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|v| !v.is_null())
    }

    /// All keys and values.
    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// A whole number of `1..=most`.
    pub fn count(&self, key: &str, most: u32) -> Result<Option<u32>, ImportError> {
        let Some(v) = self.get(key) else {
            return Ok(None);
        };
        match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.must_be(key, &format!("a whole number from 1 to {most}"), v)),
        }
    }

    /// A number within `range`, as f32.
    pub fn number(
        &self,
        key: &str,
        want: &str,
        fits: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, ImportError> {
        let Some(v) = self.get(key) else {
            return Ok(None);
        };
        // Configurations are decimal text: the nearest f32 is what the reference's f32 arithmetic sees.
        #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
        match v.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() && fits(x) => Ok(Some(x)),
            _ => Err(self.must_be(key, want, v)),
        }
    }

    /// A number above zero.
    pub fn positive(&self, key: &str) -> Result<Option<f32>, ImportError> {
        self.number(key, "a positive number", |x| x > 0.0)
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.must_be(key, "true or false", v)),
        }
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.must_be(key, "a string", v)),
        }
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(v) => Err(self.must_be(key, "a list", v)),
        }
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object {
                file: self.file,
                prefix: format!("{}{}.", self.prefix, one_line(key)),
                map,
            })),
            Some(v) => Err(self.must_be(key, "an object", v)),
        }
    }

    /// A token id or a list of them; `None` if absent.
    pub fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, ImportError> {
        let id = |v: &Value| {
            v.as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| self.must_be(key, "a token id or a list of token ids", v))
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items.iter().map(id).collect::<Result<_, _>>().map(Some),
            Some(v) => Ok(Some(vec![id(v)?])),
        }
    }
}
