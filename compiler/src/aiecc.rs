//! The vendor's compiler for the NPU's array, `aiecc` of mlir-aie: found, asked for its version, run on designs.
//!
//! It is no part of gembin and in no package registry; whoever has it names it. What it makes of a design, the array's
//! configuration (PDI) and an instruction stream for each sequence, is kept in a cache under a hash of everything that
//! went in, and appears there complete or not at all. Knows nothing of what designs compute.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// Names it is looked for by in PATH.
const NAMES: [&str; 2] = ["aiecc", "aiecc.py"];
/// The variable that names it.
pub const VARIABLE: &str = "AIECC";
/// The first version that is told what to make by `--get-..`.
const GETS_SINCE: (u32, u32) = (1, 4);
/// Longest wait for an answer to `--version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a running compiler is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Most of its output that becomes part of an error.
const MOST_MESSAGE_BYTES: usize = 600;

/// Why a design was not built.
#[derive(Debug, Error)]
pub enum AieccError {
    /// The path given is no program.
    #[error("{}: is no program that can be run; give the path of aiecc (of mlir-aie)", path.display())]
    NotAProgram {
        /// What was given.
        path: PathBuf,
    },
    /// It did not say its version.
    #[error("{}: does not say its version ({said}); is it aiecc of mlir-aie?", path.display())]
    NoVersion {
        /// The program.
        path: PathBuf,
        /// What it said instead.
        said: String,
    },
    /// It refused a design.
    #[error("{}: refuses {design}: {message}", path.display())]
    Refused {
        /// The program.
        path: PathBuf,
        /// The design.
        design: String,
        /// Its first error, with what stands at that line of the design.
        message: String,
    },
    /// It ended well but wrote less than it was asked for.
    #[error("{}: wrote no {missing} for {design}", path.display())]
    Incomplete {
        /// The program.
        path: PathBuf,
        /// The design.
        design: String,
        /// The file.
        missing: String,
    },
    /// It took too long.
    #[error("{}: {design} was not done after {seconds} s", path.display())]
    Timeout {
        /// The program.
        path: PathBuf,
        /// The design.
        design: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The command was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// A file or folder could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The compiler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aiecc {
    path: PathBuf,
    /// Major and minor.
    version: (u32, u32),
    /// As it says it.
    version_text: String,
    cache: PathBuf,
    timeout: Duration,
}

/// A design to build.
#[derive(Clone, Copy, Debug)]
pub struct Source<'s> {
    /// The device's name in the module.
    pub name: &'s str,
    /// The module.
    pub text: &'s str,
    /// Its run-time sequences.
    pub sequences: &'s [String],
}

/// What became of a design.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// The array's configuration.
    pub pdi: Vec<u8>,
    /// The sequences' instructions, in their order, as little-endian words.
    pub instructions: Vec<Vec<u8>>,
}

impl Aiecc {
    /// The compiler at `given`, else where the variable AIECC says, else in PATH; `None`: there is none.
    ///
    /// # Errors
    /// When what is named is no program, or what is found does not say its version.
    pub fn find(given: Option<&Path>) -> Result<Option<Self>, AieccError> {
        let named = given.map(Path::to_owned).or_else(|| {
            std::env::var_os(VARIABLE)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        });
        let path = match named {
            Some(path) if is_program(&path) => path,
            Some(path) => return Err(AieccError::NotAProgram { path }),
            None => {
                let folders = std::env::var_os("PATH").unwrap_or_default();
                let found = std::env::split_paths(&folders)
                    .flat_map(|folder| NAMES.map(|name| folder.join(name)))
                    .find(|path| is_program(path));
                match found {
                    Some(path) => path,
                    None => return Ok(None),
                }
            }
        };
        Self::at(path, cache_folder()).map(Some)
    }

