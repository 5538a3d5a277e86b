//! Buffers and the memory behind them: where each kind of buffer lies, mapping, importing the processor's pages.
//!
//! Every buffer has an allocation of its own; there are a handful. What is put into them is decided elsewhere.

use super::device::LogicalDevice;
use super::errors::{refused, unavailable};
use crate::drivers::DriverError;
use ash::vk;
use std::ptr::NonNull;
use std::sync::Arc;

use vk::MemoryPropertyFlags as Flags;

/// Who works with a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// The GPU alone.
    Device,
    /// The processor writes it, the GPU reads it often.
    Written,
    /// The GPU writes it, the processor reads it.
    Read,
    /// The processor writes it, the GPU copies it away.
    Staging,
}

impl Home {
    /// Memory that will do, best first. What is mapped is always coherent: nothing is flushed. Where memory is shared,
    /// the part that is called the GPU's own may be small, and the rest is as fast.
    fn wanted(self, unified: bool) -> &'static [Flags] {
        const MAPPED: Flags =
            Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw());
        const NEAR: Flags = Flags::from_raw(MAPPED.as_raw() | Flags::DEVICE_LOCAL.as_raw());
        const CACHED: Flags = Flags::from_raw(MAPPED.as_raw() | Flags::HOST_CACHED.as_raw());
        match self {
            Home::Device if unified => const { &[Flags::DEVICE_LOCAL, Flags::empty()] },
            Home::Device => &[Flags::DEVICE_LOCAL],
            Home::Written => &[NEAR, MAPPED],
            Home::Read => &[CACHED, MAPPED],
            Home::Staging => &[MAPPED],
        }
    }

    fn is_mapped(self) -> bool {
        match self {
            Home::Device => false,
            Home::Written | Home::Read | Home::Staging => true,
        }
    }
}

/// A buffer and its memory.
pub(super) struct Buffer {
    pub(super) raw: vk::Buffer,
    pub(super) bytes: u64,
    memory: vk::DeviceMemory,
    mapped: Option<NonNull<u8>>,
    device: Arc<LogicalDevice>,
}

// SAFETY: the mapping is plain memory that stays where it is; every access to it needs a reference to the buffer, and
// writing to it a mutable one.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

impl Buffer {
    /// A buffer of at least `bytes` bytes, with whatever the memory held. `what` it is for is said in errors.
    pub(super) fn new(
        device: &Arc<LogicalDevice>,
        bytes: u64,
        home: Home,
        what: &str,
    ) -> Result<Self, DriverError> {
        // Filling works on whole words, and no buffer is empty.
        let bytes = bytes.max(4).next_multiple_of(4);
        let most = device.abilities.limits.buffer_bytes;
        if bytes > most {
            return Err(unavailable(format!(
                "{what} takes {bytes} bytes in one piece, and {} allows {most}",
                device.title
            )));
        }
        let doing = || format!("allocate {bytes} bytes for {what}");
        let create = vk::BufferCreateInfo::default().size(bytes).usage(USAGE);
        // SAFETY: the device is alive and the size within its limits.
        let raw = unsafe { device.raw.create_buffer(&create, None) }
            .map_err(|result| refused(&doing(), result))?;
        let mut buffer = Self {
            raw,
            bytes,
            memory: vk::DeviceMemory::null(),
            mapped: None,
            device: Arc::clone(device),
        };
        // SAFETY: the buffer was just made.
        let needs = unsafe { device.raw.get_buffer_memory_requirements(raw) };
        let wanted = home.wanted(device.abilities.unified_memory);
        let types = memory_types(&device.memory, needs.memory_type_bits, wanted);
        let mut last = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        for index in types {
            let allocate = vk::MemoryAllocateInfo::default()
                .allocation_size(needs.size)
                .memory_type_index(index);
            // SAFETY: size and type are those that the buffer asked for.
            match unsafe { device.raw.allocate_memory(&allocate, None) } {
                Ok(memory) => {
                    buffer.memory = memory;
                    break;
                }
                Err(result) => last = result,
            }
        }
        if buffer.memory == vk::DeviceMemory::null() {
            return Err(refused(&doing(), last));
        }
        // SAFETY: the memory is of a type and size that the buffer takes, and neither is bound yet.
        unsafe { device.raw.bind_buffer_memory(raw, buffer.memory, 0) }
            .map_err(|result| refused(&doing(), result))?;
        if home.is_mapped() {
            // SAFETY: the memory is host-visible and not mapped.
            let at = unsafe {
                device.raw.map_memory(
                    buffer.memory,
                    0,
                    vk::WHOLE_SIZE,
                    vk::MemoryMapFlags::empty(),
                )
            }
            .map_err(|result| refused(&doing(), result))?;
            buffer.mapped = NonNull::new(at.cast());
        }
        Ok(buffer)
    }

