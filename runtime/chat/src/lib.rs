//! Chat templates: the Jinja text that a checkpoint brings, rendered as the `transformers` library renders it.
//!
//! The compiler checks a template with it, the runtime renders with it, so it is a crate of its own. A template is
//! untrusted: it has no files and no other templates, a bounded number of instructions, nesting and output. (A template
//! that keeps doubling a string in a variable can still use up memory before its instructions run out.)
//!
//! Knows nothing of tokens: special tokens are given by their spelling.

mod strftime;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Instructions of one rendering; a message takes about a hundred.
const FUEL: u64 = 20_000_000;
/// Nested macro calls and recursive loops.
const MAX_RECURSION: usize = 100;
/// Longest rendering.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
const NAME: &str = "chat template";

/// One message of a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A message of some role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Not Jinja, or an extension of it that is not known.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template itself refuses this conversation.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// It did not end within its limits.
    #[error("chat template, line {line}: runs too long or writes too much")]
    Unbounded {
        /// Line, from 1.
        line: usize,
    },
    /// Something went wrong while rendering.
    #[error("chat template, line {line}: {reason}")]
    Failed {
        /// Line, from 1.
        line: usize,
        /// What went wrong.
        reason: String,
    },
}

/// What `raise_exception` said, carried through the template engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Marks an output that got too long.
#[derive(Debug, thiserror::Error)]
#[error("output too long")]
struct TooLong;

impl ChatError {
    fn from_engine(error: &Error) -> Self {
        let line = error.line().unwrap_or(1);
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(Raised(message)) = current.downcast_ref() {
                return Self::Refused(message.clone());
            }
            let io = current.downcast_ref::<io::Error>();
            if current.is::<TooLong>()
                || io
                    .and_then(io::Error::get_ref)
                    .is_some_and(|e| e.is::<TooLong>())
            {
                return Self::Unbounded { line };
            }
            cause = current.source();
        }
        let reason = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        match error.kind() {
            ErrorKind::OutOfFuel => Self::Unbounded { line },
            ErrorKind::SyntaxError => Self::Syntax { line, reason },
            _ => Self::Failed { line, reason },
        }
    }
}

/// Checks that a template parses, and renders the simplest conversation: one message of a user, to be answered.
///
/// # Errors
/// With the line and what is wrong there.
pub fn check_template(source: &str, special_tokens: &[(String, String)]) -> Result<(), ChatError> {
    let template = Template::new(source, special_tokens)?;
    let text = template.render(&[Message::new("user", "hello")], true)?;
    if text.trim().is_empty() {
        return Err(ChatError::Failed {
            line: 1,
            reason: "a conversation of one message gives an empty text".to_owned(),
        });
    }
    Ok(())
}

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
}

impl Template {
    /// Parses a template. `special_tokens` are the variables that it may name (`bos_token`) and their spelling.
    ///
    /// # Errors
    /// With the line and what is wrong there.
    pub fn new(source: &str, special_tokens: &[(String, String)]) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(
                Error::new(ErrorKind::InvalidOperation, message.clone())
                    .with_source(Raised(message)),
            )
        });
        environment.add_function("strftime_now", |format: &str| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            strftime::format(format, now.map_or(0, |now| now.as_secs()))
        });
        environment.add_filter("tojson", to_json);
        for (name, spelling) in special_tokens {
            environment.add_global(name.clone(), spelling.clone());
        }
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| ChatError::from_engine(&error))?;
        Ok(Self { environment })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model is to speak.
    ///
    /// # Errors
    /// When the template refuses the conversation or goes wrong.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let mut output = Limited(Vec::new());
        let none = Value::from(());
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                let variables = context! {
                    messages,
                    add_generation_prompt,
                    tools => none,
                    documents => none,
                };
                template
                    .render_captured_to(variables, &mut output)
                    .map(|_| ())
            })
            .map_err(|error| ChatError::from_engine(&error))?;
        String::from_utf8(output.0).map_err(|error| ChatError::Failed {
            line: 1,
            reason: error.to_string(),
        })
    }
}

/// A buffer that refuses to grow without bound.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(TooLong));
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `json.dumps` without escapes for non-ASCII characters: a space behind `,` and `:`.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut out, pretty,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out, Spaced,
        )),
    };
    written.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    String::from_utf8(out)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON on one line, spaced as Python does.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
