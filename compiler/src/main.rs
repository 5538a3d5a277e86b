//! The `gemc` command. Owns argument parsing, progress bars and exit codes; the work is the library's.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: causes are part of the message, never a list below it.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