    /// The compiler at `path`, with its cache in a folder.
    ///
    /// # Errors
    /// When it does not say its version.
    pub fn at(path: PathBuf, cache: PathBuf) -> Result<Self, AieccError> {
        let no_version = |said: String| AieccError::NoVersion {
            path: path.clone(),
            said,
        };
        let log = tempfile::tempfile().map_err(|source| AieccError::Io {
            path: std::env::temp_dir(),
            source,
        })?;
        let child = command(&path, &log)
            .and_then(|mut command| command.arg("--version").spawn())
            .map_err(|error| no_version(error.to_string()))?;
        let never = AtomicBool::new(false);
        let ended =
            wait(child, VERSION_TIMEOUT, &never).map_err(|error| no_version(error.to_string()))?;
        let said = read_back(log);
        if ended.is_none() {
            return Err(no_version("no answer".into()));
        }
        let Some(version) = version_of(&said) else {
            let line = said.lines().next().unwrap_or("nothing").to_owned();
            return Err(no_version(shortened(&line)));
        };
        Ok(Self {
            version,
            version_text: said.trim().to_owned(),
            path,
            cache,
            timeout: Duration::from_secs(3600),
        })
    }

    /// As it is, but giving up on a design after so long.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Its path and version, for people.
    pub fn about(&self) -> String {
        format!(
            "{} {}.{}",
            self.path.display(),
            self.version.0,
            self.version.1
        )
    }

    /// Builds a design, or takes what an earlier run made of the very same.
    ///
    /// # Errors
    /// When the compiler refuses it, or files cannot be used.
    pub fn build(&self, source: Source<'_>, cancel: &AtomicBool) -> Result<Built, AieccError> {
        let mut key = self.version_text.clone().into_bytes();
        for argument in self.arguments(source.name) {
            key.extend_from_slice(argument.as_encoded_bytes());
            key.push(0);
        }
        key.extend_from_slice(source.text.as_bytes());
        let kept = self.cache.join(format!("{:032x}", xxh3_128(&key)));
        if kept.is_dir() {
            return self.read(&kept, source);
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| AieccError::Io { path, source }
        };
        fs::create_dir_all(&self.cache).map_err(io(&self.cache))?;
        // Beside its place, so that it gets there in one step.
        let work = tempfile::Builder::new()
            .prefix(".work")
            .tempdir_in(&self.cache)
            .map_err(io(&self.cache))?;
        let module = work.path().join("design.mlir");
        fs::write(&module, source.text).map_err(io(&module))?;
        self.run(work.path(), source, cancel)?;
        let built = self.read(work.path(), source)?;
        let made = tempfile::Builder::new()
            .prefix(".made")
            .tempdir_in(&self.cache)
            .map_err(io(&self.cache))?;
        for name in self.outputs(source) {
            let to = made.path().join(&name);
            fs::rename(work.path().join(&name), &to).map_err(io(&to))?;
        }
        let made = made.keep();
        // Another run may have been faster: then its result stays, which is the same.
        if fs::rename(&made, &kept).is_err() {
            let _ = fs::remove_dir_all(&made);
        }
        Ok(built)
    }

    fn arguments(&self, design: &str) -> Vec<OsString> {
        let what: &[&str] = if self.version >= GETS_SINCE {
            &["--get-pdi", "--get-npu-insts"]
        } else {
            &[
                "--aie-generate-pdi",
                "--aie-generate-npu-insts",
                "--no-compile-host",
                "--no-xchesscc",
                "--no-xbridge",
            ]
        };
        let mut arguments: Vec<OsString> = what.iter().map(OsString::from).collect();
        arguments.push(format!("--pdi-name={design}.pdi").into());
        // It puts the sequence's name into the braces.
        arguments.push(format!("--npu-insts-name={design}_{{1}}.insts").into());
        arguments.push("design.mlir".into());
        arguments
    }

    fn outputs(&self, source: Source<'_>) -> Vec<String> {
        let streams = source
            .sequences
            .iter()
            .map(|sequence| format!("{}_{sequence}.insts", source.name));
        std::iter::once(format!("{}.pdi", source.name))
            .chain(streams)
            .collect()
    }

