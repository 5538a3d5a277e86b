//! AMD's NPUs as devices, through the control calls of the kernel's driver amdxdna: loads a plan, then runs its
//! instruction streams.
//!
//! Owns the driver's life: what is made at load and in which order it goes, what a call must satisfy, how results reach
//! the processor, and that a failure ends the contexts and is told. Nothing here knows what a design computes. The parts:
//!
//! * `system`, `linux`: the operating system as a boundary, and the real one; `fake`: one for tests, with an NPU in it;
//! * `uapi`: structures and numbers of the kernel interface; `file`: each call as a safe function;
//! * `device`, `power`: which NPU, what it is; `memory`: buffers; `context`, `command`: work under way;
//! * `programs`: steps with their addresses; `options`: how it is to run; `errors`: what went wrong, in words.
//!
//! The arena *is* memory of the NPU: its pages are mapped over the host's, so that values are in one place whoever made
//! them. The weights' pages are imported as they lie in the mapped file, where kernel and limits allow it, else copied.
//!
//! There is a crate for the same calls, taconite 0.1.1. It was read and not taken. Its functions make the system calls
//! themselves, which leaves no place for a fake, and a driver that has never met its hardware lives by one; it takes a
//! configuration only from the container format of the vendor's runtime, which by default it also links; it does not import
//! the process's memory, does not look at limits, and its errors are plain texts that name no remedy. What it tells of real
//! hardware was of use: that a wait takes an absolute deadline, and that the heap must be aligned to its size.

mod command;
mod context;
mod device;
mod errors;
#[cfg(any(test, feature = "fake-npu"))]
pub mod fake;
mod file;
mod linux;
mod memory;
mod options;
mod power;
mod programs;
pub mod system;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod uapi;

pub use command::State as CommandState;
pub use device::Facts;
pub use options::XdnaOptions;
pub use power::PowerMode;

use super::{Call, Driver, DriverError, LoadContext, check_call};
use context::{Context, Failure};
use device::Device;
use errors::{explain, failed, unavailable};
use file::Sync;
use gembin_bundle::gpu::{CALL_HEADER_WORDS, CALL_ROW_WORDS};
use gembin_bundle::manifest::{self, Plan, RowSet};
use gembin_bundle::npu::{self, Code};
use memory::{Buffer, Heap};
use programs::{Bound, Prepared, Streams, call_bytes};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use system::System;

/// This machine's NPU.
fn linux() -> Arc<dyn System> {
    Arc::new(linux::Linux)
}

/// What the NPU of this machine is, for people.
///
/// # Errors
/// Why none can be used.
pub fn probe() -> Result<String, String> {
    probe_on(&linux())
}

/// What the NPU of `system` is, for people.
///
/// # Errors
/// Why none can be used.
pub fn probe_on(system: &Arc<dyn System>) -> Result<String, String> {
    let device = Device::open(system)?;
    memory::check_lockable(system.as_ref())?;
    Ok(device.facts.to_string())
}

/// How the weights came to the NPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrival {
    Imported,
    Copied,
}

/// A plan loaded onto an NPU.
///
/// Fields are dropped in order: first the contexts, which ends whatever is under way.
pub struct XdnaDriver {
    contexts: Vec<Context>,
    programs: Vec<Vec<Prepared>>,
    _streams: Streams,
    call: Buffer,
    arena: Buffer,
    weights: Option<(Buffer, Arrival)>,
    _heap: Heap,
    facts: Facts,
    options: XdnaOptions,
    /// The call under way, as far as it is of interest afterwards: where its candidates are, and how many bytes.
    candidates: Option<(u64, u64)>,
    /// The program that the last commands are of.
    program: usize,
    /// The context that the last command went to.
    last: Option<usize>,
    /// Why the contexts were ended.
    lost: Option<String>,
    /// Words of a call, so that a call allocates nothing.
    words: Vec<u32>,
    /// Keeps manifest, mapped weights and arena, which the buffers are part of.
    context: LoadContext,
}

impl XdnaDriver {
    /// Loads a plan of a checked manifest onto this machine's NPU.
    ///
    /// # Errors
    /// When there is none, or it lacks what the plan needs.
    pub fn load(context: &LoadContext, options: &XdnaOptions) -> Result<Self, DriverError> {
        Self::load_on(&linux(), context, options)
    }

