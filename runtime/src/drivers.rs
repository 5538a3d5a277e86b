//! Devices that execute steps. One trait, one module a device.
//!
//! Everything expensive happens when a driver is loaded. A call is a run of consecutive steps of one program.
//!
//! [`DEVICES`], [`probe`] and [`load`] are the registry: what there is in this program, whether this machine has it,
//! and how it is started.

pub mod cpu;

use gembin_bundle::manifest::{Device, Manifest};
use std::ops::Range;
use std::sync::Arc;

/// Every device this program has a driver for, in the order `gemrun devices` lists them.
pub const DEVICES: &[Device] = &[Device::Cpu];

/// What `device` can do on this machine, for people. `isa` forces the instruction set of the processor's kernels.
///
/// # Errors
/// Why it cannot be used here, and what to do.
pub fn probe(device: Device, isa: Option<cpu::Isa>) -> Result<String, String> {
    match device {
        Device::Cpu => {
            let isa = isa.unwrap_or_else(cpu::Isa::detect);
            if !isa.is_available() {
                return Err(format!("this processor has no {}", isa.title()));
            }
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let s = if threads == 1 { "" } else { "s" };
            Ok(format!("{}, {threads} thread{s}", isa.title()))
        }
    }
}

/// The sets of kernels that `device` can run on this machine, slowest first.
pub fn kernel_sets(device: Device) -> Vec<&'static str> {
    match device {
        Device::Cpu => cpu::Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .map(cpu::Isa::name)
            .collect(),
    }
}

/// Loads a plan's steps of `device`.
///
/// # Errors
/// When the device cannot be used.
pub fn load(
    device: Device,
    context: &LoadContext,
    isa: Option<cpu::Isa>,
) -> Result<Box<dyn Driver>, DriverError> {
    match device {
        Device::Cpu => {
            let isa = isa.unwrap_or_else(cpu::Isa::detect);
            Ok(Box::new(cpu::CpuDriver::load(context, isa)?))
        }
    }
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

    /// Returns when all submitted work is done and visible in the arena.
    ///
    /// # Errors
    /// When the device failed.
    fn wait(&mut self) -> Result<(), DriverError>;
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
