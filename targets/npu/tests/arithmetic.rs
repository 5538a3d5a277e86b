//! The interpreter's arithmetic: small programs on one core, each against the same thing written out in Rust.
#![cfg(feature = "mlir")]

use gembin_target_npu::array::Array;
use gembin_target_npu::module::Module;
use gembin_target_npu::simulator::{HostBuffer, run};
use std::time::Instant;

/// A module of one core that makes an element of type `output` at `%out` of one of type `input` at `%in`.
fn module(input: &str, output: &str, body: &str) -> String {
    let fifo = |ends: &str, name: &str, ty: &str| {
        format!(
            "\"aie.objectfifo\"({ends}) {{sym_name = \"{name}\", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<{ty}>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>}} : (index, index) -> ()\n"
        )
    };
    let elements = |ty: &str| -> i64 {
        ty.split('x')
            .filter_map(|part| part.parse::<i64>().ok())
            .product()
    };
    let transfer = |argument: &str, ty: &str, id: i64, name: &str| {
        format!(
            "\"aiex.npu.dma_memcpy_nd\"(%{argument}) {{id = {id} : i64, metadata = @{name}, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, {}>, static_strides = array<i64: 0, 0, 0, 1>}} : (memref<{ty}>) -> ()\n",
            elements(ty)
        )
    };
    format!(
        r#"#left = affine_map<(m, n, k) -> (m, k)>
#right = affine_map<(m, n, k) -> (k, n)>
#turned = affine_map<(m, n, k) -> (n, k)>
#sum = affine_map<(m, n, k) -> (m, n)>
module {{
  "aie.device"() ({{
    %shim = "aie.tile"() {{col = 0 : i32, row = 0 : i32}} : () -> index
    %tile = "aie.tile"() {{col = 0 : i32, row = 2 : i32}} : () -> index
    {}{}
    %core = "aie.core"(%tile) ({{
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %forever = arith.constant 4294967295 : index
      scf.for %turn = %c0 to %forever step %c1 {{
        %in = "aie.objectfifo.acquire"() {{objFifo_name = @in, port = 1 : i32, size = 1 : i32}} : () -> memref<{input}>
        %out = "aie.objectfifo.acquire"() {{objFifo_name = @out, port = 0 : i32, size = 1 : i32}} : () -> memref<{output}>
        {body}
        "aie.objectfifo.release"() {{objFifo_name = @in, port = 1 : i32, size = 1 : i32}} : () -> ()
        "aie.objectfifo.release"() {{objFifo_name = @out, port = 0 : i32, size = 1 : i32}} : () -> ()
      }}
      "aie.end"() : () -> ()
    }}) {{stack_size = 2048 : i32}} : (index) -> index
    "aie.runtime_sequence"() ({{
    ^bb0(%X: memref<{input}>, %Y: memref<{output}>):
      {}{}
      "aiex.npu.dma_wait"() {{symbol = @out}} : () -> ()
    }}) {{sym_name = "sequence"}} : () -> ()
    "aie.end"() : () -> ()
  }}) {{device = 4 : i32}} : () -> ()
}}
"#,
        fifo("%shim, %tile", "in", input),
        fifo("%tile, %shim", "out", output),
        transfer("X", input, 0, "in"),
        transfer("Y", output, 1, "out"),
    )
}

/// What the core makes of `bytes`.
fn simulated(input: &str, output: &str, body: &str, bytes: Vec<u8>) -> Vec<u8> {
    let module =
        Module::read(&module(input, output, body)).unwrap_or_else(|error| panic!("{error}"));
    let size = module.sequences[0].arguments[1].bytes() as usize;
    let mut buffers = [HostBuffer::input(bytes), HostBuffer::output(size)];
    run(&module, Array::npu1(), "sequence", &mut buffers).unwrap_or_else(|error| panic!("{error}"));
    buffers[1].bytes().to_vec()
}

fn bytes_of_i32(values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    values.into_iter().flat_map(i32::to_le_bytes).collect()
}

