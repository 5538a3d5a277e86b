//! Gates on the simulated array against plain f32 arithmetic.

use super::*;
use crate::cost::CoreTile;
use crate::design::linear::pack::{Token, quantize};
use crate::design::linear::weights::WeightForm;
use crate::design::linear::{Linear, Shape};
use crate::design::prepare::pack::{narrow_bytes, panels};
use crate::design::prepare::tests::{configured, distance, tokens_of, values_of};
use crate::design::random::Random;
use crate::design::vector::{Programs, Work};
use crate::simulator::{HostBuffer, Report, Simulator};
use half::bf16;

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

/// Odd sizes, both orders of columns, chunks that are kept and that come again: on one configuration.
#[test]
fn gates_are_right_on_the_simulated_array() {
    let array = Array::npu1();
    let design = Vector {
        chunk: 16,
        most_normed: 64,
        kept: 64,
        most_head: 64,
        programs: Programs::All,
    };
    let cases = [
        (WeightForm::Groups8, 64, 256, 70),
        (WeightForm::Groups4, 128, 200, 5),
        // Five chunks and more in the room of four.
        (WeightForm::Groups4, 64, 704, 16),
        (WeightForm::Rows8, 128, 330, 40),
        (WeightForm::Groups8, 64, 40, 1),
        (WeightForm::Groups4, 160, 448, 9),
        // More transfers than a queue holds, of which most come again.
        (WeightForm::Groups8, 64, 16448, 1),
    ]
    .map(|(form, depth, width, tokens)| {
        let linear = Linear {
            form,
            tile: CoreTile {
                tokens: 32,
                depth,
                outputs: 32,
            },
            most_depth: 2048,
            native_rows: 4,
        };
        let shape = Shape {
            tokens,
            depth: width,
            outputs: 64,
        };
        let work = Gelu {
            width,
            layout: Activations::of(&linear, array, shape),
        };
        assert!(work.is_done_by(&design, array), "{}", work.name());
        (form, work, tokens)
    });
    let works = cases.map(|(_, work, _)| Work::Gelu(work));
    let mut simulator = configured(&design, &works);
    for (seed, (form, work, tokens)) in (1..).zip(cases) {
        check(&design, &mut simulator, form, &work, tokens, seed);
    }
}

/// Runs one and compares.
pub(in crate::design) fn check(
    design: &Vector,
    simulator: &mut Simulator,
    form: WeightForm,
    work: &Gelu,
    tokens: u32,
    seed: u64,
) -> Report {
    let array = Array::npu1();
    let mut random = Random(seed);
    let mut rows = |size: f32| -> Vec<Vec<f32>> {
        let mut number = || bf16::from_f32(random.normal() * size).to_f32();
        (0..tokens)
            .map(|_| (0..work.width).map(|_| number()).collect())
            .collect()
    };
    // From where GELU is nothing to where it is its argument.
    let (gate, up) = (rows(3.0), rows(2.0));
    let interleaved: Vec<Vec<f32>> = gate
        .iter()
        .zip(&up)
        .map(|(gate, up)| pack::interleave(gate, up))
        .collect();
    let mut values = panels(&interleaved, work.layout.panels, 2 * work.stored());
    values.resize(work.buffer_bytes(design, array)[0] as usize / 2, f32::NAN);
    let mut buffers = [
        HostBuffer::input(narrow_bytes(&values)),
        HostBuffer::input(pack::table(work, design, array)),
        HostBuffer::input(vec![0x55; work.layout.bytes as usize]),
    ];
    let report = simulator
        .run(&work.name(), &mut buffers)
        .unwrap_or_else(|error| panic!("{}: {error}", work.name()));
    let exact: Vec<Vec<f32>> = gate
        .iter()
        .zip(&up)
        .map(|(gate, up)| {
            gate.iter()
                .zip(up)
                .map(|(gate, up)| gelu(*gate) * up)
                .collect()
        })
        .collect();
    let expected: Vec<Token> = exact.iter().map(|row| quantize(row)).collect();
    let made = tokens_of(&work.layout, form, work.width, tokens, buffers[2].bytes());
    let far = distance(&values_of(&made), &values_of(&expected));
    println!("{}: {} cycles, off by {far:.5}", work.name(), report.cycles);
    assert!(far < 0.01, "{}: off by {far}", work.name());
    report
}
