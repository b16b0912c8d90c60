//! The business log as a process.

use std::process::ExitCode;

use tercet::bootstrap::{self, Config};
use tercet_business_log::store::Store;
use tercet_business_log::{SERVICE, Settings, service};
use tercet_events::by_database;
use tercet_events::settings::Kafka;

#[derive(clap::Args)]
struct Own {
    #[command(flatten)]
    log: Settings,
    #[command(flatten)]
    kafka: Kafka,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    bootstrap::run_with(SERVICE, env!("CARGO_PKG_VERSION"), async |config, own: Own| {
        by_database!(config.scheme(), serve(config, own))
    })
    .await
}

async fn serve<Db: Store>(config: Config, own: Own) -> anyhow::Result<()> {
    let bus = own.kafka.connect().await?;
    let service = service::<Db>(config.open().await?, bus.as_ref(), own.log).await?;
    config.serve(service).await
}
