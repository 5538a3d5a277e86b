//! What the tests of this driver share: a GPU made up, and a small hand-written plan with kernels in WGSL, whose results
//! are easy to compute on the host.

use super::abilities::{Abilities, Features, Kind, Limits};
use super::{CacheFolder, Pick, Validation, VulkanDriver, VulkanOptions};
use crate::arena::Arena as HostArena;
use crate::drivers::{DriverError, LoadContext};
use gembin_bundle::gpu::{Access, BindingNeed, Extent, GpuStep, Kernel, Needs, Resource, Variant};
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{
    Arena, Buffer, Cache, Device, Manifest, Phase, Plan, Program, RowSet, Span, Step, WeightEntry,
    WeightKind, Work, place_weights,
};
use std::sync::Arc;

pub(super) const VOCAB: u32 = 40;
pub(super) const CONTEXT: u32 = 32;
pub(super) const SLOTS: u32 = 2;
/// Columns of the values, and elements of a cache's head.
pub(super) const COLS: u32 = 16;
pub(super) const MAX_ROWS: u32 = 5;
pub(super) const MAX_OUTS: u32 = 3;
pub(super) const CANDIDATES: u32 = 2;
/// Rows of the matrix `table`.
pub(super) const TABLE_ROWS: u32 = 16;

/// A GPU with little more than Vulkan 1.3.
pub(super) fn abilities() -> Abilities {
    Abilities {
        driver: "made up".into(),
        subgroup: (8, 8),
        subgroup_default: 8,
        subgroup_control: true,
        fast_int_dot: false,
        int_dot: false,
        f16: false,
        matrices: Vec::new(),
        unified_memory: true,
        memory_bytes: 1 << 30,
        import_align: None,
        limits: Limits {
            storage_range: 128 << 20,
            buffer_bytes: 1 << 30,
            workgroup_bytes: 32 << 10,
            workgroup_invocations: 1024,
            workgroup_size: [1024, 1024, 64],
            workgroup_subgroups: 128,
            groups: [65_535; 3],
        },
        features: Features::default(),
        kind: Kind::Integrated,
        family: 0,
        cache_uuid: [3; 16],
        ids: [1, 2, 3],
        timestamp_bits: 64,
        timestamp_ns: 1.0,
    }
}

/// Types of bindings. In a structure, since the validation layer overlooks writes to an array that is none.
const TYPES: &str = "
struct Rows { v: array<vec4<u32>> }
struct Words { v: array<u32> }
struct Floats { v: array<f32> }";

/// WGSL to SPIR-V, as the compiler does it.
pub(super) fn spirv(kernel: &str) -> Vec<u32> {
    use naga::back::spv;
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let wgsl = &format!("{TYPES}{kernel}");
    let module =
        naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(wgsl)));
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        ..spv::Options::default()
    };
    spv::write_vec(&module, &info, &options, None).expect("SPIR-V")
}

/// `x[r] = [token, position, slot, 0, ...]`, scaled by the first push constant.
const ROWS: &str = "
@group(0) @binding(0) var<storage, read> call: Rows;
@group(0) @binding(1) var<storage, read_write> x: Floats;
struct Immediates { scale: f32, cols: u32 }
var<immediate> im: Immediates;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / im.cols;
    let col = id.x % im.cols;
    if row >= call.v[0].x { return; }
    let facts = call.v[1 + row];
    var value = 0.0;
    if col == 0 { value = f32(facts.x); }
    if col == 1 { value = f32(facts.y); }
    if col == 2 { value = f32(facts.z); }
    x.v[id.x] = value * im.scale;
}";

/// `y[r] = x[r] + sum over the matrix' rows of its words`, words taken from row blocks of 16.
const ADD: &str = "
@group(0) @binding(0) var<storage, read> x: Floats;
@group(0) @binding(1) var<storage, read> table: Floats;
@group(0) @binding(2) var<storage, read_write> y: Floats;
@compute @workgroup_size(16) fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let at = group.x * 16 + local.x;
    var sum = x.v[at];
    for (var row = 0u; row < 16; row += 1) { sum += table.v[local.x * 16 + row]; }
    y.v[at] = sum;
}";

/// `keys[slot][position] += y[r]`.
const REMEMBER: &str = "
@group(0) @binding(0) var<storage, read> call: Rows;
@group(0) @binding(1) var<storage, read> y: Floats;
@group(0) @binding(2) var<storage, read_write> keys: Floats;
@compute @workgroup_size(16) fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let facts = call.v[1 + group.x];
    let at = (facts.z * 32 + facts.y) * 16 + local.x;
    keys.v[at] += y.v[group.x * 16 + local.x];
}";

