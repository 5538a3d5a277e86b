//! One Vulkan device that compiles pipelines and tells what became of them.
//!
//! Owns everything unsafe: the calls of Vulkan. Submits nothing and allocates no memory on the device, so that RADV's null
//! device, which is no hardware at all, is enough. Which device the loader finds is up to the process's environment, see
//! [`super::mesa`].

use super::{Abilities, IsaError, Job};
use ash::{khr, vk};
use gembin_bundle::gpu::MatrixShape;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char};

/// What a pipeline became, in the driver's own words.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Executable {
    /// Invocations of a subgroup: the wave size.
    pub subgroup: u32,
    /// Name and value of each of the driver's figures.
    pub statistics: Vec<(String, f64)>,
    /// Name and content of each form of the code.
    pub texts: Vec<(String, String)>,
}

/// A device that compiles.
pub struct Radv {
    // Keeps the loader open as long as its functions are called.
    _entry: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    executable: khr::pipeline_executable_properties::Device,
    abilities: Abilities,
}

const WANTED: &CStr = khr::pipeline_executable_properties::NAME;

impl Radv {
    /// Opens the first device that the environment selects.
    ///
    /// # Errors
    /// When there is none, or it does not tell what pipelines become.
    pub fn open() -> Result<Self, IsaError> {
        // SAFETY: the library's initialisers run; it is the system's or the chosen Mesa's Vulkan loader.
        let entry =
            unsafe { ash::Entry::load() }.map_err(|error| IsaError::Loader(error.to_string()))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structures live until the call returns, and `entry` is kept beside the instance.
        let instance = unsafe { entry.create_instance(&create, None) }
            .map_err(|error| refused("vkCreateInstance", error))?;
        // The loader must stay open until the instance is gone.
        match Self::open_device(&entry, &instance) {
            Ok((device, abilities)) => Ok(Self {
                executable: khr::pipeline_executable_properties::Device::new(&instance, &device),
                _entry: entry,
                instance,
                device,
                abilities,
            }),
            Err(error) => {
                // SAFETY: nothing was made of the instance that still lives.
                unsafe { instance.destroy_instance(None) };
                Err(error)
            }
        }
    }

