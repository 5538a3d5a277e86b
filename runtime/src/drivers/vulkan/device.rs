//! A logical device: the GPU opened with the features its kernels may use, its one queue, and its memory types.

use super::abilities::{Abilities, Gpu};
use super::errors::refused;
use super::instance::Instance;
use crate::drivers::DriverError;
use ash::vk;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An opened GPU. Everything made from it holds an `Arc` of it, so it goes last.
pub(super) struct LogicalDevice {
    pub(super) raw: ash::Device,
    pub(super) queue: vk::Queue,
    pub(super) abilities: Abilities,
    /// `AMD Radeon 780M (integrated, ...)`.
    pub(super) title: String,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    /// Commands for importing the processor's memory.
    pub(super) import: Option<ash::ext::external_memory_host::Device>,
    pub(super) instance: Arc<Instance>,
    /// See [`Self::abandon`].
    abandoned: AtomicBool,
}

impl LogicalDevice {
    /// Opens `gpu`, whose abilities are `abilities`. `robust`: buffers check their bounds, where it can do that.
    pub(super) fn open(
        instance: Arc<Instance>,
        gpu: &Gpu,
        abilities: &Abilities,
        robust: bool,
    ) -> Result<Arc<Self>, DriverError> {
        let has = &abilities.features;
        let core = vk::PhysicalDeviceFeatures::default()
            .robust_buffer_access(robust && has.robust)
            .shader_int16(has.int16)
            .shader_int64(has.int64);
        let mut features11 = vk::PhysicalDeviceVulkan11Features::default()
            .storage_buffer16_bit_access(has.storage16)
            .uniform_and_storage_buffer16_bit_access(has.uniform_storage16);
        let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
            .timeline_semaphore(true)
            .shader_float16(has.f16)
            .shader_int8(has.int8)
            .storage_buffer8_bit_access(has.storage8)
            .uniform_and_storage_buffer8_bit_access(has.uniform_storage8)
            .vulkan_memory_model(has.memory_model)
            .vulkan_memory_model_device_scope(has.memory_model_device_scope);
        let mut features13 = vk::PhysicalDeviceVulkan13Features::default()
            .shader_integer_dot_product(has.int_dot)
            .subgroup_size_control(has.subgroup_control)
            .compute_full_subgroups(has.subgroup_control)
            // Of every device of Vulkan 1.3.
            .maintenance4(true);
        let mut matrix =
            vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut extensions: Vec<&CStr> = Vec::new();
        if has.cooperative_matrix {
            extensions.push(ash::khr::cooperative_matrix::NAME);
        }
        if abilities.import_align.is_some() {
            extensions.push(ash::ext::external_memory_host::NAME);
        }
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(abilities.family)
            .queue_priorities(&priorities)];
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .enabled_features(&core)
            .push_next(&mut features11)
            .push_next(&mut features12)
            .push_next(&mut features13);
        if has.cooperative_matrix {
            create = create.push_next(&mut matrix);
        }
        // SAFETY: `gpu` was listed by this instance; the extensions and features asked for are ones that it has.
        let raw = unsafe { instance.raw.create_device(gpu.physical, &create, None) }
            .map_err(|result| refused(&format!("open {}", gpu.name), result))?;
        // SAFETY: the device was made with one queue of that family.
        let queue = unsafe { raw.get_device_queue(abilities.family, 0) };
        // SAFETY: `gpu` was listed by this instance.
        let memory = unsafe {
            instance
                .raw
                .get_physical_device_memory_properties(gpu.physical)
        };
        let import = abilities
            .import_align
            .map(|_| ash::ext::external_memory_host::Device::new(&instance.raw, &raw));
        Ok(Arc::new(Self {
            raw,
            queue,
            title: gpu.title(abilities),
            abilities: abilities.clone(),
            memory,
            import,
            instance,
            abandoned: AtomicBool::new(false),
        }))
    }

    /// The GPU hangs with work that may still use everything: nothing is destroyed from now on.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether it was abandoned.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

impl Drop for LogicalDevice {
    fn drop(&mut self) {
        if self.is_abandoned() {
            // The instance, and the library behind it, must stay too.
            std::mem::forget(Arc::clone(&self.instance));
            return;
        }
        // SAFETY: whatever was made from the device held an `Arc` of it and is gone.
        unsafe { self.raw.destroy_device(None) };
    }
}
