//! Plants each bug of `integration/mutants` in a copy of the sources, and demands that the simulation finds it.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;

/// Applies the patches one at a time, builds the simulation with each, and runs seeds until one is broken.
#[derive(Debug, Parser)]
struct Cli {
    /// The bugs, by the names of their patches; all without one.
    bugs: Vec<String>,
    /// Each has to be found within so many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Only look whether every patch still applies.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many went unseen.
fn run(cli: &Cli) -> anyhow::Result<usize> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut patches = Vec::new();
    for entry in std::fs::read_dir(top.join("integration/mutants"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|kind| kind == "patch") && (cli.bugs.is_empty() || cli.bugs.contains(&name)) {
            apply(&top, &path, &["--check"]).with_context(|| format!("{name} does not apply any more"))?;
            patches.push((name, path));
        }
    }
    patches.sort();
    ensure!(!patches.is_empty(), "there is no such patch");
    println!("{} patches apply", patches.len());
    if cli.check {
        return Ok(0);
    }
    let tree = top.join("target/mutants");
    copy(&top, &tree)?;
    let mut unseen = 0;
    for (name, patch) in &patches {
        let start = Instant::now();
        apply(&tree, patch, &[])?;
        let found = hunt(&tree, cli.seeds);
        apply(&tree, patch, &["--reverse"])?;
        let found = found.with_context(|| name.clone())?;
        let seconds = start.elapsed().as_secs();
        match found {
            Some(what) => println!("{name:<28} found in {seconds:>3} s: {what}"),
            None => {
                println!("{name:<28} went unseen in {} seeds", cli.seeds);
                unseen += 1;
            }
        }
    }
    println!("{} of {} found", patches.len() - unseen, patches.len());
    Ok(unseen)
}

fn apply(tree: &Path, patch: &Path, options: &[&str]) -> anyhow::Result<()> {
    // Not as part of the repository that it may lie in, which would leave other paths than its own alone.
    let mut git = Command::new("git");
    git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree)).current_dir(tree);
    expect(git.arg("apply").args(options).arg(patch))?;
    Ok(())
}

/// Brings the copy up to date: what is the same stays as it is, so that the next build has little to do.
fn copy(top: &Path, tree: &Path) -> anyhow::Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(top);
    let listed = String::from_utf8(expect(&mut git)?.stdout)?;
    for file in listed.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (top.join(file), tree.join(file));
        let Ok(mut content) = std::fs::read(&from) else { continue };
        if file.ends_with("simulation/Cargo.toml") {
            // A name of its own, that tells it from the original's in a list of processes.
            let bin = "\n[[bin]]\nname = \"mutated-sim\"\npath = \"src/bin/sim.rs\"\n";
            content.extend_from_slice(bin.as_bytes());
        }
        if std::fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        std::fs::create_dir_all(to.parent().unwrap_or(tree))?;
        std::fs::write(&to, content)?;
    }
    Ok(())
}

/// Builds and runs; what the simulation said, if it found something.
fn hunt(tree: &Path, seeds: u64) -> anyhow::Result<Option<String>> {
    // Of its own: what is built from a bug must never pass for the original.
    let target: PathBuf = tree.join("target");
    let mut cargo = Command::new("cargo");
    // The whole workspace, for the same features of what is built already.
    cargo.args(["build", "--workspace", "--bin", "mutated-sim", "--quiet", "--target-dir"]).arg(&target);
    cargo.env("CARGO_INCREMENTAL", "1").current_dir(tree);
    expect(&mut cargo)?;
    let mut sim = Command::new(target.join("debug/mutated-sim"));
    let output = sim.args(["--first", "--seeds", &seeds.to_string()]).output()?;
    match output.status.code() {
        Some(0) => Ok(None),
        Some(1) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok(text.lines().find(|line| line.starts_with("seed ")).map(str::to_owned))
        }
        code => bail!("the simulation ended with {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn expect(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
