//! Deletes what is too old. Several instances do no harm: each deletes what it finds.

use std::time::Duration;

use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::limits::{PURGE_INTERVAL, PURGE_ROWS};
use crate::store::Store;

const DAY_MS: i64 = 86_400_000;

/// The job of one database.
#[derive(Debug)]
pub(crate) struct Purging<Db: Store> {
    pool: Pool<Db>,
    days: u32,
}

impl<Db: Store> Purging<Db> {
    pub(crate) const fn new(pool: Pool<Db>, days: u32) -> Self {
        Self { pool, days }
    }

    pub(crate) async fn run(self, mut stop: Stop) -> Result<(), Failure> {
        while self.days > 0 && !stop.is_requested() {
            let pause = match self.purge().await {
                // There may be more.
                Ok(PURGE_ROWS) => Duration::ZERO,
                Ok(_) => PURGE_INTERVAL,
                Err(error) => {
                    warn!(%error, "old entries could not be deleted yet");
                    PURGE_INTERVAL
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.requested() => {}
            }
        }
        Ok(())
    }

    async fn purge(&self) -> sqlx::Result<i64> {
        let mut db = self.pool.acquire().await?;
        let gone = Db::purge(&mut db, i64::from(self.days) * DAY_MS, PURGE_ROWS).await?;
        if gone > 0 {
            info!(entries = gone, "old entries deleted");
        }
        Ok(gone)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;
    use crate::entry::Entry;

    /// How old the entries are, in hours.
    async fn ages(pool: &Pool<Sqlite>) -> Vec<i64> {
        const SQL: &str = "SELECT CAST(round((unixepoch() * 1000 - at_ms) / 3600000.0) AS INTEGER) FROM business_log";
        sqlx::query_scalar(SQL).fetch_all(pool).await.expect("SQLite answers")
    }

    #[tokio::test]
    async fn entries_go_after_their_days_all_of_them_and_none_where_they_are_kept_for_ever() {
        let options = SqlitePoolOptions::new().max_connections(1);
        let pool: Pool<Sqlite> = options.connect("sqlite::memory:").await.expect("SQLite answers");
        Sqlite::migrate(&pool).await.expect("SQLite answers");
        let now_ms: i64 =
            sqlx::query_scalar("SELECT unixepoch() * 1000").fetch_one(&pool).await.expect("SQLite answers");
        let of = |hours: i64| Entry { at_ms: now_ms - hours * DAY_MS / 24, ..Entry::default() };
        let mut entries = vec![of(47)];
        entries.extend((0..=PURGE_ROWS).map(|_| of(49)));
        Sqlite::write(&mut *pool.acquire().await.expect("SQLite answers"), &entries).await.expect("SQLite answers");
        let (stop, stopped) = watch::channel(false);
        let patience = PURGE_INTERVAL / 2;
        timeout(patience, Purging::new(pool.clone(), 0).run(Stop::from(stopped.clone())))
            .await
            .expect("SQLite answers")
            .expect("SQLite answers");
        assert_eq!(ages(&pool).await.len(), entries.len());
        let purging = tokio::spawn(Purging::new(pool.clone(), 2).run(Stop::from(stopped)));
        // More than go at once, and long before the next look.
        let gone = async {
            while ages(&pool).await != [47] {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(patience, gone).await.expect("SQLite answers");
        stop.send_replace(true);
        timeout(patience, purging).await.expect("SQLite answers").expect("SQLite answers").expect("SQLite answers");
    }
}