    /// Loads a plan of a checked manifest onto the NPU of `system`.
    ///
    /// # Errors
    /// When there is none, or it lacks what the plan needs.
    pub fn load_on(
        system: &Arc<dyn System>,
        context: &LoadContext,
        options: &XdnaOptions,
    ) -> Result<Self, DriverError> {
        let manifest = &context.manifest;
        let plan = manifest.plans.get(context.plan).ok_or_else(|| {
            unavailable(format!("the bundle has no plan number {}", context.plan))
        })?;
        if let Some(first) = npu::not_built(manifest, plan).first() {
            return Err(unavailable(format!(
                "npu: not built (design {first:?} and others have no code); compile the bundle where the vendor's \
                 compiler aiecc is installed"
            )));
        }
        if manifest.arena.bytes > context.arena.bytes() as u64 {
            return Err(unavailable(format!(
                "the plan needs an arena of {} bytes, not {}",
                manifest.arena.bytes,
                context.arena.bytes()
            )));
        }
        let mut device = Device::open(system).map_err(unavailable)?;
        if let Some(mode) = options.power_mode {
            device.set_power(mode).map_err(unavailable)?;
        }
        let Device { file, facts } = device;

        let designs = npu::designs_of(manifest, plan);
        for &design in &designs {
            let design = &manifest.npu.designs[design as usize];
            if design.generation != facts.generation || design.columns > facts.columns {
                return Err(unavailable(format!(
                    "design {:?} is for {} columns of {}, this is {} with {}",
                    design.name,
                    design.columns,
                    design.generation.title(),
                    facts.generation.title(),
                    facts.columns
                )));
            }
        }
        let heap = Heap::new(&file)?;
        let weights = load_weights(&file, context, options)?;
        let base = NonNull::new(context.arena.base())
            .ok_or_else(|| unavailable("the arena has no place"))?;
        // SAFETY: the arena is whole pages from the start of one, mapped for its length; at load nothing has been
        // written to it and nothing refers to it, and it outlives the driver, which holds it.
        let arena =
            unsafe { Buffer::over(&file, base, context.arena.bytes() as u64, "the arena")? };
        let call_rows = plan.programs.iter().map(|p| p.max_rows).max().unwrap_or(0);
        let call = Buffer::shared(&file, call_bytes(call_rows), "calls")?;
        let streams = Streams::new(&heap, manifest, plan)?;
        let bound = Bound {
            arena: &arena,
            weights: weights.as_ref().map(|(buffer, _)| buffer),
            call: &call,
        };
        let programs = programs::prepare(manifest, plan, &designs, &streams, &bound)?;
        let contexts = designs
            .iter()
            .filter_map(|&design| {
                let design = &manifest.npu.designs[design as usize];
                match &design.code {
                    Code::Pdi(pdi) => Some((design, pdi)),
                    Code::NotBuilt { .. } => None,
                }
            })
            .map(|(design, pdi)| {
                let shape = (design.columns, facts.rows);
                Context::new(&file, &heap, shape, pdi, &design.name)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            contexts,
            programs,
            _streams: streams,
            call,
            arena,
            weights,
            _heap: heap,
            facts,
            options: options.clone(),
            candidates: None,
            program: 0,
            last: None,
            lost: None,
            words: vec![0; (call_bytes(call_rows) / 4) as usize],
            context: LoadContext {
                manifest: Arc::clone(manifest),
                plan: context.plan,
                weights: Arc::clone(&context.weights),
                arena: Arc::clone(&context.arena),
                threads: context.threads,
            },
        })
    }

