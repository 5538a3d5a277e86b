//! Proof that every byte of the weights section is the one that was written.

use crate::manifest::{Manifest, Span};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Something in the weights section that is not as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The content of a weight has another checksum.
    Weight {
        /// In the manifest's table.
        index: usize,
        /// Its name.
        name: String,
        /// First byte of its data plane in the weights section.
        offset: u64,
        /// Computed.
        found: u64,
        /// In the manifest.
        recorded: u64,
    },
    /// A weight's planes do not lie in the section.
    Outside {
        /// In the manifest's table.
        index: usize,
        /// Its name.
        name: String,
        /// The plane.
        plane: Span,
        /// Length of the section.
        section_bytes: u64,
    },
    /// A byte between planes is not zero.
    Padding {
        /// In the weights section.
        offset: u64,
        /// Its value.
        byte: u8,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Weight {
                name,
                offset,
                found,
                recorded,
                ..
            } => write!(
                f,
                "weight {name:?} at {offset} of section weights: checksum is {found:016x}, recorded {recorded:016x}"
            ),
            Damage::Outside {
                name,
                plane,
                section_bytes,
                ..
            } => write!(
                f,
                "weight {name:?}: {} bytes at {} lie outside of section weights of {section_bytes} bytes",
                plane.bytes, plane.offset
            ),
            Damage::Padding { offset, byte } => write!(
                f,
                "byte {offset} of section weights lies between weights and is {byte:#04x} instead of zero"
            ),
        }
    }
}

/// Reads the whole weights section and compares it with the manifest's checksums; what no plane covers must be zero.
/// Runs on all cores. The manifest need not have been checked.
///
/// # Errors
/// All damage: weights in the order of the table, then the first bad byte of each gap.
pub fn verify_weights(manifest: &Manifest, weights: &[u8]) -> Result<(), Vec<Damage>> {
    let entries = &manifest.weights;
    // Largest first, so that no thread is left alone with the embedding at the end.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(entries[i].data.bytes));
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let damage = damage_of(manifest, index, weights);
            if let (Some(damage), Ok(mut found)) = (damage, found.lock()) {
                found.push(damage);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(entries.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut damage = found
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    damage.sort_by_key(|damage| match damage {
        Damage::Weight { index, .. } | Damage::Outside { index, .. } => Some(*index),
        Damage::Padding { .. } => None,
    });
    damage.extend(padding(manifest, weights));
    if damage.is_empty() {
        Ok(())
    } else {
        Err(damage)
    }
}

fn damage_of(manifest: &Manifest, index: usize, weights: &[u8]) -> Option<Damage> {
    let entry = &manifest.weights[index];
    let mut hash = Xxh3::new();
    for plane in [entry.data, entry.scales] {
        let Some(bytes) = cut(weights, plane) else {
            return Some(Damage::Outside {
                index,
                name: entry.name.clone(),
                plane,
                section_bytes: weights.len() as u64,
            });
        };
        hash.update(bytes);
    }
    let found = hash.digest();
    (found != entry.checksum).then(|| Damage::Weight {
        index,
        name: entry.name.clone(),
        offset: entry.data.offset,
        found,
        recorded: entry.checksum,
    })
}

fn padding(manifest: &Manifest, weights: &[u8]) -> Vec<Damage> {
    let mut planes: Vec<Span> = manifest
        .weights
        .iter()
        .flat_map(|entry| [entry.data, entry.scales])
        .filter(|&plane| plane.bytes > 0 && cut(weights, plane).is_some())
        .collect();
    planes.sort_by_key(|plane| plane.offset);
    planes.push(Span {
        offset: weights.len() as u64,
        bytes: 0,
    });
    let (mut end, mut damage) = (0, Vec::new());
    for plane in planes {
        // A gap is a span between what came before and this plane: none if planes touch or, unchecked, overlap.
        let start = plane.offset.max(end);
        let gap = &weights[end as usize..start as usize];
        if let Some(at) = gap.iter().position(|&byte| byte != 0) {
            damage.push(Damage::Padding {
                offset: end + at as u64,
                byte: gap[at],
            });
        }
        end = start.max(plane.offset + plane.bytes);
    }
    damage
}

fn cut(weights: &[u8], span: Span) -> Option<&[u8]> {
    let start = usize::try_from(span.offset).ok()?;
    let length = usize::try_from(span.bytes).ok()?;
    weights.get(start..start.checked_add(length)?)
}
