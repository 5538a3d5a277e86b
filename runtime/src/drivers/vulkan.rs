//! GPUs as devices, through Vulkan: loads a plan, then replays recorded command buffers of its dispatches.
//!
//! Owns the driver's life: which GPU, what is made at load and in which order it goes, what a call must satisfy, how
//! results reach the host. Nothing here knows what a kernel computes. The parts:
//!
//! * `instance`, `abilities`, `select`, `device`: from the loader to an opened GPU;
//! * `memory`, `segments`, `weights`, `arena`, `readback`: buffers and what is in them;
//! * `variants`, `capabilities`, `pipelines`, `pipeline_cache`: from SPIR-V to pipelines;
//! * `programs`, `cost`, `recording`, `queue`: from steps to submits;
//! * `options`: how it is to run; `errors`: what went wrong, in words;
//! * `gate`: no submit is under way when the process ends; `profile`: times of single dispatches.

mod abilities;
mod arena;
mod capabilities;
mod cost;
mod device;
mod errors;
mod gate;
mod instance;
mod memory;
mod options;
mod pipeline_cache;
mod pipelines;
mod profile;
mod programs;
mod queue;
mod readback;
mod recording;
mod segments;
mod select;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod variants;
mod weights;

pub use abilities::{Abilities, Gpu, Kind};
pub use gate::close as drain;
pub use instance::Validation;
pub use options::{CacheFolder, VulkanOptions};
pub use pipelines::Chosen;
pub use select::Pick;
pub use variants::Variants;
pub use weights::Progress;

use super::{Call, Driver, DriverError, LoadContext, check_call};
use arena::DeviceArena;
use ash::vk;
use cost::Cost;
use device::LogicalDevice;
use errors::{failed, refused, unavailable};
use gembin_bundle::manifest::{Device, Plan};
use instance::Instance;
use memory::{Buffer, Home};
use pipelines::Pipelines;
use profile::Profile;
use programs::{Bound, Programs, call_bytes};
use queue::Queue;
use readback::{DATA, Readback};
use recording::{Key, Recordings};
use std::ops::Range;
use std::sync::Arc;
use weights::{LoadOptions, Weights};

/// Most bytes that cross to the host at once.
const LARGEST_READBACK: u64 = 16 << 20;

/// Every GPU of this machine, in Vulkan's order.
///
/// # Errors
/// Why there are none.
pub fn gpus(options: &VulkanOptions) -> Result<Vec<Gpu>, String> {
    abilities::enumerate(&*Instance::get(options.validation)?)
}

/// What the GPU that `pick` takes can do, for people.
///
/// # Errors
/// Why none can be used.
pub fn probe(pick: &Pick, options: &VulkanOptions) -> Result<String, String> {
    let instance = Instance::get(options.validation)?;
    let gpus = abilities::enumerate(&instance)?;
    select::select(&gpus, pick)?.about()
}

/// A plan loaded onto a GPU.
///
/// Fields are dropped in order: first the queue, which waits for whatever is under way.
pub struct VulkanDriver {
    queue: Queue,
    recordings: Recordings,
    /// While times are measured.
    profile: Option<Profile>,
    programs: Programs,
    pipelines: Pipelines,
    readback: Readback,
    call: Buffer,
    arena: DeviceArena,
    weights: Weights,
    /// For copies that are not part of a call.
    copying: vk::CommandBuffer,
    /// The call under way.
    under_way: Option<UnderWay>,
    most: Cost,
    device: Arc<LogicalDevice>,
    /// Keeps manifest, mapped weights and host arena.
    context: LoadContext,
}

/// A call that was submitted.
#[derive(Clone, Copy)]
struct UnderWay {
    program: usize,
    recording: usize,
    /// Where candidates go in the host's arena, and how many bytes.
    candidates: Option<(u64, u64)>,
}

