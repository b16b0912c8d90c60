//! What the command lines of this crate share.
#![allow(clippy::print_stdout, reason = "it is for command lines")]

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Runs a command on one thread. It ends with 0 when `true` came out, and with 1 otherwise; on Ctrl-C and SIGTERM what
/// runs is dropped, and with it the servers that it started.
pub fn run(name: &str, command: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, until_stopped(command)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_stopped(command: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = command => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped"),
        _ = terminate.recv() => anyhow::bail!("stopped"),
    }
}

/// Prints what came out, for people or as one JSON object.
pub fn print(report: &(impl Display + Serialize), json: bool) {
    if json {
        println!("{}", serde_json::to_string(report).expect("a report has a form in JSON"));
    } else {
        print!("{report}");
    }
}
