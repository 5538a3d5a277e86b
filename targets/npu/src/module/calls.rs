//! Dresses calls before MLIR reads a text.
//!
//! A call is verified against the nearest table of symbols, and MLIR takes any op that it does not know for one that may
//! be: inside a core of the AIE dialect no function is ever found, and the whole text would be refused. So calls become
//! ops of no dialect, [`CALL`], and whoever follows them looks their functions up.

use std::borrow::Cow;

/// What `func.call` is called between the text and the reader.
pub const CALL: &str = "call.func";

/// The text with its calls dressed.
pub fn dress(text: &str) -> Cow<'_, str> {
    if !text.contains("func.call") {
        return Cow::Borrowed(text);
    }
    let mut dressed = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        match dress_line(line) {
            Some(line) => dressed.push_str(&line),
            None => dressed.push_str(line),
        }
    }
    Cow::Owned(dressed)
}

/// A line with a call on it: `func.call @f(%a) : (...) -> ...` or `"func.call"(%a) <{callee = @f}> : ...`.
fn dress_line(line: &str) -> Option<String> {
    let code = &line[..line.find("//").unwrap_or(line.len())];
    if let Some((before, after)) = code.split_once("\"func.call\"(") {
        let (operands, after) = after.split_once(')')?;
        let after = match after.trim_start().strip_prefix("<{") {
            Some(properties) => {
                let (properties, after) = properties.split_once("}>")?;
                format!(" {{{properties}}}{after}")
            }
            None => after.to_owned(),
        };
        return Some(format!("{before}\"{CALL}\"({operands}){after}"));
    }
    let (before, after) = code.split_once("func.call @")?;
    let (name, after) = after.split_once('(')?;
    let (operands, after) = after.split_once(')')?;
    Some(format!(
        "{before}\"{CALL}\"({operands}) {{callee = @{}}}{after}",
        name.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_dressed_in_both_forms() {
        let pretty = "%x = func.call @f(%a, %b) : (i32, i32) -> i32\n// func.call @g()\n";
        let expected =
            "%x = \"call.func\"(%a, %b) {callee = @f} : (i32, i32) -> i32\n// func.call @g()\n";
        assert_eq!(dress(pretty), expected);
        let generic = "\"func.call\"(%a) <{callee = @f}> : (i32) -> ()\n";
        assert_eq!(
            dress(generic),
            "\"call.func\"(%a) {callee = @f} : (i32) -> ()\n"
        );
    }
}
