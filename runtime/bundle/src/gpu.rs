//! Steps of the Vulkan driver: dispatches of compute kernels over spans of the arena, weights and caches.
//!
//! A kernel is SPIR-V in the manifest, in one or more variants; the driver takes the first variant whose needs the
//! device meets. Variants of a kernel read and write the same bytes in the same layouts; they differ in how. With one
//! exception: activations that one kernel prepares and another multiplies may lie there in one of several forms
//! ([`Activations`]). The driver chooses one form for all kernels of a plan, and then the first variants that have it.
//!
//! Interface of every kernel: entry point `main`; descriptor set 0 with storage buffers at bindings `0..bindings.len()`
//! in the order of [`GpuStep::bindings`]; push constants: the words of [`GpuStep::immediates`], from byte 0 on. A
//! workgroup computes a tile of the step's work, see [`GpuStep::work`].
//!
//! [`Resource::Call`] is how a kernel learns of the call: 32-bit words
//!
//! ```text
//! 0: rows of the call (seq)   1: rows asked for (outs)   2, 3: zero
//! 4 + 4 r: token of row r   5 + 4 r: its position   6 + 4 r: its slot   7 + 4 r: outs[r], the row asked for r-th
//! ```
//!
//! Rows of a prefill are of one sequence, as [`crate::manifest::Phase::Prefill`] says: kernels may take the slot of one
//! for that of its neighbours. Rows of a decode are of different ones.
//!
//! A step on [`RowSet::Out`] works on rows `o` below `outs`, whose token, position and slot are those of row `outs[o]`.
//!
//! The bounds proof has three parts. The kernel's author states in [`Kernel::bindings`] how many bytes each binding
//! needs, given the shapes the kernel was made for. [`crate::check`] proves that every step binds at least that, inside
//! the arena's values, one weight plane or one cache of exactly that size, for the program's largest row counts. The
//! driver makes a descriptor's range exactly the bound span, and has the GPU hold accesses to it where it can. That the
//! code keeps to its statement is the compiler's word, for a bundle that was tampered with nobody's: hence the last.

use crate::cpu::{CacheIdx, WeightIdx};
use crate::manifest::{Buffer, RowSet, Span};
use serde::{Deserialize, Serialize};

/// Index into [`crate::manifest::Manifest::kernels`].
pub type KernelIdx = u32;

/// Most bindings of a kernel.
pub const MAX_BINDINGS: usize = 16;
/// Most push constant words: 128 bytes, what every Vulkan device has.
pub const MAX_IMMEDIATES: usize = 32;
/// Most workgroups in a dimension of a dispatch that every Vulkan device takes.
pub const MAX_GROUPS: u32 = 65_535;
/// Bytes that every Vulkan device can bind as one storage buffer. Weight planes are bound in pieces below it.
pub const MIN_STORAGE_RANGE: u64 = 128 << 20;
/// Alignment of a piece of a weight plane: the strictest `minStorageBufferOffsetAlignment`.
pub const PIECE_ALIGN: u64 = 256;
/// First word of the rows in [`Resource::Call`].
pub const CALL_HEADER_WORDS: u64 = 4;
/// Words of a row in [`Resource::Call`].
pub const CALL_ROW_WORDS: u64 = 4;

/// A compute kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// What it is, with the shapes it was made for: `gemv q4 1152x6912 geglu`. Unique.
    pub name: String,
    /// What it touches, in the order of its bindings.
    pub bindings: Vec<BindingNeed>,
    /// Words of push constants it reads.
    pub immediates: u32,
    /// Ways to do it, best first.
    pub variants: Vec<Variant>,
}

/// What a kernel does with a binding, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BindingNeed {
    /// Read or written.
    pub access: Access,
    /// Bytes it touches whatever the call.
    pub fixed_bytes: u64,
    /// Bytes it touches for each row of a buffer in the arena.
    pub row_bytes: u64,
}

/// What a kernel does with a binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes every element that a later step reads; reads back nothing that it did not write.
    Write,
    /// Writes some of it and reads what earlier calls wrote: caches.
    ReadWrite,
}

/// One compilation of a kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// `dot4`, `wmma16`, `portable`: unique in the kernel.
    pub name: String,
    /// What the device must have.
    pub needs: Needs,
    /// SPIR-V.
    pub code: Vec<u32>,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// Subgroup size it must run with; `None`: any.
    pub subgroup: Option<u32>,
    /// Bytes of workgroup memory it declares.
    pub workgroup_bytes: u32,
    /// Items of [`GpuStep::work`] that one workgroup does, in each dimension.
    pub tile: [u32; 3],
    /// What it does with activations that have one of several forms. Of a kernel, all variants prepare, all read, or
    /// none does either.
    pub activations: Option<Activations>,
}

