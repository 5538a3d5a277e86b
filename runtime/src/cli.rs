//! The `gemrun` command: arguments, exit codes, and one file a command.
//!
//! Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage, a bad value of an option included; 130
//! stopped by Ctrl-C after what was generated has been printed. Results go to stdout, everything else to stderr.

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
mod output_file;
mod progress;
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
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            let (text, code) = usage(&error);
            match error.use_stderr() {
                true => output::to_stderr(&text),
                // Help that nobody reads to its end is no failure.
                false => drop(output::to_stdout(&text)),
            }
            return code;
        }
    };
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
            output::to_stderr(&format!("error: {}\n", one_line(&error)));
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

/// An error and its causes. Some messages already quote their cause, which is not said twice then.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_one_line_with_each_cause_once() {
        let cause = std::io::Error::other("disk on\nfire");
        let quoting = anyhow::anyhow!(cause).context("cannot open x: disk on\nfire");
        assert_eq!(one_line(&quoting), "cannot open x: disk on fire");
        let added = Err::<(), _>(quoting).context("line 3").unwrap_err();
        assert_eq!(one_line(&added), "line 3: cannot open x: disk on fire");
    }
}
