//! The file a command writes: complete or not there at all, and never in the place of something else.
//!
//! A regular file is written beside its place and renamed over it. A symbolic link is followed first, so the link stays.
//! Devices and pipes cannot be replaced; they are written straight through. Directories, and the very bundle that is
//! being read, are refused.

use crate::cli::interrupt;
use anyhow::{Context, bail};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Symbolic links followed one after the other; the system's own limit.
const MAX_LINKS: usize = 40;

/// The temporary file of this process, for [`remove_unfinished`]. Commands write one file each.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes a file that is being written, before the process ends in the middle of it.
pub(crate) fn remove_unfinished() {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = unfinished.take() {
        // There is nobody left to tell.
        let _untold = fs::remove_file(path);
    }
}

/// A place that may be written.
#[derive(Debug)]
pub(crate) struct Target {
    /// As the user wrote it.
    shown: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A device or a pipe.
    Through,
    /// A regular file, links followed, which may be there already and then keeps its permissions.
    Replaced {
        path: PathBuf,
        permissions: Option<Permissions>,
    },
}

impl Target {
    /// Looks at what is at `path`; nothing is written yet.
    ///
    /// # Errors
    /// When it is a directory or the file at `bundle`, or cannot be told.
    pub(crate) fn new(path: &Path, bundle: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let kind = match fs::metadata(path) {
            Ok(facts) if facts.is_dir() => bail!("{}: is a directory", path.display()),
            Ok(facts) => {
                let same =
                    |other: fs::Metadata| (other.dev(), other.ino()) == (facts.dev(), facts.ino());
                // A bundle that is not there is told by whoever opens it.
                if fs::metadata(bundle).is_ok_and(same) {
                    bail!(
                        "{} is the same file as the bundle {}; write somewhere else",
                        path.display(),
                        bundle.display()
                    );
                }
                if facts.is_file() {
                    Kind::Replaced {
                        path: fs::canonicalize(path).with_context(cannot)?,
                        permissions: Some(facts.permissions()),
                    }
                } else {
                    Kind::Through
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Kind::Replaced {
                path: follow(path).with_context(cannot)?,
                permissions: None,
            },
            Err(error) => return Err(error).with_context(cannot),
        };
        Ok(Self {
            shown: path.to_owned(),
            kind,
        })
    }

    /// Opens it for writing.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn create(self) -> anyhow::Result<OutputFile> {
        let opened = match self.kind {
            // Opening a pipe waits for its reader.
            Kind::Through => {
                interrupt::while_idle(|| OpenOptions::new().write(true).open(&self.shown))
                    .map(|file| (file, None))
            }
            Kind::Replaced { path, permissions } => create_beside(&path, permissions)
                .map(|(file, temporary)| (file, Some(Rename { temporary, path }))),
        };
        let (file, rename) =
            opened.with_context(|| format!("cannot write {}", self.shown.display()))?;
        Ok(OutputFile {
            shown: self.shown,
            file,
            rename,
        })
    }
}

/// Where a path that leads to nothing leads: over links whose end is missing.
fn follow(path: &Path) -> std::io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            // A relative link starts in the folder it lies in; joining an absolute one gives that one.
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) if path.file_name().is_none() => return Err(ErrorKind::NotFound.into()),
            Err(_) => return Ok(path),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// Makes a new file in the folder of `path`.
fn create_beside(
    path: &Path,
    permissions: Option<Permissions>,
) -> std::io::Result<(File, PathBuf)> {
    // Names that a killed process with our id left behind are passed over.
    const NAMES: u32 = 100;
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    for number in 0..NAMES {
        let name = format!(".gemrun-{}-{number}.tmp", std::process::id());
        let temporary = path.with_file_name(name);
        match File::create_new(&temporary) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                *unfinished = Some(temporary.clone());
                if let Some(permissions) = permissions {
                    // Not all file systems have them; the content matters more.
                    let _unsupported = file.set_permissions(permissions);
                }
                return Ok((file, temporary));
            }
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// A file being written. Dropped before [`OutputFile::finish`], it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct OutputFile {
    shown: PathBuf,
    file: File,
    /// `None` for what is written straight through, and when done.
    rename: Option<Rename>,
}

