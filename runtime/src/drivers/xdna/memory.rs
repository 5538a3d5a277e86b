//! Memory that processor and NPU share: buffer objects, mapped, with the addresses the NPU knows them by.
//!
//! An NPU does not see the processor's caches. What the processor wrote must be synchronized to the device before the
//! NPU reads it, and from the device before the processor reads what the NPU wrote; that includes the zeros of fresh
//! memory, which would reach it later, over results.
//!
//! Instructions and configurations lie in a heap of 64 MiB that the firmware maps; everything else in memory of any
//! size. The device knows the latter by the process's own addresses where an IOMMU translates them, or by such as the
//! kernel tells.

use super::errors::{explain, unavailable};
use super::file::{File, Sync};
use super::system::{Place, System};
use super::uapi;
use crate::drivers::DriverError;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Size of the heap, and its alignment in the process.
pub(super) const HEAP_BYTES: u64 = 64 << 20;
/// Unit of mappings.
pub(super) const PAGE_BYTES: u64 = 4096;

/// How a buffer came to its place in the process.
enum Host {
    /// Mapped for itself.
    Mapped,
    /// Mapped over memory of somebody else's, who gets fresh memory back.
    Over,
    /// Memory of somebody else's, or part of the heap.
    Borrowed,
}

/// A buffer object; unmapped and given back when dropped.
pub(super) struct Buffer {
    file: Arc<File>,
    handle: u32,
    at: NonNull<u8>,
    bytes: u64,
    host: Host,
    address: u64,
}

// SAFETY: the mapping is this buffer's alone, or its owner outlives it; the kernel's handles know no threads.
unsafe impl Send for Buffer {}

/// Gives a handle back unless it is kept.
struct Made<'a> {
    file: &'a Arc<File>,
    handle: u32,
}

impl Made<'_> {
    fn keep(self) -> u32 {
        let handle = self.handle;
        std::mem::forget(self);
        handle
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.file.close_bo(self.handle);
    }
}

fn make(file: &Arc<File>, kind: u32, bytes: u64) -> io::Result<Made<'_>> {
    let handle = file.create_bo(kind, bytes)?;
    Ok(Made { file, handle })
}

impl Buffer {
    fn mapped(file: &Arc<File>, kind: u32, bytes: u64, place: Place) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let made = make(file, kind, bytes)?;
        let offset = file.bo_info(made.handle)?.map_offset;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: what is replaced, if anything, is whole pages that `over`'s caller gives up.
        let at = unsafe { file.map(offset, length, place)? };
        let host = match place {
            Place::Anywhere | Place::Aligned => Host::Mapped,
            Place::Over(_) => Host::Over,
        };
        let mut buffer = Self {
            file: Arc::clone(file),
            handle: made.keep(),
            at,
            bytes,
            host,
            address: at.as_ptr() as u64,
        };
        // Asked again: it can depend on where the buffer is mapped.
        let told = file.bo_info(buffer.handle)?.xdna_addr;
        if told != uapi::NO_ADDRESS {
            buffer.address = told;
        }
        Ok(buffer)
    }

    /// Fresh zeroed memory.
    pub(super) fn shared(file: &Arc<File>, bytes: u64, what: &str) -> Result<Self, DriverError> {
        Self::fresh(file, uapi::BO_SHARED, bytes, Place::Anywhere, what)
    }

    /// Fresh memory for commands.
    pub(super) fn command(file: &Arc<File>, bytes: u64) -> Result<Self, DriverError> {
        Self::mapped(file, uapi::BO_COMMAND, bytes, Place::Anywhere)
            .map_err(|error| cannot_have("commands", bytes, &error))
    }

    /// Fresh zeroed memory in the place of what is mapped at `at`.
    ///
    /// # Safety
    /// Whole pages for `bytes` are mapped from `at` on, at the start of a page; their content is not needed, and nothing
    /// refers to it now. The mapping outlives the buffer.
    pub(super) unsafe fn over(
        file: &Arc<File>,
        at: NonNull<u8>,
        bytes: u64,
        what: &str,
    ) -> Result<Self, DriverError> {
        Self::fresh(file, uapi::BO_SHARED, bytes, Place::Over(at), what)
    }

    fn fresh(
        file: &Arc<File>,
        kind: u32,
        bytes: u64,
        place: Place,
        what: &str,
    ) -> Result<Self, DriverError> {
        let buffer = Self::mapped(file, kind, bytes, place)
            .map_err(|error| cannot_have(what, bytes, &error))?;
        buffer
            .sync(Sync::ToDevice, 0, buffer.bytes)
            .map_err(|error| cannot_have(what, bytes, &error))?;
        Ok(buffer)
    }

    /// Memory that is there already, for the NPU to read.
    ///
    /// # Errors
    /// Where the kernel cannot do that, or not with this memory.
    ///
    /// # Safety
    /// The memory outlives the buffer, and nothing that runs on the NPU writes to it.
    pub(super) unsafe fn imported(file: &Arc<File>, memory: &[u8]) -> io::Result<Self> {
        let at = NonNull::from(memory).cast::<u8>();
        let bytes = memory.len() as u64;
        if bytes == 0
            || !bytes.is_multiple_of(PAGE_BYTES)
            || !(at.as_ptr() as u64).is_multiple_of(PAGE_BYTES)
        {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: whole pages, by the test above; the rest is the caller's promise.
        let handle = unsafe { file.import_bo(at, bytes)? };
        let made = Made { file, handle };
        let told = file.bo_info(handle)?.xdna_addr;
        file.sync_bo(handle, Sync::ToDevice, 0, bytes)?;
        Ok(Self {
            file: Arc::clone(file),
            handle: made.keep(),
            at,
            bytes,
            host: Host::Borrowed,
            address: if told == uapi::NO_ADDRESS {
                at.as_ptr() as u64
            } else {
                told
            },
        })
    }

    /// The kernel's handle.
    pub(super) fn handle(&self) -> u32 {
        self.handle
    }

    /// Where the NPU finds it.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Copies into it.
    ///
    /// # Panics
    /// When it does not fit.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset.checked_add(data.len() as u64);
        assert!(end.is_some_and(|end| end <= self.bytes));
        // SAFETY: the range is inside the mapping, which the NPU does not use while its owner writes to it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr(),
                self.at.as_ptr().add(offset as usize),
                data.len(),
            );
        }
    }

    /// Writes words, from byte `offset` on.
    ///
    /// # Panics
    /// When they do not fit, or are not aligned.
    pub(super) fn write_words(&mut self, offset: u64, words: &[u32]) {
        let end = offset.checked_add(size_of_val(words) as u64);
        assert!(offset.is_multiple_of(4) && end.is_some_and(|end| end <= self.bytes));
        // SAFETY: as for `write`, and the mapping is aligned to pages.
        unsafe {
            std::ptr::copy_nonoverlapping(
                words.as_ptr(),
                self.at.as_ptr().add(offset as usize).cast::<u32>(),
                words.len(),
            );
        }
    }

    /// Its first word, which the kernel may change at any time.
    pub(super) fn first_word(&self) -> u32 {
        // SAFETY: the mapping is a page at least, aligned to pages.
        unsafe { self.at.as_ptr().cast::<u32>().read_volatile() }
    }

    /// Synchronizes a part.
    pub(super) fn sync(&self, direction: Sync, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.sync_bo(self.handle, direction, offset, bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made for this buffer with this length; who reads it holds the buffer, or has its place
        // and gets fresh memory there.
        unsafe {
            match self.host {
                Host::Mapped => self.file.system.unmap(self.at, self.bytes as usize),
                Host::Over => self.file.system.clear(self.at, self.bytes as usize),
                Host::Borrowed => {}
            }
        }
        self.file.close_bo(self.handle);
    }
}

