//! `rope_table` and `rope`: rotary position embedding.

pub(super) mod table {
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, head_dim: u32, theta: f32, factor: f32) -> Inferred {
        cx.arity(1)?;
        let rows = cx.index(0, "pos")?;
        cx.even_head(head_dim)?;
        if !(theta > 0.0 && factor > 0.0) {
            return Err(cx.fault(format!(
                "theta {theta} and factor {factor} must be positive"
            )));
        }
        Ok(vec![TensorType::matrix(rows, head_dim)])
    }

    /// The frequencies are rounded to f32 before they meet the position, as the reference implementation does: at
    /// position 100,000 the rounding is visible, and it is part of what a checkpoint was trained with.
    pub fn eval(
        frame: &mut Frame<'_>,
        head_dim: u32,
        theta: f32,
        factor: f32,
    ) -> Result<Vec<Datum>, String> {
        let pos = frame.index(0)?;
        let half = head_dim as usize / 2;
        let mut out = Tensor::zeros(pos.len(), head_dim as usize)?;
        for (r, &p) in pos.iter().enumerate() {
            let (cos, sin) = out.row_mut(r).split_at_mut(half);
            for i in 0..half {
                let exponent = (2 * i) as f32 / head_dim as f32;
                let wavelength = f64::from(theta).powf(f64::from(exponent)) as f32;
                let angle = f64::from(p as f32 * (1.0 / wavelength / factor));
                cos[i] = angle.cos() as f32;
                sin[i] = angle.sin() as f32;
            }
        }
        Ok(vec![out.into()])
    }
}

pub(super) mod rotate {
    use crate::interp::frame::{Datum, Frame};
    use crate::interp::math;
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, head_dim: u32) -> Inferred {
        cx.arity(2)?;
        let (rows, cols) = cx.matrix(0, "x")?;
        cx.even_head(head_dim)?;
        cx.expect_matrix(1, "table", rows, head_dim)?;
        if cols % head_dim != 0 {
            return Err(cx.fault(format!(
                "{cols} columns are no multiple of head_dim {head_dim}"
            )));
        }
        Ok(vec![TensorType::matrix(rows, cols)])
    }

    pub fn eval(frame: &mut Frame<'_>, _head_dim: u32) -> Result<Vec<Datum>, String> {
        let mut out = frame.matrix(0)?.clone();
        let table = frame.matrix(1)?;
        for r in 0..out.rows {
            math::rope(out.row_mut(r), table.row(r));
        }
        Ok(vec![out.into()])
    }
}
