//! What the GPU's driver compiled, kept on disk: the first token of a later run does not wait for its compiler.
//!
//! One file a bundle and driver, in the user's cache folder. It holds what Vulkan returned behind a checksum; a file
//! that is missing, damaged or of another driver is as good as none, and failing to write one is no failure.

use super::abilities::Abilities;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// First bytes of a file.
const MAGIC: [u8; 8] = *b"GEMPIPE\x01";
/// Magic and checksum.
const HEADER_BYTES: usize = 16;
/// Most bytes that are read: pipelines of a bundle take a few MiB.
const LARGEST_FILE: u64 = 256 << 20;
/// Files kept; older ones make way.
const MOST_FILES: usize = 64;
const PREFIX: &str = "vulkan-";
const SUFFIX: &str = ".pipelines";

/// What decides whether compiled pipelines can be used again.
pub(super) fn key<'a>(abilities: &Abilities, codes: impl Iterator<Item = &'a [u32]>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&abilities.cache_uuid);
    for id in abilities.ids {
        hash.update(&id.to_le_bytes());
    }
    for code in codes {
        hash.update(&(code.len() as u64).to_le_bytes());
        for word in code {
            hash.update(&word.to_le_bytes());
        }
    }
    hash.digest()
}

/// The user's cache folder for this program, by the rules of XDG; `None` where there is neither home nor setting.
pub(super) fn user_folder() -> Option<PathBuf> {
    folder(
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
}

fn folder(cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The rules call relative paths invalid.
    cache
        .filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".cache"))
        })
        .map(|base| base.join("gembin"))
}

/// The file of a key.
pub(super) fn file(folder: &Path, key: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{key:016x}{SUFFIX}"))
}

/// What was kept; empty where nothing usable was.
pub(super) fn read(file: &Path) -> Vec<u8> {
    let known_size = fs::metadata(file).is_ok_and(|facts| facts.len() <= LARGEST_FILE);
    if !known_size {
        return Vec::new();
    }
    let Ok(mut bytes) = fs::read(file) else {
        return Vec::new();
    };
    let Some((header, data)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Vec::new();
    };
    if header[..8] != MAGIC || header[8..] != xxh3_64(data).to_le_bytes() {
        return Vec::new();
    }
    bytes.drain(..HEADER_BYTES);
    bytes
}

/// Keeps `data`; a reader sees the old file or the new one, whole.
///
/// # Errors
/// When the system refuses; the old file is untouched then.
pub(super) fn write(file: &Path, data: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let unfinished = folder.join(name);
    let result = fs::File::create(&unfinished)
        .and_then(|mut new| {
            new.write_all(&MAGIC)?;
            new.write_all(&xxh3_64(data).to_le_bytes())?;
            new.write_all(data)
        })
        .and_then(|()| fs::rename(&unfinished, file));
    if result.is_err() {
        let _ = fs::remove_file(&unfinished);
    } else {
        make_room(folder);
    }
    result
}

/// Removes the oldest files beyond the number kept.
fn make_room(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(PREFIX) && name.ends_with(SUFFIX)
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let extra = files.len().saturating_sub(MOST_FILES);
    for (_, path) in &files[..extra] {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::vulkan::testing;

    #[test]
    fn the_key_depends_on_driver_device_and_code() {
        let codes: [&[u32]; 2] = [&[1, 2], &[3]];
        let base = key(&testing::abilities(), codes.into_iter());
        let mut other = testing::abilities();
        other.cache_uuid[0] ^= 1;
        assert_ne!(base, key(&other, codes.into_iter()));
        let mut other = testing::abilities();
        other.ids[2] += 1;
        assert_ne!(base, key(&other, codes.into_iter()));
        let moved: [&[u32]; 2] = [&[1], &[2, 3]];
        assert_ne!(base, key(&testing::abilities(), moved.into_iter()));
        assert_eq!(base, key(&testing::abilities(), codes.into_iter()));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir.path().join("deep/gembin"), 7);
        assert!(read(&path).is_empty(), "no file yet");
        write(&path, b"compiled").unwrap();
        assert_eq!(read(&path), b"compiled");
        write(&path, b"compiled again").unwrap();
        assert_eq!(read(&path), b"compiled again");
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1, "nothing unfinished is left");

        let whole = fs::read(&path).unwrap();
        for at in [0, 9, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(read(&path).is_empty(), "byte {at}");
        }
        fs::write(&path, &whole[..10]).unwrap();
        assert!(read(&path).is_empty(), "cut short");
    }

    #[test]
    fn old_files_make_way() {
        let dir = tempfile::tempdir().unwrap();
        for key in 0..MOST_FILES as u64 + 3 {
            write(&file(dir.path(), key), b"x").unwrap();
        }
        fs::write(dir.path().join("something else"), b"stays").unwrap();
        write(&file(dir.path(), 999), b"x").unwrap();
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, MOST_FILES + 1);
        assert!(file(dir.path(), 999).exists());
    }

    #[test]
    fn the_folder_follows_xdg() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(folder(path("/x"), path("/people/a")), path("/x/gembin"));
        assert_eq!(
            folder(None, path("/people/a")),
            path("/people/a/.cache/gembin")
        );
        assert_eq!(
            folder(path("relative"), path("/people/a")),
            path("/people/a/.cache/gembin")
        );
        assert_eq!(folder(None, None), None);
    }
}
