//! Packs intervals of time with sizes into as little memory as it finds; knows nothing of modules.
//!
//! Finding the least is NP-hard (it is dynamic storage allocation, Garey & Johnson SR2). Intervals are placed one by
//! one, each in the tightest gap left by those already placed that live at the same time. The order decides, so a few
//! are tried and the best is kept.

use std::cmp::Reverse;

/// Bytes needed from step `first` to step `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interval {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) bytes: u64,
}

/// Where the intervals lie.
pub(super) struct Packing {
    /// In the order of the intervals.
    pub(super) offsets: Vec<u64>,
    /// End of the highest.
    pub(super) peak_bytes: u64,
    /// Most bytes alive at one step.
    pub(super) lower_bound_bytes: u64,
}

/// Packs `intervals`; offsets are sums of their sizes, so they keep a common alignment. `None` on overflow.
pub(super) fn pack(intervals: &[Interval]) -> Option<Packing> {
    let lower_bound_bytes = lower_bound(intervals)?;
    let length = |i: &Interval| i.last - i.first;
    let mut by_size: Vec<usize> = (0..intervals.len()).collect();
    let mut by_start = by_size.clone();
    let mut by_length = by_size.clone();
    by_size.sort_by_key(|&i| {
        (
            Reverse(intervals[i].bytes),
            Reverse(length(&intervals[i])),
            i,
        )
    });
    by_start.sort_by_key(|&i| (intervals[i].first, Reverse(intervals[i].bytes), i));
    by_length.sort_by_key(|&i| {
        (
            Reverse(length(&intervals[i])),
            Reverse(intervals[i].bytes),
            i,
        )
    });
    let mut best: Option<(u64, Vec<u64>)> = None;
    for order in [by_size, by_start, by_length] {
        if best
            .as_ref()
            .is_some_and(|(peak, _)| *peak == lower_bound_bytes)
        {
            break;
        }
        let (peak, offsets) = place_all(intervals, &order)?;
        if best.as_ref().is_none_or(|(least, _)| peak < *least) {
            best = Some((peak, offsets));
        }
    }
    let (peak_bytes, offsets) = best?;
    Some(Packing {
        offsets,
        peak_bytes,
        lower_bound_bytes,
    })
}

fn place_all(intervals: &[Interval], order: &[usize]) -> Option<(u64, Vec<u64>)> {
    let mut offsets = vec![0; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(intervals.len());
    let mut peak = 0;
    for &i in order {
        let this = intervals[i];
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for &other in &placed {
            let that = intervals[other];
            if this.first <= that.last && that.first <= this.last {
                let start: u64 = offsets[other];
                taken.push((start, start.checked_add(that.bytes)?));
            }
        }
        taken.sort_unstable();
        offsets[i] = tightest(&taken, this.bytes);
        peak = peak.max(offsets[i].checked_add(this.bytes)?);
        placed.push(i);
    }
    Some((peak, offsets))
}

/// Start of the smallest gap between the `taken` ranges (sorted by start) that holds `bytes`, or their end.
fn tightest(taken: &[(u64, u64)], bytes: u64) -> u64 {
    let mut end = 0;
    let mut best: Option<(u64, u64)> = None;
    for &(start, stop) in taken {
        if start > end {
            let gap = start - end;
            if gap >= bytes && best.is_none_or(|(least, _)| gap < least) {
                best = Some((gap, end));
            }
        }
        end = end.max(stop);
    }
    best.map_or(end, |(_, start)| start)
}

fn lower_bound(intervals: &[Interval]) -> Option<u64> {
    let steps = intervals.iter().map(|i| i.last + 1).max().unwrap_or(0);
    let mut born = vec![0u64; steps + 1];
    let mut dead = vec![0u64; steps + 1];
    for i in intervals {
        born[i.first] = born[i.first].checked_add(i.bytes)?;
        dead[i.last + 1] = dead[i.last + 1].checked_add(i.bytes)?;
    }
    let (mut alive, mut most) = (0u64, 0);
    for step in 0..steps {
        alive = (alive - dead[step]).checked_add(born[step])?;
        most = most.max(alive);
    }
    Some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interval(first: usize, last: usize, bytes: u64) -> Interval {
        Interval { first, last, bytes }
    }

    #[test]
    fn memory_is_reused_once_its_owner_is_dead() {
        let packing = pack(&[interval(0, 1, 64), interval(1, 2, 64), interval(2, 3, 64)]).unwrap();
        assert_eq!(packing.peak_bytes, 128);
        assert_eq!(packing.offsets[0], packing.offsets[2]);
    }

    #[test]
    fn the_tightest_gap_is_taken() {
        assert_eq!(tightest(&[(0, 64), (256, 320), (384, 448)], 64), 320);
        assert_eq!(tightest(&[(64, 128)], 64), 0);
        assert_eq!(tightest(&[(0, 128), (64, 192)], 64), 192);
    }

    #[test]
    fn overflow_is_not_a_plan() {
        assert!(pack(&[interval(0, 1, u64::MAX), interval(0, 1, 64)]).is_none());
    }

    proptest! {
        #[test]
        fn no_two_live_intervals_overlap(
            raw in prop::collection::vec((0usize..40, 0usize..8, 0u64..50), 0..120)
        ) {
            let intervals: Vec<Interval> = raw
                .into_iter()
                .map(|(first, len, units)| interval(first, first + len, units * 64))
                .collect();
            let packing = pack(&intervals).unwrap();
            prop_assert!(packing.peak_bytes >= packing.lower_bound_bytes);
            for (i, a) in intervals.iter().enumerate() {
                prop_assert_eq!(packing.offsets[i] % 64, 0);
                prop_assert!(packing.offsets[i] + a.bytes <= packing.peak_bytes);
                for (j, b) in intervals.iter().enumerate().take(i) {
                    let alive_together = a.first <= b.last && b.first <= a.last;
                    let apart = packing.offsets[i] + a.bytes <= packing.offsets[j]
                        || packing.offsets[j] + b.bytes <= packing.offsets[i];
                    prop_assert!(!alive_together || apart);
                }
            }
        }
    }
}
