//! `tercet serve`.

use std::process::ExitCode;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::metrics;

const SECONDS: [f64; 14] = [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
const ROWS: [f64; 9] = [1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Runs a coordinator until it is told to stop. One runtime on one thread: two cost more of both cores than they bring.
pub fn main(config: Config) -> ExitCode {
    if let Err(error) = logs(&config) {
        eprintln!("tercet: {error}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            exporter(&config)?;
            let (ready, _address) = oneshot::channel();
            Ok(crate::run(config, ready, shutdown()).await?)
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tercet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn logs(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|error| anyhow::anyhow!("log_filter: {:?}: {error}", config.log_filter))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

fn exporter(config: &Config) -> anyhow::Result<()> {
    let Some(address) = config.metrics else { return Ok(()) };
    PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS)?
        .set_buckets_for_metric(Matcher::Suffix("_calls".into()), &ROWS)?
        .install()
        .map_err(|error| anyhow::anyhow!("metrics on {address}: {error}"))?;
    metrics::describe();
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
