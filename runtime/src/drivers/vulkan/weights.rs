//! The weights on the GPU: exactly the planes that the plan's dispatches bind, imported, copied or uploaded.
//!
//! Where processor and GPU share memory, the mapped file's pages become buffers as they are, if the driver takes pages
//! of files; else they are copied once into memory that both see. Where the GPU has its own memory, they go through two
//! staging buffers in turns: one is filled while the GPU copies the other away.

use super::device::LogicalDevice;
use super::errors::{explain, failed, refused, unavailable};
use super::memory::{Buffer, Home};
use super::queue::Queue;
use super::segments::{LARGEST_BUFFER, Layout, joined};
use crate::drivers::DriverError;
use ash::vk;
use gembin_bundle::gpu::Resource;
use gembin_bundle::manifest::{Manifest, Plan, Span, Work};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of one of the two staging buffers.
const STAGING_BYTES: u64 = 32 << 20;
/// Bytes that a thread copies at a time.
const COPY_BYTES: usize = 1 << 20;
/// Threads that copy: enough to keep memory busy while they wait for pages of the file.
const COPY_THREADS: usize = 8;

/// Told how much has been loaded: bytes done, bytes in all.
pub type Progress = fn(u64, u64);

/// How the weights came to the GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// The mapped file's own pages.
    Imported,
    /// A copy in shared memory.
    Copied,
    /// A copy in the GPU's memory.
    Uploaded,
}

impl Arrival {
    /// The word shown to users.
    pub(super) fn name(self) -> &'static str {
        match self {
            Arrival::Imported => "imported",
            Arrival::Copied => "copied",
            Arrival::Uploaded => "uploaded",
        }
    }
}

/// Weights that the GPU can read.
pub(super) struct Weights {
    layout: Layout,
    buffers: Vec<Buffer>,
    pub(super) arrival: Arrival,
}

impl Weights {
    /// Brings what `plan` binds of `section`, the bundle's weights, to the GPU. The section must outlive the result.
    ///
    /// # Errors
    /// When the GPU refuses the memory, or a plane does not lie in the section.
    pub(super) fn load(
        device: &Arc<LogicalDevice>,
        queue: &mut Queue,
        manifest: &Manifest,
        plan: &Plan,
        section: &[u8],
        options: &LoadOptions,
    ) -> Result<Self, DriverError> {
        let units = joined(bound(manifest, plan));
        if let Some(last) = units.last()
            && last.offset + last.bytes > section.len() as u64
        {
            return Err(unavailable(
                "weights lie outside the bundle's section; compile the bundle again",
            ));
        }
        let most = device.abilities.limits.buffer_bytes.min(LARGEST_BUFFER);
        if device.abilities.unified_memory
            && options.import
            && let Some(imported) = Self::import(device, &units, section, most)
        {
            return Ok(imported);
        }
        let layout = Layout::packed(units, most).map_err(|unit| {
            unavailable(format!(
                "{} binds {} bytes of weights in one piece, and {} takes {most}",
                name_of(manifest, unit),
                unit.bytes,
                device.title
            ))
        })?;
        if device.abilities.unified_memory && !options.stage {
            Self::copy(device, layout, section, options.progress)
        } else {
            Self::upload(device, queue, layout, section, options.progress)
        }
    }

    fn import(
        device: &Arc<LogicalDevice>,
        units: &[Span],
        section: &[u8],
        most: u64,
    ) -> Option<Self> {
        let align = device.abilities.import_align?;
        if !(section.as_ptr() as usize as u64).is_multiple_of(align) {
            return None;
        }
        let layout = Layout::in_place(units.to_vec(), most, align).ok()?;
        let buffers = layout
            .buffers
            .iter()
            .map(|planned| {
                let start = usize::try_from(planned.base).ok()?;
                let end = usize::try_from(planned.base + planned.bytes).ok()?;
                let pages = section.get(start..end)?;
                // SAFETY: start and end are multiples of the alignment; the mapping outlives the driver, whose owner
                // keeps it, and is read only.
                unsafe { Buffer::import(device, pages) }
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            layout,
            buffers,
            arrival: Arrival::Imported,
        })
    }

