//! How single rows attend where subgroups have a known size: which lanes hold what of a head.

use super::split::LEAST_SHARE;
use super::{batches, chunk::is_f16};
use crate::constants;
use crate::kernel::{Constants, VariantSpec};
use gembin_bundle::gpu::Needs;
use gembin_bundle::manifest::Cache;

/// Subgroups of a workgroup: more would have more sums to merge in the end.
const SUBGROUPS: u32 = 4;
/// Elements of a chunk: 16 bytes of halves.
const CHUNK: u32 = 8;
/// Most chunks that a lane holds of keys and of values at a time.
const MOST_LOADS: u32 = 8;

/// What the lanes of a subgroup hold. A position is a matter of some neighbours, each with the same chunks of every
/// query, of its key and of its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lanes {
    subgroup: u32,
    chunks: u32,
    /// Lanes of a position.
    lanes: u32,
    /// Chunks of a lane.
    own: u32,
    /// Query heads of a workgroup.
    queries: u32,
    /// Workgroups that share a KV head's queries.
    batches: u32,
}

impl Lanes {
    /// For subgroups of this size; `None` where heads are not halves in whole chunks, or where the elements that are
    /// rotated together would lie in no fixed places: a lane has one chunk, or an even number of them.
    pub(super) fn of(cache: &Cache, group: u32, subgroup: u32) -> Option<Self> {
        if !is_f16(cache) || !cache.head_dim.is_multiple_of(CHUNK) {
            return None;
        }
        let chunks = cache.head_dim / CHUNK;
        // On a narrow subgroup, a processor's, registers are no matter.
        let most_chunks = if subgroup < 32 { 16 } else { 4 };
        let mut lanes = subgroup;
        while lanes >= 4 {
            let own = chunks / lanes;
            if chunks.is_multiple_of(lanes) && (own == 1 || own % 2 == 0) && own <= most_chunks {
                let batches = batches(group, (most_chunks / own).min(lanes));
                return Some(Self {
                    subgroup,
                    chunks,
                    lanes,
                    own,
                    queries: group / batches,
                    batches,
                });
            }
            lanes /= 2;
        }
        None
    }

    /// Positions of which every lane holds a chunk at a time.
    fn per_step(self) -> u32 {
        SUBGROUPS * self.subgroup / self.lanes
    }

    /// Steps that add up a position's scores over its lanes; the first halve how many a lane has, while it has several.
    fn halvings(self, scores: u32, known: u32) -> Vec<Constants> {
        let (mut left, mut known) = (scores, known);
        let mut mask = self.lanes / 2;
        let mut steps = Vec::new();
        while mask > 0 {
            let halves = left > 1;
            left = left.div_ceil(2);
            steps.push(constants! { mask: mask, halves: halves, left: left, known: known });
            known = known.min(left);
            mask /= 2;
        }
        steps
    }

    pub(super) fn variant(self, common: &Constants) -> VariantSpec {
        let padded = self.queries.next_power_of_two();
        let most_together = MOST_LOADS / self.own.min(MOST_LOADS);
        let together = (LEAST_SHARE / self.per_step()).clamp(1, most_together);
        let mut constants = common.clone();
        constants.extend(constants! {
            threads: SUBGROUPS * self.subgroup,
            subgroup_size: self.subgroup,
            chunks: self.chunks,
            lanes: self.lanes,
            own: self.own,
            queries: self.queries,
            batches: self.batches,
            padded: padded,
            together: together,
            halvings: self.halvings(padded * together, self.queries * together),
            least: LEAST_SHARE,
        });
        VariantSpec {
            name: if self.subgroup == 32 {
                "subgroup-32"
            } else {
                "subgroup-8"
            },
            template: "attention_subgroup",
            constants,
            needs: Needs::default(),
            subgroup: Some(self.subgroup),
            tile: [self.queries, 1, 1],
        }
    }
}
