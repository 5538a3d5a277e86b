//! The `gemrun` command: arguments, exit codes, and one file a command.
//!
//! Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage; 130 stopped by Ctrl-C after what was
//! generated has been printed. Results go to stdout, everything else to stderr.

mod bench;
mod chat;
mod devices;
mod eval;
mod generate;
mod info;
mod interrupt;
mod logits;
mod options;
mod output;
mod session;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs language models that gemc has compiled into .gembin files.
#[derive(Parser)]
#[command(
    name = "gemrun",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  gemrun generate model.gembin --prompt \"Once upon a time\"
  gemrun chat model.gembin
  gemrun info model.gembin

Each command explains itself: gemrun generate --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Info(info::Args),
    Eval(eval::Args),
    Logits(logits::Args),
    Bench(bench::Args),
    Verify(verify::Args),
    Devices(devices::Args),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Done.
    Done,
    /// Stopped by Ctrl-C.
    Interrupted,
}

/// Parses the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = interrupt::install().and_then(|()| match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Devices(args) => devices::run(&args),
    });
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("{error:#}").replace(['\n', '\r'], " ");
            output::to_stderr(&format!("error: {line}\n"));
            ExitCode::FAILURE
        }
    }
}
