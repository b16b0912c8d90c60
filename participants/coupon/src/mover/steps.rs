//! The commits of a move, each of one database.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, MySqlConnection};
use tercet::fence::is_conflict;
use tercet_shards::Slot;
use tokio::time::sleep;
use tracing::{info, warn};

use super::limits::{EVENTS_PAUSE, LOCK_WAIT_S, TRIES_MAX};
use super::{Error, Group, Mover};
use crate::store::moves;
use crate::store::seats::State;

/// What a step comes to; `false` where the slots do not stand where they have to.
type Stood = sqlx::Result<bool>;

impl Mover {
    /// Runs a step in a local transaction, which is rolled back where slots do not stand where they have to, and again
    /// where it lost against another. What it waits for, others wait for behind it: so it waits for a moment only, and
    /// then ends whoever does nothing.
    pub(super) async fn transact(
        &self,
        database: usize,
        step: impl AsyncFn(&mut MySqlConnection) -> Stood,
    ) -> Result<(), Error> {
        let failed = |error| Error::Database(database, error);
        let mut connection = self.pool(database).acquire().await.map_err(failed)?;
        moves::wait_for_locks(&mut connection, LOCK_WAIT_S).await.map_err(failed)?;
        for _ in 0..TRIES_MAX {
            match once(&mut connection, &step).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Error::Taken(database)),
                Err(error) if is_conflict::<sqlx::MySql>(&error) => {
                    let ended = moves::end_idle(&mut connection).await.map_err(failed)?;
                    warn!(database, connections = ended, %error, "a step is tried again, idle connections are ended");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Error::Busy(database))
    }

    /// Takes the slots for this mover, where they are and where they are going: no other can freeze or serve them any
    /// more. In this order: whoever froze them before had arrived before, and finds that he is gone.
    pub(super) async fn arrive(&self, group: &Group) -> Result<(), Error> {
        let (slots, mover) = (&group.slots, self.number);
        self.claim(group.from, slots).await?;
        for database in (0..self.shards.pools().len()).filter(|at| ![group.from, group.to].contains(at)) {
            self.revoke(database, slots).await?;
        }
        self.transact(group.to, async |db_tx| Ok(moves::arrive(db_tx, slots, mover).await? == slots.len())).await
    }

    /// Takes slots for this mover where they are.
    pub(super) async fn claim(&self, database: usize, slots: &[Slot]) -> Result<(), Error> {
        let mover = self.number;
        self.transact(database, async |db_tx| Ok(moves::claim(db_tx, slots, mover).await? == slots.len() as u64)).await
    }

    /// Lets slots not come to a database any more, whoever brings them; refuses where some have come, or have not left.
    async fn revoke(&self, database: usize, slots: &[Slot]) -> Result<(), Error> {
        let mover = self.number;
        self.transact(database, async |db_tx| {
            moves::step(db_tx, slots, (&[State::Arriving], State::Left), mover).await?;
            Ok(moves::standing(db_tx, slots, &[State::Served, State::Frozen], None).await? == 0)
        })
        .await
    }

    /// Lets nobody write the slots' rows where they are, whoever has begun to do so before being through.
    pub(super) async fn freeze(&self, group: &Group) -> Result<(), Error> {
        let (slots, mover) = (&group.slots, self.number);
        self.transact(group.from, async |db_tx| {
            moves::next_epoch(db_tx, 0).await?;
            let mine = moves::standing(db_tx, slots, &[State::Served], Some(mover)).await?;
            moves::step(db_tx, slots, (&[State::Served], State::Frozen), mover).await?;
            Ok(mine == slots.len())
        })
        .await
    }

    /// Serves those slots again that an earlier mover froze, once they can not come to anything by him.
    pub(super) async fn thaw(&self, group: &Group) -> Result<(), Error> {
        let (slots, mover) = (&group.slots, self.number);
        self.transact(group.from, async |db_tx| {
            let frozen = moves::standing(db_tx, slots, &[State::Frozen], None).await?;
            if frozen > 0 {
                moves::next_epoch(db_tx, 0).await?;
            }
            let mine = moves::standing(db_tx, slots, &[State::Served, State::Frozen], Some(mover)).await?;
            moves::step(db_tx, slots, (&[State::Frozen], State::Served), mover).await?;
            Ok(mine == slots.len())
        })
        .await
    }

    /// Waits until the events of the slots' users are published that are written now, for so long.
    pub(super) async fn published(&self, group: &Group, patience: Duration) -> Result<bool, Error> {
        let (pool, failed) = (self.pool(group.from), |error| Error::Database(group.from, error));
        let Some(last) = moves::last_event(pool).await.map_err(failed)? else { return Ok(true) };
        let began = Instant::now();
        while moves::has_events(pool, &group.slots, last).await.map_err(failed)? {
            if began.elapsed() > patience {
                return Ok(false);
            }
            sleep(EVENTS_PAUSE).await;
        }
        Ok(true)
    }

    /// Serves frozen slots, whose rows are on both sides, where they have come to.
    pub(super) async fn serve(&self, group: &Group) -> Result<(), Error> {
        let failed = |error| Error::Database(group.from, error);
        let floor_ms = moves::floor(self.pool(group.from)).await.map_err(failed)?;
        let mark = moves::expired(self.pool(group.from), group.table).await.map_err(failed)?;
        let (slots, table, mover) = (&group.slots, group.table, self.number);
        self.transact(group.to, async |db_tx| {
            moves::next_epoch(db_tx, floor_ms).await?;
            if moves::standing(db_tx, slots, &[State::Arriving], Some(mover)).await? != slots.len() {
                return Ok(false);
            }
            moves::expire_from(db_tx, table, mark).await?;
            let steps = (&[State::Arriving][..], State::Served);
            Ok(moves::step(db_tx, slots, steps, mover).await? == slots.len() as u64)
        })
        .await?;
        info!(from = group.from, to = group.to, table, slots = slots.len(), "slots are served where they have come to");
        Ok(())
    }

    /// Notes that slots have left, which this mover has taken and another database serves.
    pub(super) async fn leave(&self, database: usize, slots: &[Slot]) -> Result<(), Error> {
        let mover = self.number;
        self.transact(database, async |db_tx| {
            let mine = moves::standing(db_tx, slots, &[State::Frozen], Some(mover)).await?;
            moves::step(db_tx, slots, (&[State::Frozen], State::Left), mover).await?;
            Ok(mine == slots.len())
        })
        .await
    }

    /// Serves slots again where they were, whoever moves them.
    pub(super) async fn back(&self, group: &Group) -> Result<(), Error> {
        self.claim(group.from, &group.slots).await?;
        self.give_back(group).await
    }

    /// Serves slots again where they were, which this mover has taken. First they can not come any more to any other
    /// database.
    pub(super) async fn give_back(&self, group: &Group) -> Result<(), Error> {
        for database in (0..self.shards.pools().len()).filter(|at| *at != group.from) {
            self.revoke(database, &group.slots).await?;
        }
        self.thaw(group).await
    }
}

async fn once(connection: &mut MySqlConnection, step: &impl AsyncFn(&mut MySqlConnection) -> Stood) -> Stood {
    let mut db_tx = connection.begin().await?;
    if step(&mut db_tx).await? {
        db_tx.commit().await?;
        Ok(true)
    } else {
        db_tx.rollback().await?;
        Ok(false)
    }
}
