//! What naga cannot say in SPIR-V, said afterwards with rspirv; and the disassembly that snapshots show.

use crate::kernel::VariantSpec;
use rspirv::binary::Disassemble;

/// Adjusts what naga wrote for a variant.
pub(crate) fn adjust(code: Vec<u32>, _variant: &VariantSpec) -> Result<Vec<u32>, String> {
    Ok(code)
}

/// The code as text.
///
/// # Errors
/// When it is not SPIR-V.
pub fn disassemble(code: &[u32]) -> Result<String, String> {
    let module = rspirv::dr::load_words(code).map_err(|error| error.to_string())?;
    Ok(module.disassemble())
}
