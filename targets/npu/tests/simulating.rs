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

const FOUR: &str = include_str!("../../../testdata/targets/npu/product_four_cores.mlir");
const PARAMETER: &str = include_str!("../../../testdata/targets/npu/parameter_one_core.mlir");

#[test]
fn four_cores_share_what_is_broadcast_and_join_what_they_make() {
    let module = Module::read(FOUR).unwrap();
    let mut array = Simulator::new(&module, Array::npu1()).unwrap();
    for seed in 0..3 {
        let (a, b) = (noise(seed, 16 * 32), noise(seed + 9, 32 * 32));
        let mut buffers = [
            HostBuffer::input(a.clone()),
            HostBuffer::input(b.clone()),
            HostBuffer::output(16 * 32 * 4),
        ];
        let report = array.run("sequence", &mut buffers).unwrap();
        assert_eq!(buffers[2].bytes(), product(&a, &b, (16, 32, 32)));
        assert_eq!(report.cores.len(), 4);
        let text = report.to_string();
        assert!(
            text.contains("core (1, 3): busy") && text.contains("@a1: 256 bytes to 2 consumers"),
            "{text}"
        );
        let broadcast = report
            .streams
            .iter()
            .find(|stream| stream.fifo == "a1")
            .unwrap();
        assert_eq!((broadcast.destinations, broadcast.bytes), (2, 256));
    }
}

#[test]
fn parameters_written_at_run_time_reach_the_core() {
    let module = Module::read(PARAMETER).unwrap();
    let mut array = Simulator::new(&module, Array::npu1()).unwrap();
    let x: Vec<i32> = (0..320).map(|at| at * 7919 - 1_000_000_000).collect();
    let bytes = |x: &[i32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for (sequence, f) in [
        ("multiply", (|x: i32| x.wrapping_mul(-3)) as fn(i32) -> i32),
        ("add", |x| x.wrapping_add(1000)),
        ("multiply", |x| x.wrapping_mul(-3)),
    ] {
        let mut buffers = [HostBuffer::input(bytes(&x)), HostBuffer::output(1280)];
        array.run(sequence, &mut buffers).unwrap();
        let expected: Vec<i32> = x.iter().map(|x| f(*x)).collect();
        assert_eq!(buffers[1].bytes(), bytes(&expected));
    }
}
