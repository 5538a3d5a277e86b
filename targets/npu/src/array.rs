//! The AI Engine array as data: what one generation of the NPU has, how fast it is, what things cost.
//!
//! Owns the reading of `arrays/*.toml`, where every figure stands beside its source. Knows no design.

use serde::Deserialize;
use std::sync::LazyLock;

/// One generation's array.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// What modules and users call it.
    pub name: String,
    /// The processors that have it.
    pub title: String,
    /// Value of the AIE dialect's device attribute.
    pub mlir_device: i32,
    /// The cores' instruction set, as the vendor's compiler names it.
    pub aie_target: String,
    /// Columns a design may use.
    pub columns: u32,
    /// Cores of a column.
    pub core_rows: u32,
    /// Row of the first of them.
    pub first_core_row: u32,
    /// Clock of the cores.
    pub clock_hz: f64,
    /// Hardware contexts at once.
    pub contexts: u32,
    /// A core.
    pub core: Tile,
    /// The memory tile of a column.
    pub memory_tile: Tile,
    /// The shim of a column, its port to DDR.
    pub shim: Shim,
    /// Transfer rates.
    pub rates: Rates,
    /// Fixed costs.
    pub costs: Costs,
    /// What the matrix unit multiplies.
    pub matrix: Vec<MatrixShape>,
}

/// Limits of a tile that has memory.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Data memory.
    pub memory_bytes: u32,
    /// Banks it is in, equally large.
    pub banks: u32,
    /// Program memory; none in a memory tile.
    #[serde(default)]
    pub program_bytes: u32,
    /// Stack of a core that states no size.
    #[serde(default)]
    pub default_stack_bytes: u32,
    /// DMA channels from streams into the memory.
    pub dma_in: u32,
    /// DMA channels from the memory to streams.
    pub dma_out: u32,
    /// Buffer descriptors.
    pub descriptors: u32,
    /// Locks.
    pub locks: u32,
    /// Dimensions of a descriptor.
    pub descriptor_dims: u32,
    /// Longest transfer of a descriptor, in words of 4 bytes.
    pub descriptor_words: u32,
    /// Largest size of a dimension, in elements.
    pub descriptor_max_size: u32,
    /// Largest stride of a dimension, in words of 4 bytes.
    pub max_stride_words: u32,
}

/// Limits of a shim.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shim {
    /// DMA channels from the array to DDR.
    pub dma_in: u32,
    /// DMA channels from DDR to the array.
    pub dma_out: u32,
    /// Buffer descriptors.
    pub descriptors: u32,
    /// Locks.
    pub locks: u32,
    /// Dimensions of a descriptor, the iteration included.
    pub descriptor_dims: u32,
    /// Largest size of the innermost dimension in words, unless the transfer is contiguous.
    pub descriptor_max_size: u32,
    /// Largest size of the outermost dimension where it has a stride.
    pub max_iterations: u32,
    /// Largest stride of a dimension, in words of 4 bytes.
    pub max_stride_words: u32,
    /// Buffers of one dispatch.
    pub buffer_arguments: u32,
}

/// Transfer rates.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// One stream.
    pub core_stream_bytes_per_cycle: u32,
    /// A core's loads together.
    pub core_load_bytes_per_cycle: u32,
    /// A core's stores.
    pub core_store_bytes_per_cycle: u32,
    /// One DMA channel of a shim.
    pub shim_channel_bytes_per_s: f64,
    /// All channels of one direction.
    pub ddr_bytes_per_s: f64,
    /// What products reach while both directions and all columns are busy.
    pub ddr_bytes_per_s_in_gemm: f64,
}

/// Fixed costs.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// A dispatch of its own.
    pub dispatch_s: f64,
    /// A dispatch behind others.
    pub queued_dispatch_s: f64,
    /// Loading another array configuration.
    pub reconfigure_s: f64,
}

/// One pair of operand types of the matrix unit.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixShape {
    /// Type of both operands.
    pub operands: Operands,
    /// Rows of the left native tile.
    pub m: u32,
    /// Columns of it.
    pub k: u32,
    /// Columns of the right one.
    pub n: u32,
    /// Products of one core and cycle.
    pub macs_per_cycle: u32,
    /// Cycles to load and store the accumulators of 2 x 2 native tiles, for each byte of a result element.
    pub drain_cycles_per_result_byte: f64,
}

/// Operand types of the matrix unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operands {
    /// 8-bit integers, 32-bit sums.
    I8,
    /// bfloat16, f32 sums.
    Bf16,
}

impl Operands {
    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            Operands::I8 => 1,
            Operands::Bf16 => 2,
        }
    }
}

impl Array {
    /// Every generation.
    pub const ALL: [fn() -> &'static Array; 2] = [Array::npu1, Array::npu2];

    /// XDNA1.
    pub fn npu1() -> &'static Array {
        static ARRAY: LazyLock<Array> = LazyLock::new(|| read(NPU1));
        &ARRAY
    }

    /// XDNA2.
    pub fn npu2() -> &'static Array {
        static ARRAY: LazyLock<Array> = LazyLock::new(|| read(NPU2));
        &ARRAY
    }

    /// The array whose modules carry this value of the device attribute.
    pub fn of_mlir_device(device: i32) -> Option<&'static Array> {
        Array::ALL
            .into_iter()
            .map(|array| array())
            .find(|array| array.mlir_device == device)
    }

    /// What the matrix unit makes of such operands.
    pub fn matrix(&self, operands: Operands) -> &MatrixShape {
        self.matrix
            .iter()
            .find(|shape| shape.operands == operands)
            .expect("a test finds every type in every array")
    }

    /// Cores of the whole array.
    pub fn cores(&self) -> u32 {
        self.columns * self.core_rows
    }
}

const NPU1: &str = include_str!("../arrays/npu1.toml");
const NPU2: &str = include_str!("../arrays/npu2.toml");

fn read(text: &str) -> Array {
    toml::from_str(text).expect("a test reads every array")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_array_reads_and_multiplies_every_type() {
        for array in [Array::npu1(), Array::npu2()] {
            for operands in [Operands::I8, Operands::Bf16] {
                let shape = array.matrix(operands);
                assert!(shape.macs_per_cycle <= shape.m * shape.k * shape.n);
            }
            assert_eq!(Array::of_mlir_device(array.mlir_device), Some(array));
        }
        assert_eq!(Array::npu1().cores(), 16);
        assert_eq!(Array::npu2().cores(), 32);
    }

    #[test]
    fn every_figure_names_a_source_that_the_file_lists() {
        for text in [NPU1, NPU2] {
            let listed: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("# ["))
                .filter_map(|line| line.split_once(']').map(|(name, _)| name))
                .collect();
            let mut figures = 0;
            for line in text.lines().filter(|line| line.contains(" = ")) {
                let (key, rest) = line.split_once(" = ").unwrap();
                if ["name", "title"].contains(&key) {
                    continue;
                }
                figures += 1;
                let source = rest
                    .split_once("# [")
                    .and_then(|(_, source)| source.split_once(']'));
                let Some((source, _)) = source else {
                    panic!("`{line}` names no source");
                };
                assert!(
                    listed.contains(&source),
                    "`{line}`: [{source}] is not listed"
                );
            }
            assert!(figures > 40, "{figures}");
        }
    }
}
