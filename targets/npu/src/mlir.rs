//! The MLIR context that modules are built, verified and read in: upstream dialects registered one by one, since all of
//! them together would make the compiler ten times as large, and the AIE dialects as ops unknown to it.

use melior::Context;
use melior::dialect::{DialectHandle, DialectRegistry};

/// A context with the dialects that designs are written in.
pub fn context() -> Context {
    let registry = DialectRegistry::new();
    for handle in [
        DialectHandle::arith(),
        DialectHandle::func(),
        DialectHandle::memref(),
        DialectHandle::scf(),
        vector(),
        math(),
    ] {
        handle.insert_dialect(&registry);
    }
    let context = Context::new();
    context.append_dialect_registry(&registry);
    context.load_all_available_dialects();
    context.set_allow_unregistered_dialects(true);
    context
}

/// Such a context that also knows the language in which dialects are defined.
pub fn context_for_definitions() -> Context {
    let context = context();
    let registry = DialectRegistry::new();
    irdl().insert_dialect(&registry);
    context.append_dialect_registry(&registry);
    context.load_all_available_dialects();
    context
}

/// The handles that melior does not wrap.
fn vector() -> DialectHandle {
    // SAFETY: the function returns the handle of a dialect that is linked in; it is valid for ever.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__vector__()) }
}

fn math() -> DialectHandle {
    // SAFETY: as above.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__math__()) }
}

fn irdl() -> DialectHandle {
    // SAFETY: as above.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__irdl__()) }
}
