//! `load`: how much a coordinator does, and what each transaction costs.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tercet_integration::load::size::{LiveConfig, StartConfig};
use tercet_integration::load::work::Kind;
use tercet_integration::load::{self, Config};
use tercet_integration::noop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Starts a coordinator and three participants, each a process of its own, and drives transactions through them.
///
/// Ends with 1 when a transaction failed or the services' sums do not add up.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three branches, tried and confirmed, of participants that do nothing
    Tcc(Config),
    /// Three steps, one after another
    Saga(Config),
    /// A message to three receivers
    Message(Config),
    /// Begin, three times add branch, commit, each a call
    Steps(Config),
    /// Checkouts through coupon, stock and order on SQLite
    Checkout(Config),
    /// Claims of one coupon template through stock and coupon on SQLite
    Hot(Config),
    /// Memory with many transactions that wait
    Live(LiveConfig),
    /// How long the coordinator takes to start, and its memory then
    Start(StartConfig),
    /// One participant that does nothing
    #[command(hide = true)]
    Participant(noop::Config),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, async { until_stopped(run(command)).await }));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Dropping what runs kills the servers that it started.
async fn until_stopped(run: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = run => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped"),
        _ = terminate.recv() => anyhow::bail!("stopped"),
    }
}

async fn run(command: Command) -> anyhow::Result<bool> {
    let (kind, config) = match command {
        Command::Tcc(config) => (Kind::Tcc, config),
        Command::Saga(config) => (Kind::Saga, config),
        Command::Message(config) => (Kind::Message, config),
        Command::Steps(config) => (Kind::Steps, config),
        Command::Checkout(config) => (Kind::Checkout, config),
        Command::Hot(config) => (Kind::Hot, config),
        Command::Live(config) => {
            let held = load::size::live(&config).await?;
            print(&held, config.json)?;
            return Ok(held.broken.is_empty());
        }
        Command::Start(config) => {
            print(&load::size::start().await?, config.json)?;
            return Ok(true);
        }
        Command::Participant(config) => {
            noop::run(config).await?;
            return Ok(true);
        }
    };
    let json = config.json;
    let report = load::run(kind, config).await?;
    print(&report, json)?;
    Ok(report.broken.is_empty())
}

fn print(report: &(impl Display + serde::Serialize), json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
