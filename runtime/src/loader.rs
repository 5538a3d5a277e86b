//! Maps a bundle and proves it sound before anything of it is used.
//!
//! The file is mapped read-only and never copied: opening costs the same for any size, because of the weights not a
//! byte is touched unless their checksums are asked for. The system reads them in as steps first use them and shares
//! them between processes; no advice is given to it, since reading ahead gigabytes would delay the first token of a
//! bundle that is in its cache anyway.
//!
//! A mapped file must not be changed in place while it is in use: what was checked would no longer be what is
//! executed, and a file cut short ends the process with SIGBUS. That is the risk of whoever writes to the file;
//! the compiler never does, it renames a complete new file over the old one, which leaves the mapped one as it was.

use crate::error::Error;
use gembin_bundle::check;
use gembin_bundle::format::{self, Damage, References, Section, SectionKind, Version};
use gembin_bundle::manifest::Manifest;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of a bundle is read when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Integrity {
    /// Everything that decides what the runtime does: all sections but the weights.
    #[default]
    Structure,
    /// The weights' checksums too.
    Weights,
}

/// A mapped file whose structure, and whose programs, have been checked.
pub struct Bundle {
    path: PathBuf,
    file: Arc<Mmap>,
    manifest: Arc<Manifest>,
    sections: Vec<Section>,
    min_runtime_version: Version,
}

/// Bytes of a mapped file; keep the mapping.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A section of a mapped file.
struct Mapped {
    file: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl Bundle {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn open(path: &Path, integrity: Integrity) -> Result<Self, Error> {
        let file = map(path)?;
        let bad = |reason: String| Error::Bundle {
            path: path.to_owned(),
            reason,
        };
        let opened = format::open(&file).map_err(|error| bad(error.to_string()))?;
        let (sections, min_runtime_version) = (opened.sections, opened.min_runtime_version);
        let weights_bytes = opened.weights.len() as u64;
        let manifest =
            check::check(opened.manifest, weights_bytes).map_err(|error| bad(error.to_string()))?;
        let bundle = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            manifest: Arc::new(Manifest::clone(&manifest)),
            sections,
            min_runtime_version,
        };
        match integrity {
            Integrity::Structure => {}
            Integrity::Weights => bundle.verify_weights().map_err(|damage| {
                const NAMED: usize = 3;
                let mut names: Vec<String> =
                    damage.iter().take(NAMED).map(Damage::to_string).collect();
                if damage.len() > NAMED {
                    names.push(format!("{} more", damage.len() - NAMED));
                }
                Error::DamagedWeights {
                    path: path.to_owned(),
                    names: names.join("; "),
                }
            })?,
        }
        Ok(bundle)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The checked manifest, to keep.
    pub fn shared_manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Oldest runtime that can execute the bundle.
    pub fn min_runtime_version(&self) -> Version {
        self.min_runtime_version
    }

    /// The compiled tokenizer, if there is one, to keep.
    pub fn tokenizer(&self) -> Option<SharedBytes> {
        self.section(SectionKind::Tokenizer)
            .map(|range| self.shared(range))
    }

    /// The reference inputs and outputs, if there are any.
    ///
    /// # Errors
    /// When the section is malformed.
    pub fn references(&self) -> Result<Option<References>, Error> {
        let Some(range) = self.section(SectionKind::References) else {
            return Ok(None);
        };
        References::decode(&self.file[range], self.manifest.limits.vocab)
            .map(Some)
            .map_err(|error| Error::Bundle {
                path: self.path.clone(),
                reason: error.to_string(),
            })
    }

    /// The weights section, to keep.
    pub fn weights(&self) -> SharedBytes {
        self.shared(self.section(SectionKind::Weights).unwrap_or(0..0))
    }

    /// Reads all weights and compares them with their checksums.
    ///
    /// # Errors
    /// All damage found.
    pub fn verify_weights(&self) -> Result<(), Vec<Damage>> {
        let range = self.section(SectionKind::Weights).unwrap_or(0..0);
        format::verify_weights(&self.manifest, &self.file[range])
    }

    fn shared(&self, range: Range<usize>) -> SharedBytes {
        Arc::new(Mapped {
            file: Arc::clone(&self.file),
            range,
        })
    }

    /// Range of a section in the file; the table was checked to lie inside.
    fn section(&self, kind: SectionKind) -> Option<Range<usize>> {
        self.sections
            .iter()
            .find(|section| section.kind == kind)
            .map(|section| section.offset as usize..(section.offset + section.length) as usize)
    }
}

/// Maps a regular file that is not empty.
fn map(path: &Path) -> Result<Mmap, Error> {
    let io = |doing| {
        move |source| Error::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    // Asked before opening: opening a pipe would wait for a writer.
    let facts = std::fs::metadata(path).map_err(io("open"))?;
    let what = if facts.is_dir() {
        Some("a directory")
    } else if facts.is_file() {
        None
    } else {
        Some("not a regular file")
    };
    if let Some(what) = what {
        return Err(Error::NotAFile {
            path: path.to_owned(),
            what,
        });
    }
    if facts.len() == 0 {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(io("open"))?;
    // SAFETY: the mapping is read-only and private to this module, which hands out shared slices of plain bytes. That
    // the file is not changed underneath is asked of the user, see the module's docs.
    unsafe { Mmap::map(&file) }.map_err(io("map"))
}
