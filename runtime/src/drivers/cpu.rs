//! The processor as a device: loads a plan, then executes runs of its steps on a team of threads.
//!
//! Owns the driver's life: checks at load, what a call must satisfy, profiling. What each step does is in `steps`, the
//! arithmetic in the modules beside it, each written once over sixteen-lane vectors (`simd`) and compiled for every
//! instruction set ([`isa`]). Steps run one after the other on all threads, with one barrier after each; work within a
//! step is split statically over outputs, so that results are the same bits for any number of threads.

mod activations;
mod attention;
pub mod bandwidth;
mod elementwise;
pub mod isa;
mod linear;
mod math;
mod memory;
mod pool;
mod rope;
mod simd;
mod steps;
#[cfg(test)]
mod testing;

pub use isa::Isa;

use super::{Call, Driver, DriverError, LoadContext};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{Arena, Device, Plan};
use memory::{CacheView, Matrix};
use pool::Pool;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use steps::Workspace;

/// Most threads a driver takes.
const MAX_THREADS: usize = 512;

/// The CPU driver.
pub struct CpuDriver {
    pool: Pool,
    loaded: Loaded,
}

/// Everything that is fixed when a plan is loaded.
struct Loaded {
    context: LoadContext,
    isa: Isa,
    weights: Vec<Matrix>,
    caches: Vec<CacheView>,
    workspace: Workspace,
    /// Frequencies of rope table steps, by program and step; empty for other steps.
    frequencies: Vec<Vec<Box<[f32]>>>,
    /// Nanoseconds by program and step, while profiling.
    step_ns: Vec<Vec<AtomicU64>>,
    profiling: bool,
}

// SAFETY: the raw pointers lead into the weights and the arena that `context` keeps alive, and into the workspace; which
// thread uses which part at a time is decided by the steps' static split and the barriers between them.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl CpuDriver {
    /// Loads a plan of a checked manifest.
    ///
    /// # Errors
    /// When the processor lacks `isa`, memory or threads are refused, or a weight or cache does not lie where the
    /// manifest says.
    pub fn load(context: &LoadContext, isa: Isa) -> Result<CpuDriver, DriverError> {
        isa.require()?;
        let unavailable = |reason: String| DriverError::Unavailable {
            device: "cpu",
            reason,
        };
        let threads = match context.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n if n > MAX_THREADS => {
                return Err(unavailable(format!(
                    "{n} threads asked for; at most {MAX_THREADS}"
                )));
            }
            n => n,
        };
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
        let section = context.weights.as_ref().as_ref();
        let weights = manifest
            .weights
            .iter()
            .map(|entry| Matrix::new(entry, section))
            .collect::<Result<Vec<_>, _>>()?;
        let caches = cache_views(&manifest.arena, context.arena.base())?;
        let workspace = Workspace::new(manifest, plan, threads)?;
        let pool =
            Pool::new(threads).map_err(|e| unavailable(format!("cannot start threads: {e}")))?;
        Ok(Self {
            pool,
            loaded: Loaded {
                isa,
                weights,
                caches,
                workspace,
                frequencies: steps::frequencies(plan),
                step_ns: step_counters(plan),
                profiling: false,
                context: LoadContext {
                    manifest: manifest.clone(),
                    plan: context.plan,
                    weights: context.weights.clone(),
                    arena: context.arena.clone(),
                    threads,
                },
            },
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.loaded.isa
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Starts or stops measuring the time of each step; starting forgets what was measured.
    pub fn set_profiling(&mut self, on: bool) {
        if on {
            for ns in self.loaded.step_ns.iter().flatten() {
                ns.store(0, Ordering::Relaxed);
            }
        }
        self.loaded.profiling = on;
    }

    /// Nanoseconds spent in each step of a program while profiling, barriers included.
    pub fn step_ns(&self, program: usize) -> impl Iterator<Item = u64> + '_ {
        self.loaded.step_ns[program]
            .iter()
            .map(|ns| ns.load(Ordering::Relaxed))
    }
}

