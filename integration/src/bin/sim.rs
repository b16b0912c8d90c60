//! Runs seeds of the simulation and says what broke.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tercet_integration::sim::{self, Planted};

/// Simulates crashes, losses, repeats, reordering and lateness, each run from one seed.
#[derive(Debug, Parser)]
struct Cli {
    /// How many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first one. A failing seed alone: --from SEED --seeds 1.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// A fault of Tercet itself to plant; then at least one seed has to find it.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
    /// One object on standard output.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let bar = ProgressBar::new(cli.seeds);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {msg}").expect("a valid template"));
    let (mut simulated, mut ended, mut failed) = (Duration::ZERO, (0, 0), Vec::new());
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in cli.from..cli.from.saturating_add(cli.seeds) {
        let report = sim::run(seed, cli.planted);
        simulated += report.simulated;
        ended = (ended.0 + report.ended.0, ended.1 + report.ended.1);
        report.faults.iter().for_each(|(kind, count)| *faults.entry(kind).or_default() += count);
        if !report.broken.is_empty() {
            bar.suspend(|| report.broken.iter().for_each(|what| eprintln!("seed {seed}: {what}")));
            failed.push(seed);
            bar.set_message(format!("{} broken", failed.len()));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let hours = simulated.as_secs_f64() / 3_600.0;
    if cli.json {
        let report = serde_json::json!({
            "seeds": cli.seeds, "from": cli.from, "broken": failed, "simulated_hours": hours,
            "confirmed": ended.0, "cancelled": ended.1, "faults": faults,
        });
        println!("{report}");
    } else {
        println!("{} seeds, {hours:.1} simulated hours, {} confirmed, {} cancelled", cli.seeds, ended.0, ended.1);
        faults.iter().for_each(|(kind, count)| println!("  {count:>8}  {kind}"));
        println!(
            "{} broken{}",
            failed.len(),
            failed.first().map_or_else(String::new, |seed| format!("; replay: sim --from {seed} --seeds 1"))
        );
    }
    // A planted fault has to be found, and nothing else may be.
    if failed.is_empty() == cli.planted.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
