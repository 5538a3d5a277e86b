//! The CPU target: lowers a planned module to steps of the CPU driver.
//!
//! Every op becomes at most one step, with the op's meaning; buffers are the places that memory planning gave, weights and
//! caches become indices into the bundle's tables. Knows nothing of the driver's kernels beyond the working memory
//! that a step's contract promises them.

use gembin_bundle::cpu::{self, CpuStep, LinearStep, Residual};
use gembin_bundle::manifest::{Buffer, Phase, Program, RowSet, Span, Step, Work};
use gembin_ir::verify::Verified;
use gembin_ir::{Dim, Epilogue, Function, Module, Op, OpKind, ValueId, WeightId};
use gembin_passes::Scratch;

/// Working memory of the CPU's steps.
pub struct CpuScratch;

impl Scratch for CpuScratch {
    fn scratch_bytes(&self, module: &Module, function: &Function, op: &Op) -> u64 {
        match &op.kind {
            OpKind::Linear { .. } | OpKind::FusedLinear { .. } => {
                let x = function.value(op.operands[0]);
                let (rows, cols) = x.ty.as_matrix().expect("a verified linear reads a matrix");
                cpu::activation_bytes(module.bounds.rows(&function.name, rows), cols)
            }
            OpKind::Embed { .. }
            | OpKind::RmsNorm { .. }
            | OpKind::RopeTable { .. }
            | OpKind::Rope { .. }
            | OpKind::KvWrite { .. }
            | OpKind::Attention { .. }
            | OpKind::Gelu
            | OpKind::Mul
            | OpKind::Add
            | OpKind::Softcap { .. }
            | OpKind::SelectRows
            | OpKind::SelectIndex
            | OpKind::Columns { .. }
            | OpKind::RopeKv { .. } => 0,
        }
    }
}

/// Why a module cannot be lowered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// Memory planning has not run.
    #[error(
        "{function}: {value} has no place in the arena; memory planning must run before lowering"
    )]
    Unplanned {
        /// The function.
        function: String,
        /// The value.
        value: String,
    },
    /// An op that only exists before fusion.
    #[error("{function}: the cpu has no step for {op}; {hint}")]
    NoStep {
        /// The function.
        function: String,
        /// The op's name.
        op: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A function that is neither prefill nor decode.
    #[error("function {0} is neither prefill nor decode")]
    UnknownFunction(String),
}

/// Lowers every function of a planned module to a program.
///
/// `weight_index` gives a weight's place in the bundle's table; it is asked for weights that ops use directly.
///
/// # Errors
/// When the module is not planned, or holds an op this target has no step for.
pub fn lower(
    module: Verified<'_>,
    weight_index: &dyn Fn(WeightId) -> u32,
) -> Result<Vec<Program>, LowerError> {
    module
        .functions
        .iter()
        .map(|f| {
            Lowering {
                module: &module,
                function: f,
                weight_index,
            }
            .program()
        })
        .collect()
}

struct Lowering<'a> {
    module: &'a Module,
    function: &'a Function,
    weight_index: &'a dyn Fn(WeightId) -> u32,
}

