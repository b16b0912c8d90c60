//! Moves slots between databases while the services run, on MariaDB and MySQL.
//!
//! The slots of one table that go from one database to another move together. Their rows are copied while they are
//! served, in passes that compare both sides, until few differ. Then they are frozen where they were: that commit
//! waits for the local transactions under way, and later ones find another epoch. A last pass, over the parts of the
//! one before it, leaves both sides equal, the fence's rows among them, and waits until the events of their users are
//! published, so that those that come after follow them. One commit of the database that they came to serves them
//! there. What is left behind is deleted when nobody can look for it there any more.
//!
//! Each step is one commit, and says what it found: so a move that was killed is gone on with by running it again, and
//! a mover that was frozen, and wakes up when another has taken the move, finds its number gone and does nothing: its
//! number is in the rows of its slots on both sides, and slots come to one database at a time.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use sqlx::{MySql, Pool};
use tercet_shards::{ShardMap, Slot};
use tokio::time::sleep;
use tracing::warn;

mod copy;
pub mod limits;
mod steps;

use self::copy::{Parts, Pass};
use crate::shards::{self, Shards};
use crate::store::seats::{Said, Seats as _, State};

/// Why a move does not go on. Running it again does, once that is mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The databases can not be used.
    #[error(transparent)]
    Shards(#[from] shards::Error),
    /// The target has more databases, or other tables.
    #[error("{0}")]
    Target(String),
    /// A database does not answer. What was going on may have happened or not: run it again.
    #[error("database {0}")]
    Database(usize, #[source] sqlx::Error),
    /// Somebody else has taken the move.
    #[error("slots of database {0} are moved by another mover, or do not stand where they did")]
    Taken(usize),
    /// A local transaction would not end.
    #[error("local transactions in database {0} do not end")]
    Busy(usize),
    /// Their slots are served again where they were.
    #[error("events of database {0} are not published: start the coupon service with its broker")]
    Events(usize),
}

/// Slots of one table that go from one database to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// From where.
    pub from: usize,
    /// To where.
    pub to: usize,
    /// The table's number, the same in both.
    pub table: usize,
    /// Which.
    pub slots: Vec<Slot>,
}

/// What was done for a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Rows that were compared, in all passes.
    pub compared: u64,
    /// Rows that were written or deleted where they came to, of those under the freeze.
    pub copied: (u64, u64),
    /// For how long nobody could write the rows.
    pub frozen: Duration,
    /// For how long it took.
    pub took: Duration,
}

/// Moves slots.
#[derive(Debug)]
pub struct Mover {
    shards: Shards<MySql>,
    /// In the rows of slots: another mover has another.
    number: i64,
    /// After each statement that writes, while slots are served.
    pause: Duration,
    /// Before rows are deleted of slots that are served elsewhere.
    linger: Duration,
}

