//! A plan's programs in the terms of Vulkan: every dispatch with its pipeline and its descriptors, fixed at load.

use super::arena::DeviceArena;
use super::device::LogicalDevice;
use super::errors::{refused, unavailable};
use super::pipelines::{Pipeline, Pipelines};
use super::weights::{self, Weights};
use crate::drivers::DriverError;
use ash::vk;
use gembin_bundle::gpu::{Extent, GpuStep, Resource};
use gembin_bundle::manifest::{Manifest, Plan, Program, RowSet, Work};
use std::sync::Arc;

/// Descriptor sets and dispatches of every program.
pub(super) struct Programs {
    /// By program and step.
    pub(super) dispatches: Vec<Vec<Dispatch>>,
    pool: vk::DescriptorPool,
    device: Arc<LogicalDevice>,
}

/// One step, ready to be recorded.
pub(super) struct Dispatch {
    pub(super) pipeline: Pipeline,
    pub(super) set: vk::DescriptorSet,
    /// Push constants.
    pub(super) immediates: Vec<u8>,
    work: [Extent; 3],
    pub(super) barrier: bool,
}

impl Dispatch {
    /// Workgroups in each dimension for a call; `None` where there is nothing to do.
    pub(super) fn groups(&self, seq: u32, outs: u32) -> Option<[u32; 3]> {
        groups(self.work, self.pipeline.tile, seq, outs)
    }
}

/// Workgroups of `tile` items that cover `work`.
fn groups(work: [Extent; 3], tile: [u32; 3], seq: u32, outs: u32) -> Option<[u32; 3]> {
    let mut groups = [0; 3];
    for ((groups, extent), tile) in groups.iter_mut().zip(work).zip(tile) {
        let items = match extent {
            Extent::Fixed(items) => items,
            Extent::Rows(RowSet::Seq) => seq,
            Extent::Rows(RowSet::Out) => outs,
        };
        *groups = items.div_ceil(tile.max(1));
        if *groups == 0 {
            return None;
        }
    }
    Some(groups)
}

/// Buffers that dispatches bind.
pub(super) struct Bound<'a> {
    pub(super) arena: &'a DeviceArena,
    pub(super) weights: &'a Weights,
    /// The call's rows.
    pub(super) call: vk::Buffer,
}

impl Programs {
    /// Makes the descriptors of every step.
    ///
    /// # Errors
    /// What a step binds that this GPU cannot bind.
    pub(super) fn new(
        device: &Arc<LogicalDevice>,
        manifest: &Manifest,
        plan: &Plan,
        pipelines: &Pipelines,
        bound: &Bound<'_>,
    ) -> Result<Self, DriverError> {
        let steps = |program: &Program| -> Result<Vec<(String, GpuStep)>, DriverError> {
            program
                .steps
                .iter()
                .map(|step| match &step.work {
                    Work::Gpu(work) => Ok((step.label.clone(), work.clone())),
                    Work::Cpu(_) => Err(unavailable(format!(
                        "step {:?} is the processor's; plans of several devices cannot run yet",
                        step.label
                    ))),
                    Work::Npu(_) => Err(unavailable(format!(
                        "step {:?} is an NPU's; plans of several devices cannot run yet",
                        step.label
                    ))),
                })
                .collect()
        };
        let all = plan
            .programs
            .iter()
            .map(steps)
            .collect::<Result<Vec<_>, _>>()?;
        let sets = all.iter().map(Vec::len).sum::<usize>();
        let descriptors: usize = all.iter().flatten().map(|(_, s)| s.bindings.len()).sum();
        let mut programs = Self {
            dispatches: Vec::with_capacity(all.len()),
            pool: vk::DescriptorPool::null(),
            device: Arc::clone(device),
        };
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(descriptors.max(1) as u32)];
        let create = vk::DescriptorPoolCreateInfo::default()
            .max_sets(sets.max(1) as u32)
            .pool_sizes(&sizes);
        // SAFETY: the device is alive.
        programs.pool = unsafe { device.raw.create_descriptor_pool(&create, None) }
            .map_err(|e| refused("reserve descriptors", e))?;
        for (program, steps) in plan.programs.iter().zip(&all) {
            let dispatches = steps
                .iter()
                .map(|(label, step)| {
                    programs
                        .dispatch(manifest, program, step, pipelines, bound)
                        .map_err(|reason| {
                            unavailable(format!(
                                "step {label:?} of {:?} cannot run on {}: {reason}",
                                program.name, device.title
                            ))
                        })
                })
                .collect::<Result<Vec<_>, _>>()?;
            programs.dispatches.push(dispatches);
        }
        Ok(programs)
    }

    fn dispatch(
        &self,
        manifest: &Manifest,
        program: &Program,
        step: &GpuStep,
        pipelines: &Pipelines,
        bound: &Bound<'_>,
    ) -> Result<Dispatch, String> {
        let pipeline = pipelines
            .get(step.kernel)
            .ok_or("its kernel was not compiled")?;
        let kernel = &manifest.kernels[step.kernel as usize];
        if step.bindings.len() != kernel.bindings.len()
            || step.immediates.len() != kernel.immediates as usize
        {
            return Err("it does not fit its kernel; compile the bundle again".into());
        }
        let limits = &self.device.abilities.limits;
        if let Some(groups) = groups(step.work, pipeline.tile, program.max_rows, program.max_outs)
            && groups.iter().zip(limits.groups).any(|(&n, most)| n > most)
        {
            return Err(format!(
                "{groups:?} workgroups, and {:?} are the most",
                limits.groups
            ));
        }
        let mut ranges = Vec::with_capacity(step.bindings.len());
        for resource in &step.bindings {
            let range = place(manifest, program, resource, bound)
                .ok_or_else(|| format!("{} lies nowhere", name(manifest, resource)))?;
            if range.range > limits.storage_range {
                return Err(format!(
                    "{} is bound with {} bytes at once, and {} are the most",
                    name(manifest, resource),
                    range.range,
                    limits.storage_range
                ));
            }
            ranges.push([range]);
        }
        let layouts = [pipeline.set_layout];
        let allocate = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(self.pool)
            .set_layouts(&layouts);
        // SAFETY: the pool was made large enough for all steps, and is used by this thread alone.
        let set = unsafe { self.device.raw.allocate_descriptor_sets(&allocate) }
            .map_err(super::errors::explain)?[0];
        let writes: Vec<_> = ranges
            .iter()
            .zip(0..)
            .map(|(range, binding)| {
                vk::WriteDescriptorSet::default()
                    .dst_set(set)
                    .dst_binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(range)
            })
            .collect();
        // SAFETY: the set has these bindings, is not in use, and the ranges lie in living buffers.
        unsafe { self.device.raw.update_descriptor_sets(&writes, &[]) };
        Ok(Dispatch {
            pipeline,
            set,
            immediates: step
                .immediates
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect(),
            work: step.work,
            barrier: step.barrier,
        })
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: the driver waits for the GPU before it lets go of its programs. The sets go with the pool.
        unsafe { self.device.raw.destroy_descriptor_pool(self.pool, None) };
    }
}

