//! The container: a header, a section table, sections.
//!
//! ```text
//! 0      header, 64 bytes
//! 64     section table, 32 bytes a section, ascending offsets
//!        manifest | tokenizer (optional) | references (optional)
//!        weights: last, page-aligned, whole pages
//! ```
//!
//! | header bytes | field |
//! |---|---|
//! | 0..8 | magic `GEMBIN\0\x1a` |
//! | 8..12 | [`FORMAT_VERSION`] |
//! | 12..16 | oldest runtime that can execute the file, a packed [`Version`] |
//! | 16..24 | length of the file |
//! | 24..28 | sections |
//! | 28..32 | zero |
//! | 32..40 | offset of the section table |
//! | 40..48 | XXH3-64 of the header, these 8 bytes taken as zero, followed by the table |
//! | 48..64 | zero |
//!
//! A section's entry is kind u32, alignment u32, offset u64, length u64, XXH3-64 u64. All numbers are little endian.
//! Every byte belongs to the header, the table or a section, or is zero; all of it is checked when a file is opened,
//! but for the weights, which nobody wants to read twice before the first token: they have a checksum each, held in
//! the manifest and tested by [`verify_weights`] on demand. The first 24 bytes keep their meaning in later versions.
//!
//! This module finds sections and decodes the manifest. Whether the manifest's numbers make sense is
//! [`crate::check`]'s question.

mod error;
mod references;
mod verify;
mod write;

#[cfg(test)]
mod tests;

pub use error::{EntryFault, FormatError};
pub use references::{References, ReferencesError};
pub use verify::{Damage, verify_weights};
pub use write::{Plane, WriteError, Writer};

use crate::manifest::Manifest;
use std::fmt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// First bytes of a file. The zero byte and the control character keep it from being taken for text.
pub const MAGIC: [u8; 8] = *b"GEMBIN\0\x1a";

/// Version of the container and of the manifest's encoding.
pub const FORMAT_VERSION: u32 = 3;

/// Oldest runtime that can execute what this version of the crate writes.
pub const MIN_RUNTIME_VERSION: Version = Version::new(0, 1, 0);

/// The version of this runtime.
pub const RUNTIME_VERSION: Version = Version::new(
    decimal(env!("CARGO_PKG_VERSION_MAJOR")),
    decimal(env!("CARGO_PKG_VERSION_MINOR")),
    decimal(env!("CARGO_PKG_VERSION_PATCH")),
);

/// Largest manifest, in bytes. The largest models need a few MB.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;

/// Alignment of the weights section, and of its length: a page, so that it can be imported by page.
pub const WEIGHTS_ALIGN: u64 = 4096;

/// Alignment of the other sections.
const SECTION_ALIGN: u64 = 64;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const CHECKSUM_AT: usize = 40;

/// Version of a runtime, packed into 32 bits: 10 of major, 11 of minor, 11 of patch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(u32);

impl Version {
    /// `major.minor.patch`; minor and patch below 2048, major below 1024.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        assert!(major < 1024 && minor < 2048 && patch < 2048);
        Self(major << 22 | minor << 11 | patch)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(v) = *self;
        write!(f, "{}.{}.{}", v >> 22, (v >> 11) & 2047, v & 2047)
    }
}

