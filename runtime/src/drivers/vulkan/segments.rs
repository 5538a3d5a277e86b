//! How byte ranges are put into a few large buffers. Pure.
//!
//! A device bounds the size of one allocation and of one buffer; weights and caches are larger together. Ranges that
//! are used as one, since a kernel binds them, stay in one buffer.

use gembin_bundle::gpu::PIECE_ALIGN;
use gembin_bundle::manifest::Span;

/// Most bytes of one buffer, whatever the device allows: several smaller allocations are refused less often.
pub(super) const LARGEST_BUFFER: u64 = 2 << 30;

/// Ranges in buffers.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// The ranges, ascending, none of which overlap.
    pub(super) units: Vec<Span>,
    /// Of each range: its buffer, and its first byte there.
    pub(super) places: Vec<(usize, u64)>,
    /// The buffers.
    pub(super) buffers: Vec<Planned>,
}

/// A buffer to be made.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Planned {
    /// Length.
    pub(super) bytes: u64,
    /// Where the buffer starts in the space of the ranges, if they keep their distances.
    pub(super) base: u64,
}

/// Ranges that share bytes, joined; ascending. Ranges that only touch stay apart.
pub(super) fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| span.bytes > 0);
    spans.sort_by_key(|span| (span.offset, span.bytes));
    let mut units: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match units.last_mut() {
            Some(last) if span.offset < last.offset + last.bytes => {
                let end = (span.offset + span.bytes).max(last.offset + last.bytes);
                last.bytes = end - last.offset;
            }
            _ => units.push(span),
        }
    }
    units
}

impl Layout {
    /// Packs `units` (of [`joined`]) tightly, each at a multiple of [`PIECE_ALIGN`], into buffers of at most `most`
    /// bytes.
    ///
    /// # Errors
    /// The range that is larger than that.
    pub(super) fn packed(units: Vec<Span>, most: u64) -> Result<Self, Span> {
        let mut buffers: Vec<Planned> = Vec::new();
        let mut places = Vec::with_capacity(units.len());
        for &unit in &units {
            if unit.bytes > most {
                return Err(unit);
            }
            let end = buffers.last().map_or(u64::MAX, |buffer| {
                buffer.bytes.next_multiple_of(PIECE_ALIGN)
            });
            if end.checked_add(unit.bytes).is_none_or(|end| end > most) {
                places.push((buffers.len(), 0));
                buffers.push(Planned {
                    bytes: unit.bytes,
                    base: 0,
                });
            } else if let Some(buffer) = buffers.last_mut() {
                buffer.bytes = end + unit.bytes;
                places.push((buffers.len() - 1, end));
            }
        }
        Ok(Self {
            units,
            places,
            buffers,
        })
    }

    /// Covers `units` (of [`joined`]) by buffers of at most `most` bytes in which they lie as they do, each starting
    /// and ending at a multiple of `align`.
    ///
    /// # Errors
    /// The range that is larger than that.
    pub(super) fn in_place(units: Vec<Span>, most: u64, align: u64) -> Result<Self, Span> {
        let mut buffers: Vec<Planned> = Vec::new();
        let mut places = Vec::with_capacity(units.len());
        for &unit in &units {
            let end = (unit.offset + unit.bytes).next_multiple_of(align);
            match buffers.last_mut() {
                Some(buffer) if end - buffer.base <= most => buffer.bytes = end - buffer.base,
                _ => {
                    let base = unit.offset - unit.offset % align;
                    if end - base > most {
                        return Err(unit);
                    }
                    buffers.push(Planned {
                        bytes: end - base,
                        base,
                    });
                }
            }
            if let Some(buffer) = buffers.last() {
                places.push((buffers.len() - 1, unit.offset - buffer.base));
            }
        }
        Ok(Self {
            units,
            places,
            buffers,
        })
    }

    /// Buffer and first byte there of the range that starts at `offset`; how many bytes lie there in one piece.
    pub(super) fn locate(&self, offset: u64) -> Option<(usize, u64, u64)> {
        let after = self.units.partition_point(|unit| unit.offset <= offset);
        let index = after.checked_sub(1)?;
        let within = offset - self.units[index].offset;
        let left = self.units[index].bytes.checked_sub(within)?;
        let (buffer, start) = self.places[index];
        (left > 0).then_some((buffer, start + within, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(offset: u64, bytes: u64) -> Span {
        Span { offset, bytes }
    }

    #[test]
    fn ranges_that_share_bytes_are_one() {
        let spans = vec![span(512, 256), span(0, 300), span(256, 100), span(0, 0)];
        assert_eq!(joined(spans), [span(0, 356), span(512, 256)]);
        let touching = vec![span(0, 256), span(256, 256)];
        assert_eq!(joined(touching.clone()), touching);
    }

    #[test]
    fn packing_leaves_out_what_lies_between() {
        let units = vec![span(0, 100), span(10_000, 600), span(20_000, 500)];
        let layout = Layout::packed(units, 1000).unwrap();
        assert_eq!(layout.places, [(0, 0), (0, 256), (1, 0)]);
        assert_eq!(layout.buffers.len(), 2);
        assert_eq!(layout.buffers[0].bytes, 856);
        assert_eq!(layout.locate(10_010), Some((0, 266, 590)));
        assert_eq!(layout.locate(20_499), Some((1, 499, 1)));
        assert_eq!(layout.locate(20_500), None);
        assert_eq!(layout.locate(5000), None);
    }

    #[test]
    fn in_place_ranges_keep_their_distances() {
        let units = vec![span(256, 256), span(8192, 100), span(20_480, 4096)];
        let layout = Layout::in_place(units, 16_384, 4096).unwrap();
        assert_eq!(
            layout.buffers,
            [
                Planned {
                    bytes: 12_288,
                    base: 0
                },
                Planned {
                    bytes: 4096,
                    base: 20_480
                }
            ]
        );
        assert_eq!(layout.places, [(0, 256), (0, 8192), (1, 0)]);
    }

    #[test]
    fn a_range_too_large_for_a_buffer_is_told() {
        assert_eq!(
            Layout::packed(vec![span(0, 10), span(256, 2000)], 1000),
            Err(span(256, 2000))
        );
        assert_eq!(
            Layout::in_place(vec![span(4000, 200)], 4096, 4096),
            Err(span(4000, 200))
        );
    }

    proptest! {
        #[test]
        fn every_range_lies_inside_its_buffer_and_shares_no_byte(
            raw in prop::collection::vec((0u64..200, 1u64..3000), 1..40),
            most in 4096u64..20_000,
        ) {
            let spans: Vec<Span> = raw.iter().map(|&(block, bytes)| span(block * 256, bytes)).collect();
            let units = joined(spans.clone());
            let layouts = [
                Layout::packed(units.clone(), most),
                Layout::in_place(units, most, 4096),
            ];
            for layout in layouts.into_iter().flatten() {
                for buffer in &layout.buffers {
                    prop_assert!(buffer.bytes <= most);
                }
                let mut taken: Vec<(usize, u64, u64)> = Vec::new();
                for (unit, &(buffer, at)) in layout.units.iter().zip(&layout.places) {
                    prop_assert!(at % 256 == 0);
                    prop_assert!(at + unit.bytes <= layout.buffers[buffer].bytes);
                    taken.push((buffer, at, at + unit.bytes));
                }
                taken.sort_unstable();
                for pair in taken.windows(2) {
                    prop_assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1);
                }
                for span in &spans {
                    let (_, _, left) = layout.locate(span.offset).unwrap();
                    prop_assert!(left >= span.bytes);
                }
            }
        }
    }
}
