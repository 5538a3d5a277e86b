// One core multiplies lines of 64 i32 by a run-time parameter, or adds it when a second one says so: npu1, two columns.
// The core takes its input from the shim's stream and gives it back without a memory tile; elements come directly from
// acquiring, as the dialect has it since August 2026.
module {
  "aie.device"() ({
    %shim = "aie.tile"() {col = 1 : i32, row = 0 : i32} : () -> index
    %tile = "aie.tile"() {col = 1 : i32, row = 3 : i32} : () -> index
    %parameters = "aie.buffer"(%tile) {sym_name = "parameters"} : (index) -> memref<4xi32>
    "aie.objectfifo"(%shim, %tile) {sym_name = "in", elemNumber = [2 : i32, 3 : i32], elemType = !aie.objectfifo<memref<64xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()
    "aie.objectfifo"(%tile, %shim) {sym_name = "out", elemNumber = [2 : i32, 2 : i32], elemType = !aie.objectfifo<memref<64xi32>>, dimensionsToStream = #aie<bd_dim_layout_array[]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[[]]>} : (index, index) -> ()

    func.func @apply(%from: memref<64xi32>, %to: memref<64xi32>, %factor: i32, %add: i32) {
      %c0 = arith.constant 0 : index
      %c16 = arith.constant 16 : index
      %c64 = arith.constant 64 : index
      %none = arith.constant 0 : i32
      %factors = vector.broadcast %factor : i32 to vector<16xi32>
      %adds = arith.cmpi ne, %add, %none : i32
      scf.for %at = %c0 to %c64 step %c16 {
        %x = vector.load %from[%at] : memref<64xi32>, vector<16xi32>
        %y = scf.if %adds -> (vector<16xi32>) {
          %sum = arith.addi %x, %factors : vector<16xi32>
          scf.yield %sum : vector<16xi32>
        } else {
          %product = arith.muli %x, %factors : vector<16xi32>
          scf.yield %product : vector<16xi32>
        }
        vector.store %y, %to[%at] : memref<64xi32>, vector<16xi32>
      }
      return
    }

    %core = "aie.core"(%tile) ({
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %forever = arith.constant 4294967295 : index
      scf.for %turn = %c0 to %forever step %c1 {
        %from = "aie.objectfifo.acquire"() {objFifo_name = @in, port = 1 : i32, size = 1 : i32} : () -> memref<64xi32>
        %to = "aie.objectfifo.acquire"() {objFifo_name = @out, port = 0 : i32, size = 1 : i32} : () -> memref<64xi32>
        %factor = memref.load %parameters[%c0] : memref<4xi32>
        %add = memref.load %parameters[%c1] : memref<4xi32>
        func.call @apply(%from, %to, %factor, %add) : (memref<64xi32>, memref<64xi32>, i32, i32) -> ()
        "aie.objectfifo.release"() {objFifo_name = @in, port = 1 : i32, size = 1 : i32} : () -> ()
        "aie.objectfifo.release"() {objFifo_name = @out, port = 0 : i32, size = 1 : i32} : () -> ()
      }
      "aie.end"() : () -> ()
    }) {stack_size = 1024 : i32} : (index) -> index

    "aiex.runtime_sequence"() ({
    ^bb0(%X: memref<5x64xi32>, %Y: memref<5x64xi32>):
      "aiex.npu.rtp_write"() {buffer = @parameters, index = 0 : i32, value = -3 : i32} : () -> ()
      "aiex.npu.rtp_write"() {buffer = @parameters, index = 1 : i32, value = 0 : i32} : () -> ()
      "aiex.npu.dma_memcpy_nd"(%X) {id = 0 : i64, metadata = @in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, 320>, static_strides = array<i64: 0, 0, 0, 1>} : (memref<5x64xi32>) -> ()
      "aiex.npu.dma_memcpy_nd"(%Y) {id = 1 : i64, issue_token = true, metadata = @out, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 5, 64>, static_strides = array<i64: 0, 0, 64, 1>} : (memref<5x64xi32>) -> ()
      "aiex.npu.dma_wait"() {symbol = @out} : () -> ()
    }) {sym_name = "multiply"} : () -> ()

    "aiex.runtime_sequence"() ({
    ^bb0(%X: memref<5x64xi32>, %Y: memref<5x64xi32>):
      "aiex.npu.rtp_write"() {buffer = @parameters, index = 0 : i32, value = 1000 : i32} : () -> ()
      "aiex.npu.rtp_write"() {buffer = @parameters, index = 1 : i32, value = 1 : i32} : () -> ()
      "aiex.npu.dma_memcpy_nd"(%X) {id = 0 : i64, metadata = @in, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, 320>, static_strides = array<i64: 0, 0, 0, 1>} : (memref<5x64xi32>) -> ()
      "aiex.npu.dma_memcpy_nd"(%Y) {id = 1 : i64, issue_token = true, metadata = @out, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 5, 64>, static_strides = array<i64: 0, 0, 64, 1>} : (memref<5x64xi32>) -> ()
      "aiex.npu.dma_wait"() {symbol = @out} : () -> ()
    }) {sym_name = "add"} : () -> ()
    "aie.end"() : () -> ()
  }) {device = 6 : i32} : () -> ()
}
