//! The command line `tercet`.
//!
//! Every command but `serve` asks a running coordinator over gRPC, writes what it was told to standard output, as text
//! for people or as one JSON document, and says what went wrong in one line on standard error.

mod audit;
mod change;
mod client;
mod compensation;
mod doctor;
mod drain;
mod offline;
mod participants;
pub mod serve;
mod show;
mod stats;
#[cfg(test)]
mod tests;
mod token;
mod transaction;
mod tx;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::client::Client;
use self::show::Screen;
use crate::clock::SystemClock;
use crate::limits;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or a check of doctor failed, or the audit log is broken
  2  bad arguments
  3  the coordinator can not be reached
  4  there is no such transaction or compensation
  5  nothing was changed: it does not apply, or you were not sure";

/// Makes several services' local transactions end the same way, whatever crashes.
#[derive(Debug, Parser)]
#[command(name = "tercet", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command that asks a coordinator can be told.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Every command")]
struct Common {
    /// Where the coordinator listens for operators, or several with commas: the first
    #[arg(
        hide_env_values = true,
        long,
        global = true,
        value_name = "ADDR",
        env = "TERCET_ADMIN",
        default_value = "http://127.0.0.1:7069"
    )]
    admin: String,

    /// Who you are, for the audit log
    #[arg(long = "as", global = true, value_name = "NAME", env = "USER", hide_env_values = true)]
    #[arg(default_value = "unknown")]
    operator: String,
    /// Whom to trust, and how to be known.
    #[command(flatten)]
    security: tercet_secure::client::Settings,

    /// Write one JSON document, for programs
    #[arg(long, global = true)]
    json: bool,

    /// Write no colours; there are none unless it is a terminal
    #[arg(long, global = true, env = "NO_COLOR", hide_env_values = true, value_parser = is_set, default_value = "")]
    #[arg(num_args = 0, default_missing_value = "1")]
    no_color: bool,
}

/// `NO_COLOR` counts whatever it says, unless it is empty.
fn is_set(text: &str) -> Result<bool, std::convert::Infallible> {
    Ok(!text.is_empty())
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coordinator
    Serve(crate::config::Config),
    /// Write a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Make a secret, and print the line for the coordinator's file of tokens
    Token(token::Options),
    #[command(flatten)]
    Ask(Ask),
}

/// What asks a coordinator.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Look at transactions, and move them on
    #[command(subcommand)]
    Tx(tx::Command),
    /// Look at what the scanner retries and at what is parked, and move it on
    #[command(subcommand)]
    Compensation(compensation::Command),
    /// List the connected instances of services
    Participants,
    /// Show the coordinator's numbers and how its services are
    Stats,
    /// Show them again every second, until Ctrl-C or q and Enter
    Top(stats::Top),
    /// Look at who changed what, and check that nobody has changed that
    #[command(subcommand)]
    Audit(audit::Command),
    /// Take nothing new and finish what is under way, until it is undone or the coordinator is started again
    Drain(drain::Options),
    /// Look at the limits that can be moved while the coordinator runs, and move them
    #[command(subcommand)]
    Limits(stats::Limits),
    /// Check that a coordinator can work, and say what to do where it can not
    Doctor(doctor::Options),
}

