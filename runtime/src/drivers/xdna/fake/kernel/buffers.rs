//! Buffer objects: shared memory, memory of the process's own, and the heap with its parts.

use super::{Bo, Context, Kernel, Memory, refuse};
use crate::drivers::xdna::memory::{HEAP_BYTES, PAGE_BYTES};
use crate::drivers::xdna::uapi;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// Where the array sees the heap.
const HEAP_BASE: u64 = 0x400_0000;
/// Alignment of parts of the heap.
const HEAP_ALIGN: u64 = 32 << 10;

impl Kernel {
    /// # Safety
    /// The address, if there is one, is of a table of one range that stays mapped as long as the buffer object lives.
    pub(super) unsafe fn create_bo(
        &mut self,
        file: RawFd,
        create: &mut uapi::CreateBo,
    ) -> io::Result<()> {
        if create.flags != 0 {
            return refuse(libc::EINVAL);
        }
        let mut bytes = create.size.next_multiple_of(PAGE_BYTES);
        let taken: u64 = self
            .files
            .values()
            .flat_map(|file| file.bos.values())
            .filter(|bo| {
                bo.memory
                    .as_ref()
                    .is_some_and(|memory| !memory.is_imported())
            })
            .map(|bo| bo.bytes)
            .sum();
        let lockable = self.setup.lockable_bytes;
        let (imports, process_addresses) = (self.setup.imports, self.setup.process_addresses);
        let left = self.setup.memory_bytes.saturating_sub(taken);
        let handle = self.fresh();
        let mut heap_offset = 0;
        let mut address = (1 << 48) + (u64::from(handle) << 32);
        let memory = match create.r#type {
            uapi::BO_SHARED if create.vaddr != 0 => {
                if !imports {
                    return refuse(libc::EINVAL);
                }
                // SAFETY: the caller's promise.
                let range = unsafe { (create.vaddr as *const uapi::OneRange).read() };
                let (at, len) = (range.entry.vaddr, range.entry.len);
                if range.header.num_entries != 1
                    || !at.is_multiple_of(PAGE_BYTES)
                    || !len.is_multiple_of(PAGE_BYTES)
                {
                    return refuse(libc::EINVAL);
                }
                if lockable.is_some_and(|limit| limit < len) {
                    return refuse(libc::ENOMEM);
                }
                bytes = len;
                if process_addresses {
                    address = at;
                }
                let Some(at) = NonNull::new(at as *mut u8) else {
                    return refuse(libc::EFAULT);
                };
                // SAFETY: the caller's promise.
                Some(unsafe { Memory::imported(at, len as usize) })
            }
            uapi::BO_SHARED | uapi::BO_COMMAND => {
                if bytes == 0 {
                    return refuse(libc::EINVAL);
                }
                if bytes > left {
                    return refuse(libc::ENOMEM);
                }
                Some(Memory::new(bytes as usize, true)?)
            }
            uapi::BO_HEAP => {
                if bytes != HEAP_BYTES {
                    return refuse(libc::EINVAL);
                }
                if self.opened(file).heap.is_some() {
                    return refuse(libc::EBUSY);
                }
                if bytes > left {
                    return refuse(libc::ENOMEM);
                }
                address = HEAP_BASE;
                self.opened(file).heap = Some(handle);
                Some(Memory::new(bytes as usize, false)?)
            }
            uapi::BO_DEVICE => {
                heap_offset = self.place_in_heap(file, bytes)?;
                address = HEAP_BASE + heap_offset;
                None
            }
            _ => return refuse(libc::EINVAL),
        };
        create.handle = handle;
        let bo = Bo {
            kind: create.r#type,
            bytes,
            memory,
            heap_offset,
            map_offset: u64::from(handle) << 32,
            mapped_at: None,
            address,
        };
        self.opened(file).bos.insert(handle, bo);
        Ok(())
    }

    /// The first free place in a heap that is mapped where the firmware takes it.
    pub(super) fn place_in_heap(&mut self, file: RawFd, bytes: u64) -> io::Result<u64> {
        let opened = self.opened(file);
        let mapped_at = opened
            .heap
            .and_then(|heap| opened.bos.get(&heap))
            .and_then(|heap| heap.mapped_at);
        if bytes == 0 || mapped_at.is_none_or(|at| !at.is_multiple_of(HEAP_BYTES)) {
            return refuse(libc::EINVAL);
        }
        let mut parts: Vec<(u64, u64)> = opened
            .bos
            .values()
            .filter(|bo| bo.kind == uapi::BO_DEVICE)
            .map(|bo| (bo.heap_offset, bo.heap_offset + bo.bytes))
            .collect();
        parts.sort_unstable();
        let mut at = 0;
        for (start, end) in parts {
            if at + bytes <= start {
                break;
            }
            at = end.next_multiple_of(HEAP_ALIGN);
        }
        if at + bytes > HEAP_BYTES {
            return refuse(libc::ENOSPC);
        }
        Ok(at)
    }

    pub(super) fn bo_info(&mut self, file: RawFd, info: &mut uapi::GetBoInfo) -> io::Result<()> {
        let process_addresses = self.setup.process_addresses;
        let Some(bo) = self.opened(file).bos.get(&info.handle) else {
            return refuse(libc::ENOENT);
        };
        let in_heap = matches!(bo.kind, uapi::BO_HEAP | uapi::BO_DEVICE);
        info.map_offset = if bo.memory.as_ref().and_then(Memory::file).is_some() {
            bo.map_offset
        } else {
            uapi::NO_ADDRESS
        };
        info.xdna_addr = if in_heap || !process_addresses {
            bo.address
        } else {
            uapi::NO_ADDRESS
        };
        Ok(())
    }

    pub(super) fn sync_bo(&mut self, file: RawFd, sync: &mut uapi::SyncBo) -> io::Result<()> {
        let opened = self.opened(file);
        let Some(bo) = opened.bos.get(&sync.handle) else {
            return refuse(libc::ENOENT);
        };
        let end = sync.offset.checked_add(sync.size);
        if end.is_none_or(|end| end > bo.bytes) || sync.direction > uapi::SYNC_FROM_DEVICE {
            return refuse(libc::EINVAL);
        }
        let offset = (sync.offset + bo.heap_offset) as usize;
        let owner = if bo.memory.is_some() {
            Some(sync.handle)
        } else {
            opened.heap
        };
        let memory = owner
            .and_then(|owner| opened.bos.get_mut(&owner))
            .and_then(|bo| bo.memory.as_mut());
        let Some(memory) = memory else {
            return refuse(libc::EINVAL);
        };
        if sync.direction == uapi::SYNC_TO_DEVICE {
            memory.show_array(offset, sync.size as usize);
        } else if memory.is_imported() {
            self.violation("fetched imported memory from the device");
        } else {
            memory.show_processor(offset, sync.size as usize);
        }
        Ok(())
    }

    pub(super) fn close_bo(&mut self, file: RawFd, close: &mut uapi::GemClose) -> io::Result<()> {
        let handle = close.handle;
        let opened = self.opened(file);
        let used = |context: &Context| {
            context
                .pending
                .iter()
                .any(|p| p.command == handle || p.uses.contains(&handle))
        };
        let in_use = opened.contexts.values().any(used);
        let known = opened.bos.remove(&handle).is_some();
        if opened.heap == Some(handle) {
            opened.heap = None;
        }
        if in_use {
            self.violation("gave a buffer back that a command under way uses");
        }
        if !known {
            self.violation("gave a buffer back twice");
            return refuse(libc::EINVAL);
        }
        Ok(())
    }
}
