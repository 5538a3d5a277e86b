//! The repository's files as the rules over them see them: which there are, which are text, what is code in them.
//!
//! Knows nothing of single rules; those are in `tests/tests/architecture.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The project's files, and how they were found.
pub struct SourceTree {
    /// Paths relative to the repository root, `/` between folders, sorted.
    pub paths: Vec<String>,
    /// Whether git named them. If not (a source archive, say), the folders were walked instead.
    pub from_git: bool,
}

/// Lists the project's files: those that git tracks, or without git all but build output.
pub fn source_tree() -> SourceTree {
    if let Some(paths) = tracked() {
        return SourceTree {
            paths,
            from_git: true,
        };
    }
    let mut paths = Vec::new();
    walk(crate::repository(), "", &mut paths);
    paths.sort();
    SourceTree {
        paths,
        from_git: false,
    }
}

impl SourceTree {
    /// The files whose path satisfies `wanted` and whose content is text, with that content.
    pub fn texts(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&str, String)> {
        let mut texts = Vec::new();
        for path in self.paths.iter().filter(|path| wanted(path)) {
            let bytes = fs::read(crate::repository().join(path))
                .unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
            if let Ok(text) = String::from_utf8(bytes)
                && !text.contains('\0')
            {
                texts.push((path.as_str(), text));
            }
        }
        texts
    }

    /// The Rust sources, with their content.
    pub fn rust(&self) -> Vec<(&str, String)> {
        self.texts(|path| path.ends_with(".rs"))
    }
}

fn tracked() -> Option<Vec<String>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(crate::repository())
        .args(["ls-files", "-z"])
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let listing = String::from_utf8(output.stdout).expect("paths are UTF-8");
    // A tracked file may have been deleted in the work tree and not yet in the index.
    let exists = |path: &&str| !path.is_empty() && crate::repository().join(path).is_file();
    Some(listing.split('\0').filter(exists).map(Into::into).collect())
}

fn walk(dir: &Path, prefix: &str, paths: &mut Vec<String>) {
    let entries =
        fs::read_dir(dir).unwrap_or_else(|error| panic!("cannot list {}: {error}", dir.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("the kind of a listed entry");
        let path = format!("{prefix}{name}");
        if kind.is_dir() && !matches!(path.as_str(), "target" | ".git" | ".tools") {
            walk(&entry.path(), &format!("{path}/"), paths);
        } else if kind.is_file() && !name.ends_with(".gembin") {
            paths.push(path);
        }
    }
}

/// The code of a Rust source: comments and the contents of string and character literals blanked out, line breaks
/// kept, so that byte offsets and line numbers stay those of `source`.
pub fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        for byte in &mut code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let literal_may_start = at == 0 || !is_word(bytes[at - 1]);
        let length = if rest.starts_with(b"//") {
            find(rest, b"\n").unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_length(rest)
        } else if rest[0] == b'"' {
            string_length(rest)
        } else if literal_may_start && let Some(length) = raw_string_length(rest) {
            length
        } else if rest[0] == b'\'' {
            match char_length(rest) {
                Some(length) => length,
                None => {
                    at += 1; // a lifetime
                    continue;
                }
            }
        } else {
            at += 1;
            continue;
        };
        blank(at, at + length);
        at += length;
    }
    String::from_utf8(code).expect("whole literals and comments were replaced by spaces")
}

/// The lines (from 1) on which `word` stands as a whole word.
pub fn lines_with_word(text: &str, word: &str) -> Vec<usize> {
    let whole = |line: &str| {
        line.match_indices(word).any(|(start, _)| {
            let before = line[..start].bytes().next_back();
            let after = line[start + word.len()..].bytes().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    };
    let numbered = text.lines().enumerate();
    let hits = numbered.filter(|(_, line)| whole(line));
    hits.map(|(index, _)| index + 1).collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`, with or without a leading `b` or `c`; `None` for anything else, raw identifiers included.
fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let prefix = usize::from(matches!(rest[0], b'b' | b'c'));
    let hashes_from = prefix + 1;
    if rest.get(prefix) != Some(&b'r') {
        return None;
    }
    let hashes = rest[hashes_from..]
        .iter()
        .take_while(|&&b| b == b'#')
        .count();
    let open = hashes_from + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &rest[open + 1..];
    Some(find(body, &close).map_or(rest.len(), |end| open + 1 + end + close.len()))
}

/// A character literal such as `'a'`, `'\''`, `'\u{1F600}'`; `None` for a lifetime.
fn char_length(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(find(&rest[3..], b"'")? + 4);
    }
    let text = std::str::from_utf8(&rest[1..]).ok()?;
    let first = text.chars().next()?.len_utf8();
    (rest.get(1 + first) == Some(&b'\'')).then_some(first + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_keeps_code_and_blanks_comments_and_literals() {
        let source = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# 'l' &'m n '\\'' o\n";
        let words: Vec<_> = code_of(source)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(words, ["a", "e", "i", "&'m", "n", "o"]);
        assert_eq!(code_of(source).len(), source.len());
        assert_eq!(code_of(source).lines().count(), source.lines().count());
    }

    #[test]
    fn words_are_found_whole() {
        let text = "unsafe {\nunsafe_op\nan unsafe fn\nmakes unsafety";
        assert_eq!(lines_with_word(text, "unsafe"), [1, 3]);
    }

    #[test]
    fn the_tree_holds_this_file_and_no_build_output() {
        let tree = source_tree();
        assert!(tree.paths.iter().any(|p| p == "tests/src/source_tree.rs"));
        assert!(!tree.paths.iter().any(|p| p.starts_with("target/")));
    }
}
