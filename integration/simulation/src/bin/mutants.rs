//! Plants each bug of `integration/mutants` in a copy of the sources, and demands that the simulation finds it.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::process::ExitCode;

use clap::Parser;
use tercet_simulation::mutants::{Hunted, hunt};

/// Applies the patches one at a time, builds the simulation with each, and runs seeds until one is broken.
#[derive(Debug, Parser)]
struct Cli {
    /// The bugs, by the names of their patches; all without one.
    bugs: Vec<String>,
    /// Each has to be found within so many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let hunted = hunt(&cli.bugs, cli.seeds, |Hunted { bug, found, took }| match found {
        Some(what) => println!("{bug:<28} found in {:>3} s: {what}", took.as_secs()),
        None => println!("{bug:<28} went unseen in {} seeds", cli.seeds),
    });
    match hunted {
        Ok(all) => {
            let found = all.iter().filter(|one| one.found.is_some()).count();
            println!("{found} of {} found", all.len());
            if found == all.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}
