//! Linears over many rows: dispatches of a matrix multiplication, its kernels and how they are tiled.
//!
//! `y[r][c] = sum_k a[r][k] w[c][k]` with f32 sums. A workgroup makes a tile of results: in steps over `k` it brings a
//! tile of the activations and one of the weights into workgroup memory, while it multiplies those of the step before.
//! Variants, best first:
//!
//! - `matrix16`: cooperative matrices of f16, 16 x 16 x 16, subgroups of 32;
//! - `matrix8`: the same of 8 x 8 x 8, subgroups of 8;
//! - `int8-matrix16x32`, `int8-matrix16`, `int8-matrix8`: for quantized weights, cooperative matrices of int8 with
//!   sums of int32, subgroups of the same sizes; see `gemm/int8.rs`;
//! - `portable`: f32 arithmetic, any device.
//!
//! Where it is not of int8, activations are f16 with a scale a row (`F16Activations`), and weights of every format
//! become f16 on the matrix units: that loses less than the activations lose. Int8 comes behind f16 because of the
//! Radeon 780M, whose units take as long for both: the scales of groups cost more than it saves.

use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Constants, Spec, VariantSpec};
use crate::linear::activations::F16Activations;
use crate::lowering::{Lowering, pieces};
use gembin_bundle::cpu::{Epilogue, LinearStep};
use gembin_bundle::gpu::{
    Access, Activations, BindingNeed, Extent, Form, MatrixShape, Needs, Resource,
};
use gembin_bundle::layout::{self, BLOCK_ROWS, Format};
use gembin_bundle::manifest::RowSet;

/// Columns that one of the weights' words and one of the activations' words have in common times their numbers.
const OCTET: u32 = 8;
/// Columns of a strip of sums on its way out: a pair of gate and up blocks.
const STRIP: u32 = 32;
/// Rows and columns of the portable variant's tile.
const PORTABLE_TILE: u32 = 64;
/// Workgroups that keep a device busy: two for each of a large device's hundred cores.
const BUSY_GROUPS: u32 = 200;

/// A multiplication that a kernel is made for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GemmShape {
    /// Most rows of activations.
    pub max_rows: u32,
    /// What rows they are.
    pub rows: RowSet,
    /// Reduction length.
    pub k: u32,
    /// Rows of the weight, or of a piece of it.
    pub n: u32,
    /// Their format.
    pub format: Format,
    /// What happens to the sums.
    pub epilogue: Epilogue,
    /// Columns of the result that come from these rows of the weight.
    pub out_cols: u32,
    /// Columns of a row of the result.
    pub y_cols: u32,
}

/// How a variant on matrix units is tiled. Sizes are powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GemmTuning {
    /// Rows of activations of a workgroup.
    pub tile_m: u32,
    /// Rows of the weight of a workgroup, a multiple of 32.
    pub tile_n: u32,
    /// Columns of a step: 32, 64, or 128 where the activations' padded columns are a multiple of it.
    pub tile_k: u32,
    /// Rows of activations of a subgroup.
    pub subgroup_m: u32,
    /// Rows of the weight of a subgroup, a multiple of 32.
    pub subgroup_n: u32,
    /// Tiles in workgroup memory: 1, or 2 with one barrier less a step.
    pub stages: u32,
    /// Subgroups that share out the columns of a step among them, for the same results: 1, 2 or 4.
    pub slices: u32,
}

impl GemmTuning {
    /// Tiling for 16 x 16 x 16 matrices in subgroups of 32: large tiles, which read less, where there are enough.
    pub fn matrix16(max_rows: u32, n: u32) -> Self {
        let large = Self {
            tile_m: 128,
            tile_n: 128,
            tile_k: 32,
            subgroup_m: 64,
            subgroup_n: 64,
            stages: 1,
            slices: 1,
        };
        let small = Self {
            tile_m: 64,
            tile_n: 64,
            tile_k: 64,
            subgroup_m: 32,
            subgroup_n: 32,
            stages: 1,
            slices: 1,
        };
        let groups = max_rows.div_ceil(large.tile_m) * n.div_ceil(large.tile_n);
        if groups >= BUSY_GROUPS { large } else { small }
    }

