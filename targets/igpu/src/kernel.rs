//! From a kernel's template to SPIR-V: rendering, validation, writing, and what the driver must know of the result.
//!
//! A template is WGSL with Jinja in it (`kernels/*.wgsl`): shapes, formats and fusions are filled in as constants, so a
//! kernel is specialised to one use and its loops have known bounds. naga parses, validates and writes it, with bounds
//! checks off: that accesses stay in their bindings follows from the shapes ([`BindingNeed`]), and the bundle's check holds
//! every dispatch to that.

use crate::error::LowerError;
use gembin_bundle::gpu::{Activations, BindingNeed, Kernel, KernelIdx, Needs, Variant};
use minijinja::Environment;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage, StorageAccess};
use std::collections::{BTreeMap, HashMap};

/// Constants of a template, by the name it uses.
pub type Constants = BTreeMap<&'static str, minijinja::Value>;

/// Writes `constants! { cols: 1152, format: "q4" }`.
#[macro_export]
macro_rules! constants {
    ($($name:ident : $value:expr),* $(,)?) => {{
        #[allow(unused_mut, reason = "empty without constants")]
        let mut constants = $crate::kernel::Constants::new();
        $(constants.insert(stringify!($name), ::minijinja::Value::from($value));)*
        constants
    }};
}

/// A kernel to be made.
pub struct Spec {
    /// Unique for its constants; starts with its kind: `gemv q4 1152x6912 geglu`.
    pub name: String,
    /// What it touches, in the order of its bindings.
    pub bindings: Vec<BindingNeed>,
    /// Ways to do it, best first.
    pub variants: Vec<VariantSpec>,
}

/// A variant to be made.
pub struct VariantSpec {
    /// `dot4`, `matrix16`, `portable`.
    pub name: &'static str,
    /// File in `kernels/`, without `.wgsl`.
    pub template: &'static str,
    /// Its constants. `dot4` is added: whether packed dot products may be used.
    pub constants: Constants,
    /// What the device must have.
    pub needs: Needs,
    /// Subgroup size it must run with.
    pub subgroup: Option<u32>,
    /// Items of work a workgroup does.
    pub tile: [u32; 3],
    /// What it does with activations that have one of several forms.
    pub activations: Option<Activations>,
}

/// Whether naga guards every access. Guarded kernels are for tests: they must compute the same.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Guards {
    /// None.
    #[default]
    Off,
    /// What is out of range is moved to the last element.
    On,
}

/// The kernels of a bundle, each made once.
pub struct Kernels {
    templates: Environment<'static>,
    guards: Guards,
    by_name: HashMap<String, KernelIdx>,
    kernels: Vec<Kernel>,
    /// Rendered WGSL by kernel and variant, for snapshots.
    sources: Vec<Vec<String>>,
}

