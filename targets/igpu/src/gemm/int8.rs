//! The variants of a multiplication on matrix units of int8, for quantized weights.
//!
//! Activations are int8 with a scale for each group of 32 columns of a row, as the processor has them; so are the weights,
//! q4 widened on its way into workgroup memory. Over a group the products of integers are summed as integers, which are
//! exact; then they meet the two scales and join the f32 sums. Within one variant all of this is done on whole
//! matrices: that of a group's scales has the same number all along each row, or each column, and is loaded with a
//! stride of zero.

use super::{GemmShape, GemmTuning, Units};
use crate::constants;
use crate::kernel::Constants;
use crate::linear::activations::Int8Activations;
use gembin_bundle::layout::GROUP;

/// Constants of the template.
///
/// # Panics
/// When the tuning breaks its rules, or the format is not quantized.
pub(super) fn constants(shape: &GemmShape, units: Units, tuning: GemmTuning) -> Constants {
    let columns = units.int8_columns.unwrap_or(units.mat);
    // A matrix is loaded from whole elements of workgroup memory, which have 16 bytes.
    let chunk = columns.min(16);
    assert!(shape.format.is_quantized());
    assert!(tuning.tile_k.is_multiple_of(GROUP) && GROUP.is_multiple_of(columns));
    assert!(tuning.stages == 1 && tuning.slices == 1);
    constants! {
        row_scales: false,
        whole: tuning.whole_sums(chunk),
        tile_elements: tuning.elements(units.mat, chunk),
        mat_k: columns,
        chunk: chunk,
        int8_view: if columns > units.mat { "i8x32" } else { "i8" },
        int8_row: Int8Activations::row_words(shape.k) / 4,
        int8_scales: Int8Activations::groups(shape.k) * GROUP / 16,
    }
}
