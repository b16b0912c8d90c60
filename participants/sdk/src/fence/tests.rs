//! The suite on SQLite; `integration` runs it on real servers.

use super::{conformance, guard};
use crate::context::Context;
use crate::fixture::{shelf, shop, shop_database};
use crate::participant::Answer;
use crate::xid::Xid;

#[tokio::test]
async fn sqlite_keeps_the_fences_promises() {
    let folder = tempfile::tempdir().unwrap();
    conformance::run::<sqlx::Sqlite>(&format!("sqlite://{}/fence.db", folder.path().display())).await;
}

async fn take(pool: sqlx::SqlitePool) -> Result<Answer, sqlx::Error> {
    let context = Context { xid: Xid::new([1; 16]), branch: 0, not_after_ms: 1 };
    let mut db_tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let handler = async |db_tx: &mut sqlx::SqliteConnection| {
        sqlx::query("UPDATE shop SET held = held + 1").execute(db_tx).await?;
        Ok(Answer::done())
    };
    let answer = guard(&mut *db_tx, &context, handler).await?;
    db_tx.commit().await?;
    Ok(answer)
}

#[tokio::test]
async fn a_guarded_handler_can_run_on_another_thread() {
    let (_folder, pool) = shop_database().await;
    shop(&pool).executor().await.unwrap();
    for _ in 0..2 {
        assert_eq!(tokio::spawn(take(pool.clone())).await.unwrap().unwrap(), Answer::done());
    }
    assert_eq!(shelf(&pool).await, (10, 1));
}
