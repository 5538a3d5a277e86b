//! What the driver asks of the operating system: a boundary with the kernel on one side and a fake on the other.
//!
//! `linux` is the real one. Calls are those of the kernel interface, unchanged: what they mean
//! is in `file`.

use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// An NPU on the PCI bus, whether or not something drives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnBus {
    /// PCI device number, such as 0x1502.
    pub id: u16,
    /// The kernel's driver that has it.
    pub driver: Option<String>,
}

/// Where a mapping is to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// At a multiple of its own size, a power of two, with its pages locked.
    Aligned,
    /// Over what is mapped there.
    Over(NonNull<u8>),
}

/// The operating system.
pub trait System: Send + Sync {
    /// Device nodes of accelerators, in order.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn nodes(&self) -> io::Result<Vec<PathBuf>>;

    /// PCI device number behind a node.
    fn device_id(&self, node: &Path) -> Option<u16>;

    /// The first NPU on the PCI bus.
    fn on_bus(&self) -> Option<OnBus>;

    /// Opens a node for reading and writing.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, node: &Path) -> io::Result<RawFd>;

    /// Closes what [`Self::open`] gave.
    fn close(&self, file: RawFd);

    /// A control call.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Safety
    /// `argument` points to the structure that the request is for, and every address in it to memory that the request
    /// may read or write.
    unsafe fn ioctl(&self, file: RawFd, request: u32, argument: NonNull<c_void>) -> io::Result<()>;

    /// Maps `bytes` bytes of a buffer object for reading and writing.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Safety
    /// With [`Place::Over`], whole pages from there on are mapped, and nothing refers to what is in them.
    unsafe fn map(
        &self,
        file: RawFd,
        offset: u64,
        bytes: usize,
        place: Place,
    ) -> io::Result<NonNull<u8>>;

    /// Ends a mapping.
    ///
    /// # Safety
    /// [`Self::map`] made it, and nothing refers to it.
    unsafe fn unmap(&self, at: NonNull<u8>, bytes: usize);

    /// Puts fresh zeroed memory in the place of a mapping.
    ///
    /// # Safety
    /// As for [`Self::unmap`].
    unsafe fn clear(&self, at: NonNull<u8>, bytes: usize);

    /// Most bytes that this process may lock; `None`: as many as it wants.
    fn lockable_bytes(&self) -> Option<u64>;

    /// The monotonic clock, in nanoseconds.
    fn now_ns(&self) -> i64;
}
