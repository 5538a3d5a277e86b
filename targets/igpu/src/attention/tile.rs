//! Attention of many rows of one sequence.

use super::{Attend, unsupported};
use crate::error::LowerError;
use crate::lowering::Lowering;

/// Rows of one sequence.
pub(super) fn attend_sequence(
    l: &mut Lowering<'_>,
    label: &str,
    attend: &Attend<'_>,
) -> Result<(), LowerError> {
    let _ = (l, attend);
    Err(unsupported(label, "rows of one sequence"))
}
