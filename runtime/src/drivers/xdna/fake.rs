//! A machine with an NPU, in software, behind the driver's system boundary: for tests, with no hardware.
//!
//! It does what the kernel's driver does, as strictly: it keeps buffer objects, contexts, timelines and limits, refuses
//! what the kernel would refuse, and can fail in every way. Commands run a closure, which gets configuration, instruction
//! stream and the array's view of memory; a simulator of the array can stand there.
//!
//! It is as unkind as the hardware may be: processor and array see the same memory only where it was synchronized, a
//! command runs not before somebody waits for it, and what a command uses but does not list is out of its reach. What no
//! driver should do is noted in [`FakeNpu::violations`].

mod kernel;
mod memory;

pub use memory::DIRT;

use super::command::State as CommandState;
use super::linux;
use super::system::{OnBus, Place, System};
use kernel::Kernel;
use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the machine is.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether there is a device node.
    pub node: bool,
    /// Whether another vendor's accelerator comes before it.
    pub foreign_node: bool,
    /// What the PCI bus shows.
    pub on_bus: Option<OnBus>,
    /// Error of opening the node.
    pub open_error: Option<i32>,
    /// Columns that the firmware reports.
    pub columns: u16,
    /// Compute tiles in a column.
    pub rows: u16,
    /// Firmware's version; `None`: the question is an error.
    pub firmware: Option<[u32; 4]>,
    /// Power mode, as the kernel numbers it.
    pub power_mode: u8,
    /// Whether the process is root.
    pub root: bool,
    /// Bytes that may be locked.
    pub lockable_bytes: Option<u64>,
    /// Memory there is for buffer objects.
    pub memory_bytes: u64,
    /// Whether the kernel imports memory of the process.
    pub imports: bool,
    /// Whether the array uses the process's addresses, or the kernel's own for each buffer object.
    pub process_addresses: bool,
    /// Contexts there can be.
    pub contexts: usize,
    /// Whether contexts have timelines.
    pub timelines: bool,
}

impl Default for Setup {
    /// A Phoenix that works.
    fn default() -> Self {
        Self {
            node: true,
            foreign_node: false,
            on_bus: Some(OnBus {
                id: 0x1502,
                driver: Some("amdxdna".into()),
            }),
            open_error: None,
            columns: 5,
            rows: 4,
            firmware: Some([1, 5, 5, 391]),
            power_mode: 0,
            root: false,
            lockable_bytes: None,
            memory_bytes: 1 << 30,
            imports: true,
            process_addresses: true,
            contexts: 6,
            timelines: true,
        }
    }
}

/// How a command ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// As the closure says.
    Normal,
    /// In this state; the closure is not asked.
    In(CommandState),
    /// Never.
    Hang,
    /// The array is reset: it times out, everything behind it is aborted, every context is dead.
    Reset,
    /// The device goes away.
    Vanish,
}

/// What is there at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Living {
    /// Opened nodes.
    pub files: usize,
    /// Buffer objects.
    pub buffers: usize,
    /// Hardware contexts.
    pub contexts: usize,
    /// Timelines.
    pub timelines: usize,
    /// Mappings.
    pub mappings: usize,
}

/// A command that runs: what the array has, and what it can reach.
pub struct Launch<'a> {
    design: Vec<u8>,
    columns: u32,
    instructions: Vec<u32>,
    buffers: Vec<u64>,
    reach: kernel::Reach<'a>,
}

impl Launch<'_> {
    /// The configuration of the array.
    pub fn design(&self) -> &[u8] {
        &self.design
    }

    /// Columns that it has.
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// The instruction stream.
    pub fn instructions(&self) -> &[u32] {
        &self.instructions
    }

    /// Addresses of the buffers; those that the stream does not have are zero.
    pub fn buffers(&self) -> &[u64] {
        &self.buffers
    }

    /// What the array sees at an address.
    ///
    /// # Errors
    /// When no listed buffer object has all of it.
    pub fn read(&self, address: u64, bytes: usize) -> Result<&[u8], String> {
        self.reach.read(address, bytes)
    }

    /// Writes as the array does.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        self.reach.write(address, data)
    }
}

