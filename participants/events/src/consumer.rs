//! Takes events, each once for its group.
//!
//! A batch is one local transaction in each database that it concerns: the group's place among the events, the effects,
//! COMMIT; only then is the bus told. So a crash anywhere brings events back that the inbox knows, and they are passed
//! over. Two consumers that both think a partition is theirs wait for each other at the inbox's row, and the second
//! finds the events of the first to be repeats.
//!
//! What fails is tried again: without end while the database is out of reach, since nothing is known then; otherwise a
//! batch is halved until the event that can not be taken is alone, and that one is put away ([`crate::dead`]) after
//! 5 attempts, in the order of the others.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use prost::Message as _;
use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tercet::participant::DbTx;
use tercet_proto::events::v1 as pb;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use crate::bus::{Bus, Delivered, Error, Group, Subscription};
use crate::dead::{Letter, shortened};
use crate::event::VERSION;
use crate::limits::{ATTEMPTS_MAX, RETRY_FIRST, RETRY_MAX};
use crate::metrics;
use crate::store::{Position, Row, Store};

mod lag;

use lag::Clock;

/// Most bytes of the key of a dead letter, which others may have chosen.
const KEY_BYTES_MAX: usize = 64;

/// Why a consumer did not take its events.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// One of them can not be taken, as it is: put it away.
    #[error("{0}")]
    Refused(String),
    /// The database's word. What may pass is tried again without end.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a group does with events.
