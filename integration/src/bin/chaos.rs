//! `chaos`: kills servers under load, and checks that nothing was harmed.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tercet_integration::chaos::{self, DiskConfig, KillConfig, PowerConfig, RecoverConfig};
use tercet_integration::{cli, noop};

/// Kills and freezes coordinator, participants and databases, real processes all of them, while clients work.
///
/// Ends with 1 when something that a client was told is lost, a transaction is split or unfinished, or sums are wrong.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill and freeze coordinator, stock, coupon, order and their databases in turn, under claims and checkouts
    Kill(KillConfig),
    /// Cut the coordinator's power: what it had not synced is lost, in part or whole
    Power(PowerConfig),
    /// Fill the coordinator's disk, a small one of its own, and empty it again; needs root
    Disk(DiskConfig),
    /// Kill the coordinator once, with very many transactions in flight
    Recover(RecoverConfig),
    /// One participant that does nothing
    #[command(hide = true)]
    Participant(noop::Config),
}

fn main() -> ExitCode {
    cli::run("chaos", run(Cli::parse().command))
}

async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Kill(config) => {
            let report = chaos::kill(&config).await?;
            cli::print(&report, config.json);
            Ok(report.broken.is_empty())
        }
        Command::Power(config) => {
            let report = chaos::power(&config).await?;
            cli::print(&report, config.json);
            Ok(report.broken.is_empty())
        }
        Command::Disk(config) => {
            let report = chaos::disk(&config).await?;
            cli::print(&report, config.json);
            Ok(report.broken.is_empty())
        }
        Command::Recover(config) => {
            let report = chaos::recover(&config).await?;
            cli::print(&report, config.json);
            Ok(report.broken.is_empty())
        }
        Command::Participant(config) => {
            noop::run(config).await?;
            Ok(true)
        }
    }
}
