//! Walks a plan's programs and collects dispatches: which steps go together, barriers, pieces of large weights.

use crate::error::LowerError;
use crate::kernel::{Guards, Kernels, Spec};
use crate::{attention, candidates, linear, rows};
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::gpu::{
    Access, Extent, GpuStep, Hazards, Kernel, MIN_STORAGE_RANGE, PIECE_ALIGN, Resource, Touch,
};
use gembin_bundle::layout::{self, BLOCK_ROWS};
use gembin_bundle::manifest::{
    Buffer, Cache, Device, Limits, Manifest, Phase, Plan, Program, RowSet, Span, Step, WeightEntry,
    Work,
};

/// A plan for the GPU and its kernels.
pub struct Lowered {
    /// The plan.
    pub plan: Plan,
    /// The kernels its steps name.
    pub kernels: Vec<Kernel>,
}

/// Lowers the processor's plan of a manifest to one for the GPU.
///
/// # Errors
/// When a step has no kernel; the message names it.
pub fn lower(manifest: &Manifest) -> Result<Lowered, LowerError> {
    let mut kernels = Kernels::new(Guards::Off);
    let plan = lower_with(manifest, &mut kernels)?;
    Ok(Lowered {
        plan,
        kernels: kernels.finish(),
    })
}

/// As [`lower`], with the kernels added to `kernels`.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(manifest: &Manifest, kernels: &mut Kernels) -> Result<Plan, LowerError> {
    let source = manifest
        .plans
        .iter()
        .find(|plan| plan.devices == [Device::Cpu])
        .ok_or_else(|| LowerError::Unsupported {
            step: "plans".into(),
            what: "there is no plan of the processor to start from".into(),
        })?;
    let mut programs = Vec::new();
    for program in &source.programs {
        // One sequence is the common case and has kernels of its own.
        if program.phase == Phase::Decode && program.max_rows > 1 {
            let single = Program {
                name: format!("{}-1", program.name),
                max_rows: 1,
                max_outs: 1,
                ..program.clone()
            };
            programs.push(Lowering::run(manifest, kernels, &single)?);
        }
        programs.push(Lowering::run(manifest, kernels, program)?);
    }
    Ok(Plan {
        name: "vulkan".into(),
        devices: vec![Device::Vulkan],
        programs,
    })
}

/// One program on its way.
pub(crate) struct Lowering<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) program: &'a Program,
    kernels: &'a mut Kernels,
    steps: Vec<Step>,
    hazards: Hazards,
}

impl<'a> Lowering<'a> {
    fn run(
        manifest: &'a Manifest,
        kernels: &'a mut Kernels,
        program: &'a Program,
    ) -> Result<Program, LowerError> {
        let mut lowering = Self {
            manifest,
            program,
            kernels,
            steps: Vec::new(),
            hazards: Hazards::default(),
        };
        let candidates = lowering.walk()?;
        Ok(Program {
            steps: lowering.steps,
            candidates,
            ..program.clone()
        })
    }

    fn walk(&mut self) -> Result<Option<Buffer>, LowerError> {
        let steps: Vec<(&'a str, &'a CpuStep)> = self
            .program
            .steps
            .iter()
            .filter_map(|step| match &step.work {
                Work::Cpu(work) => Some((step.label.as_str(), work)),
                Work::Gpu(_) | Work::Npu(_) => None,
            })
            .collect();
        // Attention whose result is still in parts, by the offset of the result.
        let mut partials: Option<attention::Partials> = None;
        let mut index = 0;
        while index < steps.len() {
            let (label, work) = steps[index];
            index += 1;
            match work {
                CpuStep::Embed { table, scale, out } => {
                    rows::embed(self, label, *table, *scale, *out)?;
                }
                CpuStep::RopeTable { theta, factor, out } => {
                    rows::rope_table(self, label, *theta, *factor, *out)?;
                }
                CpuStep::SelectRows { x, out } => rows::select_rows(self, label, *x, *out)?,
                CpuStep::Linear(step) => {
                    let parts = partials.take_if(|parts| parts.result == step.x);
                    linear::linear(self, label, step, parts)?;
                }
                CpuStep::RopeKv { .. } => {
                    if self.program.phase == Phase::Decode
                        && let Some((attention_label, next @ CpuStep::Attention { .. })) =
                            steps.get(index)
                    {
                        index += 1;
                        partials = Some(attention::rope_attention(
                            self,
                            attention_label,
                            work,
                            next,
                        )?);
                    } else {
                        attention::rope_kv(self, label, work)?;
                    }
                }
                CpuStep::Attention { .. } => {
                    // The result in parts is for the linear that follows.
                    partials = attention::attention(self, label, work)?;
                }
                CpuStep::RmsNorm { .. }
                | CpuStep::Rope { .. }
                | CpuStep::KvWrite { .. }
                | CpuStep::Columns { .. }
                | CpuStep::Gelu { .. }
                | CpuStep::Mul { .. }
                | CpuStep::Add { .. }
                | CpuStep::Softcap { .. } => {
                    return Err(LowerError::Unsupported {
                        step: label.to_owned(),
                        what: "the gpu has kernels for fused steps only; run fusion first".into(),
                    });
                }
            }
        }
        self.candidates(&steps)
    }

