//! `check`: is everything as the clients were told, and does it add up?

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tercet_integration::checker::{self, shards};
use tercet_integration::cli;
use tercet_shards::ShardMap;

/// Reads the databases that a run has left in a folder, and what its clients were told, and nothing else.
///
/// The folder holds coordinator/tercet.db, stock.db, coupon.db, order.db and history.jsonl. Ends with 1 when something
/// is lost, split, unfinished or does not add up.
#[derive(Debug, Parser)]
#[command(name = "check", args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Args {
    /// The folder
    folder: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Checks the coupon platform over all shards, also while it runs: reads its databases, and writes nothing
    Shards(Shards),
}

#[derive(Debug, clap::Args)]
struct Shards {
    /// As the coupon service has it: DATABASESxTABLES
    #[arg(long, default_value = "1x1")]
    map: ShardMap,
    /// URLs of the coupons' databases, in the map's order
    #[arg(long, value_delimiter = ',', required = true)]
    coupon: Vec<String>,
    /// URL of the stock's database
    #[arg(long)]
    stock: String,
    /// URL of the orders' database
    #[arg(long)]
    order: String,
    /// URL of the templates' database
    #[arg(long)]
    template: String,
    /// URL of the business log's database
    #[arg(long)]
    log: String,
    /// Seconds for which what looks wrong is looked at again
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Args { folder, json, what } = Args::parse();
    cli::run("check", async move {
        if let Some(What::Shards(Shards { map, coupon, stock, order, template, log, patience, json })) = what {
            let places = shards::Places { map, coupon, stock, order, template, log };
            let report = shards::check(&places, Duration::from_secs(patience)).await?;
            cli::print(&report, json);
            return Ok(report.sound());
        }
        let folder = folder.unwrap_or_default();
        let verdict = checker::check(&folder).await?;
        cli::print(&verdict, json);
        Ok(verdict.sound())
    })
}
