//! The plans of a bundle: which devices, which programs, which steps.

use gembin_bundle::cpu::CpuStep;
use gembin_bundle::manifest::{Device, Manifest, Phase, Program, Work};
use gembin_bundle::npu;
use serde::Serialize;
use std::fmt::Write;

#[derive(Serialize)]
pub(super) struct Plan {
    name: String,
    devices: Vec<&'static str>,
    /// Designs for an NPU that have no code: the plan cannot run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_built: Vec<String>,
    programs: Vec<ProgramInfo>,
}

#[derive(Serialize)]
struct ProgramInfo {
    name: String,
    phase: &'static str,
    max_rows: u32,
    max_outs: u32,
    /// Dispatches that wait for all before them.
    barriers: usize,
    steps_by_kind: Vec<(String, usize)>,
    steps: Vec<StepInfo>,
}

#[derive(Serialize)]
struct StepInfo {
    label: String,
    /// What runs: the processor's step, the GPU's kernel, or the NPU's instruction stream.
    kernel: String,
    /// Whether a dispatch waits for all before it.
    barrier: bool,
}

/// Every plan of a bundle.
pub(super) fn of(manifest: &Manifest) -> Vec<Plan> {
    manifest
        .plans
        .iter()
        .map(|plan| Plan {
            name: plan.name.clone(),
            devices: plan.devices.iter().copied().map(Device::name).collect(),
            not_built: npu::not_built(manifest, plan)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            programs: plan
                .programs
                .iter()
                .map(|program| program_info(manifest, program))
                .collect(),
        })
        .collect()
}

fn program_info(manifest: &Manifest, program: &Program) -> ProgramInfo {
    let steps: Vec<StepInfo> = program
        .steps
        .iter()
        .map(|step| {
            let (kernel, barrier) = match &step.work {
                Work::Cpu(work) => (kind_name(work).to_owned(), false),
                Work::Gpu(work) => {
                    let kernel = &manifest.kernels[work.kernel as usize];
                    (kernel.name.clone(), work.barrier)
                }
                Work::Npu(work) => {
                    let most = work.streams.last();
                    let stream = most.map(|most| &manifest.npu.streams[most.stream as usize]);
                    (stream.map_or_else(String::new, |s| s.name.clone()), false)
                }
            };
            StepInfo {
                label: step.label.clone(),
                kernel,
                barrier,
            }
        })
        .collect();
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for step in &steps {
        // A kernel's name starts with its kind.
        let name = step.kernel.split(' ').next().unwrap_or(&step.kernel);
        let name = name.to_owned();
        match kinds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, n)) => *n += 1,
            None => kinds.push((name, 1)),
        }
    }
    ProgramInfo {
        name: program.name.clone(),
        phase: match program.phase {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        },
        max_rows: program.max_rows,
        max_outs: program.max_outs,
        barriers: steps.iter().filter(|step| step.barrier).count(),
        steps_by_kind: kinds,
        steps,
    }
}

fn kind_name(step: &CpuStep) -> &'static str {
    match step {
        CpuStep::Embed { .. } => "embed",
        CpuStep::RopeTable { .. } => "rope_table",
        CpuStep::Linear(_) => "linear",
        CpuStep::RopeKv { .. } => "rope_kv",
        CpuStep::Attention { .. } => "attention",
        CpuStep::SelectRows { .. } => "select_rows",
        CpuStep::RmsNorm { .. } => "rms_norm",
        CpuStep::Rope { .. } => "rope",
        CpuStep::KvWrite { .. } => "kv_write",
        CpuStep::Columns { .. } => "columns",
        CpuStep::Gelu { .. } => "gelu",
        CpuStep::Mul { .. } => "mul",
        CpuStep::Add { .. } => "add",
        CpuStep::Softcap { .. } => "softcap",
    }
}

/// Writes them for people.
pub(super) fn write(out: &mut String, plans: &[Plan], steps: bool) -> std::fmt::Result {
    for plan in plans {
        writeln!(
            out,
            "\nplan {} (devices: {})",
            plan.name,
            plan.devices.join(", ")
        )?;
        if !plan.not_built.is_empty() {
            writeln!(
                out,
                "  npu: not built: designs {}; compile where the vendor's compiler aiecc is installed",
                plan.not_built.join(", ")
            )?;
        }
        for program in &plan.programs {
            let kinds: Vec<String> = program
                .steps_by_kind
                .iter()
                .map(|(kind, n)| format!("{n} {kind}"))
                .collect();
            writeln!(
                out,
                "  {:<14} up to {} tokens, logits of {}; {} steps{}: {}",
                program.name,
                program.max_rows,
                program.max_outs,
                program.steps.len(),
                match program.barriers {
                    0 => String::new(),
                    n => format!(", {n} barriers"),
                },
                kinds.join(", ")
            )?;
            for (index, step) in program.steps.iter().enumerate().filter(|_| steps) {
                let barrier = if step.barrier { "|" } else { " " };
                writeln!(
                    out,
                    "    {index:>4} {barrier} {:<44} {}",
                    step.label, step.kernel
                )?;
            }
        }
    }
    Ok(())
}
