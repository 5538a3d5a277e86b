//! Ops whose results depend on the operands' elements at the same index alone: `gelu`, `mul`, `add`, `softcap`.

use crate::interp::frame::{Datum, Frame};
use crate::ops::infer::{Infer, Inferred};
use crate::types::TensorType;

fn infer_unary(cx: &Infer<'_>) -> Inferred {
    cx.arity(1)?;
    let (rows, cols) = cx.matrix(0, "x")?;
    Ok(vec![TensorType::matrix(rows, cols)])
}

fn infer_binary(cx: &Infer<'_>) -> Inferred {
    cx.arity(2)?;
    let (rows, cols) = cx.matrix(0, "a")?;
    cx.expect_matrix(1, "b", rows, cols)?;
    Ok(vec![TensorType::matrix(rows, cols)])
}

fn unary(frame: &Frame<'_>, f: impl Fn(f32) -> f32) -> Result<Vec<Datum>, String> {
    let mut out = frame.matrix(0)?.clone();
    out.data.iter_mut().for_each(|x| *x = f(*x));
    Ok(vec![out.into()])
}

fn binary(frame: &Frame<'_>, f: impl Fn(f32, f32) -> f32) -> Result<Vec<Datum>, String> {
    let mut out = frame.matrix(0)?.clone();
    let b = frame.matrix(1)?;
    for (a, b) in out.data.iter_mut().zip(&b.data) {
        *a = f(*a, *b);
    }
    Ok(vec![out.into()])
}

pub(super) mod gelu {
    use super::{Datum, Frame, Infer, Inferred};
    use crate::interp::math;

    pub fn infer(cx: &Infer<'_>) -> Inferred {
        super::infer_unary(cx)
    }

    pub fn eval(frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
        super::unary(frame, math::gelu)
    }
}

pub(super) mod mul {
    use super::{Datum, Frame, Infer, Inferred};

    pub fn infer(cx: &Infer<'_>) -> Inferred {
        super::infer_binary(cx)
    }

    pub fn eval(frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
        super::binary(frame, |a, b| a * b)
    }
}

pub(super) mod add {
    use super::{Datum, Frame, Infer, Inferred};

    pub fn infer(cx: &Infer<'_>) -> Inferred {
        super::infer_binary(cx)
    }

    pub fn eval(frame: &mut Frame<'_>) -> Result<Vec<Datum>, String> {
        super::binary(frame, |a, b| a + b)
    }
}

pub(super) mod softcap {
    use super::{Datum, Frame, Infer, Inferred};
    use crate::interp::math;

    pub fn infer(cx: &Infer<'_>, cap: f32) -> Inferred {
        cx.cap(cap)?;
        super::infer_unary(cx)
    }

    pub fn eval(frame: &mut Frame<'_>, cap: f32) -> Result<Vec<Datum>, String> {
        super::unary(frame, |x| math::softcap(x, cap))
    }
}
