//! `tercet serve`.

use std::process::ExitCode;

use tercet_secure::page;
use tercet_secure::server::Protocol;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};
use crate::{metrics, store};

/// Runs a coordinator until it is told to stop. One runtime on one thread: two cost more of both cores than they bring.
/// `color`: whether logs for people may have colours.
pub fn main(config: Config, color: bool) -> ExitCode {
    if let Err(error) = logs(&config, color) {
        eprintln!("tercet: {error}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            exporter(&config).await?;
            let (ready, _address) = oneshot::channel();
            Ok(crate::run(config, ready, shutdown()).await?)
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let advice = error.downcast_ref().map_or_else(String::new, |error| format!("; {}", advice(error)));
            eprintln!("tercet: {}{advice}", causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it on one line. What has been said is not said again.
fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.contains(&cause) => said,
        cause if said.is_empty() => cause,
        cause => format!("{said}: {cause}"),
    })
}

/// What a person can do about it.
fn advice(error: &crate::Error) -> &'static str {
    match error {
        crate::Error::Listen { .. } => "stop what has the port, or name another address",
        crate::Error::Held { .. } => "stop that one, or name another folder with --data",
        crate::Error::Schedule(_) => "give one such as \"*/5 * * * * *\", every five seconds, with --scanner-cron",
        crate::Error::Security(_) => "see `tercet serve --help`",
        crate::Error::Serve(_) => "look at the log above",
        crate::Error::Driver => "start it again, and report what the log says above",
        crate::Error::Store(store::Error::Unavailable(_)) => "see `tercet doctor --data DIR`",
        crate::Error::Store(store::Error::Full(_)) => "make room on its disk, or name another with --data",
        crate::Error::Store(store::Error::Superseded { .. }) => "give each coordinator of a store a --node of its own",
        crate::Error::Store(store::Error::Damaged { .. }) => "restore it, or move it away and start empty",
        crate::Error::Store(store::Error::Unwritable { .. }) => {
            "mend its permissions or space, or name another with --data"
        }
        crate::Error::Store(store::Error::TooNew { .. }) => "start that version, or name another folder with --data",
    }
}

fn logs(config: &Config, color: bool) -> anyhow::Result<()> {
    let filter = config.log_filter.parse::<Targets>();
    let filter = filter.map_err(|error| anyhow::anyhow!("log_filter: {:?}: {error}", config.log_filter))?;
    let logs = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    let logs = logs.with_writer(std::io::stderr).with_ansi(color);
    match config.log {
        LogFormat::Text => logs.finish().with(filter).init(),
        LogFormat::Json => logs.json().finish().with(filter).init(),
    }
    Ok(())
}

async fn exporter(config: &Config) -> anyhow::Result<()> {
    let Some(address) = config.metrics else { return Ok(()) };
    config.check()?;
    let tls = config.security.load(Protocol::Http1)?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("metrics: can not listen on {address}: {error}"))?;
    let recorder = metrics::exporter()?.build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("another metrics recorder is installed"))?;
    metrics::describe();
    tokio::spawn(page::serve(listener, tls, "/metrics", move || handle.render()));
    Ok(())
}

async fn shutdown() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without the signal only SIGKILL is left, and that is safe.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_is_said_once_and_with_what_to_do() {
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let taken = crate::Error::Listen { setting: "listen", address: ([127, 0, 0, 1], 7070).into(), source: taken };
        assert!(advice(&taken).contains("another address"));
        assert_eq!(causes(&taken.into()), "listen: can not listen on 127.0.0.1:7070: address in use");
        let locked = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let locked = crate::Error::Store(store::Error::Unwritable { path: "/data".into(), source: locked });
        assert_eq!(causes(&locked.into()), "can not write /data: permission denied");
    }
}
