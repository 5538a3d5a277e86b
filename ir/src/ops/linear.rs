//! `linear`, and `fused_linear`: a linear with the norms, the residual addition and the epilogue around it.

/// What a [`OpKind::FusedLinear`](crate::OpKind::FusedLinear) does with its sums.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// The weight interleaves blocks of 16 gate rows and 16 up rows: `gelu(gate) * up`, `width` columns.
    Geglu {
        /// Columns of the result.
        width: u32,
    },
    /// `cap * tanh(y / cap)`.
    Softcap {
        /// Bound of the result.
        cap: f32,
    },
}

/// Rows of a block of gate rows, or of up rows, under [`Epilogue::Geglu`].
pub const GEGLU_BLOCK: u32 = 16;

pub(super) mod plain {
    use crate::entity::WeightId;
    use crate::interp::frame::{Datum, Frame};
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(cx: &Infer<'_>, weight: WeightId) -> Inferred {
        cx.arity(1)?;
        let (rows, cols) = cx.matrix(0, "x")?;
        Ok(vec![TensorType::matrix(rows, cx.reduce(weight, cols)?)])
    }

    pub fn eval(frame: &mut Frame<'_>, weight: WeightId) -> Result<Vec<Datum>, String> {
        let x = frame.matrix(0)?;
        Ok(vec![frame.linear(x, weight)?.into()])
    }
}

pub(super) mod fused {
    use super::{Epilogue, GEGLU_BLOCK};
    use crate::entity::WeightId;
    use crate::interp::frame::{Datum, Frame, Tensor};
    use crate::interp::math;
    use crate::ops::infer::{Infer, Inferred};
    use crate::types::TensorType;

    pub fn infer(
        cx: &Infer<'_>,
        weight: WeightId,
        post_norm: Option<WeightId>,
        norm: Option<WeightId>,
        eps: f32,
        epilogue: Epilogue,
    ) -> Inferred {
        if cx.operands.len() != 1 && cx.operands.len() != 2 {
            return Err(cx.fault(format!(
                "takes x, or x and residual, not {} operands",
                cx.operands.len()
            )));
        }
        let (rows, cols) = cx.matrix(0, "x")?;
        cx.eps(eps)?;
        for id in [post_norm, norm].into_iter().flatten() {
            let len = cx.weight_vector(id)?;
            if len != cols {
                return Err(cx.fault(format!("norm weight has {len} values, a row {cols}")));
            }
        }
        let n = cx.reduce(weight, cols)?;
        let width = match epilogue {
            Epilogue::None => n,
            Epilogue::Softcap { cap } => {
                cx.cap(cap)?;
                n
            }
            Epilogue::Geglu { width } => {
                let padded = width.div_ceil(GEGLU_BLOCK).saturating_mul(2 * GEGLU_BLOCK);
                if width == 0 || padded != n {
                    return Err(cx.fault(format!(
                        "geglu of width {width} needs {padded} rows, not {n}"
                    )));
                }
                width
            }
        };
        let y = TensorType::matrix(rows, width);
        if cx.operands.len() == 1 {
            return Ok(vec![y]);
        }
        cx.expect_matrix(1, "residual", rows, cols)?;
        Ok(vec![TensorType::matrix(rows, cols), y])
    }

    pub fn eval(
        frame: &mut Frame<'_>,
        weight: WeightId,
        post_norm: Option<WeightId>,
        norm: Option<WeightId>,
        eps: f32,
        epilogue: Epilogue,
    ) -> Result<Vec<Datum>, String> {
        let mut sum = frame.matrix(0)?.clone();
        if let Some(id) = post_norm {
            math::rms_norm(&mut sum.data, &frame.weight_vector(id)?, eps, 0.0);
        }
        let has_residual = frame.operands.len() == 2;
        if has_residual {
            let residual = frame.matrix(1)?;
            for (s, r) in sum.data.iter_mut().zip(&residual.data) {
                *s += r;
            }
        }
        let mut a = sum.clone();
        if let Some(id) = norm {
            math::rms_norm(&mut a.data, &frame.weight_vector(id)?, eps, 0.0);
        }
        let y = apply(epilogue, frame.linear(&a, weight)?)?;
        Ok(if has_residual {
            vec![sum.into(), y.into()]
        } else {
            vec![y.into()]
        })
    }

    fn apply(epilogue: Epilogue, mut y: Tensor) -> Result<Tensor, String> {
        match epilogue {
            Epilogue::None => Ok(y),
            Epilogue::Softcap { cap } => {
                y.data.iter_mut().for_each(|v| *v = math::softcap(*v, cap));
                Ok(y)
            }
            Epilogue::Geglu { width } => {
                let block = GEGLU_BLOCK as usize;
                let mut out = Tensor::zeros(y.rows, width as usize)?;
                for r in 0..y.rows {
                    let sums = y.row(r);
                    for (c, o) in out.row_mut(r).iter_mut().enumerate() {
                        let gate = c / block * 2 * block + c % block;
                        *o = math::gelu(sums[gate]) * sums[gate + block];
                    }
                }
                Ok(out)
            }
        }
    }
}
