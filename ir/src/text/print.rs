//! The printer of `.gir` text. It prints what is there, valid or not: the verifier's messages come through here.

use crate::entity::{CacheId, ValueId, WeightId};
use crate::module::{Cache, Function, Layout, Module, Op, Place, Weight, WeightExpr};
use crate::ops::{Attr, Epilogue};
use std::fmt::{self, Write};

/// The module as `.gir` text.
pub fn print(module: &Module) -> String {
    let mut out = String::new();
    write_module(&mut out, module).expect("writing to a String does not fail");
    out
}

/// One op of `function` as it stands in the text of the module, without indentation.
pub fn print_op(module: &Module, function: &Function, op: &Op) -> String {
    let mut out = String::new();
    write_op(&mut out, module, function, op).expect("writing to a String does not fail");
    out
}

/// A name: bare if it reads back as one word, else quoted.
pub(super) fn is_plain(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}

struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_plain(self.0) {
            f.write_str(self.0)
        } else {
            write!(f, "{}", Quoted(self.0))
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

fn write_module(out: &mut String, module: &Module) -> fmt::Result {
    let b = &module.bounds;
    write!(
        out,
        "module {} {{chunk = {}, outs = {}, context = {}, slots = {}",
        Quoted(&module.name),
        b.chunk,
        b.outs,
        b.context,
        b.slots
    )?;
    if let Some(bytes) = module.arena_bytes {
        write!(out, ", arena_bytes = {bytes}")?;
    }
    out.push_str("}\n");
    if !module.weights.is_empty() {
        out.push('\n');
    }
    for weight in &module.weights {
        write_weight(out, module, weight)?;
    }
    if !module.caches.is_empty() {
        out.push('\n');
    }
    for cache in &module.caches {
        write_cache(out, cache)?;
    }
    for function in &module.functions {
        out.push('\n');
        write_function(out, module, function)?;
    }
    Ok(())
}

fn write_weight(out: &mut String, module: &Module, weight: &Weight) -> fmt::Result {
    write!(out, "weight @{} : {}[", Name(&weight.name), weight.dtype)?;
    write_list(out, &weight.shape, |out, n| write!(out, "{n}"))?;
    out.push(']');
    match weight.layout {
        Layout::RowMajor => {}
        Layout::Rows16 => out.push_str(" rows16"),
    }
    out.push_str(" = ");
    match &weight.expr {
        WeightExpr::Tensor(name) => write!(out, "tensor {}", Quoted(name))?,
        WeightExpr::ConcatRows(parts) => {
            out.push_str("concat ");
            write_list(out, parts, |out, id| write_weight_name(out, module, *id))?;
        }
        WeightExpr::InterleaveRows { a, b, block } => {
            out.push_str("interleave ");
            write_list(out, &[*a, *b], |out, id| {
                write_weight_name(out, module, *id)
            })?;
            write!(out, " block {block}")?;
        }
        WeightExpr::Offset { of, add } => {
            out.push_str("offset ");
            write_weight_name(out, module, *of)?;
            write!(out, " by {add:?}")?;
        }
    }
    out.push('\n');
    Ok(())
}

fn write_cache(out: &mut String, cache: &Cache) -> fmt::Result {
    write!(
        out,
        "cache @{} : {} {{kv_heads = {}, head_dim = {}",
        Name(&cache.name),
        cache.dtype,
        cache.kv_heads,
        cache.head_dim
    )?;
    if let Some(window) = cache.window {
        write!(out, ", window = {window}")?;
    }
    if let Some(capacity) = cache.capacity {
        write!(out, ", capacity = {capacity}")?;
    }
    out.push('}');
    write_place(out, "at", cache.place)?;
    out.push('\n');
    Ok(())
}

fn write_function(out: &mut String, module: &Module, function: &Function) -> fmt::Result {
    write!(out, "func {}(", Name(&function.name))?;
    write_list(out, &function.params, |out, id| {
        write_definition(out, function, *id)
    })?;
    out.push_str(") {\n");
    for op in &function.ops {
        out.push_str("  ");
        write_op(out, module, function, op)?;
        out.push('\n');
    }
    for (id, _) in undefined(function) {
        out.push_str("  unused ");
        write_definition(out, function, id)?;
        out.push('\n');
    }
    out.push_str("  return");
    if !function.results.is_empty() {
        out.push(' ');
        write_list(out, &function.results, |out, id| write!(out, "{id}"))?;
    }
    out.push_str("\n}\n");
    Ok(())
}

/// Entries of the value table that are neither parameters nor results of ops.
fn undefined(function: &Function) -> impl Iterator<Item = (ValueId, &crate::module::Value)> {
    let mut defined = vec![false; function.values.len()];
    let results = function.ops.iter().flat_map(|op| &op.results);
    for id in function.params.iter().chain(results) {
        if let Some(defined) = defined.get_mut(id.index()) {
            *defined = true;
        }
    }
    function
        .values
        .iter()
        .enumerate()
        .filter(move |(i, _)| !defined[*i])
        .map(|(i, value)| (ValueId::new(i), value))
}

fn write_op(out: &mut String, module: &Module, function: &Function, op: &Op) -> fmt::Result {
    write_list(out, &op.results, |out, id| {
        write_definition(out, function, *id)
    })?;
    if !op.results.is_empty() {
        out.push_str(" = ");
    }
    out.push_str(op.kind.name());
    let mut separator = " ";
    for id in &op.operands {
        write!(out, "{separator}{id}")?;
        separator = ", ";
    }
    let attributes = op.kind.attributes();
    for (_, attr) in &attributes {
        match attr {
            Attr::Weight(id) => {
                out.push_str(separator);
                write_weight_name(out, module, *id)?;
            }
            Attr::Cache(id) => {
                out.push_str(separator);
                write_cache_name(out, module, *id)?;
            }
            Attr::F32(_) | Attr::U32(_) | Attr::OptionalWeight(_) | Attr::Epilogue(_) => continue,
        }
        separator = ", ";
    }
    let mut separator = " {";
    for (name, attr) in attributes {
        match attr {
            Attr::F32(x) => write!(out, "{separator}{name} = {x:?}")?,
            Attr::U32(n) => write!(out, "{separator}{name} = {n}")?,
            Attr::OptionalWeight(Some(id)) => {
                write!(out, "{separator}{name} = ")?;
                write_weight_name(out, module, id)?;
            }
            Attr::Epilogue(Epilogue::Geglu { width }) => {
                write!(out, "{separator}{name} = geglu({width})")?;
            }
            Attr::Epilogue(Epilogue::Softcap { cap }) => {
                write!(out, "{separator}{name} = softcap({cap:?})")?;
            }
            Attr::Weight(_)
            | Attr::Cache(_)
            | Attr::OptionalWeight(None)
            | Attr::Epilogue(Epilogue::None) => continue,
        }
        separator = ", ";
    }
    if separator == ", " {
        out.push('}');
    }
    write_place(out, "scratch", op.scratch)
}

/// `%3 : f32[?seq, 256] at 0+1024`.
fn write_definition(out: &mut String, function: &Function, id: ValueId) -> fmt::Result {
    match function.values.get(id.index()) {
        Some(value) => {
            write!(out, "{id} : {}", value.ty)?;
            write_place(out, "at", value.place)
        }
        None => write!(out, "{id} : <no such value>"),
    }
}

fn write_place(out: &mut String, word: &str, place: Option<Place>) -> fmt::Result {
    match place {
        Some(place) => write!(out, " {word} {}+{}", place.offset, place.bytes),
        None => Ok(()),
    }
}

fn write_weight_name(out: &mut String, module: &Module, id: WeightId) -> fmt::Result {
    match module.weights.get(id.index()) {
        Some(weight) => write!(out, "@{}", Name(&weight.name)),
        None => write!(out, "<undeclared {id}>"),
    }
}

fn write_cache_name(out: &mut String, module: &Module, id: CacheId) -> fmt::Result {
    match module.caches.get(id.index()) {
        Some(cache) => write!(out, "@{}", Name(&cache.name)),
        None => write!(out, "<undeclared {id}>"),
    }
}

fn write_list<T>(
    out: &mut String,
    items: &[T],
    mut write_item: impl FnMut(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_item(out, item)?;
    }
    Ok(())
}