    fn copy(
        device: &Arc<LogicalDevice>,
        layout: Layout,
        section: &[u8],
        progress: Option<Progress>,
    ) -> Result<Self, DriverError> {
        let total = layout.units.iter().map(|unit| unit.bytes).sum();
        let mut buffers = Vec::with_capacity(layout.buffers.len());
        let done = AtomicU64::new(0);
        for (index, planned) in layout.buffers.iter().enumerate() {
            let buffer = Buffer::new(device, planned.bytes, Home::Written, "weights")?;
            let pieces = pieces(&layout, index, 0, planned.bytes, section);
            // SAFETY: the pieces lie inside the buffer, as the layout planned it, and the GPU does not use it yet.
            unsafe {
                copy_pieces(
                    buffer.mapped(),
                    &pieces,
                    &done,
                    progress.map(|p| (p, total)),
                )
            };
            buffers.push(buffer);
        }
        Ok(Self {
            layout,
            buffers,
            arrival: Arrival::Copied,
        })
    }

    fn upload(
        device: &Arc<LogicalDevice>,
        queue: &mut Queue,
        layout: Layout,
        section: &[u8],
        progress: Option<Progress>,
    ) -> Result<Self, DriverError> {
        let mut buffers = Vec::with_capacity(layout.buffers.len());
        for planned in &layout.buffers {
            buffers.push(Buffer::new(device, planned.bytes, Home::Device, "weights")?);
        }
        let total: u64 = layout.units.iter().map(|unit| unit.bytes).sum();
        let staging_bytes = STAGING_BYTES.min(total.next_multiple_of(256).max(256));
        let mut ring = Vec::with_capacity(2);
        for _ in 0..2 {
            ring.push(Stage {
                buffer: Buffer::new(device, staging_bytes, Home::Staging, "staging weights")?,
                commands: queue
                    .command_buffer()
                    .map_err(|e| refused("upload the weights", e))?,
                submit: 0,
            });
        }
        let uploaded = upload_all(
            device,
            queue,
            &layout,
            &buffers,
            &mut ring,
            section,
            progress.map(|tell| (tell, total)),
        );
        // Also after a failure: the GPU may still copy out of what is about to go.
        let done = queue.wait();
        uploaded
            .and(done)
            .map_err(|reason| failed("uploading the weights", reason))?;
        Ok(Self {
            layout,
            buffers,
            arrival: Arrival::Uploaded,
        })
    }

    /// Buffer and first byte there of `bytes` bytes of the section from `offset` on.
    pub(super) fn locate(&self, offset: u64, bytes: u64) -> Option<(vk::Buffer, u64)> {
        let (buffer, at, left) = self.layout.locate(offset)?;
        (left >= bytes).then(|| (self.buffers[buffer].raw, at))
    }
}

/// One of the two staging buffers.
struct Stage {
    buffer: Buffer,
    commands: vk::CommandBuffer,
    /// The submit that copies it away.
    submit: u64,
}

/// Fills and submits staging buffers in turns until all is on its way.
fn upload_all(
    device: &LogicalDevice,
    queue: &mut Queue,
    layout: &Layout,
    buffers: &[Buffer],
    ring: &mut [Stage],
    section: &[u8],
    progress: Option<(Progress, u64)>,
) -> Result<(), String> {
    let done = AtomicU64::new(0);
    let mut turn = 0;
    for (index, (planned, target)) in layout.buffers.iter().zip(buffers).enumerate() {
        let mut start = 0;
        while start < planned.bytes {
            let stage = &mut ring[turn];
            turn = 1 - turn;
            let bytes = stage.buffer.bytes.min(planned.bytes - start);
            queue.wait_for(stage.submit)?;
            let pieces = pieces(layout, index, start, bytes, section);
            // SAFETY: the pieces lie inside the staging buffer, whose earlier copy is done.
            unsafe { copy_pieces(stage.buffer.mapped(), &pieces, &done, progress) };
            let region = vk::BufferCopy {
                src_offset: 0,
                dst_offset: start,
                size: bytes,
            };
            // SAFETY: the caller keeps both buffers until it has waited for the queue; the region lies in both.
            unsafe { record_copy(device, stage.commands, stage.buffer.raw, target.raw, region) }
                .map_err(explain)?;
            stage.submit = queue.submit(stage.commands)?;
            start += bytes;
        }
    }
    Ok(())
}

/// How weights may come to the GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadOptions {
    /// Import the file's pages where possible.
    pub(super) import: bool,
    /// Upload even where memory is shared.
    pub(super) stage: bool,
    /// Told how far it is.
    pub(super) progress: Option<Progress>,
}