    /// As [`GemmTuning::matrix16`] for int8: subgroups of fewer results, since scales take registers too.
    pub fn int8_matrix16(max_rows: u32, n: u32) -> Self {
        let f16 = Self::matrix16(max_rows, n);
        Self {
            tile_k: 64,
            subgroup_m: 32,
            ..f16
        }
    }

    /// Tiling for 8 x 8 x 8 matrices in subgroups of 8: small, since the one known device with them is a processor whose
    /// compiler takes seconds for larger ones.
    pub fn matrix8() -> Self {
        Self {
            tile_m: 16,
            tile_n: 32,
            tile_k: 32,
            subgroup_m: 8,
            subgroup_n: 32,
            stages: 1,
            slices: 1,
        }
    }

    /// Subgroups of a workgroup.
    fn subgroups(self) -> u32 {
        (self.tile_m / self.subgroup_m) * (self.tile_n / self.subgroup_n) * self.slices
    }

    /// Elements of 16 bytes of the tiles in workgroup memory, of so many columns each.
    fn tile_elements(self, columns: u32) -> u32 {
        self.stages * (self.tile_m + self.tile_n) * (self.tile_k / columns + 1)
    }

    /// Elements of 16 bytes of all sums in workgroup memory.
    fn sum_elements(self) -> u32 {
        self.slices * self.tile_m * (self.tile_n / 4 + 1)
    }

    /// Whether all sums go through workgroup memory at once: where slices meet, and where it takes no more memory.
    fn whole_sums(self, columns: u32) -> bool {
        self.slices > 1 || self.sum_elements() <= self.tile_elements(columns)
    }

    /// Elements of 16 bytes in workgroup memory: the tiles, or the sums on their way out if they are larger.
    fn elements(self, mat: u32, columns: u32) -> u32 {
        let sums = match self.whole_sums(columns) {
            true => self.sum_elements(),
            false => self.subgroups() * mat * (STRIP / 4 + 1),
        };
        self.tile_elements(columns).max(sums)
    }
}

/// The kernel of a multiplication. Bindings: call, activations, their scales, weights, scales if quantized, result.
pub fn spec(shape: &GemmShape) -> Spec {
    let matrix16 = GemmTuning::matrix16(shape.max_rows, shape.n);
    let mut variants = vec![
        matrix_variant(shape, MatrixShape::F16x16, matrix16),
        matrix_variant(shape, MatrixShape::F16x8, GemmTuning::matrix8()),
    ];
    if shape.format.is_quantized() {
        let int8 = GemmTuning::int8_matrix16(shape.max_rows, shape.n);
        variants.extend([
            matrix_variant(shape, MatrixShape::I8x16x32, int8),
            matrix_variant(shape, MatrixShape::I8x16, int8),
            matrix_variant(shape, MatrixShape::I8x8, GemmTuning::matrix8()),
        ]);
    }
    variants.push(portable_variant(shape));
    Spec {
        name: name(shape),
        bindings: bindings(shape),
        variants,
    }
}

/// The name says all that the kernel is made for; the most rows only decide the tiling.
fn name(shape: &GemmShape) -> String {
    let GemmShape {
        k,
        n,
        out_cols,
        y_cols,
        ..
    } = shape;
    let epilogue = match shape.epilogue {
        Epilogue::None => String::new(),
        Epilogue::Geglu => " geglu".into(),
        Epilogue::Softcap { cap } => format!(" softcap {cap:?}"),
    };
    let rows = match shape.rows {
        RowSet::Seq => "",
        RowSet::Out => " out",
    };
    format!(
        "gemm {} {}x{n}x{k} to {out_cols} of {y_cols}{epilogue}{rows}",
        shape.format.name(),
        shape.max_rows,
    )
}

