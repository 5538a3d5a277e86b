//! How much work a dispatch is, roughly, so that no submit runs into a watchdog. Pure.
//!
//! The system's GPU driver ends a submit after some two seconds, and whatever else wants the GPU waits that long. An
//! integrated GPU does some 5e12 multiply-adds a second at best and reads 80 GB/s; a kernel may be ten times slower.

use gembin_bundle::gpu::{GpuStep, Resource};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{Manifest, RowSet};

/// Multiply-adds of one submit: 0.4 s at a tenth of an integrated GPU's speed.
const MOST_MULTIPLY_ADDS: u64 = 200_000_000_000;
/// Bytes read by one submit: 0.5 s at a tenth of an integrated GPU's bandwidth.
const MOST_BYTES: u64 = 4 << 30;

/// What one submit may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cost {
    pub(super) multiply_adds: u64,
    pub(super) bytes: u64,
}

impl Cost {
    pub(super) const NONE: Cost = Cost {
        multiply_adds: 0,
        bytes: 0,
    };
    pub(super) const MOST: Cost = Cost {
        multiply_adds: MOST_MULTIPLY_ADDS,
        bytes: MOST_BYTES,
    };

    pub(super) fn plus(self, other: Cost) -> Cost {
        Cost {
            multiply_adds: self.multiply_adds.saturating_add(other.multiply_adds),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(super) fn exceeds(self, most: Cost) -> bool {
        self.multiply_adds > most.multiply_adds || self.bytes > most.bytes
    }

    /// What a dispatch costs in a call of `seq` rows of which `outs` are asked for. Weights meet every row, and so does
    /// a cache, whose positions several heads of a query share.
    pub(super) fn of(manifest: &Manifest, step: &GpuStep, seq: u32, outs: u32) -> Cost {
        const HEADS_OF_A_GROUP: u64 = 8;
        let count = |set: RowSet| match set {
            RowSet::Seq => u64::from(seq),
            RowSet::Out => u64::from(outs),
        };
        // The largest set of rows that it works on.
        let rows = step
            .bindings
            .iter()
            .filter_map(|resource| match resource {
                Resource::Value(buffer) => Some(count(buffer.rows)),
                Resource::Data { .. }
                | Resource::Scales { .. }
                | Resource::Keys(_)
                | Resource::Values(_)
                | Resource::Call => None,
            })
            .max()
            .unwrap_or(1);
        let mut cost = Cost::NONE;
        for resource in &step.bindings {
            let (elements, bytes) = match *resource {
                Resource::Data {
                    weight,
                    piece,
                    gathered: false,
                } => {
                    let format = manifest.weights[weight as usize].format;
                    let words = piece.bytes / 4;
                    (
                        words * u64::from(format.values_per_word()) * rows,
                        piece.bytes,
                    )
                }
                Resource::Scales {
                    piece,
                    gathered: false,
                    ..
                } => (0, piece.bytes),
                Resource::Keys(cache) | Resource::Values(cache) => {
                    let cache = &manifest.arena.caches[cache as usize];
                    let sequence = u64::from(cache.kv_heads)
                        * u64::from(cache.head_dim)
                        * u64::from(cache.capacity);
                    let width = match cache.format {
                        Format::F32 => 4,
                        Format::F16 | Format::Bf16 => 2,
                        Format::Q8 | Format::Q4 => 1,
                    };
                    (
                        sequence.saturating_mul(rows * HEADS_OF_A_GROUP),
                        sequence * width,
                    )
                }
                Resource::Data { gathered: true, .. }
                | Resource::Scales { gathered: true, .. }
                | Resource::Value(_)
                | Resource::Call => (0, 0),
            };
            cost = cost.plus(Cost {
                multiply_adds: elements,
                bytes,
            });
        }
        cost
    }
}

/// Splits steps with these costs into runs of at most `most` each; a step that exceeds it is alone. Ends of the runs.
pub(super) fn split(costs: impl Iterator<Item = Cost>, most: Cost) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut sum = Cost::NONE;
    let mut count = 0;
    for cost in costs {
        let longer = sum.plus(cost);
        if longer.exceeds(most) && ends.last().copied().unwrap_or(0) < count {
            ends.push(count);
            sum = cost;
        } else {
            sum = longer;
        }
        count += 1;
    }
    if ends.last().copied().unwrap_or(0) < count {
        ends.push(count);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::vulkan::testing;

    fn costs(multiply_adds: &[u64]) -> Vec<Cost> {
        multiply_adds
            .iter()
            .map(|&multiply_adds| Cost {
                multiply_adds,
                bytes: 0,
            })
            .collect()
    }

    #[test]
    fn no_run_costs_more_than_allowed_unless_it_is_one_step() {
        let most = Cost {
            multiply_adds: 10,
            bytes: 10,
        };
        let ends = |steps: &[u64]| split(costs(steps).into_iter(), most);
        assert!(ends(&[]).is_empty());
        assert_eq!(ends(&[3, 3, 3]), [3]);
        assert_eq!(ends(&[3, 3, 5, 1]), [2, 4]);
        assert_eq!(ends(&[50, 1, 50, 50]), [1, 2, 3, 4]);
        let bytes = Cost {
            multiply_adds: 0,
            bytes: 6,
        };
        assert_eq!(split([bytes, bytes].into_iter(), most), [1, 2]);
    }

    #[test]
    fn weights_cost_by_elements_and_rows() {
        let (manifest, step) = testing::scaled_copy();
        let cost = Cost::of(&manifest, &step, 3, 1);
        let piece = 256 * 4;
        assert_eq!(
            cost,
            Cost {
                multiply_adds: 256 * 3,
                bytes: piece
            }
        );
    }
}
