//! Loops that turn FIFOs over, as the vendor's lowering takes them.
//!
//! Unless a core asks for `dynamic_objfifo_lowering`, which element an acquire gets is decided when the module is lowered:
//! a loop is repeated in the program until every FIFO that it acquires is back at its first element. That needs a
//! constant number of turns, and a number of elements in all of them together that does come back. Where either fails the
//! lowering goes on and the core uses the wrong element.

use super::Checker;
use crate::module::{Block, Core, Op, OpKind, Port};
use std::collections::{BTreeMap, HashMap};

/// Elements taken of each side of a FIFO.
type Taken = BTreeMap<(usize, bool), i64>;

impl Checker<'_> {
    /// Refuses loops whose elements cannot be told when the module is lowered.
    pub(super) fn turns(&self, core: &Core, faults: &mut Vec<(usize, String)>) {
        let mut constants = HashMap::new();
        core.body.block.walk(&mut |op| {
            if let OpKind::Constant(constant) = &op.kind
                && let (&[result], &[value]) = (op.results.as_slice(), constant.lanes.as_slice())
            {
                constants.insert(result, value);
            }
        });
        self.taken(core, &core.body.block, &constants, faults);
    }

    fn taken(
        &self,
        core: &Core,
        block: &Block,
        constants: &HashMap<usize, i64>,
        faults: &mut Vec<(usize, String)>,
    ) -> Taken {
        let mut taken = Taken::new();
        for op in &block.ops {
            match &op.kind {
                OpKind::Release { fifo, port, count } => {
                    *taken.entry((*fifo, *port == Port::Produce)).or_insert(0) += count;
                }
                OpKind::For | OpKind::While | OpKind::If => {
                    for block in &op.blocks {
                        let inside = self.taken(core, block, constants, faults);
                        if inside.is_empty() {
                            continue;
                        }
                        let turns = match op.kind {
                            OpKind::If => Some(1),
                            _ => turns(op, constants),
                        };
                        let Some(turns) = turns else {
                            let names = self.names(&inside);
                            faults.push((
                                op.line,
                                format!(
                                    "`{}` turns {names} over an unknown number of times; set dynamic_objfifo_lowering, without it wrong elements are used",
                                    op.name
                                ),
                            ));
                            continue;
                        };
                        let repeats = self.unrolled(core, block).min(turns.max(1));
                        for ((fifo, produces), count) in inside {
                            let depth = self.depth(core, fifo, produces);
                            let back = repeats.saturating_mul(count) % depth == 0;
                            if !back && turns > repeats {
                                let name = &self.module.fifos[fifo].name;
                                faults.push((
                                    op.line,
                                    format!(
                                        "a turn of `{}` takes {count} of the {depth} elements of @{name}, and the next begins at the first again; set dynamic_objfifo_lowering",
                                        op.name
                                    ),
                                ));
                            }
                            let all = count.saturating_mul(turns);
                            *taken.entry((fifo, produces)).or_insert(0) += all;
                        }
                    }
                }
                _ => {}
            }
        }
        taken
    }

    fn names(&self, taken: &Taken) -> String {
        let names: Vec<String> = taken
            .keys()
            .map(|(fifo, _)| format!("@{}", self.module.fifos[*fifo].name))
            .collect();
        names.join(", ")
    }

    fn depth(&self, core: &Core, fifo: usize, produces: bool) -> i64 {
        let port = if produces {
            Port::Produce
        } else {
            Port::Consume
        };
        self.allocation
            .end_of(fifo, core.tile, port)
            .map_or(1, |end| {
                self.allocation.pools[self.allocation.ends[end].pool].depth
            })
            .max(1) as i64
    }

    /// How often a loop's body is repeated: until every FIFO that it acquires itself is back at its first element.
    pub(super) fn unrolled(&self, core: &Core, block: &Block) -> i64 {
        let mut turns = 1i64;
        for op in &block.ops {
            if let OpKind::Acquire { fifo, port, .. } = op.kind {
                let depth = self.depth(core, fifo, port == Port::Produce);
                let (mut a, mut b) = (turns, depth);
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                turns = (turns / a).saturating_mul(depth);
            }
        }
        turns.clamp(1, 64)
    }
}

/// Turns of a loop between constants.
fn turns(op: &Op, constants: &HashMap<usize, i64>) -> Option<i64> {
    if op.kind != OpKind::For {
        return None;
    }
    let bound = |at: usize| op.operands.get(at).and_then(|value| constants.get(value));
    let (lower, upper, step) = (bound(0)?, bound(1)?, bound(2)?);
    let span = upper.saturating_sub(*lower).max(0);
    Some(span.div_euclid((*step).max(1)) + i64::from(span % (*step).max(1) != 0))
}
