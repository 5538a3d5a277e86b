//! Designs, instruction streams and their runs: a small plan for an NPU passes, and every rule about it is held.

use super::{check, sample};
use crate::check::CheckError;
use crate::format::{decode_manifest, encode_manifest};
use crate::gpu::{Access, Resource};
use crate::manifest::{Buffer, Device, Manifest, Phase, Plan, Program, RowSet, Span, Step, Work};
use crate::npu::{
    ArgumentNeed, Code, Design, Generation, InstructionStream, Npu, NpuStep, RowsStream,
    designs_of, not_built,
};

const ROW: u64 = sample::HIDDEN as u64 * 4;

fn need(access: Access, bytes: u64) -> ArgumentNeed {
    ArgumentNeed { access, bytes }
}

fn design(name: &str, columns: u32) -> Design {
    Design {
        name: name.into(),
        generation: Generation::Npu1,
        columns,
        code: Code::Pdi(vec![0; 64]),
    }
}

fn stream(name: &str, design: u32, arguments: Vec<ArgumentNeed>) -> InstructionStream {
    InstructionStream {
        name: name.into(),
        design,
        arguments,
        words: vec![1, 2, 3],
    }
}

fn step(label: &str, rows: RowSet, streams: &[(u32, u32)], buffers: Vec<Resource>) -> Step {
    Step {
        label: label.into(),
        work: Work::Npu(NpuStep {
            rows,
            streams: streams
                .iter()
                .map(|&(rows, stream)| RowsStream { rows, stream })
                .collect(),
            buffers,
        }),
    }
}

/// Writes a value from the call, stores it in a cache, reads cache, value and a weight for the logits.
fn program(phase: Phase, manifest: &Manifest) -> Program {
    let (max_rows, max_outs, rows, fill) = match phase {
        Phase::Prefill => (
            sample::PREFILL_ROWS,
            4,
            RowSet::Out,
            vec![(4, 1), (sample::PREFILL_ROWS, 0)],
        ),
        Phase::Decode => (
            sample::SLOTS,
            sample::SLOTS,
            RowSet::Seq,
            vec![(sample::SLOTS, 1)],
        ),
    };
    let value = |offset: u64, rows: RowSet, cols: u32| Buffer { offset, rows, cols };
    let x = value(0, RowSet::Seq, sample::HIDDEN);
    let logits = value(1024, rows, sample::VOCAB);
    let plane = |span: Span| Span {
        offset: 0,
        bytes: span.bytes,
    };
    let table = &manifest.weights[sample::EMBEDDING as usize];
    let data = Resource::Data {
        weight: sample::EMBEDDING,
        piece: plane(table.data),
        gathered: false,
    };
    let scales = Resource::Scales {
        weight: sample::EMBEDDING,
        piece: Span {
            offset: 4,
            bytes: 8,
        },
        gathered: false,
    };
    Program {
        name: "p".into(),
        phase,
        max_rows,
        max_outs,
        logits,
        candidates: None,
        steps: vec![
            step(
                "fill",
                RowSet::Seq,
                &fill,
                vec![Resource::Call, Resource::Value(x)],
            ),
            step(
                "store",
                RowSet::Seq,
                &[(max_rows, 2)],
                vec![Resource::Value(x), Resource::Keys(0), Resource::Values(0)],
            ),
            step(
                "head",
                rows,
                &[(max_outs, 3)],
                vec![
                    Resource::Value(x),
                    data,
                    scales,
                    Resource::Keys(0),
                    Resource::Value(logits),
                ],
            ),
        ],
    }
}

fn manifest() -> (Manifest, u64) {
    let (mut m, weights_bytes) = sample::manifest();
    let half = m.arena.caches[0].bytes / 2;
    use Access::{Read, ReadWrite, Write};
    m.npu = Npu {
        designs: vec![design("rows", 4), design("heads", 1)],
        streams: vec![
            stream(
                "fill 16",
                0,
                vec![
                    need(Read, 16 + 16 * u64::from(sample::PREFILL_ROWS)),
                    need(Write, u64::from(sample::PREFILL_ROWS) * ROW),
                ],
            ),
            stream("fill 2", 0, vec![need(Read, 48), need(Write, 2 * ROW)]),
            stream(
                "store",
                0,
                vec![
                    need(Read, ROW),
                    need(ReadWrite, half),
                    need(ReadWrite, half),
                ],
            ),
            stream(
                "head",
                1,
                vec![
                    need(Read, ROW),
                    need(Read, 64),
                    need(Read, 8),
                    need(Read, half),
                    need(Write, u64::from(sample::VOCAB) * 4),
                ],
            ),
        ],
    };
    let programs = vec![program(Phase::Prefill, &m), program(Phase::Decode, &m)];
    m.plans = vec![Plan {
        name: "npu".into(),
        devices: vec![Device::Xdna],
        programs,
    }];
    (m, weights_bytes)
}

