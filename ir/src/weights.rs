//! Weight expressions: the values of a weight as a function of the checkpoint's tensors, a few rows at a time, so that
//! packing and interpreting never hold a whole matrix.
//!
//! Expressions are evaluated in f32; only the weight that is asked for is rounded to its storage format, not the
//! weights it is made of. Knows nothing of files: tensors come from a [`TensorSource`].

use crate::entity::WeightId;
use crate::interp::WeightSource;
use crate::module::{Module, Weight, WeightExpr};
use crate::types::DType;
use half::{bf16, f16};

/// Weights a weight may be nested in: more than any pass makes, and little enough for any stack.
pub const MAX_EXPR_DEPTH: usize = 16;

/// Where the tensors of a checkpoint are read.
pub trait TensorSource: Sync {
    /// Fills `out` with whole rows of a tensor, from `first_row` on; a vector is one row.
    ///
    /// # Errors
    /// One line saying which tensor cannot be read, and why.
    fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String>;
}

/// The weights of a module as its expressions give them, rounded to f16 or bf16 where that is the storage format.
/// Rounding to a quantized format is the business of whoever defines that format.
#[derive(Clone, Copy)]
pub struct ExprWeights<'a> {
    /// Declares the weights.
    pub module: &'a Module,
    /// Holds the tensors.
    pub source: &'a dyn TensorSource,
}

impl WeightSource for ExprWeights<'_> {
    fn read_rows(&self, id: WeightId, first_row: usize, out: &mut [f32]) -> Result<(), String> {
        eval_rows(self.module, self.source, id, first_row, out)?;
        match self.module.weight(id).dtype {
            DType::F16 => out.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            DType::Bf16 => out
                .iter_mut()
                .for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            DType::F32 | DType::I32 | DType::Q8 | DType::Q4 => {}
        }
        Ok(())
    }
}

/// Fills `out` with whole rows of weight `id`, from `first_row` on, in f32 and unrounded.
///
/// # Errors
/// Rows that are not there or not whole, a weight that is not declared, expressions nested deeper than
/// [`MAX_EXPR_DEPTH`], and whatever the source reports.
pub fn eval_rows(
    module: &Module,
    source: &dyn TensorSource,
    id: WeightId,
    first_row: usize,
    out: &mut [f32],
) -> Result<(), String> {
    eval_nested(module, source, id, first_row, out, 0)
}

fn eval_nested(
    module: &Module,
    source: &dyn TensorSource,
    id: WeightId,
    first_row: usize,
    out: &mut [f32],
    depth: usize,
) -> Result<(), String> {
    let weight = declared(module, id)?;
    let (rows, cols) = matrix(weight)?;
    if depth > MAX_EXPR_DEPTH {
        return Err(format!(
            "@{}: nested deeper than {MAX_EXPR_DEPTH} weights",
            weight.name
        ));
    }
    if cols == 0 || !out.len().is_multiple_of(cols) {
        return Err(format!(
            "@{}: {} values are not whole rows of {cols}",
            weight.name,
            out.len()
        ));
    }
    let end_row = first_row.checked_add(out.len() / cols);
    let Some(end_row) = end_row.filter(|end| *end <= rows) else {
        let count = out.len() / cols;
        return Err(format!(
            "@{}: {count} rows from {first_row} are not in its {rows}",
            weight.name
        ));
    };
    match &weight.expr {
        WeightExpr::Tensor(name) => source.read_rows(name, first_row, out),
        WeightExpr::Offset { of, add } => {
            eval_nested(module, source, *of, first_row, out, depth + 1)?;
            out.iter_mut().for_each(|x| *x += add);
            Ok(())
        }
        WeightExpr::ConcatRows(parts) => {
            let mut part_start = 0;
            let mut row = first_row;
            for part in parts {
                let part_rows = part_rows(module, *part, weight, cols)?;
                let part_end = part_start + part_rows;
                if row < end_row && row < part_end {
                    let to = part_end.min(end_row);
                    let chunk = &mut out[(row - first_row) * cols..(to - first_row) * cols];
                    eval_nested(module, source, *part, row - part_start, chunk, depth + 1)?;
                    row = to;
                }
                part_start = part_end;
            }
            if row < end_row {
                return Err(format!("@{}: its parts end at row {row}", weight.name));
            }
            Ok(())
        }
        WeightExpr::InterleaveRows { a, b, block } => {
            let block = *block as usize;
            if block == 0 {
                return Err(format!("@{}: blocks of no rows", weight.name));
            }
            let mut row = first_row;
            while row < end_row {
                // As many rows as lie in one block of the result.
                let to = end_row.min((row / block + 1) * block);
                let part = if (row / block).is_multiple_of(2) {
                    *a
                } else {
                    *b
                };
                let part_rows = part_rows(module, part, weight, cols)?;
                let from = row / (2 * block) * block + row % block;
                let chunk = &mut out[(row - first_row) * cols..(to - first_row) * cols];
                let there = part_rows.saturating_sub(from).min(to - row);
                let (values, padding) = chunk.split_at_mut(there * cols);
                if there > 0 {
                    eval_nested(module, source, part, from, values, depth + 1)?;
                }
                padding.fill(0.0);
                row = to;
            }
            Ok(())
        }
    }
}

