//! What a GPU can do: asked of Vulkan once, as plain facts that the rest of the driver and `gemrun devices` decide by.
//!
//! Also the GPUs of this machine in the order of their indices, with the reason why one cannot be used. Which of them
//! is taken is in `select`, which kernels it can run in `variants`.

use super::instance::Instance;
use ash::vk;
use gembin_bundle::gpu::{MAX_BINDINGS, MatrixShape};
use std::ffi::CStr;
use std::fmt;

/// Storage buffers that a kernel can have.
const STORAGE_BUFFERS: u32 = MAX_BINDINGS as u32;
/// Alignment of the arena's buffers.
const ARENA_ALIGN: u64 = 64;
/// What the smallest variants of kernels need.
const LEAST_INVOCATIONS: u32 = 512;
/// As above, bytes of workgroup memory.
const LEAST_WORKGROUP_BYTES: u32 = 16 << 10;

/// What kind of GPU it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Shares the processor's memory.
    Integrated,
    /// Has memory of its own.
    Discrete,
    /// Of a virtual machine.
    Virtual,
    /// The processor, pretending: for tests.
    Software,
    /// None of these.
    Other,
}

impl Kind {
    /// The word shown to users.
    fn name(self) -> &'static str {
        match self {
            Kind::Integrated => "integrated",
            Kind::Discrete => "discrete",
            Kind::Virtual => "virtual",
            Kind::Software => "software",
            Kind::Other => "other",
        }
    }
}

/// One of this machine's GPUs.
pub struct Gpu {
    /// Its place in Vulkan's list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What kind it is.
    pub kind: Kind,
    /// What it can do, or why it cannot be used.
    pub abilities: Result<Abilities, String>,
    pub(super) physical: vk::PhysicalDevice,
}

impl Gpu {
    /// Its abilities for people, or why it cannot be used.
    ///
    /// # Errors
    /// The reason.
    pub fn about(&self) -> Result<String, String> {
        match &self.abilities {
            Ok(abilities) => Ok(format!(
                "{}, {}, driver {}",
                self.title(abilities),
                memory(abilities.memory_bytes, abilities.unified_memory),
                abilities.driver
            )),
            Err(reason) => Err(format!("{}: {reason}", self.name)),
        }
    }

    /// `AMD Radeon 780M (integrated, wave 32..64, int dot, f16, matrix f16 16x16x16)`.
    pub fn title(&self, abilities: &Abilities) -> String {
        format!("{} ({}, {abilities})", self.name, self.kind.name())
    }
}

/// `12.0 GiB shared with the processor`.
fn memory(bytes: u64, unified: bool) -> String {
    let shared = if unified {
        " shared with the processor"
    } else {
        ""
    };
    format!("{:.1} GiB{shared}", bytes as f64 / f64::from(1 << 30))
}

/// What a usable GPU can do.
#[derive(Clone)]
pub struct Abilities {
    /// Name and version of its driver.
    pub driver: String,
    /// Invocations that run in lockstep: fewest, most.
    pub subgroup: (u32, u32),
    /// Their number where a kernel does not ask.
    pub subgroup_default: u32,
    /// A kernel can ask for a subgroup size, and for full subgroups.
    pub subgroup_control: bool,
    /// 4x8-bit packed signed dot products are done by the hardware.
    pub fast_int_dot: bool,
    /// They can be used at all.
    pub int_dot: bool,
    /// Arithmetic on f16 and f16 in storage buffers.
    pub f16: bool,
    /// Cooperative matrices at subgroup scope.
    pub matrices: Vec<MatrixShape>,
    /// The processor's memory is the GPU's.
    pub unified_memory: bool,
    /// Size of its largest heap of device-local memory.
    pub memory_bytes: u64,
    /// Alignment at which it can import the processor's memory; `None`: it cannot.
    pub import_align: Option<u64>,
    pub(super) limits: Limits,
    pub(super) features: Features,
    pub(super) kind: Kind,
    /// Queue family for compute.
    pub(super) family: u32,
    /// Key of what the driver compiles.
    pub(super) cache_uuid: [u8; vk::UUID_SIZE],
    /// Vendor, device and driver version.
    pub(super) ids: [u32; 3],
    /// Bits of the queue's timestamps; 0: it has none.
    pub(super) timestamp_bits: u32,
    /// Nanoseconds of a tick of theirs.
    pub(super) timestamp_ns: f32,
}

