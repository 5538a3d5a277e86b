//! Reads programs of cores and functions.

use super::attributes as text;
use super::body::*;
use super::read::{Known, Reader, Scope, fifo_named, key_of, ops};
use super::{MemRef, ModuleError, Port, Type};
use melior::ir::RegionLike;
use melior::ir::block::BlockLike;
use melior::ir::operation::OperationLike;
use melior::ir::{BlockRef, ValueLike};
use std::collections::HashMap;

/// Reads the only region of a core or a function.
pub(super) fn body(op: &Reader, scope: &Scope) -> Result<Body, ModuleError> {
    let mut reader = BodyReader {
        body: Body::default(),
        values: HashMap::new(),
        scope,
    };
    let block = reader.block(op, op.block()?)?;
    reader.body.block = block;
    Ok(reader.body)
}

struct BodyReader<'s> {
    body: Body,
    values: HashMap<usize, ValueId>,
    scope: &'s Scope,
}

impl BodyReader<'_> {
    fn define(&mut self, key: usize, ty: Type) -> ValueId {
        let id = self.body.values.len();
        self.body.values.push(ty);
        self.values.insert(key, id);
        id
    }

    fn block(&mut self, owner: &Reader, block: BlockRef) -> Result<Block, ModuleError> {
        let mut arguments = Vec::new();
        for index in 0..block.argument_count() {
            let Ok(argument) = block.argument(index) else {
                continue;
            };
            let ty = value_type(owner, &argument.r#type().to_string())?;
            arguments.push(self.define(key_of(argument), ty));
        }
        let mut read = Vec::new();
        for op in ops(block) {
            read.push(self.op(&op)?);
        }
        Ok(Block {
            arguments,
            ops: read,
        })
    }

    fn operand(&mut self, op: &Reader, key: usize) -> Result<ValueId, ModuleError> {
        if let Some(id) = self.values.get(&key) {
            return Ok(*id);
        }
        let Some(Known::Captured(capture, ty)) = self.scope.values.get(&key) else {
            return Err(op.malformed("takes a value from outside the program"));
        };
        // A lock has no type of its own; nothing but locking looks at it.
        let ty = ty.clone().unwrap_or(Type::Scalar(super::Scalar::Index));
        let id = self.define(key, ty);
        self.body.captures.push((id, capture.clone()));
        Ok(id)
    }

    fn op(&mut self, op: &Reader) -> Result<Op, ModuleError> {
        let operands = op
            .operands()
            .into_iter()
            .map(|key| self.operand(op, key))
            .collect::<Result<Vec<_>, _>>()?;
        let operand_types: Vec<Type> = operands
            .iter()
            .map(|id| self.body.values[*id].clone())
            .collect();
        let result_types = op
            .result_types()
            .iter()
            .map(|ty| value_type(op, ty))
            .collect::<Result<Vec<_>, _>>()?;
        let kind = kind(op, &operand_types, &result_types, self.scope)?;
        let mut blocks = Vec::new();
        for region in op.op.regions() {
            let mut next = region.first_block();
            while let Some(block) = next {
                blocks.push(self.block(op, block)?);
                next = block.next_in_region();
            }
        }
        let most = match kind {
            OpKind::For => 1,
            OpKind::If | OpKind::While => 2,
            _ => 0,
        };
        if blocks.len() > most {
            return Err(op.malformed("has regions or blocks that structured control flow has not"));
        }
        let results = op
            .op
            .results()
            .zip(result_types)
            .map(|(result, ty)| self.define(key_of(result), ty))
            .collect();
        Ok(Op {
            name: op.name.clone(),
            line: op.line,
            kind,
            operands,
            results,
            blocks,
        })
    }
}

fn value_type(op: &Reader, ty: &str) -> Result<Type, ModuleError> {
    Type::parse(ty).ok_or_else(|| op.malformed(format!("type `{ty}` is not supported")))
}

