//! `embed`: rows of a table.

pub(super) mod rows {
    use crate::entity::WeightId;
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, table: WeightId, _scale: f32) -> Inferred {
        cx.arity(1)?;
        let rows = cx.index(0, "ids")?;
        let (_, hidden) = cx.weight_matrix(table)?;
        Ok(vec![TensorType::matrix(rows, hidden)])
    }

    pub fn eval(frame: &mut Frame<'_>, table: WeightId, scale: f32) -> Result<Vec<Datum>, String> {
        let ids = frame.index(0)?;
        let weight = frame.module.weight(table);
        let (vocab, hidden) = weight.rows_cols();
        let mut out = Tensor::zeros(ids.len(), hidden as usize)?;
        for (r, &id) in ids.iter().enumerate() {
            let row = u32::try_from(id)
                .ok()
                .filter(|id| *id < vocab)
                .ok_or_else(|| {
                    format!("token id {id} in row {r} is outside the vocabulary of {vocab}")
                })?;
            frame
                .weights
                .read_rows(table, row as usize, out.row_mut(r))?;
        }
        out.data.iter_mut().for_each(|x| *x *= scale);
        Ok(vec![out.into()])
    }
}
