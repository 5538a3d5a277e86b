//! The FIFOs of products, and where they run on the array.

use super::program::{Groups, Memory, Program, UNIT_ROWS_BYTES};
use super::{ACTIVATION_DEPTH, BLOCK_ROWS, DEPTH, Linear, PAIR, STACK_BYTES};
use crate::aie::{self, Element, Fifo};
use crate::array::Array;

/// The design's FIFOs.
pub(super) struct Streams {
    /// A row's activations: DDR to memory tile, memory tile to cores.
    pub(super) activations: Vec<(Fifo, Fifo)>,
    /// A column's weights.
    pub(super) weights: Vec<(Fifo, Fifo)>,
    /// A column's results: of each of its cores, and joined.
    pub(super) results: Vec<(Vec<Fifo>, Fifo)>,
}

impl Streams {
    pub(super) fn new(design: &Linear, array: &Array) -> Self {
        let fifo = |name: String, element: Element, elements: u32| Fifo {
            name,
            element,
            elements,
            depth: DEPTH,
            to_stream: Vec::new(),
        };
        let activations = |name: String| fifo(name, Element::I8, PAIR * design.tile.depth);
        let weights = |name: String| fifo(name, Element::I8, design.weight_element_bytes());
        let results = |name: String, rows: u32| fifo(name, Element::Bf16, BLOCK_ROWS * PAIR * rows);
        Self {
            activations: (0..array.core_rows)
                .map(|row| {
                    let from_ddr = Fifo {
                        depth: ACTIVATION_DEPTH,
                        ..activations(format!("activations_{row}"))
                    };
                    (from_ddr, activations(format!("activations_{row}_cores")))
                })
                .collect(),
            weights: (0..array.columns)
                .map(|column| {
                    let to_cores = Fifo {
                        to_stream: design.gather(),
                        ..weights(format!("weights_{column}_cores"))
                    };
                    (weights(format!("weights_{column}")), to_cores)
                })
                .collect(),
            results: (0..array.columns)
                .map(|column| {
                    let parts = (0..array.core_rows)
                        .map(|row| results(format!("results_{column}_{row}"), 1))
                        .collect();
                    (parts, results(format!("results_{column}"), array.core_rows))
                })
                .collect(),
        }
    }

    /// Tiles, FIFOs, links and cores.
    pub(super) fn place<'c, 'b>(
        &self,
        design: &Linear,
        array: &Array,
        device: &aie::Device<'c, 'b>,
    ) {
        let columns = 0..array.columns;
        let shims: Vec<_> = columns
            .clone()
            .map(|column| device.tile(column, 0))
            .collect();
        let memories: Vec<_> = columns
            .clone()
            .map(|column| device.tile(column, 1))
            .collect();
        let cores: Vec<Vec<_>> = columns
            .map(|column| {
                (0..array.core_rows)
                    .map(|row| device.tile(column, array.first_core_row + row))
                    .collect()
            })
            .collect();
        // Results first: a memory tile's even channels share one half of its descriptors, the odd ones the other, and in
        // this order they come out even.
        for (column, (parts, joined)) in self.results.iter().enumerate() {
            for (part, &core) in parts.iter().zip(&cores[column]) {
                device.fifo(part, core, &[memories[column]]);
            }
            device.fifo(joined, memories[column], &[shims[column]]);
            device.join(&parts.iter().collect::<Vec<_>>(), joined);
        }
        for (row, (from_ddr, to_cores)) in self.activations.iter().enumerate() {
            let row_cores: Vec<_> = cores.iter().map(|column| column[row]).collect();
            device.fifo(from_ddr, shims[row], &[memories[row]]);
            device.fifo(to_cores, memories[row], &row_cores);
            device.forward(from_ddr, to_cores);
        }
        for (column, (from_ddr, to_cores)) in self.weights.iter().enumerate() {
            device.fifo(from_ddr, shims[column], &[memories[column]]);
            device.fifo(to_cores, memories[column], &cores[column]);
            device.forward(from_ddr, to_cores);
        }
        for (column, column_cores) in cores.iter().enumerate() {
            for (row, &tile) in column_cores.iter().enumerate() {
                let at = format!("{column}_{row}");
                let buffer = |name: &str, element: Element, bytes: u32| {
                    device.buffer(
                        tile,
                        &format!("{name}_{at}"),
                        bytes / element.bytes(),
                        element,
                    )
                };
                let memory = Memory {
                    sums: buffer("sums", Element::I32, design.core_memory().sums),
                    token_scales: buffer("token_scales", Element::F32, design.token_scale_bytes()),
                    row_scales: buffer("row_scales", Element::F32, design.row_scale_bytes()),
                    groups: design.form.has_groups().then(|| Groups {
                        multipliers: buffer(
                            "multipliers",
                            Element::I8,
                            design.multiplier_bytes() - UNIT_ROWS_BYTES,
                        ),
                        unit_rows: buffer("unit_rows", Element::I8, UNIT_ROWS_BYTES),
                    }),
                    unpacked: (design.unpacked_bytes() > 0)
                        .then(|| buffer("unpacked", Element::I8, design.unpacked_bytes())),
                };
                let program = Program {
                    design,
                    activations: &self.activations[row].1,
                    weights: &self.weights[column].1,
                    results: &self.results[column].0[row],
                };
                device.core(tile, STACK_BYTES, |body| program.write(body, &memory));
            }
        }
    }
}
