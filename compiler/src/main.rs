//! The `gemc` command. Owns the exit code; arguments and progress bars are in `cli`, the work is the library's.

mod cli;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match cli::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let (text, code) = usage(&error);
            let printed = match error.use_stderr() {
                true => std::io::stderr().write_all(text.as_bytes()),
                false => std::io::stdout().write_all(text.as_bytes()),
            };
            // There is nowhere left to say that it could not be said.
            drop(printed);
            return code;
        }
    };
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what caused an error is part of its message.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to print for a wrong command line, and with which code to end: help as it is, anything else on one line.
fn usage(error: &clap::Error) -> (String, ExitCode) {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    let text = error.render().to_string();
    if let DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand = error.kind() {
        return (text, ExitCode::from(error.exit_code() as u8));
    }
    // The first paragraph says what is wrong; usage and tips follow after an empty line.
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let line: Vec<&str> = paragraph.map(str::trim).collect();
    (
        format!("{} (see --help)\n", line.join(" ")),
        ExitCode::from(error.exit_code() as u8),
    )
}
