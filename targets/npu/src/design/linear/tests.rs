//! Products on the simulated array against plain arithmetic, bit by bit; search and prediction.

use super::trial::Trial;
use super::*;
use crate::module::Module;
use crate::simulator::{Report, Simulator};
use half::bf16;
use melior::ir::operation::{OperationLike, OperationPrintingFlags};

fn shape(tokens: u32, depth: u32, outputs: u32) -> Shape {
    Shape {
        tokens,
        depth,
        outputs,
    }
}

fn run(
    trial: &Trial,
    design: &Linear,
    array: &Array,
    simulator: &mut Simulator,
) -> (Vec<bf16>, Report) {
    let (results, report) = trial
        .run(design, array, simulator)
        .unwrap_or_else(|error| panic!("{error}"));
    (results.expect("all results written"), report)
}

/// The module, legal and read back from its text.
fn emitted(design: &Linear, array: &Array, version: DialectVersion, shapes: &[Shape]) -> Module {
    let text = design.emit(array, version, "linear", shapes).unwrap();
    let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
    let faults = crate::legality::check(&module, array);
    assert!(
        faults.is_empty(),
        "{design:?}: {} faults, the first: {}",
        faults.len(),
        faults[0]
    );
    module
}

fn configured(design: &Linear, array: &Array, shapes: &[Shape]) -> Simulator {
    let module = emitted(design, array, DialectVersion::default(), shapes);
    Simulator::new(&module, array).unwrap_or_else(|error| panic!("{error}"))
}

/// Every form, odd sizes: one configuration runs all shapes one after another.
#[test]
fn products_are_bit_exact_on_the_simulated_array() {
    let forms = [WeightForm::Rows8, WeightForm::Groups8, WeightForm::Groups4];
    let cases = [Array::npu1(), Array::npu2()]
        .into_iter()
        .flat_map(|array| forms.map(|form| (array, form)));
    for (array, form) in cases {
        let depth = if form == WeightForm::Groups4 { 96 } else { 64 };
        let design = Linear {
            form,
            native_rows: array.matrix(Operands::I8).m,
            tile: CoreTile {
                tokens: 32,
                depth,
                outputs: 32,
            },
            most_depth: 2048,
        };
        let shapes = [
            shape(1, 64, 128),
            // Neither depth nor outputs are multiples of anything; one block of outputs laps over another.
            shape(40, 200, 150),
            // Two blocks of tokens, several segments of scales.
            shape(130, 1184, 48),
            shape(17, 2048, 160),
        ];
        let mut simulator = configured(&design, array, &shapes);
        for (seed, shape) in (1..).zip(shapes) {
            let case = Trial::new(form, shape, seed);
            let (results, report) = run(&case, &design, array, &mut simulator);
            let expected = case.expected(&design);
            let wrong = results
                .iter()
                .zip(&expected)
                .filter(|(a, b)| a != b)
                .count();
            assert_eq!(
                wrong,
                0,
                "{form:?} {shape:?}: {wrong} of {} differ",
                results.len()
            );
            println!("{form:?} {shape:?}: {} cycles", report.cycles);
        }
    }
}

/// Bringing groups to one scale a row costs little: the error of results beside exact arithmetic, relative to their size.
#[test]
fn one_scale_a_row_stays_within_1_percent() {
    for form in [WeightForm::Rows8, WeightForm::Groups8, WeightForm::Groups4] {
        let design = Linear {
            form,
            native_rows: 4,
            tile: CoreTile {
                tokens: 32,
                depth: 96,
                outputs: 32,
            },
            most_depth: 2048,
        };
        let case = Trial::new(form, shape(24, 2048, 64), 5);
        let (mut error, mut size) = (0.0, 0.0);
        for (result, exact) in case.expected(&design).iter().zip(case.exact()) {
            error += (f64::from(*result) - exact).powi(2);
            size += exact * exact;
        }
        let relative = (error / size).sqrt();
        println!("{form:?}: {relative:.5}");
        assert!(relative < 0.01, "{form:?}: {relative}");
    }
}

