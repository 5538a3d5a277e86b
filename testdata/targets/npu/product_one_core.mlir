// One core, C[32x32] i32 = A[32x32] i8 * B[32x32] i8: npu1, one column. The memory tile cuts A into blocks
// of 4x8 and B into blocks of 8x8 on their way in, and puts C's blocks of 4x8 together on its way out.
#left = affine_map<(m, n, k) -> (m, k)>
#right = affine_map<(m, n, k) -> (k, n)>
#sum = affine_map<(m, n, k) -> (m, n)>
module {
  "aie.device"() ({
    %shim = "aie.tile"() {col = 0 : i32, row = 0 : i32} : () -> index
    %memory = "aie.tile"() {col = 0 : i32, row = 1 : i32} : () -> index
    %tile = "aie.tile"() {col = 0 : i32, row = 2 : i32} : () -> index

    "aie.objectfifo"(%shim, %memory) {sym_name = "a_in", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<32x32xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory, %tile) {sym_name = "a_core", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 8, stride = 128>, <size = 4, stride = 8>, <size = 4, stride = 32>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@a_in], fifoOuts = [@a_core], src_offsets = [], dst_offsets = []} : () -> ()

    "aie.objectfifo"(%shim, %memory) {sym_name = "b_in", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<32x32xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory, %tile) {sym_name = "b_core", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 4, stride = 256>, <size = 4, stride = 8>, <size = 8, stride = 32>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@b_in], fifoOuts = [@b_core], src_offsets = [], dst_offsets = []} : () -> ()

    "aie.objectfifo"(%tile, %memory) {sym_name = "c_core", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<1024xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory, %shim) {sym_name = "c_out", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<32x32xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 8, stride = 128>, <size = 4, stride = 8>, <size = 4, stride = 32>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@c_core], fifoOuts = [@c_out], src_offsets = [], dst_offsets = []} : () -> ()

    %core = "aie.core"(%tile) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      %c8 = arith.constant 8 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %forever = arith.constant 4294967295 : index
      %zero = arith.constant dense<0> : vector<32xi32>
      scf.for %turn = %c0 to %forever step %c1 {
        %held_a = "aie.objectfifo.acquire"() {objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<1024xi8>>
        %a = "aie.objectfifo.subview.access"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<1024xi8>>) -> memref<1024xi8>
        %held_b = "aie.objectfifo.acquire"() {objFifo_name = @b_core, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<1024xi8>>
        %b = "aie.objectfifo.subview.access"(%held_b) {index = 0 : i32} : (!aie.objectfifosubview<memref<1024xi8>>) -> memref<1024xi8>
        %held_c = "aie.objectfifo.acquire"() {objFifo_name = @c_core, port = 0 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<1024xi32>>
        %c = "aie.objectfifo.subview.access"(%held_c) {index = 0 : i32} : (!aie.objectfifosubview<memref<1024xi32>>) -> memref<1024xi32>
        scf.for %row = %c0 to %c8 step %c1 {
          scf.for %column = %c0 to %c4 step %c1 {
            %sum = scf.for %depth = %c0 to %c4 step %c1 iter_args(%before = %zero) -> (vector<32xi32>) {
              %row_block = arith.muli %row, %c4 : index
              %a_block = arith.addi %row_block, %depth : index
              %a_at = arith.muli %a_block, %c32 : index
              %depth_block = arith.muli %depth, %c4 : index
              %b_block = arith.addi %depth_block, %column : index
              %b_at = arith.muli %b_block, %c64 : index
              %a_line = vector.load %a[%a_at] {alignment = 32 : i64} : memref<1024xi8>, vector<32xi8>
              %b_line = vector.load %b[%b_at] {alignment = 64 : i64} : memref<1024xi8>, vector<64xi8>
              %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>
              %b_tile = vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>
              %a_wide = arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>
              %b_wide = arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>
              %sum_tile = vector.shape_cast %before : vector<32xi32> to vector<4x8xi32>
              %next = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = ["parallel", "parallel", "reduction"], kind = #vector.kind<add>} %a_wide, %b_wide, %sum_tile : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
              %after = vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>
              scf.yield %after : vector<32xi32>
            }
            %row_block = arith.muli %row, %c4 : index
            %c_block = arith.addi %row_block, %column : index
            %c_at = arith.muli %c_block, %c32 : index
            vector.store %sum, %c[%c_at] {alignment = 32 : i64} : memref<1024xi32>, vector<32xi32>
          }
        }
        "aie.objectfifo.release"() {objFifo_name = @a_core, port = 1 : i32, size = 1 : i32} : () -> ()
        "aie.objectfifo.release"() {objFifo_name = @b_core, port = 1 : i32, size = 1 : i32} : () -> ()
        "aie.objectfifo.release"() {objFifo_name = @c_core, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    "aie.runtime_sequence"() ({
    ^bb0(%A: memref<32x32xi8>, %B: memref<32x32xi8>, %C: memref<32x32xi32>):
      "aiex.npu.dma_memcpy_nd"(%A) {id = 0 : i64, issue_token = true, metadata = @a_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()
      "aiex.npu.dma_memcpy_nd"(%B) {id = 1 : i64, issue_token = true, metadata = @b_in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi8>) -> ()
      "aiex.npu.dma_memcpy_nd"(%C) {id = 2 : i64, issue_token = true, metadata = @c_out, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 32, 32>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<32x32xi32>) -> ()
      "aiex.npu.dma_wait"() {symbol = @a_in} : () -> ()
      "aiex.npu.dma_wait"() {symbol = @b_in} : () -> ()
      "aiex.npu.dma_wait"() {symbol = @c_out} : () -> ()
    }) {sym_name = "sequence"} : () -> ()
    "aie.end"() : () -> ()
  }) {device = 5 : i32, sym_name = "main"} : () -> ()
}