fn declared(module: &Module, id: WeightId) -> Result<&Weight, String> {
    module
        .weights
        .get(id.index())
        .ok_or_else(|| format!("{id} is not declared"))
}

fn matrix(weight: &Weight) -> Result<(usize, usize), String> {
    match weight.shape.as_slice() {
        [cols] => Ok((1, *cols as usize)),
        [rows, cols] => Ok((*rows as usize, *cols as usize)),
        other => Err(format!(
            "@{} has {} dimensions, not 1 or 2",
            weight.name,
            other.len()
        )),
    }
}

/// Rows of a weight that another is made of, which must be as wide.
fn part_rows(
    module: &Module,
    part: WeightId,
    whole: &Weight,
    cols: usize,
) -> Result<usize, String> {
    let part = declared(module, part)?;
    let (rows, part_cols) = matrix(part)?;
    if part_cols != cols {
        return Err(format!(
            "@{} has {cols} columns, its part @{} {part_cols}",
            whole.name, part.name
        ));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::{DimBounds, Layout};

    /// Value of row `r`, column `c` of tensor `n`: `100 n + 10 r + c`.
    struct Digits;

    impl TensorSource for Digits {
        fn read_rows(&self, tensor: &str, first_row: usize, out: &mut [f32]) -> Result<(), String> {
            let n: usize = tensor.parse().map_err(|_| format!("no tensor {tensor}"))?;
            for (i, row) in out.chunks_mut(2).enumerate() {
                for (c, x) in row.iter_mut().enumerate() {
                    *x = (100 * n + 10 * (first_row + i) + c) as f32;
                }
            }
            Ok(())
        }
    }

    fn module() -> Module {
        let bounds = DimBounds {
            chunk: 1,
            outs: 1,
            context: 1,
            slots: 1,
        };
        let mut module = Module::new("weights", bounds);
        let mut add = |name: &str, shape: &[u32], expr| {
            module.add_weight(Weight {
                name: name.into(),
                dtype: DType::F32,
                shape: shape.to_vec(),
                expr,
                layout: Layout::RowMajor,
            })
        };
        let a = add("a", &[3, 2], WeightExpr::Tensor("1".into()));
        let b = add("b", &[3, 2], WeightExpr::Tensor("2".into()));
        add("concat", &[6, 2], WeightExpr::ConcatRows(vec![a, b]));
        add(
            "pairs",
            &[8, 2],
            WeightExpr::InterleaveRows { a, b, block: 2 },
        );
        add("plus", &[3, 2], WeightExpr::Offset { of: a, add: 0.5 });
        let own = WeightId::new(5);
        add("cycle", &[3, 2], WeightExpr::Offset { of: own, add: 1.0 });
        module
    }

    /// First column of rows `first .. first + count` of weight `id`.
    fn rows(id: usize, first: usize, count: usize) -> Result<Vec<f32>, String> {
        let mut out = vec![f32::NAN; count * 2];
        eval_rows(&module(), &Digits, WeightId::new(id), first, &mut out)?;
        Ok(out.chunks(2).map(|row| row[0]).collect())
    }

    #[test]
    fn concat_crosses_the_seam() {
        assert_eq!(rows(2, 1, 4), Ok(vec![110., 120., 200., 210.]));
    }

    #[test]
    fn interleave_takes_blocks_in_turn_and_pads_with_zeros() {
        let all = vec![100., 110., 200., 210., 120., 0., 220., 0.];
        assert_eq!(rows(3, 0, 8), Ok(all.clone()));
        for first in 0..8 {
            for count in 0..=8 - first {
                assert_eq!(
                    rows(3, first, count),
                    Ok(all[first..first + count].to_vec())
                );
            }
        }
    }

    #[test]
    fn offset_adds() {
        assert_eq!(rows(4, 1, 2), Ok(vec![110.5, 120.5]));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(
            rows(0, 2, 2)
                .expect_err("past the end")
                .contains("2 rows from 2 are not in its 3")
        );
        assert!(
            rows(0, usize::MAX, 1)
                .expect_err("overflow")
                .contains("not in its 3")
        );
        assert!(rows(5, 0, 1).expect_err("cycle").contains("nested deeper"));
        assert!(
            rows(9, 0, 1)
                .expect_err("undeclared")
                .contains("not declared")
        );
        let mut half = [0.0; 3];
        let got = eval_rows(&module(), &Digits, WeightId::new(0), 0, &mut half);
        assert!(got.expect_err("half a row").contains("not whole rows of 2"));
    }

    #[test]
    fn sixteen_bit_weights_hold_what_sixteen_bits_can() {
        let mut module = module();
        module.weights[4].dtype = DType::Bf16;
        let mut out = [0.0; 2];
        let weights = ExprWeights {
            module: &module,
            source: &Digits,
        };
        weights
            .read_rows(WeightId::new(4), 2, &mut out)
            .expect("reads");
        // 120.5 has 8 significant bits, 121.5 too; 1 bit more would be lost.
        assert_eq!(out, [120.5, 121.5]);
        module.weights[4].expr = WeightExpr::Offset {
            of: WeightId::new(0),
            add: 0.25,
        };
        let weights = ExprWeights {
            module: &module,
            source: &Digits,
        };
        weights
            .read_rows(WeightId::new(4), 2, &mut out)
            .expect("reads");
        assert_eq!(out, [120.0, 121.0]);
    }
}
