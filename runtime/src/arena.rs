//! The arena: one zeroed, page-aligned block that holds every value, scratch area and cache of a running bundle.
//!
//! Drivers address it through raw pointers, because steps of several threads and devices write disjoint parts of it
//! at once; which parts is proven when the bundle is checked.

use std::ptr::NonNull;

/// A block of zeroed memory, shared by all drivers.
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the arena is plain memory; who may write where is decided by the checked programs, see the module docs.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves `bytes` of zeroed memory; pages are taken from the system when first touched.
    ///
    /// # Errors
    /// When the system refuses the reservation.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let len = bytes.max(1);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast())
            .ok_or_else(|| std::io::Error::other("mapped at address 0"))?;
        Ok(Self { base, bytes: len })
    }

    /// Asks the system to back the block with huge pages, before it is first touched.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: `base` and `bytes` are those of our mapping; the advice does not change its content.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `len` f32 values at byte `offset`.
    ///
    /// # Panics
    /// When they are not inside the arena or not aligned; a checked program's buffers are.
    ///
    /// # Safety
    /// Nothing writes to them while the slice lives.
    pub unsafe fn f32s(&self, offset: u64, len: usize) -> &[f32] {
        let inside = usize::try_from(offset).ok().filter(|&offset| {
            len.checked_mul(4)
                .and_then(|bytes| bytes.checked_add(offset))
                .is_some_and(|end| end <= self.bytes)
                && offset % 4 == 0
        });
        let Some(offset) = inside else {
            panic!(
                "values {offset}+{len} x 4 bytes are outside the arena of {} bytes",
                self.bytes
            );
        };
        // SAFETY: the range is inside the mapping and aligned, its bytes were zeroed or written as f32, and the
        // caller rules out writers.
        unsafe { std::slice::from_raw_parts(self.base().add(offset).cast(), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