/// What a variant does with activations whose form is the driver's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Activations {
    /// Writes them so.
    Prepares(Form),
    /// Reads them so.
    Reads(Form),
}

impl Activations {
    /// The form.
    pub fn form(self) -> Form {
        match self {
            Activations::Prepares(form) | Activations::Reads(form) => form,
        }
    }
}

/// A form of activations.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Form {
    /// f16, with a scale a row.
    #[default]
    F16,
    /// int8, with a scale a group.
    Int8,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 2] = [Form::F16, Form::Int8];
}

/// What a variant needs of a device beyond Vulkan 1.3.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Needs {
    /// `shaderIntegerDotProduct`, with hardware behind it (4x8-bit packed signed dot products accelerated).
    pub int_dot: bool,
    /// `shaderFloat16` and `storageBuffer16BitAccess`.
    pub f16: bool,
    /// Cooperative matrices.
    pub matrix: Option<MatrixShape>,
}

/// A cooperative matrix multiply at subgroup scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MatrixShape {
    /// f16 x f16 + f32, 16 x 16 x 16.
    F16x16,
    /// f16 x f16 + f32, 8 x 8 x 8.
    F16x8,
    /// s8 x s8 + s32, 16 x 16 x 16.
    I8x16,
    /// s8 x s8 + s32, 8 x 8 x 8.
    I8x8,
    /// s8 x s8 + s32, 16 x 16 with 32 columns of the one by 32 rows of the other.
    I8x16x32,
}

/// One dispatch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GpuStep {
    /// The kernel.
    pub kernel: KernelIdx,
    /// What it works on.
    pub bindings: Vec<Resource>,
    /// Push constants.
    pub immediates: Vec<u32>,
    /// Items in each dimension; a dispatch has `ceil(items / tile)` workgroups, none if a dimension is empty.
    pub work: [Extent; 3],
    /// Whether everything dispatched before, in this program, must be finished and visible first.
    pub barrier: bool,
}

/// Items of work in a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Extent {
    /// Always as many.
    Fixed(u32),
    /// As many as the call has rows of the set.
    Rows(RowSet),
}

/// A buffer that a kernel works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Resource {
    /// A matrix of 32-bit words in the arena, `rows` x `cols`.
    Value(Buffer),
    /// A piece of a weight's data plane.
    Data {
        /// The weight.
        weight: WeightIdx,
        /// Bytes of the plane; the offset, from the plane's start, is a multiple of [`PIECE_ALIGN`].
        piece: Span,
        /// Rows of this piece that a call reads: all, or one a token (embedding tables).
        gathered: bool,
    },
    /// A piece of a weight's scale plane.
    Scales {
        /// The weight.
        weight: WeightIdx,
        /// Bytes of the plane, as for the data.
        piece: Span,
        /// As for the data.
        gathered: bool,
    },
    /// A cache's keys, `[slots][kv_heads][capacity][head_dim]`.
    Keys(CacheIdx),
    /// A cache's values, the same shape.
    Values(CacheIdx),
    /// The call's rows, see the module's words.
    Call,
}

/// What dispatches since the last barrier have touched: where a barrier must be.
#[derive(Default)]
pub struct Hazards(Vec<(Access, Touch)>);

/// Memory that dispatches may share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// Bytes of the arena's values.
    Bytes(Span),
    /// Keys of a cache.
    Keys(CacheIdx),
    /// Values of a cache.
    Values(CacheIdx),
}

impl Touch {
    fn meets(self, other: Touch) -> bool {
        match (self, other) {
            (Touch::Bytes(a), Touch::Bytes(b)) => a.overlaps(b),
            (Touch::Keys(a), Touch::Keys(b)) | (Touch::Values(a), Touch::Values(b)) => a == b,
            (Touch::Bytes(_) | Touch::Keys(_) | Touch::Values(_), _) => false,
        }
    }
}

impl Hazards {
    /// Whether a dispatch with these accesses must wait for one noted before: one of the two writes what both touch.
    pub fn conflicts(&self, touches: &[(Access, Touch)]) -> bool {
        touches.iter().any(|(access, touch)| {
            self.0.iter().any(|(earlier, other)| {
                (*access != Access::Read || *earlier != Access::Read) && touch.meets(*other)
            })
        })
    }

    /// Notes a dispatch.
    pub fn note(&mut self, touches: &[(Access, Touch)]) {
        self.0.extend_from_slice(touches);
    }
}
