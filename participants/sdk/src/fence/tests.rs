//! The suite on SQLite; `integration` runs it on real servers.

use super::conformance;

#[tokio::test]
async fn sqlite_keeps_the_fences_promises() {
    let folder = tempfile::tempdir().unwrap();
    conformance::run::<sqlx::Sqlite>(&format!("sqlite://{}/fence.db", folder.path().display())).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn trial_pg() {
    conformance::run::<sqlx::Postgres>("postgres://postgres@127.0.0.1:25432/trial").await;
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn trial_maria() {
    conformance::run::<sqlx::MySql>("mysql://app:app@127.0.0.1:23306/trial").await;
}
