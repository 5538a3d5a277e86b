//! The `gemc` command. Owns the exit code; arguments and progress bars are in `cli`, the work is the library's.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what caused an error is part of its message.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
