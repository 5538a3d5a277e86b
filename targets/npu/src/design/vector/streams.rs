//! The FIFOs of a column, and where everything is on the array.

use super::header;
use super::program::{Memory, Program};
use super::{DEPTH, STACK_BYTES, Vector};
use crate::aie::{self, Element, Fifo};
use crate::array::Array;

/// Bytes of a core's small buffers: the header, room for joining halves, what neighbours pass up and down.
pub(super) const SMALL_BYTES: u32 = header::BYTES + 4 * (SPOTS + 2 * PASSED);
/// Floats of room for joining halves.
const SPOTS: u32 = 32;
/// Floats of what neighbours pass: sums, and maxima.
const PASSED: u32 = 32;

/// A column's FIFOs.
pub(super) struct Column {
    pub(super) input: Fifo,
    pub(super) input_parts: Vec<Fifo>,
    pub(super) output: Fifo,
    pub(super) output_parts: Vec<Fifo>,
    /// From each core but the last to the one above.
    up: Vec<Fifo>,
    /// From each core but the first to the one below.
    down: Vec<Fifo>,
}

/// All columns' FIFOs.
pub(crate) struct Streams {
    pub(super) columns: Vec<Column>,
}

impl Streams {
    pub(super) fn new(design: &Vector, array: &Array) -> Self {
        let fifo = |name: String, element: Element, elements: u32, depth: u32| Fifo {
            name,
            element,
            elements,
            depth,
            to_stream: Vec::new(),
        };
        let bytes = |name: String, bytes: u32| fifo(name, Element::I8, bytes, DEPTH);
        let passed = |name: String| fifo(name, Element::F32, PASSED, 1);
        let rows = array.core_rows;
        Self {
            columns: (0..array.columns)
                .map(|column| Column {
                    input: bytes(format!("vector_in_{column}"), rows * design.in_bytes()),
                    input_parts: (0..rows)
                        .map(|row| bytes(format!("vector_in_{column}_{row}"), design.in_bytes()))
                        .collect(),
                    output: bytes(format!("vector_out_{column}"), rows * design.out_bytes()),
                    output_parts: (0..rows)
                        .map(|row| bytes(format!("vector_out_{column}_{row}"), design.out_bytes()))
                        .collect(),
                    up: (1..rows)
                        .map(|row| passed(format!("up_{column}_{row}")))
                        .collect(),
                    down: (1..rows)
                        .map(|row| passed(format!("down_{column}_{row}")))
                        .collect(),
                })
                .collect(),
        }
    }

    /// Tiles, FIFOs, links and cores.
    pub(super) fn place<'c, 'b>(
        &self,
        design: &Vector,
        array: &Array,
        device: &aie::Device<'c, 'b>,
    ) {
        for (at, column) in self.columns.iter().enumerate() {
            let tile = |row: u32| device.tile(at as u32, row);
            let (shim, memory) = (tile(0), tile(1));
            let cores: Vec<_> = (0..array.core_rows)
                .map(|row| tile(array.first_core_row + row))
                .collect();
            device.fifo(&column.input, shim, &[memory]);
            for (part, &core) in column.input_parts.iter().zip(&cores) {
                device.fifo(part, memory, &[core]);
            }
            device.distribute(
                &column.input,
                &column.input_parts.iter().collect::<Vec<_>>(),
            );
            for (part, &core) in column.output_parts.iter().zip(&cores) {
                device.fifo(part, core, &[memory]);
            }
            device.fifo(&column.output, memory, &[shim]);
            device.join(
                &column.output_parts.iter().collect::<Vec<_>>(),
                &column.output,
            );
            for (row, (up, down)) in column.up.iter().zip(&column.down).enumerate() {
                device.fifo(up, cores[row], &[cores[row + 1]]);
                device.fifo(down, cores[row + 1], &[cores[row]]);
            }
            for (row, &core) in cores.iter().enumerate() {
                let buffer = |name: &str, element: Element, elements: u32| {
                    device.buffer(core, &format!("{name}_{at}_{row}"), elements, element)
                };
                let memory = Memory {
                    header: buffer("header", Element::I32, header::BYTES / 4),
                    spots: buffer("spots", Element::F32, SPOTS),
                    room: buffer("room", Element::I32, design.room_words()),
                    kept: buffer("kept", Element::Bf16, design.kept_numbers()),
                    tables: buffer("tables", Element::F32, design.tables(array)),
                };
                let program = Program {
                    design,
                    row: row as u32,
                    input: &column.input_parts[row],
                    output: &column.output_parts[row],
                    below: row
                        .checked_sub(1)
                        .map(|below| (&column.up[below], &column.down[below])),
                    above: column.up.get(row).zip(column.down.get(row)),
                };
                device.core(core, STACK_BYTES, |body| program.write(body, &memory));
            }
        }
    }
}
