//! Bugs that are planted in a copy of the sources, one at a time, and that the simulation has to find.
//!
//! What is built from a bug can not pass for the original: its crates lie in another folder, which is part of their
//! identity, and the program has a name of its own. So it shares the target folder of this build, and with it all
//! that does not come from this repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// The bugs, as patches.
pub const FOLDER: &str = "integration/mutants";

/// The name of the simulation with a bug, which tells it from the original's in a list of processes.
const PROGRAM: &str = "mutated-sim";

/// What is not copied.
const NO_SOURCES: [&str; 3] = [".git", "target", "data"];

/// What became of one bug.
#[derive(Debug)]
pub struct Hunted {
    /// The name of its patch.
    pub bug: String,
    /// What the simulation said of the first seed that it broke; `None`: it went unseen.
    pub found: Option<String>,
    /// How long it took, most of it to build.
    pub took: Duration,
}

/// Plants each of the bugs, all without one, and runs so many seeds until one is broken. `hunted` hears of each.
///
/// # Errors
/// When there is no such bug, one does not apply any more or does not build, or the simulation ends as it never does.
pub fn hunt(bugs: &[String], seeds: u64, mut hunted: impl FnMut(&Hunted)) -> anyhow::Result<Vec<Hunted>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut patches = Vec::new();
    for entry in std::fs::read_dir(top.join(FOLDER))? {
        let path = entry?.path();
        let bug = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|kind| kind == "patch") && (bugs.is_empty() || bugs.contains(&bug)) {
            apply(&top, &path, &["--check"]).with_context(|| format!("{bug} does not apply any more"))?;
            patches.push((bug, path));
        }
    }
    patches.sort();
    ensure!(!patches.is_empty(), "there is no such bug");
    let target = target()?;
    let tree = target.join("mutants");
    copy(&top, &tree)?;
    let mut all = Vec::new();
    for (bug, patch) in patches {
        let start = Instant::now();
        apply(&tree, &patch, &[])?;
        let found = build(&tree, &target).and_then(|()| run(&target, seeds));
        apply(&tree, &patch, &["--reverse"])?;
        let found = found.with_context(|| bug.clone())?;
        let one = Hunted { bug, found, took: start.elapsed() };
        hunted(&one);
        all.push(one);
    }
    Ok(all)
}

/// The folder that cargo has built this program in: as a program `target/debug/NAME`, as a test one deeper.
fn target() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut above = own.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    Ok(above.nth(1).context("this program does not lie where cargo has built it")?.to_owned())
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
    std::fs::create_dir_all(tree)?;
    for entry in std::fs::read_dir(top)? {
        let entry = entry?;
        let (from, to) = (entry.path(), tree.join(entry.file_name()));
        if NO_SOURCES.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
            continue;
        }
        let mut content = std::fs::read(&from)?;
        if from.ends_with("simulation/Cargo.toml") {
            let bin = format!("\n[[bin]]\nname = \"{PROGRAM}\"\npath = \"src/bin/sim.rs\"\n");
            content.extend_from_slice(bin.as_bytes());
        }
        if std::fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        std::fs::write(&to, content)?;
    }
    Ok(())
}

fn build(tree: &Path, target: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells its children of the package it runs: it would build again whatever has looked at that.
    for (name, _) in std::env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| own.iter().any(|own| name.starts_with(own))) {
            cargo.env_remove(name);
        }
    }
    // The whole workspace, for the same features of what is built already.
    cargo.args(["build", "--workspace", "--bin", PROGRAM, "--locked", "--quiet", "--target-dir"]).arg(target);
    expect(cargo.current_dir(tree))?;
    Ok(())
}

/// What the simulation said, if it found something.
fn run(target: &Path, seeds: u64) -> anyhow::Result<Option<String>> {
    let mut sim = Command::new(target.join("debug").join(PROGRAM));
    let output = sim.args(["--first", "--seeds", &seeds.to_string()]).output()?;
    match output.status.code() {
        Some(0) => Ok(None),
        Some(1) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let line = text.lines().find(|line| line.starts_with("seed ")).unwrap_or(&text);
            Ok(Some(line.to_owned()))
        }
        code => bail!("the simulation ended with {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn expect(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