fn kind(
    op: &Reader,
    operands: &[Type],
    results: &[Type],
    scope: &Scope,
) -> Result<OpKind, ModuleError> {
    use OpKind as K;
    if let Some(kind) = simple(&op.name) {
        return Ok(kind);
    }
    let unsupported = |what: &str| op.malformed(format!("{what} is not supported"));
    Ok(match op.name.as_str() {
        "arith.constant" => K::Constant(op.required("value", text::constant)?),
        "arith.cmpi" => K::Compare(op.required("predicate", |value| {
            use Compare::*;
            [
                Eq, Ne, LtSigned, LeSigned, GtSigned, GeSigned, LtUnsigned, LeUnsigned, GtUnsigned,
                GeUnsigned,
            ]
            .get(usize::try_from(text::int(value)?).ok()?)
            .copied()
        })?),
        "arith.cmpf" => K::FloatCompare(op.required("predicate", float_compare)?),
        "scf.for" => {
            if op.text("unsignedCmp").is_some() {
                return Err(unsupported("an unsigned comparison"));
            }
            K::For
        }
        "func.call" => K::Call {
            callee: op.required("callee", |s| text::symbol(s).map(str::to_owned))?,
        },
        "memref.subview" => subview(op, operands)?,
        "memref.reinterpret_cast" => {
            let offsets = op.required("static_offsets", text::ints)?;
            if operands.len() != 1 || offsets.len() != 1 {
                return Err(unsupported("a dynamic view"));
            }
            K::MemoryCast { offset: offsets[0] }
        }
        "memref.view" => K::ByteView,
        "vector.load" => K::VectorLoad {
            padding: 0,
            transfer: false,
        },
        "vector.store" => K::VectorStore { transfer: false },
        "vector.transfer_read" | "vector.transfer_write" => {
            let read = op.name == "vector.transfer_read";
            let (memory, vector) = match (operands, results) {
                ([Type::Memory(memory), ..], [vector]) if read => (memory, vector),
                ([vector, Type::Memory(memory), ..], []) if !read => (memory, vector),
                _ => return Err(unsupported("a transfer of this kind")),
            };
            let rank = memory.shape.len();
            let innermost: Spread = (rank - vector.shape().len().min(rank)..rank)
                .map(Some)
                .collect();
            if op.required("permutation_map", text::projection)? != (rank, innermost) {
                return Err(unsupported("a transfer that permutes or broadcasts"));
            }
            let segments = op.required("operandSegmentSizes", text::ints)?;
            if segments.last() != Some(&0) {
                return Err(unsupported("a masked transfer"));
            }
            if read {
                K::VectorLoad {
                    padding: 1,
                    transfer: true,
                }
            } else {
                K::VectorStore { transfer: true }
            }
        }
        "vector.extract" | "vector.insert" => {
            let position: Vec<Option<i64>> = op
                .required("static_position", text::ints)?
                .into_iter()
                .map(|at| (at != i64::MIN).then_some(at))
                .collect();
            if op.name == "vector.extract" {
                K::Extract { position }
            } else {
                K::Insert { position }
            }
        }
        "vector.extractelement" | "vector.insertelement" => {
            let dynamic = operands.len()
                == if op.name.ends_with("ertelement") {
                    3
                } else {
                    2
                };
            if !dynamic {
                return Err(unsupported("an element of a vector without dimensions"));
            }
            if op.name == "vector.extractelement" {
                K::Extract {
                    position: vec![None],
                }
            } else {
                K::Insert {
                    position: vec![None],
                }
            }
        }
        "vector.transpose" => K::Transpose {
            permutation: indices(op, "permutation")?,
        },
        "vector.contract" => K::Contract(contraction(op)?),
        "vector.multi_reduction" => K::Reduce {
            kind: op.required("kind", reduction)?,
            dimensions: indices(op, "reduction_dims")?,
        },
        "vector.reduction" => K::Reduce {
            kind: op.required("kind", reduction)?,
            dimensions: vec![0],
        },
        "vector.shuffle" => K::Shuffle {
            mask: op.required("mask", text::ints)?,
        },
        "vector.extract_strided_slice" | "vector.insert_strided_slice" => {
            let offsets = op.required("offsets", text::ints)?;
            if op
                .required("strides", text::ints)?
                .iter()
                .any(|stride| *stride != 1)
            {
                return Err(unsupported("a stride other than 1"));
            }
            if op.name == "vector.extract_strided_slice" {
                K::ExtractSlice { offsets }
            } else {
                K::InsertSlice { offsets }
            }
        }
        "aie.objectfifo.acquire" | "aie.objectfifo.release" => {
            op.only(&["objFifo_name", "port", "size"])?;
            let name = op.required("objFifo_name", |s| text::symbol(s).map(str::to_owned))?;
            let fifo = fifo_named(op, scope, &name)?;
            let port = match op.int("port")? {
                0 => Port::Produce,
                1 => Port::Consume,
                other => return Err(op.malformed(format!("port {other} is neither side"))),
            };
            let count = op.int("size")?;
            if op.name == "aie.objectfifo.acquire" {
                K::Acquire { fifo, port, count }
            } else {
                K::Release { fifo, port, count }
            }
        }
        "aie.objectfifo.subview.access" => {
            op.only(&["index"])?;
            K::Access {
                index: op.int("index")?,
            }
        }
        "aie.use_lock" => {
            op.only(&["action", "value", "blocking"])?;
            let action = op.int("action")?;
            K::UseLock {
                acquire: action != 1,
                exact: action == 0,
                value: op.optional("value", text::int)?.unwrap_or(1),
            }
        }
        _ => {
            return Err(ModuleError::UnknownOp {
                op: op.name.clone(),
                line: op.line,
                place: "in a core program",
            });
        }
    })
}

