//! The shape of the project, as rules that fail: which crate may know which, what each folder must not contain.
//!
//! Each rule gathers all its breaches and names them by file and line. What third parties bring in is the subject of
//! `dependencies.rs`; the size of the shipped runtime that of `size.rs`.

use gembin_tests::source_tree::{SourceTree, code_of, lines_with_word, source_tree};
use gembin_tests::{repository, workspace};
use std::fs;

/// What the top level holds, dot-files aside. New subjects go into these folders, not beside them.
const TOP_LEVEL: [&str; 16] = [
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Makefile",
    "README.md",
    "compiler",
    "deny.toml",
    "ir",
    "passes",
    "runtime",
    "targets",
    "testdata",
    "tests",
];

/// Where `unsafe` is written, each with the reason that safe code cannot do it. A folder ends in `/`.
const UNSAFE_ALLOWED: [(&str, &str); 13] = [
    (
        "compiler/src/atomic_file.rs",
        "system calls that std lacks, maps what it wrote",
    ),
    ("compiler/src/import/checkpoint.rs", "maps checkpoints"),
    (
        "compiler/src/isa/radv.rs",
        "calls Vulkan, for what its compiler makes",
    ),
    (
        "runtime/examples/cpu_kernels.rs",
        "times kernels without the checks of a bundle",
    ),
    ("runtime/src/arena.rs", "steps address ranges of one block"),
    ("runtime/src/cli/interrupt.rs", "ignores a signal"),
    ("runtime/src/drivers/", "SIMD and device interfaces"),
    (
        "runtime/src/engine/executor.rs",
        "reads results in the arena",
    ),
    ("runtime/src/loader.rs", "maps bundles"),
    (
        "runtime/tests/allocation.rs",
        "is an allocator, which counts",
    ),
    (
        "targets/npu/src/mlir.rs",
        "registers dialects that melior does not wrap",
    ),
    ("tests/tests/vulkan_allocation.rs", "likewise"),
    ("tests/tests/kernel_bounds.rs", "reads results in the arena"),
];

/// Crates that only the compiler may link.
const COMPILER_ONLY: [&str; 9] = [
    "melior",
    "mlir-sys",
    "naga",
    "rspirv",
    "spirv",
    "tblgen",
    "tokenizers",
    "indicatif",
    "rayon",
];

#[track_caller]
fn expect_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// The project's files; without git, says that its own list was not to be had.
fn tree() -> SourceTree {
    let tree = source_tree();
    if !tree.from_git {
        eprintln!("note: not a git checkout; the rules look at every file in the folder instead");
    }
    tree
}

/// Whether the crate in folder `from` may depend on the crate in folder `to`.
///
/// ir <- passes <- targets <- compiler; crates inside `runtime/` know nothing, and everything but ir and passes may
/// know them; the runtime knows only them; tests know everything.
fn may_depend(from: &str, to: &str) -> bool {
    let runtime_leaf = to.starts_with("runtime/");
    match from.split('/').collect::<Vec<_>>()[..] {
        ["ir"] => false,
        ["passes"] => to == "ir",
        ["targets", _] => to == "ir" || to == "passes" || runtime_leaf,
        ["compiler"] => to == "ir" || to == "passes" || to.starts_with("targets/") || runtime_leaf,
        ["runtime"] => runtime_leaf,
        ["runtime", _] => false,
        ["tests"] => true,
        _ => false,
    }
}

#[test]
fn dependencies_run_one_way() {
    let mut breaches = Vec::new();
    for (from, package) in workspace::members() {
        for id in &package.depends_on {
            let Some(to) = &workspace::packages()[id].folder else {
                continue;
            };
            // A crate's tests may ask for their own crate, to switch on one of its features.
            if from != to && !may_depend(from, to) {
                breaches.push(format!("{from}/Cargo.toml depends on {to}"));
            }
        }
    }
    expect_none("a crate depends on one that it must not know", &breaches);
}

#[test]
fn the_rule_of_direction_refuses_what_it_should() {
    for (from, to) in [
        ("ir", "passes"),
        ("passes", "targets/cpu"),
        ("passes", "runtime/bundle"),
        ("targets/cpu", "targets/npu"),
        ("targets/cpu", "runtime"),
        ("compiler", "runtime"),
        ("runtime", "ir"),
        ("runtime/bundle", "runtime/tokenizer"),
        ("runtime", "tests"),
        ("elsewhere", "ir"),
    ] {
        assert!(!may_depend(from, to), "{from} -> {to}");
    }
    assert!(may_depend("compiler", "targets/cpu") && may_depend("runtime", "runtime/bundle"));
}

#[test]
fn nothing_of_the_compiler_is_linked_into_gemrun() {
    let mut breaches = Vec::new();
    for package in workspace::linked_into(workspace::member("gembin-runtime")) {
        let ours = package.folder.as_deref();
        if COMPILER_ONLY.contains(&package.name.as_str())
            || ours.is_some_and(|folder| !folder.starts_with("runtime/"))
        {
            breaches.push(format!("{} {}", package.name, package.version));
        }
    }
    expect_none(
        "gemrun links what only the compiler may (see `cargo tree -e normal -p gembin-runtime -i <crate>`)",
        &breaches,
    );
}

