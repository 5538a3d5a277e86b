//! The module: weights, caches, functions, and what planning adds to them.

use crate::entity::{CacheId, ValueId, WeightId};
use crate::ops::OpKind;
use crate::types::{DType, Dim, TensorType};

/// Upper bounds of the symbolic dimensions; every buffer is sized with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DimBounds {
    /// `?seq` of a prefill call: tokens of one chunk.
    pub chunk: u32,
    /// `?out` of a prefill call: rows whose logits one call can return.
    pub outs: u32,
    /// Positions a sequence can have: prompt and generated tokens together.
    pub context: u32,
    /// Sequences held at once; `?seq` of a decode call (a row a sequence).
    pub slots: u32,
}

impl DimBounds {
    /// The most rows that `dim` stands for in a call of that function. `prefill` takes chunks, `decode` a row a slot;
    /// any other function may be called either way.
    pub fn rows(&self, function: &str, dim: Dim) -> u32 {
        match (dim, function) {
            (Dim::Const(n), _) => n,
            (Dim::Seq, "prefill") => self.chunk,
            (Dim::Seq, "decode") => self.slots,
            (Dim::Seq, _) => self.chunk.max(self.slots),
            (Dim::Out, _) => self.outs,
        }
    }

    /// Bytes of a value of type `ty` in the arena, sized for the largest call of `function`; none on overflow.
    pub fn value_bytes(&self, function: &str, ty: &TensorType) -> Option<u64> {
        let bytes = match ty.dtype {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::Q8 | DType::Q4 => return None,
        };
        ty.shape.iter().try_fold(bytes, |bytes: u64, dim| {
            bytes.checked_mul(u64::from(self.rows(function, *dim)))
        })
    }
}

/// What a compiler stage holds: everything that is needed to emit a bundle, bar the weights' bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Module {
    /// A label for people (the model's name); no meaning.
    pub name: String,
    /// Bounds of `?seq`, `?out` and of the caches.
    pub bounds: DimBounds,
    /// Constant tensors, in order of declaration.
    pub weights: Vec<Weight>,
    /// KV caches, in order of declaration.
    pub caches: Vec<Cache>,
    /// `prefill` and `decode`.
    pub functions: Vec<Function>,
    /// Size of the arena, set by memory planning: scratch for values first, then the caches.
    pub arena_bytes: Option<u64>,
}

/// A constant tensor.
#[derive(Clone, PartialEq, Debug)]
pub struct Weight {
    /// Unique in the module, without the `@`.
    pub name: String,
    /// Storage format. The interpreter and all targets compute with the values this format can hold.
    pub dtype: DType,
    /// `[columns]` for a vector, `[rows, columns]` for a matrix (rows = outputs, columns = reduction).
    pub shape: Vec<u32>,
    /// Where its values come from.
    pub expr: WeightExpr,
    /// How its bytes are arranged.
    pub layout: Layout,
}

impl Weight {
    /// `(rows, columns)`; a vector has one row.
    pub fn rows_cols(&self) -> (u32, u32) {
        match self.shape.as_slice() {
            [cols] => (1, *cols),
            [rows, cols] => (*rows, *cols),
            other => panic!(
                "weights have one or two dimensions, @{} has {}",
                self.name,
                other.len()
            ),
        }
    }
}

/// A weight's values as a function of the checkpoint's tensors, evaluated row by row when the bundle is packed.
#[derive(Clone, PartialEq, Debug)]
pub enum WeightExpr {
    /// The checkpoint's tensor of that name.
    Tensor(String),
    /// Rows of the first, then rows of the next, ...
    ConcatRows(Vec<WeightId>),
    /// Blocks of `block` rows of the two in turn (`a`'s first); the last blocks are padded with zero rows, so the
    /// result has `2 * block * ceil(rows / block)` rows.
    InterleaveRows {
        /// First of each pair of blocks.
        a: WeightId,
        /// Second of each pair of blocks.
        b: WeightId,
        /// Rows of a block.
        block: u32,
    },
    /// Each value plus a constant: the `1 +` of Gemma's norms, folded.
    Offset {
        /// The weight added to.
        of: WeightId,
        /// The constant.
        add: f32,
    },
}

/// Arrangement of a weight's bytes in the bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// As in a checkpoint: rows one after the other.
    RowMajor,
    /// Blocks of 16 rows by one 32-bit word of consecutive columns, `[rows/16][words][16]`: a 64-byte load is the
    /// same word of 16 rows. Group scales lie in a plane of their own, `[rows/16][groups][16]`.
    Rows16,
}

