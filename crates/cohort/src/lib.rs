//! The program `cohort`, as a library so that tests can reach it: arguments in, output and an exit code out.
//!
//! There are no rules here. What a command means is decided in the rooms below; here it is only read, called and shown.

mod args;
mod commands;
mod daemon;
pub mod demo;
mod exit;
mod failure;
mod human;
mod interrupt;
mod machine;
mod metrics;
mod monitor;
mod output;
#[cfg(test)]
mod pages;
mod plan;
mod process;
mod progress;
mod serve;
#[cfg(feature = "top")]
mod top;

use std::process::ExitCode;

use clap::Parser;

/// Runs the program with the arguments of the process, and gives its exit code.
pub fn main() -> ExitCode {
    // Of arguments that cannot be read.
    let json = std::env::args_os().any(|argument| argument == "--json");
    let arguments = match plan::expanded(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            failure::Failure::new(exit::Exit::Usage, error).print(json);
            return exit::Exit::Usage.into();
        }
    };
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and the version come this way too; only what is wrong is an error.
            if !error.use_stderr() {
                return exit::Exit::Done.into();
            }
            if json {
                output::print_line(&failure::Failure::of_arguments(&error).told().1);
            }
            return exit::Exit::Usage.into();
        }
    };
    if let Err(error) = interrupt::let_full_files_fail() {
        output::eprint_line(&format!("cohort: no handler for full files: {error}"));
    }
    match commands::run(&cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(commands::wants_json(&cli.command));
            failure.exit.into()
        }
    }
}
