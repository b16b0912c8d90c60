//! The redemption service as a process.

use std::process::ExitCode;

use tercet::bootstrap;
use tercet::fence::Dialect;
use tercet_coupon::Shards;
use tercet_coupon::redemption::{self, Peers, SERVICE, Settings, limits};
use tercet_coupon::store::redemptions::Redemptions;
use tercet_events::by_database;
use tercet_shards::{ShardMap, node};

#[derive(clap::Args)]
struct Own {
    /// How users' rows are spread at first, as the coupon service has it: DATABASESxTABLES; --database names so many
    #[arg(long, env = "TERCET_SHARDS", default_value = "1x1")]
    shards: ShardMap,
    /// URL of the template service
    #[arg(long, env = "TERCET_TEMPLATES", default_value = "http://127.0.0.1:7074")]
    templates: String,
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    bootstrap::run_with(SERVICE, env!("CARGO_PKG_VERSION"), async |config, own: Own| {
        by_database!(config.scheme(), serve(config, own))
    })
    .await
}

async fn serve<Db>(config: bootstrap::Config, own: Own) -> anyhow::Result<()>
where
    Db: Redemptions + Dialect + node::Store,
{
    let shards = Shards::<Db>::new(own.shards, config.open_all().await?)?;
    let peers = Peers { client: config.client(limits::CALL_TIMEOUT)?, templates: config.channel(&own.templates)? };
    config.serve(redemption::service(shards, peers, own.settings).await?).await
}
