//! `rms_norm`.

pub(super) mod rms_norm {
    use crate::entity::WeightId;
    use crate::interp::frame::{Datum, Frame};
    use crate::interp::math;
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, weight: WeightId, eps: f32, _offset: f32) -> Inferred {
        cx.arity(1)?;
        let (rows, cols) = cx.matrix(0, "x")?;
        cx.eps(eps)?;
        let len = cx.weight_vector(weight)?;
        if len == 0 || cols % len != 0 {
            return Err(cx.fault(format!(
                "{cols} columns are no multiple of the weight's {len}"
            )));
        }
        Ok(vec![TensorType::matrix(rows, cols)])
    }

    pub fn eval(
        frame: &mut Frame<'_>,
        weight: WeightId,
        eps: f32,
        offset: f32,
    ) -> Result<Vec<Datum>, String> {
        let mut out = frame.matrix(0)?.clone();
        let weight = frame.weight_vector(weight)?;
        math::rms_norm(&mut out.data, &weight, eps, offset);
        Ok(vec![out.into()])
    }
}
