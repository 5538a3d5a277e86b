//! Kernels and dispatches: a small plan for a GPU passes, and every rule about it is held.

use super::{check, sample};
use crate::check::CheckError;
use crate::gpu::{
    Access, Activations, BindingNeed, Extent, Form, GpuStep, Kernel, MAX_GROUPS, Needs, Resource,
    Variant,
};
use crate::manifest::{Buffer, Device, Manifest, Phase, Plan, Program, RowSet, Span, Step, Work};

const FILL: u32 = 0;
const HEAD: u32 = 1;
const CACHE: u32 = 2;

fn need(access: Access, fixed_bytes: u64, row_bytes: u64) -> BindingNeed {
    BindingNeed {
        access,
        fixed_bytes,
        row_bytes,
    }
}

fn kernel(name: &str, bindings: Vec<BindingNeed>) -> Kernel {
    Kernel {
        name: name.into(),
        bindings,
        immediates: 1,
        variants: vec![Variant {
            name: "portable".into(),
            needs: Needs::default(),
            code: vec![0x0723_0203, 0, 0],
            workgroup: [64, 1, 1],
            subgroup: None,
            workgroup_bytes: 0,
            tile: [16, 1, 1],
            activations: None,
        }],
    }
}

fn value(offset: u64, rows: RowSet, cols: u32) -> Buffer {
    Buffer { offset, rows, cols }
}

fn dispatch(kernel: u32, bindings: Vec<Resource>, rows: RowSet, barrier: bool) -> Step {
    Step {
        label: format!("kernel {kernel}"),
        work: Work::Gpu(GpuStep {
            kernel,
            bindings,
            immediates: vec![7],
            work: [Extent::Fixed(40), Extent::Rows(rows), Extent::Fixed(1)],
            barrier,
        }),
    }
}

/// Writes a value from the call, stores it in a cache, reads cache and value and a weight for the logits.
fn program(phase: Phase, manifest: &Manifest) -> Program {
    let (max_rows, max_outs, rows) = match phase {
        Phase::Prefill => (sample::PREFILL_ROWS, 4, RowSet::Out),
        Phase::Decode => (sample::SLOTS, sample::SLOTS, RowSet::Seq),
    };
    let x = value(0, RowSet::Seq, sample::HIDDEN);
    let logits = value(1024, rows, sample::VOCAB);
    let table = &manifest.weights[sample::EMBEDDING as usize];
    let plane = |span: Span| Span {
        offset: 0,
        bytes: span.bytes,
    };
    Program {
        name: "p".into(),
        phase,
        max_rows,
        max_outs,
        logits,
        candidates: None,
        steps: vec![
            dispatch(
                FILL,
                vec![Resource::Call, Resource::Value(x)],
                RowSet::Seq,
                false,
            ),
            dispatch(
                CACHE,
                vec![Resource::Value(x), Resource::Keys(0), Resource::Values(0)],
                RowSet::Seq,
                true,
            ),
            dispatch(
                HEAD,
                vec![
                    Resource::Value(x),
                    Resource::Data {
                        weight: sample::EMBEDDING,
                        piece: plane(table.data),
                        gathered: false,
                    },
                    Resource::Scales {
                        weight: sample::EMBEDDING,
                        piece: plane(table.scales),
                        gathered: false,
                    },
                    Resource::Value(logits),
                ],
                rows,
                false,
            ),
        ],
    }
}

fn manifest() -> (Manifest, u64) {
    let (mut m, weights_bytes) = sample::manifest();
    let table = &m.weights[sample::EMBEDDING as usize];
    let half = m.arena.caches[0].bytes / 2;
    let hidden = u64::from(sample::HIDDEN) * 4;
    m.kernels = vec![
        kernel(
            "fill",
            vec![need(Access::Read, 16, 16), need(Access::Write, 0, hidden)],
        ),
        kernel(
            "head",
            vec![
                need(Access::Read, 0, hidden),
                need(Access::Read, table.data.bytes, 0),
                need(Access::Read, table.scales.bytes, 0),
                need(Access::Write, 0, u64::from(sample::VOCAB) * 4),
            ],
        ),
        kernel(
            "cache",
            vec![
                need(Access::Read, 0, hidden),
                need(Access::ReadWrite, half, 0),
                need(Access::Write, half, 0),
            ],
        ),
    ];
    let programs = [Phase::Prefill, Phase::Decode].map(|phase| program(phase, &m));
    m.plans.push(Plan {
        name: "vulkan".into(),
        devices: vec![Device::Vulkan],
        programs: programs.into(),
    });
    (m, weights_bytes)
}

fn checked(change: impl FnOnce(&mut Manifest)) -> Result<(), CheckError> {
    let (mut m, weights_bytes) = manifest();
    change(&mut m);
    check(m, weights_bytes).map(drop)
}

#[track_caller]
fn refuse(expect: &str, change: impl FnOnce(&mut Manifest)) {
    let text = checked(change).expect_err(expect).to_string();
    assert!(text.contains(expect), "expected {expect}, got: {text}");
}

/// A dispatch of the prefill program.
fn step(m: &mut Manifest, index: usize) -> &mut GpuStep {
    let plan = m.plans.last_mut().expect("the plan");
    let Work::Gpu(step) = &mut plan.programs[0].steps[index].work else {
        panic!("a dispatch");
    };
    step
}