impl VulkanDriver {
    /// Loads a plan of a checked manifest onto the GPU that `pick` takes.
    ///
    /// # Errors
    /// When there is no such GPU, or it lacks what the plan needs.
    pub fn load(
        context: &LoadContext,
        pick: &Pick,
        options: &VulkanOptions,
    ) -> Result<Self, DriverError> {
        let instance = Instance::get(options.validation).map_err(unavailable)?;
        let gpus = abilities::enumerate(&instance).map_err(unavailable)?;
        let gpu = select::select(&gpus, pick).map_err(unavailable)?;
        let abilities = gpu.abilities.as_ref().map_err(unavailable)?;
        let device = LogicalDevice::open(instance, gpu, abilities, options.robust)?;

        let manifest = &context.manifest;
        let plan = manifest.plans.get(context.plan).ok_or_else(|| {
            unavailable(format!("the bundle has no plan number {}", context.plan))
        })?;
        if manifest.arena.bytes > context.arena.bytes() as u64 {
            return Err(unavailable(format!(
                "the plan needs an arena of {} bytes, not {}",
                manifest.arena.bytes,
                context.arena.bytes()
            )));
        }
        let cache = match &options.cache {
            CacheFolder::User => pipeline_cache::user_folder(),
            CacheFolder::At(folder) => Some(folder.clone()),
            CacheFolder::None => None,
        };
        let mut queue = Queue::new(&device).map_err(|e| refused("open the GPU's queue", e))?;
        let arena = DeviceArena::new(&device, &manifest.arena)?;
        let call_rows = plan.programs.iter().map(|p| p.max_rows).max().unwrap_or(0);
        let call = Buffer::new(&device, call_bytes(call_rows), Home::Written, "calls")?;
        let readback = Readback::new(&device, readback_bytes(plan))?;
        let loading = LoadOptions {
            import: !options.no_import,
            stage: options.stage_weights,
            progress: options.progress,
        };
        // Kernels are compiled while weights are on their way.
        let (weights, pipelines) = std::thread::scope(|scope| {
            let (device, wish, cache) = (&device, &options.variants, cache.as_deref());
            let pipelines =
                scope.spawn(move || Pipelines::compile(device, manifest, plan, wish, cache));
            let section = (*context.weights).as_ref();
            let weights = Weights::load(device, &mut queue, manifest, plan, section, &loading);
            (weights, pipelines.join())
        });
        let (weights, pipelines) = (
            weights?,
            pipelines.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
        );
        let bound = Bound {
            arena: &arena,
            weights: &weights,
            call: call.raw,
        };
        let programs = Programs::new(&device, manifest, plan, &pipelines, &bound)?;
        let copying = queue
            .command_buffer()
            .map_err(|e| refused("record commands", e))?;
        let mut driver = Self {
            queue,
            recordings: Recordings::default(),
            profile: None,
            programs,
            pipelines,
            readback,
            call,
            arena,
            weights,
            copying,
            under_way: None,
            most: options
                .submit_multiply_adds
                .map_or(Cost::MOST, |most| Cost {
                    multiply_adds: most,
                    ..Cost::MOST
                }),
            device,
            context: LoadContext {
                manifest: Arc::clone(manifest),
                plan: context.plan,
                weights: Arc::clone(&context.weights),
                arena: Arc::clone(&context.arena),
                threads: context.threads,
            },
        };
        driver.zero()?;
        driver.heed_validation("loading")?;
        Ok(driver)
    }

    /// The variant of each kernel of the plan that runs.
    pub fn variants(&self) -> impl Iterator<Item = &Chosen> {
        self.pipelines.chosen()
    }

    /// Makes `bytes` bytes of the host's arena from `offset` on the GPU's: for tests of single steps.
    ///
    /// # Errors
    /// When the GPU failed, or the bytes lie nowhere on it.
    pub fn store(&mut self, offset: u64, bytes: u64) -> Result<(), DriverError> {
        self.cross(offset, bytes, Direction::ToGpu)
    }

