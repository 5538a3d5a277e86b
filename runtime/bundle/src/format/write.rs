//! Writing a bundle: weights stream through, everything else is written around them.
//!
//! The manifest comes before the weights and holds their checksums, which are known last. Its numbers have a fixed
//! width, so its length is known first: the writer leaves room, writes the planes as they come, and goes back.
//! Creating, syncing and renaming the file is the caller's.

use super::{
    ENTRY_BYTES, FORMAT_VERSION, HEADER_BYTES, MAGIC, MIN_RUNTIME_VERSION, References, Section,
    SectionKind, WEIGHTS_ALIGN, encode_manifest, header_checksum,
};
use crate::manifest::{Manifest, WeightEntry, place_weights};
use std::fmt;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Why a bundle could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system refused.
    #[error("cannot write the bundle: {0}")]
    Io(#[from] std::io::Error),
    /// The manifest has no encoding, or too long a one.
    #[error("cannot encode the manifest: {0}")]
    Manifest(String),
    /// The caller's plan is not what `place_weights` makes.
    #[error("weight {name:?} is not where place_weights puts it")]
    Placement {
        /// The weight.
        name: String,
    },
    /// More bytes than the plane has.
    #[error("{plane} plane of weight {name:?}: {given} bytes given, {left} are left")]
    PlaneOverrun {
        /// The weight.
        name: String,
        /// Which plane.
        plane: Plane,
        /// In the refused chunk.
        given: usize,
        /// Still missing.
        left: u64,
    },
    /// Bytes after the last plane.
    #[error("{given} bytes given after the last plane")]
    NoPlaneLeft {
        /// In the refused chunk.
        given: usize,
    },
    /// Finished too early.
    #[error("{plane} plane of weight {name:?}: {left} bytes were not written")]
    PlaneUnfinished {
        /// The weight.
        name: String,
        /// Which plane.
        plane: Plane,
        /// Still missing.
        left: u64,
    },
    /// The final manifest differs from the planned one in its weights or its length.
    #[error("the manifest is not the planned one: {0}")]
    PlanChanged(&'static str),
    /// The references are not of the length that was reserved.
    #[error("references: {reserved} bytes were reserved, {given} are given")]
    References {
        /// Bytes reserved.
        reserved: u64,
        /// Bytes given.
        given: u64,
    },
}

/// A plane of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plane {
    /// Values.
    Data,
    /// Group scales.
    Scales,
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Plane::Data => "data",
            Plane::Scales => "scale",
        })
    }
}

/// Writes one bundle. Memory does not grow with the weights.
pub struct Writer<'a, W: Write + Seek> {
    out: BufWriter<W>,
    /// The planned table; checksums are filled in as planes end.
    weights: Vec<WeightEntry>,
    tokenizer: Option<&'a [u8]>,
    manifest_bytes: usize,
    references_bytes: Option<u64>,
    weights_offset: u64,
    weights_bytes: u64,
    /// Planes not yet full: entry and which, in order, with bytes.
    planes: std::vec::IntoIter<PlannedPlane>,
    current: Option<PlannedPlane>,
    /// Bytes of the current plane that are written.
    filled: u64,
    /// Bytes of the weights section that are written.
    position: u64,
    hash: Xxh3,
}

#[derive(Clone, Copy)]
struct PlannedPlane {
    entry: usize,
    plane: Plane,
    offset: u64,
    bytes: u64,
}