/// What the array computes; an error is one of the command.
pub type Executor = Box<dyn FnMut(&mut Launch<'_>) -> Result<(), String> + Send>;

/// The machine.
pub struct FakeNpu {
    kernel: Mutex<Kernel>,
}

impl FakeNpu {
    /// A machine whose array computes by `executor`.
    pub fn new(setup: Setup, executor: Executor) -> Arc<Self> {
        Arc::new(Self {
            kernel: Mutex::new(Kernel::new(setup, executor)),
        })
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the driver takes it.
    pub fn system(self: &Arc<Self>) -> Arc<dyn System> {
        Arc::clone(self) as Arc<dyn System>
    }

    /// Lets the command after `count` further ones end so.
    pub fn end_command(&self, count: usize, ending: Ending) {
        self.kernel().end_command(count, ending);
    }

    /// Lets the call to the system after `count` further ones fail with an error number. Calls that give something back
    /// are not counted, and do not fail.
    pub fn fail_call(&self, count: usize, error: i32) {
        self.kernel().fail_call(count, error);
    }

    /// Interrupts the next waits.
    pub fn interrupt_waits(&self, count: usize) {
        self.kernel().interrupts = count;
    }

    /// Whether a failure that [`Self::fail_call`] asked for is still to come.
    pub fn failure_is_due(&self) -> bool {
        self.kernel().failure_is_due()
    }

    /// Takes the device away.
    pub fn vanish(&self) {
        self.kernel().gone = true;
    }

    /// What is there now.
    pub fn living(&self) -> Living {
        self.kernel().living()
    }

    /// The power mode, as the kernel numbers it.
    pub fn power_mode(&self) -> u8 {
        self.kernel().setup.power_mode
    }

    /// Commands that have run.
    pub fn commands_run(&self) -> usize {
        self.kernel().commands_run
    }

    /// What was done that no driver should do.
    pub fn violations(&self) -> Vec<String> {
        self.kernel().violations.clone()
    }
}

/// The node of the NPU behind that of another vendor.
const NODES: [&str; 2] = ["/dev/accel/accel0", "/dev/accel/accel1"];

impl System for FakeNpu {
    fn nodes(&self) -> io::Result<Vec<PathBuf>> {
        let setup = &self.kernel().setup;
        let count = usize::from(setup.foreign_node) + usize::from(setup.node);
        Ok(NODES[..count].iter().map(PathBuf::from).collect())
    }

    fn device_id(&self, _node: &Path) -> Option<u16> {
        self.kernel().setup.on_bus.as_ref().map(|npu| npu.id)
    }

    fn on_bus(&self) -> Option<OnBus> {
        self.kernel().setup.on_bus.clone()
    }

    fn open(&self, node: &Path) -> io::Result<RawFd> {
        let mut kernel = self.kernel();
        let foreign = kernel.setup.foreign_node && node == Path::new(NODES[0]);
        kernel.open(foreign)
    }

    fn close(&self, file: RawFd) {
        self.kernel().close(file);
    }

    unsafe fn ioctl(&self, file: RawFd, request: u32, argument: NonNull<c_void>) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.kernel().ioctl(file, request, argument) }
    }

    unsafe fn map(
        &self,
        file: RawFd,
        offset: u64,
        bytes: usize,
        place: Place,
    ) -> io::Result<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.kernel().map(file, offset, bytes, place) }
    }

    unsafe fn unmap(&self, at: NonNull<u8>, bytes: usize) {
        self.kernel().forget_mapping(at, bytes);
        // SAFETY: the caller's promise.
        unsafe { libc::munmap(at.as_ptr().cast(), bytes) };
    }

    unsafe fn clear(&self, at: NonNull<u8>, bytes: usize) {
        self.kernel().forget_mapping(at, bytes);
        // SAFETY: the caller's promise.
        unsafe { linux::clear(at, bytes) };
    }

    fn lockable_bytes(&self) -> Option<u64> {
        self.kernel().setup.lockable_bytes
    }

    fn now_ns(&self) -> i64 {
        self.kernel().clock_ns
    }
}
