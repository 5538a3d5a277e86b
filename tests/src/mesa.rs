//! The Mesa builds that `.ci/mesa` keeps beside the system's, as tests use them.
//!
//! A build that is not there is told once a process, past the capture of passing tests' output, in a line that `make test`
//! counts: a test that cannot run must not look like one that passed.

use crate::repository;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The folder of RADV's null device, or `None` where it is not.
pub fn radv_null() -> Option<PathBuf> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| is_there("radv-null", "the code of AMD chips"));
    found.then(|| repository().join(".tools/radv-null"))
}

/// Tells that something is left to the tests that `make test` runs once more on lavapipe 26; or, in a line that it
/// counts, that it is left untested, where that Mesa is not there.
pub fn tell_of_later(what: &str) {
    let output = Command::new(repository().join(".ci/mesa"))
        .args(["has", "lavapipe-26"])
        .output()
        .expect("the script runs");
    let (word, rest) = match output.status.success() {
        true => ("note", "; lavapipe 26 has, on which it runs by itself"),
        false => ("skipped", ""),
    };
    say(&format!("{word}: {what}{rest}"));
}

/// Past the capture of passing tests' output.
fn say(line: &str) {
    std::io::stderr()
        .write_all(format!("\n{line}\n").as_bytes())
        .expect("standard error is open");
}

/// Whether `.ci/mesa` has a set; tells what is left untested if not.
fn is_there(set: &str, what: &str) -> bool {
    let script = repository().join(".ci/mesa");
    let output = Command::new(&script)
        .args(["env", set])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    if output.status.success() {
        return true;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said
        .lines()
        .find_map(|line| line.strip_prefix("skipped: "))
        .unwrap_or_else(|| panic!(".ci/mesa env {set} failed: {said}"));
    say(&format!("skipped: {what}: {reason}"));
    false
}
