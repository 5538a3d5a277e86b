// Ops and types of the AIE dialects that gembin emits and reads, as MLIR's IRDL.
// Names: IRDL has no dots in names, so `aie.objectfifo.acquire` is `objectfifo_acquire`, and the op `aie.objectfifo`,
// which shares its name with a type, is `objectfifo_create`. Attributes listed are those an op must have; each has a
// constraint of its own, since one constraint used twice means one value.
module {
  irdl.dialect @aie {
    irdl.type @objectfifo {
      %element = irdl.base "!builtin.memref"
      irdl.parameters(element: %element)
    }
    irdl.type @objectfifosubview {
      %element = irdl.base "!builtin.memref"
      irdl.parameters(element: %element)
    }
    irdl.operation @device {
      %device = irdl.base "#builtin.integer"
      irdl.attributes { "device" = %device }
      %body = irdl.region
      irdl.regions(body: %body)
    }
    irdl.operation @tile {
      %index = irdl.is index
      %col = irdl.base "#builtin.integer"
      %row = irdl.base "#builtin.integer"
      irdl.attributes { "col" = %col, "row" = %row }
      irdl.results(tile: %index)
    }
    irdl.operation @objectfifo_create {
      %index = irdl.is index
      // Patterns are attributes of the dialect's own, which the verified text has as strings.
      irdl.operands(producer: %index, consumers: variadic %index)
      %sym_name = irdl.base "#builtin.string"
      %elem_number_integer = irdl.base "#builtin.integer"
      %elem_number_array = irdl.base "#builtin.array"
      %elem_number = irdl.any_of(%elem_number_integer, %elem_number_array)
      %elem_type = irdl.base "#builtin.type"
      %dimensions_to_stream_string = irdl.base "#builtin.string"
      %dimensions_to_stream_array = irdl.base "#builtin.array"
      %dimensions_to_stream = irdl.any_of(%dimensions_to_stream_string, %dimensions_to_stream_array)
      %dimensions_from_stream_per_consumer_string = irdl.base "#builtin.string"
      %dimensions_from_stream_per_consumer_array = irdl.base "#builtin.array"
      %dimensions_from_stream_per_consumer = irdl.any_of(%dimensions_from_stream_per_consumer_string, %dimensions_from_stream_per_consumer_array)
      irdl.attributes {
        "sym_name" = %sym_name,
        "elemNumber" = %elem_number,
        "elemType" = %elem_type,
        "dimensionsToStream" = %dimensions_to_stream,
        "dimensionsFromStreamPerConsumer" = %dimensions_from_stream_per_consumer
      }
    }
    irdl.operation @objectfifo_link {
      %fifo_ins = irdl.base "#builtin.array"
      %fifo_outs = irdl.base "#builtin.array"
      %src_offsets = irdl.base "#builtin.array"
      %dst_offsets = irdl.base "#builtin.array"
      irdl.attributes {
        "fifoIns" = %fifo_ins,
        "fifoOuts" = %fifo_outs,
        "src_offsets" = %src_offsets,
        "dst_offsets" = %dst_offsets
      }
    }
    irdl.operation @objectfifo_acquire {
      %subview = irdl.base @aie::@objectfifosubview
      %memory = irdl.base "!builtin.memref"
      // A subview until August 2026, the first element itself since.
      %held = irdl.any_of(%subview, %memory)
      %obj_fifo_name = irdl.base "#builtin.symbol_ref"
      %port = irdl.base "#builtin.integer"
      %size = irdl.base "#builtin.integer"
      irdl.attributes {
        "objFifo_name" = %obj_fifo_name,
        "port" = %port,
        "size" = %size
      }
      irdl.results(held: variadic %held)
    }
    irdl.operation @objectfifo_release {
      %obj_fifo_name = irdl.base "#builtin.symbol_ref"
      %port = irdl.base "#builtin.integer"
      %size = irdl.base "#builtin.integer"
      irdl.attributes {
        "objFifo_name" = %obj_fifo_name,
        "port" = %port,
        "size" = %size
      }
    }
    irdl.operation @objectfifo_subview_access {
      %subview = irdl.base @aie::@objectfifosubview
      %memory = irdl.base "!builtin.memref"
      irdl.operands(held: %subview)
      %index = irdl.base "#builtin.integer"
      irdl.attributes { "index" = %index }
      irdl.results(element: %memory)
    }
    irdl.operation @buffer {
      %index = irdl.is index
      %memory = irdl.base "!builtin.memref"
      irdl.operands(tile: %index)
      %sym_name = irdl.base "#builtin.string"
      irdl.attributes { "sym_name" = %sym_name }
      irdl.results(memory: %memory)
    }
    irdl.operation @lock {
      %index = irdl.is index
      irdl.operands(tile: %index)
      irdl.results(lock: %index)
    }
    irdl.operation @use_lock {
      %index = irdl.is index
      irdl.operands(lock: %index)
      %action = irdl.base "#builtin.integer"
      irdl.attributes { "action" = %action }
    }
    irdl.operation @dma_bd {
      %memory = irdl.base "!builtin.memref"
      %len = irdl.base "#builtin.integer"
      irdl.operands(memory: %memory)
      irdl.attributes { "len" = %len }
    }
    irdl.operation @core {
      %index = irdl.is index
      %body = irdl.region
      irdl.operands(tile: %index)
      irdl.results(core: %index)
      irdl.regions(body: %body)
    }
    irdl.operation @runtime_sequence {
      %body = irdl.region
      irdl.regions(body: %body)
    }
  }
  irdl.dialect @aiex {
    irdl.operation @npu_dma_memcpy_nd {
      %memory = irdl.base "!builtin.memref"
      irdl.operands(memory: %memory)
      %id = irdl.base "#builtin.integer"
      %metadata = irdl.base "#builtin.symbol_ref"
      %operand_segment_sizes = irdl.base "#builtin.dense_array"
      %static_offsets = irdl.base "#builtin.dense_array"
      %static_sizes = irdl.base "#builtin.dense_array"
      %static_strides = irdl.base "#builtin.dense_array"
      irdl.attributes {
        "id" = %id,
        "metadata" = %metadata,
        "operandSegmentSizes" = %operand_segment_sizes,
        "static_offsets" = %static_offsets,
        "static_sizes" = %static_sizes,
        "static_strides" = %static_strides
      }
    }
    irdl.operation @npu_dma_wait {
      %symbol = irdl.base "#builtin.symbol_ref"
      irdl.attributes { "symbol" = %symbol }
    }
    irdl.operation @npu_rtp_write {
      %integer = irdl.base "!builtin.integer"
      // The value is an attribute, or in later versions an operand.
      irdl.operands(value: optional %integer)
      %buffer_string = irdl.base "#builtin.string"
      %buffer_symbol = irdl.base "#builtin.symbol_ref"
      %buffer = irdl.any_of(%buffer_string, %buffer_symbol)
      %index = irdl.base "#builtin.integer"
      irdl.attributes { "buffer" = %buffer, "index" = %index }
    }
    irdl.operation @dma_configure_task_for {
      %index = irdl.is index
      %alloc = irdl.base "#builtin.symbol_ref"
      %body = irdl.region
      irdl.attributes { "alloc" = %alloc }
      irdl.results(task: %index)
      irdl.regions(body: %body)
    }
    irdl.operation @dma_start_task {
      %index = irdl.is index
      irdl.operands(task: %index)
    }
    irdl.operation @dma_await_task {
      %index = irdl.is index
      irdl.operands(task: %index)
    }
    irdl.operation @dma_free_task {
      %index = irdl.is index
      irdl.operands(task: %index)
    }
    irdl.operation @set_lock {
      %index = irdl.is index
      irdl.operands(lock: %index)
      %value = irdl.base "#builtin.integer"
      irdl.attributes { "value" = %value }
    }
  }
}
