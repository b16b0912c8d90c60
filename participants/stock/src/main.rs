//! The stock service as a process.

use std::process::ExitCode;

use tercet::bootstrap::{self, Config};
use tercet_events::settings::Kafka;
use tercet_stock::{SERVICE, service};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    bootstrap::run_with(SERVICE, env!("CARGO_PKG_VERSION"), async |config: Config, kafka: Kafka| {
        let bus = kafka.connect().await?;
        match config.scheme() {
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                let service = service(config.open::<sqlx::Sqlite>().await?, bus.as_ref()).await?;
                config.serve(service).await
            }
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => {
                let service = service(config.open::<sqlx::MySql>().await?, bus.as_ref()).await?;
                config.serve(service).await
            }
            other => anyhow::bail!("no database of kind {other:?} is built into this program"),
        }
    })
    .await
}
