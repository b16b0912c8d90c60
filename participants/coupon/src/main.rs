//! The coupon service as a process.

use std::process::ExitCode;

use tercet::bootstrap;
use tercet::fence::Dialect;
use tercet_coupon::store::batches::Batches;
use tercet_coupon::store::redemptions::Redemptions;
use tercet_coupon::{SERVICE, Shards};
use tercet_events::by_database;
use tercet_events::settings::Kafka;
use tercet_shards::ShardMap;

#[derive(clap::Args)]
struct Own {
    /// How users' rows are spread at first: DATABASESxTABLES, such as 10x100; --database names so many
    #[arg(long, env = "TERCET_SHARDS", default_value = "1x1")]
    shards: ShardMap,
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

async fn serve<Db: Batches + Redemptions + Dialect>(config: bootstrap::Config, own: Own) -> anyhow::Result<()> {
    let shards = Shards::<Db>::new(own.shards, config.open_all().await?)?;
    let bus = own.kafka.connect().await?;
    config.serve(tercet_coupon::service(shards, bus.as_ref()).await?).await
}
