//! The checker: good modules have no fault.
#![cfg(feature = "mlir")]

use gembin_target_npu::array::Array;
use gembin_target_npu::legality::check;
use gembin_target_npu::module::Module;

#[test]
fn good_modules_are_legal() {
    for text in [
        include_str!("../../../testdata/targets/npu/product_one_core.mlir"),
        include_str!("../../../testdata/targets/npu/product_four_cores.mlir"),
        include_str!("../../../testdata/targets/npu/parameter_one_core.mlir"),
    ] {
        let module = Module::read(text).unwrap();
        let faults = check(&module, Array::npu1());
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