#[test]
fn a_plan_of_dispatches_passes() {
    checked(|_| {}).unwrap();
}

#[test]
fn kernels_are_such_as_a_device_could_take() {
    fn variant(m: &mut Manifest) -> &mut Variant {
        &mut m.kernels[0].variants[0]
    }
    refuse("is used twice", |m| m.kernels[1].name = "fill".into());
    refuse("0 variants", |m| m.kernels[0].variants.clear());
    refuse("0 bindings", |m| m.kernels[0].bindings.clear());
    refuse("not SPIR-V", |m| variant(m).code[0] = 1);
    refuse("not SPIR-V", |m| variant(m).code.clear());
    refuse("invocations is 2048", |m| {
        variant(m).workgroup = [64, 32, 1]
    });
    refuse("workgroup size is 0", |m| variant(m).workgroup[1] = 0);
    refuse("tile is 0", |m| variant(m).tile[2] = 0);
    refuse("subgroup size 24", |m| variant(m).subgroup = Some(24));
    refuse("of workgroup memory", |m| {
        variant(m).workgroup_bytes = 1 << 20
    });
    refuse("33 push constant words", |m| m.kernels[0].immediates = 33);
    refuse("do not agree on whether", |m| {
        let mut other = variant(m).clone();
        other.name = "other".into();
        other.activations = Some(Activations::Reads(Form::Int8));
        m.kernels[0].variants.push(other);
    });
    refuse("do not agree on whether", |m| {
        variant(m).activations = Some(Activations::Prepares(Form::F16));
        let mut other = variant(m).clone();
        other.name = "other".into();
        other.activations = Some(Activations::Reads(Form::F16));
        m.kernels[0].variants.push(other);
    });
    refuse("is there twice", |m| {
        let again = variant(m).clone();
        m.kernels[0].variants.push(again);
    });
}

#[test]
fn a_dispatch_names_what_its_kernel_has() {
    refuse("runs kernel 9 of a table of 3", |m| step(m, 0).kernel = 9);
    refuse("binds 1 buffers", |m| {
        step(m, 0).bindings.pop();
    });
    refuse("push constant words, kernel", |m| {
        step(m, 0).immediates.clear();
    });
    refuse("cannot write", |m| step(m, 0).bindings[1] = Resource::Call);
    refuse("is weight 99", |m| {
        let Resource::Data { weight, .. } = &mut step(m, 2).bindings[1] else {
            panic!("a weight");
        };
        *weight = 99;
    });
    refuse("uses cache 7", |m| {
        step(m, 1).bindings[1] = Resource::Keys(7)
    });
}

#[test]
fn a_binding_holds_what_the_kernel_touches() {
    refuse("the kernel touches", |m| {
        m.kernels[0].bindings[1].row_bytes += 4
    });
    refuse("the kernel touches", |m| {
        m.kernels[0].bindings[0].fixed_bytes = 20
    });
    refuse("the kernel touches more", |m| {
        m.kernels[0].bindings[1].row_bytes = u64::MAX;
    });
    refuse("the kernel touches", |m| {
        m.kernels[1].bindings[1].fixed_bytes += 1
    });
    refuse("cache of another shape", |m| {
        m.kernels[2].bindings[1].fixed_bytes -= 1
    });
    refuse("leaves the arena's value area", |m| {
        let Resource::Value(buffer) = &mut step(m, 0).bindings[1] else {
            panic!("a value");
        };
        buffer.offset = 1 << 40;
    });
    for change in [
        |piece: &mut Span| piece.offset = 64,
        |piece: &mut Span| piece.bytes = 0,
        |piece: &mut Span| piece.bytes += 256,
        |piece: &mut Span| piece.offset = u64::MAX - 255,
    ] {
        refuse("is no piece of a plane", |m| {
            let Resource::Data { piece, .. } = &mut step(m, 2).bindings[1] else {
                panic!("a weight");
            };
            change(piece);
        });
    }
}

#[test]
fn grids_fit_every_device() {
    refuse("of its work is empty", |m| {
        step(m, 0).work[2] = Extent::Fixed(0);
    });
    refuse("workgroups in dimension 0", |m| {
        step(m, 0).work[0] = Extent::Fixed((MAX_GROUPS + 1) * 16);
    });
}

#[test]
fn a_barrier_separates_a_writer_from_whoever_else_touches_the_bytes() {
    refuse("no barrier in between", |m| step(m, 1).barrier = false);
    // The last dispatch reads what the first wrote; the barrier of the one between them is enough.
    checked(|m| step(m, 2).barrier = true).unwrap();
}

#[test]
fn values_are_written_before_they_are_read() {
    refuse("which no earlier step has written", |m| {
        let plan = m.plans.last_mut().unwrap();
        plan.programs[0].steps.remove(0);
    });
    refuse("into which no earlier step stores", |m| {
        m.kernels[2].bindings[1].access = Access::Read;
    });
}

#[test]
fn candidates_are_left_by_a_step_for_every_row_of_logits() {
    refuse("no step leaves candidates", |m| {
        let plan = m.plans.last_mut().unwrap();
        plan.programs[0].candidates = Some(value(4096, RowSet::Out, 8));
    });
}
