//! The buffer through which bytes cross between the GPU and the host: marks of finished submits, candidates, and what
//! is fetched or stored.

use super::device::LogicalDevice;
use super::memory::{Buffer, Home};
use crate::drivers::DriverError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Most submits of one call that are marked.
pub(super) const MARKS: usize = 1024;
/// Where data starts, behind the marks.
pub(super) const DATA: u64 = (MARKS * 4) as u64;

/// A mapped buffer of marks and data.
pub(super) struct Readback {
    pub(super) buffer: Buffer,
    /// Bytes of data.
    pub(super) room: u64,
}

impl Readback {
    pub(super) fn new(device: &Arc<LogicalDevice>, room: u64) -> Result<Self, DriverError> {
        let room = room.next_multiple_of(4);
        Ok(Self {
            buffer: Buffer::new(device, DATA + room, Home::Read, "results")?,
            room,
        })
    }

    /// Takes back the first `count` marks.
    pub(super) fn clear_marks(&mut self, count: usize) {
        for mark in &self.marks()[..count] {
            mark.store(0, Ordering::Relaxed);
        }
    }

    /// The first of `count` marks that the GPU has not set.
    pub(super) fn unmarked(&self, count: usize) -> Option<usize> {
        self.marks()[..count]
            .iter()
            .position(|mark| mark.load(Ordering::Relaxed) == 0)
    }

    fn marks(&self) -> &[AtomicU32] {
        // SAFETY: the mapping starts with the marks, is aligned to pages, and is only ever read and written as whole
        // words here and by the GPU's copies.
        unsafe { std::slice::from_raw_parts(self.buffer.mapped().cast(), MARKS) }
    }

    /// Copies data from here to `target`.
    ///
    /// # Safety
    /// `target` is valid for writing `bytes` bytes, at most the room, that nobody else uses; the GPU is idle.
    pub(super) unsafe fn copy_to(&self, target: *mut u8, bytes: u64) {
        // SAFETY: the caller's promise; the mapping is at least as long.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.buffer.mapped().add(DATA as usize),
                target,
                bytes as usize,
            );
        }
    }

    /// Copies data from `source` to here.
    ///
    /// # Safety
    /// `source` is valid for reading `bytes` bytes, at most the room, that nobody writes; the GPU is idle.
    pub(super) unsafe fn copy_from(&mut self, source: *const u8, bytes: u64) {
        // SAFETY: the caller's promise; the mapping is at least as long.
        unsafe {
            std::ptr::copy_nonoverlapping(
                source,
                self.buffer.mapped().add(DATA as usize),
                bytes as usize,
            );
        }
    }
}
