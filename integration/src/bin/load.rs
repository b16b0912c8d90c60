//! `load`: how much a coordinator does, or the whole platform behind its gateway, and what each thing costs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tercet_integration::load::commits::CommitsConfig;
use tercet_integration::load::size::{LiveConfig, StartConfig};
use tercet_integration::load::work::Kind;
use tercet_integration::load::{self, Config};
use tercet_integration::load::{bulkhead, gateway, overload, recover, rogue};
use tercet_integration::{cli, noop};

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
    /// Group commits of the embedded store alone, and how long a checkpoint stalls one
    Commits(CommitsConfig),
    /// Memory with many transactions that wait
    Live(LiveConfig),
    /// How long the coordinator takes to start, and its memory then
    Start(StartConfig),
    /// A million rows in compensation_log of ten services, of which nine come back
    Recover(recover::Config),
    /// One of three services in trouble, at half of the peak
    Bulkhead(bulkhead::Config),
    /// Five times the peak
    Overload(overload::Config),
    #[command(flatten)]
    Users(Users),
    /// Participants that do nothing
    #[command(hide = true)]
    Participant(noop::Config),
    /// A participant that breaks the rules
    #[command(hide = true)]
    Rogue(rogue::Config),
}

/// What users and operators ask of the platform, through its gateway.
#[derive(Debug, Subcommand)]
enum Users {
    /// Users claim coupons through the gateway
    Claims(gateway::Config),
    /// Users look at their coupons (70 %) and at a template (20 %), and claim coupons of it (10 %)
    Mixed(gateway::Config),
    /// 20 coupons of each user are tried on orders
    Validate(gateway::Config),
    /// 200,000 users want one of 100,000 coupons
    HotTemplate(gateway::HotConfig),
    /// An operator issues coupons to many users
    Batch(gateway::BatchConfig),
    /// Slots move to more databases while users claim coupons
    Move(gateway::MoveConfig),
}

impl Users {
    async fn run(self) -> anyhow::Result<bool> {
        let (report, json) = match self {
            Self::Claims(config) => (gateway::claims(&config).await?, config.json),
            Self::Mixed(config) => (gateway::mixed(&config).await?, config.json),
            Self::Validate(config) => (gateway::validate(&config).await?, config.json),
            Self::HotTemplate(config) => (gateway::hot_template(&config).await?, config.json),
            Self::Batch(config) => (gateway::batch(&config).await?, config.json),
            Self::Move(config) => (gateway::moving(&config).await?, config.json),
        };
        cli::print(&report, json);
        Ok(report.broken.is_empty())
    }
}

fn main() -> ExitCode {
    cli::run("load", run(Cli::parse().command))
}

async fn run(command: Command) -> anyhow::Result<bool> {
    let (kind, config) = match command {
        Command::Tcc(config) => (Kind::Tcc, config),
        Command::Saga(config) => (Kind::Saga, config),
        Command::Message(config) => (Kind::Message, config),
        Command::Steps(config) => (Kind::Steps, config),
        Command::Checkout(config) => (Kind::Checkout, config),
        Command::Hot(config) => (Kind::Hot, config),
        Command::Commits(config) => {
            cli::print(&load::commits::run(&config).await?, config.json);
            return Ok(true);
        }
        Command::Live(config) => {
            let held = load::size::live(&config).await?;
            cli::print(&held, config.json);
            return Ok(held.broken.is_empty());
        }
        Command::Start(config) => {
            cli::print(&load::size::start().await?, config.json);
            return Ok(true);
        }
        Command::Recover(config) => {
            let report = recover::run(&config).await?;
            cli::print(&report, config.json);
            return Ok(report.broken.is_empty());
        }
        Command::Bulkhead(config) => {
            let report = bulkhead::run(&config).await?;
            cli::print(&report, config.json);
            return Ok(report.broken.is_empty());
        }
        Command::Overload(config) => {
            let report = overload::run(&config).await?;
            cli::print(&report, config.json);
            return Ok(report.broken.is_empty());
        }
        Command::Users(users) => return users.run().await,
        Command::Participant(config) => {
            noop::run(config).await?;
            return Ok(true);
        }
        Command::Rogue(config) => {
            rogue::run(config).await?;
            return Ok(true);
        }
    };
    let json = config.json;
    let report = load::run(kind, config).await?;
    cli::print(&report, json);
    Ok(report.broken.is_empty())
}
