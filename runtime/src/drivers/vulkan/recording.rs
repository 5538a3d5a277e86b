//! Command buffers of calls: recorded once for each kind of call, replayed after that.
//!
//! A call of the same program, steps and numbers of rows needs the same commands: tokens and positions are read from a
//! small buffer. Decoding replays one recording for ever; prefills of odd lengths make room for each other.

use super::cost::{Cost, split};
use super::device::LogicalDevice;
use super::programs::Dispatch;
use super::queue::Queue;
use super::readback::{DATA, MARKS};
use ash::vk;
use std::ops::Range;

/// Recordings kept.
const KEPT: usize = 16;

/// What decides the commands of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) program: usize,
    pub(super) steps: Range<usize>,
    pub(super) seq: u32,
    pub(super) outs: u32,
}

/// Recorded commands of one kind of call, one command buffer a submit.
struct Recording {
    key: Key,
    parts: Vec<Part>,
    last_used: u64,
}

/// One submit.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) commands: vk::CommandBuffer,
    /// First step, for errors.
    pub(super) first_step: usize,
}

/// What is copied to the readback buffer after the last step.
#[derive(Clone, Copy)]
pub(super) struct CallResult {
    pub(super) buffer: vk::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Everything to be recorded of a call.
pub(super) struct Call<'a> {
    pub(super) dispatches: &'a [Dispatch],
    /// Of each dispatch.
    pub(super) costs: &'a dyn Fn(usize) -> Cost,
    /// What one submit may cost.
    pub(super) most: Cost,
    pub(super) result: Option<CallResult>,
    pub(super) readback: vk::Buffer,
    /// Two timestamps a step of the program, if times are measured.
    pub(super) timestamps: Option<vk::QueryPool>,
}

/// The recordings kept.
#[derive(Default)]
pub(super) struct Recordings {
    kept: Vec<Recording>,
    /// Command buffers of recordings that made room.
    spare: Vec<vk::CommandBuffer>,
    clock: u64,
}

impl Recordings {
    /// The commands of `key`, if they were recorded.
    pub(super) fn find(&mut self, key: &Key) -> Option<usize> {
        self.clock += 1;
        let index = self.kept.iter().position(|known| known.key == *key)?;
        self.kept[index].last_used = self.clock;
        Some(index)
    }

    /// The submits of a recording.
    pub(super) fn parts(&self, recording: usize) -> &[Part] {
        &self.kept[recording].parts
    }

    /// The steps of a recording.
    pub(super) fn steps(&self, recording: usize) -> Range<usize> {
        self.kept[recording].key.steps.clone()
    }

    /// Forgets everything recorded; nothing may be under way.
    pub(super) fn clear(&mut self) {
        for recording in self.kept.drain(..) {
            let commands = recording.parts.iter().map(|part| part.commands);
            self.spare.extend(commands);
        }
    }

    /// Records a call; nothing may be under way. Returns the recording.
    pub(super) fn record(
        &mut self,
        device: &LogicalDevice,
        queue: &Queue,
        key: Key,
        call: &Call<'_>,
    ) -> Result<usize, vk::Result> {
        if self.kept.len() == KEPT
            && let Some(oldest) = (0..KEPT).min_by_key(|&i| self.kept[i].last_used)
        {
            let removed = self.kept.swap_remove(oldest);
            self.spare
                .extend(removed.parts.iter().map(|part| part.commands));
        }
        let steps = &call.dispatches[key.steps.clone()];
        let mut ends = split(key.steps.clone().map(call.costs), call.most);
        // A call of more submits than there are marks does the rest in the last one.
        if ends.len() > MARKS {
            ends.truncate(MARKS - 1);
            ends.push(steps.len());
        }
        if ends.is_empty() {
            ends.push(0);
        }
        let mut parts = Vec::with_capacity(ends.len());
        let mut start = 0;
        for (index, &end) in ends.iter().enumerate() {
            let commands = match self.spare.pop() {
                Some(commands) => commands,
                None => queue.command_buffer()?,
            };
            parts.push(Part {
                commands,
                first_step: key.steps.start + start,
            });
            let result = call.result.filter(|_| index + 1 == ends.len());
            // SAFETY: the commands are not under way, and everything they name lives as long as the driver, which
            // waits for the queue before it lets go of anything.
            let recorded = unsafe {
                record_part(
                    &device.raw,
                    commands,
                    &PartOf {
                        steps: &steps[start..end],
                        first_step: key.steps.start + start,
                        seq: key.seq,
                        outs: key.outs,
                        readback: call.readback,
                        mark: index,
                        result,
                        timestamps: call.timestamps,
                    },
                )
            };
            if let Err(error) = recorded {
                self.spare.extend(parts.iter().map(|part| part.commands));
                return Err(error);
            }
            start = end;
        }
        self.kept.push(Recording {
            key,
            parts,
            last_used: self.clock,
        });
        Ok(self.kept.len() - 1)
    }
}

