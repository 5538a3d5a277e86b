//! Which NPU, and what it is: from the nodes of a machine to an opened device whose facts are known.

use super::errors::explain;
use super::file::File;
use super::power::PowerMode;
use super::system::{OnBus, System};
use super::uapi;
use gembin_bundle::npu::Generation;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The device number of the first generation on the PCI bus.
const NPU1_ID: u16 = 0x1502;
/// The device number of the second generation, all its revisions.
const NPU2_ID: u16 = 0x17f0;
/// The firmware from which on the first generation runs instruction streams as they are compiled.
const NPU1_FIRMWARE: (u32, u32) = (1, 5);

/// What an NPU is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The node, such as `/dev/accel/accel0`.
    pub node: String,
    /// Its generation.
    pub generation: Generation,
    /// Columns that programs can use.
    pub columns: u32,
    /// Compute tiles in a column.
    pub rows: u32,
    /// Clock of the array now, if it is told.
    pub clock_mhz: Option<u32>,
    /// Power mode now, if it is told.
    pub power: Option<PowerMode>,
    /// Version of the kernel's driver.
    pub driver: (i32, i32),
    /// Version of the firmware.
    pub firmware: [u32; 4],
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} columns x {} rows",
            self.generation.title(),
            self.columns,
            self.rows
        )?;
        if let Some(clock) = self.clock_mhz.filter(|&clock| clock > 0) {
            write!(f, " at {clock} MHz")?;
        }
        if let Some(power) = self.power {
            write!(f, ", power mode {power}")?;
        }
        let [major, minor, patch, build] = self.firmware;
        let (driver_major, driver_minor) = self.driver;
        write!(
            f,
            ", firmware {major}.{minor}.{patch}.{build}, amdxdna {driver_major}.{driver_minor}"
        )
    }
}

/// An opened NPU.
pub(super) struct Device {
    pub(super) file: Arc<File>,
    pub(super) facts: Facts,
}

impl Device {
    /// Opens the first NPU of this machine.
    ///
    /// # Errors
    /// Why there is none that can be used, and what to do.
    pub(super) fn open(system: &Arc<dyn System>) -> Result<Self, String> {
        let nodes = system
            .nodes()
            .map_err(|error| format!("cannot list /dev/accel: {}", explain(&error)))?;
        let mut refused = None;
        for node in &nodes {
            match Self::open_node(system, node) {
                Ok(Some(device)) => return Ok(device),
                // Another vendor's accelerator.
                Ok(None) => {}
                Err(reason) => {
                    refused.get_or_insert(reason);
                }
            }
        }
        Err(refused.unwrap_or_else(|| absent(system.on_bus())))
    }

    /// The NPU behind a node; `None` if it is none of AMD's.
    fn open_node(system: &Arc<dyn System>, node: &Path) -> Result<Option<Self>, String> {
        let name = node.display();
        let file = match File::open(Arc::clone(system), node) {
            Ok(file) => file,
            Err(error) => return Err(format!("cannot open {name}: {}", cannot_open(&error))),
        };
        let asked = |what: &str, error: io::Error| {
            format!("{name} does not tell {what}: {}", explain(&error))
        };
        let driver = file
            .kernel_driver()
            .map_err(|error| asked("its driver", error))?;
        if driver.name != uapi::DRIVER_NAME {
            return Ok(None);
        }
        let array = file
            .array()
            .map_err(|error| asked("the shape of its array", error))?;
        let firmware = file
            .firmware()
            .map_err(|error| asked("its firmware's version", error))?;
        // Clock and mode are for people: an NPU that does not tell them computes all the same.
        let clock_mhz = file.clocks().ok().map(|clocks| clocks.h_clock.freq_mhz);
        let power = file.power_mode().ok().and_then(PowerMode::of_number);
        let generation = match system.device_id(node) {
            Some(NPU1_ID) => Generation::Npu1,
            Some(NPU2_ID) => Generation::Npu2,
            Some(id) => {
                return Err(format!(
                    "{name} is an NPU of a generation that is not known here (PCI 1022:{id:04x})"
                ));
            }
            // Sysfs may be out of sight in a container; the generations differ in width.
            None if u32::from(array.cols) <= Generation::Npu1.columns() + 1 => Generation::Npu1,
            None => Generation::Npu2,
        };
        let facts = Facts {
            node: name.to_string(),
            generation,
            // The first generation reports a column that hangs when it is used.
            columns: u32::from(array.cols).min(generation.columns()),
            rows: u32::from(array.core.row_count),
            clock_mhz,
            power,
            driver: (driver.major, driver.minor),
            firmware: [
                firmware.major,
                firmware.minor,
                firmware.patch,
                firmware.build,
            ],
        };
        if facts.columns == 0 || facts.rows == 0 {
            return Err(format!(
                "{name} has an array of {} x {} compute tiles; its firmware did not start, see `dmesg`",
                facts.columns, facts.rows
            ));
        }
        let (major, minor) = (firmware.major, firmware.minor);
        if generation == Generation::Npu1 && (major, minor) < NPU1_FIRMWARE {
            return Err(format!(
                "{name} has firmware {major}.{minor}, {}.{} is needed; update linux-firmware (amdnpu/1502_00) and \
                 start the machine again",
                NPU1_FIRMWARE.0, NPU1_FIRMWARE.1
            ));
        }
        Ok(Some(Self {
            file: Arc::new(file),
            facts,
        }))
    }

    /// Sets the power mode, unless it is set already.
    ///
    /// # Errors
    /// Why it cannot be set, and what to do.
    pub(super) fn set_power(&mut self, mode: PowerMode) -> Result<(), String> {
        if self.facts.power == Some(mode) {
            return Ok(());
        }
        match self.file.set_power_mode(mode) {
            Ok(()) => {
                self.facts.power = Some(mode);
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
                Err(format!(
                    "only root may set the power mode {mode}; run with sudo once (the mode stays), or leave out \
                     --npu-power-mode"
                ))
            }
            Err(error) => Err(format!(
                "cannot set the power mode {mode}: {}",
                explain(&error)
            )),
        }
    }
}

fn cannot_open(error: &io::Error) -> String {
    match error.raw_os_error() {
        // The driver binds the process's memory to the device, through the IOMMU.
        Some(libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP) => {
            "the kernel cannot share memory with the NPU; switch the IOMMU on (firmware setup, and no \
             `amd_iommu=off` or `iommu=off` on the kernel's command line)"
                .to_owned()
        }
        _ => explain(error),
    }
}

/// Why a machine without a node of an NPU has none.
fn absent(on_bus: Option<OnBus>) -> String {
    match on_bus {
        None => "this machine has no AMD NPU".to_owned(),
        Some(OnBus { id, driver: None }) => format!(
            "an NPU is there (PCI 1022:{id:04x}), but no driver has it; install Linux 6.14 or newer with amdxdna and \
             linux-firmware with amdnpu/{id:04x}_00, see `dmesg`"
        ),
        Some(OnBus {
            id,
            driver: Some(driver),
        }) => format!(
            "an NPU is there (PCI 1022:{id:04x}) and {driver} has it, but gives no device node; see `dmesg`"
        ),
    }
}