/// Why a command did not do what it was asked, each with its exit code and with what to do.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It can not be an address at all.
    #[error("--admin {address:?} {why}; give one such as http://127.0.0.1:7069")]
    Address { address: String, why: &'static str },
    /// It can not be anybody's name.
    #[error("--as {0:?} can not be written down: give 1 to {max} visible characters", max = limits::OPERATOR_BYTES_MAX)]
    Operator(String),
    /// Its certificates, keys or secret can not be used.
    #[error(transparent)]
    Security(#[from] tercet_secure::Error),
    /// The coordinator does not take what was asked.
    #[error("the coordinator refused: {0}")]
    Refused(String),
    /// Nobody answers.
    #[error(
        "no coordinator answers at {address} ({cause}): start one with `tercet serve`, or name it with --admin{hint}"
    )]
    Unreachable { address: String, cause: String, hint: &'static str },
    /// It does not know the transaction.
    #[error("there is no transaction {0}: it may have been deleted, as ended ones are in time; see `tercet tx list`")]
    NotFound(String),
    /// It does not let this person do that.
    #[error("{address} did not allow it: {cause}; name another token with --token-file")]
    Denied { address: String, cause: String },
    /// Something answers, and not as it should.
    #[error("{address} answered {cause}; `tercet doctor` tells more")]
    Failed { address: String, cause: String },
    /// What was wanted does not apply.
    #[error("nothing was changed: {0}")]
    Unfit(String),
    /// A person has not said yes.
    #[error("{0}")]
    Unsure(String),
    /// There is no such row.
    #[error("there is no compensation {0}: see `tercet compensation list`")]
    NoRow(u64),
    /// Some of what was wanted was not done.
    #[error("{failed} of {all} could not be retried: see above")]
    Some { failed: usize, all: usize },
    /// Nobody waits for what is under way to end any more.
    #[error("the coordinator no longer drains: somebody has undone it, or it was started again; {0} are in memory")]
    Undrained(u64),
    /// The coordinator has stopped.
    #[error("the coordinator has stopped before {0} has ended: watch it again where it goes on")]
    Unwatched(String),
    /// Somebody has changed the audit log.
    #[error("the audit log is broken: {0}; restore the store from a backup to see what it said")]
    Broken(String),
    /// The folder of a store can not be read.
    #[error("can not read {}: {cause}; name the coordinator's --data folder", .file.display())]
    Unread { file: std::path::PathBuf, cause: String },
    /// What was found out could not be written.
    #[error("can not write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            // Whoever reads, such as `head`, has seen enough.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Output(_)
            | Self::Failed { .. }
            | Self::Denied { .. }
            | Self::Broken(_)
            | Self::Unread { .. }
            | Self::Undrained(_)
            | Self::Unwatched(_)
            | Self::Some { .. } => ExitCode::FAILURE,
            Self::Address { .. } | Self::Operator(_) | Self::Security(_) | Self::Refused(_) => ExitCode::from(2),
            Self::Unreachable { .. } => ExitCode::from(3),
            Self::NotFound(_) | Self::NoRow(_) => ExitCode::from(4),
            Self::Unfit(_) | Self::Unsure(_) => ExitCode::from(5),
        }
    }
}

/// Parses the arguments and does what they say. The exit codes are those that `--help` tells.
pub fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    match command {
        Command::Serve(config) => {
            if common.json {
                let hint = "--json is for commands that ask a coordinator; logs are JSON with --log json";
                Cli::command().error(ErrorKind::ArgumentConflict, hint).exit();
            }
            serve::main(config, std::io::stderr().is_terminal() && !common.no_color)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tercet", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Token(options) => match token::run(&options, &mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tercet: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Ask(ask) => ask_and_show(ask, &common),
    }
}

fn ask_and_show(ask: Ask, common: &Common) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tercet: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut stdout = std::io::stdout().lock();
    let color = stdout.is_terminal() && !common.no_color;
    let mut screen = Screen::new(&mut stdout, common.json, color, SystemClock::start());
    runtime.block_on(run(ask, common, &mut screen)).unwrap_or_else(|error| {
        let code = error.exit_code();
        if code != ExitCode::SUCCESS {
            eprintln!("tercet: {error}");
        }
        code
    })
}

async fn run(ask: Ask, common: &Common, screen: &mut Screen<'_>) -> Result<ExitCode, Error> {
    let connect = || Client::connect(common);
    match ask {
        Ask::Doctor(options) => return doctor::run(&options, common, screen).await,
        Ask::Tx(command) => tx::run(command, connect().await?, screen).await?,
        Ask::Compensation(command) => compensation::run(command, connect().await?, screen).await?,
        Ask::Participants => participants::run(connect().await?, screen).await?,
        Ask::Stats => stats::stats(connect().await?, screen).await?,
        Ask::Top(options) => stats::top(options, connect().await?, screen).await?,
        Ask::Drain(options) => drain::run(options, connect().await?, screen).await?,
        Ask::Limits(command) => stats::limits(command, connect().await?, screen).await?,
        Ask::Audit(audit::Command::List(filter)) => audit::list(filter, connect().await?, screen).await?,
        Ask::Audit(audit::Command::Verify(options)) => {
            let client = if options.offline() { None } else { Some(connect().await?) };
            audit::verify(options, client, screen).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
