//! The container: round trips, the writer's refusals, and files that were damaged or forged.

use super::*;
use crate::layout::{PLANE_ALIGN, data_bytes, scale_bytes};
use crate::manifest::{Span, place_weights};
use crate::sample;
use proptest::prelude::*;
use std::io::Cursor;
use std::sync::LazyLock;

static BUNDLE: LazyLock<Vec<u8>> = LazyLock::new(|| sample::bundle(1000));

fn error(bytes: &[u8]) -> String {
    let text = open(bytes).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// The error of a bundle whose header and table are changed and then signed anew.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = BUNDLE.clone();
    change(&mut bytes);
    sign(&mut bytes);
    error(&bytes)
}

fn sign(bytes: &mut [u8]) {
    let sections = u32_at(bytes, 24) as usize;
    let checksum = header_checksum(&bytes[..HEADER_BYTES + sections * ENTRY_BYTES]);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Where the entry of the section of this index starts.
fn entry(index: usize) -> usize {
    HEADER_BYTES + index * ENTRY_BYTES
}

#[test]
fn round_trip() {
    let opened = open(&BUNDLE).unwrap();
    let (mut manifest, weights_bytes) = sample::manifest();
    for (entry, read) in manifest.weights.iter_mut().zip(&opened.manifest.weights) {
        assert_ne!(read.checksum, 0);
        entry.checksum = read.checksum;
    }
    assert_eq!(opened.manifest, manifest);
    assert_eq!(opened.tokenizer, Some(sample::TOKENIZER));
    let references = References::decode(opened.references.unwrap(), sample::VOCAB);
    assert_eq!(references, Ok(sample::references()));
    assert_eq!(opened.weights.len() as u64, weights_bytes);
    assert_eq!(opened.weights_offset % WEIGHTS_ALIGN, 0);
    assert_eq!(opened.min_runtime_version, MIN_RUNTIME_VERSION);
    assert_eq!(verify_weights(&opened.manifest, opened.weights), Ok(()));
}

#[test]
fn bytes_do_not_depend_on_the_chunks() {
    assert_eq!(sample::bundle(7), *BUNDLE);
    assert_eq!(sample::bundle(1 << 20), *BUNDLE);
}

#[test]
fn optional_sections_may_be_absent() {
    let (mut manifest, _) = sample::manifest();
    manifest.text.has_tokenizer = false;
    manifest.weights.clear();
    let writer = Writer::new(Cursor::new(Vec::new()), &manifest, None, None).unwrap();
    let bytes = writer.finish(manifest.clone(), None).unwrap().into_inner();
    let opened = open(&bytes).unwrap();
    assert_eq!(opened.manifest, manifest);
    assert_eq!((opened.tokenizer, opened.references), (None, None));
    assert!(opened.weights.is_empty());
}

#[test]
fn weights_are_placed_in_order_without_overlap() {
    let (mut manifest, total) = sample::manifest();
    let mut end = 0;
    for weight in &manifest.weights {
        let (data, scales) = weight.plane_bytes();
        assert_eq!((weight.data.bytes, weight.scales.bytes), (data, scales));
        for plane in [weight.data, weight.scales]
            .into_iter()
            .filter(|p| p.bytes > 0)
        {
            assert_eq!(plane.offset % PLANE_ALIGN, 0);
            assert!(plane.offset >= end && plane.offset < end + PLANE_ALIGN);
            end = plane.offset + plane.bytes;
        }
    }
    assert_eq!(total, end.next_multiple_of(WEIGHTS_ALIGN));
    assert_eq!(place_weights(&mut manifest.weights), total);
    let q8 = &manifest.weights[sample::EMBEDDING as usize];
    assert_eq!(q8.data.bytes, data_bytes(q8.format, q8.rows, q8.cols));
    assert_eq!(q8.scales.bytes, scale_bytes(q8.format, q8.rows, q8.cols));
    assert_eq!(manifest.weights[sample::NORM as usize].data.bytes, 32);
}

// ---- the writer ----

fn writer() -> Writer<'static, Cursor<Vec<u8>>> {
    let (manifest, _) = sample::manifest();
    Writer::new(
        Cursor::new(Vec::new()),
        &manifest,
        Some(sample::TOKENIZER),
        None,
    )
    .unwrap()
}

