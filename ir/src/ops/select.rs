//! Ops that pick and compute nothing: `select_rows`, `select_index`, `columns`.

/// The rows asked for, checked against the rows there are.
fn checked(rows: &[i32], count: usize) -> Result<Vec<usize>, String> {
    rows.iter()
        .enumerate()
        .map(|(i, &row)| {
            usize::try_from(row)
                .ok()
                .filter(|row| *row < count)
                .ok_or_else(|| {
                    format!("out row {row} at index {i} is outside the call's {count} rows")
                })
        })
        .collect()
}

pub(super) mod select_rows {
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>) -> Inferred {
        cx.arity(2)?;
        let (_, cols) = cx.matrix(0, "x")?;
        let rows = cx.index(1, "rows")?;
        Ok(vec![TensorType::matrix(rows, cols)])
    }

    pub fn eval(frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
        let x = frame.matrix(0)?;
        let rows = super::checked(frame.index(1)?, x.rows)?;
        let mut out = Tensor::zeros(rows.len(), x.cols)?;
        for (o, row) in rows.into_iter().enumerate() {
            out.row_mut(o).copy_from_slice(x.row(row));
        }
        Ok(vec![out.into()])
    }
}

pub(super) mod select_index {
    use crate::interp::frame::{Datum, Frame};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>) -> Inferred {
        cx.arity(2)?;
        cx.index(0, "x")?;
        let rows = cx.index(1, "rows")?;
        Ok(vec![TensorType::index(rows)])
    }

    pub fn eval(frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
        let x = frame.index(0)?;
        let rows = super::checked(frame.index(1)?, x.len())?;
        Ok(vec![Datum::Index(rows.into_iter().map(|r| x[r]).collect())])
    }
}

pub(super) mod columns {
    use crate::interp::frame::{Datum, Frame};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, start: u32, len: u32) -> Inferred {
        cx.arity(1)?;
        let (rows, cols) = cx.matrix(0, "x")?;
        if len == 0 || start.checked_add(len).is_none_or(|end| end > cols) {
            return Err(cx.fault(format!("columns {start}..+{len} of {cols}")));
        }
        Ok(vec![TensorType::matrix(rows, len)])
    }

    pub fn eval(frame: &mut Frame<'_>, start: u32, len: u32) -> Result<Vec<Datum>, String> {
        let start = start as usize;
        let out = frame.matrix(0)?.columns(start..start + len as usize)?;
        Ok(vec![out.into()])
    }
}