/// Ops that their name says all about.
fn simple(name: &str) -> Option<OpKind> {
    use FloatBinary as F;
    use IntBinary as I;
    use MathFunction as M;
    use OpKind as K;
    Some(match name {
        "arith.addi" => K::IntBinary(I::Add),
        "arith.subi" => K::IntBinary(I::Sub),
        "arith.muli" => K::IntBinary(I::Mul),
        "arith.divsi" => K::IntBinary(I::DivSigned),
        "arith.divui" => K::IntBinary(I::DivUnsigned),
        "arith.floordivsi" => K::IntBinary(I::FloorDivSigned),
        "arith.ceildivsi" => K::IntBinary(I::CeilDivSigned),
        "arith.remsi" => K::IntBinary(I::RemSigned),
        "arith.remui" => K::IntBinary(I::RemUnsigned),
        "arith.minsi" => K::IntBinary(I::MinSigned),
        "arith.minui" => K::IntBinary(I::MinUnsigned),
        "arith.maxsi" => K::IntBinary(I::MaxSigned),
        "arith.maxui" => K::IntBinary(I::MaxUnsigned),
        "arith.shli" => K::IntBinary(I::ShiftLeft),
        "arith.shrsi" => K::IntBinary(I::ShiftRightSigned),
        "arith.shrui" => K::IntBinary(I::ShiftRightUnsigned),
        "arith.andi" => K::IntBinary(I::And),
        "arith.ori" => K::IntBinary(I::Or),
        "arith.xori" => K::IntBinary(I::Xor),
        "arith.addf" => K::FloatBinary(F::Add),
        "arith.subf" => K::FloatBinary(F::Sub),
        "arith.mulf" => K::FloatBinary(F::Mul),
        "arith.divf" => K::FloatBinary(F::Div),
        "arith.maximumf" => K::FloatBinary(F::Maximum),
        "arith.minimumf" => K::FloatBinary(F::Minimum),
        "arith.maxnumf" => K::FloatBinary(F::MaxNum),
        "arith.minnumf" => K::FloatBinary(F::MinNum),
        "arith.negf" => K::Math(M::Negate),
        "math.absf" => K::Math(M::Abs),
        "math.absi" => K::AbsInt,
        "math.exp" => K::Math(M::Exp),
        "math.exp2" => K::Math(M::Exp2),
        "math.log" => K::Math(M::Log),
        "math.log2" => K::Math(M::Log2),
        "math.sqrt" => K::Math(M::Sqrt),
        "math.rsqrt" => K::Math(M::Rsqrt),
        "math.tanh" => K::Math(M::Tanh),
        "math.erf" => K::Math(M::Erf),
        "math.sin" => K::Math(M::Sin),
        "math.cos" => K::Math(M::Cos),
        "math.floor" => K::Math(M::Floor),
        "math.ceil" => K::Math(M::Ceil),
        "math.round" => K::Math(M::Round),
        "math.roundeven" => K::Math(M::RoundEven),
        "math.fma" | "vector.fma" => K::Fma,
        "arith.select" => K::Select,
        "arith.extsi" | "arith.index_cast" => K::ExtendSigned,
        "arith.extui" | "arith.index_castui" => K::ExtendUnsigned,
        "arith.trunci" => K::Truncate,
        "arith.sitofp" => K::IntToFloat { signed: true },
        "arith.uitofp" => K::IntToFloat { signed: false },
        "arith.fptosi" => K::FloatToInt { signed: true },
        "arith.fptoui" => K::FloatToInt { signed: false },
        "arith.extf" => K::ExtendFloat,
        "arith.truncf" => K::TruncateFloat,
        "arith.bitcast" | "vector.bitcast" => K::Bitcast,
        "scf.if" => K::If,
        "scf.while" => K::While,
        "scf.condition" => K::Condition,
        "scf.yield" => K::Yield,
        "func.return" => K::Return,
        "aie.end" => K::End,
        "memref.alloca" | "memref.alloc" => K::Allocate,
        "memref.load" => K::Load,
        "memref.store" => K::Store,
        "memref.cast" | "memref.collapse_shape" | "memref.expand_shape" => {
            K::MemoryCast { offset: 0 }
        }
        "memref.assume_alignment" => K::SameMemory,
        "vector.broadcast" | "vector.splat" => K::Broadcast,
        "vector.shape_cast" => K::ShapeCast,
        "vector.from_elements" => K::FromElements,
        "vector.interleave" => K::Interleave,
        "vector.deinterleave" => K::Deinterleave,
        "vector.step" => K::Step,
        _ => return None,
    })
}