fn i32_of(bytes: &[u8]) -> Vec<i32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| i32::from_le_bytes(*b))
        .collect()
}

fn bytes_of_f32(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn f32_of(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

fn bf16_of(bytes: &[u8]) -> Vec<f32> {
    let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    bytes.as_chunks::<2>().0.iter().map(wide).collect()
}

fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[test]
fn integers_of_every_width() {
    let body = "
        %x = vector.load %in[%c0] : memref<16xi32>, vector<16xi32>
        %narrow = arith.trunci %x : vector<16xi32> to vector<16xi8>
        %three = arith.constant dense<3> : vector<16xi8>
        %product = arith.muli %narrow, %three : vector<16xi8>
        %signed = arith.extsi %product : vector<16xi8> to vector<16xi32>
        %unsigned = arith.extui %product : vector<16xi8> to vector<16xi32>
        %two = arith.constant dense<2> : vector<16xi32>
        %shifted = arith.shrui %x, %two : vector<16xi32>
        %least = arith.minsi %signed, %shifted : vector<16xi32>
        %most = arith.maxui %least, %unsigned : vector<16xi32>
        %less = arith.cmpi ult, %x, %most : vector<16xi32>
        %chosen = arith.select %less, %most, %signed : vector<16xi1>, vector<16xi32>
        vector.store %chosen, %out[%c0] : memref<16xi32>, vector<16xi32>";
    let x: Vec<i32> = (0..16i32)
        .map(|at| (at - 7).wrapping_mul(0x1234_5677))
        .collect();
    let expected: Vec<i32> = x
        .iter()
        .map(|x| {
            let product = (*x as i8).wrapping_mul(3);
            let (signed, unsigned) = (i32::from(product), i32::from(product as u8));
            let shifted = (*x as u32 >> 2) as i32;
            let most = (signed.min(shifted) as u32).max(unsigned as u32) as i32;
            if (*x as u32) < most as u32 {
                most
            } else {
                signed
            }
        })
        .collect();
    assert_eq!(
        i32_of(&simulated("16xi32", "16xi32", body, bytes_of_i32(x))),
        expected
    );
}

#[test]
fn nibbles_unpack_and_multiply() {
    // Weights of 4 bits in bytes, lowest first, against activations of 8: 16 k of 8 n in two products.
    let body = "
        %c64 = arith.constant 64 : index
        %packed = vector.load %in[%c0] : memref<128xi8>, vector<32xi8>
        %nibbles = vector.bitcast %packed : vector<32xi8> to vector<64xi4>
        %weights = arith.extsi %nibbles : vector<64xi4> to vector<64xi8>
        %right = vector.shape_cast %weights : vector<64xi8> to vector<8x8xi8>
        %x = vector.load %in[%c64] : memref<128xi8>, vector<32xi8>
        %left = vector.shape_cast %x : vector<32xi8> to vector<4x8xi8>
        %zero = arith.constant dense<7> : vector<4x8xi32>
        %left_wide = arith.extsi %left : vector<4x8xi8> to vector<4x8xi32>
        %right_wide = arith.extsi %right : vector<8x8xi8> to vector<8x8xi32>
        %sums = vector.contract {indexing_maps = [#left, #turned, #sum], iterator_types = [\"parallel\", \"parallel\", \"reduction\"], kind = #vector.kind<add>} %left_wide, %right_wide, %zero : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
        %line = vector.shape_cast %sums : vector<4x8xi32> to vector<32xi32>
        vector.store %line, %out[%c0] : memref<32xi32>, vector<32xi32>";
    let bytes: Vec<u8> = (0..128u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let weight = |at: usize| {
        let nibble = bytes[at / 2] >> (4 * (at % 2)) & 15;
        i32::from(((nibble << 4) as i8) >> 4)
    };
    let expected: Vec<i32> = (0..32)
        .map(|at| {
            let (m, n) = (at / 8, at % 8);
            7 + (0..8)
                .map(|k| i32::from(bytes[64 + m * 8 + k] as i8) * weight(n * 8 + k))
                .sum::<i32>()
        })
        .collect();
    assert_eq!(
        i32_of(&simulated("128xi8", "32xi32", body, bytes.clone())),
        expected
    );
}

#[test]
fn a_softmax_of_bf16() {
    let body = "
        %x16 = vector.load %in[%c0] : memref<32xbf16>, vector<32xbf16>
        %x = arith.extf %x16 : vector<32xbf16> to vector<32xf32>
        %low = arith.constant 0xFF800000 : f32
        %most = vector.reduction <maximumf>, %x, %low : vector<32xf32> into f32
        %mosts = vector.broadcast %most : f32 to vector<32xf32>
        %under = arith.subf %x, %mosts : vector<32xf32>
        %power = arith.constant dense<1.44269502> : vector<32xf32>
        %exponent = arith.mulf %under, %power : vector<32xf32>
        %e = math.exp2 %exponent : vector<32xf32>
        %sum = vector.reduction <add>, %e : vector<32xf32> into f32
        %one = arith.constant 1.0 : f32
        %scale = arith.divf %one, %sum : f32
        %scales = vector.broadcast %scale : f32 to vector<32xf32>
        %y = arith.mulf %e, %scales : vector<32xf32>
        %y16 = arith.truncf %y : vector<32xf32> to vector<32xbf16>
        vector.store %y16, %out[%c0] : memref<32xbf16>, vector<32xbf16>";
    let x: Vec<u16> = (0..32)
        .map(|at| to_bf16((at as f32 * 0.77).sin() * 6.0))
        .collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let wide = bf16_of(&bytes);
    let most = wide.iter().copied().fold(f32::MIN, f32::max);
    let e: Vec<f64> = wide.iter().map(|x| f64::from(x - most).exp()).collect();
    let sum: f64 = e.iter().sum();
    let y = bf16_of(&simulated("32xbf16", "32xbf16", body, bytes));
    for (y, e) in y.iter().zip(&e) {
        let expected = e / sum;
        assert!(
            (f64::from(*y) / expected - 1.0).abs() < 0.004,
            "{y} {expected}"
        );
    }
    assert!((y.iter().sum::<f32>() - 1.0).abs() < 0.01);
}

#[test]
fn bf16_is_rounded_after_every_op() {
    let body = "
        %x = vector.load %in[%c0] : memref<16xbf16>, vector<16xbf16>
        %third = arith.constant dense<0.333> : vector<16xbf16>
        %product = arith.mulf %x, %third : vector<16xbf16>
        %sum = arith.addf %product, %x : vector<16xbf16>
        vector.store %sum, %out[%c0] : memref<16xbf16>, vector<16xbf16>";
    let x: Vec<u16> = (0..16).map(|at| to_bf16(at as f32 * 1.37 - 9.0)).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let back = |x: u16| f32::from_bits(u32::from(x) << 16);
    let third = back(to_bf16(0.333));
    let expected: Vec<f32> = x
        .iter()
        .map(|x| back(to_bf16(back(to_bf16(back(*x) * third)) + back(*x))))
        .collect();
    assert_eq!(
        bf16_of(&simulated("16xbf16", "16xbf16", body, bytes)),
        expected
    );
}

#[test]
fn a_product_of_bf16_adds_in_f32() {
    let body = "
        %c32 = arith.constant 32 : index
        %a_line = vector.load %in[%c0] : memref<64xbf16>, vector<32xbf16>
        %b_line = vector.load %in[%c32] : memref<64xbf16>, vector<32xbf16>
        %a = vector.shape_cast %a_line : vector<32xbf16> to vector<4x8xbf16>
        %b = vector.shape_cast %b_line : vector<32xbf16> to vector<8x4xbf16>
        %a32 = arith.extf %a : vector<4x8xbf16> to vector<4x8xf32>
        %b32 = arith.extf %b : vector<8x4xbf16> to vector<8x4xf32>
        %zero = arith.constant dense<0.5> : vector<4x4xf32>
        %sums = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = [\"parallel\", \"parallel\", \"reduction\"], kind = #vector.kind<add>} %a32, %b32, %zero : vector<4x8xf32>, vector<8x4xf32> into vector<4x4xf32>
        %line = vector.shape_cast %sums : vector<4x4xf32> to vector<16xf32>
        vector.store %line, %out[%c0] : memref<16xf32>, vector<16xf32>";
    let x: Vec<u16> = (0..64)
        .map(|at| to_bf16(((at * 37 % 64) as f32 - 31.5) / 8.0))
        .collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let wide = bf16_of(&bytes);
    let expected: Vec<f32> = (0..16)
        .map(|at| {
            let (m, n) = (at / 4, at % 4);
            (0..8).fold(0.5, |sum, k| sum + wide[m * 8 + k] * wide[32 + k * 4 + n])
        })
        .collect();
    assert_eq!(
        f32_of(&simulated("64xbf16", "16xf32", body, bytes)),
        expected
    );
}

#[test]
fn vectors_are_taken_apart_and_put_together() {
    let body = "
        %x = vector.load %in[%c0] : memref<16xi32>, vector<16xi32>
        %square = vector.shape_cast %x : vector<16xi32> to vector<4x4xi32>
        %turned = vector.transpose %square, [1, 0] : vector<4x4xi32> to vector<4x4xi32>
        %row = vector.extract %turned[2] : vector<4xi32> from vector<4x4xi32>
        %doubled = arith.addi %row, %row : vector<4xi32>
        %put = vector.insert %doubled, %turned[0] : vector<4xi32> into vector<4x4xi32>
        %corner = vector.extract_strided_slice %put {offsets = [0, 2], sizes = [2, 2], strides = [1, 1]} : vector<4x4xi32> to vector<2x2xi32>
        %moved = vector.insert_strided_slice %corner, %put {offsets = [2, 0], strides = [1, 1]} : vector<2x2xi32> into vector<4x4xi32>
        %line = vector.shape_cast %moved : vector<4x4xi32> to vector<16xi32>
        %low = vector.extract_strided_slice %line {offsets = [0], sizes = [8], strides = [1]} : vector<16xi32> to vector<8xi32>
        %high = vector.extract_strided_slice %line {offsets = [8], sizes = [8], strides = [1]} : vector<16xi32> to vector<8xi32>
        %woven = vector.interleave %low, %high : vector<8xi32> -> vector<16xi32>
        %even, %odd = vector.deinterleave %woven : vector<16xi32> -> vector<8xi32>
        %mixed = vector.shuffle %even, %odd [15, 0, 14, 1, 13, 2, 12, 3] : vector<8xi32>, vector<8xi32>
        %c3 = arith.constant 3 : index
        %one = vector.extract %mixed[%c3] : i32 from vector<8xi32>
        %c5 = arith.constant 5 : index
        %set = vector.insert %one, %mixed[%c5] : i32 into vector<8xi32>
        %both = vector.broadcast %set : vector<8xi32> to vector<2x8xi32>
        %sums = vector.multi_reduction <add>, %both, %set [0] : vector<2x8xi32> to vector<8xi32>
        vector.store %sums, %out[%c0] : memref<8xi32>, vector<8xi32>";
    let x: Vec<i32> = (0..16).map(|at| at * at + 1).collect();
    let mut grid = [[0; 4]; 4];
    for (row, line) in grid.iter_mut().enumerate() {
        for (column, cell) in line.iter_mut().enumerate() {
            *cell = x[column * 4 + row];
        }
    }
    grid[0] = grid[2].map(|x| 2 * x);
    let corner = [[grid[0][2], grid[0][3]], [grid[1][2], grid[1][3]]];
    for (row, line) in corner.iter().enumerate() {
        grid[2 + row][..2].copy_from_slice(line);
    }
    let line: Vec<i32> = grid.concat();
    let (even, odd) = line.split_at(8);
    let both: Vec<i32> = even.iter().chain(odd).copied().collect();
    let mut mixed: Vec<i32> = [15, 0, 14, 1, 13, 2, 12, 3]
        .iter()
        .map(|at: &usize| both[*at])
        .collect();
    mixed[5] = mixed[3];
    let expected: Vec<i32> = mixed.iter().map(|x| 3 * x).collect();
    assert_eq!(
        i32_of(&simulated("16xi32", "8xi32", body, bytes_of_i32(x))),
        expected
    );
}

#[test]
fn loops_carry_conditions_choose_and_memory_is_cut() {
    // Fibonacci numbers swap what they carry; a while loop counts; a strided view is written row by row.
    let body = "
        %one = arith.constant 1 : i32
        %none = arith.constant 0 : i32
        %c4 = arith.constant 4 : index
        %c8 = arith.constant 8 : index
        %c2 = arith.constant 2 : index
        %stack = memref.alloca() : memref<4x8xi32>
        scf.for %row = %c0 to %c4 step %c1 {
          scf.for %column = %c0 to %c8 step %c1 {
            memref.store %none, %stack[%row, %column] : memref<4x8xi32>
          }
        }
        %a, %b = scf.for %at = %c0 to %c8 step %c1 iter_args(%x = %none, %y = %one) -> (i32, i32) {
          %z = arith.addi %x, %y : i32
          scf.yield %y, %z : i32, i32
        }
        %swapped_a, %swapped_b = scf.for %at = %c0 to %c1 step %c1 iter_args(%x = %a, %y = %b) -> (i32, i32) {
          scf.yield %y, %x : i32, i32
        }
        %limit = memref.load %in[%c0] : memref<16xi32>
        %count = scf.while (%n = %none) : (i32) -> i32 {
          %more = arith.cmpi slt, %n, %limit : i32
          scf.condition(%more) %n : i32
        } do {
        ^bb0(%n: i32):
          %next = arith.addi %n, %one : i32
          scf.yield %next : i32
        }
        %part = memref.subview %stack[1, %c2] [2, 4] [1, 1] : memref<4x8xi32> to memref<2x4xi32, strided<[8, 1], offset: ?>>
        %values = vector.load %in[%c8] : memref<16xi32>, vector<8xi32>
        %square = vector.shape_cast %values : vector<8xi32> to vector<2x4xi32>
        vector.store %square, %part[%c0, %c0] : memref<2x4xi32, strided<[8, 1], offset: ?>>, vector<2x4xi32>
        memref.store %swapped_a, %stack[%c0, %c0] : memref<4x8xi32>
        memref.store %swapped_b, %stack[%c0, %c1] : memref<4x8xi32>
        memref.store %count, %stack[%c0, %c2] : memref<4x8xi32>
        %flat = memref.collapse_shape %stack [[0, 1]] : memref<4x8xi32> into memref<32xi32>
        %c16 = arith.constant 16 : index
        %c32 = arith.constant 32 : index
        scf.for %at = %c0 to %c32 step %c16 {
          %line = vector.load %flat[%at] : memref<32xi32>, vector<16xi32>
          vector.store %line, %out[%at] : memref<32xi32>, vector<16xi32>
        }";
    let x: Vec<i32> = (0..16).map(|at| 11 + at).collect();
    let mut expected = vec![0; 32];
    expected[..3].copy_from_slice(&[34, 21, 11]);
    expected[10..14].copy_from_slice(&x[8..12]);
    expected[18..22].copy_from_slice(&x[12..16]);
    assert_eq!(
        i32_of(&simulated("16xi32", "32xi32", body, bytes_of_i32(x))),
        expected
    );
}

#[test]
fn functions_of_f32() {
    let body = "
        %x = vector.load %in[%c0] : memref<16xf32>, vector<16xf32>
        %t = math.tanh %x : vector<16xf32>
        %square = arith.mulf %x, %x : vector<16xf32>
        %half = arith.constant dense<0.5> : vector<16xf32>
        %more = math.fma %square, %half, %half : vector<16xf32>
        %r = math.rsqrt %more : vector<16xf32>
        %y = arith.mulf %t, %r : vector<16xf32>
        %bound = arith.constant dense<0.25> : vector<16xf32>
        %above = arith.cmpf ogt, %y, %bound : vector<16xf32>
        %clipped = arith.select %above, %bound, %y : vector<16xi1>, vector<16xf32>
        %scale = arith.constant dense<100.0> : vector<16xf32>
        %scaled = arith.mulf %clipped, %scale : vector<16xf32>
        %rounded = math.roundeven %scaled : vector<16xf32>
        %whole = arith.fptosi %rounded : vector<16xf32> to vector<16xi32>
        %again = arith.sitofp %whole : vector<16xi32> to vector<16xf32>
        vector.store %again, %out[%c0] : memref<16xf32>, vector<16xf32>";
    let x: Vec<f32> = (0..16).map(|at| at as f32 * 0.3 - 2.3).collect();
    let expected: Vec<f32> = x
        .iter()
        .map(|x| {
            let y = x.tanh() * (1.0 / (x * x * 0.5 + 0.5).sqrt());
            (y.min(0.25) * 100.0).round_ties_even()
        })
        .collect();
    assert_eq!(
        f32_of(&simulated("16xf32", "16xf32", body, bytes_of_f32(x))),
        expected
    );
}

/// Half a million products and two million vector ops; prints how fast they went.
#[test]
fn the_interpreter_is_fast_enough_for_models() {
    let body = "
        %count = arith.constant 500000 : index
        %left_line = vector.load %in[%c0] : memref<64xi8>, vector<32xi8>
        %right_line = vector.load %in[%c0] : memref<64xi8>, vector<64xi8>
        %left = vector.shape_cast %left_line : vector<32xi8> to vector<4x8xi8>
        %right = vector.shape_cast %right_line : vector<64xi8> to vector<8x8xi8>
        %l = arith.extsi %left : vector<4x8xi8> to vector<4x8xi32>
        %r = arith.extsi %right : vector<8x8xi8> to vector<8x8xi32>
        %zero = arith.constant dense<0> : vector<4x8xi32>
        %sums = scf.for %at = %c0 to %count step %c1 iter_args(%s = %zero) -> (vector<4x8xi32>) {
          %n = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = [\"parallel\", \"parallel\", \"reduction\"], kind = #vector.kind<add>} %l, %r, %s : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
          scf.yield %n : vector<4x8xi32>
        }
        %more = scf.for %at = %c0 to %count step %c1 iter_args(%s = %sums) -> (vector<4x8xi32>) {
          %a = arith.addi %s, %l : vector<4x8xi32>
          %b = arith.subi %a, %s : vector<4x8xi32>
          %c = arith.maxsi %b, %s : vector<4x8xi32>
          %d = arith.xori %c, %l : vector<4x8xi32>
          scf.yield %d : vector<4x8xi32>
        }
        %line = vector.shape_cast %more : vector<4x8xi32> to vector<32xi32>
        vector.store %line, %out[%c0] : memref<32xi32>, vector<32xi32>";
    let x: Vec<u8> = (0..64u32).map(|at| (at * 37) as u8).collect();
    let module = Module::read(&module("64xi8", "32xi32", body)).unwrap();
    let mut buffers = [HostBuffer::input(x.clone()), HostBuffer::output(128)];
    let start = Instant::now();
    run(&module, Array::npu1(), "sequence", &mut buffers).unwrap();
    let took = start.elapsed();
    println!("500,000 products and 2,000,000 vector ops in {took:?}");
    let y = i32_of(buffers[1].bytes());
    let signed = |at: usize| i32::from(x[at] as i8);
    let expected: Vec<i32> = (0..32)
        .map(|at| {
            let product: i32 = (0..8)
                .map(|k| signed(at / 8 * 8 + k) * signed(k * 8 + at % 8))
                .sum();
            let mut s = product.wrapping_mul(500_000);
            for _ in 0..500_000 {
                let b = s.wrapping_add(signed(at)).wrapping_sub(s);
                s = b.max(s) ^ signed(at);
            }
            s
        })
        .collect();
    assert_eq!(y, expected);
}