impl Mover {
    /// Over these databases, whose tables are made where they are missing; all that slots are in, and are to be in.
    /// After each statement that writes rows of slots that are served it pauses.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn open<U: AsRef<str>>(tables: usize, urls: &[U], pause: Duration) -> Result<Self, Error> {
        let map = ShardMap::even(urls.len(), tables).map_err(|error| Error::Target(error.to_string()))?;
        let shards = Shards::open(map, urls).await?;
        shards.migrate().await?;
        // Of a process and a moment.
        let number = (RandomState::new().hash_one(std::process::id()) >> 1).cast_signed().max(1);
        Ok(Self { shards, number, pause, linger: limits::LINGER })
    }

    /// Deletes what slots leave behind after so long, instead of [`limits::LINGER`]: where nobody reads.
    #[must_use]
    pub fn lingering(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// What each database says of itself.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn said(&self) -> Result<Vec<Said>, Error> {
        let mut all = Vec::with_capacity(self.shards.pools().len());
        for (at, pool) in self.shards.pools().iter().enumerate() {
            let said = MySql::said(pool, None).await.map_err(|error| Error::Database(at, error))?;
            all.extend(said);
        }
        Ok(all)
    }

    /// What there is to be moved for slots to be where this map says. Slots that are frozen there already are a group
    /// that goes to where it is.
    ///
    /// # Errors
    /// [`Error::Target`] and [`Error::Database`].
    pub async fn plan(&self, to: &ShardMap) -> Result<Vec<Group>, Error> {
        let (tables, databases) = (self.shards.map().tables(), self.shards.pools().len());
        if to.tables() != tables {
            return Err(Error::Target(format!("there are {tables} tables, and slots stay in theirs")));
        }
        if to.databases() > databases {
            return Err(Error::Target(format!("{} databases are wanted and {databases} are named", to.databases())));
        }
        let said = self.said().await?;
        let mut groups: BTreeMap<(usize, usize, usize), Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            let holder = |state| said.iter().position(|said| said.states[slot.number()] == Some(state));
            let served = holder(State::Served);
            let from = served.or_else(|| holder(State::Frozen));
            let from = from.ok_or_else(|| shards::Error::Nowhere(slot.number()))?;
            let target = to.database(slot);
            if served != Some(target) {
                groups.entry((from, to.table(slot), target)).or_default().push(slot);
            }
        }
        let group = |((from, table, to), slots)| Group { from, to, table, slots };
        Ok(groups.into_iter().map(group).collect())
    }

    /// Moves a group, from wherever an earlier mover left it. What it leaves behind is for [`Self::finish`].
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn go(&self, group: &Group) -> Result<Moved, Error> {
        let began = Instant::now();
        let mut moved = Moved::default();
        if group.from == group.to {
            self.back(group).await?;
            return Ok(moved);
        }
        self.arrive(group).await?;
        self.thaw(group).await?;
        let tables = self.tables(group.from, group.table).await?;
        let mut parts = Parts::new();
        for _ in 0..limits::PASSES_MAX {
            parts = self.parts(group.from, &tables, &group.slots).await?;
            let pass = self.pass(group, &parts, self.pause).await?;
            moved.compared += pass.compared;
            moved.copied.0 += pass.copied;
            if pass.copied <= limits::FEW_ROWS {
                break;
            }
        }
        // Somebody has to publish them, or those of slots that are frozen would be waited for.
        if !self.published(group, limits::RELAY_MAX).await? {
            return Err(Error::Events(group.from));
        }
        let frozen = Instant::now();
        let pass = match self.come(group, &parts).await {
            // Somebody else has them.
            Err(error @ Error::Taken(_)) => return Err(error),
            Err(error) => {
                if let Err(why) = self.give_back(group).await {
                    warn!(from = group.from, table = group.table, %why, "slots may stay frozen until it is run again");
                }
                return Err(error);
            }
            Ok(pass) => pass,
        };
        moved.compared += pass.compared;
        moved.copied = (moved.copied.0 + pass.copied, pass.copied);
        (moved.frozen, moved.took) = (frozen.elapsed(), began.elapsed());
        self.leave(group.from, &group.slots).await?;
        Ok(moved)
    }

    /// Freezes a group and serves it where it is going; returns what differed last.
    async fn come(&self, group: &Group, parts: &Parts) -> Result<Pass, Error> {
        self.freeze(group).await?;
        let pass = self.pass(group, parts, Duration::ZERO).await?;
        if !self.published(group, limits::EVENTS_MAX).await? {
            return Err(Error::Events(group.from));
        }
        self.serve(group).await?;
        Ok(pass)
    }

    /// Deletes what slots have left behind that are served elsewhere, of moves that were killed too, when no reader can
    /// look for it there any more. Returns how many rows.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn finish(&self) -> Result<u64, Error> {
        for ((at, table), slots) in self.behind(State::Frozen).await? {
            self.claim(at, &slots).await?;
            // What others say now is so for as long as this mover has them here.
            let still = self.behind(State::Frozen).await?.remove(&(at, table)).unwrap_or_default();
            let slots: Vec<Slot> = slots.into_iter().filter(|slot| still.contains(slot)).collect();
            if !slots.is_empty() {
                self.leave(at, &slots).await?;
            }
        }
        let behind = self.behind(State::Left).await?;
        if behind.is_empty() {
            return Ok(0);
        }
        sleep(self.linger).await;
        let mut still = self.behind(State::Left).await?;
        let mut deleted = 0;
        for ((at, table), slots) in behind {
            let still = still.remove(&(at, table)).unwrap_or_default();
            let slots: Vec<Slot> = slots.into_iter().filter(|slot| still.contains(slot)).collect();
            if !slots.is_empty() {
                deleted += self.clean(at, table, &slots).await?;
            }
        }
        Ok(deleted)
    }

    /// Gives up what has begun: slots that are frozen are served again where they were, and what was copied of those
    /// that have not come is deleted. Slots that have come stay where they are. Returns how many rows were deleted.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn give_up(&self) -> Result<u64, Error> {
        let said = self.said().await?;
        let mut groups: BTreeMap<(usize, usize), Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            let at = |state| said.iter().position(|said| said.states[slot.number()] == Some(state));
            let from = at(State::Served).or_else(|| at(State::Frozen));
            let from = from.ok_or_else(|| shards::Error::Nowhere(slot.number()))?;
            if at(State::Arriving).is_some() || at(State::Served).is_none() {
                groups.entry((from, self.shards.map().table(slot))).or_default().push(slot);
            }
        }
        for ((from, table), slots) in groups {
            self.back(&Group { from, to: from, table, slots }).await?;
        }
        self.finish().await
    }

    /// Slots that stand so in a database while another serves them, by database and table.
    async fn behind(&self, state: State) -> Result<BTreeMap<(usize, usize), Vec<Slot>>, Error> {
        let said = self.said().await?;
        let mut sets: BTreeMap<(usize, usize), Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            let is = |wanted| move |said: &Said| said.states[slot.number()] == Some(wanted);
            if said.iter().any(is(State::Served)) {
                for at in (0..said.len()).filter(|at| is(state)(&said[*at])) {
                    sets.entry((at, self.shards.map().table(slot))).or_default().push(slot);
                }
            }
        }
        Ok(sets)
    }

    fn pool(&self, database: usize) -> &Pool<MySql> {
        &self.shards.pools()[database]
    }
}