fn indices(op: &Reader, key: &str) -> Result<Vec<usize>, ModuleError> {
    op.required(key, |value| {
        text::ints(value)?
            .into_iter()
            .map(|index| usize::try_from(index).ok())
            .collect()
    })
}

fn float_compare(value: &str) -> Option<FloatCompare> {
    // false, oeq ogt oge olt ole one ord, ueq ugt uge ult ule une uno, true
    const EQ: [bool; 16] = [
        false, true, false, true, false, true, false, true, true, false, true, false, true, false,
        false, true,
    ];
    const GREATER: [bool; 16] = [
        false, false, true, true, false, false, true, true, false, true, true, false, false, true,
        false, true,
    ];
    const LESS: [bool; 16] = [
        false, false, false, false, true, true, true, true, false, false, false, true, true, true,
        false, true,
    ];
    let at = usize::try_from(text::int(value)?)
        .ok()
        .filter(|at| *at < 16)?;
    Some(FloatCompare {
        equal: EQ[at],
        greater: GREATER[at],
        less: LESS[at],
        unordered: at >= 8,
    })
}

fn reduction(value: &str) -> Option<Reduction> {
    use Reduction::*;
    Some(
        match value.strip_prefix("#vector.kind<")?.strip_suffix('>')? {
            "add" => Add,
            "mul" => Mul,
            "minsi" => MinSigned,
            "minui" => MinUnsigned,
            "maxsi" => MaxSigned,
            "maxui" => MaxUnsigned,
            "and" => And,
            "or" => Or,
            "xor" => Xor,
            "maximumf" => Maximum,
            "minimumf" => Minimum,
            "maxnumf" => MaxNum,
            "minnumf" => MinNum,
            _ => return None,
        },
    )
}

fn contraction(op: &Reader) -> Result<Contraction, ModuleError> {
    let maps = op.required("indexing_maps", |value| {
        let inner = value.strip_prefix('[')?.strip_suffix(']')?;
        super::types::split(inner)
            .into_iter()
            .map(text::projection)
            .collect::<Option<Vec<_>>>()
    })?;
    let [left, right, accumulator] = maps.as_slice() else {
        return Err(op.malformed("needs three indexing maps"));
    };
    let plain = |(_, spread): &(usize, Spread)| {
        spread
            .iter()
            .copied()
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| op.malformed("an indexing map is no projection"))
    };
    Ok(Contraction {
        loops: left.0,
        left: plain(left)?,
        right: plain(right)?,
        accumulator: plain(accumulator)?,
        kind: op.required("kind", reduction)?,
    })
}

fn subview(op: &Reader, operands: &[Type]) -> Result<OpKind, ModuleError> {
    let Some(Type::Memory(MemRef { strides, .. })) = operands.first() else {
        return Err(op.malformed("is of no memory"));
    };
    let offsets = op.required("static_offsets", text::ints)?;
    let dynamic = offsets.iter().filter(|at| **at == i64::MIN).count();
    if operands.len() != 1 + dynamic || offsets.len() != strides.len() {
        return Err(op.malformed("sizes and strides must be constants"));
    }
    let mut offset = 0;
    let mut dynamic_strides = Vec::new();
    for (at, stride) in offsets.iter().zip(strides) {
        if *at == i64::MIN {
            dynamic_strides.push(*stride);
        } else {
            offset += at * stride;
        }
    }
    Ok(OpKind::Subview {
        offset,
        strides: dynamic_strides,
    })
}
