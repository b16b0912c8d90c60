//! The databases that coupons are in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use sqlx::{Pool, Transaction};
use tercet::fence::{self, Dialect};
use tercet::participant::Moves;
use tercet::readers::{Reader, Readers};
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::outbox::Outbox;
use tercet_shards::{ShardMap, Slot};
use tokio::sync::Mutex;
use tracing::{error, warn};

use crate::slots::{Slots, View};
use crate::store::seats::Said;
use crate::store::{Store, tables};

/// Between two looks at where slots are, however many ask for one; and how long a database may take for it.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(1);
/// How often those look who only read.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// How often slots are spread over a database whose rows others write at the same moment.
const SPREAD_MAX: u32 = 20;

/// The databases of a service, and which slot each of them has.
#[derive(Debug)]
pub struct Shards<Db: sqlx::Database> {
    slots: Arc<Slots>,
    pools: Vec<Pool<Db>>,
    readers: Arc<[Readers<Db>]>,
    looked: Arc<Mutex<Looked>>,
}

/// What the databases said last.
#[derive(Debug, Default)]
struct Looked {
    began: Option<Instant>,
    said: Vec<Option<Said>>,
}

impl<Db: sqlx::Database> Clone for Shards<Db> {
    fn clone(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
            pools: self.pools.clone(),
            readers: Arc::clone(&self.readers),
            looked: Arc::clone(&self.looked),
        }
    }
}