/// Places in the weights section that the plan's dispatches bind.
fn bound(manifest: &Manifest, plan: &Plan) -> Vec<Span> {
    let mut spans = Vec::new();
    for step in plan.programs.iter().flat_map(|program| &program.steps) {
        let Work::Gpu(step) = &step.work else {
            continue;
        };
        for resource in &step.bindings {
            spans.extend(section_span(manifest, resource));
        }
    }
    spans
}

/// Where a binding lies in the weights section, if it is of a weight.
pub(super) fn section_span(manifest: &Manifest, resource: &Resource) -> Option<Span> {
    let (plane, piece) = match *resource {
        Resource::Data { weight, piece, .. } => (manifest.weights[weight as usize].data, piece),
        Resource::Scales { weight, piece, .. } => (manifest.weights[weight as usize].scales, piece),
        Resource::Value(_) | Resource::Keys(_) | Resource::Values(_) | Resource::Call => {
            return None;
        }
    };
    Some(Span {
        offset: plane.offset + piece.offset,
        bytes: piece.bytes,
    })
}

/// The weight that a place of the section belongs to, for errors.
fn name_of(manifest: &Manifest, place: Span) -> String {
    let holds = |plane: Span| (plane.offset..plane.offset + plane.bytes).contains(&place.offset);
    manifest
        .weights
        .iter()
        .find(|weight| holds(weight.data) || holds(weight.scales))
        .map_or_else(|| "a kernel".to_owned(), |w| format!("weight `{}`", w.name))
}

/// What fills bytes `start..start + bytes` of a planned buffer: places relative to `start`, and bytes of the section.
fn pieces<'a>(
    layout: &Layout,
    buffer: usize,
    start: u64,
    bytes: u64,
    section: &'a [u8],
) -> Vec<(usize, &'a [u8])> {
    let mut pieces = Vec::new();
    for (unit, &(of, at)) in layout.units.iter().zip(&layout.places) {
        let (from, to) = (at.max(start), (at + unit.bytes).min(start + bytes));
        if of != buffer || from >= to {
            continue;
        }
        let source = (unit.offset + (from - at)) as usize..(unit.offset + (to - at)) as usize;
        let mut place = (from - start) as usize;
        for piece in section[source].chunks(COPY_BYTES) {
            pieces.push((place, piece));
            place += piece.len();
        }
    }
    pieces
}

/// Copies pieces to their places behind `target`, on several threads.
///
/// # Safety
/// All places lie in memory that is valid for writing and that nobody else uses.
unsafe fn copy_pieces(
    target: *mut u8,
    pieces: &[(usize, &[u8])],
    done: &AtomicU64,
    progress: Option<(Progress, u64)>,
) {
    /// A pointer that threads may share: each writes places of its own.
    struct Target(*mut u8);
    // SAFETY: the pieces' places do not overlap, and each is written by the one thread that took it.
    unsafe impl Sync for Target {}

    let target = &Target(target);
    let next = &AtomicUsize::new(0);
    let work = move || {
        while let Some(&(place, bytes)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            // SAFETY: the caller vouches for the places; source and target are different mappings.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.0.add(place), bytes.len());
            }
            let so_far = done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if let Some((tell, total)) = progress {
                tell(so_far + bytes.len() as u64, total);
            }
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(COPY_THREADS)
        .min(pieces.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// Records one copy, after which kernels may read the target.
///
/// # Safety
/// The buffers stay alive until the commands are done, the region lies in both, and the commands are not under way.
unsafe fn record_copy(
    device: &LogicalDevice,
    commands: vk::CommandBuffer,
    from: vk::Buffer,
    to: vk::Buffer,
    region: vk::BufferCopy,
) -> Result<(), vk::Result> {
    let raw = &device.raw;
    let begin =
        vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
    let barrier = vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
        .dst_access_mask(vk::AccessFlags::SHADER_READ);
    // SAFETY: the caller's promises, and the commands are recorded between begin and end.
    unsafe {
        raw.begin_command_buffer(commands, &begin)?;
        raw.cmd_copy_buffer(commands, from, to, &[region]);
        raw.cmd_pipeline_barrier(
            commands,
            vk::PipelineStageFlags::TRANSFER,
            vk::PipelineStageFlags::COMPUTE_SHADER,
            vk::DependencyFlags::empty(),
            &[barrier],
            &[],
            &[],
        );
        raw.end_command_buffer(commands)
    }
}
