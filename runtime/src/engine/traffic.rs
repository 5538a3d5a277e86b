//! Bytes that a call has to move at least: weights and cache rows read, each once a step.
//!
//! The yardstick of `bench`: bandwidth is these bytes over the time taken. Activations stay in the processor's caches
//! and are not counted.

use gembin_bundle::cpu::CpuStep;
use gembin_bundle::gpu::{Access, Extent, GpuStep, Resource};
use gembin_bundle::layout;
use gembin_bundle::manifest::{
    Buffer, Cache, Manifest, Program, RowSet, Step, WeightEntry, WeightKind, Work,
};
use gembin_bundle::npu::NpuStep;

/// What a call reads.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Weights; of tables only the rows gathered.
    pub weight_bytes: u64,
    /// Rows of the KV caches.
    pub cache_bytes: u64,
}

impl Traffic {
    /// Everything.
    pub fn total_bytes(self) -> u64 {
        self.weight_bytes + self.cache_bytes
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.weight_bytes += other.weight_bytes;
        self.cache_bytes += other.cache_bytes;
    }
}

/// Bytes read by a call of `rows` consecutive tokens of one sequence from position `first_pos` on, of which the logits
/// of `outs` are wanted.
pub fn of_call(
    manifest: &Manifest,
    program: &Program,
    first_pos: usize,
    rows: usize,
    outs: usize,
) -> Traffic {
    let mut sum = Traffic::default();
    for step in &program.steps {
        sum += of_step(manifest, step, first_pos, rows, outs);
    }
    sum
}

fn of_step(
    manifest: &Manifest,
    step: &Step,
    first_pos: usize,
    rows: usize,
    outs: usize,
) -> Traffic {
    let weight = |index: u32| &manifest.weights[index as usize];
    let whole = |index: u32| weight_bytes(weight(index));
    let optional = |index: Option<u32>| index.map_or(0, whole);
    let count = |buffer: &Buffer| match buffer.rows {
        RowSet::Seq => rows,
        RowSet::Out => outs,
    };
    let work = match &step.work {
        Work::Cpu(work) => work,
        Work::Gpu(work) => return of_dispatch(manifest, work, first_pos, rows, outs),
        Work::Npu(work) => return of_stream(manifest, work, first_pos, rows, outs),
    };
    let mut traffic = Traffic::default();
    match work {
        CpuStep::Embed { table, out, .. } => {
            traffic.weight_bytes = row_bytes(weight(*table)) * count(out) as u64;
        }
        CpuStep::Linear(linear) => {
            if count(&linear.out) > 0 {
                traffic.weight_bytes =
                    whole(linear.weight) + optional(linear.norm) + optional(linear.post_norm);
            }
        }
        CpuStep::RopeKv { q_norm, k_norm, .. } => {
            traffic.weight_bytes = optional(*q_norm) + optional(*k_norm);
        }
        CpuStep::RmsNorm { weight, out, .. } => {
            if count(out) > 0 {
                traffic.weight_bytes = whole(*weight);
            }
        }
        CpuStep::Attention { cache, .. } => {
            let cache = &manifest.arena.caches[*cache as usize];
            traffic.cache_bytes = cache_bytes(cache, first_pos, rows);
        }
        CpuStep::RopeTable { .. }
        | CpuStep::SelectRows { .. }
        | CpuStep::Rope { .. }
        | CpuStep::KvWrite { .. }
        | CpuStep::Columns { .. }
        | CpuStep::Gelu { .. }
        | CpuStep::Mul { .. }
        | CpuStep::Add { .. }
        | CpuStep::Softcap { .. } => {}
    }
    traffic
}

fn of_dispatch(
    manifest: &Manifest,
    step: &GpuStep,
    first_pos: usize,
    rows: usize,
    outs: usize,
) -> Traffic {
    let has_work = step.work.iter().all(|extent| match extent {
        Extent::Fixed(_) => true,
        Extent::Rows(RowSet::Seq) => rows > 0,
        Extent::Rows(RowSet::Out) => outs > 0,
    });
    if !has_work {
        return Traffic::default();
    }
    let needs = &manifest.kernels[step.kernel as usize].bindings;
    let accesses = needs.iter().map(|need| need.access);
    of_resources(manifest, accesses.zip(&step.bindings), first_pos, rows)
}

fn of_stream(
    manifest: &Manifest,
    step: &NpuStep,
    first_pos: usize,
    rows: usize,
    outs: usize,
) -> Traffic {
    let count = match step.rows {
        RowSet::Seq => rows,
        RowSet::Out => outs,
    };
    let stream = u32::try_from(count)
        .ok()
        .filter(|&count| count > 0)
        .and_then(|count| step.stream_for(count));
    let Some(stream) = stream else {
        return Traffic::default();
    };
    let needs = &manifest.npu.streams[stream as usize].arguments;
    let accesses = needs.iter().map(|need| need.access);
    of_resources(manifest, accesses.zip(&step.buffers), first_pos, rows)
}

/// Bytes read of what a kernel or a stream is bound to.
fn of_resources<'a>(
    manifest: &Manifest,
    resources: impl Iterator<Item = (Access, &'a Resource)>,
    first_pos: usize,
    rows: usize,
) -> Traffic {
    let mut traffic = Traffic::default();
    for (access, resource) in resources {
        match *resource {
            Resource::Data {
                weight, gathered, ..
            } if gathered => {
                let weight = &manifest.weights[weight as usize];
                // A table in several pieces is gathered from once: the first piece stands for all.
                if matches!(resource, Resource::Data { piece, .. } if piece.offset == 0) {
                    traffic.weight_bytes += row_bytes(weight) * rows as u64;
                }
            }
            Resource::Scales { gathered: true, .. } => {}
            Resource::Data { piece, .. } | Resource::Scales { piece, .. } => {
                traffic.weight_bytes += piece.bytes;
            }
            Resource::Keys(cache) | Resource::Values(cache) => match access {
                Access::Write => {}
                Access::Read | Access::ReadWrite => {
                    let cache = &manifest.arena.caches[cache as usize];
                    traffic.cache_bytes += cache_bytes(cache, first_pos, rows) / 2;
                }
            },
            Resource::Value(_) | Resource::Call => {}
        }
    }
    traffic
}

/// Stored bytes of a weight.
pub fn weight_bytes(weight: &WeightEntry) -> u64 {
    weight.data.bytes + weight.scales.bytes
}

/// Stored bytes of one row of a weight.
fn row_bytes(weight: &WeightEntry) -> u64 {
    match weight.kind {
        WeightKind::Vector => weight.data.bytes,
        WeightKind::Matrix => {
            let scales = if weight.format.is_quantized() {
                layout::groups(weight.cols) * 2
            } else {
                0
            };
            weight.format.words(weight.cols) * 4 + scales
        }
    }
}

/// Bytes of keys and values that the queries at `first_pos..first_pos + rows` see, each counted once.
fn cache_bytes(cache: &Cache, first_pos: usize, rows: usize) -> u64 {
    let first_seen = cache
        .window
        .map_or(0, |window| (first_pos + 1).saturating_sub(window as usize));
    let positions =
        ((first_pos + rows).saturating_sub(first_seen) as u64).min(cache.capacity.into());
    // 32-bit words hold one or more values: 4 bytes over the values a word gives the bytes of one.
    let value_bytes = 4 / u64::from(cache.format.values_per_word());
    2 * positions * u64::from(cache.kv_heads) * u64::from(cache.head_dim) * value_bytes
}
