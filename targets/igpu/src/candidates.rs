//! The most likely tokens of rows of logits, so that a few words a row cross to the host instead of the vocabulary.
//!
//! Two dispatches: slices of a row, each on a workgroup, then what they left. Exact, ties included. How
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
/// Fewest logits of a thread: what is in flight at once.
const LEAST_OWN: u32 = 8;
/// Most logits of a thread: as many times the candidates lie in workgroup memory.
const MOST_OWN: u32 = 32;
/// Most slices of a row: what its room holds, and at least two threads merge what each left.
const MOST_SLICES: u32 = 128;

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
    let variant = |template, constants| VariantSpec {
        name: "portable",
        template,
        constants,
        needs: Needs::default(),
        subgroup: None,
        tile: [1, 1, 1],
        activations: None,
    };
    let find = constants! {
        threads: THREADS,
        keep: CANDIDATES,
        own: slices.own,
        count: logits.cols,
        slices: slices.count,
    };
    let merge = constants! {
        threads: THREADS,
        keep: CANDIDATES,
        slices: slices.count,
        sharers: slices.sharers(),
    };
    let vocab = logits.cols;
    let dispatches = [
        (
            format!("candidates {CANDIDATES} of {vocab}"),
            variant("candidates", find),
            (logits, parts),
            [Extent::Fixed(slices.count), Extent::Rows(logits.rows)],
        ),
        (
            format!("candidates_merge {CANDIDATES} of {} slices", slices.count),
            variant("candidates_merge", merge),
            (parts, result),
            [Extent::Rows(logits.rows), Extent::Fixed(1)],
        ),
    ];
    for (name, variant, (from, to), [x, y]) in dispatches {
        let mut bound = Bindings::default();
        bound.read(from);
        bound.write(to);
        let spec = Spec {
            name,
            bindings: bound.needs,
            variants: vec![variant],
        };
        let work = [x, y, Extent::Fixed(1)];
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
        let own = vocab.div_ceil(MOST_SLICES * THREADS).max(LEAST_OWN);
        let own = own.next_multiple_of(4);
        (vocab >= CANDIDATES && own <= MOST_OWN).then(|| Self {
            count: vocab.div_ceil(own * THREADS),
            own,
        })
    }

    /// Threads that share what a slice left: as many as there are, up to one a candidate.
    fn sharers(self) -> u32 {
        let most = (THREADS / self.count).clamp(1, CANDIDATES);
        1 << most.ilog2()
    }
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
            let lists = slices.count * slices.sharers();
            assert!(
                (CANDIDATES..=THREADS).contains(&lists),
                "{vocab}: {slices:?}"
            );
            let words = (slices.count + 1) * CANDIDATES * 2;
            assert!(
                u64::from(words) * 4 <= candidates_bytes(1),
                "{vocab}: {slices:?}"
            );
        }
    }
}
