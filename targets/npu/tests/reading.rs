//! The reader: whole modules in both forms of text, and what it refuses.
#![cfg(feature = "mlir")]

use gembin_target_npu::module::{Depth, Module};

const PRODUCT: &str = include_str!("../../../testdata/targets/npu/product_one_core.mlir");

#[test]
fn a_module_reads_to_plain_data() {
    let module = Module::read(PRODUCT).unwrap();
    assert_eq!(module.device, 5);
    assert_eq!(module.name.as_deref(), Some("main"));
    assert_eq!((module.tiles.len(), module.fifos.len()), (3, 6));
    assert_eq!(module.links.len(), 3);
    let a = &module.fifos[module.fifo("a_core").unwrap()];
    assert_eq!(a.depth, Depth::Shared(2));
    assert_eq!(a.to_stream.0, [(8, 128), (4, 8), (4, 32), (8, 1)]);
    assert_eq!(module.cores[0].stack_bytes, Some(1024));
    assert_eq!(module.sequences[0].steps.len(), 6);
    let mut ops = 0;
    module.cores[0].body.block.walk(&mut |_| ops += 1);
    assert!(ops > 40, "{ops}");
}
