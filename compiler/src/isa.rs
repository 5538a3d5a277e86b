//! What a bundle's kernels become on an AMD chip that need not be there: registers, occupancy, instructions.
//!
//! RADV, Mesa's driver, can be told to take itself for any chip's and then compiles without hardware. [`examine`] starts
//! a process in which it does ([`worker`]), because the driver is chosen by the environment, before the Vulkan loader is
//! opened, and because a compiler that fails on one kernel must not take the report of the others with it.
//! [`listing`] counts in the disassembly, [`table`] prints. Knows kernels only as SPIR-V with bindings and push constants.

pub mod listing;
mod mesa;
mod radv;
pub mod table;
mod worker;

pub use listing::Listing;
pub use mesa::Mesa;
pub use radv::Executable;
pub use worker::worker;

use crate::import::map_file;
use gembin_bundle::format;
use gembin_bundle::gpu::{Kernel, MatrixShape, Needs};
use gembin_bundle::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A chip, by the name that RADV knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    /// Radeon 780M, 760M, 740M: gfx1103.
    Phoenix,
    /// Radeon RX 7900: gfx1100.
    Navi31,
    /// Radeon RX 7600: gfx1102.
    Navi33,
    /// Radeon 890M, 880M.
    Gfx1150,
    /// Radeon 8060S, 8050S.
    Gfx1151,
}

impl Chip {
    /// All.
    pub const ALL: [Chip; 5] = [
        Chip::Phoenix,
        Chip::Navi31,
        Chip::Navi33,
        Chip::Gfx1150,
        Chip::Gfx1151,
    ];

    /// The spelling on the command line, which is RADV's.
    pub fn name(self) -> &'static str {
        match self {
            Chip::Phoenix => "phoenix",
            Chip::Navi31 => "navi31",
            Chip::Navi33 => "navi33",
            Chip::Gfx1150 => "gfx1150",
            Chip::Gfx1151 => "gfx1151",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chip| chip.name() == name)
    }
}

/// What the device that compiles can do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Abilities {
    /// The driver's name of it.
    pub name: String,
    /// As [`Needs::int_dot`].
    pub int_dot: bool,
    /// As [`Needs::f16`].
    pub f16: bool,
    /// Cooperative matrices.
    pub matrices: Vec<MatrixShape>,
    /// Subgroup size where a pipeline asks for none.
    pub subgroup_default: u32,
    /// Smallest that a pipeline can ask for.
    pub subgroup_least: u32,
    /// Largest.
    pub subgroup_most: u32,
}

/// A variant of a kernel, to be compiled.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The kernel's name.
    pub kernel: String,
    /// The variant's name.
    pub variant: String,
    /// SPIR-V.
    pub code: Vec<u32>,
    /// Storage buffers of set 0.
    pub bindings: u32,
    /// Words of push constants.
    pub immediates: u32,
    /// What the device must have.
    pub needs: Needs,
    /// Subgroup size that it must run with.
    pub subgroup: Option<u32>,
}

/// All variants of these kernels.
pub fn jobs(kernels: &[Kernel]) -> Vec<Job> {
    let each = kernels
        .iter()
        .flat_map(|kernel| kernel.variants.iter().map(move |variant| (kernel, variant)));
    each.map(|(kernel, variant)| Job {
        kernel: kernel.name.clone(),
        variant: variant.name.clone(),
        code: variant.code.clone(),
        bindings: kernel.bindings.len() as u32,
        immediates: kernel.immediates,
        needs: variant.needs,
        subgroup: variant.subgroup,
    })
    .collect()
}

/// The manifest of the bundle at `path`, decoded but not otherwise looked at.
///
/// # Errors
/// When the file cannot be read or is not a bundle, as text.
pub fn manifest_of_bundle(path: &Path) -> Result<Manifest, String> {
    let map = map_file(path).map_err(|error| error.to_string())?;
    let opened = format::open(&map).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(opened.manifest)
}

/// What became of one variant at one subgroup size.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The kernel's name.
    pub kernel: String,
    /// The variant's name.
    pub variant: String,
    /// Whether the size was left to the driver.
    pub subgroup_by_driver: bool,
    /// Figures of the code, or why there is none.
    pub outcome: Outcome,
}

