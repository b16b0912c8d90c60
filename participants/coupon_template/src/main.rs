//! The template service as a process.

use std::process::ExitCode;

use tercet::bootstrap;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    bootstrap::run(tercet_coupon_template::SERVICE, env!("CARGO_PKG_VERSION"), async |config| match config.scheme() {
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let service = tercet_coupon_template::service(config.open::<sqlx::Sqlite>().await?).await?;
            config.serve(service).await
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let service = tercet_coupon_template::service(config.open::<sqlx::MySql>().await?).await?;
            config.serve(service).await
        }
        other => anyhow::bail!("no database of kind {other:?} is built into this program"),
    })
    .await
}
