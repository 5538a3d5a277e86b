//! The MLIR context that texts are read in: the upstream dialects that core programs use, and nothing of MLIR besides.

use melior::dialect::{DialectHandle, DialectRegistry};
use melior::{Context, diagnostic::DiagnosticHandlerId};
use std::{cell::RefCell, rc::Rc};

/// A context that knows the upstream dialects and lets the AIE dialects pass.
pub(crate) fn context() -> Context {
    let registry = DialectRegistry::new();
    for handle in [
        DialectHandle::arith(),
        DialectHandle::cf(),
        DialectHandle::func(),
        DialectHandle::memref(),
        DialectHandle::scf(),
        vector(),
        math(),
    ] {
        handle.insert_dialect(&registry);
    }
    let context = Context::new_with_registry(&registry, false);
    context.load_all_available_dialects();
    context.set_allow_unregistered_dialects(true);
    context
}

/// Such a context that also knows the language of dialect definitions.
pub(crate) fn context_for_definitions() -> Context {
    let context = context();
    let registry = DialectRegistry::new();
    irdl().insert_dialect(&registry);
    context.append_dialect_registry(&registry);
    context.load_all_available_dialects();
    context
}

fn vector() -> DialectHandle {
    // SAFETY: MLIR's own constructor of the handle, which is a pointer to a constant table.
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

/// What MLIR says while this lives, instead of on the standard error.
pub(crate) struct Diagnostics<'c> {
    context: &'c Context,
    id: Option<DiagnosticHandlerId>,
    messages: Rc<RefCell<Vec<String>>>,
}

impl<'c> Diagnostics<'c> {
    /// Listens.
    pub fn attach(context: &'c Context) -> Self {
        let messages = Rc::new(RefCell::new(Vec::new()));
        let sink = messages.clone();
        let id = context.attach_diagnostic_handler(move |diagnostic| {
            let location = diagnostic.location();
            let line = if location.is_file_line_col_range() {
                format!("line {}: ", location.file_line_col_range_start_line())
            } else {
                String::new()
            };
            let mut text = format!("{line}{diagnostic}");
            // The op it is about, without its regions and types.
            if let Ok(note) = diagnostic.note(0) {
                let note = note.to_string().replace('\n', " ");
                let name = note.split('"').nth(1).unwrap_or("");
                if !name.is_empty() && !text.contains(name) {
                    text.push_str(&format!(" (in \"{name}\")"));
                }
            }
            sink.borrow_mut().push(text);
            true
        });
        Diagnostics {
            context,
            id: Some(id),
            messages,
        }
    }

    /// All of it in one line.
    pub fn text(&self) -> String {
        let messages = self.messages.borrow();
        if messages.is_empty() {
            return "without a word".to_owned();
        }
        messages.join("; ").replace('\n', " ")
    }
}

impl Drop for Diagnostics<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.context.detach_diagnostic_handler(id);
        }
    }
}