/// The end of a compilation.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is code.
    Code(Box<Figures>),
    /// The device lacks what the variant needs; not an error, another variant is for it.
    Unsupported(String),
    /// The driver refused it, or ended over it.
    Failed(String),
}

/// Figures of compiled code.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// Invocations of a wave.
    pub subgroup: u32,
    /// Vector registers of a lane.
    pub vgprs: u32,
    /// Scalar registers of a wave.
    pub sgprs: u32,
    /// Vector registers that did not fit and went to memory.
    pub spilled_vgprs: u32,
    /// Scalar registers that did not fit.
    pub spilled_sgprs: u32,
    /// Memory of a wave for spills and arrays.
    pub scratch_bytes: u32,
    /// Memory of a workgroup.
    pub lds_bytes: u32,
    /// Waves that a SIMD can hold at once, of at most 16.
    pub waves_per_simd: u32,
    /// Length of the code.
    pub code_bytes: u32,
    /// Cycles from a wave's first instruction to its last, by the driver's model: each loop's body once.
    pub latency_cycles: u32,
    /// Cycles after which another wave can have followed, by the same model.
    pub inverse_throughput_cycles: u32,
    /// Counts in the disassembly.
    pub listing: Listing,
    /// The disassembly.
    #[serde(skip)]
    pub assembly: String,
}

/// What [`examine`] found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The device that compiled.
    pub device: Abilities,
    /// Each variant, in the order of the jobs; those without a size of their own once for each size to look at.
    pub rows: Vec<Row>,
}

impl Report {
    /// Keeps of each kernel only what the chip runs, the first that compiled; and what failed.
    pub fn keep_chosen(&mut self) {
        let mut met = BTreeSet::new();
        let compiled = |row: &Row| matches!(row.outcome, Outcome::Code(_));
        let with_code = self.rows.iter().filter(|row| compiled(row));
        let with_code: BTreeSet<String> = with_code.map(|row| row.kernel.clone()).collect();
        self.rows.retain(|row| match row.outcome {
            Outcome::Code(_) => met.insert(row.kernel.clone()),
            Outcome::Unsupported(_) => !with_code.contains(&row.kernel),
            Outcome::Failed(_) => true,
        });
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum IsaError {
    /// No Mesa that can do it.
    #[error(
        "no Mesa with RADV's null device (23.0 to 25.0) in {}; run .ci/mesa fetch in gembin's source and this command there, or give a folder with such a radeon_icd.json by --mesa", looked.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoMesa {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// There is no Vulkan loader.
    #[error("cannot open the Vulkan loader: {0}; install libvulkan1, or run .ci/setup")]
    Loader(String),
    /// The driver offers no device.
    #[error(
        "the driver offers no device that computes; Mesa must be 23.0 to 25.0 (.ci/mesa fetch gets one)"
    )]
    NoDevice,
    /// The device is too old.
    #[error(
        "{name}: does not have Vulkan 1.3; Mesa must be 23.0 to 25.0 (.ci/mesa fetch gets one)"
    )]
    Old {
        /// The device.
        name: String,
    },
    /// The device does not say what pipelines become.
    #[error(
        "the device has no VK_KHR_pipeline_executable_properties; use RADV of Mesa 23.0 to 25.0"
    )]
    Silent,
    /// A call failed.
    #[error("{call}: {reason}")]
    Refused {
        /// Its name.
        call: &'static str,
        /// What it said.
        reason: String,
    },
    /// The process that compiles cannot be run.
    #[error("cannot run the process that compiles: {0}")]
    Worker(#[from] io::Error),
    /// It ended without a reason, before it compiled anything.
    #[error("the process that compiles ended ({status}){said}")]
    Ended {
        /// How.
        status: String,
        /// The end of what it wrote to standard error, after `: `.
        said: String,
    },
    /// It ended with a reason.
    #[error("{0}")]
    Told(String),
    /// Not what it writes.
    #[error("internal error, please report: the process that compiles wrote {0:?}")]
    Protocol(String),
}

/// Compiles all jobs for a chip.
///
/// Runs this very executable again with the argument `isa-worker`, which must call [`worker`].
///
/// # Errors
/// When there is no device to compile for; what happens to single jobs is in the report.
pub fn examine(jobs: &[Job], chip: Chip, mesa: &Mesa) -> Result<Report, IsaError> {
    worker::examine(jobs, chip, mesa)
}
