//! Emission, search and prediction of products.

use super::*;

/// Products of a layer of Gemma 3 4B.
fn gemma_3_4b(tokens: u32) -> Vec<(Shape, u32)> {
    [
        (2560, 4096),
        (2560, 2048),
        (2048, 2560),
        (2560, 20480),
        (10240, 2560),
    ]
    .map(|(depth, outputs)| {
        let shape = Shape {
            tokens,
            depth,
            outputs,
        };
        (shape, 34)
    })
    .to_vec()
}

#[test]
fn search_report() {
    let array = Array::npu1();
    for tokens in [1, 32, 64, 256, 512] {
        let shapes = gemma_3_4b(tokens);
        let design = Linear::search(array, WeightForm::Rows8, &gemma_3_4b(512)).unwrap();
        println!(
            "{tokens} {design:?} {:?} {}",
            design.core_memory(),
            design.core_memory().bytes()
        );
        for &(shape, _) in &shapes {
            let predicted = design.predict(array, shape);
            println!(
                "  {shape:?}: {:.2} TOPS {:.2} ms, {} {:.0} MACs/cycle {:.1} GB/s",
                predicted.tops(),
                predicted.seconds() * 1e3,
                predicted.bound().name(),
                predicted.macs_per_cycle,
                predicted.ddr_bytes / predicted.seconds() / 1e9
            );
        }
    }
}

#[test]
fn a_module_is_verified_and_reads_back() {
    let design = Linear {
        form: WeightForm::Groups4,
        tile: CoreTile {
            tokens: 32,
            depth: 128,
            outputs: 32,
        },
        most_depth: 256,
    };
    let shape = Shape {
        tokens: 40,
        depth: 192,
        outputs: 160,
    };
    let text = design
        .emit(Array::npu1(), DialectVersion::Subviews, "linear", &[shape])
        .unwrap();
    std::fs::write("/tmp/linear.mlir", &text).unwrap();
    let context = crate::mlir::context();
    let module = melior::ir::Module::parse(&context, &text).unwrap();
    use melior::ir::operation::{OperationLike, OperationPrintingFlags};
    let again = module
        .as_operation()
        .to_string_with_flags(OperationPrintingFlags::new().print_generic_operation_form())
        .unwrap();
    assert_eq!(again, text);
}