    /// Starts or stops measuring the time of each step; starting forgets what was measured.
    ///
    /// # Errors
    /// When the GPU failed, or has no clock.
    pub fn set_profiling(&mut self, on: bool) -> Result<(), DriverError> {
        self.wait()?;
        self.recordings.clear();
        self.profile = None;
        if on {
            if self.device.abilities.timestamp_bits == 0 {
                return Err(unavailable("the GPU's queue has no timestamps"));
            }
            let steps = self.programs.dispatches.iter().map(Vec::len);
            let profile =
                Profile::new(&self.device, steps).map_err(|e| refused("reserve timestamps", e))?;
            self.profile = Some(profile);
        }
        Ok(())
    }

    /// Nanoseconds that the GPU has spent in each step of a program while profiling; nothing when it is off.
    pub fn step_ns(&self, program: usize) -> &[f64] {
        self.profile
            .as_ref()
            .map_or(&[], |profile| profile.step_ns(program))
    }

    fn plan(&self) -> &Plan {
        &self.context.manifest.plans[self.context.plan]
    }

    fn label(&self, program: usize, step: usize) -> String {
        self.plan()
            .programs
            .get(program)
            .and_then(|p| p.steps.get(step))
            .map_or_else(|| format!("step {step}"), |s| s.label.clone())
    }

    /// Fills the arena with zeros.
    fn zero(&mut self) -> Result<(), DriverError> {
        let raw = &self.device.raw;
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the command buffer is not under way, and the buffers live as long as the driver.
        let recorded = unsafe {
            raw.begin_command_buffer(self.copying, &begin)
                .and_then(|()| {
                    for buffer in self.arena.buffers() {
                        raw.cmd_fill_buffer(self.copying, buffer, 0, vk::WHOLE_SIZE, 0);
                    }
                    raw.end_command_buffer(self.copying)
                })
        };
        recorded.map_err(|e| refused("zero the arena", e))?;
        self.queue
            .submit(self.copying)
            .and_then(|_| self.queue.wait())
            .map_err(|reason| failed("zeroing the arena", reason))
    }

    /// Turns what the validation layer has said into an error.
    fn heed_validation(&mut self, step: &str) -> Result<(), DriverError> {
        match self.device.instance.complaints() {
            None => Ok(()),
            Some(complaint) => {
                self.queue.give_up(complaint.clone());
                Err(failed(step, complaint))
            }
        }
    }

    /// Writes what kernels read of a call.
    fn write_call(&mut self, call: Call<'_>) {
        let mut words = [0u32; 4];
        words[0] = call.rows.len() as u32;
        words[1] = call.outs.len() as u32;
        let at = self.call.mapped().cast::<[u32; 4]>();
        // SAFETY: `check_call` has limited the rows to those of the largest program, for which the buffer was made;
        // it is mapped, aligned to pages, and the GPU does not read it now.
        unsafe {
            at.write(words);
            for (index, row) in call.rows.iter().enumerate() {
                let out = call.outs.get(index).copied().unwrap_or(0);
                at.add(1 + index).write([row.token, row.pos, row.slot, out]);
            }
        }
    }