/// Numbers that kernels, buffers and dispatches must stay within.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) storage_range: u64,
    pub(super) buffer_bytes: u64,
    pub(super) workgroup_bytes: u32,
    pub(super) workgroup_invocations: u32,
    pub(super) workgroup_size: [u32; 3],
    pub(super) workgroup_subgroups: u32,
    pub(super) groups: [u32; 3],
}

/// Features that are switched on where the GPU has them: what SPIR-V capabilities depend on.
#[derive(Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) int8: bool,
    pub(super) int16: bool,
    pub(super) int64: bool,
    pub(super) storage8: bool,
    pub(super) storage16: bool,
    pub(super) uniform_storage8: bool,
    pub(super) uniform_storage16: bool,
    pub(super) f16: bool,
    pub(super) int_dot: bool,
    pub(super) memory_model: bool,
    pub(super) memory_model_device_scope: bool,
    pub(super) cooperative_matrix: bool,
    pub(super) subgroup_control: bool,
    pub(super) robust: bool,
    pub(super) subgroup_operations: vk::SubgroupFeatureFlags,
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subgroup {
            (least, most) if least == most => write!(f, "wave {least}")?,
            (least, most) => write!(f, "wave {least}..{most}")?,
        }
        if self.fast_int_dot {
            f.write_str(", int dot")?;
        } else if self.int_dot {
            f.write_str(", slow int dot")?;
        }
        if self.f16 {
            f.write_str(", f16")?;
        }
        for &shape in &self.matrices {
            write!(f, ", matrix {}", shape_name(shape))?;
        }
        Ok(())
    }
}

/// Every kind of matrix, for looking.
const SHAPES: [MatrixShape; 5] = [
    MatrixShape::F16x16,
    MatrixShape::F16x8,
    MatrixShape::I8x16,
    MatrixShape::I8x8,
    MatrixShape::I8x16x32,
];

/// The words shown to users.
pub(super) fn shape_name(shape: MatrixShape) -> &'static str {
    match shape {
        MatrixShape::F16x16 => "f16 16x16x16",
        MatrixShape::F16x8 => "f16 8x8x8",
        MatrixShape::I8x16 => "int8 16x16x16",
        MatrixShape::I8x8 => "int8 8x8x8",
        MatrixShape::I8x16x32 => "int8 16x16x32",
    }
}

/// Every GPU of this machine.
///
/// # Errors
/// When there is none.
pub(super) fn enumerate(instance: &Instance) -> Result<Vec<Gpu>, String> {
    // SAFETY: the instance is alive.
    let physical =
        unsafe { instance.raw.enumerate_physical_devices() }.map_err(super::errors::explain)?;
    if physical.is_empty() {
        return Err("no GPU with a Vulkan driver on this machine".into());
    }
    Ok(physical
        .into_iter()
        .enumerate()
        .map(|(index, physical)| examine(instance, index, physical))
        .collect())
}

fn examine(instance: &Instance, index: usize, physical: vk::PhysicalDevice) -> Gpu {
    // SAFETY: `physical` is of this instance.
    let properties = unsafe { instance.raw.get_physical_device_properties(physical) };
    let kind = match properties.device_type {
        vk::PhysicalDeviceType::INTEGRATED_GPU => Kind::Integrated,
        vk::PhysicalDeviceType::DISCRETE_GPU => Kind::Discrete,
        vk::PhysicalDeviceType::VIRTUAL_GPU => Kind::Virtual,
        vk::PhysicalDeviceType::CPU => Kind::Software,
        _ => Kind::Other,
    };
    Gpu {
        index,
        name: text(properties.device_name_as_c_str().ok()),
        kind,
        abilities: abilities(instance, physical, &properties, kind),
        physical,
    }
}

