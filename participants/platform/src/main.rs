//! `cargo run --release`: the whole platform in one process, a short burst of real work, and then it stays up.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tercet::service::BATCH_CALLS_MAX;
use tercet_platform::process::{Addresses, Running, SERVICES, start};
use tercet_platform::{burst, summary};
use tercet_proto::admin::v1::GetStatisticsRequest;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Tercet's coordinator and the coupon platform in one process, each service with its own SQLite file and port.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Folder of all databases.
    #[arg(long, env = "TERCET_DATA", default_value = "data")]
    data: PathBuf,
    /// The coordinator's address.
    #[arg(long, default_value = "127.0.0.1:7070")]
    coordinator: SocketAddr,
    /// The coordinator's address for operators.
    #[arg(long, default_value = "127.0.0.1:7069")]
    admin: SocketAddr,
    /// The stock service's own address.
    #[arg(long, default_value = "127.0.0.1:7071")]
    stock: SocketAddr,
    /// The coupon service's own address.
    #[arg(long, default_value = "127.0.0.1:7072")]
    coupon: SocketAddr,
    /// The order service's own address.
    #[arg(long, default_value = "127.0.0.1:7073")]
    order: SocketAddr,
    /// The template service's own address.
    #[arg(long, default_value = "127.0.0.1:7074")]
    template: SocketAddr,
    /// The business log's own address.
    #[arg(long, default_value = "127.0.0.1:7075")]
    business_log: SocketAddr,
    /// The issuing service's own address.
    #[arg(long, default_value = "127.0.0.1:7076")]
    issuing: SocketAddr,
    /// The redemption service's own address.
    #[arg(long, default_value = "127.0.0.1:7077")]
    redemption: SocketAddr,
    /// The gateway's address for HTTP.
    #[arg(long, default_value = "127.0.0.1:7080")]
    gateway: SocketAddr,
    /// Where Prometheus reads /metrics.
    #[arg(long, default_value = "127.0.0.1:7079")]
    metrics: SocketAddr,
    /// Most calls of the coordinator that a service executes in one local transaction; with 1 each has one of its own.
    #[arg(long, env = "TERCET_BATCH_MAX", default_value_t = BATCH_CALLS_MAX,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_CALLS_MAX)))]
    batch_max: u32,
    /// How long the burst lasts; 0 for none.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Leave after the summary.
    #[arg(long)]
    exit: bool,
    /// What is logged.
    #[arg(long, env = "TERCET_LOG_FILTER", default_value = "warn")]
    log_filter: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let Ok(filter) = cli.log_filter.parse::<Targets>() else {
        eprintln!("tercet-platform: log_filter: {:?} is no filter, such as warn or info,sqlx=warn", cli.log_filter);
        return ExitCode::from(2);
    };
    let colours = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    logs.with_writer(io::stderr).with_ansi(colours).finish().with(filter).init();
    match run(cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("tercet-platform: something does not add up");
            ExitCode::FAILURE
        }
        // Whoever read the output has had enough of it.
        Err(error) if error.downcast_ref().map(io::Error::kind) == Some(io::ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tercet-platform: {}", summary::explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything added up.
async fn run(cli: Cli) -> anyhow::Result<bool> {
    let started = Instant::now();
    let addresses = Addresses {
        data: cli.data,
        coordinator: cli.coordinator,
        admin: cli.admin,
        services: [cli.stock, cli.coupon, cli.order, cli.template, cli.business_log, cli.issuing, cli.redemption],
        gateway: cli.gateway,
        metrics: cli.metrics,
        batch_max: cli.batch_max,
    };
    let mut running = start(addresses).await?;
    let result = show(&mut running, started, cli.seconds, cli.exit).await;
    running.stop();
    result
}

/// Tells how it does, and stays until it is told to stop.
async fn show(running: &mut Running, started: Instant, seconds: u64, exit: bool) -> anyhow::Result<bool> {
    let mut out = io::stdout();
    writeln!(out, "Tercet {}, ready in {:.2} s", env!("CARGO_PKG_VERSION"), started.elapsed().as_secs_f64())?;
    let sound = if seconds == 0 { true } else { show_burst(running, seconds).await? };
    show_addresses(&running.addresses)?;
    if !exit && sound {
        writeln!(out, "Ctrl-C ends it.")?;
        tokio::select! {
            failure = running.failure() => return Err(failure),
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    Ok(sound)
}

async fn show_burst(running: &Running, seconds: u64) -> anyhow::Result<bool> {
    let mut admin = running.addresses.operate()?;
    let now_ms = admin.get_statistics(GetStatisticsRequest::default()).await?.into_inner().now_ms;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} claims and checkouts: {pos} ({per_sec}), {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let before = commits(running);
    // Every burst has ids of its own, in the order of time, with room below them for a slot.
    let burst = burst::run(running, seconds, now_ms.cast_signed() << 12, bar).await?;
    let audit = summary::Audit::read(running).await?;
    let mut out = io::stdout();
    writeln!(out, "\n{}", summary::table(&burst, commits(running) - before))?;
    writeln!(out, "{audit}\n")?;
    Ok(audit.sound())
}

/// Durable commits of all four databases.
fn commits(running: &Running) -> f64 {
    let rendered = running.metrics.render();
    let names = ["tercet_store_commit_seconds_count", "tercet_participant_commit_seconds_count"];
    names.iter().map(|name| summary::sum(&rendered, name)).sum()
}

fn show_addresses(addresses: &Addresses) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "  coordinator      {}", addresses.url())?;
    writeln!(out, "  operators        {}", addresses.admin_url())?;
    for (service, address) in SERVICES.iter().zip(addresses.services) {
        writeln!(out, "  {service:<15}  http://{address}   {}", addresses.database(service).display())?;
    }
    writeln!(out, "  gateway          http://{}", addresses.gateway)?;
    writeln!(out, "  metrics          http://{}/metrics\n", addresses.metrics)?;
    writeln!(out, "Try the API there, with a token of a user, a shop or an operator:")?;
    writeln!(out, "  cargo run --release -p tercet-gateway -- token --jwks {} user 42\n", addresses.jwks().display())?;
    writeln!(out, "Look at the last transactions:")?;
    writeln!(out, "  cargo run --release -p tercet-coordinator -- tx list --admin {}\n", addresses.admin_url())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn addresses(exposed: Option<usize>) -> Addresses {
        let at = |place: usize| {
            let host = if exposed == Some(place) { "0.0.0.0" } else { "127.0.0.1" };
            format!("{host}:{}", 7_000 + place).parse().expect("it is an address")
        };
        let services = [4, 5, 6, 7, 8, 9, 10].map(at);
        let data = PathBuf::from("data");
        Addresses { data, coordinator: at(0), admin: at(1), gateway: at(2), metrics: at(3), services, batch_max: 1 }
    }

    #[test]
    fn what_it_advises_to_give_it_takes() {
        assert!(addresses(None).check().is_ok());
        let taken = || io::Error::from(io::ErrorKind::AddrInUse);
        let setting = "listen";
        let address = addresses(None).coordinator;
        let mut said: Vec<String> = [
            tercet_coordinator::Error::Listen { setting, address, source: taken() }.into(),
            tercet_coordinator::Error::Held { folder: "data".into() }.into(),
            anyhow::Error::from(taken()).context("can not listen on 127.0.0.1:7079 for metrics"),
        ]
        .iter()
        .map(summary::explain)
        .collect();
        assert!(said[0].contains("--help") && said[1].contains("--data") && said[2].contains("--help"), "{said:?}");
        let flags: Vec<String> = Cli::command()
            .get_arguments()
            .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
            .chain(["--help".to_owned()])
            .collect();
        for place in 0..11 {
            let refused = addresses(Some(place)).check().expect_err("anybody could come");
            said.push(refused.to_string());
        }
        for text in &said {
            let words = text.split(|one: char| !one.is_ascii_lowercase() && one != '-');
            let named: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
            assert!(!named.is_empty(), "it says what can be done: {text}");
            assert!(named.iter().all(|word| flags.iter().any(|flag| flag == word)), "{text}");
        }
    }
}