    fn open_device(
        entry: &ash::Entry,
        instance: &ash::Instance,
    ) -> Result<(ash::Device, Abilities), IsaError> {
        // SAFETY: the instance is valid.
        let devices = unsafe { instance.enumerate_physical_devices() }
            .map_err(|error| refused("vkEnumeratePhysicalDevices", error))?;
        let physical = *devices.first().ok_or(IsaError::NoDevice)?;
        // SAFETY: `physical` is a device of `instance`.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
            .map_err(|error| refused("vkEnumerateDeviceExtensionProperties", error))?;
        let has = |name: &CStr| {
            extensions
                .iter()
                .any(|e| e.extension_name_as_c_str() == Ok(name))
        };
        if !has(WANTED) {
            return Err(IsaError::Silent);
        }
        let matrices = has(khr::cooperative_matrix::NAME);
        let abilities = abilities(entry, instance, physical, matrices)?;

        let mut enabled = vec![WANTED.as_ptr()];
        // Everything that a kernel may use is switched on, as far as the device has it, and with it the checks of bounds
        // that the program that dispatches the kernels asks for too.
        let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
        let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
        let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
        let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut told = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
        let mut features = vk::PhysicalDeviceFeatures2::default()
            .push_next(&mut v11)
            .push_next(&mut v12)
            .push_next(&mut v13)
            .push_next(&mut told);
        if matrices {
            features = features.push_next(&mut matrix);
            enabled.push(khr::cooperative_matrix::NAME.as_ptr());
        }
        // SAFETY: each structure of the chain is of a version or an extension that the device has, and outlives the call.
        unsafe { instance.get_physical_device_features2(physical, &mut features) };

        // SAFETY: `physical` is a device of `instance`.
        let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
        let family = families
            .iter()
            .position(|family| family.queue_flags.contains(vk::QueueFlags::COMPUTE))
            .ok_or(IsaError::NoDevice)?;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family as u32)
            .queue_priorities(&[1.0])];
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&enabled)
            .push_next(&mut features);
        // SAFETY: features and extensions are ones that the device has; the structures outlive the call.
        let device = unsafe { instance.create_device(physical, &create, None) }
            .map_err(|error| refused("vkCreateDevice", error))?;
        Ok((device, abilities))
    }

    /// What the device can do.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Compiles a kernel, with a subgroup size or the driver's choice.
    ///
    /// # Errors
    /// When the driver refuses it. Code that is not valid SPIR-V may end the process instead.
    pub fn compile(&self, job: &Job, subgroup: Option<u32>) -> Result<Executable, IsaError> {
        let bindings: Vec<_> = (0..job.bindings)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is valid and the structures outlive the call.
        let set = unsafe { self.device.create_descriptor_set_layout(&create, None) }
            .map_err(|error| refused("vkCreateDescriptorSetLayout", error))?;
        let result = self.compile_with_set(job, subgroup, set);
        // SAFETY: whatever used the layout has been destroyed.
        unsafe { self.device.destroy_descriptor_set_layout(set, None) };
        result
    }

    fn compile_with_set(
        &self,
        job: &Job,
        subgroup: Option<u32>,
        set: vk::DescriptorSetLayout,
    ) -> Result<Executable, IsaError> {
        let sets = [set];
        let constants = [vk::PushConstantRange::default()
            .size(job.immediates * 4)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)];
        let mut create = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        if job.immediates > 0 {
            create = create.push_constant_ranges(&constants);
        }
        // SAFETY: the set layout is valid and the structures outlive the call.
        let layout = unsafe { self.device.create_pipeline_layout(&create, None) }
            .map_err(|error| refused("vkCreatePipelineLayout", error))?;
        let result = self.compile_with_layout(job, subgroup, layout);
        // SAFETY: whatever used the layout has been destroyed.
        unsafe { self.device.destroy_pipeline_layout(layout, None) };
        result
    }

    fn compile_with_layout(
        &self,
        job: &Job,
        subgroup: Option<u32>,
        layout: vk::PipelineLayout,
    ) -> Result<Executable, IsaError> {
        let create = vk::ShaderModuleCreateInfo::default().code(&job.code);
        // SAFETY: the code is whole 32-bit words. That it is valid SPIR-V is its maker's promise; this process exists to
        // end alone where that is broken.
        let module = unsafe { self.device.create_shader_module(&create, None) }
            .map_err(|error| refused("vkCreateShaderModule", error))?;
        let mut required = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
            .required_subgroup_size(subgroup.unwrap_or(0));
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        if subgroup.is_some() {
            stage = stage.push_next(&mut required);
        }
        let create = vk::ComputePipelineCreateInfo::default()
            .stage(stage)
            .layout(layout)
            .flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            );
        // SAFETY: module and layout are valid, and the structures outlive the call.
        let made = unsafe {
            self.device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
        };
        // SAFETY: a module may go as soon as its pipelines are made.
        unsafe { self.device.destroy_shader_module(module, None) };
        let pipeline = made.map_err(|(_, error)| refused("vkCreateComputePipelines", error))?[0];
        let result = self.describe(pipeline);
        // SAFETY: nothing was submitted that could use the pipeline.
        unsafe { self.device.destroy_pipeline(pipeline, None) };
        result
    }

    fn describe(&self, pipeline: vk::Pipeline) -> Result<Executable, IsaError> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline is valid.
        let parts = unsafe { self.executable.get_pipeline_executable_properties(&info) }
            .map_err(|error| refused("vkGetPipelineExecutablePropertiesKHR", error))?;
        let part = parts.first().ok_or(IsaError::Silent)?;
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was made to keep its statistics, and has a first executable.
        let statistics = unsafe { self.executable.get_pipeline_executable_statistics(&info) }
            .map_err(|error| refused("vkGetPipelineExecutableStatisticsKHR", error))?;
        Ok(Executable {
            subgroup: part.subgroup_size,
            statistics: statistics
                .iter()
                .map(|s| (name_of(&s.name), value_of(s)))
                .collect(),
            texts: self.texts(&info)?,
        })
    }

    /// The forms of the code that are text. ash's own method for it gives no room for the content.
    fn texts(
        &self,
        info: &vk::PipelineExecutableInfoKHR,
    ) -> Result<Vec<(String, String)>, IsaError> {
        const CALL: &str = "vkGetPipelineExecutableInternalRepresentationsKHR";
        // SAFETY: the pipeline was made to keep its forms.
        let mut forms = unsafe {
            self.executable
                .get_pipeline_executable_internal_representations(info)
        }
        .map_err(|error| refused(CALL, error))?;
        let mut contents: Vec<Vec<u8>> = forms.iter().map(|f| vec![0; f.data_size]).collect();
        for (form, content) in forms.iter_mut().zip(&mut contents) {
            form.p_data = content.as_mut_ptr().cast();
        }
        let mut count = forms.len() as u32;
        let call = self
            .executable
            .fp()
            .get_pipeline_executable_internal_representations_khr;
        // SAFETY: `forms` has `count` elements, and each points to as many writable bytes as it says.
        let result = unsafe { call(self.device.handle(), info, &mut count, forms.as_mut_ptr()) };
        if result != vk::Result::SUCCESS {
            return Err(refused(CALL, result));
        }
        let texts = forms
            .iter()
            .zip(contents)
            .filter(|(form, _)| form.is_text != 0);
        Ok(texts
            .map(|(form, mut content)| {
                content.truncate(form.data_size);
                let end = content.iter().position(|&byte| byte == 0);
                content.truncate(end.unwrap_or(content.len()));
                let text = String::from_utf8_lossy(&content).into_owned();
                (name_of(&form.name), text)
            })
            .collect())
    }
}