pub trait Consumer: Send + Sync + 'static {
    /// The database that its effects live in.
    type Db: Store;
    /// Its name, and what it is told.
    const GROUP: Group;

    /// Which of the service's databases an event concerns. Always the same for the same event.
    fn place(&self, event: &pb::Event) -> usize {
        let _ = event;
        0
    }

    /// Acts on events, in their order, through `db_tx` alone. None of them was acted on before; each has a payload.
    ///
    /// # Errors
    /// Those of [`Trouble`]: everything is rolled back.
    fn consume(
        &self,
        db_tx: &mut DbTx<Self::Db>,
        events: &[pb::Event],
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// A group's consumer over the databases of a service.
#[derive(Debug)]
pub struct Consuming<C: Consumer> {
    consumer: C,
    pools: Vec<Pool<C::Db>>,
    bus: Bus,
}

/// One event with its id.
#[derive(Clone, Debug)]
struct Item {
    delivered: Delivered,
    source: String,
    sequence: i64,
    /// As it is, or why it can not be read.
    event: Result<pb::Event, String>,
}

/// Why a local transaction came to nothing.
enum Stuck {
    /// It may pass.
    Database(String),
    /// One of the events is at fault.
    Event(String),
}

impl<C: Consumer> Consuming<C> {
    /// Over databases in which the tables of events are made already, as
    /// [`Outbox::open`](crate::outbox::Outbox::open) does it.
    pub fn new(consumer: C, pools: impl IntoIterator<Item = Pool<C::Db>>, bus: Bus) -> Self {
        Self { consumer, pools: pools.into_iter().collect(), bus }
    }

    /// Takes events until it is told to stop.
    ///
    /// # Errors
    /// When the bus refuses its settings. Everything else is tried again.
    pub async fn run(self, mut stop: Stop) -> Result<(), Failure> {
        for topic in C::GROUP.topics {
            metrics::died(C::GROUP.name, topic.name(), 0);
        }
        metrics::lags(C::GROUP.name, Duration::ZERO);
        let mut pause = RETRY_FIRST;
        while !stop.is_requested() {
            let ended = tokio::select! {
                ended = self.follow(&mut pause) => ended,
                () = stop.requested() => return Ok(()),
            };
            match ended {
                Error::Refused(refused) => return Err(refused.into()),
                error @ (Error::Unavailable(_) | Error::Gone) => {
                    warn!(group = C::GROUP.name, %error, "events do not come");
                    tokio::select! {
                        () = sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                        () = stop.requested() => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what comes until nothing does any more.
    async fn follow(&self, pause: &mut Duration) -> Error {
        let mut subscription = match self.bus.subscribe(&C::GROUP).await {
            Ok(subscription) => subscription,
            Err(error) => return error,
        };
        let mut clock = Clock::default();
        loop {
            if let Err(error) = self.step(&mut subscription, &mut clock).await {
                return error;
            }
            *pause = RETRY_FIRST;
        }
    }

    /// Takes one batch.
    async fn step(&self, subscription: &mut Subscription, clock: &mut Clock) -> Result<(), Error> {
        let mut batch = lag::waiting(C::GROUP.name, subscription.next()).await?;
        let began = Instant::now();
        let mut places: BTreeMap<usize, Vec<Item>> = BTreeMap::new();
        for delivered in std::mem::take(&mut batch.events) {
            let (place, item) = self.read(delivered);
            places.entry(place).or_default().push(item);
        }
        let events = places.values().flatten().filter_map(|item| item.event.as_ref().ok());
        let age = lag::age(events, clock.now_ms(&self.pools[0]).await);
        let places = places.into_iter().map(|(place, items)| self.take(&self.pools[place], items));
        lag::taking(C::GROUP.name, age, futures_util::future::join_all(places)).await;
        subscription.done(batch)?;
        metrics::batch_consumed(C::GROUP.name, began.elapsed());
        Ok(())
    }

    /// Finds out where an event belongs, and what its id is.
    fn read(&self, delivered: Delivered) -> (usize, Item) {
        let (source, sequence) = delivered.place.clone();
        let fault = |reason: String| Item { event: Err(reason), source, sequence, delivered: delivered.clone() };
        let mut event = match pb::Event::decode(delivered.payload.clone()) {
            Ok(event) => event,
            Err(error) => return (0, fault(error.to_string())),
        };
        let Ok(sequence) = i64::try_from(event.sequence) else {
            return (0, fault("its sequence has more than 63 bits".to_owned()));
        };
        // Of a producer without an outbox.
        if event.source.is_empty() {
            (event.source, event.sequence) = (delivered.place.0.clone(), delivered.place.1.unsigned_abs());
            return self.placed(event, delivered.place.clone(), delivered);
        }
        let id = (event.source.clone(), sequence);
        self.placed(event, id, delivered)
    }

    fn placed(&self, event: pb::Event, (source, sequence): (String, i64), delivered: Delivered) -> (usize, Item) {
        let place = self.consumer.place(&event);
        let event = match event.version {
            _ if place >= self.pools.len() => Err(format!("it belongs to database {place}, which there is not")),
            0..=VERSION => Ok(event),
            version => Err(format!("its version is {version}: at most {VERSION} is known here")),
        };
        (place.min(self.pools.len() - 1), Item { delivered, source, sequence, event })
    }

    /// Takes events of one database. Ends when each is taken or put away.
    async fn take(&self, pool: &Pool<C::Db>, items: Vec<Item>) {
        let mut lots = vec![items];
        let (mut pause, mut attempts) = (RETRY_FIRST, 0);
        while let Some(mut lot) = lots.pop() {
            match self.transact(pool, &lot, None).await {
                Ok(()) => (pause, attempts) = (RETRY_FIRST, 0),
                Err(Stuck::Database(text)) => {
                    metrics::consume_failed(C::GROUP.name);
                    warn!(group = C::GROUP.name, events = lot.len(), error = text, "events could not be taken yet");
                    lots.push(lot);
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(Stuck::Event(_)) if lot.len() > 1 => {
                    let second = lot.split_off(lot.len() / 2);
                    lots.extend([second, lot]);
                }
                Err(Stuck::Event(reason)) => {
                    metrics::consume_failed(C::GROUP.name);
                    attempts += 1;
                    // What can not be read will not be read either.
                    let last = attempts >= ATTEMPTS_MAX || lot[0].event.is_err();
                    if last && self.put_away(pool, &lot, (reason, attempts)).await {
                        (pause, attempts) = (RETRY_FIRST, 0);
                        continue;
                    }
                    lots.push(lot);
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Whether a lot of one was put away.
    async fn put_away(&self, pool: &Pool<C::Db>, lot: &[Item], (reason, attempts): (String, u32)) -> bool {
        let Item { delivered, source, sequence, .. } = &lot[0];
        let letter = Letter {
            group: C::GROUP.name.to_owned(),
            topic: delivered.topic.clone(),
            partition: delivered.partition,
            source: source.clone(),
            sequence: *sequence,
            reason: shortened(reason),
            attempts,
        };
        let mut key = delivered.key.clone();
        key.truncate(key.floor_char_boundary(KEY_BYTES_MAX));
        let topic = C::GROUP.dead_topic(&delivered.topic);
        let payload = delivered.payload.to_vec();
        let row = Row { topic, key, at_ms: None, letter: Some(letter.to_json()), payload };
        match self.transact(pool, lot, Some(row)).await {
            Ok(()) => {
                let Letter { group, topic, reason, .. } = letter;
                error!(group, topic, source, sequence, reason, "an event can not be taken and is put away");
                metrics::died(C::GROUP.name, &topic, 1);
                true
            }
            Err(Stuck::Database(text) | Stuck::Event(text)) => {
                warn!(group = C::GROUP.name, error = text, "a dead letter could not be put away yet");
                false
            }
        }
    }

    /// One local transaction: the events that are new are acted on, or, being dead, put away.
    async fn transact(&self, pool: &Pool<C::Db>, lot: &[Item], dead: Option<Row>) -> Result<(), Stuck> {
        let mut db_tx = pool.begin_with(C::Db::BEGIN_WRITE).await.map_err(database)?;
        let new = enter::<C>(&mut db_tx, lot).await.map_err(database)?;
        let (mut events, mut repeats) = (Vec::with_capacity(lot.len()), 0);
        for (item, new) in lot.iter().zip(new) {
            match &item.event {
                _ if !new => repeats += 1,
                _ if dead.is_some() => {}
                Err(reason) => return Err(Stuck::Event(reason.clone())),
                Ok(event) if meant::<C>(event) => events.push(event.clone()),
                Ok(_) => {}
            }
        }
        let done = match dead {
            Some(_) if repeats > 0 => Ok(()),
            Some(row) if self.bus.keeps_letters() => {
                C::Db::outbox_append(&mut db_tx, &[row]).await.map_err(Trouble::from)
            }
            Some(row) => C::Db::letter_keep(&mut db_tx, &[row]).await.map_err(Trouble::from),
            None if events.is_empty() => Ok(()),
            None => {
                let consuming = AssertUnwindSafe(self.consumer.consume(&mut db_tx, &events)).catch_unwind();
                match consuming.await {
                    Ok(done) => done,
                    // Its connection is closed with the transaction, which is dropped.
                    Err(_) => return Err(Stuck::Event("its consumer panicked".to_owned())),
                }
            }
        };
        if let Err(trouble) = done {
            // Where this fails too the connection is closed, which undoes as much.
            let _ = db_tx.rollback().await;
            return Err(stuck::<C::Db>(trouble));
        }
        db_tx.commit().await.map_err(database)?;
        metrics::consumed(C::GROUP.name, "done", events.len());
        metrics::consumed(C::GROUP.name, "repeat", repeats);
        metrics::consumed(C::GROUP.name, "other", lot.len() - events.len() - repeats);
        Ok(())
    }
}

/// Moves the group behind these events, and says which of them it has not had.
async fn enter<C: Consumer>(db_tx: &mut DbTx<C::Db>, lot: &[Item]) -> sqlx::Result<Vec<bool>> {
    let key = |item: &Item| (item.delivered.topic.clone(), item.delivered.partition, item.source.clone());
    let mut last: BTreeMap<_, i64> = BTreeMap::new();
    for item in lot {
        let sequence = last.entry(key(item)).or_insert(item.sequence);
        *sequence = item.sequence.max(*sequence);
    }
    let position = |((topic, partition, source), sequence)| Position { topic, partition, source, sequence };
    let positions: Vec<Position> = last.into_iter().map(position).collect();
    let before = C::Db::inbox_enter(db_tx, C::GROUP.name, &positions).await?;
    let mut latest: BTreeMap<_, i64> = positions
        .into_iter()
        .zip(before)
        .map(|(Position { topic, partition, source, .. }, before)| ((topic, partition, source), before))
        .collect();
    // A repeat may come in the same batch.
    let new = |item: &Item| {
        let before = latest.entry(key(item)).or_insert(-1);
        let new = item.sequence > *before;
        *before = item.sequence.max(*before);
        new
    };
    Ok(lot.iter().map(new).collect())
}

/// Whether an event is for this group, and of a kind that is known here.
fn meant<C: Consumer>(event: &pb::Event) -> bool {
    event.payload.is_some() && (event.only_group.is_empty() || event.only_group == C::GROUP.name)
}

fn database(error: sqlx::Error) -> Stuck {
    Stuck::Database(error.to_string())
}

/// Whose fault it is. What the database refuses for what a statement says is the event's. Should that be wrong, the
/// event is not put away either: that takes a commit in the same database.
fn stuck<Db: Store>(trouble: Trouble) -> Stuck {
    match trouble {
        Trouble::Refused(reason) => Stuck::Event(reason),
        Trouble::Database(error) if Db::may_pass(&error) => database(error),
        Trouble::Database(error) => Stuck::Event(error.to_string()),
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;
    use crate::event::Topic;

    struct Picky;

    impl Consumer for Picky {
        type Db = Sqlite;
        const GROUP: Group = Group { name: "picky", topics: &[Topic::Coupon] };

        async fn consume(&self, _: &mut DbTx<Sqlite>, _: &[pb::Event]) -> Result<(), Trouble> {
            Err(Trouble::Refused("it is strange".to_owned()))
        }
    }

    #[tokio::test]
    async fn of_two_that_can_not_take_an_event_one_puts_it_away() {
        let options = SqlitePoolOptions::new().max_connections(1);
        let pool: Pool<Sqlite> = options.connect("sqlite::memory:").await.expect("memory is there");
        Sqlite::migrate_events(&pool).await.expect("the schema is sound");
        let consuming = Consuming::new(Picky, [pool.clone()], Bus::in_process(&[Picky::GROUP]));
        let payload = pb::Event { source: "s".into(), sequence: 1, ..pb::Event::default() }.encode_to_vec().into();
        let (topic, key, place) = ("coupon".to_owned(), "1".to_owned(), ("s".to_owned(), 1));
        let (_, item) = consuming.read(Delivered { topic, partition: 0, key, place, payload });
        // Each thinks that the partition is its own, and has tried it so often.
        for _ in 0..2 {
            let reason = "it is strange".to_owned();
            assert!(consuming.put_away(&pool, std::slice::from_ref(&item), (reason, ATTEMPTS_MAX)).await);
        }
        assert_eq!(crate::dead::kept(&pool, 0, 9).await.expect("it is sound").len(), 1);
    }
}
