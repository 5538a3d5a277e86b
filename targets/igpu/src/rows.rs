//! Kernels over whole rows: embedding gather, rope tables, selection of the rows asked for.

use crate::error::LowerError;
use crate::lowering::Lowering;
use gembin_bundle::manifest::Buffer;

pub(crate) fn embed(
    l: &mut Lowering<'_>,
    label: &str,
    table: u32,
    scale: f32,
    out: Buffer,
) -> Result<(), LowerError> {
    let _ = (l, table, scale, out);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "embed".into(),
    })
}

pub(crate) fn rope_table(
    l: &mut Lowering<'_>,
    label: &str,
    theta: f32,
    factor: f32,
    out: Buffer,
) -> Result<(), LowerError> {
    let _ = (l, theta, factor, out);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "rope_table".into(),
    })
}

pub(crate) fn select_rows(
    l: &mut Lowering<'_>,
    label: &str,
    x: Buffer,
    out: Buffer,
) -> Result<(), LowerError> {
    let _ = (l, x, out);
    Err(LowerError::Unsupported {
        step: label.into(),
        what: "select_rows".into(),
    })
}
