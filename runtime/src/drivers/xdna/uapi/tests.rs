//! Our structures against the kernel's header, by a C program that prints what its compiler makes of it.
//!
//! The header is in no package of older distributions; `.ci/uapi` puts one into `.tools`. Where there is none, nor a C
//! compiler, the comparison is told as skipped; the asserts beside the structures hold all the same.

use super::{CONSTANTS, LAYOUTS, REQUESTS};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that `.ci/uapi` makes.
fn fetched() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/linux-uapi/usr/include")
}

/// The folder that holds `drm/amdxdna_accel.h`.
fn header_folder() -> Option<PathBuf> {
    [fetched(), PathBuf::from("/usr/include")]
        .into_iter()
        .find(|folder| folder.join("drm/amdxdna_accel.h").is_file())
}

/// Tells past the capture of passing tests' output, in a line that `make test` counts.
fn skip(reason: &str) {
    let line = format!("\nskipped: the NPU's structures against the kernel's header: {reason}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("standard error is open");
}

/// A program that prints `name value` lines.
fn program() -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <drm/drm.h>\n#include <drm/amdxdna_accel.h>\n\
         #define SHOW(name, value) printf(\"%s %llu\\n\", name, (unsigned long long)(value))\n\
         int main(void) {\n",
    );
    for layout in LAYOUTS {
        let name = layout.name;
        writeln!(text, "SHOW(\"{name}\", sizeof(struct {name}));").unwrap();
        for (field, _) in layout.fields {
            let field = field.trim_start_matches("r#");
            writeln!(
                text,
                "SHOW(\"{name}.{field}\", offsetof(struct {name}, {field}));"
            )
            .unwrap();
        }
    }
    let values = REQUESTS.iter().map(|(name, _)| name);
    for name in values.chain(CONSTANTS.iter().map(|(name, _)| name)) {
        writeln!(text, "SHOW(\"{name}\", {name});").unwrap();
    }
    text + "return 0; }\n"
}

/// What the header says, or why it could not be asked.
fn by_header() -> Result<HashMap<String, u64>, String> {
    let folder = header_folder().ok_or("drm/amdxdna_accel.h is not there; run .ci/setup")?;
    let place = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
    let (source, binary) = (place.path().join("layout.c"), place.path().join("layout"));
    std::fs::write(&source, program()).map_err(|e| format!("cannot write the program: {e}"))?;
    let compiled = Command::new("cc")
        .arg("-I")
        .arg(&folder)
        .arg("-o")
        .args([&binary, &source])
        .output()
        .map_err(|e| format!("cc does not run: {e}"))?;
    if !compiled.status.success() {
        // The system's own can be older than what is used; of the fetched one the version is known.
        assert_ne!(
            folder,
            fetched(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        return Err(format!(
            "{} has one that is too old; run .ci/setup",
            folder.display()
        ));
    }
    let shown = Command::new(&binary)
        .output()
        .map_err(|e| format!("the program does not run: {e}"))?;
    Ok(String::from_utf8_lossy(&shown.stdout)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect())
}

#[test]
fn structures_requests_and_constants_are_the_kernels() {
    let header = match by_header() {
        Ok(header) => header,
        Err(reason) => return skip(&reason),
    };
    let mut compared = 0;
    let mut expect = |name: &str, ours: u64| {
        let name = name.replace("r#", "");
        assert_eq!(header.get(&name), Some(&ours), "{name}");
        compared += 1;
    };
    for layout in LAYOUTS {
        expect(layout.name, layout.bytes as u64);
        for (field, offset) in layout.fields {
            expect(&format!("{}.{field}", layout.name), *offset as u64);
        }
    }
    for (name, request) in REQUESTS {
        expect(name, u64::from(*request));
    }
    for (name, value) in CONSTANTS {
        expect(name, *value);
    }
    assert_eq!(compared, header.len());
}

#[test]
fn the_numbers_of_requests_hold_what_they_should() {
    assert_eq!(super::EXEC_CMD, 0xc038_6446);
    assert_eq!(super::TIMELINE_WAIT, 0xc030_64ca);
    assert_eq!(super::GEM_CLOSE, 0x4008_6409);
}