/// Bytes of [`Resource::Call`] for so many rows.
pub(super) fn call_bytes(rows: u32) -> u64 {
    use gembin_bundle::gpu::{CALL_HEADER_WORDS, CALL_ROW_WORDS};
    (CALL_HEADER_WORDS + CALL_ROW_WORDS * u64::from(rows)) * 4
}

/// Exactly what a binding spans.
fn place(
    manifest: &Manifest,
    program: &Program,
    resource: &Resource,
    bound: &Bound<'_>,
) -> Option<vk::DescriptorBufferInfo> {
    let in_arena = |offset: u64, bytes: u64| {
        let (buffer, at, left) = bound.arena.locate(offset)?;
        (bytes > 0 && left >= bytes).then_some((buffer, at, bytes))
    };
    let (buffer, offset, range) = match *resource {
        Resource::Value(buffer) => in_arena(buffer.offset, buffer.span(program).bytes)?,
        Resource::Keys(cache) => {
            let cache = &manifest.arena.caches[cache as usize];
            in_arena(cache.offset, cache.bytes / 2)?
        }
        Resource::Values(cache) => {
            let cache = &manifest.arena.caches[cache as usize];
            in_arena(cache.offset + cache.bytes / 2, cache.bytes / 2)?
        }
        Resource::Data { .. } | Resource::Scales { .. } => {
            let span = weights::section_span(manifest, resource)?;
            let (buffer, at) = bound.weights.locate(span.offset, span.bytes)?;
            (buffer, at, span.bytes)
        }
        Resource::Call => (bound.call, 0, call_bytes(program.max_rows)),
    };
    Some(
        vk::DescriptorBufferInfo::default()
            .buffer(buffer)
            .offset(offset)
            .range(range),
    )
}

/// What a binding is, for errors.
fn name(manifest: &Manifest, resource: &Resource) -> String {
    let weight = |index: u32| &manifest.weights[index as usize].name;
    let cache = |index: u32| &manifest.arena.caches[index as usize].name;
    match *resource {
        Resource::Value(buffer) => format!("the value at byte {} of the arena", buffer.offset),
        Resource::Data { weight: w, .. } => format!("weight `{}`", weight(w)),
        Resource::Scales { weight: w, .. } => format!("the scales of weight `{}`", weight(w)),
        Resource::Keys(c) => format!("the keys of cache `{}`", cache(c)),
        Resource::Values(c) => format!("the values of cache `{}`", cache(c)),
        Resource::Call => "the list of rows".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_cover_the_work() {
        let of = |work, seq, outs| groups(work, [16, 4, 1], seq, outs);
        let (fixed, seq, out) = (
            Extent::Fixed,
            Extent::Rows(RowSet::Seq),
            Extent::Rows(RowSet::Out),
        );
        assert_eq!(of([fixed(33), seq, fixed(1)], 9, 0), Some([3, 3, 1]));
        assert_eq!(of([fixed(32), seq, fixed(2)], 8, 0), Some([2, 2, 2]));
        assert_eq!(of([fixed(32), out, fixed(1)], 8, 0), None);
        assert_eq!(of([fixed(0), seq, fixed(1)], 8, 0), None);
        assert_eq!(
            groups([fixed(5), seq, out], [0, 1, 1], 1, 1),
            Some([5, 1, 1])
        );
    }
}
