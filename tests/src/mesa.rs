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
    let line = format!("\nskipped: {what}: {reason}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("standard error is open");
    false
}