fn bindings(shape: &GemmShape) -> Vec<BindingNeed> {
    let read = |fixed_bytes, row_bytes| BindingNeed {
        access: Access::Read,
        fixed_bytes,
        row_bytes,
    };
    let call = gembin_bundle::gpu::CALL_HEADER_WORDS * 4;
    let mut bindings = vec![
        read(call, 0),
        read(0, u64::from(padded_k(shape.k)) * 2),
        read(0, 4),
        read(layout::data_bytes(shape.format, shape.n, shape.k), 0),
    ];
    if shape.format.is_quantized() {
        bindings.push(read(layout::scale_bytes(shape.format, shape.n, shape.k), 0));
    }
    bindings.push(BindingNeed {
        access: Access::Write,
        fixed_bytes: 0,
        row_bytes: u64::from(shape.y_cols) * 4,
    });
    bindings
}

fn padded_k(k: u32) -> u32 {
    k.next_multiple_of(crate::linear::activations::PAD)
}

/// Constants that all templates have in common.
fn shape_constants(shape: &GemmShape) -> Constants {
    let (epilogue, cap) = match shape.epilogue {
        Epilogue::None => ("none", 0.0),
        Epilogue::Geglu => ("geglu", 0.0),
        Epilogue::Softcap { cap } => ("softcap", cap),
    };
    constants! {
        format: shape.format.name(),
        values_per_word: shape.format.values_per_word(),
        words: shape.format.words(shape.k),
        groups: layout::groups(shape.k),
        blocks: layout::row_blocks(shape.n),
        k: shape.k,
        padded_k: padded_k(shape.k),
        epilogue: epilogue,
        cap: cap,
        out_cols: shape.out_cols,
        y_cols: shape.y_cols,
        rows: crate::rows::set_name(shape.rows),
    }
}

/// A variant on matrix units: of f16, or of int8 for a quantized format.
///
/// # Panics
/// When the tuning breaks its fields' rules, or int8 meets a format that is not quantized.
pub fn matrix_variant(shape: &GemmShape, matrix: MatrixShape, tuning: GemmTuning) -> VariantSpec {
    let units = Units::of(matrix);
    let mut constants = shape_constants(shape);
    constants.extend(tiling_constants(shape, units, tuning));
    if units.is_int8() {
        constants.extend(int8::constants(shape, units, tuning));
    } else {
        constants.extend(f16_constants(units, tuning));
    }
    VariantSpec {
        name: units.name,
        template: if units.is_int8() {
            "gemm_int8"
        } else {
            "gemm_matrix"
        },
        constants,
        needs: Needs {
            f16: !units.is_int8(),
            matrix: Some(matrix),
            ..Needs::default()
        },
        subgroup: Some(units.subgroup),
        tile: [tuning.tile_m, tuning.tile_n, 1],
        activations: activations(
            shape,
            if units.is_int8() {
                Form::Int8
            } else {
                Form::F16
            },
        ),
    }
}

/// The form that a variant reads, of the two that there are for quantized weights.
fn activations(shape: &GemmShape, form: Form) -> Option<Activations> {
    let has_choice = shape.format.is_quantized();
    has_choice.then_some(Activations::Reads(form))
}

/// What variants on matrix units are made for.
#[derive(Clone, Copy)]
struct Units {
    name: &'static str,
    /// Rows and columns of a matrix of sums.
    mat: u32,
    /// Columns of a matrix of int8 activations, if it is of int8.
    int8_columns: Option<u32>,
    subgroup: u32,
}

impl Units {
    fn of(matrix: MatrixShape) -> Self {
        let (name, mat, int8_columns, subgroup) = match matrix {
            MatrixShape::F16x16 => ("matrix16", 16, None, 32),
            MatrixShape::F16x8 => ("matrix8", 8, None, 8),
            MatrixShape::I8x16 => ("int8-matrix16", 16, Some(16), 32),
            MatrixShape::I8x8 => ("int8-matrix8", 8, Some(8), 8),
            MatrixShape::I8x16x32 => ("int8-matrix16x32", 16, Some(32), 32),
        };
        Self {
            name,
            mat,
            int8_columns,
            subgroup,
        }
    }

    fn is_int8(self) -> bool {
        self.int8_columns.is_some()
    }
}

