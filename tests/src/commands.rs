//! `gemc` and `gemrun` as a user runs them: built once a test process, run as child processes.
//!
//! Cargo hands `CARGO_BIN_EXE_*` only to tests of the package that owns the binary, so the binaries are built
//! here, by the profile and into the target folder that this very test executable came from. When they are up to
//! date that takes a fraction of a second.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a finished command left behind.
#[derive(Debug)]
pub struct Output {
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
}

impl Output {
    /// Standard output of a command that must have succeeded; panics with its error otherwise.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "the command failed: {}", self.stderr);
        self.stdout
    }

    /// Standard error of a command that must have failed with `code`; panics with what it printed otherwise.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "expected exit code {code}; stdout: {}; stderr: {}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}

/// Runs `gemc` with these arguments and empty standard input.
pub fn gemc<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    run(Command::new(gemc_path()).args(args), b"")
}

/// Runs `gemrun` with these arguments and empty standard input.
pub fn gemrun<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    run(Command::new(gemrun_path()).args(args), b"")
}

/// Runs a prepared command, feeding it `stdin`, and captures what it prints (invalid UTF-8 is shown as U+FFFD).
pub fn run(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
    let mut pipe = child.stdin.take().expect("standard input is piped");
    // Fed from a second thread: a child that prints before it has read everything must not block us both.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A child may end without reading its input; that is no fault of the test.
            let _ = pipe.write_all(stdin);
        });
        child.wait_with_output()
    })
    .unwrap_or_else(|error| panic!("cannot wait for {:?}: {error}", command.get_program()));
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

/// Runs a prepared command to its successful end, its output thrown away, and returns the highest value, in bytes, that
/// `field` of its `/proc/PID/status` had: `RssAnon`, `VmRSS`, ...
pub fn peak_memory_bytes(command: &mut Command, field: &str) -> u64 {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    loop {
        // The file loses its memory fields when the process has ended but is not yet waited for.
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak_kib = peak_kib.max(value.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("the child can be waited for") {
            assert!(ended.success(), "{:?} failed", command.get_program());
            assert!(peak_kib > 0, "{field} was never seen");
            return peak_kib * 1024;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// The `gemc` executable.
pub fn gemc_path() -> &'static Path {
    &binaries()["gemc"]
}

/// The `gemrun` executable.
pub fn gemrun_path() -> &'static Path {
    &binaries()["gemrun"]
}

/// The sets of kernels that the processor of this machine can run: values of `--isa`.
pub fn kernel_sets() -> Vec<String> {
    let json = gemrun(["devices", "--json"]).success();
    let devices: serde_json::Value = serde_json::from_str(&json).expect("one JSON value");
    let kernels = devices[0]["kernels"]
        .as_array()
        .expect("kernels of the first device");
    let names: Vec<String> = kernels
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect();
    eprintln!("kernel sets of this processor: {names:?}");
    names
}

fn binaries() -> &'static BTreeMap<String, PathBuf> {
    static BINARIES: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let (_, profile) = target_dir_and_profile();
        let packages = ["-p", "gembin-compiler", "-p", "gembin-runtime", "--bins"];
        let built = build(&profile, &packages);
        for name in ["gemc", "gemrun"] {
            assert!(built.contains_key(name), "cargo built no `{name}`");
        }
        built
    })
}

/// Builds with `cargo build` and these arguments, by `profile`, into the target folder of the running test.
/// Returns the executables by name; panics with the compiler's messages if the build fails.
pub fn build(profile: &str, args: &[&str]) -> BTreeMap<String, PathBuf> {
    let (target_dir, _) = target_dir_and_profile();
    let output = cargo()
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(["--profile", profile])
        .args(args)
        .env("CARGO_TARGET_DIR", &target_dir)
        .output()
        .unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
    assert!(
        output.status.success(),
        "cargo build {args:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut built = BTreeMap::new();
    for line in output.stdout.split(|&byte| byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else {
            continue;
        };
        if let (Some(path), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            built.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    built
}

/// Cargo, run in the repository root; the one that runs this test where there is one.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::repository());
    command
}

/// Where this test executable was built, `<target>/<profile folder>/deps/<name>`, and by which profile.
fn target_dir_and_profile() -> (PathBuf, String) {
    let executable = std::env::current_exe().expect("the path of the running test is known");
    let profile_dir = executable
        .parent()
        .filter(|deps| deps.ends_with("deps"))
        .and_then(Path::parent)
        .unwrap_or_else(|| panic!("{} lies in no `deps` folder", executable.display()));
    let folder = profile_dir.file_name().and_then(OsStr::to_str);
    let profile = match folder {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} names no profile", profile_dir.display()),
    };
    let target_dir = profile_dir.parent().expect("a profile folder has a parent");
    (target_dir.to_path_buf(), profile.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_its_input_and_gives_back_output_and_code() {
        let input = "é".repeat(1 << 20);
        let output = run(Command::new("cat").arg("-"), input.as_bytes());
        assert_eq!(output.success(), input);
        let mut script = Command::new("sh");
        let output = run(script.args(["-c", "echo no >&2; exit 2"]), b"never read");
        assert_eq!(output.failure(2), "no\n");
    }

    #[test]
    fn both_commands_are_built_where_the_tests_are() {
        let (target_dir, _) = target_dir_and_profile();
        for path in [gemc_path(), gemrun_path()] {
            assert!(
                path.starts_with(&target_dir) && path.is_file(),
                "{}",
                path.display()
            );
        }
    }
}