const fn decimal(text: &str) -> u32 {
    let digits = text.as_bytes();
    let (mut value, mut i) = (0, 0);
    while i < digits.len() {
        assert!(digits[i].is_ascii_digit());
        value = value * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// What a section holds. In a file, sections come in this order, each at most once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SectionKind {
    /// [`Manifest`].
    Manifest,
    /// The compiled tokenizer.
    Tokenizer,
    /// [`References`].
    References,
    /// Planes of the weights.
    Weights,
}

impl SectionKind {
    /// All, in the file's order.
    pub const ALL: [SectionKind; 4] = [
        SectionKind::Manifest,
        SectionKind::Tokenizer,
        SectionKind::References,
        SectionKind::Weights,
    ];

    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Manifest => "manifest",
            SectionKind::Tokenizer => "tokenizer",
            SectionKind::References => "references",
            SectionKind::Weights => "weights",
        }
    }

    fn code(self) -> u32 {
        match self {
            SectionKind::Manifest => 1,
            SectionKind::Tokenizer => 2,
            SectionKind::References => 3,
            SectionKind::Weights => 4,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    fn alignment(self) -> u64 {
        match self {
            SectionKind::Manifest | SectionKind::Tokenizer | SectionKind::References => {
                SECTION_ALIGN
            }
            SectionKind::Weights => WEIGHTS_ALIGN,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An entry of the section table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// XXH3-64 of the content; 0 for the weights.
    pub checksum: u64,
}

impl Section {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[0..4].copy_from_slice(&self.kind.code().to_le_bytes());
        entry[4..8].copy_from_slice(&(self.kind.alignment() as u32).to_le_bytes());
        entry[8..16].copy_from_slice(&self.offset.to_le_bytes());
        entry[16..24].copy_from_slice(&self.length.to_le_bytes());
        entry[24..32].copy_from_slice(&self.checksum.to_le_bytes());
        entry
    }
}

/// A file whose header, table and sections, but for the weights, are intact.
#[derive(Clone, PartialEq, Debug)]
pub struct Opened<'a> {
    /// Oldest runtime that can execute it.
    pub min_runtime_version: Version,
    /// The section table.
    pub sections: Vec<Section>,
    /// The manifest, decoded but not yet checked: see [`crate::check::check`].
    pub manifest: Manifest,
    /// The tokenizer section.
    pub tokenizer: Option<&'a [u8]>,
    /// The references section, see [`References::decode`].
    pub references: Option<&'a [u8]>,
    /// The weights section, not read.
    pub weights: &'a [u8],
    /// Where it starts in the file.
    pub weights_offset: u64,
}

/// Finds and checks the sections of a file. Never reads the weights, so that a mapped file of any size opens at once.
///
/// # Errors
/// The first thing that is wrong.
pub fn open(bytes: &[u8]) -> Result<Opened<'_>, FormatError> {
    let header = Header::read(bytes)?;
    let sections = header.sections(bytes)?;
    let content = |section: &Section| &bytes[section.offset as usize..][..section.length as usize];
    let find = |kind| sections.iter().find(|section| section.kind == kind);
    let required = |kind| find(kind).ok_or(FormatError::Missing { kind });

    let weights = required(SectionKind::Weights)?;
    let manifest = required(SectionKind::Manifest)?;
    check_gaps(bytes, header.table_end, &sections)?;
    for section in &sections {
        let found = match section.kind {
            SectionKind::Weights => continue,
            SectionKind::Manifest | SectionKind::Tokenizer | SectionKind::References => {
                xxh3_64(content(section))
            }
        };
        if found != section.checksum {
            return Err(FormatError::Checksum {
                kind: section.kind,
                offset: section.offset,
                found,
                recorded: section.checksum,
            });
        }
    }
    let manifest = decode_manifest(content(manifest))?;
    let tokenizer = find(SectionKind::Tokenizer).map(content);
    if manifest.text.has_tokenizer != tokenizer.is_some() {
        return Err(FormatError::TokenizerMismatch {
            manifest: manifest.text.has_tokenizer,
        });
    }
    Ok(Opened {
        min_runtime_version: header.min_runtime_version,
        manifest,
        tokenizer,
        references: find(SectionKind::References).map(content),
        weights: content(weights),
        weights_offset: weights.offset,
        sections,
    })
}

/// The fields of a header that fits its file.
struct Header {
    min_runtime_version: Version,
    section_count: u32,
    table_start: usize,
    table_end: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.is_empty() {
            return Err(FormatError::Empty);
        }
        let file = bytes.len() as u64;
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(FormatError::WrongMagic);
        }
        if bytes.len() < HEADER_BYTES {
            return Err(FormatError::HeaderTruncated { bytes: file });
        }
        let format = u32_at(bytes, 8);
        let needs = Version(u32_at(bytes, 12));
        if format > FORMAT_VERSION || needs > RUNTIME_VERSION {
            return Err(FormatError::Newer { format, needs });
        }
        if format != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion { format });
        }
        let header = u64_at(bytes, 16);
        if header != file {
            return Err(FormatError::WrongLength { header, file });
        }
        let section_count = u32_at(bytes, 24);
        let table_offset = u64_at(bytes, 32);
        let outside = FormatError::TableOutside {
            sections: section_count,
            offset: table_offset,
            file,
        };
        // The table follows the header: there is one way to write a file.
        let table_end = HEADER_BYTES as u64 + u64::from(section_count) * ENTRY_BYTES as u64;
        if table_offset != HEADER_BYTES as u64 || table_end > file {
            return Err(outside);
        }
        let table_end = table_end as usize;
        let recorded = u64_at(bytes, CHECKSUM_AT);
        let found = header_checksum(&bytes[..table_end]);
        if found != recorded {
            return Err(FormatError::HeaderChecksum { found, recorded });
        }
        let reserved = (28..32).chain(48..HEADER_BYTES);
        if let Some(at) = reserved.into_iter().find(|&at| bytes[at] != 0) {
            return Err(FormatError::Gap {
                offset: at as u64,
                byte: bytes[at],
            });
        }
        Ok(Self {
            min_runtime_version: needs,
            section_count,
            table_start: HEADER_BYTES,
            table_end,
        })
    }

    fn sections(&self, bytes: &[u8]) -> Result<Vec<Section>, FormatError> {
        let file = bytes.len() as u64;
        let mut sections: Vec<Section> = Vec::with_capacity(SectionKind::ALL.len());
        let entries = bytes[self.table_start..self.table_end].chunks_exact(ENTRY_BYTES);
        debug_assert_eq!(entries.len(), self.section_count as usize);
        for (index, entry) in (0..).zip(entries) {
            let start = sections
                .last()
                .map_or(self.table_end as u64, |last| last.offset + last.length);
            let previous = sections.last().map(|last| last.kind);
            sections.push(
                read_entry(entry, previous, start, file)
                    .map_err(|what| FormatError::BadEntry { index, what })?,
            );
        }
        Ok(sections)
    }
}