    /// Makes `bytes` bytes that the processor wrote to the arena visible to the NPU: for tests of single steps.
    ///
    /// # Errors
    /// When the NPU failed, or the bytes are outside of the arena.
    pub fn store(&mut self, offset: u64, bytes: u64) -> Result<(), DriverError> {
        self.cross(offset, bytes, Sync::ToDevice, "storing values")
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

    /// Ends every context: nothing may run on after a failure, on memory that somebody else may get.
    fn give_up(&mut self, failure: Failure) -> DriverError {
        self.contexts.clear();
        self.last = None;
        self.candidates = None;
        let label = self.label(self.program, failure.step);
        self.lost = Some(format!("{label}: {}", failure.reason));
        failed(label, failure.reason)
    }

    fn check_alive(&self) -> Result<(), DriverError> {
        match &self.lost {
            None => Ok(()),
            Some(reason) => Err(failed("an earlier call", reason)),
        }
    }

    fn wait_for(&mut self, context: usize) -> Result<(), DriverError> {
        let timeout = self.options.timeout;
        match self.contexts[context].wait(timeout) {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    /// Writes what streams read of a call.
    fn write_call(&mut self, call: Call<'_>) -> Result<(), DriverError> {
        self.words.fill(0);
        self.words[0] = call.rows.len() as u32;
        self.words[1] = call.outs.len() as u32;
        let rows = self.words[CALL_HEADER_WORDS as usize..]
            .chunks_exact_mut(CALL_ROW_WORDS as usize)
            .zip(call.rows);
        for (index, (words, row)) in rows.enumerate() {
            let out = call.outs.get(index).copied().unwrap_or(0);
            words.copy_from_slice(&[row.token, row.pos, row.slot, out]);
        }
        self.call.write_words(0, &self.words);
        let bytes = size_of_val(self.words.as_slice()) as u64;
        self.call
            .sync(Sync::ToDevice, 0, bytes)
            .map_err(|error| failed("handing the call over", explain(&error)))
    }

    /// Starts one step.
    fn start(&mut self, program: usize, step: usize, call: Call<'_>) -> Result<(), DriverError> {
        let prepared = &self.programs[program][step];
        let rows = match prepared.rows {
            RowSet::Seq => call.rows.len(),
            RowSet::Out => call.outs.len(),
        } as u32;
        if rows == 0 {
            return Ok(());
        }
        // Rows were checked to be at most the program's, for which the last stream is.
        let Some(run) = prepared.runs.iter().position(|run| run.rows >= rows) else {
            let reason = format!("there is no stream for {rows} rows");
            return Err(failed(self.label(program, step), reason));
        };
        let context = prepared.runs[run].context;
        // Contexts know nothing of each other, but a step needs what the one before it made.
        if let Some(last) = self.last.filter(|&last| last != context) {
            self.wait_for(last)?;
        }
        let prepared = &self.programs[program][step];
        let run = &prepared.runs[run];
        let packet = command::packet(run.stream, run.words, &prepared.buffers);
        let timeout = self.options.timeout;
        match self.contexts[context].submit(&packet, &prepared.uses, step, timeout) {
            Ok(()) => {
                self.last = Some(context);
                Ok(())
            }
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    /// Synchronizes a part of the arena.
    fn cross(
        &mut self,
        offset: u64,
        bytes: u64,
        direction: Sync,
        doing: &str,
    ) -> Result<(), DriverError> {
        self.wait()?;
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.context.manifest.arena.bytes) {
            return Err(failed(
                doing,
                format!("bytes {offset}+{bytes} are outside of the arena"),
            ));
        }
        if bytes == 0 {
            return Ok(());
        }
        self.arena
            .sync(direction, offset, bytes)
            .map_err(|error| failed(doing, explain(&error)))
    }
}

/// Makes the weights the NPU's: as they lie in the mapped file, or as a copy.
fn load_weights(
    file: &Arc<file::File>,
    context: &LoadContext,
    options: &XdnaOptions,
) -> Result<Option<(Buffer, Arrival)>, DriverError> {
    let section = (*context.weights).as_ref();
    if section.is_empty() {
        return Ok(None);
    }
    if !options.no_import {
        // SAFETY: the driver keeps the mapped section for as long as the buffer lives; a checked step only reads
        // weights.
        if let Ok(imported) = unsafe { Buffer::imported(file, section) } {
            return Ok(Some((imported, Arrival::Imported)));
        }
    }
    let mut copy = Buffer::shared(file, section.len() as u64, "a copy of the weights")?;
    copy.write(0, section);
    copy.sync(Sync::ToDevice, 0, section.len() as u64)
        .map_err(|error| errors::refused("hand the weights over", &error))?;
    Ok(Some((copy, Arrival::Copied)))
}

impl Driver for XdnaDriver {
    fn device(&self) -> manifest::Device {
        manifest::Device::Xdna
    }

    fn describe(&self) -> String {
        let weights = match &self.weights {
            None => "no weights",
            Some((_, Arrival::Imported)) => "weights imported",
            Some((_, Arrival::Copied)) => "weights copied",
        };
        format!("npu: {}, {weights}", self.facts)
    }

    fn submit(
        &mut self,
        program: usize,
        steps: Range<usize>,
        call: Call<'_>,
    ) -> Result<(), DriverError> {
        // What a call reads lies in one buffer, which must not change under the NPU's hands.
        self.wait()?;
        let manifest = Arc::clone(&self.context.manifest);
        let plan = &manifest.plans[self.context.plan];
        check_call(&manifest.limits, plan, program, &steps, call)
            .map_err(|reason| failed(self.label(program, steps.start), reason))?;
        let compiled = &plan.programs[program];
        self.write_call(call)?;
        self.program = program;
        let last = steps.end == compiled.steps.len();
        for step in steps {
            self.start(program, step, call)?;
        }
        self.candidates = compiled
            .candidates
            .filter(|_| last)
            .map(|buffer| {
                let bytes = call.outs.len() as u64 * u64::from(buffer.cols) * 4;
                (buffer.offset, bytes)
            })
            .filter(|&(_, bytes)| bytes > 0);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DriverError> {
        self.check_alive()?;
        if let Some(last) = self.last.take() {
            self.wait_for(last)?;
        }
        match self.candidates.take() {
            None => Ok(()),
            Some((offset, bytes)) => self
                .arena
                .sync(Sync::FromDevice, offset, bytes)
                .map_err(|error| failed("fetching results", explain(&error))),
        }
    }

    fn fetch(&mut self, offset: u64, bytes: u64) -> Result<(), DriverError> {
        self.cross(offset, bytes, Sync::FromDevice, "fetching results")
    }
}
