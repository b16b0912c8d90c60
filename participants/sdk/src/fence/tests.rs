//! The suite on SQLite; `integration` runs it on real servers.

use super::conformance;

#[tokio::test]
async fn sqlite_keeps_the_fences_promises() {
    let folder = tempfile::tempdir().unwrap();
    conformance::run::<sqlx::Sqlite>(&format!("sqlite://{}/fence.db", folder.path().display())).await;
}
