//! gemrun: runs compiled models. The commands are in [`cli`]; what they do is in the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