/// `logits[o][t] = keys of the row asked for [t % 16] + t`.
const HEAD: &str = "
@group(0) @binding(0) var<storage, read> call: Rows;
@group(0) @binding(1) var<storage, read> keys: Floats;
@group(0) @binding(2) var<storage, read_write> logits: Floats;
@compute @workgroup_size(64) fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    if local.x >= 40 { return; }
    let facts = call.v[1 + call.v[1 + group.x].w];
    let at = (facts.z * 32 + facts.y) * 16 + local.x % 16;
    logits.v[group.x * 40 + local.x] = keys.v[at] + f32(local.x);
}";

/// The two most likely tokens of each row of logits.
const BEST: &str = "
@group(0) @binding(0) var<storage, read> logits: Floats;
@group(0) @binding(1) var<storage, read_write> best: Words;
@compute @workgroup_size(1) fn main(@builtin(workgroup_id) group: vec3<u32>) {
    var last = 40u;
    for (var k = 0u; k < 2; k += 1) {
        var found = 40u;
        for (var t = 0u; t < 40; t += 1) {
            if t != last && (found == 40 || logits.v[group.x * 40 + t] > logits.v[group.x * 40 + found]) { found = t; }
        }
        best.v[group.x * 4 + 2 * k] = found;
        best.v[group.x * 4 + 2 * k + 1] = bitcast<u32>(logits.v[group.x * 40 + found]);
        last = found;
    }
}";

fn kernel(
    name: &str,
    wgsl: &str,
    immediates: u32,
    workgroup: u32,
    tile: u32,
    access: &[Access],
) -> Kernel {
    Kernel {
        name: name.into(),
        bindings: access
            .iter()
            .map(|&access| BindingNeed {
                access,
                fixed_bytes: 0,
                row_bytes: 0,
            })
            .collect(),
        immediates,
        variants: vec![Variant {
            name: "portable".into(),
            needs: Needs::default(),
            code: spirv(wgsl),
            workgroup: [workgroup, 1, 1],
            subgroup: None,
            workgroup_bytes: 0,
            tile: [tile, 1, 1],
            activations: None,
        }],
    }
}

fn buffer(offset: u64, rows: RowSet, cols: u32) -> Buffer {
    Buffer { offset, rows, cols }
}

/// Places of the values.
pub(super) const X: u64 = 0;
pub(super) const Y: u64 = 512;
pub(super) const LOGITS: u64 = 1024;
pub(super) const BEST_AT: u64 = 1536;
pub(super) const VALUE_BYTES: u64 = 1600;

/// Bytes of the weights section: two planes that are bound, around one that is not.
pub(super) const UNBOUND_BYTES: u64 = 64 << 10;

/// The plan: `rows`, `add` (with the first weight), `add` (with the last), `remember`, `head`, `best`.
pub(super) fn manifest() -> Manifest {
    use Access::{Read, ReadWrite, Write};
    let weight = |name: &str, rows: u32, cols: u32| WeightEntry {
        name: name.into(),
        format: Format::F32,
        rows,
        cols,
        kind: WeightKind::Matrix,
        data: Span::default(),
        scales: Span::default(),
        checksum: 0,
    };
    let mut weights = vec![
        weight("table", TABLE_ROWS, COLS),
        weight("unbound", 16, (UNBOUND_BYTES / 64) as u32),
        weight("other", TABLE_ROWS, COLS),
    ];
    place_weights(&mut weights);
    let cache_bytes = u64::from(SLOTS * CONTEXT * COLS) * 4 * 2;
    let cache = |index: u64| Cache {
        name: format!("l{index}"),
        format: Format::F32,
        kv_heads: 1,
        head_dim: COLS,
        capacity: CONTEXT,
        window: None,
        offset: VALUE_BYTES + index * cache_bytes,
        bytes: cache_bytes,
    };
    let (x, y) = (buffer(X, RowSet::Seq, COLS), buffer(Y, RowSet::Seq, COLS));
    let logits = buffer(LOGITS, RowSet::Out, VOCAB);
    let best = buffer(BEST_AT, RowSet::Out, 2 * CANDIDATES);
    let data = |weight: u32| Resource::Data {
        weight,
        piece: Span {
            offset: 0,
            bytes: u64::from(TABLE_ROWS * COLS) * 4,
        },
        gathered: false,
    };
    let step =
        |label: &str, kernel: u32, bindings: Vec<Resource>, immediates: Vec<u32>, rows| Step {
            label: label.into(),
            work: Work::Gpu(GpuStep {
                kernel,
                bindings,
                immediates,
                work: [rows, Extent::Fixed(1), Extent::Fixed(1)],
                barrier: kernel != 0,
            }),
        };
    let seq = Extent::Rows(RowSet::Seq);
    let out = Extent::Rows(RowSet::Out);
    let steps = vec![
        step(
            "rows",
            0,
            vec![Resource::Call, Resource::Value(x)],
            vec![2f32.to_bits(), COLS],
            seq,
        ),
        step(
            "add",
            1,
            vec![Resource::Value(x), data(0), Resource::Value(y)],
            vec![],
            seq,
        ),
        step(
            "add_other",
            1,
            vec![Resource::Value(y), data(2), Resource::Value(x)],
            vec![],
            seq,
        ),
        step(
            "remember",
            2,
            vec![Resource::Call, Resource::Value(x), Resource::Keys(1)],
            vec![],
            seq,
        ),
        step(
            "head",
            3,
            vec![Resource::Call, Resource::Keys(1), Resource::Value(logits)],
            vec![],
            out,
        ),
        step(
            "best",
            4,
            vec![Resource::Value(logits), Resource::Value(best)],
            vec![],
            out,
        ),
    ];
    Manifest {
        limits: gembin_bundle::manifest::Limits {
            vocab: VOCAB,
            context: CONTEXT,
            slots: SLOTS,
        },
        arena: Arena {
            bytes: VALUE_BYTES + 2 * cache_bytes,
            cache_bytes: 2 * cache_bytes,
            caches: vec![cache(0), cache(1)],
        },
        weights,
        kernels: vec![
            // Four rows of 16 columns a workgroup.
            kernel("rows", ROWS, 2, 64, 4, &[Read, Write]),
            kernel("add", ADD, 0, 16, 1, &[Read, Read, Write]),
            kernel("remember", REMEMBER, 0, 16, 1, &[Read, Read, ReadWrite]),
            kernel("head", HEAD, 0, 64, 1, &[Read, Read, Write]),
            kernel("best", BEST, 0, 1, 1, &[Read, Write]),
        ],
        plans: vec![Plan {
            name: "vulkan".into(),
            devices: vec![Device::Vulkan],
            programs: vec![Program {
                name: "prefill".into(),
                phase: Phase::Prefill,
                max_rows: MAX_ROWS,
                max_outs: MAX_OUTS,
                logits,
                candidates: Some(best),
                steps,
            }],
        }],
        ..Manifest::default()
    }
}