    /// The processor's memory at `bytes` as a buffer that the GPU only reads, without a copy. `None` where the driver
    /// refuses: some take no pages of files.
    ///
    /// # Safety
    /// `bytes` starts and ends at multiples of the device's import alignment, and is valid and unchanged until the
    /// buffer is dropped.
    pub(super) unsafe fn import(device: &Arc<LogicalDevice>, bytes: &[u8]) -> Option<Self> {
        const HOST: vk::ExternalMemoryHandleTypeFlags =
            vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let commands = device.import.as_ref()?;
        let at = bytes.as_ptr().cast_mut().cast();
        let mut allowed = vk::MemoryHostPointerPropertiesEXT::default();
        // SAFETY: the extension is switched on, and the caller vouches for pointer and length.
        unsafe {
            (commands.fp().get_memory_host_pointer_properties_ext)(
                device.raw.handle(),
                HOST,
                at,
                &mut allowed,
            )
        }
        .result()
        .ok()?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST);
        let create = vk::BufferCreateInfo::default()
            .size(bytes.len() as u64)
            .usage(vk::BufferUsageFlags::STORAGE_BUFFER)
            .push_next(&mut external);
        // SAFETY: the device is alive; sizes were limited by the caller's segments.
        let raw = unsafe { device.raw.create_buffer(&create, None) }.ok()?;
        let mut buffer = Self {
            raw,
            bytes: bytes.len() as u64,
            memory: vk::DeviceMemory::null(),
            mapped: None,
            device: Arc::clone(device),
        };
        // SAFETY: the buffer was just made.
        let needs = unsafe { device.raw.get_buffer_memory_requirements(raw) };
        if needs.size > buffer.bytes {
            return None;
        }
        let types = memory_types(
            &device.memory,
            needs.memory_type_bits & allowed.memory_type_bits,
            const { &[Flags::DEVICE_LOCAL, Flags::empty()] },
        );
        for index in types {
            let mut pages = vk::ImportMemoryHostPointerInfoEXT::default()
                .handle_type(HOST)
                .host_pointer(at);
            let allocate = vk::MemoryAllocateInfo::default()
                .allocation_size(buffer.bytes)
                .memory_type_index(index)
                .push_next(&mut pages);
            // SAFETY: the type is one that both the pages and the buffer take; the caller vouches for the rest.
            if let Ok(memory) = unsafe { device.raw.allocate_memory(&allocate, None) } {
                buffer.memory = memory;
                // SAFETY: the memory is of a type and size that the buffer takes, and neither is bound yet.
                let bound = unsafe { device.raw.bind_buffer_memory(raw, memory, 0) };
                return bound.ok().map(|()| buffer);
            }
        }
        None
    }

    /// The mapped bytes.
    ///
    /// # Panics
    /// When the buffer is the GPU's alone.
    pub(super) fn mapped(&self) -> *mut u8 {
        self.mapped
            .expect("only buffers with a home that is mapped are asked")
            .as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: drivers wait for the GPU before they let go of their buffers; freeing memory unmaps it, and null
        // handles are allowed.
        unsafe {
            self.device.raw.destroy_buffer(self.raw, None);
            self.device.raw.free_memory(self.memory, None);
        }
    }
}

/// Types of memory among `allowed` with all of the first flags wanted, then with all of the second, and so on.
fn memory_types<'a>(
    memory: &'a vk::PhysicalDeviceMemoryProperties,
    allowed: u32,
    wanted: &'a [Flags],
) -> impl Iterator<Item = u32> + 'a {
    wanted.iter().flat_map(move |&flags| {
        (0..memory.memory_type_count).filter(move |&index| {
            allowed & (1 << index) != 0
                && memory.memory_types[index as usize]
                    .property_flags
                    .contains(flags)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_types_come_in_the_order_of_the_wishes() {
        let mut memory = vk::PhysicalDeviceMemoryProperties {
            memory_type_count: 4,
            ..vk::PhysicalDeviceMemoryProperties::default()
        };
        for (index, flags) in [
            Flags::DEVICE_LOCAL,
            Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
            Flags::HOST_VISIBLE | Flags::HOST_COHERENT | Flags::HOST_CACHED,
            Flags::HOST_VISIBLE | Flags::HOST_COHERENT | Flags::DEVICE_LOCAL,
        ]
        .into_iter()
        .enumerate()
        {
            memory.memory_types[index].property_flags = flags;
        }
        let types = |allowed, home: Home| -> Vec<u32> {
            memory_types(&memory, allowed, home.wanted(false)).collect()
        };
        assert_eq!(types(0b1111, Home::Device), [0, 3]);
        let shared: Vec<u32> = memory_types(&memory, 0b1111, Home::Device.wanted(true)).collect();
        assert_eq!(shared[..2], [0, 3]);
        assert!(shared.contains(&1));
        assert_eq!(types(0b1111, Home::Written), [3, 1, 2, 3]);
        assert_eq!(types(0b1111, Home::Read)[0], 2);
        assert_eq!(types(0b0010, Home::Written), [1]);
        assert!(types(0b0001, Home::Staging).is_empty());
    }
}
