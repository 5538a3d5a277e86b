//! The plan's kernels, compiled by the GPU's driver: a pipeline each, of the variant that the GPU can run best.

use super::device::LogicalDevice;
use super::errors::{refused, unavailable};
use super::pipeline_cache;
use super::variants::{self, Variants};
use crate::drivers::DriverError;
use ash::vk;
use gembin_bundle::gpu::{KernelIdx, MAX_BINDINGS, MAX_IMMEDIATES, Variant};
use gembin_bundle::manifest::{Manifest, Plan, Work};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Threads that compile: drivers compile one pipeline on one thread.
const COMPILE_THREADS: usize = 16;

/// A kernel ready to run.
#[derive(Clone, Copy)]
pub(super) struct Pipeline {
    pub(super) raw: vk::Pipeline,
    pub(super) layout: vk::PipelineLayout,
    pub(super) set_layout: vk::DescriptorSetLayout,
    /// Items of work of a workgroup.
    pub(super) tile: [u32; 3],
}

/// All kernels of a plan.
pub(super) struct Pipelines {
    by_kernel: BTreeMap<KernelIdx, Pipeline>,
    /// Which variant of each kernel.
    chosen: BTreeMap<KernelIdx, Chosen>,
    /// By number of bindings.
    set_layouts: BTreeMap<usize, vk::DescriptorSetLayout>,
    /// By number of bindings and of push constant words.
    layouts: BTreeMap<(usize, u32), vk::PipelineLayout>,
    device: Arc<LogicalDevice>,
}

/// The variant of a kernel that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The kernel's name.
    pub kernel: String,
    /// The variant's.
    pub variant: String,
    /// What better variants need that the GPU lacks, one line each.
    pub passed_over: Vec<String>,
}

/// A kernel to be compiled.
struct Job<'a> {
    kernel: KernelIdx,
    name: &'a str,
    variant: &'a Variant,
    layout: vk::PipelineLayout,
}

impl Pipelines {
    /// Compiles the kernels that `plan` uses, or takes them from the cache in `cache_folder`.
    ///
    /// # Errors
    /// The kernel that cannot run on this GPU, and why.
    pub(super) fn compile(
        device: &Arc<LogicalDevice>,
        manifest: &Manifest,
        plan: &Plan,
        wish: &Variants,
        cache_folder: Option<&Path>,
    ) -> Result<Self, DriverError> {
        let mut pipelines = Self {
            by_kernel: BTreeMap::new(),
            chosen: BTreeMap::new(),
            set_layouts: BTreeMap::new(),
            layouts: BTreeMap::new(),
            device: Arc::clone(device),
        };
        let used = used(plan);
        let kernels = used
            .iter()
            .filter_map(|&index| manifest.kernels.get(index as usize));
        let form = variants::choose_form(kernels, &device.abilities, wish);
        let mut jobs = Vec::new();
        for index in used {
            let kernel = manifest.kernels.get(index as usize).ok_or_else(|| {
                unavailable(format!(
                    "the bundle has no kernel {index}; compile it again"
                ))
            })?;
            let (bindings, words) = (kernel.bindings.len(), kernel.immediates);
            if bindings > MAX_BINDINGS || words as usize > MAX_IMMEDIATES {
                return Err(unavailable(format!(
                    "kernel `{}` has {bindings} bindings and {words} push constants; compile the bundle again",
                    kernel.name
                )));
            }
            let variant = variants::choose(kernel, &device.abilities, wish, form)
                .map_err(|reason| unavailable(format!("{} {reason}", device.title)))?;
            let chosen = Chosen {
                kernel: kernel.name.clone(),
                variant: variant.name.clone(),
                passed_over: variants::passed_over(kernel, variant, &device.abilities),
            };
            pipelines.chosen.insert(index, chosen);
            jobs.push(Job {
                kernel: index,
                name: &kernel.name,
                variant,
                layout: pipelines
                    .layout(bindings, words)
                    .map_err(|e| refused("describe a kernel's bindings", e))?,
            });
            let compiled = Pipeline {
                raw: vk::Pipeline::null(),
                layout: pipelines.layouts[&(bindings, words)],
                set_layout: pipelines.set_layouts[&bindings],
                tile: variant.tile,
            };
            pipelines.by_kernel.insert(index, compiled);
        }
        if let Variants::Named(name) = wish
            && !pipelines
                .chosen
                .values()
                .any(|chosen| chosen.variant == *name)
        {
            return Err(unavailable(format!(
                "no kernel of the bundle has a variant {name:?} that {} can run",
                device.title
            )));
        }
        pipelines.compile_all(&jobs, cache_folder)?;
        Ok(pipelines)
    }

    /// The pipeline of a kernel of the plan.
    pub(super) fn get(&self, kernel: KernelIdx) -> Option<Pipeline> {
        self.by_kernel.get(&kernel).copied()
    }

    /// The variant that runs of each kernel of the plan.
    pub(super) fn chosen(&self) -> impl Iterator<Item = &Chosen> {
        self.chosen.values()
    }

