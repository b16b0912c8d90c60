//! Runs seeds of the simulation, or crashes at every point, and says what broke.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tercet_simulation::{Campaign, Report, Victim, campaign, crash, run_watched};

/// Simulates crashes, losses, repeats, reordering and lateness, each run from one seed.
#[derive(Debug, Parser)]
struct Cli {
    /// How many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print all that happens in the one seed, or in the one scenario.
    #[arg(long)]
    trace: bool,
    /// End at the first broken seed.
    #[arg(long)]
    first: bool,
    /// Instead of seeds: a crash at every point between two durable writes.
    #[arg(long)]
    points: bool,
    /// With --points: the coordinator and a participant in one run besides.
    #[arg(long, requires = "points")]
    pairs: bool,
    /// One scenario of --points, by its name.
    #[arg(long)]
    scenario: Option<String>,
    /// With --scenario: who crashes at which of its points, such as coordinator@3 or 1@5 for the second instance.
    #[arg(long, requires = "scenario", value_parser = fuse)]
    crash: Vec<(Victim, u64)>,
    /// With --scenario: how long a restart takes, in milliseconds.
    #[arg(long, default_value_t = 20)]
    restart_ms: u64,
    /// One object on standard output.
    #[arg(long)]
    json: bool,
}

fn fuse(text: &str) -> Result<(Victim, u64), String> {
    let parsed = text.split_once('@').and_then(|(victim, point)| {
        let victim = match victim {
            "coordinator" => Victim::Coordinator,
            instance => Victim::Participant(instance.parse().ok()?),
        };
        Some((victim, point.parse().ok()?))
    });
    parsed.ok_or_else(|| "coordinator@POINT or INSTANCE@POINT".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let sound = if let Some(scenario) = &cli.scenario {
        let fuses: BTreeMap<_, _> = cli.crash.iter().copied().collect();
        match crash::trace(scenario, &fuses, cli.restart_ms) {
            Some(report) => alone(&report, cli.trace),
            None => {
                eprintln!("the scenarios are: {}", crash::scenarios().collect::<Vec<_>>().join("; "));
                false
            }
        }
    } else if let Some(seed) = cli.seed {
        alone(&run_watched(seed, cli.trace, None), cli.trace)
    } else if cli.points {
        points(cli.pairs, cli.json)
    } else {
        seeds(&cli)
    };
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run, in full.
fn alone(report: &Report, trace: bool) -> bool {
    report.trace.iter().for_each(|line| println!("{line}"));
    if !trace {
        report.faults.iter().for_each(|(kind, count)| println!("  {count:>8}  {kind}"));
    }
    report.broken.iter().for_each(|what| println!("broken: {what}"));
    println!("digest {:016x}, {:.1} simulated seconds", report.digest, report.simulated.as_secs_f64());
    report.broken.is_empty()
}

fn points(pairs: bool, json: bool) -> bool {
    let points = crash::everywhere(pairs);
    points.broken.iter().for_each(|what| eprintln!("{what}"));
    if json {
        let report = serde_json::json!({
            "coordinator": points.coordinator, "participants": points.participants, "pairs": points.pairs,
            "runs": points.runs, "broken": points.broken,
        });
        println!("{report}");
    } else {
        let (coordinator, participants, pairs, runs) =
            (points.coordinator, points.participants, points.pairs, points.runs);
        println!(
            "{coordinator} crashes of the coordinator, {participants} of participants, {pairs} of both, in {runs} runs"
        );
        println!("{} broken", points.broken.len());
    }
    points.broken.is_empty()
}

fn seeds(cli: &Cli) -> bool {
    let bar = ProgressBar::new(cli.seeds);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {msg}").expect("a valid template"));
    let campaign = campaign(cli.from..cli.from.saturating_add(cli.seeds), |report| {
        if !report.broken.is_empty() {
            bar.suspend(|| report.broken.iter().for_each(|what| eprintln!("seed {}: {what}", report.seed)));
        }
        bar.inc(1);
        !cli.first || report.broken.is_empty()
    });
    bar.finish_and_clear();
    print(cli, &campaign);
    campaign.broken.is_empty()
}

fn print(cli: &Cli, campaign: &Campaign) {
    let hours = campaign.simulated.as_secs_f64() / 3_600.0;
    let (confirmed, cancelled) = campaign.ended;
    let missing = campaign.missing();
    if cli.json {
        let report = serde_json::json!({
            "seeds": campaign.seeds, "from": cli.from, "broken": campaign.broken, "simulated_hours": hours,
            "confirmed": confirmed, "cancelled": cancelled, "parked": campaign.parked,
            "faults": campaign.faults, "missing": missing,
        });
        println!("{report}");
        return;
    }
    let (seeds, parked, kinds) = (campaign.seeds, campaign.parked, campaign.faults.len());
    println!(
        "{seeds} seeds, {hours:.1} simulated hours, {confirmed} confirmed, {cancelled} cancelled, {parked} parked"
    );
    println!("{kinds} kinds of faults:");
    campaign.faults.iter().for_each(|(kind, count)| println!("  {count:>8}  {kind}"));
    if !missing.is_empty() {
        println!("never happened: {}", missing.join("; "));
    }
    let replay = campaign.broken.keys().next();
    let replay = replay.map_or_else(String::new, |seed| format!("; replay: sim --seed {seed} --trace"));
    println!("{} broken{replay}", campaign.broken.len());
}
