//! The GPU's queue: command buffers handed in one after the other, and waiting for them, never for ever.
//!
//! One timeline semaphore counts what is finished. What command buffers hold is `recording`'s subject.

use super::abilities::Kind;
use super::device::LogicalDevice;
use super::errors::explain;
use super::gate::{self, Busy};
use ash::vk;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time that one submit may take on a GPU. Its work is bounded to a fraction of a second; kernels' watchdogs
/// end it after some two seconds.
const LONGEST_SUBMIT: Duration = Duration::from_secs(10);
/// As above, where the processor does the work: no watchdog, and a thousand times slower.
const LONGEST_SUBMIT_IN_SOFTWARE: Duration = Duration::from_secs(600);

/// How long the count of finished submits is watched before the system is asked to wake us: longer than a token takes
/// where that takes long enough to matter, short beside what an integrated GPU takes, whose power the processor shares.
const WATCHED: Duration = Duration::from_millis(2);

/// The queue, its command buffers and the count of what is done.
pub(super) struct Queue {
    pool: vk::CommandPool,
    timeline: vk::Semaphore,
    /// Submits so far, and how many of them are known to be done.
    submitted: u64,
    done: u64,
    longest: Duration,
    /// While something is under way.
    busy: Option<Busy>,
    /// Why nothing can be run any more.
    broken: Option<String>,
    device: Arc<LogicalDevice>,
}