    /// Adds the search for the most likely tokens where the head's scratch has room for it.
    fn candidates(
        &mut self,
        steps: &[(&'a str, &'a CpuStep)],
    ) -> Result<Option<Buffer>, LowerError> {
        let logits = self.program.logits;
        let head = steps.iter().find_map(|(label, step)| {
            let CpuStep::Linear(head) = step else {
                return None;
            };
            (head.out == logits).then_some((*label, head))
        });
        let Some((label, head)) = head else {
            return Ok(None);
        };
        let rows = self.max_rows(logits.rows);
        if head.scratch.bytes < linear::scratch_bytes(rows, head.x.cols, true) {
            return Ok(None);
        }
        let bytes = linear::candidates_bytes(rows);
        let room = Span {
            offset: head.scratch.offset + head.scratch.bytes - bytes,
            bytes,
        };
        candidates::candidates(self, &format!("{label}.candidates"), logits, room)
    }

    /// Adds a dispatch, with a barrier if it touches what one since the last barrier has touched.
    ///
    /// # Errors
    /// When the kernel cannot be made.
    pub(crate) fn dispatch(
        &mut self,
        label: &str,
        spec: Spec,
        bindings: Vec<Resource>,
        immediates: Vec<u32>,
        work: [Extent; 3],
    ) -> Result<(), LowerError> {
        let kernel = self.kernels.add(spec)?;
        let needs = &self.kernels.get(kernel).bindings;
        let touches: Vec<(Access, Touch)> = needs
            .iter()
            .zip(&bindings)
            .filter_map(|(need, resource)| Some((need.access, self.touch(*resource)?)))
            .collect();
        let barrier = self.hazards.conflicts(&touches);
        if barrier {
            self.hazards = Hazards::default();
        }
        self.hazards.note(&touches);
        self.steps.push(Step {
            label: label.to_owned(),
            work: Work::Gpu(GpuStep {
                kernel,
                bindings,
                immediates,
                work,
                barrier,
            }),
        });
        Ok(())
    }

    fn touch(&self, resource: Resource) -> Option<Touch> {
        match resource {
            Resource::Value(buffer) => Some(Touch::Bytes(buffer.span(self.program))),
            Resource::Keys(cache) => Some(Touch::Keys(cache)),
            Resource::Values(cache) => Some(Touch::Values(cache)),
            Resource::Data { .. } | Resource::Scales { .. } | Resource::Call => None,
        }
    }

    /// The most rows a buffer over `set` has.
    pub(crate) fn max_rows(&self, set: RowSet) -> u32 {
        self.program.most_rows(set)
    }

    pub(crate) fn limits(&self) -> &'a Limits {
        &self.manifest.limits
    }

    pub(crate) fn weight(&self, index: u32) -> &'a WeightEntry {
        &self.manifest.weights[index as usize]
    }

    pub(crate) fn cache(&self, index: u32) -> &'a Cache {
        &self.manifest.arena.caches[index as usize]
    }
}

/// Rows of a matrix that are bound together: whole blocks, as many as the smallest range every device can bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// First row.
    pub(crate) first_row: u32,
    /// Rows, the padding of the last block left out.
    pub(crate) rows: u32,
    /// Of the data plane.
    pub(crate) data: Span,
    /// Of the scale plane; empty unless quantized.
    pub(crate) scales: Span,
}

/// Cuts a matrix into pieces that every device can bind: one for most, several for a large vocabulary.
pub(crate) fn pieces(weight: &WeightEntry) -> Vec<Piece> {
    let block_data = weight.format.words(weight.cols) * u64::from(BLOCK_ROWS) * 4;
    let block_scales = match weight.format.is_quantized() {
        true => layout::groups(weight.cols) * u64::from(BLOCK_ROWS) * 2,
        false => 0,
    };
    // Any multiple of 8 blocks (64 and 32 bytes times whole words and groups) starts at a multiple of PIECE_ALIGN.
    const STEP: u64 = PIECE_ALIGN / 32;
    let blocks = layout::row_blocks(weight.rows);
    let most = (MIN_STORAGE_RANGE / block_data.max(block_scales)).max(STEP) / STEP * STEP;
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < blocks {
        let count = most.min(blocks - first);
        let first_row = first as u32 * BLOCK_ROWS;
        pieces.push(Piece {
            first_row,
            rows: (count as u32 * BLOCK_ROWS).min(weight.rows - first_row),
            data: Span {
                offset: first * block_data,
                bytes: count * block_data,
            },
            scales: Span {
                offset: first * block_scales,
                bytes: count * block_scales,
            },
        });
        first += count;
    }
    pieces
}
