//! The arena on the GPU: its values in one buffer, its caches packed into as few as the device allows, all zeroed.
//!
//! The host's arena has the same addresses; bytes cross between the two only when asked for.

use super::device::LogicalDevice;
use super::errors::unavailable;
use super::memory::{Buffer, Home};
use super::segments::{LARGEST_BUFFER, Layout, joined};
use crate::drivers::DriverError;
use ash::vk;
use gembin_bundle::manifest::{Arena, Span};
use std::sync::Arc;

/// The arena's memory on a GPU.
pub(super) struct DeviceArena {
    values: Buffer,
    value_bytes: u64,
    /// Keys and values of caches, each a unit, by their places in the arena.
    caches: Layout,
    cache_buffers: Vec<Buffer>,
}

impl DeviceArena {
    pub(super) fn new(device: &Arc<LogicalDevice>, arena: &Arena) -> Result<Self, DriverError> {
        let value_bytes = arena.bytes - arena.cache_bytes;
        let halves = arena
            .caches
            .iter()
            .flat_map(|cache| {
                let bytes = cache.bytes / 2;
                [cache.offset, cache.offset + bytes].map(|offset| Span { offset, bytes })
            })
            .collect();
        let most = device.abilities.limits.buffer_bytes.min(LARGEST_BUFFER);
        let caches = Layout::packed(joined(halves), most).map_err(|half| {
            unavailable(format!(
                "a cache's keys take {} bytes, and {} takes {most} in one piece; \
                 compile the bundle for a shorter context or fewer sequences",
                half.bytes, device.title
            ))
        })?;
        let cache_buffers = caches
            .buffers
            .iter()
            .map(|planned| Buffer::new(device, planned.bytes, Home::Device, "KV caches"))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            values: Buffer::new(device, value_bytes, Home::Device, "the arena's values")?,
            value_bytes,
            caches,
            cache_buffers,
        })
    }

    /// Buffer and first byte there of the arena's bytes from `offset` on, and how many lie there in one piece.
    pub(super) fn locate(&self, offset: u64) -> Option<(vk::Buffer, u64, u64)> {
        if offset < self.value_bytes {
            return Some((self.values.raw, offset, self.value_bytes - offset));
        }
        let (buffer, at, left) = self.caches.locate(offset)?;
        Some((self.cache_buffers[buffer].raw, at, left))
    }

    /// Every buffer.
    pub(super) fn buffers(&self) -> impl Iterator<Item = vk::Buffer> + '_ {
        std::iter::once(self.values.raw).chain(self.cache_buffers.iter().map(|buffer| buffer.raw))
    }
}
