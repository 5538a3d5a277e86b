//! Run-time sequences: transfers of shims, waits, parameters.

use super::Checker;
use crate::allocation::{Direction, TileKind};
use crate::module::{Sequence, StepKind, Transfer};
use std::collections::{BTreeMap, HashMap};

/// Times that a task may be repeated without a stride: 8 bits.
const MOST_REPEATS: i64 = 256;

impl Checker<'_> {
    pub(super) fn sequences(&mut self) {
        for sequence in &self.module.sequences {
            let op = format!("aie.runtime_sequence @{}", sequence.name);
            let limit = self.array.shim.buffer_arguments as usize;
            if sequence.arguments.len() > limit {
                let what = format!(
                    "takes {} buffer arguments, a dispatch has {limit}",
                    sequence.arguments.len()
                );
                self.fault(op.clone(), sequence.line, what);
            }
            self.sequence(sequence, &op);
        }
        if self.module.sequences.is_empty() {
            self.fault(
                "aie.device",
                1,
                "has no run-time sequence, so nothing can be dispatched",
            );
        }
    }

    fn sequence(&mut self, sequence: &Sequence, op: &str) {
        // Descriptors in use: of which shim, and since which line.
        let mut in_use: HashMap<(usize, i64), usize> = HashMap::new();
        // Tokens to come, and which transfer gives the last of them.
        let mut tokens: HashMap<usize, usize> = HashMap::new();
        let mut last_line: BTreeMap<usize, usize> = BTreeMap::new();
        let mut faults: Vec<(String, usize, String)> = Vec::new();
        for step in &sequence.steps {
            let mut add = |op: String, what: String| faults.push((op, step.line, what));
            match &step.kind {
                StepKind::Transfer(transfer) => {
                    let name = &self.module.fifos[transfer.fifo].name;
                    let op = format!("aiex.npu.dma_memcpy_nd of @{name}");
                    let Some((tile, direction)) = self.shim_end(transfer.fifo) else {
                        add(op, "its FIFO has no end at a shim".to_owned());
                        continue;
                    };
                    for what in self.transfer(sequence, transfer) {
                        add(op.clone(), what);
                    }
                    let writes = direction == Direction::In;
                    if let Some(line) = in_use.insert((tile, transfer.id), step.line) {
                        add(
                            op,
                            format!(
                                "id {} is used again, and nothing was waited for since line {line}",
                                transfer.id
                            ),
                        );
                    }
                    // Those to host memory issue one whether they say so or not.
                    if transfer.issue_token || writes {
                        *tokens.entry(transfer.fifo).or_insert(0) += 1;
                        last_line.insert(transfer.fifo, step.line);
                    }
                }
                StepKind::Wait { fifo } => {
                    let name = &self.module.fifos[*fifo].name;
                    let op = format!("aiex.npu.dma_wait of @{name}");
                    let left = tokens.entry(*fifo).or_insert(0);
                    if *left == 0 {
                        let why = match self.shim_end(*fifo) {
                            None => "its FIFO has no end at a shim",
                            Some((_, Direction::Out)) => {
                                "no transfer with issue_token is under way, and those to the array issue none by themselves"
                            }
                            Some((_, Direction::In)) => "no transfer is under way",
                        };
                        add(op, why.to_owned());
                    } else {
                        *left -= 1;
                    }
                    // What it implies for others is known only when it runs; here any wait frees all.
                    in_use.clear();
                }
                StepKind::WriteParameter { buffer, index, .. } => {
                    let buffer = &self.module.buffers[*buffer];
                    let words = buffer.memory.bytes() / 4;
                    let op = format!("aiex.npu.rtp_write of @{}", buffer.name);
                    if !(0..words).contains(index) {
                        add(op, format!("word {index} is out of bounds of {words}"));
                    }
                }
                StepKind::SetLock { lock, value } => {
                    let name = self.module.locks[*lock]
                        .name
                        .as_deref()
                        .unwrap_or("without a name");
                    if !(0..=63).contains(value) {
                        add(
                            format!("aiex.set_lock of {name}"),
                            format!("value {value} is out of range, a lock counts to 63"),
                        );
                    }
                }
            }
        }
        for (fifo, line) in last_line {
            let left = tokens.get(&fifo).copied().unwrap_or(0);
            if left == 0 {
                continue;
            }
            let name = &self.module.fifos[fifo].name;
            let what = match self.shim_end(fifo) {
                Some((_, Direction::In)) => format!(
                    "ends without waiting for the output of @{name}: {left} of its transfers are not waited for, and each issues a token"
                ),
                Some((_, Direction::Out)) | None => format!(
                    "{left} tokens of @{name} are never taken; the next dispatch would take them for its own"
                ),
            };
            faults.push((op.to_owned(), line, what));
        }
        for (op, line, what) in faults {
            self.fault(op, line, what);
        }
    }

    /// The shim that a FIFO starts or ends at.
    fn shim_end(&self, fifo: usize) -> Option<(usize, Direction)> {
        let channel =
            self.allocation.channels.iter().find(|channel| {
                channel.fifo == fifo && self.kind(channel.tile) == TileKind::Shim
            })?;
        Some((channel.tile, channel.direction))
    }

    fn transfer(&self, sequence: &Sequence, transfer: &Transfer) -> Vec<String> {
        let shim = &self.array.shim;
        let mut faults = Vec::new();
        let memory = &sequence.arguments[transfer.argument];
        let element_bytes = i64::from(memory.element.bits()) / 8;
        let mut add = |what: String| faults.push(what);
        if element_bytes == 0 {
            add(format!(
                "moves a buffer of {}; use i8 for what is packed",
                memory.element
            ));
            return faults;
        }
        if !(0..i64::from(shim.descriptors)).contains(&transfer.id) {
            add(format!(
                "id {} is out of range, a shim has {} descriptors",
                transfer.id, shim.descriptors
            ));
        }
        let [repeats, outer, middle, inner] = transfer.sizes;
        if let Some(size) = transfer.sizes.iter().find(|size| **size < 1) {
            add(format!("a size of {size}"));
            return faults;
        }
        let [repeat_stride, outer_stride, middle_stride, inner_stride] = transfer.strides;
        if let Some(stride) = transfer.strides.iter().find(|stride| **stride < 0) {
            add(format!("a stride of {stride}"));
            return faults;
        }
        if inner * element_bytes % 4 != 0 {
            add(format!(
                "innermost runs of {} bytes are no multiple of 4",
                inner * element_bytes
            ));
        }
        if inner > 1 && element_bytes < 4 && inner_stride != 1 {
            add(format!(
                "an innermost stride of {inner_stride} elements of {element_bytes} bytes; below 4 bytes it must be 1"
            ));
        }
        let names = ["outermost", "second", "third", "innermost"];
        for (at, (size, stride)) in transfer.sizes.iter().zip(&transfer.strides).enumerate() {
            if at < 3 && stride * element_bytes % 4 != 0 {
                add(format!(
                    "the {} stride of {} bytes is no multiple of 4",
                    names[at],
                    stride * element_bytes
                ));
            }
            if *size > 1 && stride * element_bytes / 4 > i64::from(shim.max_stride_words) {
                add(format!(
                    "the {} stride of {} words is larger than {}",
                    names[at],
                    stride * element_bytes / 4,
                    shim.max_stride_words
                ));
            }
            if at > 0 && *size > 1 && *stride == 0 {
                add(format!(
                    "the {} dimension repeats without a stride; only the outermost may",
                    names[at]
                ));
            }
            if transfer.offsets[at] != 0 && *stride == 0 {
                add(format!(
                    "the {} offset {} counts for nothing, its stride is 0",
                    names[at], transfer.offsets[at]
                ));
            }
            if transfer.offsets[at] < 0 {
                add(format!(
                    "the {} offset {} is negative",
                    names[at], transfer.offsets[at]
                ));
            }
        }
        // Contiguous ones need no size in a register.
        let linear = outer == 1 && middle == 1 && inner_stride == 1;
        let inner_words = inner * element_bytes / 4;
        if !linear && inner_words > i64::from(shim.descriptor_max_size) {
            add(format!(
                "an innermost size of {inner_words} words is larger than {}",
                shim.descriptor_max_size
            ));
        }
        if middle > i64::from(shim.descriptor_max_size) {
            add(format!(
                "a third size of {middle} is larger than {}",
                shim.descriptor_max_size
            ));
        }
        if repeat_stride > 0 && repeats > i64::from(shim.max_iterations) {
            add(format!(
                "an outermost size of {repeats} with a stride is larger than {}",
                shim.max_iterations
            ));
        }
        if repeat_stride == 0 && repeats > MOST_REPEATS {
            add(format!("{repeats} repeats are more than {MOST_REPEATS}"));
        }
        let start = transfer.start();
        if start.saturating_mul(element_bytes) % 4 != 0 {
            add(format!(
                "starts at byte {}, no multiple of 4",
                start.saturating_mul(element_bytes)
            ));
        }
        let reach = (repeats - 1)
            .saturating_mul(repeat_stride)
            .saturating_add((outer - 1).saturating_mul(outer_stride))
            .saturating_add((middle - 1).saturating_mul(middle_stride))
            .saturating_add((inner - 1).saturating_mul(inner_stride));
        let last = start.saturating_add(reach);
        if last >= memory.elements() {
            add(format!(
                "reaches element {last}, out of bounds of argument {} with {}",
                transfer.argument,
                memory.elements()
            ));
        }
        let fifo = &self.module.fifos[transfer.fifo];
        let (moved, element) = (
            transfer.elements().saturating_mul(element_bytes),
            fifo.element.bytes(),
        );
        if moved % element.max(1) != 0 {
            add(format!(
                "moves {moved} bytes, no whole number of elements of {element} bytes"
            ));
        }
        faults
    }
}