/// A manifest, and its step that reads a weight of 256 f32 for every row.
pub(super) fn scaled_copy() -> (Manifest, GpuStep) {
    let manifest = manifest();
    let Work::Gpu(step) = manifest.plans[0].programs[0].steps[1].work.clone() else {
        panic!("a plan of dispatches");
    };
    (manifest, step)
}

/// The f32 of weight `which` at row `row` and column `col`.
pub(super) fn weight_at(which: u32, row: u32, col: u32) -> f32 {
    (which * 1000 + row * 3 + col) as f32 / 8.0
}

/// Weights as pages, which can be imported.
struct Pages(HostArena);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the pages are zeroed memory that nobody writes once they are shared.
        unsafe { std::slice::from_raw_parts(self.0.base(), self.0.bytes()) }
    }
}

/// The weights section.
fn section(manifest: &Manifest) -> Arc<dyn AsRef<[u8]> + Send + Sync> {
    let end = manifest
        .weights
        .last()
        .map_or(0, |w| w.data.offset + w.data.bytes);
    let pages = HostArena::new(end.next_multiple_of(4096) as usize).expect("memory");
    for which in [0u32, 2] {
        let entry = &manifest.weights[which as usize];
        for row in 0..TABLE_ROWS {
            for col in 0..COLS {
                let word = gembin_bundle::layout::word_index(Format::F32, COLS, row, col);
                let value = weight_at(which, row, col);
                // SAFETY: the word lies in the weight's plane, inside the pages, and nobody else has them yet.
                unsafe {
                    pages
                        .base()
                        .add((entry.data.offset + word * 4) as usize)
                        .cast::<f32>()
                        .write(value);
                }
            }
        }
    }
    Arc::new(Pages(pages))
}

/// What a driver is loaded with.
pub(super) fn context(manifest: Manifest) -> LoadContext {
    let arena = HostArena::new(manifest.arena.bytes as usize).expect("memory");
    LoadContext {
        plan: 0,
        weights: section(&manifest),
        arena: Arc::new(arena),
        threads: 0,
        manifest: Arc::new(manifest),
    }
}

/// Options of a test: validation on, no files in the user's folders.
pub(super) fn options() -> VulkanOptions {
    VulkanOptions {
        validation: Validation::Synchronization,
        cache: CacheFolder::None,
        ..VulkanOptions::default()
    }
}

/// Loads a manifest. Fails where there is no GPU: the set-up of the tests installs one in software.
pub(super) fn load(
    manifest: Manifest,
    options: &VulkanOptions,
) -> Result<VulkanDriver, DriverError> {
    VulkanDriver::load(&context(manifest), &Pick::Best, options)
}
