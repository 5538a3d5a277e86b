//! A file that appears complete or not at all.
//!
//! Owns the temporary file beside the target, its commit (sync, rename) and the errors of both. On Linux the temporary
//! file has no name until it is complete (`O_TMPFILE`), so that even a killed process leaves nothing behind; on file
//! systems without that, it is a hidden sibling that is removed when compilation fails or is interrupted.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The target's directory is not there.
    #[error("{}: the directory {} does not exist; create it first", target.display(), dir.display())]
    NoDirectory {
        /// The output file.
        target: PathBuf,
        /// Its missing directory.
        dir: PathBuf,
    },
    /// The target is a directory.
    #[error("{}: is a directory; give the name of a file to write", .0.display())]
    IsDirectory(PathBuf),
    /// The target is a device, a pipe or a socket.
    #[error("{}: not a regular file; give the name of a file to write", .0.display())]
    NotAFile(PathBuf),
    /// The target is a file that the output is made from.
    #[error("{}: is {} itself; give another name for the output", target.display(), input.display())]
    IsInput {
        /// The output file.
        target: PathBuf,
        /// The input it is.
        input: PathBuf,
    },
    /// The target's directory refuses new files.
    #[error("{}: cannot write in {}: {cause}", target.display(), dir.display())]
    NotWritable {
        /// The output file.
        target: PathBuf,
        /// Its directory.
        dir: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// No room.
    #[error("{}: no room for the file{}; free space or choose another place", target.display(), needed(*.bytes))]
    DiskFull {
        /// The output file.
        target: PathBuf,
        /// Size of the whole file.
        bytes: u64,
    },
    /// Any other failure.
    #[error("{}: writing failed: {cause}", target.display())]
    Io {
        /// The output file.
        target: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// A file being written; dropped without [`AtomicFile::commit`], it never existed.
pub struct AtomicFile {
    file: File,
    target: PathBuf,
    dir: PathBuf,
    bytes: u64,
    /// The hidden sibling, where the file system has no nameless files.
    named: Option<tempfile::TempPath>,
}

impl AtomicFile {
    /// Creates the temporary file in the target's directory.
    ///
    /// # Errors
    /// When the target is a directory, or its directory is missing or not writable.
    pub fn create(target: &Path) -> Result<Self, OutputError> {
        ignore_size_signal();
        // A link keeps pointing where it points; what it points to is replaced.
        let resolved = std::fs::canonicalize(target);
        let target = resolved.as_deref().unwrap_or(target);
        if target.is_dir() || target.as_os_str().as_bytes().ends_with(b"/") {
            return Err(OutputError::IsDirectory(target.to_owned()));
        }
        // Renaming over a device or a pipe would destroy it, not write to it.
        if std::fs::metadata(target).is_ok_and(|meta| !meta.is_file()) {
            return Err(OutputError::NotAFile(target.to_owned()));
        }
        let dir = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        if !dir.is_dir() {
            return Err(OutputError::NoDirectory {
                target: target.to_owned(),
                dir,
            });
        }
        let refuse = |cause| OutputError::NotWritable {
            target: target.to_owned(),
            dir: dir.clone(),
            cause,
        };
        let nameless = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o666)
            .open(&dir);
        let (file, named) = match nameless {
            Ok(file) => (file, None),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
                ) =>
            {
                let (file, path) = tempfile::Builder::new()
                    .prefix(".gembin-")
                    .tempfile_in(&dir)
                    .map_err(refuse)?
                    .into_parts();
                (file, Some(path))
            }
            Err(e) => return Err(refuse(e)),
        };
        Ok(Self {
            file,
            target: target.to_owned(),
            dir,
            bytes: 0,
            named,
        })
    }

    /// Refuses a target that is one of the files the output is made from, under whatever name.
    ///
    /// # Errors
    /// When it is.
    pub fn refuse_inputs<'p>(
        &self,
        inputs: impl IntoIterator<Item = &'p Path>,
    ) -> Result<(), OutputError> {
        let Ok(target) = std::fs::metadata(&self.target) else {
            return Ok(());
        };
        let same = |input: &&Path| {
            std::fs::metadata(input)
                .is_ok_and(|input| (input.dev(), input.ino()) == (target.dev(), target.ino()))
        };
        match inputs.into_iter().find(same) {
            None => Ok(()),
            Some(input) => Err(OutputError::IsInput {
                target: self.target.clone(),
                input: input.to_owned(),
            }),
        }
    }

    /// The file, for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Maps what was written so far, for reading it back.
    ///
    /// # Errors
    /// When the system refuses the mapping.
    pub fn map(&self) -> Result<memmap2::Mmap, OutputError> {
        // SAFETY: the file has no name that anyone else would open yet, and is neither cut nor rewritten by us while
        // a mapping of it lives: callers write on only past what they read back.
        unsafe { memmap2::Mmap::map(&self.file) }.map_err(|e| self.error(e))
    }

    /// Takes the file's whole space from the disk now, so that a full disk is found before hours of work.
    ///
    /// # Errors
    /// When there is no room.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), OutputError> {
        self.bytes = bytes;
        let Ok(len) = libc::off_t::try_from(bytes) else {
            return Err(OutputError::DiskFull {
                target: self.target.clone(),
                bytes,
            });
        };
        // SAFETY: fallocate takes an open descriptor and two numbers; it touches no memory of ours.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            // File systems that cannot reserve find out while writing.
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
            _ => Err(self.error(e)),
        }
    }

    /// The error to report for a failed write to the file.
    pub fn error(&self, cause: io::Error) -> OutputError {
        match cause.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => OutputError::DiskFull {
                target: self.target.clone(),
                bytes: self.bytes,
            },
            _ => OutputError::Io {
                target: self.target.clone(),
                cause,
            },
        }
    }

    /// Puts the file under its name, replacing what was there in one step.
    ///
    /// # Errors
    /// When the data or the name cannot be made durable; the target is then as it was before.
    pub fn commit(mut self) -> Result<(), OutputError> {
        self.file.sync_all().map_err(|e| self.error(e))?;
        match self.named.take() {
            Some(path) => path
                .persist(&self.target)
                .map_err(|e| self.error(e.error))?,
            None => self.name_nameless().map_err(|e| self.error(e))?,
        }
        // The rename itself is durable only when the directory is.
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| self.error(e))
    }

    /// Links the nameless file under a hidden name (a link cannot replace a file), then renames it over the target.
    fn name_nameless(&self) -> io::Result<()> {
        let name = self
            .target
            .file_name()
            .ok_or_else(|| io::Error::other("the output has no file name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let hidden = self.dir.join(hidden);
        let from = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        let to = CString::new(hidden.as_os_str().as_bytes())?;
        let _ = fs::remove_file(&hidden);
        // SAFETY: both paths are NUL-terminated strings that outlive the call.
        let linked = unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        };
        if linked != 0 {
            return Err(io::Error::last_os_error());
        }
        fs::rename(&hidden, &self.target).inspect_err(|_| {
            let _ = fs::remove_file(&hidden);
        })
    }
}

