//! The most likely tokens of rows of logits, so that a few words a row cross to the host instead of the vocabulary.
//!
//! Two dispatches of one kernel: slices of a row, each on a workgroup, then what they left. Exact, ties included. How
//! many a row has is [`CANDIDATES`]; sampling from them is the host's.

use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Spec, VariantSpec};
use crate::linear::{CANDIDATES, candidates_bytes};
use crate::lowering::Lowering;
use gembin_bundle::gpu::{Extent, Needs};
use gembin_bundle::manifest::{Buffer, Span};

/// Threads of a workgroup, more than there are candidates: their greatest values bound what is looked at.
const THREADS: u32 = 256;
/// Fewest values of a thread in the first dispatch: what is in flight at once.
const LEAST_OWN: u32 = 8;
/// Most values of a thread: as many times the candidates lie in workgroup memory.
const MOST_OWN: u32 = 32;

/// Adds the search for the candidates of `logits`, which lie in `room` afterwards: words `[rows, 2 k]`. `None` for a
/// vocabulary that is too large for it, or too small to need it.
///
/// # Errors
/// When `room` has less than [`candidates_bytes`], and when a kernel cannot be made.
pub(crate) fn candidates(
    l: &mut Lowering<'_>,
    label: &str,
    logits: Buffer,
    room: Span,
) -> Result<Option<Buffer>, LowerError> {
    let Some(slices) = Slices::of(logits.cols) else {
        return Ok(None);
    };
    let rows = l.max_rows(logits.rows);
    if room.bytes < candidates_bytes(rows) {
        return Err(LowerError::Unsupported {
            step: label.to_owned(),
            what: format!("{} bytes of scratch do not hold the candidates", room.bytes),
        });
    }
    let result = Buffer {
        offset: room.offset,
        rows: logits.rows,
        cols: CANDIDATES * 2,
    };
    let parts = Buffer {
        offset: room.offset + u64::from(rows) * u64::from(result.cols) * 4,
        rows: logits.rows,
        cols: slices.count * CANDIDATES * 2,
    };
    let dispatches = [
        (logits, parts, true, slices.own, slices.count),
        (parts, result, false, slices.merge_own(), 1),
    ];
    for (from, to, from_logits, own, groups) in dispatches {
        let mut bound = Bindings::default();
        bound.read(from);
        bound.write(to);
        let count = if from_logits {
            from.cols
        } else {
            from.cols / 2
        };
        let spec = Spec {
            name: match from_logits {
                true => format!(
                    "candidates {CANDIDATES} of {count} in {} slices",
                    slices.count
                ),
                false => format!("candidates {CANDIDATES} of the {count} of slices"),
            },
            bindings: bound.needs,
            variants: vec![VariantSpec {
                name: "portable",
                template: "candidates",
                constants: constants! {
                    threads: THREADS,
                    from_logits: from_logits,
                    keep: CANDIDATES,
                    own: own,
                    count: count,
                    slices: groups,
                },
                needs: Needs::default(),
                subgroup: None,
                tile: [1, 1, 1],
            }],
        };
        let work = match from_logits {
            true => [
                Extent::Fixed(groups),
                Extent::Rows(to.rows),
                Extent::Fixed(1),
            ],
            false => [Extent::Rows(to.rows), Extent::Fixed(1), Extent::Fixed(1)],
        };
        l.dispatch(label, spec, bound.resources, Vec::new(), work)?;
    }
    Ok(Some(result))
}

/// How a row is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slices {
    count: u32,
    /// Values of a thread.
    own: u32,
}

impl Slices {
    fn of(vocab: u32) -> Option<Self> {
        let most = (MOST_OWN * THREADS / CANDIDATES).min(most_slices());
        let own = vocab.div_ceil(most * THREADS).max(LEAST_OWN);
        (vocab >= CANDIDATES && own <= MOST_OWN).then(|| Self {
            count: vocab.div_ceil(own * THREADS),
            own,
        })
    }

    /// Values of a thread in the second dispatch.
    fn merge_own(self) -> u32 {
        (self.count * CANDIDATES).div_ceil(THREADS)
    }
}

/// Slices whose candidates the room for a row holds.
fn most_slices() -> u32 {
    let bytes = candidates_bytes(1) / (u64::from(CANDIDATES) * 8);
    u32::try_from(bytes - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_vocabulary_and_fit_the_room() {
        assert_eq!(Slices::of(CANDIDATES - 1), None, "nothing to choose");
        assert_eq!(Slices::of(262_144), Some(Slices { count: 128, own: 8 }));
        assert_eq!(
            Slices::of(1 << 20),
            Some(Slices {
                count: 128,
                own: 32
            })
        );
        assert_eq!(Slices::of((1 << 20) + 1), None, "a thread would hold more");
        for vocab in [
            64, 65, 2047, 2048, 2049, 32_000, 256_000, 256_001, 262_145, 1_000_003,
        ] {
            let slices = Slices::of(vocab).unwrap_or_else(|| panic!("{vocab} has slices"));
            let covered = slices.count * slices.own * THREADS;
            assert!(covered >= vocab, "{vocab}: {slices:?}");
            assert!(
                covered - slices.own * THREADS < vocab,
                "{vocab}: an empty slice in {slices:?}"
            );
            assert!(slices.merge_own() <= MOST_OWN, "{vocab}: {slices:?}");
            let words = (slices.count + 1) * CANDIDATES * 2;
            assert!(
                u64::from(words) * 4 <= candidates_bytes(1),
                "{vocab}: {slices:?}"
            );
        }
    }
}