impl Queue {
    pub(super) fn new(device: &Arc<LogicalDevice>) -> Result<Self, vk::Result> {
        let mut queue = Self {
            pool: vk::CommandPool::null(),
            timeline: vk::Semaphore::null(),
            submitted: 0,
            done: 0,
            longest: match device.abilities.kind {
                Kind::Software => LONGEST_SUBMIT_IN_SOFTWARE,
                Kind::Integrated | Kind::Discrete | Kind::Virtual | Kind::Other => LONGEST_SUBMIT,
            },
            busy: None,
            broken: None,
            device: Arc::clone(device),
        };
        let pool = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.abilities.family);
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let semaphore = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is alive, has the queue family, and timeline semaphores are switched on.
        unsafe {
            queue.pool = device.raw.create_command_pool(&pool, None)?;
            queue.timeline = device.raw.create_semaphore(&semaphore, None)?;
        }
        Ok(queue)
    }

    /// A command buffer of this queue, not yet recorded; it lives as long as the queue.
    pub(super) fn command_buffer(&self) -> Result<vk::CommandBuffer, vk::Result> {
        let allocate = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is alive; `&self` and the one owner keep two threads from using it at once.
        unsafe { self.device.raw.allocate_command_buffers(&allocate) }.map(|made| made[0])
    }

    /// Hands in recorded commands. Returns the count that [`Self::wait_for`] takes.
    ///
    /// # Errors
    /// Why the GPU does not take them; it is not tried again after it was lost.
    pub(super) fn submit(&mut self, commands: vk::CommandBuffer) -> Result<u64, String> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        if self.busy.is_none() {
            self.busy = Some(gate::enter());
        }
        let (commands, semaphores, values) = ([commands], [self.timeline], [self.submitted + 1]);
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let submit = vk::SubmitInfo::default()
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline);
        // SAFETY: the commands were recorded for this queue and are not under way, since their owner waits before it
        // hands them in again; `&mut self` keeps two threads from the queue.
        let result = unsafe {
            self.device
                .raw
                .queue_submit(self.device.queue, &[submit], vk::Fence::null())
        };
        match result {
            Ok(()) => {
                self.submitted += 1;
                Ok(self.submitted)
            }
            Err(result) => Err(self.fail(result)),
        }
    }

    /// Returns when everything handed in is done.
    ///
    /// # Errors
    /// When the GPU was lost, or makes no progress.
    pub(super) fn wait(&mut self) -> Result<(), String> {
        self.wait_for(self.submitted)
    }

    /// Returns when the first `count` submits are done.
    pub(super) fn wait_for(&mut self, count: u64) -> Result<(), String> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        self.watch(count.min(self.submitted));
        while self.done < count.min(self.submitted) {
            // One at a time: the time allowed is a submit's.
            let (semaphores, values) = ([self.timeline], [self.done + 1]);
            let wait = vk::SemaphoreWaitInfo::default()
                .semaphores(&semaphores)
                .values(&values);
            let nanoseconds = u64::try_from(self.longest.as_nanos()).unwrap_or(u64::MAX);
            // SAFETY: the semaphore is alive and a timeline.
            match unsafe { self.device.raw.wait_semaphores(&wait, nanoseconds) } {
                Ok(()) => self.done += 1,
                Err(vk::Result::TIMEOUT) => {
                    let reason = format!(
                        "the GPU has not finished within {} s; it may hang: start again, or run with --device cpu",
                        self.longest.as_secs()
                    );
                    self.broken = Some(reason.clone());
                    // It may still use everything.
                    self.device.abandon();
                    return Err(reason);
                }
                Err(result) => return Err(self.fail(result)),
            }
        }
        if self.done >= self.submitted {
            self.busy = None;
        }
        Ok(())
    }

    /// Looks at the count again and again for a short while: being woken takes a good part of a token's time.
    fn watch(&mut self, count: u64) {
        // Software computes on the very cores that would watch.
        if self.device.abilities.kind == Kind::Software {
            return;
        }
        let start = Instant::now();
        while self.done < count && start.elapsed() < WATCHED {
            // SAFETY: the semaphore is alive and a timeline.
            match unsafe { self.device.raw.get_semaphore_counter_value(self.timeline) } {
                Ok(done) => self.done = done.min(self.submitted),
                // The wait that follows tells it.
                Err(_) => return,
            }
            std::hint::spin_loop();
        }
    }

    /// Declares the GPU unusable.
    pub(super) fn give_up(&mut self, reason: String) {
        self.broken.get_or_insert(reason);
    }

    fn fail(&mut self, result: vk::Result) -> String {
        let reason = explain(result);
        // Memory that was short may be there again later; a lost device never is.
        if result == vk::Result::ERROR_DEVICE_LOST {
            self.broken = Some(reason.clone());
        }
        if self.done == self.submitted {
            self.busy = None;
        }
        reason
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A lost device is idle, and one that hangs is abandoned by this.
        let _ = self.wait();
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: nothing is under way; null handles are allowed.
        unsafe {
            self.device.raw.destroy_semaphore(self.timeline, None);
            self.device.raw.destroy_command_pool(self.pool, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::drivers::vulkan::testing::{load, manifest, options};
    use crate::drivers::{Call, Driver, Row};
    use std::time::Duration;

    const ROWS: [Row; 1] = [Row {
        token: 1,
        pos: 0,
        slot: 0,
    }];
    const CALL: Call<'static> = Call {
        rows: &ROWS,
        outs: &[0],
    };

    #[test]
    fn a_gpu_that_hangs_is_an_error_and_left_alone() {
        let mut driver = load(manifest(), &options()).unwrap();
        driver.submit(0, 0..6, CALL).unwrap();
        // A submit that never ends: one that never began.
        driver.queue.submitted += 1;
        driver.queue.longest = Duration::from_millis(50);
        let error = driver.wait().unwrap_err().to_string();
        assert!(
            error.starts_with("vulkan failed in rows: the GPU has not finished within 0 s"),
            "{error}"
        );
        assert!(driver.device.is_abandoned());
        let again = driver.submit(0, 0..6, CALL).unwrap_err().to_string();
        assert!(again.contains("the GPU has not finished"), "{again}");
        // What it may still use stays, and nobody waits for it.
        drop(driver);
    }

    #[test]
    fn a_lost_gpu_is_an_error_at_once_ever_after() {
        let mut driver = load(manifest(), &options()).unwrap();
        driver.submit(0, 0..6, CALL).unwrap();
        driver.wait().unwrap();
        let reason = driver.queue.fail(ash::vk::Result::ERROR_DEVICE_LOST);
        assert!(reason.starts_with("the GPU was lost: "), "{reason}");
        for _ in 0..2 {
            let error = driver.submit(0, 0..6, CALL).unwrap_err().to_string();
            assert_eq!(error, format!("vulkan failed in an earlier call: {reason}"));
            assert!(driver.fetch(0, 4).is_err());
        }
    }

    #[test]
    fn memory_that_was_short_may_be_there_later() {
        let mut driver = load(manifest(), &options()).unwrap();
        let reason = driver
            .queue
            .fail(ash::vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
        assert!(reason.contains("too little free memory"), "{reason}");
        driver.submit(0, 0..6, CALL).unwrap();
        driver.wait().unwrap();
    }
}
