//! FIFOs, links, and the patterns of their descriptors.

use super::Checker;
use crate::allocation::{Direction, TileKind, needs_dma};
use crate::module::{Depth, Link, Scalar};

/// Dimensions, from the innermost, whose sizes are in registers; the next one ends with the transfer.
const CORE_WRAPS: usize = 2;
const MEMORY_WRAPS: usize = 3;

/// Largest size in such a register: 8 bits of a core's, 10 of a memory tile's.
const CORE_WRAP: i64 = 255;
const MEMORY_WRAP: i64 = 1023;

impl Checker<'_> {
    pub(super) fn fifos(&mut self) {
        for index in 0..self.module.fifos.len() {
            let fifo = &self.module.fifos[index];
            let depths = match &fifo.depth {
                Depth::Shared(depth) => vec![*depth],
                Depth::Ends(ends) => ends.clone(),
            };
            let mut faults = Vec::new();
            if let Some(depth) = depths.iter().find(|depth| **depth < 1) {
                faults.push(format!("has a depth of {depth}; the least is 1"));
            }
            if fifo.element.shape.iter().any(|size| *size < 1) {
                faults.push(format!("elements of {} hold nothing", fifo.element));
            }
            if matches!(fifo.element.element, Scalar::Int(bits) if bits % 8 != 0) {
                faults.push(format!(
                    "elements of {} have no whole bytes; use i8 for what is packed",
                    fifo.element
                ));
            }
            for (at, consumer) in fifo.consumers.iter().enumerate() {
                if *consumer == fifo.producer {
                    faults.push("starts and ends at the same tile".to_owned());
                }
                if fifo.consumers[..at].contains(consumer) {
                    let tile = &self.module.tiles[*consumer];
                    faults.push(format!("has {tile} as a consumer twice"));
                }
            }
            // Somebody must be there at each end.
            let linked_in = |link: &Link| link.inputs.contains(&index);
            let linked_out = |link: &Link| link.outputs.contains(&index);
            let taken_on = self.module.links.iter().any(linked_in);
            let fed = self.module.links.iter().any(linked_out);
            let core_at = |tile| self.module.cores.iter().any(|core| core.tile == tile);
            let ends = std::iter::once((fifo.producer, fed, "fills"))
                .chain(fifo.consumers.iter().map(|tile| (*tile, taken_on, "takes")));
            for (tile, linked, verb) in ends {
                let at = &self.module.tiles[tile];
                match self.kind(tile) {
                    TileKind::Shim => {}
                    TileKind::Memory if !linked => {
                        faults.push(format!("no link {verb} its elements at memory {at}"));
                    }
                    TileKind::Core if !linked && !core_at(tile) => {
                        faults.push(format!("no core {verb} its elements at {at}"));
                    }
                    TileKind::Memory | TileKind::Core => {}
                }
            }
            // One depth for all ends is a suggestion: cores get one element more than they acquire at once.
            if let Depth::Shared(depth) = &fifo.depth {
                let ends = self.allocation.ends.iter().filter(|end| end.fifo == index);
                for end in ends.filter(|_| needs_dma(self.module, self.array, index)) {
                    let given = self.allocation.pools[end.pool].depth as i64;
                    if given != *depth {
                        let at = &self.module.tiles[end.tile];
                        faults.push(format!(
                            "a depth of {depth} becomes {given} at the core of {at}; state the depth of each end"
                        ));
                    }
                }
            }
            let acquired = |tile| crate::allocation::most_acquired(self.module, index, tile);
            for (end, tile) in std::iter::once(&fifo.producer)
                .chain(&fifo.consumers)
                .enumerate()
            {
                let depth = match &fifo.depth {
                    Depth::Shared(depth) => *depth,
                    Depth::Ends(ends) => {
                        ends[if needs_dma(self.module, self.array, index) {
                            end
                        } else {
                            0
                        }]
                    }
                };
                let most = acquired(*tile);
                if most > depth {
                    let at = &self.module.tiles[*tile];
                    faults.push(format!(
                        "the core of {at} acquires {most} elements, its depth there is {depth}"
                    ));
                }
            }
            for what in faults {
                self.fifo_fault(index, what);
            }
        }
    }

    pub(super) fn links(&mut self) {
        for (index, link) in self.module.links.iter().enumerate() {
            let names = |fifos: &[usize]| {
                let names: Vec<String> = fifos
                    .iter()
                    .map(|fifo| format!("@{}", self.module.fifos[*fifo].name))
                    .collect();
                format!("[{}]", names.join(", "))
            };
            let op = format!(
                "aie.objectfifo.link {} -> {}",
                names(&link.inputs),
                names(&link.outputs)
            );
            let mut faults = Vec::new();
            for fifo in &link.inputs {
                if self.module.links[..index]
                    .iter()
                    .any(|other| other.inputs.contains(fifo))
                {
                    faults.push(format!(
                        "@{} is in another link already",
                        self.module.fifos[*fifo].name
                    ));
                }
            }
            for fifo in &link.outputs {
                if self.module.links[..index]
                    .iter()
                    .any(|other| other.outputs.contains(fifo))
                {
                    faults.push(format!(
                        "@{} is in another link already",
                        self.module.fifos[*fifo].name
                    ));
                }
            }
            faults.extend(self.link_shape(link));
            for what in faults {
                self.fault(op.clone(), link.line, what);
            }
        }
    }

    fn link_shape(&self, link: &Link) -> Vec<String> {
        let mut faults = Vec::new();
        let fifo = |index: usize| &self.module.fifos[index];
        let (Some(&first_in), Some(&first_out)) = (link.inputs.first(), link.outputs.first())
        else {
            return vec!["links nothing".to_owned()];
        };
        let tile = fifo(first_out).producer;
        let elsewhere = link
            .inputs
            .iter()
            .any(|input| !fifo(*input).consumers.contains(&tile))
            || link
                .outputs
                .iter()
                .any(|output| fifo(*output).producer != tile);
        if elsewhere {
            faults.push("its FIFOs do not meet at one tile".to_owned());
        }
        let bits = fifo(first_in).element.element.bits();
        let all = || link.inputs.iter().chain(&link.outputs);
        if let Some(other) = all().find(|index| fifo(**index).element.element.bits() != bits) {
            faults.push(format!(
                "elements of @{} are of {} and those of @{} of {}",
                fifo(first_in).name,
                fifo(first_in).element.element,
                fifo(*other).name,
                fifo(*other).element.element
            ));
        }
        let (join, distribute) = (link.inputs.len() > 1, link.outputs.len() > 1);
        if join && distribute {
            faults.push("joins and distributes at once; use two links".to_owned());
            return faults;
        }
        let whole_bytes = |elements: i64| elements * i64::from(bits) / 8;
        if !join && !distribute {
            let (a, b) = (fifo(first_in), fifo(first_out));
            let (x, y) = (a.element.elements(), b.element.elements());
            if x.max(y) % x.min(y).max(1) != 0 {
                faults.push(format!(
                    "elements of {x} and {y} do not divide each other ({} and {} bytes)",
                    a.element.bytes(),
                    b.element.bytes()
                ));
            }
            return faults;
        }
        let (parts, offsets, whole, word) = if join {
            (&link.inputs, &link.source_offsets, first_out, "src_offsets")
        } else {
            (
                &link.outputs,
                &link.destination_offsets,
                first_in,
                "dst_offsets",
            )
        };
        if parts.len() != offsets.len() {
            faults.push(format!(
                "`{word}` has {} offsets for {} parts",
                offsets.len(),
                parts.len()
            ));
            return faults;
        }
        let total = fifo(whole).element.elements();
        let mut expected = 0;
        for (part, &offset) in parts.iter().zip(offsets) {
            let part = fifo(*part);
            if offset != expected {
                faults.push(format!(
                    "part @{} starts at {offset}, the parts before end at {expected}",
                    part.name
                ));
            }
            if whole_bytes(offset) % 4 != 0 {
                faults.push(format!(
                    "part @{} starts at byte {}, no multiple of 4",
                    part.name,
                    whole_bytes(offset)
                ));
            }
            expected = offset + part.element.elements();
        }
        if expected != total {
            faults.push(format!(
                "its parts end at {expected}, an element of @{} has {total}",
                fifo(whole).name
            ));
        }
        faults
    }

    pub(super) fn patterns(&mut self) {
        let mut faults = Vec::new();
        for channel in &self.allocation.channels {
            let fifo = &self.module.fifos[channel.fifo];
            let tile = &self.module.tiles[channel.tile];
            let side = match channel.direction {
                Direction::In => "from",
                Direction::Out => "to",
            };
            let pattern = match channel.direction {
                Direction::Out => &fifo.to_stream,
                Direction::In => {
                    let at = fifo.consumers.iter().position(|at| *at == channel.tile);
                    &fifo.from_stream[at.unwrap_or(0)]
                }
            };
            let mut add = |what: String| {
                faults.push((channel.fifo, format!("{side} the stream at {tile}: {what}")));
            };
            let Some(limits) = self.limits_of(channel.tile) else {
                if !pattern.0.is_empty() {
                    add("a shim's end takes no dimensions; give them to the transfer".to_owned());
                }
                continue;
            };
            let core = self.kind(channel.tile) == TileKind::Core;
            let element_bytes = i64::from(fifo.element.element.bits()) / 8;
            let mut lengths: Vec<i64> = channel.chain.iter().map(|bd| bd.length).collect();
            lengths.sort_unstable();
            lengths.dedup();
            for length in &lengths {
                let bytes = length * element_bytes;
                if bytes % 4 != 0 {
                    add(format!("a transfer of {bytes} bytes is no multiple of 4"));
                }
                if bytes / 4 > i64::from(limits.descriptor_words) {
                    add(format!(
                        "a transfer of {} words is longer than a descriptor's {}",
                        bytes / 4,
                        limits.descriptor_words
                    ));
                }
                let product = pattern
                    .0
                    .iter()
                    .fold(1i64, |product, (size, _)| product.saturating_mul(*size));
                if !pattern.0.is_empty() && product != *length {
                    add(format!(
                        "its dimensions make {product} elements, the transfer has {length}"
                    ));
                }
            }
            let dims = &pattern.0;
            if dims.len() > limits.descriptor_dims as usize {
                add(format!(
                    "{} dimensions, its descriptors have {}",
                    dims.len(),
                    limits.descriptor_dims
                ));
            }
            let reach: i64 = dims.iter().map(|(size, stride)| (size - 1) * stride).sum();
            let total = channel.chain.first().map_or(i64::MAX, |bd| {
                self.allocation.pools[bd.pool].element.elements()
            });
            let last = channel
                .chain
                .iter()
                .map(|bd| bd.offset + reach)
                .max()
                .unwrap_or(0);
            if last >= total {
                add(format!("its dimensions reach element {last} of {total}"));
            }
            for (inner, (size, stride)) in dims.iter().rev().enumerate() {
                let (size, stride) = (*size, *stride);
                let wraps = if core { CORE_WRAPS } else { MEMORY_WRAPS };
                let wrap = if core { CORE_WRAP } else { MEMORY_WRAP };
                if size < 1 {
                    add(format!("a dimension of size {size}"));
                    continue;
                }
                if size > i64::from(limits.descriptor_max_size) {
                    add(format!(
                        "a dimension of {size} elements, the most is {}",
                        limits.descriptor_max_size
                    ));
                } else if inner < wraps {
                    let count = if inner == 0 {
                        size * element_bytes / 4
                    } else {
                        size
                    };
                    let unit = if inner == 0 { "words" } else { "steps" };
                    if count > wrap {
                        add(format!(
                            "a dimension of {count} {unit}, its register holds {wrap}"
                        ));
                    }
                }
                if stride < 1 {
                    add(format!("a stride of {stride}; the least is 1"));
                    continue;
                }
                if stride > total {
                    add(format!(
                        "a stride of {stride} elements, an element of the FIFO has {total}"
                    ));
                }
                let words = stride * element_bytes / 4;
                if size > 1 && words > i64::from(limits.max_stride_words) {
                    add(format!(
                        "a stride of {words} words, the most is {}",
                        limits.max_stride_words
                    ));
                }
                if inner == 0 {
                    if element_bytes < 4 && stride != 1 {
                        add(format!(
                            "an innermost stride of {stride} elements of {element_bytes} bytes; below 4 bytes it must be 1"
                        ));
                    }
                    if size * element_bytes % 4 != 0 {
                        add(format!(
                            "innermost runs of {} bytes are no multiple of 4",
                            size * element_bytes
                        ));
                    }
                } else if stride * element_bytes % 4 != 0 {
                    add(format!(
                        "a stride of {} bytes is no multiple of 4",
                        stride * element_bytes
                    ));
                }
            }
        }
        for (fifo, what) in faults {
            self.fifo_fault(fifo, what);
        }
    }
}