    /// Copies bytes between the arenas of host and GPU, through the readback buffer.
    fn cross(&mut self, offset: u64, bytes: u64, direction: Direction) -> Result<(), DriverError> {
        let (doing, nowhere) = match direction {
            Direction::ToHost => ("fetching results", "they are not on the GPU"),
            Direction::ToGpu => ("storing values", "they do not belong on the GPU"),
        };
        self.wait()?;
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.context.manifest.arena.bytes)
            || !offset.is_multiple_of(4)
            || !bytes.is_multiple_of(4)
        {
            return Err(failed(
                doing,
                format!("bytes {offset}+{bytes} are not whole words of the arena"),
            ));
        }
        let mut at = offset;
        while at < offset + bytes {
            let Some((buffer, place, left)) = self.arena.locate(at) else {
                return Err(failed(doing, format!("bytes {at}: {nowhere}")));
            };
            let part = left.min(offset + bytes - at).min(self.readback.room);
            // SAFETY: the range was checked to lie in the host's arena.
            let host = unsafe { self.context.arena.base().add(at as usize) };
            let there = |src_offset, dst_offset| vk::BufferCopy {
                src_offset,
                dst_offset,
                size: part,
            };
            let readback = self.readback.buffer.raw;
            let (from, to, region) = match direction {
                Direction::ToHost => (buffer, readback, there(place, DATA)),
                Direction::ToGpu => {
                    // SAFETY: the GPU is idle, and the host's arena is this driver's while a method of it runs.
                    unsafe { self.readback.copy_from(host, part) };
                    (readback, buffer, there(DATA, place))
                }
            };
            // SAFETY: the GPU is idle, and the regions lie in living buffers.
            unsafe { record_crossing(&self.device.raw, self.copying, from, to, region) }
                .map_err(|e| failed(doing, errors::explain(e)))?;
            self.queue
                .submit(self.copying)
                .and_then(|_| self.queue.wait())
                .map_err(|reason| failed(doing, reason))?;
            if direction == Direction::ToHost {
                // SAFETY: the copy is done, and the host's arena is this driver's while a method of it runs.
                unsafe { self.readback.copy_to(host, part) };
            }
            at += part;
        }
        self.heed_validation(doing)
    }
}

impl Driver for VulkanDriver {
    fn device(&self) -> Device {
        Device::Vulkan
    }

    fn describe(&self) -> String {
        format!(
            "vulkan: {}, weights {}",
            self.device.title,
            self.weights.arrival.name()
        )
    }

