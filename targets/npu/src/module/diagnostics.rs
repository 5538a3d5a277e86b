//! What MLIR says while a text is read, as text of our own errors.

use melior::{Context, diagnostic::DiagnosticHandlerId};
use std::{cell::RefCell, rc::Rc};

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