/// The tiles that are chosen for a real model's matrices: what is predicted of their products, and what the simulator
/// counts for a piece of one.
#[test]
fn predictions_agree_with_the_simulated_array() {
    let array = Array::npu1();
    for form in [WeightForm::Rows8, WeightForm::Groups4] {
        let design = Linear::search(array, form, &gemma_3_4b(512)).unwrap();
        let shape = shape(512, 1280, 2 * design.tile.outputs * array.columns);
        let mut simulator = configured(&design, array, &[shape]);
        let case = Trial::new(form, shape, 9);
        let (_, report) = run(&case, &design, array, &mut simulator);
        let predicted = design.predict(array, shape).compute_s * array.clock_hz;
        let busy = report
            .cores
            .iter()
            .map(|core| core.busy_cycles)
            .max()
            .unwrap_or(0);
        println!(
            "{form:?} {:?}: {busy} busy of {} cycles, {predicted:.0} predicted",
            design.tile, report.cycles
        );
        let ratio = busy as f64 / predicted;
        assert!((0.8..1.2).contains(&ratio), "{form:?}: {ratio}");
    }
}

/// Products of a layer of Gemma 3 4B.
fn gemma_3_4b(tokens: u32) -> Vec<(Shape, u32)> {
    [(2560, 4096), (2048, 2560), (2560, 20480), (10240, 2560)]
        .map(|(depth, outputs)| (shape(tokens, depth, outputs), 34))
        .to_vec()
}

/// The text of every form, in both spellings of the dialect; it reads back to itself.
#[test]
fn modules_are_snapshot() {
    let array = Array::npu1();
    for (name, form, version) in [
        (
            "products_rows8",
            WeightForm::Rows8,
            DialectVersion::Subviews,
        ),
        (
            "products_groups8",
            WeightForm::Groups8,
            DialectVersion::Elements,
        ),
        (
            "products_groups4",
            WeightForm::Groups4,
            DialectVersion::Subviews,
        ),
    ] {
        let design = Linear {
            form,
            native_rows: 4,
            tile: CoreTile {
                tokens: 32,
                depth: 96,
                outputs: 32,
            },
            most_depth: 256,
        };
        let text = design
            .emit(array, version, name, &[shape(40, 200, 150)])
            .unwrap();
        crate::design::snapshot::assert_module(name, &text);
        let context = crate::mlir::context();
        let module = melior::ir::Module::parse(&context, &text).expect("the text reads back");
        let flags = OperationPrintingFlags::new().print_generic_operation_form();
        let again = module.as_operation().to_string_with_flags(flags).unwrap();
        assert_eq!(again, text);
    }
}

/// Matrices of the models that the array is meant for: depth, outputs.
const MODELS: [(&str, &[(u32, u32)]); 4] = [
    (
        "gemma-2-2b",
        &[(2304, 4096), (2048, 2304), (2304, 18432), (9216, 2304)],
    ),
    (
        "gemma-3-1b",
        &[(1152, 1536), (1024, 1152), (1152, 13824), (6912, 1152)],
    ),
    (
        "gemma-3-4b",
        &[(2560, 4096), (2048, 2560), (2560, 20480), (10240, 2560)],
    ),
    (
        "gemma-3-27b",
        &[(5376, 8192), (4096, 5376), (5376, 43008), (21504, 5376)],
    ),
];

#[test]
fn designs_of_real_models_are_legal_use_all_cores_and_reach_4_tops() {
    let array = Array::npu1();
    for (model, matrices) in MODELS {
        for form in [WeightForm::Groups8, WeightForm::Groups4] {
            let of = |tokens: u32| {
                let shapes = matrices
                    .iter()
                    .map(move |&(depth, outputs)| shape(tokens, depth, outputs));
                shapes.collect::<Vec<_>>()
            };
            let weighed: Vec<(Shape, u32)> = of(512).into_iter().map(|shape| (shape, 1)).collect();
            let design = Linear::search(array, form, &weighed).unwrap();
            let shapes: Vec<Shape> = [1, 32, 64, 256, 512].into_iter().flat_map(of).collect();
            let module = emitted(&design, array, DialectVersion::default(), &shapes);
            assert_eq!(module.cores.len(), 16, "{model} {form:?}");
            assert_eq!(module.sequences.len(), shapes.len(), "{model} {form:?}");
            if ["gemma-3-4b", "gemma-3-27b"].contains(&model) {
                for shape in of(512) {
                    let predicted = design.predict(array, shape);
                    assert!(
                        predicted.tops() >= 4.0,
                        "{model} {form:?} {shape:?}: {predicted:?}"
                    );
                }
            }
        }
    }
}