impl Kernels {
    /// An empty set.
    pub fn new(guards: Guards) -> Self {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        templates.set_trim_blocks(true);
        templates.set_lstrip_blocks(true);
        for (name, text) in crate::templates::ALL {
            templates
                .add_template(name, text)
                .expect("templates are part of this crate and parse");
        }
        Self {
            templates,
            guards,
            by_name: HashMap::new(),
            kernels: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// The kernel of a spec, made if it is new.
    ///
    /// # Errors
    /// When the template does not render or naga refuses it: a mistake in this crate.
    pub fn add(&mut self, spec: Spec) -> Result<KernelIdx, LowerError> {
        if let Some(&index) = self.by_name.get(&spec.name) {
            return Ok(index);
        }
        let mut variants = Vec::new();
        let mut sources = Vec::new();
        let mut immediates = None;
        for variant in spec.variants {
            let wgsl = self.render(&spec.name, &variant)?;
            let made = Made::new(&wgsl, &spec.bindings, self.guards).map_err(|what| {
                LowerError::Kernel {
                    kernel: spec.name.clone(),
                    variant: variant.name,
                    what,
                }
            })?;
            if *immediates.get_or_insert(made.immediates) != made.immediates {
                return Err(LowerError::Kernel {
                    kernel: spec.name,
                    variant: variant.name,
                    what: "its push constants differ from another variant's".into(),
                });
            }
            variants.push(Variant {
                name: variant.name.to_owned(),
                needs: variant.needs,
                code: made.code,
                workgroup: made.workgroup,
                subgroup: variant.subgroup,
                workgroup_bytes: made.workgroup_bytes,
                tile: variant.tile,
                activations: variant.activations,
            });
            sources.push(wgsl);
        }
        let index = self.kernels.len() as KernelIdx;
        self.by_name.insert(spec.name.clone(), index);
        self.kernels.push(Kernel {
            name: spec.name,
            bindings: spec.bindings,
            immediates: immediates.unwrap_or(0),
            variants,
        });
        self.sources.push(sources);
        Ok(index)
    }

    /// A kernel made before.
    pub fn get(&self, index: KernelIdx) -> &Kernel {
        &self.kernels[index as usize]
    }

    /// All kernels with the WGSL of their variants.
    pub fn sources(&self) -> impl Iterator<Item = (&Kernel, &[String])> {
        self.kernels
            .iter()
            .zip(self.sources.iter().map(Vec::as_slice))
    }

    /// The table for the manifest.
    pub fn finish(self) -> Vec<Kernel> {
        self.kernels
    }

    fn render(&self, kernel: &str, variant: &VariantSpec) -> Result<String, LowerError> {
        let mut constants = variant.constants.clone();
        constants.insert("dot4", variant.needs.int_dot.into());
        let rendered = self
            .templates
            .get_template(variant.template)
            .and_then(|template| template.render(&constants));
        rendered.map_err(|error| LowerError::Kernel {
            kernel: kernel.to_owned(),
            variant: variant.name,
            what: format!("{error:#}"),
        })
    }
}

/// A compiled variant.
struct Made {
    code: Vec<u32>,
    workgroup: [u32; 3],
    workgroup_bytes: u32,
    immediates: u32,
}

impl Made {
    fn new(wgsl: &str, bindings: &[BindingNeed], guards: Guards) -> Result<Self, String> {
        let options = naga::front::wgsl::Options {
            parse_doc_comments: false,
            capabilities: Capabilities::all(),
        };
        let module = naga::front::wgsl::Frontend::new_with_options(options)
            .parse(wgsl)
            .map_err(|error| error.emit_to_string(wgsl))?;
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        validator
            .subgroup_stages(ShaderStages::all())
            .subgroup_operations(SubgroupOperationSet::all());
        let info = validator
            .validate(&module)
            .map_err(|error| error.emit_to_string(wgsl))?;
        check_bindings(&module, bindings)?;

        let policy = match guards {
            Guards::Off => BoundsCheckPolicy::Unchecked,
            Guards::On => BoundsCheckPolicy::Restrict,
        };
        let mut options = spv::Options {
            // 1.6 has packed dot products in its core; Vulkan 1.3 takes it.
            lang_version: (1, 6),
            // Names, which adjusting needs and takes away.
            flags: spv::WriterFlags::DEBUG,
            bounds_check_policies: BoundsCheckPolicies {
                index: policy,
                buffer: policy,
                image_load: policy,
                binding_array: policy,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            use_storage_input_output_16: false,
            ..Default::default()
        };
        for (_, global) in module.global_variables.iter() {
            if let Some(binding) = global.binding {
                options.binding_map.insert(
                    binding,
                    spv::BindingInfo {
                        descriptor_set: binding.group,
                        binding: binding.binding,
                        binding_array_size: None,
                    },
                );
            }
        }
        let entry = spv::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: "main".into(),
        };
        let code = spv::write_vec(&module, &info, &options, Some(&entry))
            .map_err(|error| error.to_string())?;
        let code = crate::spirv::adjust(code)?;

        let mut layouter = naga::proc::Layouter::default();
        layouter
            .update(module.to_ctx())
            .map_err(|error| error.to_string())?;
        let bytes_in = |space: AddressSpace| {
            module
                .global_variables
                .iter()
                .filter(|(_, global)| global.space == space)
                .filter(|(_, global)| !global.name.as_deref().is_some_and(crate::spirv::is_view))
                .map(|(_, global)| layouter[global.ty].size)
                .sum::<u32>()
        };
        Ok(Self {
            code,
            workgroup: module.entry_points[0].workgroup_size,
            workgroup_bytes: bytes_in(AddressSpace::WorkGroup),
            immediates: bytes_in(AddressSpace::Immediate).div_ceil(4),
        })
    }
}

/// Holds the template's bindings to the spec's: as many, in order, writable only where the spec says so.
fn check_bindings(module: &naga::Module, needs: &[BindingNeed]) -> Result<(), String> {
    let mut found = vec![None; needs.len()];
    for (_, global) in module.global_variables.iter() {
        let (Some(binding), AddressSpace::Storage { access }) = (global.binding, global.space)
        else {
            continue;
        };
        let slot = found
            .get_mut(binding.binding as usize)
            .filter(|_| binding.group == 0)
            .ok_or_else(|| format!("binding {} is not in its spec", binding.binding))?;
        *slot = Some(access.contains(StorageAccess::STORE));
    }
    for (index, (found, need)) in found.iter().zip(needs).enumerate() {
        let writes = need.access != gembin_bundle::gpu::Access::Read;
        match found {
            Some(found) if *found == writes => {}
            Some(_) => return Err(format!("binding {index} is not accessed as its spec says")),
            None => {
                return Err(format!(
                    "binding {index} of its spec is not in the template"
                ));
            }
        }
    }
    Ok(())
}