/// ` of N bytes`, where the size is known.
fn needed(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        n => format!(" of {n} bytes"),
    }
}

/// A file beyond the process's limit is an error to report like a full disk, not a reason to be killed.
fn ignore_size_signal() {
    // SAFETY: ignoring a signal installs no handler and touches no memory.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_uncommitted_file_leaves_nothing_and_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.bin");
        fs::write(&target, "old").unwrap();
        let mut f = AtomicFile::create(&target).unwrap();
        f.file().write_all(b"new").unwrap();
        drop(f);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(entries(dir.path()), ["a.bin"]);
    }

    #[test]
    fn commit_replaces_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.bin");
        fs::write(&target, "old").unwrap();
        let mut f = AtomicFile::create(&target).unwrap();
        f.reserve(3).unwrap();
        f.file().write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(entries(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("a.bin"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut f = AtomicFile::create(&link).unwrap();
        f.file().write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn inputs_and_pipes_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (input, other) = (dir.path().join("in"), dir.path().join("other"));
        fs::write(&input, "precious").unwrap();
        fs::hard_link(&input, &other).unwrap();
        let f = AtomicFile::create(&other).unwrap();
        let error = f.refuse_inputs([input.as_path()]).unwrap_err().to_string();
        assert!(error.contains("give another name"), "{error}");
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap();
        assert!(made.success());
        let error = AtomicFile::create(&pipe).err().unwrap().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn bad_targets_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = |p: &Path| AtomicFile::create(p).err().unwrap().to_string();
        assert!(text(dir.path()).contains("is a directory"));
        assert!(text(&dir.path().join("no/such.bin")).contains("does not exist"));
    }
}