impl Driver for CpuDriver {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn describe(&self) -> String {
        let threads = self.threads();
        let s = if threads == 1 { "" } else { "s" };
        format!("cpu: {}, {threads} thread{s}", self.isa().title())
    }

    fn submit(
        &mut self,
        program: usize,
        steps: Range<usize>,
        call: Call<'_>,
    ) -> Result<(), DriverError> {
        self.loaded.check_call(program, &steps, call)?;
        let loaded = &self.loaded;
        let current = AtomicUsize::new(steps.start);
        let done = self.pool.run(&|team| {
            for step in steps.clone() {
                if team.thread == 0 {
                    current.store(step, Ordering::Relaxed);
                }
                let start = (loaded.profiling && team.thread == 0).then(Instant::now);
                if loaded.execute(program, step, call, team).is_err() || team.barrier().is_err() {
                    return;
                }
                if let Some(start) = start {
                    let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    loaded.step_ns[program][step].fetch_add(ns, Ordering::Relaxed);
                }
            }
        });
        done.map_err(|pool::Broken| {
            let step = current.load(Ordering::Relaxed);
            loaded.failed(program, step, "a thread panicked; start again")
        })
    }

    fn wait(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
}

impl Loaded {
    fn plan(&self) -> &Plan {
        &self.context.manifest.plans[self.context.plan]
    }

    fn failed(&self, program: usize, step: usize, reason: impl Into<String>) -> DriverError {
        let program = self.plan().programs.get(program);
        DriverError::Failed {
            device: "cpu",
            step: program
                .and_then(|p| p.steps.get(step))
                .map_or_else(|| format!("step {step}"), |s| s.label.clone()),
            reason: reason.into(),
        }
    }

    /// Everything the kernels rely on that the manifest's check could not know.
    fn check_call(
        &self,
        program: usize,
        steps: &Range<usize>,
        call: Call<'_>,
    ) -> Result<(), DriverError> {
        let manifest = &self.context.manifest;
        let plan = self.plan();
        super::check_call(&manifest.limits, plan, program, steps, call)
            .map_err(|reason| self.failed(program, steps.start, reason))?;
        match plan.programs[program].steps[steps.clone()]
            .iter()
            .find(|step| step.work.device() != Device::Cpu)
        {
            Some(step) => Err(self.failed(
                program,
                steps.start,
                format!("step {:?} is not the processor's", step.label),
            )),
            None => Ok(()),
        }
    }
}

/// Views of the caches in the arena.
fn cache_views(arena: &Arena, base: *mut u8) -> Result<Vec<CacheView>, DriverError> {
    let view = |cache: &gembin_bundle::manifest::Cache| {
        let offset = usize::try_from(cache.offset).ok()?;
        let half = usize::try_from(cache.bytes / 2).ok()?;
        let is_f16 = match cache.format {
            Format::F16 => true,
            Format::F32 => false,
            Format::Bf16 | Format::Q8 | Format::Q4 => return None,
        };
        if cache.offset.checked_add(cache.bytes)? > arena.bytes || cache.capacity == 0 {
            return None;
        }
        // SAFETY: the cache lies within the arena.
        let (keys, values) = unsafe { (base.add(offset), base.add(offset + half)) };
        Some(CacheView {
            keys,
            values,
            is_f16,
            kv_heads: cache.kv_heads as usize,
            head_dim: cache.head_dim as usize,
            capacity: cache.capacity as usize,
            window: cache.window.map_or(usize::MAX, |w| w as usize),
        })
    };
    arena
        .caches
        .iter()
        .map(|cache| {
            view(cache).ok_or_else(|| DriverError::Unavailable {
                device: "cpu",
                reason: format!(
                    "cache `{}` ({}) does not lie in the arena as f32 or f16; compile the bundle again",
                    cache.name,
                    cache.format.name()
                ),
            })
        })
        .collect()
}

fn step_counters(plan: &Plan) -> Vec<Vec<AtomicU64>> {
    plan.programs
        .iter()
        .map(|p| p.steps.iter().map(|_| AtomicU64::new(0)).collect())
        .collect()
}

#[cfg(test)]
mod tests;