fn fill(writer: &mut Writer<'static, Cursor<Vec<u8>>>) {
    while let Some((_, _, left)) = writer.next_plane() {
        writer.write(&vec![1; left as usize]).unwrap();
    }
}

#[test]
fn writer_refuses_bytes_beyond_a_plane() {
    let mut writer = writer();
    let (_, _, left) = writer.next_plane().unwrap();
    let error = writer.write(&vec![0; left as usize + 1]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("data plane of weight \"embedding\""),
        "{error}"
    );
    fill(&mut writer);
    assert!(matches!(
        writer.write(&[0]),
        Err(WriteError::NoPlaneLeft { given: 1 })
    ));
}

#[test]
fn writer_refuses_to_finish_early_or_with_another_manifest() {
    let (manifest, _) = sample::manifest();
    let error = writer().finish(manifest.clone(), None).unwrap_err();
    assert!(
        error.to_string().contains("bytes were not written"),
        "{error}"
    );

    let finish = |manifest, references: Option<&References>| {
        let mut writer = writer();
        fill(&mut writer);
        writer.finish(manifest, references).map(|_| ())
    };
    finish(manifest.clone(), None).unwrap();
    let references = sample::references();
    let error = finish(manifest.clone(), Some(&references)).unwrap_err();
    assert!(
        matches!(error, WriteError::References { reserved: 0, .. }),
        "{error}"
    );
    let mut longer = manifest.clone();
    longer.model.name.push('x');
    let error = finish(longer, None).unwrap_err();
    assert!(
        matches!(error, WriteError::PlanChanged("its length")),
        "{error}"
    );
    let mut moved = manifest;
    moved.weights[0].rows += 1;
    let error = finish(moved, None).unwrap_err();
    assert!(
        matches!(error, WriteError::PlanChanged("the weights table")),
        "{error}"
    );
}

#[test]
fn weights_can_be_read_back_before_the_end() {
    let mut file = Cursor::new(Vec::new());
    let (manifest, weights_bytes) = sample::manifest();
    let mut writer = Writer::new(&mut file, &manifest, Some(sample::TOKENIZER), None).unwrap();
    assert!(matches!(
        writer.end_weights(),
        Err(WriteError::PlaneUnfinished { .. })
    ));
    while let Some((_, _, left)) = writer.next_plane() {
        writer.write(&vec![1; left as usize]).unwrap();
    }
    writer.end_weights().unwrap();
    let (offset, bytes) = (writer.weights_offset(), writer.file_bytes());
    assert_eq!(bytes, offset + weights_bytes);
    // Never finished: what has been flushed is all there is.
    std::mem::forget(writer);
    assert_eq!(file.get_ref().len() as u64, bytes);
    assert_eq!(file.get_ref()[offset as usize], 1);
    assert!(open(file.get_ref()).is_err());
}

#[test]
fn writer_refuses_weights_that_are_not_placed() {
    let (mut manifest, _) = sample::manifest();
    manifest.weights[2].data.offset += PLANE_ALIGN;
    let result = Writer::new(
        Cursor::new(Vec::new()),
        &manifest,
        Some(sample::TOKENIZER),
        None,
    );
    assert!(matches!(result, Err(WriteError::Placement { name }) if name == "qkv"));
}

// ---- files that are no bundles ----

