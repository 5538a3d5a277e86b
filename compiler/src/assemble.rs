//! Turns a planned module into the bundle's manifest: the weights' table, the arena, the programs.

use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{
    self, Arena, Limits, Manifest, Phase, Plan, Span, WeightEntry, WeightKind,
};
use gembin_ir::verify::Verified;
use gembin_ir::{DType, Layout, Module, WeightId};
use gembin_passes::lay_out::weights_of;
use gembin_target_cpu as cpu;
use gembin_target_igpu as igpu;

/// The weights a bundle stores, in the order of first use, and their table entries without places.
pub struct WeightTable {
    /// Which weight each entry is.
    pub ids: Vec<WeightId>,
    /// The entries.
    pub entries: Vec<WeightEntry>,
    index: Vec<Option<u32>>,
}

impl WeightTable {
    /// Lists the weights that ops of `module` use directly; what only feeds expressions is not stored.
    pub fn of(module: &Module) -> Self {
        let mut table = Self {
            ids: vec![],
            entries: vec![],
            index: vec![None; module.weights.len()],
        };
        // Decode first: it is the phase bound by reading weights, so its order is the file's order.
        for name in ["decode", "prefill"] {
            for id in module.function(name).into_iter().flat_map(weights_of) {
                table.add(module, id);
            }
        }
        table
    }

    fn add(&mut self, module: &Module, id: WeightId) {
        if self.index[id.index()].is_some() {
            return;
        }
        let w = module.weight(id);
        let (rows, cols) = w.rows_cols();
        let (kind, format) = match w.layout {
            Layout::Rows16 => (WeightKind::Matrix, format_of(w.dtype)),
            // Norm weights: small, read by scalar code, kept in full precision.
            Layout::RowMajor => (WeightKind::Vector, Format::F32),
        };
        self.index[id.index()] = Some(self.entries.len() as u32);
        self.ids.push(id);
        self.entries.push(WeightEntry {
            name: w.name.clone(),
            format,
            rows,
            cols,
            kind,
            data: Span::default(),
            scales: Span::default(),
            checksum: 0,
        });
    }

    /// The entry's index of a stored weight.
    pub fn index(&self, id: WeightId) -> Option<u32> {
        self.index[id.index()]
    }
}

fn format_of(dtype: DType) -> Format {
    match dtype {
        DType::F32 | DType::I32 => Format::F32,
        DType::F16 => Format::F16,
        DType::Bf16 => Format::Bf16,
        DType::Q8 => Format::Q8,
        DType::Q4 => Format::Q4,
    }
}

/// What plans are made for.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    /// Most rows of a prefill on the processor.
    pub cpu_chunk: u32,
    /// A GPU too.
    pub vulkan: bool,
}

/// Why a module has no plan.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// For the processor.
    #[error(transparent)]
    Cpu(#[from] cpu::LowerError),
    /// For a GPU.
    #[error(transparent)]
    Igpu(#[from] igpu::LowerError),
}

/// Builds the manifest, with weights placed and their checksums still zero.
///
/// # Errors
/// When a target cannot lower the module.
pub fn manifest(
    module: Verified<'_>,
    table: &mut WeightTable,
    model: manifest::ModelFacts,
    text: manifest::TextFacts,
    provenance: manifest::Provenance,
    vocab: u32,
    devices: Devices,
) -> Result<Manifest, LowerError> {
    manifest::place_weights(&mut table.entries);
    let programs = cpu::lower(module, &|id| {
        table
            .index(id)
            .expect("lowering asks only for weights that ops use")
    })?;
    let arena_bytes = module.arena_bytes.unwrap_or(0);
    let caches: Vec<manifest::Cache> = module
        .caches
        .iter()
        .map(|c| {
            let place = c.place.unwrap_or(gembin_ir::Place {
                offset: 0,
                bytes: 0,
            });
            manifest::Cache {
                name: c.name.clone(),
                format: format_of(c.dtype),
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                capacity: c.capacity.unwrap_or(module.bounds.context),
                window: c.window,
                offset: place.offset,
                bytes: place.bytes,
            }
        })
        .collect();
    let cache_bytes = caches
        .iter()
        .map(|c| c.offset)
        .min()
        .map_or(0, |first| arena_bytes - first);
    let mut manifest = Manifest {
        model,
        provenance,
        text,
        limits: Limits {
            vocab,
            context: module.bounds.context,
            slots: module.bounds.slots,
        },
        arena: Arena {
            bytes: arena_bytes,
            cache_bytes,
            caches,
        },
        weights: table.entries.clone(),
        kernels: Vec::new(),
        npu: gembin_bundle::npu::Npu::default(),
        plans: vec![Plan {
            name: "cpu".into(),
            devices: vec![manifest::Device::Cpu],
            programs,
        }],
    };
    if devices.vulkan {
        match igpu::lower(&manifest) {
            Ok(lowered) => {
                manifest.kernels = lowered.kernels;
                // Best first: where there is a GPU, it reads memory faster.
                manifest.plans.insert(0, lowered.plan);
            }
            // A shape that no kernel covers: the bundle runs on the processor, and says why.
            Err(error @ igpu::LowerError::Unsupported { .. }) => {
                let note = format!("no plan for vulkan: {error}");
                manifest.model.notes.push(note);
            }
            Err(error @ igpu::LowerError::Kernel { .. }) => return Err(error.into()),
        }
    }
    for program in &mut manifest.plans.last_mut().expect("the processor's").programs {
        if program.phase == Phase::Prefill {
            program.max_rows = program.max_rows.min(devices.cpu_chunk);
            program.max_outs = program.max_outs.min(program.max_rows);
        }
    }
    Ok(manifest)
}
