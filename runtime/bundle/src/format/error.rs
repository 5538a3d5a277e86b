//! Why a file is not a bundle that this runtime can use.

use super::{
    FORMAT_VERSION, HEADER_BYTES, MAX_MANIFEST_BYTES, RUNTIME_VERSION, SectionKind, Version,
    WEIGHTS_ALIGN,
};

/// Why a file is not a bundle that this runtime can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// No bytes at all.
    #[error("the file is empty; compile the model again")]
    Empty,
    /// Something else than a bundle.
    #[error("not a gembin file (its first bytes are not the gembin magic)")]
    WrongMagic,
    /// Cut inside the header.
    #[error(
        "truncated: {bytes} bytes, the header alone has {HEADER_BYTES}; copy or compile it again"
    )]
    HeaderTruncated {
        /// Length of the file.
        bytes: u64,
    },
    /// Written by a newer compiler.
    #[error(
        "needs gemrun >= {needs} (file format {format}); this is gemrun {RUNTIME_VERSION}, \
         which reads format {FORMAT_VERSION}"
    )]
    Newer {
        /// The file's format.
        format: u32,
        /// What it asks for.
        needs: Version,
    },
    /// A version that never existed.
    #[error("file format {format} is unknown; this gemrun reads format {FORMAT_VERSION}")]
    UnknownVersion {
        /// The file's format.
        format: u32,
    },
    /// Cut, or something was appended.
    #[error(
        "{}: the header says {header} bytes, the file has {file}; copy or compile it again",
        if .file < .header { "truncated" } else { "too long" }
    )]
    WrongLength {
        /// Per the header.
        header: u64,
        /// In fact.
        file: u64,
    },
    /// The section table cannot be where the header says.
    #[error("section table: {sections} sections at {offset} in a file of {file} bytes")]
    TableOutside {
        /// Sections.
        sections: u32,
        /// Of the table.
        offset: u64,
        /// Length of the file.
        file: u64,
    },
    /// Header or table changed after it was written.
    #[error(
        "header and section table: checksum is {found:016x}, recorded {recorded:016x}; the file is damaged"
    )]
    HeaderChecksum {
        /// Computed.
        found: u64,
        /// In the header.
        recorded: u64,
    },
    /// An entry of the table is malformed.
    #[error("section {index}: {what}")]
    BadEntry {
        /// In the table.
        index: u32,
        /// What is wrong.
        what: EntryFault,
    },
    /// A section must be there.
    #[error("section {kind} is missing")]
    Missing {
        /// Which.
        kind: SectionKind,
    },
    /// A section changed after it was written.
    #[error(
        "section {kind} at {offset}: checksum is {found:016x}, recorded {recorded:016x}; the file is damaged"
    )]
    Checksum {
        /// Which.
        kind: SectionKind,
        /// Of the section.
        offset: u64,
        /// Computed.
        found: u64,
        /// In the table.
        recorded: u64,
    },
    /// A byte that belongs to nothing is not zero.
    #[error(
        "byte {offset} lies between sections and is {byte:#04x} instead of zero; the file is damaged"
    )]
    Gap {
        /// In the file.
        offset: u64,
        /// Its value.
        byte: u8,
    },
    /// The manifest is larger than any that is needed.
    #[error("section manifest: {bytes} bytes, at most {MAX_MANIFEST_BYTES} are allowed")]
    ManifestTooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The manifest's bytes are no manifest.
    #[error("section manifest: cannot be decoded: {reason}")]
    ManifestDecode {
        /// The decoder's words.
        reason: String,
    },
    /// Something follows the manifest in its section.
    #[error("section manifest: {extra} bytes follow the manifest")]
    ManifestTrailing {
        /// How many.
        extra: usize,
    },
    /// The manifest promises a tokenizer that is not there, or the other way round.
    #[error(
        "the manifest says has_tokenizer = {manifest}, but a tokenizer section is {}",
        if *.manifest { "missing" } else { "present" }
    )]
    TokenizerMismatch {
        /// What the manifest says.
        manifest: bool,
    },
}

/// What is wrong with an entry of the section table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryFault {
    /// A kind this format does not have.
    #[error("kind {0} is unknown")]
    Kind(u32),
    /// A kind twice, or not in order.
    #[error("{0} must come once, in the order manifest, tokenizer, references, weights")]
    Order(SectionKind),
    /// Not the kind's alignment.
    #[error("{kind} at {offset}, alignment {alignment}: must be aligned to {}", .kind.alignment())]
    Alignment {
        /// The section.
        kind: SectionKind,
        /// In the file.
        offset: u64,
        /// Per the table.
        alignment: u32,
    },
    /// Not inside the file, or over something else.
    #[error("{kind} at {offset}, {length} bytes: must lie in {start}..{end} of the file")]
    Range {
        /// The section.
        kind: SectionKind,
        /// In the file.
        offset: u64,
        /// Bytes.
        length: u64,
        /// End of what comes before.
        start: u64,
        /// End of the file.
        end: u64,
    },
    /// The weights are no whole pages, or do not end the file.
    #[error(
        "weights at {offset}, {length} bytes: must be whole pages of {WEIGHTS_ALIGN} bytes that end the file at {end}"
    )]
    Weights {
        /// In the file.
        offset: u64,
        /// Bytes.
        length: u64,
        /// End of the file.
        end: u64,
    },
    /// The weights' checksums are in the manifest.
    #[error("weights must have checksum 0 in the table")]
    WeightsChecksum,
}
