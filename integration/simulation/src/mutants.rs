//! Bugs that are planted in a copy of the sources, one at a time, and that the simulation has to find.
//!
//! The copy has a target folder of its own. Cargo tells crates in folders by where these lie in their workspace, and
//! that is the same here and there: in one folder, what is built from a bug would pass for the original.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// The bugs, as patches.
pub const FOLDER: &str = "integration/mutants";

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
    let own = target()?.join("mutants");
    let (tree, target) = (own.join("tree"), own.join("target"));
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

/// Brings the copy up to date with what git lists. What is the same stays as it is, so that the next build has little
/// to do.
fn copy(top: &Path, tree: &Path) -> anyhow::Result<()> {
    let listed = expect(Command::new("git").current_dir(top).args(["ls-files", "-z"]))?.stdout;
    let listed = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut kept = BTreeSet::new();
    for name in listed.map(|name| Path::new(OsStr::from_bytes(name))) {
        let to = tree.join(name);
        let content = match std::fs::read(top.join(name)) {
            // It is deleted, and git has not been told of it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            content => content.with_context(|| name.display().to_string())?,
        };
        if !std::fs::read(&to).is_ok_and(|old| old == content) {
            std::fs::create_dir_all(to.parent().unwrap_or(tree))?;
            std::fs::write(&to, content)?;
        }
        kept.insert(to);
    }
    keep_only(&kept, tree)
}

/// Deletes all other files.
fn keep_only(kept: &BTreeSet<PathBuf>, folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            keep_only(kept, &entry.path())?;
        } else if !kept.contains(&entry.path()) {
            std::fs::remove_file(entry.path())?;
        }
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
    // Nobody looks at it with a debugger.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.args(["build", "-p", "tercet-simulation", "--bin", "sim", "--locked", "--quiet", "--target-dir"]).arg(target);
    expect(cargo.current_dir(tree))?;
    Ok(())
}

/// What the simulation said, if it found something.
fn run(target: &Path, seeds: u64) -> anyhow::Result<Option<String>> {
    let mut sim = Command::new(target.join("debug/sim"));
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