#[test]
fn manifests_inherit_lints_and_dependencies_from_the_workspace() {
    let mut breaches = Vec::new();
    for (folder, package) in workspace::members() {
        let path = format!("{folder}/Cargo.toml");
        let text = fs::read_to_string(repository().join(&path)).expect("a member's manifest");
        let manifest: toml::Table = text.parse().expect("cargo has read it before");
        if manifest.get("lints") != Some(&toml::toml! { workspace = true }.into()) {
            breaches.push(format!("{path}: no `[lints] workspace = true`"));
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let declared = manifest.get(section).and_then(toml::Value::as_table);
            for (name, requirement) in declared.into_iter().flatten() {
                let inherited = requirement.get("workspace").and_then(toml::Value::as_bool);
                if inherited != Some(true) && *name != package.name {
                    breaches.push(format!(
                        "{path}: `{name}` is not `{name}.workspace = true`; declare it in the root Cargo.toml, with its reason"
                    ));
                }
            }
        }
    }
    expect_none("a manifest goes its own way", &breaches);
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let tree = tree();
    let mut breaches: Vec<String> = Vec::new();
    for path in &tree.paths {
        let entry = path
            .split('/')
            .next()
            .expect("split gives one part at least");
        if !entry.starts_with('.') && !TOP_LEVEL.contains(&entry) {
            breaches.push(format!("`{entry}`"));
        }
    }
    breaches.dedup();
    expect_none(
        "the top level of the repository is fixed, and holds",
        &breaches,
    );
}

#[test]
fn every_source_file_says_what_it_owns() {
    let mut breaches = Vec::new();
    for (path, text) in tree().rust() {
        if !text.starts_with("//!") {
            breaches.push(path.to_owned());
        }
    }
    expect_none("a Rust file does not open with `//!`", &breaches);
}

#[test]
fn the_runtime_names_no_model() {
    let mut breaches = Vec::new();
    let is_test = |path: &str| path.contains("/tests/") || path.ends_with("/tests.rs");
    for (path, text) in tree().texts(|path| path.starts_with("runtime/") && !is_test(path)) {
        // By convention the test module is the end of its file.
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (index, line) in shipped.lines().enumerate() {
            if line.to_lowercase().contains("gemma") {
                breaches.push(format!("{path}:{}", index + 1));
            }
        }
    }
    expect_none(
        "the runtime runs programs and knows no model, yet names one",
        &breaches,
    );
}

#[test]
fn unsafe_is_written_only_where_it_must_be() {
    let mut breaches = Vec::new();
    for (path, text) in tree().rust() {
        if UNSAFE_ALLOWED
            .iter()
            .any(|(place, _)| path.starts_with(place))
        {
            continue;
        }
        for line in lines_with_word(&code_of(&text), "unsafe") {
            breaches.push(format!("{path}:{line}"));
        }
    }
    expect_none(
        "`unsafe` outside of the places listed in tests/tests/architecture.rs",
        &breaches,
    );
}

#[test]
fn no_place_is_allowed_unsafe_that_does_not_use_it() {
    let tree = tree();
    let sources = tree.rust();
    let mut breaches = Vec::new();
    for (place, reason) in UNSAFE_ALLOWED {
        let uses = |(path, text): &(&str, String)| {
            path.starts_with(place) && !lines_with_word(&code_of(text), "unsafe").is_empty()
        };
        if !sources.iter().any(uses) {
            breaches.push(format!("{place} ({reason})"));
        }
    }
    expect_none(
        "the list of places that may be unsafe is longer than it must be",
        &breaches,
    );
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    let macros = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    // In two halves, so that this list does not find itself.
    let remarks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["(to ", "come)"]].map(|w| w.concat());
    let mut breaches = Vec::new();
    for (path, text) in tree().rust() {
        let code = code_of(&text);
        for (code, text, index) in code
            .lines()
            .zip(text.lines())
            .zip(1..)
            .map(|((c, t), i)| (c, t, i))
        {
            let unfinished = macros.iter().find(|word| code.contains(**word)).copied();
            let remark = remarks.iter().find(|word| text.contains(word.as_str()));
            if let Some(word) = unfinished.or(remark.map(String::as_str)) {
                breaches.push(format!("{path}:{index}: {word}"));
            }
        }
    }
    expect_none("unfinished work or a test that is not run", &breaches);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let folders = ["root", "work", "home"].map(|folder| format!("/{folder}/"));
    let mut breaches = Vec::new();
    for (path, text) in tree().texts(|path| path != "Cargo.lock") {
        for (index, line) in text.lines().enumerate() {
            // A path that starts here, not one that goes on from a name before it.
            let starts = |folder: &String| {
                line.match_indices(folder.as_str()).any(|(at, _)| {
                    let before = line[..at].bytes().next_back();
                    !before.is_some_and(|b| b.is_ascii_alphanumeric() || b"._-$})".contains(&b))
                })
            };
            if let Some(folder) = folders.iter().find(|folder| starts(folder)) {
                breaches.push(format!("{path}:{}: {folder}", index + 1));
            }
        }
    }
    expect_none("a path that exists on one machine only", &breaches);
}