impl<'a, W: Write + Seek> Writer<'a, W> {
    /// Starts a bundle. `plan` is the final manifest but for the weights' checksums, its weights placed by
    /// [`place_weights`]; `references_bytes` is [`References::section_bytes`] of the references to come.
    ///
    /// # Errors
    /// When the plan cannot be encoded or its weights are not placed, or the file cannot be written.
    pub fn new(
        out: W,
        plan: &Manifest,
        tokenizer: Option<&'a [u8]>,
        references_bytes: Option<u64>,
    ) -> Result<Self, WriteError> {
        let mut placed = plan.weights.clone();
        let weights_bytes = place_weights(&mut placed);
        if let Some((entry, _)) = placed.iter().zip(&plan.weights).find(|(p, w)| p != w) {
            return Err(WriteError::Placement {
                name: entry.name.clone(),
            });
        }
        if plan.text.has_tokenizer != tokenizer.is_some() {
            return Err(WriteError::PlanChanged(
                "has_tokenizer does not say whether there is a tokenizer",
            ));
        }
        let manifest_bytes = encode_manifest(plan)?.len();
        let planes: Vec<PlannedPlane> = placed
            .iter()
            .enumerate()
            .flat_map(|(entry, weight)| {
                [(Plane::Data, weight.data), (Plane::Scales, weight.scales)].map(|(plane, span)| {
                    PlannedPlane {
                        entry,
                        plane,
                        offset: span.offset,
                        bytes: span.bytes,
                    }
                })
            })
            .filter(|plane| plane.bytes > 0)
            .collect();
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 18, out),
            weights: placed,
            tokenizer,
            manifest_bytes,
            references_bytes,
            weights_offset: 0,
            weights_bytes,
            planes: planes.into_iter(),
            current: None,
            filled: 0,
            position: 0,
            hash: Xxh3::new(),
        };
        writer.weights_offset = writer.sections()[writer.section_count() - 1].offset;
        writer.out.seek(SeekFrom::Start(writer.weights_offset))?;
        writer.current = writer.planes.next();
        Ok(writer)
    }

    /// Length of the finished file.
    pub fn file_bytes(&self) -> u64 {
        self.weights_offset + self.weights_bytes
    }

    /// Where the weights section starts in the file.
    pub fn weights_offset(&self) -> u64 {
        self.weights_offset
    }

    /// Pads the weights section and hands every byte of it to the file, so that it can be read back before the rest
    /// is written.
    ///
    /// # Errors
    /// When planes are missing, or the file cannot be written.
    pub fn end_weights(&mut self) -> Result<(), WriteError> {
        if let Some(current) = self.current {
            return Err(WriteError::PlaneUnfinished {
                name: self.weights[current.entry].name.clone(),
                plane: current.plane,
                left: current.bytes - self.filled,
            });
        }
        self.pad_to(self.weights_bytes)?;
        self.out.flush()?;
        Ok(())
    }

    /// The plane that the next bytes belong to: index in the weights table, which plane, bytes still missing.
    pub fn next_plane(&self) -> Option<(usize, Plane, u64)> {
        self.current
            .map(|p| (p.entry, p.plane, p.bytes - self.filled))
    }

    /// Appends bytes to the current plane. Planes come in the order of the table, a weight's data before its scales;
    /// a chunk does not reach over the end of a plane. Padding is the writer's.
    ///
    /// # Errors
    /// When there are more bytes than the plane has left, or the file cannot be written.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), WriteError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let given = chunk.len();
        let current = self.current.ok_or(WriteError::NoPlaneLeft { given })?;
        let left = current.bytes - self.filled;
        if given as u64 > left {
            return Err(WriteError::PlaneOverrun {
                name: self.weights[current.entry].name.clone(),
                plane: current.plane,
                given,
                left,
            });
        }
        self.pad_to(current.offset + self.filled)?;
        self.hash.update(chunk);
        self.out.write_all(chunk)?;
        self.position += given as u64;
        self.filled += given as u64;
        if self.filled == current.bytes {
            self.filled = 0;
            self.current = self.planes.next();
            if self.current.is_none_or(|next| next.entry != current.entry) {
                self.weights[current.entry].checksum = self.hash.digest();
                self.hash.reset();
            }
        }
        Ok(())
    }

    /// Writes what comes before the weights. `manifest` is the planned one: its facts may have changed, not its length;
    /// the weights' checksums are set here.
    ///
    /// # Errors
    /// When planes are missing, lengths differ from the planned ones, or the file cannot be written.
    pub fn finish(
        mut self,
        mut manifest: Manifest,
        references: Option<&References>,
    ) -> Result<W, WriteError> {
        self.end_weights()?;
        let given = references.and_then(References::encode);
        let reserved = self.references_bytes;
        if given.as_ref().map(|bytes| bytes.len() as u64) != reserved {
            return Err(WriteError::References {
                reserved: reserved.unwrap_or(0),
                given: given.map_or(0, |bytes| bytes.len() as u64),
            });
        }
        if manifest.text.has_tokenizer != self.tokenizer.is_some() {
            return Err(WriteError::PlanChanged("has_tokenizer"));
        }
        if manifest.weights.len() != self.weights.len() {
            return Err(WriteError::PlanChanged("the number of weights"));
        }
        for (entry, written) in manifest.weights.iter_mut().zip(&self.weights) {
            entry.checksum = written.checksum;
            if entry != written {
                return Err(WriteError::PlanChanged("the weights table"));
            }
        }
        let encoded = encode_manifest(&manifest)?;
        if encoded.len() != self.manifest_bytes {
            return Err(WriteError::PlanChanged("its length"));
        }
        let head = self.head(&encoded, given.as_deref().unwrap_or(&[]));
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&head)?;
        self.out.flush()?;
        self.out
            .into_inner()
            .map_err(|error| WriteError::Io(error.into_error()))
    }

    /// Everything before the weights.
    fn head(&self, manifest: &[u8], references: &[u8]) -> Vec<u8> {
        let mut sections = self.sections();
        let mut head = vec![0; self.weights_offset as usize];
        for section in &mut sections {
            let content = match section.kind {
                SectionKind::Manifest => manifest,
                SectionKind::Tokenizer => self.tokenizer.unwrap_or(&[]),
                SectionKind::References => references,
                SectionKind::Weights => continue,
            };
            section.checksum = xxh3_64(content);
            head[section.offset as usize..][..content.len()].copy_from_slice(content);
        }
        head[0..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&MIN_RUNTIME_VERSION.0.to_le_bytes());
        let file = self.weights_offset + self.weights_bytes;
        head[16..24].copy_from_slice(&file.to_le_bytes());
        head[24..28].copy_from_slice(&(sections.len() as u32).to_le_bytes());
        head[32..40].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        let table_end = HEADER_BYTES + sections.len() * ENTRY_BYTES;
        let table = &mut head[HEADER_BYTES..table_end];
        for (entry, section) in table.chunks_exact_mut(ENTRY_BYTES).zip(&sections) {
            entry.copy_from_slice(&section.to_bytes());
        }
        let checksum = header_checksum(&head[..table_end]);
        head[super::CHECKSUM_AT..][..8].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    fn lengths(&self) -> impl Iterator<Item = (SectionKind, u64)> {
        let tokenizer = self.tokenizer.map(|bytes| bytes.len() as u64);
        SectionKind::ALL.into_iter().filter_map(move |kind| {
            let length = match kind {
                SectionKind::Manifest => Some(self.manifest_bytes as u64),
                SectionKind::Tokenizer => tokenizer,
                SectionKind::References => self.references_bytes,
                SectionKind::Weights => Some(self.weights_bytes),
            };
            Some((kind, length?))
        })
    }

    fn section_count(&self) -> usize {
        self.lengths().count()
    }

    /// The section table, checksums still zero.
    fn sections(&self) -> Vec<Section> {
        let mut end = (HEADER_BYTES + self.section_count() * ENTRY_BYTES) as u64;
        self.lengths()
            .map(|(kind, length)| {
                let offset = end.next_multiple_of(kind.alignment());
                end = offset + length;
                Section {
                    kind,
                    offset,
                    length,
                    checksum: 0,
                }
            })
            .collect()
    }

    /// Zeros up to `offset` of the weights section.
    fn pad_to(&mut self, offset: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; WEIGHTS_ALIGN as usize] = [0; WEIGHTS_ALIGN as usize];
        // Planes are placed one after the other: a gap is shorter than a page.
        let gap = (offset - self.position) as usize;
        self.out.write_all(&ZEROS[..gap])?;
        self.position = offset;
        Ok(())
    }
}
