//! The order service as a process.

use std::process::ExitCode;

use tercet::bootstrap::{self, Config};
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
    bootstrap::run_with(SERVICE, env!("CARGO_PKG_VERSION"), async |config, own: Own| match config.scheme() {
        #[cfg(feature = "sqlite")]
        "sqlite" => serve::<sqlx::Sqlite>(config, own).await,
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => serve::<sqlx::MySql>(config, own).await,
        other => anyhow::bail!("no database of kind {other:?} is built into this program"),
    })
    .await
}

async fn serve<Db: Unpaid>(config: Config, own: Own) -> anyhow::Result<()> {
    let bus = own.kafka.connect().await?;
    let (pool, redemption) = (config.open::<Db>().await?, config.channel(&own.redemption)?);
    let service = service(pool.clone(), bus.as_ref()).await?;
    config.serve(closing(service, pool, redemption)).await
}