#[derive(Debug)]
struct Rename {
    temporary: PathBuf,
    path: PathBuf,
}

impl OutputFile {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| self.cannot())
    }

    /// Puts the file into its place.
    ///
    /// # Errors
    /// When the system refuses; what was there before is there still.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        if let Some(Rename { temporary, path }) = &self.rename {
            self.file
                .sync_all()
                .and_then(|()| fs::rename(temporary, path))
                .with_context(|| self.cannot())?;
            self.rename = None;
            *UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }

    fn cannot(&self) -> String {
        format!("cannot write {}", self.shown.display())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.rename.is_some() {
            remove_unfinished();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder with a bundle in it. The tests of this module share the process's one unfinished file, so they take
    /// turns.
    struct Folder {
        dir: tempfile::TempDir,
        _turn: std::sync::MutexGuard<'static, ()>,
    }

    impl Folder {
        fn new() -> Self {
            static TURN: Mutex<()> = Mutex::new(());
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let dir = tempfile::TempDir::new().unwrap();
            fs::write(dir.path().join("b.gembin"), "bundle").unwrap();
            Self { dir, _turn: turn }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn target(&self, name: &str) -> anyhow::Result<Target> {
            Target::new(&self.at(name), &self.at("b.gembin"))
        }

        fn write(&self, name: &str) {
            let mut file = self.target(name).unwrap().create().unwrap();
            file.write(b"new").unwrap();
            file.finish().unwrap();
        }

        fn count(&self) -> usize {
            fs::read_dir(self.dir.path()).unwrap().count()
        }
    }

    #[test]
    fn a_file_is_replaced_when_complete_and_not_before() {
        let folder = Folder::new();
        fs::write(folder.at("out"), "old").unwrap();
        let mut file = folder.target("out").unwrap().create().unwrap();
        file.write(b"ne").unwrap();
        assert_eq!(fs::read(folder.at("out")).unwrap(), b"old");
        drop(file);
        assert_eq!(fs::read(folder.at("out")).unwrap(), b"old");
        assert_eq!(folder.count(), 2, "nothing is left of what was dropped");
        folder.write("out");
        assert_eq!(fs::read(folder.at("out")).unwrap(), b"new");
        assert_eq!(folder.count(), 2);
    }

    #[test]
    fn a_link_stays_and_what_it_points_to_is_written() {
        let folder = Folder::new();
        fs::create_dir(folder.at("there")).unwrap();
        for (link, to) in [("dangling", "there/a"), ("good", "there/b")] {
            symlink(to, folder.at(link)).unwrap();
        }
        fs::write(folder.at("there/b"), "old").unwrap();
        for (link, to) in [("dangling", "there/a"), ("good", "there/b")] {
            folder.write(link);
            assert!(fs::symlink_metadata(folder.at(link)).unwrap().is_symlink());
            assert_eq!(fs::read(folder.at(to)).unwrap(), b"new");
        }
    }

    #[test]
    fn the_bundle_by_any_name_directories_and_loops_are_refused() {
        let folder = Folder::new();
        symlink("b.gembin", folder.at("link")).unwrap();
        fs::hard_link(folder.at("b.gembin"), folder.at("hard")).unwrap();
        symlink("loop", folder.at("loop")).unwrap();
        for (name, reason) in [
            ("b.gembin", "same file as the bundle"),
            ("link", "same file as the bundle"),
            ("hard", "same file as the bundle"),
            ("", "is a directory"),
            ("loop", "cannot write"),
        ] {
            let error = folder.target(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        assert_eq!(fs::read(folder.at("b.gembin")).unwrap(), b"bundle");
    }

    #[test]
    fn a_pipe_is_written_through() {
        let folder = Folder::new();
        let pipe = folder.at("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        folder.write("pipe");
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(!fs::metadata(&pipe).unwrap().is_file());
        assert_eq!(folder.count(), 2);
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new();
        fs::write(folder.at("out"), "old").unwrap();
        fs::set_permissions(folder.at("out"), Permissions::from_mode(0o600)).unwrap();
        folder.write("out");
        let mode = fs::metadata(folder.at("out")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