fn read_entry(
    entry: &[u8],
    previous: Option<SectionKind>,
    start: u64,
    end: u64,
) -> Result<Section, EntryFault> {
    let code = u32_at(entry, 0);
    let kind = SectionKind::from_code(code).ok_or(EntryFault::Kind(code))?;
    if previous.is_some_and(|previous| previous >= kind) {
        return Err(EntryFault::Order(kind));
    }
    let (alignment, offset) = (u32_at(entry, 4), u64_at(entry, 8));
    let (length, checksum) = (u64_at(entry, 16), u64_at(entry, 24));
    if u64::from(alignment) != kind.alignment() || !offset.is_multiple_of(kind.alignment()) {
        return Err(EntryFault::Alignment {
            kind,
            offset,
            alignment,
        });
    }
    let section_end = offset.checked_add(length);
    if offset < start || section_end.is_none_or(|section_end| section_end > end) {
        return Err(EntryFault::Range {
            kind,
            offset,
            length,
            start,
            end,
        });
    }
    match kind {
        SectionKind::Manifest | SectionKind::Tokenizer | SectionKind::References => {}
        SectionKind::Weights => {
            if section_end != Some(end) || !length.is_multiple_of(WEIGHTS_ALIGN) {
                return Err(EntryFault::Weights {
                    offset,
                    length,
                    end,
                });
            }
            if checksum != 0 {
                return Err(EntryFault::WeightsChecksum);
            }
        }
    }
    Ok(Section {
        kind,
        offset,
        length,
        checksum,
    })
}

/// Bytes between table and sections must be zero. The weights end the file, so that nothing follows the last section.
fn check_gaps(bytes: &[u8], table_end: usize, sections: &[Section]) -> Result<(), FormatError> {
    let mut end = table_end;
    for section in sections {
        let start = section.offset as usize;
        if let Some(at) = (end..start).find(|&at| bytes[at] != 0) {
            return Err(FormatError::Gap {
                offset: at as u64,
                byte: bytes[at],
            });
        }
        end = start + section.length as usize;
    }
    Ok(())
}

/// Checksum of header and table, which lie one after the other.
fn header_checksum(header_and_table: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&header_and_table[..CHECKSUM_AT]);
    hash.update(&[0; 8]);
    hash.update(&header_and_table[CHECKSUM_AT + 8..]);
    hash.digest()
}

/// The encoding of the manifest, for at most `LIMIT` bytes.
fn bincode_config<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<LIMIT>()
}

/// Decodes a manifest.
///
/// The decoder reserves the announced length of a string before it looks for its bytes, and is held back by the limit
/// alone, a constant: the smallest of a few that fits keeps memory in proportion to the section. Sequences grow as
/// their elements arrive, serde reserves at most 1 MiB ahead.
pub(crate) fn decode_manifest(bytes: &[u8]) -> Result<Manifest, FormatError> {
    use bincode::serde::decode_from_slice as decode;
    const SMALL: usize = 64 << 10;
    const MEDIUM: usize = 1 << 20;
    const LARGE: usize = 8 << 20;
    let length = bytes.len();
    let decoded = if length <= SMALL {
        decode(bytes, bincode_config::<SMALL>())
    } else if length <= MEDIUM {
        decode(bytes, bincode_config::<MEDIUM>())
    } else if length <= LARGE {
        decode(bytes, bincode_config::<LARGE>())
    } else if length <= MAX_MANIFEST_BYTES {
        decode(bytes, bincode_config::<MAX_MANIFEST_BYTES>())
    } else {
        return Err(FormatError::ManifestTooLarge {
            bytes: length as u64,
        });
    };
    let (manifest, used) = decoded.map_err(|error| FormatError::ManifestDecode {
        reason: one_line(&error.to_string()),
    })?;
    match bytes.len() - used {
        0 => Ok(manifest),
        extra => Err(FormatError::ManifestTrailing { extra }),
    }
}

/// The manifest's bytes.
pub(crate) fn encode_manifest(manifest: &Manifest) -> Result<Vec<u8>, WriteError> {
    let bytes = bincode::serde::encode_to_vec(manifest, bincode_config::<MAX_MANIFEST_BYTES>())
        .map_err(|error| WriteError::Manifest(one_line(&error.to_string())))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(WriteError::Manifest(format!(
            "{} bytes, at most {MAX_MANIFEST_BYTES} can be read",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
