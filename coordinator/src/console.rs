//! The command line `tercet`.
#![allow(clippy::print_stdout, reason = "it is the command line")]

pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Makes several services' local transactions end the same way, whatever crashes.
#[derive(Debug, Parser)]
#[command(name = "tercet", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coordinator.
    Serve(crate::config::Config),
}

/// Parses the arguments and does what they say. Exit codes: 0 done, 1 failed, 2 bad arguments.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(config) => serve::main(config),
    }
}
