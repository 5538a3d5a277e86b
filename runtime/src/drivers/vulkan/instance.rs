//! The connection to Vulkan: the loader opened at run time, an instance, the validation layer's messages.
//!
//! The program links to no Vulkan library: a machine without one runs everything else. Which GPUs there are and what
//! they can do is in `abilities`.

use super::errors::explain;
use ash::vk;
use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// The layer that checks every call against the specification.
const VALIDATION_LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// How much is checked against Vulkan's specification, by the validation layer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Validation {
    /// Nothing.
    #[default]
    Off,
    /// Every call.
    Calls,
    /// Every call, and that barriers stand wherever one dispatch needs what another writes.
    Synchronization,
}

/// Messages of the validation layer.
#[derive(Default)]
struct Messages(Mutex<Vec<String>>);

/// An instance of Vulkan.
pub(super) struct Instance {
    pub(super) raw: ash::Instance,
    /// Boxed: the messenger holds its address.
    messages: Box<Messages>,
    /// Keeps the loader's library open.
    pub(super) entry: ash::Entry,
}

/// The instances of this process, which stay until it ends. Drivers leave destructors of their threads' data behind, so
/// one that is unloaded while a thread lives takes the process with it, and one that is loaded again and again runs out
/// of room for such data.
static INSTANCES: Mutex<Vec<Arc<Instance>>> = Mutex::new(Vec::new());
/// The one of them that all share who want no validation.
static PLAIN: Mutex<Option<Arc<Instance>>> = Mutex::new(None);

impl Instance {
    /// The process's instance; the first call opens the loader and makes it. With validation each call makes one of its
    /// own, so that everybody hears of his own mistakes alone.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(super) fn get(validation: Validation) -> Result<Arc<Self>, String> {
        let keep = |instance: Arc<Self>| {
            let mut kept = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(instance.clone());
            instance
        };
        if validation != Validation::Off {
            return Self::new(validation).map(keep);
        }
        let mut plain = PLAIN.lock().unwrap_or_else(PoisonError::into_inner);
        match &*plain {
            Some(instance) => Ok(instance.clone()),
            None => Ok(plain.insert(Self::new(validation)?).clone()),
        }
    }

    fn new(validation: Validation) -> Result<Arc<Self>, String> {
        // SAFETY: the loader is the system's own library, whose initialisation has no preconditions.
        let entry = unsafe { ash::Entry::load() }.map_err(|_| {
            "no Vulkan loader (libvulkan.so.1) on this machine; install the GPU's Vulkan driver \
             (Debian: libvulkan1 mesa-vulkan-drivers)"
                .to_owned()
        })?;
        // SAFETY: a global command without arguments.
        let version = unsafe { entry.try_enumerate_instance_version() }
            .ok()
            .flatten()
            .unwrap_or(vk::API_VERSION_1_0);
        if version < vk::API_VERSION_1_1 {
            return Err("the Vulkan loader is of version 1.0; install a newer libvulkan1".into());
        }
        let app = vk::ApplicationInfo::default()
            .application_name(c"gembin")
            .engine_name(c"gembin")
            .api_version(vk::API_VERSION_1_3);
        let mut layers = Vec::new();
        let mut extensions = Vec::new();
        match validation {
            Validation::Off => {}
            Validation::Calls | Validation::Synchronization => {
                layers.push(VALIDATION_LAYER.as_ptr());
                extensions.push(ash::ext::debug_utils::NAME.as_ptr());
            }
        }
        let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
        let mut create = vk::InstanceCreateInfo::default()
            .application_info(&app)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&extensions);
        if validation == Validation::Synchronization {
            create = create.push_next(&mut features);
        }
        // SAFETY: all pointers in `create` are to values that live until the call returns.
        let raw =
            unsafe { entry.create_instance(&create, None) }.map_err(|result| match result {
                vk::Result::ERROR_LAYER_NOT_PRESENT => {
                    "the validation layer is asked for but not installed \
                 (Debian: vulkan-validationlayers)"
                        .to_owned()
                }
                other => explain(other),
            })?;
        let instance = Self {
            raw,
            messages: Box::default(),
            entry,
        };
        if validation != Validation::Off
            && let Err(error) = instance.listen()
        {
            // SAFETY: nothing was made from the instance.
            unsafe { instance.raw.destroy_instance(None) };
            return Err(error);
        }
        Ok(Arc::new(instance))
    }

    /// Collects the layer's messages from now on.
    fn listen(&self) -> Result<(), String> {
        let utils = ash::ext::debug_utils::Instance::new(&self.entry, &self.raw);
        let messages: *const Messages = &*self.messages;
        let create = vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(
                vk::DebugUtilsMessageSeverityFlagsEXT::WARNING
                    | vk::DebugUtilsMessageSeverityFlagsEXT::ERROR,
            )
            .message_type(
                vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION
                    | vk::DebugUtilsMessageTypeFlagsEXT::PERFORMANCE,
            )
            .pfn_user_callback(Some(collect))
            .user_data(messages.cast_mut().cast());
        // SAFETY: the callback only reads what it is given, and `messages` outlives the messenger: it is boxed beside
        // the instance, which stays until the process ends.
        unsafe { utils.create_debug_utils_messenger(&create, None) }.map_err(explain)?;
        Ok(())
    }

    /// What the validation layer has said since it was last asked, in one line; `None`: nothing.
    pub(super) fn complaints(&self) -> Option<String> {
        let mut messages = self
            .messages
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = messages.len();
        let first = messages.drain(..).next()?.replace('\n', " ");
        Some(match count {
            1 => format!("validation: {first}"),
            n => format!("validation: {first} (and {} more)", n - 1),
        })
    }
}

/// Called by the validation layer, on the thread whose call it is about.
unsafe extern "system" fn collect(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    messages: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the layer passes valid data for the duration of the call, its text zero-terminated, and the pointer
    // given to `create_debug_utils_messenger`, whose target outlives the messenger.
    unsafe {
        let (Some(data), Some(messages)) = (data.as_ref(), messages.cast::<Messages>().as_ref())
        else {
            return vk::FALSE;
        };
        if !data.p_message.is_null() {
            let text = CStr::from_ptr(data.p_message)
                .to_string_lossy()
                .into_owned();
            messages
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
        }
    }
    vk::FALSE
}