fn cannot_have(what: &str, bytes: u64, error: &io::Error) -> DriverError {
    unavailable(format!(
        "cannot have {bytes} bytes for {what}: {}",
        explain(error)
    ))
}

/// Whether the heap may be locked.
///
/// # Errors
/// How much may be, and how to raise the limit.
pub(super) fn check_lockable(system: &dyn System) -> Result<(), String> {
    match system.lockable_bytes() {
        Some(limit) if limit < HEAP_BYTES => Err(format!(
            "{} KiB of memory may be locked, {} are needed; raise the limit: `* - memlock 65536` in \
             /etc/security/limits.d/npu.conf, or LimitMEMLOCK=64M for a systemd service, then log in again",
            limit >> 10,
            HEAP_BYTES >> 10
        )),
        Some(_) | None => Ok(()),
    }
}

/// The memory that the firmware maps.
pub(super) struct Heap {
    buffer: Buffer,
}

impl Heap {
    /// Makes the one heap that an opened node can have.
    pub(super) fn new(file: &Arc<File>) -> Result<Self, DriverError> {
        check_lockable(file.system.as_ref()).map_err(unavailable)?;
        let buffer = Buffer::mapped(file, uapi::BO_HEAP, HEAP_BYTES, Place::Aligned)
            .map_err(|error| cannot_have("instructions", HEAP_BYTES, &error))?;
        Ok(Self { buffer })
    }

    /// Puts data into a part of the heap.
    pub(super) fn store(&self, parts: &[(u64, &[u8])], what: &str) -> Result<Buffer, DriverError> {
        let end = |(offset, data): &(u64, &[u8])| offset + data.len() as u64;
        let needed = parts.iter().map(end).max().unwrap_or(0);
        let bytes = needed.max(1).next_multiple_of(PAGE_BYTES);
        let failed = |error: io::Error| cannot_have(what, bytes, &error);
        let file = &self.buffer.file;
        let made = make(file, uapi::BO_DEVICE, bytes).map_err(failed)?;
        let address = file.bo_info(made.handle).map_err(failed)?.xdna_addr;
        let offset = address
            .checked_sub(self.buffer.address)
            .filter(|offset| {
                offset
                    .checked_add(bytes)
                    .is_some_and(|end| end <= HEAP_BYTES)
            })
            .ok_or_else(|| {
                unavailable(format!(
                    "the kernel put {what} at {address:#x}, outside the heap"
                ))
            })?;
        // SAFETY: the offset was found to be inside the heap's mapping.
        let at = unsafe { self.buffer.at.add(offset as usize) };
        let mut stored = Buffer {
            file: Arc::clone(file),
            handle: made.keep(),
            at,
            bytes,
            host: Host::Borrowed,
            address,
        };
        for (offset, data) in parts {
            stored.write(*offset, data);
        }
        stored.sync(Sync::ToDevice, 0, bytes).map_err(failed)?;
        Ok(stored)
    }
}
