//! How long each dispatch takes on the GPU, for those who improve kernels.
//!
//! While profiling, every dispatch waits for the one before, so that times are its own; calls take longer then.

use super::device::LogicalDevice;
use ash::vk;
use std::sync::Arc;

/// Times measured so far, and where the GPU writes new ones.
pub(super) struct Profile {
    /// Two timestamps a step: before and after.
    pub(super) queries: vk::QueryPool,
    /// Nanoseconds by program and step.
    step_ns: Vec<Vec<f64>>,
    /// Room for the timestamps of a call.
    stamps: Vec<u64>,
    device: Arc<LogicalDevice>,
}

impl Profile {
    /// Ready to measure programs with these numbers of steps.
    pub(super) fn new(
        device: &Arc<LogicalDevice>,
        steps: impl Iterator<Item = usize>,
    ) -> Result<Self, vk::Result> {
        let step_ns: Vec<Vec<f64>> = steps.map(|steps| vec![0.0; steps]).collect();
        let most = step_ns.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let create = vk::QueryPoolCreateInfo::default()
            .query_type(vk::QueryType::TIMESTAMP)
            .query_count(2 * most as u32);
        // SAFETY: the device is alive.
        let queries = unsafe { device.raw.create_query_pool(&create, None)? };
        Ok(Self {
            queries,
            step_ns,
            stamps: Vec::with_capacity(2 * most),
            device: Arc::clone(device),
        })
    }

    /// Adds the times of a call that is done. Steps that had nothing to do wrote none.
    pub(super) fn add(
        &mut self,
        program: usize,
        steps: std::ops::Range<usize>,
    ) -> Result<(), vk::Result> {
        let abilities = &self.device.abilities;
        for step in steps {
            self.stamps.clear();
            self.stamps.resize(2, 0);
            // SAFETY: the queries exist, and their commands are done.
            let read = unsafe {
                self.device.raw.get_query_pool_results(
                    self.queries,
                    2 * step as u32,
                    &mut self.stamps,
                    vk::QueryResultFlags::TYPE_64,
                )
            };
            match read {
                Ok(()) => {
                    let ticks = ticks(self.stamps[0], self.stamps[1], abilities.timestamp_bits);
                    self.step_ns[program][step] += ticks as f64 * f64::from(abilities.timestamp_ns);
                }
                Err(vk::Result::NOT_READY) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nanoseconds of each step of a program, over all calls.
    pub(super) fn step_ns(&self, program: usize) -> &[f64] {
        self.step_ns.get(program).map_or(&[], Vec::as_slice)
    }
}

/// Ticks between two readings of a counter of so many bits, which may have wrapped.
fn ticks(before: u64, after: u64, bits: u32) -> u64 {
    let ticks = after.wrapping_sub(before);
    match bits {
        0 => 0,
        1..=63 => ticks & ((1 << bits) - 1),
        _ => ticks,
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: the driver waits for the GPU before it lets go of its profile.
        unsafe { self.device.raw.destroy_query_pool(self.queries, None) };
    }
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn a_counter_may_wrap() {
        assert_eq!(ticks(5, 9, 64), 4);
        assert_eq!(ticks(u64::MAX, 1, 64), 2);
        assert_eq!(ticks(0xffff_fffe, 3, 32), 5);
        assert_eq!(ticks(1, 9, 0), 0);
    }
}
