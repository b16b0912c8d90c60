//! What stands between a process and its files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Builds what is preloaded, with the system's C compiler.
///
/// # Errors
/// When there is none, or it does not compile.
pub(super) fn build(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let (source, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&source, text)?;
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .context("cc, a C compiler, does not start")?;
    if !built.status.success() {
        bail!("{name}.c does not compile:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(library)
}