fn text(name: Option<&CStr>) -> String {
    name.map_or_else(
        || "unnamed".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What the device can do, or the first thing that it lacks.
fn abilities(
    connection: &Instance,
    physical: vk::PhysicalDevice,
    properties: &vk::PhysicalDeviceProperties,
    kind: Kind,
) -> Result<Abilities, String> {
    if properties.api_version < vk::API_VERSION_1_3 {
        return Err(format!(
            "its driver has Vulkan {}.{}, and 1.3 is needed; install a newer driver",
            vk::api_version_major(properties.api_version),
            vk::api_version_minor(properties.api_version)
        ));
    }
    let instance = &connection.raw;
    // SAFETY: `physical` is of this instance.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let family = compute_family(&families).ok_or("it has no queue for compute")?;

    // SAFETY: as above.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
        .map_err(super::errors::explain)?;
    let has = |name: &CStr| {
        extensions
            .iter()
            .any(|e| e.extension_name_as_c_str().ok() == Some(name))
    };
    let has_matrix = has(ash::khr::cooperative_matrix::NAME);
    let has_import = has(ash::ext::external_memory_host::NAME);

    let mut features11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut features12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut features13 = vk::PhysicalDeviceVulkan13Features::default();
    let mut matrix_features = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut features11)
        .push_next(&mut features12)
        .push_next(&mut features13);
    if has_matrix {
        features = features.push_next(&mut matrix_features);
    }
    // SAFETY: the chain holds structures of Vulkan 1.3, which the device has, and of an extension only where it has
    // that.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let core = features.features;

    let mut properties11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut properties12 = vk::PhysicalDeviceVulkan12Properties::default();
    let mut properties13 = vk::PhysicalDeviceVulkan13Properties::default();
    let mut matrix_properties = vk::PhysicalDeviceCooperativeMatrixPropertiesKHR::default();
    let mut import_properties = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut chain = vk::PhysicalDeviceProperties2::default()
        .push_next(&mut properties11)
        .push_next(&mut properties12)
        .push_next(&mut properties13);
    if has_matrix {
        chain = chain.push_next(&mut matrix_properties);
    }
    if has_import {
        chain = chain.push_next(&mut import_properties);
    }
    // SAFETY: as for the features.
    unsafe { instance.get_physical_device_properties2(physical, &mut chain) };

    // SAFETY: `physical` is of this instance.
    let memory = unsafe { instance.get_physical_device_memory_properties(physical) };

    if features12.timeline_semaphore == vk::FALSE {
        return Err("it has no timeline semaphores".into());
    }
    let device = &properties.limits;
    if device.max_per_stage_descriptor_storage_buffers < STORAGE_BUFFERS {
        return Err(format!(
            "a kernel can have {} storage buffers, and {STORAGE_BUFFERS} are needed",
            device.max_per_stage_descriptor_storage_buffers
        ));
    }
    if device.min_storage_buffer_offset_alignment > ARENA_ALIGN {
        return Err(format!(
            "its buffers must be aligned to {} bytes, and {ARENA_ALIGN} is the most that is supported",
            device.min_storage_buffer_offset_alignment
        ));
    }
    if device.max_compute_work_group_invocations < LEAST_INVOCATIONS {
        return Err(format!(
            "a workgroup can have {} invocations, and {LEAST_INVOCATIONS} are needed",
            device.max_compute_work_group_invocations
        ));
    }
    if device.max_compute_shared_memory_size < LEAST_WORKGROUP_BYTES {
        return Err(format!(
            "a workgroup can have {} bytes of shared memory, and {LEAST_WORKGROUP_BYTES} are needed",
            device.max_compute_shared_memory_size
        ));
    }

    let subgroup_control = features13.subgroup_size_control == vk::TRUE
        && features13.compute_full_subgroups == vk::TRUE
        && properties13
            .required_subgroup_size_stages
            .contains(vk::ShaderStageFlags::COMPUTE);
    let subgroup_operations = if properties11
        .subgroup_supported_stages
        .contains(vk::ShaderStageFlags::COMPUTE)
    {
        properties11.subgroup_supported_operations
    } else {
        vk::SubgroupFeatureFlags::empty()
    };
    let cooperative_matrix = has_matrix
        && matrix_features.cooperative_matrix == vk::TRUE
        && matrix_properties
            .cooperative_matrix_supported_stages
            .contains(vk::ShaderStageFlags::COMPUTE);
    let features = Features {
        int8: features12.shader_int8 == vk::TRUE,
        int16: core.shader_int16 == vk::TRUE,
        int64: core.shader_int64 == vk::TRUE,
        storage8: features12.storage_buffer8_bit_access == vk::TRUE,
        storage16: features11.storage_buffer16_bit_access == vk::TRUE,
        uniform_storage8: features12.uniform_and_storage_buffer8_bit_access == vk::TRUE,
        uniform_storage16: features11.uniform_and_storage_buffer16_bit_access == vk::TRUE,
        f16: features12.shader_float16 == vk::TRUE,
        int_dot: features13.shader_integer_dot_product == vk::TRUE,
        memory_model: features12.vulkan_memory_model == vk::TRUE,
        memory_model_device_scope: features12.vulkan_memory_model_device_scope == vk::TRUE,
        cooperative_matrix,
        subgroup_control,
        robust: core.robust_buffer_access == vk::TRUE,
        subgroup_operations,
    };
    let matrices = if cooperative_matrix {
        matrix_shapes(connection, physical)?
    } else {
        Vec::new()
    };
    let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
    let local = |heap: &&vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let unified_memory = match kind {
        Kind::Integrated | Kind::Software => true,
        Kind::Discrete | Kind::Virtual => false,
        Kind::Other => heaps.iter().all(|heap| local(&heap)),
    };
    let driver = [
        text(properties12.driver_name_as_c_str().ok()),
        text(properties12.driver_info_as_c_str().ok()),
    ]
    .join(" ");
    Ok(Abilities {
        driver: driver.trim().to_owned(),
        subgroup: if subgroup_control {
            (
                properties13.min_subgroup_size,
                properties13.max_subgroup_size,
            )
        } else {
            (properties11.subgroup_size, properties11.subgroup_size)
        },
        subgroup_default: properties11.subgroup_size,
        subgroup_control,
        fast_int_dot: features.int_dot
            && properties13.integer_dot_product4x8_bit_packed_signed_accelerated == vk::TRUE,
        int_dot: features.int_dot,
        f16: features.f16 && features.storage16,
        matrices,
        unified_memory,
        memory_bytes: heaps
            .iter()
            .filter(local)
            .map(|h| h.size)
            .max()
            .unwrap_or(0),
        import_align: has_import
            .then_some(import_properties.min_imported_host_pointer_alignment)
            .filter(|align| align.is_power_of_two()),
        limits: Limits {
            storage_range: u64::from(device.max_storage_buffer_range),
            buffer_bytes: properties11.max_memory_allocation_size.min(
                if features13.maintenance4 == vk::TRUE {
                    properties13.max_buffer_size
                } else {
                    u64::MAX
                },
            ),
            workgroup_bytes: device.max_compute_shared_memory_size,
            workgroup_invocations: device.max_compute_work_group_invocations,
            workgroup_size: device.max_compute_work_group_size,
            workgroup_subgroups: properties13.max_compute_workgroup_subgroups,
            groups: device.max_compute_work_group_count,
        },
        features,
        kind,
        family,
        cache_uuid: properties.pipeline_cache_uuid,
        ids: [
            properties.vendor_id,
            properties.device_id,
            properties.driver_version,
        ],
        timestamp_bits: families[family as usize].timestamp_valid_bits,
        timestamp_ns: device.timestamp_period,
    })
}

/// The queue family to compute on: rather one that does not also draw the desktop.
fn compute_family(families: &[vk::QueueFamilyProperties]) -> Option<u32> {
    let find = |avoid: vk::QueueFlags| {
        families.iter().position(|family| {
            family.queue_count > 0
                && family.queue_flags.contains(vk::QueueFlags::COMPUTE)
                && !family.queue_flags.intersects(avoid)
        })
    };
    find(vk::QueueFlags::GRAPHICS)
        .or_else(|| find(vk::QueueFlags::empty()))
        .map(|index| index as u32)
}

/// The shapes of matrices that kernels can be made for.
fn matrix_shapes(
    instance: &Instance,
    physical: vk::PhysicalDevice,
) -> Result<Vec<MatrixShape>, String> {
    let commands = ash::khr::cooperative_matrix::Instance::new(&instance.entry, &instance.raw);
    // SAFETY: `physical` is of this instance and has the extension.
    let offered = unsafe { commands.get_physical_device_cooperative_matrix_properties(physical) }
        .map_err(super::errors::explain)?;
    Ok(SHAPES
        .into_iter()
        .filter(|&shape| offered.iter().any(|offer| is_shape(offer, shape)))
        .collect())
}

/// Whether the device's offer is a multiply of that shape.
fn is_shape(offer: &vk::CooperativeMatrixPropertiesKHR<'_>, shape: MatrixShape) -> bool {
    use vk::ComponentTypeKHR as T;
    let (size, depth, factor, sum) = match shape {
        MatrixShape::F16x16 => (16, 16, T::FLOAT16, T::FLOAT32),
        MatrixShape::F16x8 => (8, 8, T::FLOAT16, T::FLOAT32),
        MatrixShape::I8x16 => (16, 16, T::SINT8, T::SINT32),
        MatrixShape::I8x8 => (8, 8, T::SINT8, T::SINT32),
        MatrixShape::I8x16x32 => (16, 32, T::SINT8, T::SINT32),
    };
    (offer.m_size, offer.n_size, offer.k_size) == (size, size, depth)
        && (offer.a_type, offer.b_type) == (factor, factor)
        && (offer.c_type, offer.result_type) == (sum, sum)
        && offer.scope == vk::ScopeKHR::SUBGROUP
        && offer.saturating_accumulation == vk::FALSE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(flags: vk::QueueFlags) -> vk::QueueFamilyProperties {
        vk::QueueFamilyProperties {
            queue_flags: flags,
            queue_count: 1,
            ..vk::QueueFamilyProperties::default()
        }
    }

    #[test]
    fn a_queue_for_compute_alone_is_preferred() {
        let graphics = family(vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE);
        let transfer = family(vk::QueueFlags::TRANSFER);
        let compute = family(vk::QueueFlags::COMPUTE | vk::QueueFlags::TRANSFER);
        assert_eq!(compute_family(&[transfer, graphics, compute]), Some(2));
        assert_eq!(compute_family(&[transfer, graphics]), Some(1));
        assert_eq!(compute_family(&[transfer]), None);
    }

    #[test]
    fn an_offer_is_a_shape_only_if_every_part_fits() {
        let offer = vk::CooperativeMatrixPropertiesKHR {
            m_size: 16,
            n_size: 16,
            k_size: 16,
            a_type: vk::ComponentTypeKHR::FLOAT16,
            b_type: vk::ComponentTypeKHR::FLOAT16,
            c_type: vk::ComponentTypeKHR::FLOAT32,
            result_type: vk::ComponentTypeKHR::FLOAT32,
            scope: vk::ScopeKHR::SUBGROUP,
            ..vk::CooperativeMatrixPropertiesKHR::default()
        };
        assert!(is_shape(&offer, MatrixShape::F16x16));
        assert!(!is_shape(&offer, MatrixShape::F16x8));
        assert!(!is_shape(&offer, MatrixShape::I8x16));
        let half_sums = vk::CooperativeMatrixPropertiesKHR {
            result_type: vk::ComponentTypeKHR::FLOAT16,
            ..offer
        };
        assert!(!is_shape(&half_sums, MatrixShape::F16x16));
    }
}
