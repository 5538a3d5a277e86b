// Four cores in two columns, C[16x32] i32 = A[16x32] i8 * B[32x32] i8: npu1. A is broadcast along rows, B along columns,
// each in two tiles of the depth; the results of a column's cores are joined in its memory tile.
#left = affine_map<(m, n, k) -> (m, k)>
#right = affine_map<(m, n, k) -> (k, n)>
#sum = affine_map<(m, n, k) -> (m, n)>
module {
  "aie.device"() ({
    %shim0 = "aie.tile"() {col = 0 : i32, row = 0 : i32} : () -> index
    %memory0 = "aie.tile"() {col = 0 : i32, row = 1 : i32} : () -> index
    %tile00 = "aie.tile"() {col = 0 : i32, row = 2 : i32} : () -> index
    %tile01 = "aie.tile"() {col = 0 : i32, row = 3 : i32} : () -> index
    %shim1 = "aie.tile"() {col = 1 : i32, row = 0 : i32} : () -> index
    %memory1 = "aie.tile"() {col = 1 : i32, row = 1 : i32} : () -> index
    %tile10 = "aie.tile"() {col = 1 : i32, row = 2 : i32} : () -> index
    %tile11 = "aie.tile"() {col = 1 : i32, row = 3 : i32} : () -> index

    "aie.objectfifo"(%shim0, %memory0) {sym_name = "a_in0", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<8x16xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory0, %tile00, %tile10) {sym_name = "a0", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<128xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 64>, <size = 2, stride = 8>, <size = 4, stride = 16>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[], []]>} : (index, index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@a_in0], fifoOuts = [@a0], src_offsets = [], dst_offsets = []} : () -> ()
    "aie.objectfifo"(%shim1, %memory1) {sym_name = "a_in1", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<8x16xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory1, %tile01, %tile11) {sym_name = "a1", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<128xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 64>, <size = 2, stride = 8>, <size = 4, stride = 16>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[], []]>} : (index, index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@a_in1], fifoOuts = [@a1], src_offsets = [], dst_offsets = []} : () -> ()
    "aie.objectfifo"(%shim0, %memory0) {sym_name = "b_in0", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<16x16xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory0, %tile00, %tile01) {sym_name = "b0", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<256xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 128>, <size = 2, stride = 8>, <size = 8, stride = 16>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[], []]>} : (index, index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@b_in0], fifoOuts = [@b0], src_offsets = [], dst_offsets = []} : () -> ()
    "aie.objectfifo"(%shim1, %memory1) {sym_name = "b_in1", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<16x16xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory1, %tile10, %tile11) {sym_name = "b1", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<256xi8>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 128>, <size = 2, stride = 8>, <size = 8, stride = 16>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[], []]>} : (index, index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@b_in1], fifoOuts = [@b1], src_offsets = [], dst_offsets = []} : () -> ()
    "aie.objectfifo"(%tile00, %memory0) {sym_name = "c00", elemNumber = [1 : i32, 2 : i32], elemType = !aie.objectfifo<memref<128xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%tile01, %memory0) {sym_name = "c01", elemNumber = [1 : i32, 2 : i32], elemType = !aie.objectfifo<memref<128xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory0, %shim0) {sym_name = "c_out0", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<16x16xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 64>, <size = 4, stride = 8>, <size = 2, stride = 32>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@c00, @c01], fifoOuts = [@c_out0], src_offsets = [0, 128], dst_offsets = []} : () -> ()
    "aie.objectfifo"(%tile10, %memory1) {sym_name = "c10", elemNumber = [1 : i32, 2 : i32], elemType = !aie.objectfifo<memref<128xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%tile11, %memory1) {sym_name = "c11", elemNumber = [1 : i32, 2 : i32], elemType = !aie.objectfifo<memref<128xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%memory1, %shim1) {sym_name = "c_out1", elemNumber = 2 : i32, elemType = !aie.objectfifo<memref<16x16xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[<size = 2, stride = 64>, <size = 4, stride = 8>, <size = 2, stride = 32>, <size = 8, stride = 1>]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo.link"() {fifoIns = [@c10, @c11], fifoOuts = [@c_out1], src_offsets = [0, 128], dst_offsets = []} : () -> ()

    %core00 = "aie.core"(%tile00) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %c128 = arith.constant 128 : index
      %forever = arith.constant 4294967295 : index
      %zero = arith.constant dense<0> : vector<32xi32>
      scf.for %turn = %c0 to %forever step %c1 {
        %held_c = "aie.objectfifo.acquire"() {objFifo_name = @c00, port = 0 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi32>>
        %c = "aie.objectfifo.subview.access"(%held_c) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi32>>) -> memref<128xi32>
        scf.for %at = %c0 to %c128 step %c32 {
          vector.store %zero, %c[%at] : memref<128xi32>, vector<32xi32>
        }
        scf.for %part = %c0 to %c2 step %c1 {
          %held_a = "aie.objectfifo.acquire"() {objFifo_name = @a0, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi8>>
          %a = "aie.objectfifo.subview.access"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi8>>) -> memref<128xi8>
          %held_b = "aie.objectfifo.acquire"() {objFifo_name = @b0, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<256xi8>>
          %b = "aie.objectfifo.subview.access"(%held_b) {index = 0 : i32} : (!aie.objectfifosubview<memref<256xi8>>) -> memref<256xi8>
          scf.for %row = %c0 to %c2 step %c1 {
            scf.for %column = %c0 to %c2 step %c1 {
              %row_block = arith.muli %row, %c2 : index
              %c_block = arith.addi %row_block, %column : index
              %c_at = arith.muli %c_block, %c32 : index
              %before = vector.load %c[%c_at] : memref<128xi32>, vector<32xi32>
              %sum = scf.for %depth = %c0 to %c2 step %c1 iter_args(%so_far = %before) -> (vector<32xi32>) {
                %a_block = arith.addi %row_block, %depth : index
                %a_at = arith.muli %a_block, %c32 : index
                %depth_block = arith.muli %depth, %c2 : index
                %b_block = arith.addi %depth_block, %column : index
                %b_at = arith.muli %b_block, %c64 : index
                %a_line = vector.load %a[%a_at] : memref<128xi8>, vector<32xi8>
                %b_line = vector.load %b[%b_at] : memref<256xi8>, vector<64xi8>
                %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>
                %b_tile = vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>
                %a_wide = arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>
                %b_wide = arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>
                %sum_tile = vector.shape_cast %so_far : vector<32xi32> to vector<4x8xi32>
                %next = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = ["parallel", "parallel", "reduction"], kind = #vector.kind<add>} %a_wide, %b_wide, %sum_tile : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
                %after = vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>
                scf.yield %after : vector<32xi32>
              }
              vector.store %sum, %c[%c_at] : memref<128xi32>, vector<32xi32>
            }
          }
          "aie.objectfifo.release"() {objFifo_name = @a0, port = 1 : i32, size = 1 : i32} : () -> ()
          "aie.objectfifo.release"() {objFifo_name = @b0, port = 1 : i32, size = 1 : i32} : () -> ()
        }
        "aie.objectfifo.release"() {objFifo_name = @c00, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    %core01 = "aie.core"(%tile01) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %c128 = arith.constant 128 : index
      %forever = arith.constant 4294967295 : index
      %zero = arith.constant dense<0> : vector<32xi32>
      scf.for %turn = %c0 to %forever step %c1 {
        %held_c = "aie.objectfifo.acquire"() {objFifo_name = @c01, port = 0 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi32>>
        %c = "aie.objectfifo.subview.access"(%held_c) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi32>>) -> memref<128xi32>
        scf.for %at = %c0 to %c128 step %c32 {
          vector.store %zero, %c[%at] : memref<128xi32>, vector<32xi32>
        }
        scf.for %part = %c0 to %c2 step %c1 {
          %held_a = "aie.objectfifo.acquire"() {objFifo_name = @a1, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi8>>
          %a = "aie.objectfifo.subview.access"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi8>>) -> memref<128xi8>
          %held_b = "aie.objectfifo.acquire"() {objFifo_name = @b0, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<256xi8>>
          %b = "aie.objectfifo.subview.access"(%held_b) {index = 0 : i32} : (!aie.objectfifosubview<memref<256xi8>>) -> memref<256xi8>
          scf.for %row = %c0 to %c2 step %c1 {
            scf.for %column = %c0 to %c2 step %c1 {
              %row_block = arith.muli %row, %c2 : index
              %c_block = arith.addi %row_block, %column : index
              %c_at = arith.muli %c_block, %c32 : index
              %before = vector.load %c[%c_at] : memref<128xi32>, vector<32xi32>
              %sum = scf.for %depth = %c0 to %c2 step %c1 iter_args(%so_far = %before) -> (vector<32xi32>) {
                %a_block = arith.addi %row_block, %depth : index
                %a_at = arith.muli %a_block, %c32 : index
                %depth_block = arith.muli %depth, %c2 : index
                %b_block = arith.addi %depth_block, %column : index
                %b_at = arith.muli %b_block, %c64 : index
                %a_line = vector.load %a[%a_at] : memref<128xi8>, vector<32xi8>
                %b_line = vector.load %b[%b_at] : memref<256xi8>, vector<64xi8>
                %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>
                %b_tile = vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>
                %a_wide = arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>
                %b_wide = arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>
                %sum_tile = vector.shape_cast %so_far : vector<32xi32> to vector<4x8xi32>
                %next = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = ["parallel", "parallel", "reduction"], kind = #vector.kind<add>} %a_wide, %b_wide, %sum_tile : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
                %after = vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>
                scf.yield %after : vector<32xi32>
              }
              vector.store %sum, %c[%c_at] : memref<128xi32>, vector<32xi32>
            }
          }
          "aie.objectfifo.release"() {objFifo_name = @a1, port = 1 : i32, size = 1 : i32} : () -> ()
          "aie.objectfifo.release"() {objFifo_name = @b0, port = 1 : i32, size = 1 : i32} : () -> ()
        }
        "aie.objectfifo.release"() {objFifo_name = @c01, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    %core10 = "aie.core"(%tile10) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %c128 = arith.constant 128 : index
      %forever = arith.constant 4294967295 : index
      %zero = arith.constant dense<0> : vector<32xi32>
      scf.for %turn = %c0 to %forever step %c1 {
        %held_c = "aie.objectfifo.acquire"() {objFifo_name = @c10, port = 0 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi32>>
        %c = "aie.objectfifo.subview.access"(%held_c) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi32>>) -> memref<128xi32>
        scf.for %at = %c0 to %c128 step %c32 {
          vector.store %zero, %c[%at] : memref<128xi32>, vector<32xi32>
        }
        scf.for %part = %c0 to %c2 step %c1 {
          %held_a = "aie.objectfifo.acquire"() {objFifo_name = @a0, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi8>>
          %a = "aie.objectfifo.subview.access"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi8>>) -> memref<128xi8>
          %held_b = "aie.objectfifo.acquire"() {objFifo_name = @b1, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<256xi8>>
          %b = "aie.objectfifo.subview.access"(%held_b) {index = 0 : i32} : (!aie.objectfifosubview<memref<256xi8>>) -> memref<256xi8>
          scf.for %row = %c0 to %c2 step %c1 {
            scf.for %column = %c0 to %c2 step %c1 {
              %row_block = arith.muli %row, %c2 : index
              %c_block = arith.addi %row_block, %column : index
              %c_at = arith.muli %c_block, %c32 : index
              %before = vector.load %c[%c_at] : memref<128xi32>, vector<32xi32>
              %sum = scf.for %depth = %c0 to %c2 step %c1 iter_args(%so_far = %before) -> (vector<32xi32>) {
                %a_block = arith.addi %row_block, %depth : index
                %a_at = arith.muli %a_block, %c32 : index
                %depth_block = arith.muli %depth, %c2 : index
                %b_block = arith.addi %depth_block, %column : index
                %b_at = arith.muli %b_block, %c64 : index
                %a_line = vector.load %a[%a_at] : memref<128xi8>, vector<32xi8>
                %b_line = vector.load %b[%b_at] : memref<256xi8>, vector<64xi8>
                %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>
                %b_tile = vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>
                %a_wide = arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>
                %b_wide = arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>
                %sum_tile = vector.shape_cast %so_far : vector<32xi32> to vector<4x8xi32>
                %next = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = ["parallel", "parallel", "reduction"], kind = #vector.kind<add>} %a_wide, %b_wide, %sum_tile : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
                %after = vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>
                scf.yield %after : vector<32xi32>
              }
              vector.store %sum, %c[%c_at] : memref<128xi32>, vector<32xi32>
            }
          }
          "aie.objectfifo.release"() {objFifo_name = @a0, port = 1 : i32, size = 1 : i32} : () -> ()
          "aie.objectfifo.release"() {objFifo_name = @b1, port = 1 : i32, size = 1 : i32} : () -> ()
        }
        "aie.objectfifo.release"() {objFifo_name = @c10, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    %core11 = "aie.core"(%tile11) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %c128 = arith.constant 128 : index
      %forever = arith.constant 4294967295 : index
      %zero = arith.constant dense<0> : vector<32xi32>
      scf.for %turn = %c0 to %forever step %c1 {
        %held_c = "aie.objectfifo.acquire"() {objFifo_name = @c11, port = 0 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi32>>
        %c = "aie.objectfifo.subview.access"(%held_c) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi32>>) -> memref<128xi32>
        scf.for %at = %c0 to %c128 step %c32 {
          vector.store %zero, %c[%at] : memref<128xi32>, vector<32xi32>
        }
        scf.for %part = %c0 to %c2 step %c1 {
          %held_a = "aie.objectfifo.acquire"() {objFifo_name = @a1, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<128xi8>>
          %a = "aie.objectfifo.subview.access"(%held_a) {index = 0 : i32} : (!aie.objectfifosubview<memref<128xi8>>) -> memref<128xi8>
          %held_b = "aie.objectfifo.acquire"() {objFifo_name = @b1, port = 1 : i32, size = 1 : i32} : () -> !aie.objectfifosubview<memref<256xi8>>
          %b = "aie.objectfifo.subview.access"(%held_b) {index = 0 : i32} : (!aie.objectfifosubview<memref<256xi8>>) -> memref<256xi8>
          scf.for %row = %c0 to %c2 step %c1 {
            scf.for %column = %c0 to %c2 step %c1 {
              %row_block = arith.muli %row, %c2 : index
              %c_block = arith.addi %row_block, %column : index
              %c_at = arith.muli %c_block, %c32 : index
              %before = vector.load %c[%c_at] : memref<128xi32>, vector<32xi32>
              %sum = scf.for %depth = %c0 to %c2 step %c1 iter_args(%so_far = %before) -> (vector<32xi32>) {
                %a_block = arith.addi %row_block, %depth : index
                %a_at = arith.muli %a_block, %c32 : index
                %depth_block = arith.muli %depth, %c2 : index
                %b_block = arith.addi %depth_block, %column : index
                %b_at = arith.muli %b_block, %c64 : index
                %a_line = vector.load %a[%a_at] : memref<128xi8>, vector<32xi8>
                %b_line = vector.load %b[%b_at] : memref<256xi8>, vector<64xi8>
                %a_tile = vector.shape_cast %a_line : vector<32xi8> to vector<4x8xi8>
                %b_tile = vector.shape_cast %b_line : vector<64xi8> to vector<8x8xi8>
                %a_wide = arith.extsi %a_tile : vector<4x8xi8> to vector<4x8xi32>
                %b_wide = arith.extsi %b_tile : vector<8x8xi8> to vector<8x8xi32>
                %sum_tile = vector.shape_cast %so_far : vector<32xi32> to vector<4x8xi32>
                %next = vector.contract {indexing_maps = [#left, #right, #sum], iterator_types = ["parallel", "parallel", "reduction"], kind = #vector.kind<add>} %a_wide, %b_wide, %sum_tile : vector<4x8xi32>, vector<8x8xi32> into vector<4x8xi32>
                %after = vector.shape_cast %next : vector<4x8xi32> to vector<32xi32>
                scf.yield %after : vector<32xi32>
              }
              vector.store %sum, %c[%c_at] : memref<128xi32>, vector<32xi32>
            }
          }
          "aie.objectfifo.release"() {objFifo_name = @a1, port = 1 : i32, size = 1 : i32} : () -> ()
          "aie.objectfifo.release"() {objFifo_name = @b1, port = 1 : i32, size = 1 : i32} : () -> ()
        }
        "aie.objectfifo.release"() {objFifo_name = @c11, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    "aie.runtime_sequence"() ({
    ^bb0(%A: memref<16x32xi8>, %B: memref<32x32xi8>, %C: memref<16x32xi32>):
      "aiex.npu.dma_memcpy_nd"(%C) {id = 0 : i64, issue_token = true, metadata = @c_out0, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 16, 16>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<16x32xi32>) -> ()
      "aiex.npu.dma_memcpy_nd"(%C) {id = 0 : i64, issue_token = true, metadata = @c_out1, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 16>, static_sizes = array<i64: 1, 1, 16, 16>, static_strides = array<i64: 0, 0, 32, 1>} : (memref<16x32xi32>) -> ()
      "aiex.npu.dma_memcpy_nd"(%A) {id = 1 : i64, metadata = @a_in0, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 2, 8, 16>, static_strides = array<i64: 0, 16, 32, 1>} : (memref<16x32xi8>) -> ()
      "aiex.npu.dma_memcpy_nd"(%A) {id = 1 : i64, metadata = @a_in1, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 8, 0>, static_sizes = array<i64: 1, 2, 8, 16>, static_strides = array<i64: 0, 16, 32, 1>} : (memref<16x32xi8>) -> ()
      "aiex.npu.dma_memcpy_nd"(%B) {id = 2 : i64, metadata = @b_in0, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 2, 16, 16>, static_strides = array<i64: 0, 512, 32, 1>} : (memref<32x32xi8>) -> ()
      "aiex.npu.dma_memcpy_nd"(%B) {id = 2 : i64, metadata = @b_in1, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 16>, static_sizes = array<i64: 1, 2, 16, 16>, static_strides = array<i64: 0, 512, 32, 1>} : (memref<32x32xi8>) -> ()
      "aiex.npu.dma_wait"() {symbol = @c_out0} : () -> ()
      "aiex.npu.dma_wait"() {symbol = @c_out1} : () -> ()
    }) {sym_name = "sequence"} : () -> ()
    "aie.end"() : () -> ()
  }) {device = 4 : i32, sym_name = "main"} : () -> ()
}