#[test]
fn header_faults_are_named() {
    assert!(error(b"").contains("empty"));
    assert!(error(b"{\"metadata\"").contains("not a gembin file"));
    assert!(error(&[b'x'; 5000]).contains("not a gembin file"));
    assert!(error(b"GEM").contains("truncated: 3 bytes"));
    assert!(error(&BUNDLE[..63]).contains("truncated: 63 bytes"));
    let full = BUNDLE.len();
    let cut = error(&BUNDLE[..full - 1]);
    assert!(
        cut.contains(&format!(
            "truncated: the header says {full} bytes, the file has {}",
            full - 1
        )),
        "{cut}"
    );
    let mut longer = BUNDLE.clone();
    longer.push(0);
    assert!(error(&longer).contains("too long"));
}

#[test]
fn newer_files_say_what_they_need() {
    let newer = |at, value| {
        let mut bytes = BUNDLE.clone();
        put_u32(&mut bytes, at, value);
        error(&bytes)
    };
    assert!(newer(12, Version::new(3, 20, 1).0).contains("needs gemrun >= 3.20.1"));
    let format = newer(8, FORMAT_VERSION + 1);
    assert!(
        format.contains(&format!(
            "needs gemrun >= 0.1.0 (file format {})",
            FORMAT_VERSION + 1
        )),
        "{format}"
    );
    assert!(newer(8, 0).contains("file format 0 is unknown"));
}