/// Why shards can not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name as many databases as the map has.
    #[error("the shard map has {map} databases and {urls} are named")]
    Count {
        /// Of the map.
        map: usize,
        /// Named.
        urls: usize,
    },
    /// A database can not be opened.
    #[error("the database {0} of the shard map")]
    Open(usize, #[source] sqlx::Error),
    /// The tables can not be made, or are not those of this version.
    #[error("the tables in the database {0} of the shard map")]
    Tables(usize, #[source] tables::Error),
    /// The outbox of events can not be made in one of the databases.
    #[error("the outbox in a database of the shard map")]
    Outbox(#[source] tables::Error),
    /// A database does not say which slots it serves.
    #[error("the slots of the database {0} of the shard map")]
    Slots(usize, #[source] sqlx::Error),
    /// Users of a slot would be nowhere: name all databases that slots were ever moved to.
    #[error("none of the databases that are named has slot {0}")]
    Nowhere(usize),
}

impl<Db: sqlx::Database> Shards<Db> {
    /// In which table a slot is. Where it is now, [`Self::slots`] says.
    pub fn map(&self) -> &ShardMap {
        self.slots.map()
    }

    /// Which slot is where.
    pub const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The database to read rows of a slot in.
    ///
    /// # Errors
    /// [`Error::Nowhere`], as what was configured, while none says that it has the slot.
    pub fn pool(&self, slot: Slot) -> sqlx::Result<&Pool<Db>> {
        Ok(&self.pools[self.reads(slot)?])
    }

    /// The place in the map of the database to read rows of a slot in.
    ///
    /// # Errors
    /// Those of [`Self::pool`].
    pub fn reads(&self, slot: Slot) -> sqlx::Result<usize> {
        let nowhere = || sqlx::Error::Configuration(Box::new(Error::Nowhere(slot.number())));
        self.slots.view().reads(slot).ok_or_else(nowhere)
    }

    /// The databases, in the map's order.
    pub fn pools(&self) -> &[Pool<Db>] {
        &self.pools
    }

    /// The database that keeps what there is once: batches, jobs and node ids.
    pub fn home(&self) -> &Pool<Db> {
        &self.pools[0]
    }
}

impl<Db: Store + Dialect> Shards<Db> {
    /// One database with one table.
    pub fn one(pool: Pool<Db>) -> Self {
        Self::over(ShardMap::one(), vec![pool])
    }

    /// These databases, in the map's order.
    ///
    /// # Errors
    /// [`Error::Count`].
    pub fn new(map: ShardMap, pools: Vec<Pool<Db>>) -> Result<Self, Error> {
        if pools.len() != map.databases() {
            return Err(Error::Count { map: map.databases(), urls: pools.len() });
        }
        Ok(Self::over(map, pools))
    }

    fn over(map: ShardMap, pools: Vec<Pool<Db>>) -> Self {
        let looked = Looked { began: None, said: vec![None; pools.len()] };
        let readers = pools.iter().cloned().map(Readers::new).collect();
        Self { slots: Arc::new(Slots::new(map)), pools, readers, looked: Arc::new(Mutex::new(looked)) }
    }

    /// A connection for reads alone, to the database that has a slot.
    ///
    /// # Errors
    /// When it can not be reached; and those of [`Self::pool`].
    pub async fn reader(&self, slot: Slot) -> sqlx::Result<Reader<'_, Db>> {
        self.readers[self.reads(slot)?].get().await
    }

    /// The same, to a database by its place in the map.
    ///
    /// # Errors
    /// When it can not be reached.
    pub async fn reader_of(&self, database: usize) -> sqlx::Result<Reader<'_, Db>> {
        self.readers[database].get().await
    }

    /// Opens the databases with these URLs.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn open<U: AsRef<str>>(map: ShardMap, urls: &[U]) -> Result<Self, Error> {
        let mut pools = Vec::with_capacity(urls.len());
        for (at, url) in urls.iter().enumerate() {
            pools.push(Db::open(url.as_ref()).await.map_err(|error| Error::Open(at, error))?);
        }
        Self::new(map, pools)
    }

    /// The tables of a database that have a slot, by number.
    pub fn tables_in(&self, view: &View, database: usize) -> Vec<usize> {
        let here = Slot::all().filter(|slot| view.database(*slot) == database);
        let mut tables: Vec<usize> = here.map(|slot| self.map().table(slot)).collect();
        tables.dedup();
        tables
    }

    /// Makes the tables that are missing, in all databases. The first time it spreads the slots over them, as the map
    /// says; ever after the databases say where slots are.
    ///
    /// # Errors
    /// [`Error::Tables`], [`Error::Slots`] and [`Error::Nowhere`].
    pub async fn migrate(&self) -> Result<(), Error> {
        for (at, pool) in self.pools.iter().enumerate() {
            let make = async {
                fence::prepare(pool).await?;
                Db::migrate(pool, self.map().tables()).await
            };
            make.await.map_err(|error| Error::Tables(at, error))?;
        }
        self.spread().await?;
        match self.look_for(None).await? {
            Some(slot) => Err(Error::Nowhere(slot.number())),
            None => Ok(()),
        }
    }

    /// Serves each slot where the first map says, once and for all.
    async fn spread(&self) -> Result<(), Error> {
        let wanted = self.map().to_string();
        let (first, made) = Db::first_map(self.home(), &wanted).await.map_err(|error| Error::Slots(0, error))?;
        if made {
            return Ok(());
        }
        let first: ShardMap = match first.parse() {
            Ok(first) => first,
            Err(error) => return Err(Error::Slots(0, sqlx::Error::Decode(Box::new(error)))),
        };
        for at in 0..first.databases() {
            let count = || Error::Count { map: first.databases(), urls: self.pools.len() };
            let pool = self.pools.get(at).ok_or_else(count)?;
            let slots: Vec<Slot> = first.slots(at).collect();
            let mut tries = 0;
            // Others that start do the same.
            while let Err(error) = Db::serve(pool, &slots).await {
                tries += 1;
                if tries >= SPREAD_MAX || !fence::is_conflict::<Db>(&error) {
                    return Err(Error::Slots(at, error));
                }
            }
        }
        Db::first_made(self.home()).await.map_err(|error| Error::Slots(0, error))
    }

    /// Asks all databases which slots they serve, unless that was begun since; a database that does not answer is taken
    /// to be as it was, which its epoch would contradict. Returns a slot that none has, if there is one.
    async fn look_for(&self, since: Option<Instant>) -> Result<Option<Slot>, Error> {
        let mut looked = self.looked.lock().await;
        if looked.began.is_some_and(|began| since.is_some_and(|since| began >= since)) {
            return Ok(None);
        }
        if let Some(began) = looked.began {
            tokio::time::sleep(LOOK_PAUSE.saturating_sub(began.elapsed())).await;
        }
        looked.began = Some(Instant::now());
        let ask = |(pool, said): (_, &Option<Said>)| {
            let said = Db::said(pool, said.as_ref().map(|said| said.epoch));
            async move { tokio::time::timeout(LOOK_MAX, said).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) }
        };
        let answers = join_all(self.pools.iter().zip(&looked.said).map(ask)).await;
        for (at, (answer, before)) in answers.into_iter().zip(&mut looked.said).enumerate() {
            match answer {
                Ok(Some(said)) => *before = Some(said),
                Ok(None) => {}
                Err(error) if before.is_some() => {
                    warn!(database = at, %error, "a database does not say what it serves")
                }
                Err(error) => return Err(Error::Slots(at, error)),
            }
        }
        let said: Vec<Said> = looked.said.iter().flatten().cloned().collect();
        Ok(self.slots.hear(&said))
    }

    /// Looks where slots are, now and then, until `stop` ends: for those who read.
    pub async fn keep_looking(&self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(LOOK) => self.look().await,
            }
        }
    }

    /// Begins a local transaction in a database, which serves the same until it ends as it did at this epoch; `None`
    /// where it does not.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_at(&self, database: usize, epoch: i64) -> sqlx::Result<Option<Transaction<'static, Db>>> {
        let mut db_tx = self.pools[database].begin_with(Db::BEGIN_WRITE).await?;
        let same = fence::is_at::<Db>(&mut db_tx, epoch).await?;
        Ok(same.then_some(db_tx))
    }

    /// Where those write events who keep coupons here; nothing is written where nobody is told. Whoever runs the coupon
    /// service publishes them.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub async fn outbox(&self, bus: Option<&Bus>) -> Result<Outbox, Error> {
        if bus.is_none() {
            return Ok(Outbox::off());
        }
        Outbox::open(&self.pools).await.map_err(Error::Outbox)
    }

    /// The names of all tables that a database has.
    pub fn tables(&self) -> Vec<String> {
        tables(self.map().tables())
    }
}

impl<Db: Store + Dialect> Moves for Shards<Db> {
    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            match self.look_for(Some(Instant::now())).await {
                Ok(None) => {}
                Ok(Some(slot)) => error!(slot = slot.number(), "no database that is named has the slot"),
                Err(error) => warn!(%error, "it is not known where slots are"),
            }
        })
    }
}