/// A KV cache: keys and values of one attention layer, for every slot, living across calls.
#[derive(Clone, PartialEq, Debug)]
pub struct Cache {
    /// Unique in the module, without the `@`.
    pub name: String,
    /// Element type of keys and values: f32 or f16.
    pub dtype: DType,
    /// Heads.
    pub kv_heads: u32,
    /// Elements of a head's key and of its value.
    pub head_dim: u32,
    /// The layer's sliding window in tokens (a query sees itself and `window - 1` before it), if it has one.
    pub window: Option<u32>,
    /// Positions held a slot, set by memory planning; position `p` lies in row `p % capacity`.
    pub capacity: Option<u32>,
    /// Bytes in the arena, set by memory planning: keys `[slots][kv_heads][capacity][head_dim]`, then values alike.
    pub place: Option<Place>,
}

/// A byte range of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

/// A function: parameters, ops in order, results.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// `prefill` or `decode`.
    pub name: String,
    /// All values, parameters included.
    pub values: Vec<Value>,
    /// Parameters, in order: `ids, pos, slot` (i32[?seq]), and for prefill `out` (i32[?out]).
    pub params: Vec<ValueId>,
    /// In order of execution. Ops that touch a cache keep their order.
    pub ops: Vec<Op>,
    /// Values returned.
    pub results: Vec<ValueId>,
}

/// A value of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    /// Its type.
    pub ty: TensorType,
    /// Its bytes in the arena while it lives, set by memory planning (parameters have none).
    pub place: Option<Place>,
}

/// One op of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    /// What it does, with its attributes.
    pub kind: OpKind,
    /// Values it reads.
    pub operands: Vec<ValueId>,
    /// Values it defines.
    pub results: Vec<ValueId>,
    /// Working memory that the op's target asked for, set by memory planning.
    pub scratch: Option<Place>,
}

impl Module {
    /// An empty module.
    pub fn new(name: impl Into<String>, bounds: DimBounds) -> Self {
        Self {
            name: name.into(),
            bounds,
            weights: Vec::new(),
            caches: Vec::new(),
            functions: Vec::new(),
            arena_bytes: None,
        }
    }

    /// Declares a weight; the name must be new.
    pub fn add_weight(&mut self, weight: Weight) -> WeightId {
        self.weights.push(weight);
        WeightId::new(self.weights.len() - 1)
    }

    /// Declares a cache; the name must be new.
    pub fn add_cache(&mut self, cache: Cache) -> CacheId {
        self.caches.push(cache);
        CacheId::new(self.caches.len() - 1)
    }

    /// The weight `id`.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.index()]
    }

    /// The cache `id`.
    pub fn cache(&self, id: CacheId) -> &Cache {
        &self.caches[id.index()]
    }

    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }
}

impl Cache {
    /// Bytes of keys and values of all slots for `capacity` positions a slot; none on overflow.
    pub fn bytes(&self, slots: u32, capacity: u32) -> Option<u64> {
        let element_bytes: u64 = match self.dtype {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::Q8 | DType::Q4 => return None,
        };
        [slots, self.kv_heads, capacity, self.head_dim]
            .into_iter()
            .try_fold(2 * element_bytes, |bytes, n| {
                bytes.checked_mul(u64::from(n))
            })
    }

    /// Positions a slot must hold so that no query of a call misses one it may see: the window as the first query of
    /// the largest chunk sees it, and the chunk itself, which is stored before it is read.
    pub fn capacity_needed(&self, bounds: &DimBounds) -> u32 {
        match self.window {
            Some(window) => window
                .saturating_add(bounds.chunk.saturating_sub(1))
                .min(bounds.context),
            None => bounds.context,
        }
    }
}

impl Function {
    /// Drops entries of the value table that nothing defines, and numbers the others in order of definition: what a
    /// pass that removed or reordered ops does last, so that its text reads well.
    pub fn compact(&mut self) {
        let mut order: Vec<ValueId> = self.params.clone();
        order.extend(self.ops.iter().flat_map(|op| op.results.iter().copied()));
        let mut new_ids = vec![None; self.values.len()];
        let mut values = Vec::with_capacity(order.len());
        for id in order {
            new_ids[id.index()].get_or_insert_with(|| {
                values.push(self.values[id.index()].clone());
                ValueId::new(values.len() - 1)
            });
        }
        // A value that is used but never defined keeps its entry, for the verifier to complain about.
        let mut rename = |id: &mut ValueId| {
            *id = *new_ids[id.index()].get_or_insert_with(|| {
                values.push(self.values[id.index()].clone());
                ValueId::new(values.len() - 1)
            });
        };
        self.params.iter_mut().for_each(&mut rename);
        for op in &mut self.ops {
            op.operands.iter_mut().for_each(&mut rename);
            op.results.iter_mut().for_each(&mut rename);
        }
        self.results.iter_mut().for_each(&mut rename);
        self.values = values;
    }

    /// Index of the last op that reads each value, or that defines it if none does. Results of the function, and
    /// values that no op touches, have `usize::MAX`: they outlive all ops.
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![usize::MAX; self.values.len()];
        for (index, op) in self.ops.iter().enumerate() {
            for id in op.operands.iter().chain(&op.results) {
                last[id.index()] = index;
            }
        }
        for id in &self.results {
            last[id.index()] = usize::MAX;
        }
        last
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }
}