    fn layout(&mut self, bindings: usize, words: u32) -> Result<vk::PipelineLayout, vk::Result> {
        let raw = &self.device.raw;
        let set = match self.set_layouts.get(&bindings) {
            Some(&set) => set,
            None => {
                let slots: Vec<_> = (0..bindings as u32)
                    .map(|binding| {
                        vk::DescriptorSetLayoutBinding::default()
                            .binding(binding)
                            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                            .descriptor_count(1)
                            .stage_flags(vk::ShaderStageFlags::COMPUTE)
                    })
                    .collect();
                let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&slots);
                // SAFETY: the device is alive, and has that many storage buffers a stage.
                let set = unsafe { raw.create_descriptor_set_layout(&create, None)? };
                self.set_layouts.insert(bindings, set);
                set
            }
        };
        if let Some(&layout) = self.layouts.get(&(bindings, words)) {
            return Ok(layout);
        }
        let sets = [set];
        let ranges = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(words * 4)];
        let create = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&sets)
            .push_constant_ranges(if words > 0 { &ranges } else { &[] });
        // SAFETY: the device and the set layout are alive, and 128 bytes of push constants are on every device.
        let layout = unsafe { raw.create_pipeline_layout(&create, None)? };
        self.layouts.insert((bindings, words), layout);
        Ok(layout)
    }

    fn compile_all(
        &mut self,
        jobs: &[Job<'_>],
        cache_folder: Option<&Path>,
    ) -> Result<(), DriverError> {
        let device = Arc::clone(&self.device);
        let file = cache_folder.map(|folder| {
            let codes = jobs.iter().map(|job| job.variant.code.as_slice());
            pipeline_cache::file(folder, pipeline_cache::key(&device.abilities, codes))
        });
        let kept = file
            .as_deref()
            .map(pipeline_cache::read)
            .unwrap_or_default();
        let create = vk::PipelineCacheCreateInfo::default().initial_data(&kept);
        // SAFETY: the data is what this driver once returned, as its checksum and the key in its name say; drivers
        // look at its header themselves.
        let cache = unsafe { device.raw.create_pipeline_cache(&create, None) }
            .map_err(|e| refused("make a pipeline cache", e))?;
        let result = self.compile_on_threads(jobs, cache);
        if result.is_ok()
            && let Some(file) = file
        {
            // SAFETY: the cache is alive and no thread uses it any more.
            if let Ok(data) = unsafe { device.raw.get_pipeline_cache_data(cache) }
                && data != kept
            {
                // Without the file the next start is slower, that is all.
                let _ = pipeline_cache::write(&file, &data);
            }
        }
        // SAFETY: as above, and it is destroyed once.
        unsafe { device.raw.destroy_pipeline_cache(cache, None) };
        result
    }

    fn compile_on_threads(
        &mut self,
        jobs: &[Job<'_>],
        cache: vk::PipelineCache,
    ) -> Result<(), DriverError> {
        let device = &*self.device;
        let next = &AtomicUsize::new(0);
        let compiled = &Mutex::new((Vec::with_capacity(jobs.len()), None));
        let work = move || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = compile(device, job, cache);
                let mut compiled = compiled.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(raw) => compiled.0.push((job.kernel, raw)),
                    Err(error) => {
                        let text = format!("compile kernel `{}` ({})", job.name, job.variant.name);
                        compiled.1.get_or_insert_with(|| refused(&text, error));
                        return;
                    }
                }
            }
        };
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(COMPILE_THREADS)
            .min(jobs.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut compiled = compiled.lock().unwrap_or_else(PoisonError::into_inner);
        for (kernel, raw) in compiled.0.drain(..) {
            if let Some(pipeline) = self.by_kernel.get_mut(&kernel) {
                pipeline.raw = raw;
            }
        }
        compiled.1.take().map_or(Ok(()), Err)
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        let raw = &self.device.raw;
        // SAFETY: the driver waits for the GPU before it lets go of its pipelines; each is destroyed once, and null
        // handles are allowed.
        unsafe {
            for pipeline in self.by_kernel.values() {
                raw.destroy_pipeline(pipeline.raw, None);
            }
            for &layout in self.layouts.values() {
                raw.destroy_pipeline_layout(layout, None);
            }
            for &layout in self.set_layouts.values() {
                raw.destroy_descriptor_set_layout(layout, None);
            }
        }
    }
}

/// The kernels that the plan's dispatches use.
fn used(plan: &Plan) -> BTreeSet<KernelIdx> {
    plan.programs
        .iter()
        .flat_map(|program| &program.steps)
        .filter_map(|step| match &step.work {
            Work::Gpu(step) => Some(step.kernel),
            Work::Cpu(_) | Work::Npu(_) => None,
        })
        .collect()
}

fn compile(
    device: &LogicalDevice,
    job: &Job<'_>,
    cache: vk::PipelineCache,
) -> Result<vk::Pipeline, vk::Result> {
    let create = vk::ShaderModuleCreateInfo::default().code(&job.variant.code);
    // SAFETY: the code is SPIR-V whose capabilities the device has; that it is valid is the word of whoever
    // made the bundle: code for a GPU is trusted like a program, which users are told.
    let module = unsafe { device.raw.create_shader_module(&create, None)? };
    let has = &device.abilities;
    let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default();
    let mut stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(vk::ShaderStageFlags::COMPUTE)
        .module(module)
        .name(c"main");
    if has.subgroup_control {
        // Subgroups are full only where whole ones fill a row of the workgroup.
        let mut whole = has.subgroup.1;
        if let Some(wanted) = job.variant.subgroup {
            size = size.required_subgroup_size(wanted);
            stage = stage.push_next(&mut size);
            whole = wanted;
        }
        if job.variant.workgroup[0].is_multiple_of(whole) {
            stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS);
        }
    }
    let create = [vk::ComputePipelineCreateInfo::default()
        .stage(stage)
        .layout(job.layout)];
    // SAFETY: module and layout are alive; a pipeline cache may be used by several threads at once.
    let result = unsafe { device.raw.create_compute_pipelines(cache, &create, None) };
    // SAFETY: the module is needed for the call above only.
    unsafe { device.raw.destroy_shader_module(module, None) };
    result.map(|made| made[0]).map_err(|(_, error)| error)
}
