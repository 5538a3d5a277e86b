//! The gemrun binary as a child process: runs it, and judges how it ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a bundle that has no tokenizer.
pub struct Fixture {
    pub dir: TempDir,
    pub bundle: PathBuf,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let bundle = super::write(dir.path(), None);
        Self { dir, bundle }
    }

    /// Runs a command on the bundle.
    pub fn run(&self, command: &str, args: &[&str]) -> Output {
        gemrun(command, &self.bundle, args)
    }
}

/// Runs a command on a bundle, with nothing on stdin.
pub fn gemrun(command: &str, bundle: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .arg(command)
        .arg(bundle)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// What a command that must have succeeded wrote.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The same as JSON.
#[track_caller]
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// The one error line of a command that failed with `code`.
#[track_caller]
pub fn error(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// Runs with `input` on stdin.
pub fn piped(command: &str, bundle: &Path, args: &[&str], input: &[u8]) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_gemrun"))
        .arg(command)
        .arg(bundle)
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}