impl Drop for Radv {
    fn drop(&mut self) {
        // SAFETY: everything made of the device was destroyed where it was made, then it and its instance go.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

fn abilities(
    entry: &ash::Entry,
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    matrices: bool,
) -> Result<Abilities, IsaError> {
    let mut v11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut v13 = vk::PhysicalDeviceVulkan13Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default()
        .push_next(&mut v11)
        .push_next(&mut v13);
    // SAFETY: `physical` is a device of `instance`, of Vulkan 1.3, and the chain outlives the call.
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    let name = name_of(&properties.properties.device_name);
    let api = properties.properties.api_version;
    if api < vk::API_VERSION_1_3 {
        return Err(IsaError::Old { name });
    }
    let mut v11_features = vk::PhysicalDeviceVulkan11Features::default();
    let mut v12_features = vk::PhysicalDeviceVulkan12Features::default();
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut v11_features)
        .push_next(&mut v12_features);
    // SAFETY: as above.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let matrix = khr::cooperative_matrix::Instance::new(entry, instance);
    let shapes = if matrices {
        // SAFETY: the device has the extension.
        unsafe { matrix.get_physical_device_cooperative_matrix_properties(physical) }
            .map_err(|error| refused("vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR", error))?
    } else {
        Vec::new()
    };
    let mut offered: Vec<MatrixShape> = shapes.iter().filter_map(shape_of).collect();
    offered.dedup();
    Ok(Abilities {
        name,
        int_dot: v13.integer_dot_product4x8_bit_packed_signed_accelerated != 0,
        f16: v12_features.shader_float16 != 0 && v11_features.storage_buffer16_bit_access != 0,
        matrices: offered,
        subgroup_default: v11.subgroup_size,
        subgroup_least: v13.min_subgroup_size,
        subgroup_most: v13.max_subgroup_size,
    })
}

/// The shape that bundles know, if it is one.
fn shape_of(p: &vk::CooperativeMatrixPropertiesKHR) -> Option<MatrixShape> {
    use vk::ComponentTypeKHR as Type;
    if p.scope != vk::ScopeKHR::SUBGROUP {
        return None;
    }
    let types = [p.a_type, p.b_type, p.c_type, p.result_type];
    let floats = types == [Type::FLOAT16, Type::FLOAT16, Type::FLOAT32, Type::FLOAT32];
    let integers = types == [Type::SINT8, Type::SINT8, Type::SINT32, Type::SINT32];
    match [p.m_size, p.n_size, p.k_size] {
        [16, 16, 16] if floats => Some(MatrixShape::F16x16),
        [8, 8, 8] if floats => Some(MatrixShape::F16x8),
        [16, 16, 16] if integers => Some(MatrixShape::I8x16),
        [8, 8, 8] if integers => Some(MatrixShape::I8x8),
        [16, 16, 32] if integers => Some(MatrixShape::I8x16x32),
        _ => None,
    }
}

fn value_of(statistic: &vk::PipelineExecutableStatisticKHR) -> f64 {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    let value = statistic.value;
    // SAFETY: `format` says which field the driver has written.
    unsafe {
        match statistic.format {
            Format::BOOL32 => f64::from(value.b32),
            Format::INT64 => value.i64 as f64,
            Format::FLOAT64 => value.f64,
            _ => value.u64 as f64,
        }
    }
}

fn name_of(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name
        .iter()
        .map(|&c| c as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn refused(call: &'static str, error: vk::Result) -> IsaError {
    IsaError::Refused {
        call,
        reason: error.to_string(),
    }
}
