//! What is kept of occasions: their runs, whom those were for, and what they issued.
//!
//! An active occasion has to know each of its users, however long ago he came, or a repeated event would give him
//! twice. One that is stopped hears of nobody any more: so long after that, and when none of its runs waits, all of it
//! goes but its own row with its counts. First it says so, and from then on nothing of it is tried again; then run by
//! run goes, its rows before itself, so whoever comes after a crash finds what is left.

use tercet::fence::Dialect;
use tercet::participant::Moves as _;
use tercet_shards::Slot;

use super::super::limits::{OCCASIONS_MAX, OLD_RUNS_MAX, OLD_USERS};
use super::super::occasions::batch_id;
use super::{Error, Jobs};
use crate::metrics;
use crate::store::occasions::{Run, RunState};
use crate::store::old::{Kept, Old};

const DAY_MS: i64 = 86_400_000;

impl<Db: Old + Dialect> Jobs<Db> {
    /// Deletes what is too old, or as much of it as a round may; returns how many users that were.
    pub(super) async fn delete_old(&self) -> Result<u64, Error> {
        let Some(now_ms) = self.ids.clock_ms() else { return Ok(0) };
        let before_ms = now_ms - i64::from(self.settings.retention_days) * DAY_MS;
        let mut connection = self.shards.home().acquire().await?;
        let old = Db::old_occasions(&mut connection, before_ms, OCCASIONS_MAX).await?;
        let (mut users, mut runs_left) = (0, OLD_RUNS_MAX);
        for (occasion_id, is_whole) in old {
            if is_whole && !Db::keep_less(&mut connection, occasion_id, (Kept::All, Kept::Rest)).await? {
                continue;
            }
            let mut runs = Vec::new();
            for state in [RunState::Done, RunState::Refused] {
                let limit = runs_left - runs.len();
                runs.extend(Db::runs(&mut connection, (occasion_id, state), i64::MAX, limit).await?);
            }
            runs_left -= runs.len();
            let mut is_gone = runs_left > 0;
            for run in &runs {
                match self.delete_run(run).await? {
                    Some(deleted) => users += deleted,
                    None => is_gone = false,
                }
            }
            if is_gone {
                Db::keep_less(&mut connection, occasion_id, (Kept::Rest, Kept::None)).await?;
            }
            if runs_left == 0 {
                break;
            }
        }
        metrics::old_users(users);
        Ok(users)
    }

    /// Returns how many users it had; `None` where it stays for another round, since rows of it are moving.
    async fn delete_run(&self, run: &Run) -> Result<Option<u64>, Error> {
        let mut connection = self.shards.home().acquire().await?;
        let batch = Db::batch(&mut connection, &batch_id(run)).await?;
        if let Some(batch) = &batch
            && !self.delete_chunks(batch.batch).await?
        {
            return Ok(None);
        }
        let mut users = 0;
        while let Some(last) = Db::run_users(&mut connection, run.run, OLD_USERS).await?.last() {
            users += Db::drop_users(&mut connection, run.run, *last).await?;
        }
        drop(connection);
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await?;
        Db::drop_run(&mut db_tx, run.run, batch.map(|batch| batch.batch)).await?;
        db_tx.commit().await?;
        Ok(Some(users))
    }

    /// Whether all of them are gone. Those that a slot has left behind go with its other rows.
    async fn delete_chunks(&self, batch: i64) -> Result<bool, Error> {
        for database in 0..self.shards.pools().len() {
            let view = self.shards.slots().view();
            let Some(mut db_tx) = self.shards.begin_at(database, view.epoch(database)).await? else {
                self.shards.look().await;
                return Ok(false);
            };
            let chunks = Db::chunks(&mut db_tx, batch).await?.into_iter().map(|(chunk, _)| chunk);
            let chunks: Vec<i64> = chunks.filter(|chunk| view.database(Slot::of_id(*chunk)) == database).collect();
            if !chunks.iter().all(|chunk| view.is_served(Slot::of_id(*chunk))) {
                return Ok(false);
            }
            if !chunks.is_empty() {
                Db::drop_chunks(&mut db_tx, batch, &chunks).await?;
                db_tx.commit().await?;
            }
        }
        Ok(true)
    }
}