impl Lowering<'_> {
    fn program(&self) -> Result<Program, LowerError> {
        let f = self.function;
        let b = self.module.bounds;
        let (phase, max_rows, max_outs) = match f.name.as_str() {
            "prefill" => (Phase::Prefill, b.chunk, b.outs),
            "decode" => (Phase::Decode, b.slots, b.slots),
            other => return Err(LowerError::UnknownFunction(other.to_owned())),
        };
        let mut steps = Vec::new();
        for op in &f.ops {
            if let Some(work) = self.step(op)? {
                steps.push(Step {
                    label: self.label(op),
                    work: Work::Cpu(work),
                });
            }
        }
        let logits = self.buffer(f.results[0])?;
        Ok(Program {
            name: f.name.clone(),
            phase,
            max_rows,
            max_outs,
            logits,
            candidates: None,
            steps,
        })
    }

    /// The step of an op; none for ops whose result drivers take from the call itself.
    fn step(&self, op: &Op) -> Result<Option<CpuStep>, LowerError> {
        let operand = |i: usize| self.buffer(op.operands[i]);
        let result = |i: usize| self.buffer(op.results[i]);
        let weight = |w: &WeightId| (self.weight_index)(*w);
        Ok(Some(match &op.kind {
            OpKind::Embed { table, scale } => CpuStep::Embed {
                table: weight(table),
                scale: *scale,
                out: result(0)?,
            },
            OpKind::RmsNorm {
                weight: w,
                eps,
                offset,
            } => CpuStep::RmsNorm {
                x: operand(0)?,
                weight: weight(w),
                eps: *eps,
                offset: *offset,
                out: result(0)?,
            },
            OpKind::RopeTable { theta, factor, .. } => CpuStep::RopeTable {
                theta: *theta,
                factor: *factor,
                out: result(0)?,
            },
            OpKind::Rope { .. } => CpuStep::Rope {
                x: operand(0)?,
                table: operand(1)?,
                out: result(0)?,
            },
            OpKind::KvWrite { cache } => CpuStep::KvWrite {
                k: operand(0)?,
                v: operand(1)?,
                cache: cache.index() as u32,
            },
            OpKind::Attention {
                cache,
                heads,
                scale,
                softcap,
            } => CpuStep::Attention {
                q: operand(0)?,
                cache: cache.index() as u32,
                heads: *heads,
                scale: *scale,
                softcap: *softcap,
                out: result(0)?,
            },
            OpKind::Gelu => CpuStep::Gelu {
                x: operand(0)?,
                out: result(0)?,
            },
            OpKind::Mul => CpuStep::Mul {
                a: operand(0)?,
                b: operand(1)?,
                out: result(0)?,
            },
            OpKind::Add => CpuStep::Add {
                a: operand(0)?,
                b: operand(1)?,
                out: result(0)?,
            },
            OpKind::Softcap { cap } => CpuStep::Softcap {
                x: operand(0)?,
                cap: *cap,
                out: result(0)?,
            },
            OpKind::SelectRows => CpuStep::SelectRows {
                x: operand(0)?,
                out: result(0)?,
            },
            // Positions and slots of the selected rows: a step on `?out` rows takes them from the call.
            OpKind::SelectIndex => return Ok(None),
            OpKind::Columns { start, .. } => CpuStep::Columns {
                x: operand(0)?,
                start: *start,
                out: result(0)?,
            },
            OpKind::FusedLinear {
                weight: w,
                post_norm,
                norm,
                eps,
                epilogue,
            } => {
                let (residual, out) = match (op.operands.get(1), op.results.as_slice()) {
                    (Some(from), [sum, y]) => (
                        Some(Residual {
                            from: self.buffer(*from)?,
                            to: self.buffer(*sum)?,
                        }),
                        *y,
                    ),
                    _ => (None, op.results[0]),
                };
                CpuStep::Linear(LinearStep {
                    x: operand(0)?,
                    post_norm: post_norm.as_ref().map(weight),
                    residual,
                    norm: norm.as_ref().map(weight),
                    eps: *eps,
                    weight: weight(w),
                    epilogue: match epilogue {
                        Epilogue::None => cpu::Epilogue::None,
                        Epilogue::Geglu { .. } => cpu::Epilogue::Geglu,
                        Epilogue::Softcap { cap } => cpu::Epilogue::Softcap { cap: *cap },
                    },
                    out: self.buffer(out)?,
                    scratch: self.scratch(op)?,
                })
            }
            OpKind::RopeKv {
                cache,
                q_heads,
                q_norm,
                k_norm,
                eps,
            } => CpuStep::RopeKv {
                qkv: operand(0)?,
                table: operand(1)?,
                cache: cache.index() as u32,
                q_heads: *q_heads,
                q_norm: q_norm.as_ref().map(weight),
                k_norm: k_norm.as_ref().map(weight),
                eps: *eps,
                out: result(0)?,
            },
            OpKind::Linear { .. } => {
                return Err(LowerError::NoStep {
                    function: self.function.name.clone(),
                    op: op.kind.name(),
                    hint: "run fusion, which turns every linear into a fused_linear",
                });
            }
        }))
    }

    fn buffer(&self, value: ValueId) -> Result<Buffer, LowerError> {
        let v = self.function.value(value);
        let unplanned = || LowerError::Unplanned {
            function: self.function.name.clone(),
            value: value.to_string(),
        };
        let place = v.place.ok_or_else(unplanned)?;
        let (rows, cols) = v.ty.as_matrix().ok_or_else(unplanned)?;
        let rows = match rows {
            Dim::Out => RowSet::Out,
            Dim::Seq => RowSet::Seq,
            Dim::Const(_) => return Err(unplanned()),
        };
        Ok(Buffer {
            offset: place.offset,
            rows,
            cols,
        })
    }

    fn scratch(&self, op: &Op) -> Result<Span, LowerError> {
        let place = op.scratch.ok_or_else(|| LowerError::Unplanned {
            function: self.function.name.clone(),
            value: format!("the scratch of {}", self.label(op)),
        })?;
        Ok(Span {
            offset: place.offset,
            bytes: place.bytes,
        })
    }

    /// A name for people: the weight or cache the op is about, else the op.
    fn label(&self, op: &Op) -> String {
        let weight = op
            .kind
            .weights()
            .first()
            .map(|w| &self.module.weight(*w).name);
        let cache = op.kind.cache().map(|c| &self.module.cache(c).name);
        match cache.or(weight) {
            Some(name) => format!("{} {name}", op.kind.name()),
            None => op.kind.name().to_owned(),
        }
    }
}
