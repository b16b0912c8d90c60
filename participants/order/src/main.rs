//! The order service as a process.

use std::process::ExitCode;

use tercet::bootstrap::{self, Config};
use tercet_events::by_database;
use tercet_events::settings::Kafka;
use tercet_order::store::unpaid::Unpaid;
use tercet_order::{SERVICE, closing, service};

#[derive(clap::Args)]
struct Own {
    /// URL of the redemption service, which takes back what nobody has paid in time
    #[arg(long, env = "TERCET_REDEMPTION", default_value = "http://127.0.0.1:7077")]
    redemption: String,
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

async fn serve<Db: Unpaid>(config: Config, own: Own) -> anyhow::Result<()> {
    let bus = own.kafka.connect().await?;
    let (pool, redemption) = (config.open::<Db>().await?, config.channel(&own.redemption)?);
    let service = service(pool.clone(), bus.as_ref()).await?;
    config.serve(closing(service, pool, redemption)).await
}
