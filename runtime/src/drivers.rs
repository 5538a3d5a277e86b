//! Devices that execute steps. One trait, one module a device.
//!
//! Everything expensive happens when a driver is loaded. A call is a run of consecutive steps of one program.
//!
//! [`DEVICES`], [`list`], [`probe`] and [`load`] are the registry: what there is in this program, whether this machine
//! has it, and how it is started.

pub mod cpu;
pub mod vulkan;
pub mod xdna;

use gembin_bundle::manifest::{Device, Limits, Manifest, Plan};
use std::ops::Range;
use std::sync::Arc;

/// Every device this program has a driver for, in the order `gemrun devices` lists them.
pub const DEVICES: &[Device] = &[Device::Cpu, Device::Vulkan, Device::Xdna];

/// How drivers are to run; the defaults are for using them.
#[derive(Clone, Default, Debug)]
pub struct Settings {
    /// Instruction set of the processor's kernels; `None`: the best there is.
    pub isa: Option<cpu::Isa>,
    /// Which GPU.
    pub gpu: vulkan::Pick,
    /// How to run on it.
    pub vulkan: vulkan::VulkanOptions,
    /// How to run on an NPU.
    pub xdna: xdna::XdnaOptions,
}

/// One device of this machine, as `gemrun devices` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// What `--device` takes: `cpu`, `vulkan:0`, `npu`.
    pub name: String,
    /// Its abilities, or why it cannot be used.
    pub about: Result<String, String>,
    /// Sets of kernels that it can run, slowest first; `--isa` forces one.
    pub kernels: Vec<&'static str>,
}

/// What of `device` there is on this machine; one entry with the reason if there is nothing.
pub fn list(device: Device, settings: &Settings) -> Vec<Listed> {
    match device {
        Device::Cpu => vec![Listed {
            name: device.name().to_owned(),
            about: probe(device, settings),
            kernels: cpu::Isa::ALL
                .into_iter()
                .filter(|isa| isa.is_available())
                .map(cpu::Isa::name)
                .collect(),
        }],
        Device::Vulkan => match vulkan::gpus(&settings.vulkan) {
            Ok(gpus) => gpus
                .iter()
                .map(|gpu| Listed {
                    name: format!("{}:{}", device.name(), gpu.index),
                    about: gpu.about(),
                    kernels: Vec::new(),
                })
                .collect(),
            Err(reason) => vec![Listed {
                name: device.name().to_owned(),
                about: Err(reason),
                kernels: Vec::new(),
            }],
        },
        Device::Xdna => vec![Listed {
            name: device.name().to_owned(),
            about: probe(device, settings),
            kernels: Vec::new(),
        }],
    }
}

/// What `device`, as the settings want it, can do on this machine, for people.
///
/// # Errors
/// Why it cannot be used here, and what to do.
pub fn probe(device: Device, settings: &Settings) -> Result<String, String> {
    match device {
        Device::Cpu => {
            let isa = settings.isa.unwrap_or_else(cpu::Isa::detect);
            if !isa.is_available() {
                return Err(format!("this processor has no {}", isa.title()));
            }
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let s = if threads == 1 { "" } else { "s" };
            Ok(format!("{}, {threads} thread{s}", isa.title()))
        }
        Device::Vulkan => vulkan::probe(&settings.gpu, &settings.vulkan),
        Device::Xdna => xdna::probe(),
    }
}

/// Loads a plan's steps of `device`.
///
/// # Errors
/// When the device cannot be used.
pub fn load(
    device: Device,
    context: &LoadContext,
    settings: &Settings,
) -> Result<Box<dyn Driver>, DriverError> {
    match device {
        Device::Cpu => {
            let isa = settings.isa.unwrap_or_else(cpu::Isa::detect);
            Ok(Box::new(cpu::CpuDriver::load(context, isa)?))
        }
        Device::Vulkan => Ok(Box::new(vulkan::VulkanDriver::load(
            context,
            &settings.gpu,
            &settings.vulkan,
        )?)),
        Device::Xdna => Ok(Box::new(xdna::XdnaDriver::load(context, &settings.xdna)?)),
    }
}

