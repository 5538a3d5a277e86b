//! The simulator: whole modules against plain loops.
#![cfg(feature = "mlir")]

use gembin_target_npu::array::Array;
use gembin_target_npu::module::Module;
use gembin_target_npu::simulator::{HostBuffer, Simulator};

const PRODUCT: &str = include_str!("../../../testdata/targets/npu/product_one_core.mlir");

/// Bytes that look like nothing.
fn noise(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// The product of row-major matrices of i8, as bytes of i32.
fn product(a: &[u8], b: &[u8], (m, k, n): (usize, usize, usize)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..m {
        for column in 0..n {
            let sum: i32 = (0..k)
                .map(|at| i32::from(a[row * k + at] as i8) * i32::from(b[at * n + column] as i8))
                .sum();
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn a_product_on_one_core_is_exact_again_and_again() {
    let module = Module::read(PRODUCT).unwrap();
    let mut array = Simulator::new(&module, Array::npu1()).unwrap();
    for seed in 0..3 {
        let (a, b) = (noise(seed, 1024), noise(seed + 100, 1024));
        let mut buffers = [
            HostBuffer::input(a.clone()),
            HostBuffer::input(b.clone()),
            HostBuffer::output(4096),
        ];
        let report = array.run("sequence", &mut buffers).unwrap();
        assert!(buffers[2].is_whole());
        assert_eq!(buffers[2].bytes(), product(&a, &b, (32, 32, 32)));
        assert_eq!(report.host_bytes_read, 2048);
        assert_eq!(report.host_bytes_written, 4096);
        assert_eq!(report.cores[0].matrix_instructions, 8 * 4 * 4);
        assert!(report.cycles > 1024, "{report:?}");
    }
}