fn check_changed(change: impl FnOnce(&mut Manifest)) -> Result<(), CheckError> {
    let (mut m, weights_bytes) = manifest();
    change(&mut m);
    check(m, weights_bytes).map(|_| ())
}

#[track_caller]
fn refuse(expect: &str, change: impl FnOnce(&mut Manifest)) {
    let text = check_changed(change)
        .expect_err("accepted what must be refused")
        .to_string();
    assert!(
        text.contains(expect) && !text.contains('\n'),
        "expected: {expect}\n     got: {text}"
    );
}

fn prefill(m: &mut Manifest, step: usize) -> &mut NpuStep {
    match &mut m.plans[0].programs[0].steps[step].work {
        Work::Npu(work) => work,
        Work::Cpu(_) | Work::Gpu(_) => panic!("a plan of runs of streams"),
    }
}

#[test]
fn a_plan_for_an_npu_is_accepted_and_comes_back_from_its_bytes() {
    check_changed(|_| {}).unwrap();
    let (m, _) = manifest();
    assert_eq!(decode_manifest(&encode_manifest(&m).unwrap()).unwrap(), m);
    assert_eq!(designs_of(&m, &m.plans[0]), [0, 1]);
    assert_eq!(not_built(&m, &m.plans[0]), Vec::<&str>::new());
}

#[test]
fn a_stream_is_chosen_by_rows() {
    let (mut m, _) = manifest();
    let fill = prefill(&mut m, 0);
    assert_eq!(fill.stream_for(1), Some(1));
    assert_eq!(fill.stream_for(4), Some(1));
    assert_eq!(fill.stream_for(5), Some(0));
    assert_eq!(fill.stream_for(17), None);
}

#[test]
fn a_plan_that_was_not_built_is_accepted_and_known() {
    let unbuilt = |m: &mut Manifest| {
        m.npu.designs[1].code = Code::NotBuilt {
            mlir: "module {\n}\n".into(),
        };
        m.npu.streams[3].words.clear();
    };
    check_changed(unbuilt).unwrap();
    let (mut m, _) = manifest();
    unbuilt(&mut m);
    assert_eq!(not_built(&m, &m.plans[0]), ["heads"]);
    refuse("was not built and has 0 bytes of text", |m| {
        m.npu.designs[1].code = Code::NotBuilt {
            mlir: String::new(),
        };
    });
    refuse("must be none, since its design was not built", |m| {
        m.npu.designs[1].code = Code::NotBuilt { mlir: "m".into() };
    });
}

#[test]
fn designs() {
    refuse("design \"rows\": columns is 5, must be in 1..=4", |m| {
        m.npu.designs[0].columns = 5;
    });
    refuse("columns is 0", |m| m.npu.designs[0].columns = 0);
    refuse("columns is 9, must be in 1..=8", |m| {
        for design in &mut m.npu.designs {
            design.generation = Generation::Npu2;
            design.columns = 9;
        }
    });
    check_changed(|m| {
        for design in &mut m.npu.designs {
            design.generation = Generation::Npu2;
            design.columns = 8;
        }
    })
    .unwrap();
    refuse("several generations", |m| {
        m.npu.designs[0].generation = Generation::Npu2;
    });
    refuse("a configuration of 0 bytes", |m| {
        m.npu.designs[0].code = Code::Pdi(Vec::new());
    });
    refuse("a configuration of 63 bytes", |m| {
        m.npu.designs[0].code = Code::Pdi(vec![0; 63]);
    });
    refuse("the name is used twice", |m| {
        m.npu.designs[1].name = "rows".into();
    });
    refuse("control character", |m| {
        m.npu.designs[1].name = "\u{1b}".into();
    });
    refuse("runs 7 designs, an NPU holds at most 6", |m| {
        for i in 0..5 {
            let index = m.npu.designs.len() as u32;
            m.npu.designs.push(design(&format!("d{i}"), 1));
            let mut more = m.npu.streams[1].clone();
            (more.name, more.design) = (format!("s{i}"), index);
            m.npu.streams.push(more);
            let stream = m.npu.streams.len() as u32 - 1;
            let rows = i + 5;
            prefill(m, 0)
                .streams
                .insert(i as usize + 1, RowsStream { rows, stream });
        }
    });
}