/// Lets no device take more work and waits until what it has is done, for a bounded time. For a process that is about to
/// end without unwinding; what is called after it may wait for ever.
pub fn drain() {
    vulkan::drain();
}

/// What varies from call to call; everything else was fixed when the program was compiled.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// One entry a row.
    pub rows: &'a [Row],
    /// Rows whose logits are wanted, as indices into `rows`, ascending. In the decode phase: all of them.
    pub outs: &'a [u32],
}

/// A token of some sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Token id, below the model's vocabulary.
    pub token: u32,
    /// Position in its sequence, below the planned context.
    pub pos: u32,
    /// Sequence slot, below the planned slots.
    pub slot: u32,
}

/// A loaded device. All pointers and ranges were checked before `load`.
pub trait Driver: Send {
    /// The device.
    fn device(&self) -> Device;

    /// What is used, for people: `cpu: AVX-512 VNNI, 2 threads`.
    fn describe(&self) -> String;

    /// Starts steps `steps` of program `program` of the loaded plan. Returns when the device has accepted the work.
    ///
    /// # Errors
    /// When the device failed.
    fn submit(
        &mut self,
        program: usize,
        steps: Range<usize>,
        call: Call<'_>,
    ) -> Result<(), DriverError>;

    /// Returns when all submitted work is done, and the candidates of the last call are visible in the arena.
    ///
    /// # Errors
    /// When the device failed.
    fn wait(&mut self) -> Result<(), DriverError>;

    /// Makes `bytes` bytes from `offset` on, as the last call left them on the device, visible in the arena. Devices
    /// that work in the arena itself have nothing to do.
    ///
    /// # Errors
    /// When the device failed.
    fn fetch(&mut self, offset: u64, bytes: u64) -> Result<(), DriverError> {
        let _ = (offset, bytes);
        Ok(())
    }
}

/// Everything that drivers rely on in a call and that the manifest's check could not know.
///
/// # Errors
/// What is wrong with the call.
fn check_call(
    limits: &Limits,
    plan: &Plan,
    program: usize,
    steps: &Range<usize>,
    call: Call<'_>,
) -> Result<(), String> {
    let Some(compiled) = plan.programs.get(program) else {
        return Err(format!("there is no program {program}"));
    };
    if steps.start > steps.end || steps.end > compiled.steps.len() {
        return Err(format!(
            "steps {steps:?} of {} asked for",
            compiled.steps.len()
        ));
    }
    if call.rows.len() > compiled.max_rows as usize || call.outs.len() > compiled.max_outs as usize
    {
        return Err(format!(
            "{} rows and {} outputs exceed the program's {} and {}",
            call.rows.len(),
            call.outs.len(),
            compiled.max_rows,
            compiled.max_outs
        ));
    }
    for (i, row) in call.rows.iter().enumerate() {
        if row.token >= limits.vocab || row.pos >= limits.context || row.slot >= limits.slots {
            return Err(format!(
                "row {i} (token {}, position {}, slot {}) exceeds the limits ({}, {}, {})",
                row.token, row.pos, row.slot, limits.vocab, limits.context, limits.slots
            ));
        }
    }
    match call.outs.iter().find(|&&o| o as usize >= call.rows.len()) {
        Some(out) => Err(format!("output row {out} of {} rows", call.rows.len())),
        None => Ok(()),
    }
}

/// What a driver is loaded with.
pub struct LoadContext {
    /// The checked manifest.
    pub manifest: Arc<Manifest>,
    /// Which of its plans.
    pub plan: usize,
    /// The mapped bundle's weights section; outlives the driver.
    pub weights: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// The shared arena.
    pub arena: Arc<crate::arena::Arena>,
    /// Threads the user asked for; 0: as many as there are cores.
    pub threads: usize,
}

/// Why a device could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Not on this machine, or lacks something.
    #[error("{device}: {reason}")]
    Unavailable {
        /// The device.
        device: &'static str,
        /// What is missing and what to do.
        reason: String,
    },
    /// Failed while running.
    #[error("{device} failed in {step}: {reason}")]
    Failed {
        /// The device.
        device: &'static str,
        /// The step's label.
        step: String,
        /// What happened.
        reason: String,
    },
}
