//! Kills real processes under load, and finds out whether anything was harmed.

mod acts;
mod clients;
mod full;
mod kill;
mod power;
mod preload;
mod recover;
mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

pub use self::full::{Config as DiskConfig, Report as DiskReport, run as disk};
pub use self::kill::{Config as KillConfig, Database, Report as KillReport, run as kill};
pub use self::power::{Config as PowerConfig, Report as PowerReport, run as power};
pub use self::recover::{Config as RecoverConfig, Report as RecoverReport, run as recover};

/// What the coordinator's store says of transactions that have not ended.
struct InDoubt {
    count: i64,
    /// The newest of them. Names are in the order of time.
    newest: Vec<u8>,
}

/// Reads the coordinator's file, from outside.
struct Store {
    path: PathBuf,
}

impl Store {
    fn of(folder: &Path) -> Self {
        Self { path: folder.join("coordinator").join("tercet.db") }
    }

    /// All that have not ended. The connection is closed again: the coordinator must find its file as it left it.
    async fn in_doubt(&self) -> anyhow::Result<InDoubt> {
        self.read("SELECT COUNT(*), MAX(xid) FROM tx WHERE ended_at IS NULL", None).await
    }

    /// Those that have not ended and are not newer than this one.
    async fn still_in_doubt(&self, newest: &[u8]) -> anyhow::Result<i64> {
        let sql = "SELECT COUNT(*), MAX(xid) FROM tx INDEXED BY tx_unfinished WHERE ended_at IS NULL AND xid <= $1";
        Ok(self.read(sql, Some(newest)).await?.count)
    }

    /// From now to the end of the last one of those that were in doubt.
    async fn last_ended(&self, in_doubt: &InDoubt) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let left = self.still_in_doubt(&in_doubt.newest).await?;
            if left == 0 {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > stage::PATIENCE {
                bail!("{left} transactions are still in doubt after {:?}", stage::PATIENCE);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn read(&self, sql: &'static str, newest: Option<&[u8]>) -> anyhow::Result<InDoubt> {
        let options = SqliteConnectOptions::new().filename(&self.path).read_only(true).disable_statement_logging();
        let mut connection = options.connect().await?;
        let query = sqlx::query_as::<_, (i64, Option<Vec<u8>>)>(sql);
        let query = if let Some(newest) = newest { query.bind(newest.to_vec()) } else { query };
        let (count, newest) = query.fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(InDoubt { count, newest: newest.unwrap_or_default() })
    }
}

/// Numbers that are the same for the same seed.
#[derive(Clone, Copy, Debug)]
struct Dice(u64);

impl Dice {
    /// The next one, by SplitMix64.
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True so often in a hundred times.
    fn percent(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}