#[test]
fn streams() {
    refuse("is for design 2 of a table of 2", |m| {
        m.npu.streams[0].design = 2;
    });
    refuse("0 buffers, must be in 1..=5", |m| {
        m.npu.streams[0].arguments.clear();
    });
    refuse("6 buffers, must be in 1..=5", |m| {
        let sixth = need(Access::Read, 4);
        m.npu.streams[3].arguments.push(sixth);
    });
    refuse("touches 6 bytes of buffer 0, must be whole words", |m| {
        m.npu.streams[0].arguments[0].bytes = 6;
    });
    refuse("touches 0 bytes of buffer 1", |m| {
        m.npu.streams[0].arguments[1].bytes = 0;
    });
    refuse("0 instruction words, must be 1 to 1048576", |m| {
        m.npu.streams[0].words.clear();
    });
    refuse("1048577 instruction words", |m| {
        m.npu.streams[0].words = vec![0; (1 << 20) + 1];
    });
    refuse("the name is used twice", |m| {
        m.npu.streams[1].name = "fill 16".into();
    });
}

#[test]
fn choices_of_streams() {
    refuse("runs instruction stream 9 of a table of 4", |m| {
        prefill(m, 0).streams[0].stream = 9;
    });
    refuse("up to the program's 16", |m| {
        prefill(m, 0).streams.pop();
    });
    refuse("for ever more rows", |m| prefill(m, 0).streams.reverse());
    refuse("for ever more rows", |m| prefill(m, 0).streams.clear());
    refuse("from 1 at least", |m| prefill(m, 0).streams[0].rows = 0);
    refuse("reads and writes other buffers", |m| {
        let arguments = &mut m.npu.streams[1].arguments;
        arguments[0].access = Access::Write;
    });
}

#[test]
fn buffers() {
    refuse("binds 1 buffers, stream \"fill 2\" has 2", |m| {
        prefill(m, 0).buffers.pop();
    });
    refuse("buffer 1 has 512 bytes, the stream touches 516", |m| {
        m.npu.streams[0].arguments[1].bytes += 4;
    });
    refuse("buffer 0 has 272 bytes, the stream touches 276", |m| {
        m.npu.streams[0].arguments[0].bytes += 4;
    });
    for change in [|bytes: &mut u64| *bytes += 4, |bytes: &mut u64| *bytes -= 4] {
        refuse(
            "buffer 1 is made for a cache of another shape than \"l0\"",
            |m| {
                change(&mut m.npu.streams[2].arguments[1].bytes);
            },
        );
    }
    refuse("buffer 2 is a weight, which a stream cannot write", |m| {
        m.npu.streams[3].arguments[2].access = Access::Write;
    });
    refuse("buffer 0 is the call, which a stream cannot write", |m| {
        for stream in &mut m.npu.streams[..2] {
            stream.arguments[0].access = Access::Write;
        }
    });
    refuse("a value, which a stream cannot read and write", |m| {
        m.npu.streams[2].arguments[0].access = Access::ReadWrite;
    });
    refuse("reads cache \"l0\", into which no earlier step", |m| {
        prefill(m, 1).buffers[1] = Resource::Keys(1);
        prefill(m, 1).buffers[2] = Resource::Keys(1);
        let half = m.arena.caches[1].bytes / 2;
        m.npu.streams[2].arguments[1].bytes = half;
        m.npu.streams[2].arguments[2].bytes = half;
    });
    refuse("buffer 0 at 0, which no earlier step has written", |m| {
        m.plans[0].programs[0].steps.remove(0);
    });
    refuse("leaves the arena's value area", |m| {
        let Resource::Value(x) = &mut prefill(m, 0).buffers[1] else {
            panic!("a value");
        };
        x.offset = 1 << 30;
    });
    refuse("shares bytes with buffer 0", |m| {
        let Resource::Value(logits) = &mut prefill(m, 2).buffers[4] else {
            panic!("a value");
        };
        logits.offset = 0;
    });
}

#[test]
fn pieces_of_weights() {
    let piece = |offset: u64, bytes: u64| {
        refuse("is no piece of whole words of a plane", |m| {
            let Resource::Data { piece, .. } = &mut prefill(m, 2).buffers[1] else {
                panic!("data");
            };
            *piece = Span { offset, bytes };
        });
    };
    piece(2, 64);
    piece(0, 66);
    piece(0, 0);
    piece(4, 1536);
    piece(u64::MAX - 3, 64);
}

#[test]
fn steps_name_the_device() {
    refuse("steps use npu, which is not listed", |m| {
        m.plans[0].devices = vec![Device::Cpu];
    });
}