#[test]
fn versions_order_as_numbers() {
    assert!(Version::new(0, 9, 0) < Version::new(0, 10, 0));
    assert!(Version::new(0, 2047, 2047) < Version::new(1, 0, 0));
    assert_eq!(RUNTIME_VERSION.to_string(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn forged_tables_are_refused() {
    assert!(forged(|b| b[30] = 1).contains("byte 30"));
    assert!(forged(|b| b[63] = 1).contains("byte 63"));
    assert!(forged(|b| put_u32(b, entry(1), 77)).contains("section 1: kind 77 is unknown"));
    assert!(forged(|b| put_u32(b, entry(1), 1)).contains("section 1: manifest must come once"));
    assert!(forged(|b| put_u32(b, entry(3) + 4, 64)).contains("must be aligned to 4096"));
    assert!(forged(|b| put_u64(b, entry(1) + 8, 3)).contains("must be aligned to 64"));
    // Overlap with the table, with the section before, end beyond the file, end beyond 2^64.
    assert!(forged(|b| put_u64(b, entry(0) + 8, 64)).contains("section 0: manifest at 64"));
    assert!(forged(|b| put_u64(b, entry(1) + 8, 256)).contains("section 1: tokenizer at 256"));
    assert!(forged(|b| put_u64(b, entry(0) + 16, 1 << 40)).contains("section 0: manifest at"));
    assert!(forged(|b| put_u64(b, entry(2) + 16, u64::MAX)).contains("section 2: references at"));
    assert!(
        forged(|b| put_u64(b, entry(2) + 8, u64::MAX - 63)).contains("section 2: references at")
    );
    assert!(forged(|b| put_u64(b, entry(3) + 16, 4096)).contains("that end the file"));
    assert!(forged(|b| put_u64(b, entry(3) + 24, 1)).contains("checksum 0"));
    assert!(forged(|b| put_u64(b, entry(1) + 24, 1)).contains("section tokenizer at"));
    // Fewer sections than there are: what the table no longer names is missing, or no zero.
    let fewer = |sections| {
        let mut bytes = BUNDLE.clone();
        put_u32(&mut bytes, 24, sections);
        sign(&mut bytes);
        error(&bytes)
    };
    assert!(fewer(3).contains("section weights is missing"));
    assert!(fewer(0).contains("section weights is missing"));
}

#[test]
fn hostile_table_sizes_are_refused() {
    let with = |at, value: u64, width: usize| {
        let mut bytes = BUNDLE.clone();
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        error(&bytes)
    };
    assert!(with(24, u64::from(u32::MAX), 4).contains("4294967295 sections"));
    assert!(with(32, u64::MAX, 8).contains("section table"));
    assert!(with(16, u64::MAX, 8).contains("truncated"));
}

#[test]
fn nonzero_gaps_are_reported() {
    let sections = open(&BUNDLE).unwrap().sections;
    let end = (sections[2].offset + sections[2].length) as usize;
    for at in [end, sections[3].offset as usize - 1] {
        let mut bytes = BUNDLE.clone();
        bytes[at] = 9;
        assert_eq!(
            open(&bytes).unwrap_err(),
            FormatError::Gap {
                offset: at as u64,
                byte: 9
            }
        );
    }
}

/// A bundle with this manifest section, everything else as it should be.
fn with_manifest(content: &[u8]) -> Vec<u8> {
    let manifest = Section {
        kind: SectionKind::Manifest,
        offset: 128,
        length: content.len() as u64,
        checksum: xxh3_64(content),
    };
    let weights = Section {
        kind: SectionKind::Weights,
        offset: (128 + manifest.length).next_multiple_of(WEIGHTS_ALIGN),
        length: 0,
        checksum: 0,
    };
    let mut bytes = vec![0; weights.offset as usize];
    bytes[..24].copy_from_slice(&BUNDLE[..24]);
    put_u64(&mut bytes, 16, weights.offset);
    put_u32(&mut bytes, 24, 2);
    put_u64(&mut bytes, 32, HEADER_BYTES as u64);
    bytes[entry(0)..entry(1)].copy_from_slice(&manifest.to_bytes());
    bytes[entry(1)..entry(2)].copy_from_slice(&weights.to_bytes());
    bytes[128..128 + content.len()].copy_from_slice(content);
    sign(&mut bytes);
    bytes
}

fn manifest_section() -> &'static [u8] {
    let section = open(&BUNDLE).unwrap().sections[0];
    &BUNDLE[section.offset as usize..][..section.length as usize]
}

#[test]
fn tokenizer_section_and_manifest_must_agree() {
    assert!(error(&with_manifest(manifest_section())).contains("tokenizer section is missing"));
}

#[test]
fn bytes_after_the_manifest_are_refused() {
    let longer = [manifest_section(), &[0]].concat();
    assert!(error(&with_manifest(&longer)).contains("1 bytes follow the manifest"));
}

#[test]
fn every_cut_of_the_manifest_is_refused() {
    let manifest = manifest_section();
    for length in 0..manifest.len() {
        let text = error(&with_manifest(&manifest[..length]));
        assert!(text.contains("cannot be decoded"), "{length}: {text}");
    }
}

#[test]
fn hostile_lengths_in_the_manifest_are_refused() {
    // Every place is taken for a length. Where it is one, decoding fails, at once and without taking memory for it;
    // where it is some other number, the manifest says what the bytes say.
    let manifest = manifest_section();
    let mut refused = 0;
    for length in [u64::MAX, 1 << 62, 1 << 40, 1 << 32, 50 << 20] {
        for at in 0..manifest.len() - 8 {
            let mut hostile = manifest.to_vec();
            put_u64(&mut hostile, at, length);
            match decode_manifest(&hostile) {
                Ok(manifest) => {
                    assert_eq!(
                        encode_manifest(&manifest).unwrap(),
                        hostile,
                        "{length} at {at}"
                    );
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    // The very first field is the length of the model's name.
    let mut hostile = manifest.to_vec();
    put_u64(&mut hostile, 0, u64::MAX);
    assert!(error(&with_manifest(&hostile)).contains("cannot be decoded"));
}

#[test]
fn a_manifest_beyond_the_limit_is_not_decoded() {
    let bytes = vec![0; MAX_MANIFEST_BYTES + 1];
    let error = decode_manifest(&bytes).unwrap_err().to_string();
    assert!(error.contains("at most 67108864"), "{error}");
}

// ---- weights ----

fn verify(bytes: &[u8]) -> Result<(), Vec<Damage>> {
    let opened = open(bytes).unwrap();
    verify_weights(&opened.manifest, opened.weights)
}

#[test]
fn damaged_weights_are_all_named() {
    let opened = open(&BUNDLE).unwrap();
    let base = opened.weights_offset as usize;
    let mut bytes = BUNDLE.clone();
    bytes[base + opened.manifest.weights[2].data.offset as usize] ^= 1;
    bytes[base + opened.manifest.weights[0].scales.offset as usize] ^= 1;
    let last = bytes.len() - 1;
    bytes[last] = 5;
    let damage = verify(&bytes).unwrap_err();
    let text: Vec<String> = damage.iter().map(Damage::to_string).collect();
    assert_eq!(text.len(), 3, "{text:?}");
    assert!(
        text[0].starts_with("weight \"embedding\" at 0 of section weights"),
        "{text:?}"
    );
    assert!(text[1].starts_with("weight \"qkv\""), "{text:?}");
    assert!(text[2].contains("is 0x05 instead of zero"), "{text:?}");
}

#[test]
fn verify_weights_survives_an_unchecked_manifest() {
    let mut opened = open(&BUNDLE).unwrap();
    let section = opened.weights.len() as u64;
    for (offset, bytes) in [(u64::MAX, 1), (1, u64::MAX), (section, 1), (section - 1, 2)] {
        opened.manifest.weights[4].data = Span { offset, bytes };
        let damage = verify_weights(&opened.manifest, opened.weights).unwrap_err();
        assert!(
            damage[0].to_string().contains("weight \"out_proj\""),
            "{damage:?}"
        );
        assert!(
            damage[0].to_string().contains("lie outside of"),
            "{damage:?}"
        );
    }
    // Overlapping planes have no gap between them.
    opened.manifest.weights[4].data = opened.manifest.weights[0].data;
    assert!(verify_weights(&opened.manifest, opened.weights).is_err());
}

// ---- damage at random ----

#[test]
fn every_flipped_bit_outside_the_weights_is_reported_by_open() {
    let opened = open(&BUNDLE).unwrap();
    let head = opened.weights_offset as usize;
    let mut bytes = BUNDLE.clone();
    for at in 0..head {
        let bit = 1 << (at % 8);
        bytes[at] ^= bit;
        assert!(open(&bytes).is_err(), "byte {at}");
        bytes[at] ^= bit;
    }
}

#[test]
fn every_flipped_byte_of_the_weights_is_reported_by_verify() {
    let opened = open(&BUNDLE).unwrap();
    let mut weights = opened.weights.to_vec();
    for at in 0..weights.len() {
        weights[at] ^= 1 << (at % 8);
        assert!(
            verify_weights(&opened.manifest, &weights).is_err(),
            "byte {at}"
        );
        weights[at] ^= 1 << (at % 8);
    }
}

#[test]
fn every_cut_is_reported_by_open() {
    for length in 0..BUNDLE.len() {
        assert!(open(&BUNDLE[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_passes_unseen(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = BUNDLE.clone();
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let seen = match open(&bytes) {
            Err(_) => true,
            Ok(opened) => verify_weights(&opened.manifest, opened.weights).is_err(),
        };
        prop_assert!(seen || bytes == *BUNDLE);
    }

    /// A forger signs what he writes: nothing but an error may come of it.
    #[test]
    fn signed_forgeries_never_panic(
        edits in prop::collection::vec((0usize..HEADER_BYTES + 4 * ENTRY_BYTES, any::<u8>()), 1..6),
    ) {
        let mut bytes = BUNDLE.clone();
        for (at, value) in edits {
            bytes[at] = value;
        }
        let table_end = HEADER_BYTES as u64 + u64::from(u32_at(&bytes, 24)) * ENTRY_BYTES as u64;
        if table_end <= bytes.len() as u64 {
            sign(&mut bytes);
        }
        if let Ok(opened) = open(&bytes) {
            let _ = verify_weights(&opened.manifest, opened.weights);
        }
    }
}
