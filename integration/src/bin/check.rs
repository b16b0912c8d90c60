//! `check`: is everything as the clients were told, and does it add up?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tercet_integration::{checker, cli};

/// Reads the databases that a run has left in a folder, and what its clients were told, and nothing else.
///
/// The folder holds coordinator/tercet.db, stock.db, coupon.db, order.db and history.jsonl. Ends with 1 when something
/// is lost, split, unfinished or does not add up.
#[derive(Debug, Parser)]
#[command(name = "check")]
struct Args {
    /// The folder
    folder: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Args { folder, json } = Args::parse();
    cli::run("check", async move {
        let verdict = checker::check(&folder).await?;
        cli::print(&verdict, json);
        Ok(verdict.sound())
    })
}