/// What one submit does.
struct PartOf<'a> {
    steps: &'a [Dispatch],
    /// Index of the first of them in the program.
    first_step: usize,
    seq: u32,
    outs: u32,
    readback: vk::Buffer,
    /// The mark that it sets.
    mark: usize,
    result: Option<CallResult>,
    timestamps: Option<vk::QueryPool>,
}

/// Records the dispatches of one submit, then the copy of the call's result and the mark that all of it was done.
///
/// # Safety
/// The commands are not under way; pipelines, sets and buffers live until the commands have run for the last time.
unsafe fn record_part(
    device: &ash::Device,
    commands: vk::CommandBuffer,
    part: &PartOf<'_>,
) -> Result<(), vk::Result> {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let (shader, transfer) = (
        Access::SHADER_READ | Access::SHADER_WRITE,
        Access::TRANSFER_READ | Access::TRANSFER_WRITE,
    );
    // SAFETY: the caller's promises; commands are recorded between begin and end.
    unsafe {
        device.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default())?;
        // What earlier submits wrote, this one reads.
        barrier(
            device,
            commands,
            (
                Stage::COMPUTE_SHADER | Stage::TRANSFER,
                Access::SHADER_WRITE | Access::TRANSFER_WRITE,
            ),
            (Stage::COMPUTE_SHADER | Stage::TRANSFER, shader | transfer),
        );
        if let Some(queries) = part.timestamps {
            let (first, count) = (2 * part.first_step as u32, 2 * part.steps.len() as u32);
            device.cmd_reset_query_pool(commands, queries, first, count);
        }
        let mut pending = false;
        let mut bound = vk::Pipeline::null();
        for (index, step) in part.steps.iter().enumerate() {
            // Measured steps do not overlap.
            pending |= step.barrier || part.timestamps.is_some();
            let Some([x, y, z]) = step.groups(part.seq, part.outs) else {
                continue;
            };
            if std::mem::take(&mut pending) {
                barrier(
                    device,
                    commands,
                    (Stage::COMPUTE_SHADER, Access::SHADER_WRITE),
                    (Stage::COMPUTE_SHADER, shader),
                );
            }
            if bound != step.pipeline.raw {
                bound = step.pipeline.raw;
                device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, bound);
            }
            device.cmd_bind_descriptor_sets(
                commands,
                vk::PipelineBindPoint::COMPUTE,
                step.pipeline.layout,
                0,
                &[step.set],
                &[],
            );
            if !step.immediates.is_empty() {
                device.cmd_push_constants(
                    commands,
                    step.pipeline.layout,
                    vk::ShaderStageFlags::COMPUTE,
                    0,
                    &step.immediates,
                );
            }
            let stamp = |which: u32| {
                if let Some(queries) = part.timestamps {
                    let query = 2 * (part.first_step + index) as u32 + which;
                    device.cmd_write_timestamp(commands, Stage::BOTTOM_OF_PIPE, queries, query);
                }
            };
            stamp(0);
            device.cmd_dispatch(commands, x, y, z);
            stamp(1);
        }
        barrier(
            device,
            commands,
            (Stage::COMPUTE_SHADER, Access::SHADER_WRITE),
            (Stage::TRANSFER, transfer),
        );
        if let Some(result) = part.result {
            let region = vk::BufferCopy {
                src_offset: result.offset,
                dst_offset: DATA,
                size: result.bytes,
            };
            device.cmd_copy_buffer(commands, result.buffer, part.readback, &[region]);
        }
        device.cmd_fill_buffer(commands, part.readback, part.mark as u64 * 4, 4, 1);
        barrier(
            device,
            commands,
            (Stage::TRANSFER, Access::TRANSFER_WRITE),
            (Stage::HOST, Access::HOST_READ),
        );
        device.end_command_buffer(commands)
    }
}

/// Makes what the first scope wrote visible to the second.
///
/// # Safety
/// The commands are being recorded.
pub(super) unsafe fn barrier(
    device: &ash::Device,
    commands: vk::CommandBuffer,
    (source, written): (vk::PipelineStageFlags, vk::AccessFlags),
    (target, used): (vk::PipelineStageFlags, vk::AccessFlags),
) {
    let memory = [vk::MemoryBarrier::default()
        .src_access_mask(written)
        .dst_access_mask(used)];
    // SAFETY: the caller's promise.
    unsafe {
        device.cmd_pipeline_barrier(
            commands,
            source,
            target,
            vk::DependencyFlags::empty(),
            &memory,
            &[],
            &[],
        );
    }
}