    fn submit(
        &mut self,
        program: usize,
        steps: Range<usize>,
        call: Call<'_>,
    ) -> Result<(), DriverError> {
        // What a call reads lies in one buffer, which must not change under the GPU's hands.
        self.wait()?;
        let manifest = Arc::clone(&self.context.manifest);
        let plan = &manifest.plans[self.context.plan];
        check_call(&manifest.limits, plan, program, &steps, call)
            .map_err(|reason| failed(self.label(program, steps.start), reason))?;
        let compiled = &plan.programs[program];
        self.write_call(call);

        let (seq, outs) = (call.rows.len() as u32, call.outs.len() as u32);
        let candidates = compiled
            .candidates
            .filter(|_| steps.end == compiled.steps.len())
            .map(|buffer| (buffer.offset, u64::from(outs) * u64::from(buffer.cols) * 4))
            .filter(|&(_, bytes)| bytes > 0);
        let key = Key {
            program,
            steps: steps.clone(),
            seq,
            outs,
        };
        let recording = match self.recordings.find(&key) {
            Some(recording) => recording,
            None => {
                let result = candidates.and_then(|(offset, bytes)| {
                    let (buffer, at, _) = self.arena.locate(offset)?;
                    Some(recording::CallResult {
                        buffer,
                        offset: at,
                        bytes,
                    })
                });
                let costs = |step: usize| match &compiled.steps[step].work {
                    gembin_bundle::manifest::Work::Gpu(work) => {
                        Cost::of(&manifest, work, seq, outs)
                    }
                    gembin_bundle::manifest::Work::Cpu(_)
                    | gembin_bundle::manifest::Work::Npu(_) => Cost::NONE,
                };
                let call = recording::Call {
                    dispatches: &self.programs.dispatches[program],
                    costs: &costs,
                    most: self.most,
                    result,
                    readback: self.readback.buffer.raw,
                    timestamps: self.profile.as_ref().map(|profile| profile.queries),
                };
                self.recordings
                    .record(&self.device, &self.queue, key, &call)
                    .map_err(|e| failed(self.label(program, steps.start), errors::explain(e)))?
            }
        };
        let parts = self.recordings.parts(recording);
        self.readback.clear_marks(parts.len());
        for part in parts {
            if let Err(reason) = self.queue.submit(part.commands) {
                let step = part.first_step;
                return Err(failed(self.label(program, step), reason));
            }
        }
        self.under_way = Some(UnderWay {
            program,
            recording,
            candidates,
        });
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DriverError> {
        let Some(under_way) = self.under_way.take() else {
            return self
                .queue
                .wait()
                .map_err(|reason| failed("an earlier call", reason));
        };
        let UnderWay {
            program,
            recording,
            candidates,
        } = under_way;
        let parts = self.recordings.parts(recording);
        let done = self.queue.wait();
        // A step near which it happened: the first of the submit that did not get to its end.
        let unmarked = self.readback.unmarked(parts.len());
        let step = parts[unmarked.unwrap_or(0)].first_step;
        let reason = match (done, unmarked) {
            (Err(reason), _) => reason,
            (Ok(()), Some(_)) => {
                let reason = "the system stopped the GPU's work before it was done, since it took too long; \
                              start again, or run with --device cpu"
                    .to_owned();
                self.queue.give_up(reason.clone());
                reason
            }
            (Ok(()), None) => {
                if let Some((offset, bytes)) = candidates {
                    // SAFETY: the checked program's candidates lie in the arena, whose host part is this driver's
                    // while a method of it runs; the GPU is idle.
                    unsafe {
                        let host = self.context.arena.base().add(offset as usize);
                        self.readback.copy_to(host, bytes);
                    }
                }
                if let Some(profile) = &mut self.profile {
                    let steps = self.recordings.steps(recording);
                    profile
                        .add(program, steps)
                        .map_err(|e| failed("reading timestamps", errors::explain(e)))?;
                }
                return self.heed_validation("the last call");
            }
        };
        Err(failed(self.label(program, step), reason))
    }

    fn fetch(&mut self, offset: u64, bytes: u64) -> Result<(), DriverError> {
        self.cross(offset, bytes, Direction::ToHost)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToHost,
    ToGpu,
}

/// Room for the results of a call.
fn readback_bytes(plan: &Plan) -> u64 {
    plan.programs
        .iter()
        .map(|program| {
            let candidates = program.candidates.map_or(0, |c| c.span(program).bytes);
            candidates.max(program.logits.span(program).bytes.min(LARGEST_READBACK))
        })
        .max()
        .unwrap_or(0)
        .max(1 << 16)
}

/// Records a copy that waits for everything before it, and that everything after it sees.
///
/// # Safety
/// The commands are not under way; the region lies in both buffers, which live until the commands are done.
unsafe fn record_crossing(
    device: &ash::Device,
    commands: vk::CommandBuffer,
    from: vk::Buffer,
    to: vk::Buffer,
    region: vk::BufferCopy,
) -> Result<(), vk::Result> {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let begin =
        vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
    // SAFETY: the caller's promises; commands are recorded between begin and end.
    unsafe {
        device.begin_command_buffer(commands, &begin)?;
        recording::barrier(
            device,
            commands,
            (
                Stage::COMPUTE_SHADER | Stage::TRANSFER,
                Access::SHADER_WRITE | Access::TRANSFER_WRITE,
            ),
            (
                Stage::TRANSFER,
                Access::TRANSFER_READ | Access::TRANSFER_WRITE,
            ),
        );
        device.cmd_copy_buffer(commands, from, to, &[region]);
        recording::barrier(
            device,
            commands,
            (Stage::TRANSFER, Access::TRANSFER_WRITE),
            (
                Stage::HOST | Stage::COMPUTE_SHADER,
                Access::HOST_READ | Access::SHADER_READ | Access::SHADER_WRITE,
            ),
        );
        device.end_command_buffer(commands)
    }
}
