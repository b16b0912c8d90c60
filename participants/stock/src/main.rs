//! The stock service as a process.

use std::process::ExitCode;

use tercet::bootstrap::{self, Config};
use tercet::fence::Dialect;
use tercet_events::by_database;
use tercet_events::settings::Kafka;
use tercet_stock::store::Store;
use tercet_stock::{SERVICE, service};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    bootstrap::run_with(SERVICE, env!("CARGO_PKG_VERSION"), async |config, kafka: Kafka| {
        by_database!(config.scheme(), serve(config, kafka))
    })
    .await
}

async fn serve<Db: Store + Dialect>(config: Config, kafka: Kafka) -> anyhow::Result<()> {
    let bus = kafka.connect().await?;
    let service = service::<Db>(config.open().await?, bus.as_ref()).await?;
    config.serve(service).await
}
