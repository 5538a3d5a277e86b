//! Broken modules: good ones with one edit each, caught by the reader, the checker or the simulator with the message
//! that says what is wrong. The modules themselves pass all three.
#![cfg(feature = "mlir")]

mod fuzz;
mod patterns;
mod programs;
mod reader;
mod running;
mod tiles;
mod transfers;

use gembin_target_npu::array::Array;
use gembin_target_npu::legality::check;
use gembin_target_npu::module::Module;
use gembin_target_npu::simulator::{HostBuffer, Simulator};

const ONE: &str = include_str!("../../../../testdata/targets/npu/product_one_core.mlir");
const FOUR: &str = include_str!("../../../../testdata/targets/npu/product_four_cores.mlir");
const PARAMETER: &str = include_str!("../../../../testdata/targets/npu/parameter_one_core.mlir");

const RELEASE_A: &str = "        \"aie.objectfifo.release\"() {objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> ()\n";

const RELEASE_C: &str = "        \"aie.objectfifo.release\"() {objFifo_name = @c_core, port = 0 : i32, size = 1 : i32} : () -> ()\n";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Reader,
    Checker,
    Simulator,
}
use Stage::*;

/// Who finds what is wrong with a module first, and in which words.
fn judge(text: &str) -> Result<(), (Stage, String)> {
    let module = Module::read(text).map_err(|error| (Reader, error.to_string()))?;
    let faults = check(&module, Array::npu1());
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err((Checker, lines.join("\n")));
    }
    simulate(&module).map_err(|error| (Simulator, error))
}

/// Runs every sequence; the last argument of each is its output.
fn simulate(module: &Module) -> Result<(), String> {
    let mut array = Simulator::new(module, Array::npu1())
        .map_err(|error| error.to_string())?
        .with_patience(500_000);
    for sequence in &module.sequences {
        let last = sequence.arguments.len().saturating_sub(1);
        if sequence.arguments.iter().any(|a| a.bytes() > 1 << 24) {
            return Err("a buffer too large for a test".to_owned());
        }
        let mut buffers: Vec<HostBuffer> = sequence
            .arguments
            .iter()
            .enumerate()
            .map(|(at, argument)| {
                let bytes = argument.bytes() as usize;
                if at == last {
                    HostBuffer::output(bytes)
                } else {
                    HostBuffer::input(vec![3; bytes])
                }
            })
            .collect();
        array
            .run(&sequence.name, &mut buffers)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn edited(name: &str, text: &str, edits: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{name}: nothing to edit: {from}");
        text = text.replacen(from, to, 1);
    }
    text
}

/// Asserts that an edit is found by this stage, in these words.
fn caught(name: &str, text: &str, edits: &[(&str, &str)], stage: Stage, words: &[&str]) {
    let text = edited(name, text, edits);
    let Err((by, message)) = judge(&text) else {
        panic!("{name}: nobody found it");
    };
    assert_eq!(by, stage, "{name}: {message}");
    for word in words {
        assert!(
            message.contains(word),
            "{name}: `{word}` is not in: {message}"
        );
    }
}

#[test]
fn nothing_is_wrong_with_the_modules_themselves() {
    for text in [ONE, FOUR, PARAMETER] {
        if let Err((stage, message)) = judge(text) {
            panic!("{stage:?}: {message}");
        }
    }
}
