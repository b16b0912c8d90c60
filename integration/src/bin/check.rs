//! `check`: is everything as the clients were told, and does it add up?
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tercet_integration::checker;

/// Reads the databases that a run has left in a folder, and what its clients were told, and nothing else.
///
/// The folder holds coordinator/tercet.db, stock.db, coupon.db, order.db and history.jsonl. Ends with 1 when something
/// is lost, split, unfinished or does not add up.
#[derive(Debug, Parser)]
#[command(name = "check")]
struct Cli {
    /// The folder
    folder: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let verdict = match checker::check(&cli.folder).await {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("check: {error:#}");
            return ExitCode::from(2);
        }
    };
    if cli.json {
        println!("{}", serde_json::json!(verdict));
    } else {
        print!("{verdict}");
    }
    if verdict.sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