    fn run(
        &self,
        folder: &Path,
        source: Source<'_>,
        cancel: &AtomicBool,
    ) -> Result<(), AieccError> {
        let io = |source| AieccError::Io {
            path: folder.to_owned(),
            source,
        };
        let log = tempfile::tempfile_in(folder).map_err(io)?;
        let child = command(&self.path, &log)
            .and_then(|mut command| {
                command
                    .args(self.arguments(source.name))
                    .current_dir(folder)
                    .spawn()
            })
            .map_err(|source| AieccError::Io {
                path: self.path.clone(),
                source,
            })?;
        let Some(status) = wait(child, self.timeout, cancel).map_err(io)? else {
            if cancel.load(Ordering::Relaxed) {
                return Err(AieccError::Cancelled);
            }
            return Err(AieccError::Timeout {
                path: self.path.clone(),
                design: source.name.to_owned(),
                seconds: self.timeout.as_secs(),
            });
        };
        if status.success() {
            return Ok(());
        }
        Err(AieccError::Refused {
            path: self.path.clone(),
            design: source.name.to_owned(),
            message: explain(&read_back(log), source.text, status),
        })
    }

    fn read(&self, folder: &Path, source: Source<'_>) -> Result<Built, AieccError> {
        let mut files = Vec::new();
        for name in self.outputs(source) {
            let path = folder.join(&name);
            match fs::read(&path) {
                Ok(bytes) if !bytes.is_empty() => files.push(bytes),
                Ok(_) => return Err(self.incomplete(source, name)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(self.incomplete(source, name));
                }
                Err(source) => return Err(AieccError::Io { path, source }),
            }
        }
        let instructions = files.split_off(1);
        Ok(Built {
            pdi: files.remove(0),
            instructions,
        })
    }

    fn incomplete(&self, source: Source<'_>, missing: String) -> AieccError {
        AieccError::Incomplete {
            path: self.path.clone(),
            design: source.name.to_owned(),
            missing,
        }
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// `$XDG_CACHE_HOME/gembin/aiecc`, else the same under `~/.cache`, else among temporary files.
fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("gembin").join("aiecc")
}

/// A command whose output goes to a file, which nobody has to read while it runs.
fn command(path: &Path, log: &File) -> io::Result<Command> {
    // A name without a folder would be looked for in PATH.
    let mut command = Command::new(fs::canonicalize(path)?);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    Ok(command)
}

/// Waits for the end; `None`: it took too long or `cancel` was set, and it was ended.
fn wait(
    mut child: Child,
    timeout: Duration,
    cancel: &AtomicBool,
) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > timeout || cancel.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

fn read_back(mut log: File) -> String {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    let read = log.rewind().and_then(|()| log.read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// The first two numbers with a dot between them.
fn version_of(said: &str) -> Option<(u32, u32)> {
    said.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find_map(|word| {
            let mut numbers = word.split('.');
            let major = numbers.next()?.parse().ok()?;
            let minor = numbers.next()?.parse().ok()?;
            Some((major, minor))
        })
}

/// The first error of the compiler's output, with the op that stands at its line of the design.
fn explain(said: &str, text: &str, status: ExitStatus) -> String {
    let Some(line) = said.lines().find(|line| line.contains("error:")) else {
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        return match last {
            Some(last) => format!("{status}: {}", shortened(last.trim())),
            None => status.to_string(),
        };
    };
    let message = line
        .split_once("error:")
        .map_or(line, |(_, rest)| rest)
        .trim();
    let number = line
        .split_once("design.mlir:")
        .and_then(|(_, rest)| rest.split(':').next())
        .and_then(|number| number.parse::<usize>().ok());
    let op = number
        .and_then(|number| text.lines().nth(number.checked_sub(1)?))
        .and_then(op_of);
    match (number, op) {
        (Some(number), Some(op)) => format!("{op} (line {number}): {}", shortened(message)),
        (Some(number), None) => format!("line {number}: {}", shortened(message)),
        (None, _) => shortened(message),
    }
}

/// The op at the beginning of a line in generic form, and its symbol or the FIFO it is about.
fn op_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('"')?;
    let (op, rest) = rest.split_once('"')?;
    for attribute in [
        "sym_name = \"",
        "metadata = @",
        "objFifo_name = @",
        "symbol = @",
    ] {
        if let Some((_, name)) = rest.split_once(attribute) {
            let name: String = name
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            return Some(format!("{op} @{name}"));
        }
    }
    Some(op.to_owned())
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(MOST_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests;
