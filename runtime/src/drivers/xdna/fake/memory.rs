//! Memory behind the fake kernel: what the processor sees, and what the array sees.
//!
//! The two are apart until a call synchronizes them, so that one that is missing is a wrong result. Fresh memory is full
//! of [`DIRT`] for the array.

use super::super::linux;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// What the array reads where nothing was synchronized.
pub const DIRT: u8 = 0xa5;

/// The processor's view: a nameless file that the driver maps, and the fake as well.
struct Shared {
    file: RawFd,
    at: NonNull<u8>,
}

/// The processor's view of some memory.
enum View {
    Shared(Shared),
    /// Memory of the process's own.
    Imported(NonNull<u8>),
}

/// Memory of a buffer object.
pub(super) struct Memory {
    view: View,
    array: Vec<u8>,
    bytes: usize,
}

// SAFETY: the addresses are of mappings that live as long as this, or that the importer promised to keep.
unsafe impl Send for Memory {}

impl Memory {
    /// Fresh memory; `dirty`: the array sees dirt in it, not zeros.
    pub(super) fn new(bytes: usize, dirty: bool) -> io::Result<Self> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"npu".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the file was just made, and its mapping goes where the system likes.
        let mapped = unsafe {
            if libc::ftruncate(file, bytes as libc::off_t) != 0 {
                Err(io::Error::last_os_error())
            } else {
                linux::map(file, 0, bytes, None)
            }
        };
        let at = mapped.inspect_err(|_| {
            // SAFETY: the file was just made.
            unsafe { libc::close(file) };
        })?;
        Ok(Self {
            view: View::Shared(Shared { file, at }),
            // Zeros cost nothing until they are touched.
            array: if dirty {
                vec![DIRT; bytes]
            } else {
                vec![0; bytes]
            },
            bytes,
        })
    }

    /// Memory that the process has already.
    ///
    /// # Safety
    /// It stays mapped as long as this lives.
    pub(super) unsafe fn imported(at: NonNull<u8>, bytes: usize) -> Self {
        Self {
            view: View::Imported(at),
            array: vec![DIRT; bytes],
            bytes,
        }
    }

    pub(super) fn is_imported(&self) -> bool {
        matches!(self.view, View::Imported(_))
    }

    /// The file to map; imported memory has none.
    pub(super) fn file(&self) -> Option<RawFd> {
        match &self.view {
            View::Shared(shared) => Some(shared.file),
            View::Imported(_) => None,
        }
    }

    fn at(&self) -> NonNull<u8> {
        match &self.view {
            View::Shared(shared) => shared.at,
            View::Imported(at) => *at,
        }
    }

    /// The array sees what the processor has written.
    pub(super) fn show_array(&mut self, offset: usize, bytes: usize) {
        let end = offset + bytes;
        assert!(end <= self.bytes);
        // SAFETY: the range is inside the view, which nobody writes to during a call.
        unsafe {
            self.at()
                .add(offset)
                .copy_to_nonoverlapping(NonNull::from(&mut self.array[offset..end]).cast(), bytes);
        }
    }

    /// The processor sees what the array has written.
    pub(super) fn show_processor(&mut self, offset: usize, bytes: usize) {
        let end = offset + bytes;
        assert!(end <= self.bytes && !self.is_imported());
        // SAFETY: as for the other way.
        unsafe {
            self.at()
                .add(offset)
                .copy_from_nonoverlapping(NonNull::from(&self.array[offset..end]).cast(), bytes);
        }
    }

    /// What the array sees.
    pub(super) fn array(&self) -> &[u8] {
        &self.array
    }

    /// What the array sees, to be changed.
    pub(super) fn array_mut(&mut self) -> &mut [u8] {
        &mut self.array
    }

    /// Words as the processor sees them: packets are the kernel's business, not the array's.
    pub(super) fn words(&self, count: usize) -> Vec<u32> {
        assert!(count * 4 <= self.bytes);
        let first = self.at().cast::<u32>();
        (0..count)
            // SAFETY: the words are inside the view, which is aligned to pages.
            .map(|index| unsafe { first.add(index).read_volatile() })
            .collect()
    }

    /// Changes the first word that the processor sees.
    pub(super) fn set_first_word(&mut self, word: u32) {
        // SAFETY: as for `words`.
        unsafe { self.at().cast::<u32>().write_volatile(word) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let View::Shared(shared) = &self.view {
            // SAFETY: mapping and file were made together and are used by nothing else.
            unsafe {
                libc::munmap(shared.at.as_ptr().cast(), self.bytes);
                libc::close(shared.file);
            }
        }
    }
}