/// Constants that the templates on matrix units have in common.
fn tiling_constants(shape: &GemmShape, units: Units, tuning: GemmTuning) -> Constants {
    let GemmTuning {
        tile_m,
        tile_n,
        tile_k,
        subgroup_m,
        subgroup_n,
        stages,
        slices,
    } = tuning;
    let (mat, subgroup) = (units.mat, units.subgroup);
    assert!(tile_m % subgroup_m == 0 && subgroup_m % mat == 0);
    assert!(tile_n % subgroup_n == 0 && subgroup_n % STRIP == 0);
    assert!(padded_k(shape.k).is_multiple_of(tile_k) && tile_k.is_multiple_of(slices * mat));
    assert!(stages == 1 || stages == 2);
    let steps = shape.k.div_ceil(tile_k);
    let padded_words = shape.format.words(shape.k) * u64::from(shape.format.values_per_word());
    constants! {
        mat: mat,
        subgroup_size: subgroup,
        tile_m: tile_m,
        tile_n: tile_n,
        tile_k: tile_k,
        subgroup_m: subgroup_m,
        subgroup_n: subgroup_n,
        stages: stages,
        slices: slices,
        strip: STRIP,
        threads: tuning.subgroups() * subgroup,
        steps: steps,
        k_tail: u64::from(steps * tile_k) != padded_words,
        out_vectors: shape.out_cols.is_multiple_of(4) && shape.y_cols.is_multiple_of(4),
    }
}

/// Constants of the template on matrix units of f16.
fn f16_constants(units: Units, tuning: GemmTuning) -> Constants {
    constants! {
        row_scales: true,
        whole: tuning.whole_sums(OCTET),
        tile_elements: tuning.elements(units.mat, OCTET),
    }
}

/// The variant for devices without matrix units.
pub fn portable_variant(shape: &GemmShape) -> VariantSpec {
    VariantSpec {
        name: "portable",
        template: "gemm_tiled",
        constants: shape_constants(shape),
        needs: Needs::default(),
        subgroup: None,
        tile: [PORTABLE_TILE, PORTABLE_TILE, 1],
        activations: activations(shape, Form::F16),
    }
}

/// Multiplies prepared activations by a weight: a dispatch for each piece of the weight.
///
/// # Errors
/// When a kernel cannot be made.
pub(crate) fn gemm(
    l: &mut Lowering<'_>,
    label: &str,
    step: &LinearStep,
    a: &F16Activations,
) -> Result<(), LowerError> {
    let weight = l.weight(step.weight);
    for piece in pieces(weight) {
        // Pieces are whole pairs of gate and up blocks.
        let (first_col, cols) = match step.epilogue {
            Epilogue::Geglu => (
                piece.first_row / 2,
                piece.rows.next_multiple_of(2 * BLOCK_ROWS) / 2,
            ),
            Epilogue::None | Epilogue::Softcap { .. } => (piece.first_row, piece.rows),
        };
        let shape = GemmShape {
            max_rows: l.max_rows(step.out.rows),
            rows: step.out.rows,
            k: weight.cols,
            n: piece.rows,
            format: weight.format,
            epilogue: step.epilogue,
            out_cols: cols.min(step.out.cols - first_col),
            y_cols: step.out.cols,
        };
        let mut bindings = vec![
            Resource::Call,
            Resource::Value(a.data),
            Resource::Value(a.scale),
            Resource::Data {
                weight: step.weight,
                piece: piece.data,
                gathered: false,
            },
        ];
        if weight.format.is_quantized() {
            bindings.push(Resource::Scales {
                weight: step.weight,
                piece: piece.scales,
                gathered: false,
            });
        }
        bindings.push(Resource::Value(step.out));
        let work = [
            Extent::Rows(step.out.rows),
            Extent::Fixed(piece.rows),
            Extent::Fixed(1),
        ];
        l.dispatch(label, spec(&shape), bindings, vec![first_col], work)?;
    }
    Ok(())
}

mod int8;
#[cfg(test)]
mod tests;
