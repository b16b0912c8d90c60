//! Slots that move to twice as many databases, and back: whatever is under way, and wherever the mover is killed.

mod epochs;
mod events;
mod rows;
mod stale;
mod twenty;

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use prost::Message as _;
use sqlx::{AssertSqlSafe, Connection as _, MySql, MySqlConnection, Pool};
use tercet::batch::Executor;
use tercet::fence::Dialect as _;
use tercet_coupon::mover::{Error, Mover, limits};
use tercet_coupon::store::seats::{Said, State};
use tercet_coupon::{Shards, claim_by_hand};
use tercet_integration::servers;
use tercet_proto::coupon::v1::{Claim, Redeem};
use tercet_proto::participant::v1::Operation::{self, Cancel, Confirm, Try};
use tercet_proto::participant::v1::reply::Answer::{self, Done, NotNowMs, Refused};
use tercet_proto::participant::v1::{Call, Reply};
use tercet_shards::{ShardMap, Slot};

const TABLES: usize = 4;
/// More than any test waits for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Twice as many databases as have all slots at first, who are the first ones: four, or more.
struct World {
    urls: Vec<String>,
    tables: usize,
    next: u32,
}

impl World {
    /// `None` where there is no server.
    async fn new() -> Option<Self> {
        Self::of(2, TABLES).await
    }

    /// With slots in so many databases at first, and so many tables in each.
    async fn of(databases: usize, tables: usize) -> Option<Self> {
        let mut urls = Vec::new();
        for _ in 0..2 * databases {
            urls.push(servers::mariadb().await.expect("the server answers")?);
        }
        let world = Self { urls, tables, next: 0 };
        world.shards(databases).await;
        Some(world)
    }

    fn map(databases: usize) -> ShardMap {
        ShardMap::even(databases, TABLES).expect("the counts are within their limits")
    }

    /// As a service has it that knows of so many databases.
    async fn shards(&self, databases: usize) -> Shards<MySql> {
        let map = ShardMap::even(databases, self.tables).expect("the counts are within their limits");
        let shards = Shards::open(map, &self.urls[..databases]).await.expect("they are there");
        shards.migrate().await.expect("the schema is sound");
        shards
    }

    /// An instance of the coupon service that knows of so many databases.
    async fn instance(&self, databases: usize) -> Executor<MySql> {
        let service = tercet_coupon::service(self.shards(databases).await, None).await.expect("the schema is sound");
        service.executor().await.expect("the fence is sound")
    }

    async fn mover(&self) -> Mover {
        let mover = Mover::open(self.tables, &self.urls, Duration::ZERO).await.expect("the databases are there");
        mover.lingering(Duration::ZERO)
    }

    /// A mover that is killed when it has been polled so often; whether it was through before.
    async fn move_and_die(&self, databases: usize, polls: usize) -> bool {
        let mover = self.mover().await;
        poll(pin!(go(&mover, databases)), polls).await.map(|ran| ran.expect("it goes on")).is_some()
    }

    async fn pool(&self, database: usize) -> Pool<MySql> {
        MySql::open(&self.urls[database]).await.expect("it is there")
    }

    async fn said(&self) -> Vec<Said> {
        self.mover().await.said().await.expect("they answer")
    }

    /// Coupons by status, each with its database; none is in two.
    async fn coupons(&self) -> BTreeMap<i64, (usize, i64)> {
        let mut all = BTreeMap::new();
        for database in 0..self.urls.len() {
            let pool = self.pool(database).await;
            for table in 0..self.tables {
                let sql = format!("SELECT coupon_id, CAST(status AS SIGNED) FROM coupon_{table:03}");
                let rows: Vec<(i64, i64)> =
                    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&pool).await.expect("the table is there");
                for (coupon_id, status) in rows {
                    assert_eq!(all.insert(coupon_id, (database, status)), None, "coupon {coupon_id} is twice");
                }
            }
        }
        all
    }

    /// How many rows a database has in all tables of slots but the fence, and of parts in the fence.
    async fn rows(&self, database: usize) -> i64 {
        let pool = self.pool(database).await;
        let mut tables = vec!["paid_notice".to_owned(), "redemption".to_owned(), "issue_chunk".to_owned()];
        tables.extend((0..TABLES).flat_map(|n| [format!("coupon_{n:03}"), format!("claimed_{n:03}")]));
        tables.push("tercet_fence WHERE part >= 0".to_owned());
        let mut sum = 0;
        for table in tables {
            let sql = format!("SELECT COUNT(*) FROM {table}");
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&pool).await.expect("it is there");
            sum += rows;
        }
        sum
    }

    /// The branch of a new transaction.
    fn branch(&mut self, action: &'static str, request: Vec<u8>) -> Branch {
        self.next += 1;
        Branch { number: self.next, action, request }
    }

    fn claim(&mut self, user_id: i64) -> (Branch, i64) {
        let claim: Claim = claim_by_hand(i64::from(self.next) + 1, user_id, 1, 2);
        (self.branch("claim", claim.encode_to_vec()), claim.coupon_id)
    }
}

/// Everything that a run of the program does.
async fn go(mover: &Mover, databases: usize) -> Result<(), Error> {
    go_to(mover, &World::map(databases)).await
}

async fn go_to(mover: &Mover, map: &ShardMap) -> Result<(), Error> {
    mover.finish().await?;
    for group in mover.plan(map).await? {
        mover.go(&group).await?;
    }
    mover.finish().await.map(drop)
}

/// Polls a run so often; what it came to, if it did.
async fn poll<F: Future>(mut run: std::pin::Pin<&mut F>, polls: usize) -> Option<F::Output> {
    let mut polled = 0;
    std::future::poll_fn(|context| {
        polled += 1;
        match run.as_mut().poll(context) {
            Poll::Ready(ran) => Poll::Ready(Some(ran)),
            Poll::Pending if polled >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

struct Branch {
    number: u32,
    action: &'static str,
    request: Vec<u8>,
}

impl Branch {
    async fn call(&self, instance: &Executor<MySql>, operation: Operation) -> Answer {
        let call = Call {
            xid: u128::from(self.number).to_be_bytes().to_vec().into(),
            operation: operation.into(),
            tried: true,
            action: self.action.to_owned(),
            request: self.request.clone().into(),
            not_after_ms: i64::MAX.unsigned_abs(),
            ..Call::default()
        };
        let Reply { answer } = instance.run(vec![call]).await.pop().expect("one call has one reply");
        answer.expect("it is an answer")
    }
}

/// The first users of slots that move, and of those that stay.
fn users(moves: bool) -> impl Iterator<Item = i64> {
    (1..).filter(move |user_id| (Slot::of_user(*user_id).number() % 4 >= 2) == moves)
}

fn done() -> Answer {
    Done(bytes::Bytes::new())
}

#[tokio::test]
async fn what_was_begun_before_slots_moved_ends_where_they_have_come_to() {
    let Some(mut world) = World::new().await else { return };
    // One that knows of no other databases, and one that does, and is frozen until slots have moved.
    let (old, frozen) = (world.instance(2).await, world.instance(4).await);
    let user: Vec<i64> = users(true).take(4).collect();
    let (in_doubt, coupon) = world.claim(user[0]);
    assert_eq!(in_doubt.call(&old, Try).await, done());
    let (issued, used) = world.claim(user[1]);
    for operation in [Try, Confirm] {
        assert_eq!(issued.call(&old, operation).await, done());
    }
    let (user_id, order_id) = (user[1], 9);
    let amounts = Redeem { amount_cents: 900, discount_cents: 500, ..Redeem::default() };
    let redeem = Redeem { coupon_id: used, user_id, order_id, ..amounts };
    let redeem = world.branch("redeem", redeem.encode_to_vec());
    assert_eq!(redeem.call(&frozen, Try).await, done());
    // Its try comes when it has been cancelled.
    let (late, _) = world.claim(user[2]);
    assert_eq!(late.call(&old, Cancel).await, done());
    let mut refused = None;
    for _ in 0..3 {
        let (claim, _) = world.claim(user[3]);
        refused = Some((claim.call(&old, Try).await, claim));
    }
    let (why, refused) = refused.expect("it is the third");
    assert!(matches!(&why, Refused(reason) if reason.contains("PER_USER_LIMIT")), "{why:?}");
    let (stays, other) = world.claim(users(false).next().expect("there are some"));
    assert_eq!(stays.call(&old, Try).await, done());

    let epochs = |said: Vec<Said>| said.into_iter().map(|said| said.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(world.said().await), [0; 4]);
    go(&world.mover().await, 4).await.expect("nothing is in its way");
    assert!(epochs(world.said().await).iter().all(|epoch| *epoch >= TABLES as i64));

    // The frozen one goes by what it knew: nothing may happen where the rows were.
    assert_eq!(redeem.call(&frozen, Confirm).await, NotNowMs(0));
    assert_eq!(redeem.call(&frozen, Confirm).await, done());
    assert_eq!(late.call(&frozen, Try).await, Refused("fence: the branch was cancelled before its try came".into()));
    let before = world.rows(0).await + world.rows(1).await;
    for _ in 0..2 {
        assert_eq!(in_doubt.call(&old, Confirm).await, NotNowMs(150), "it does not know where they are");
    }
    assert_eq!(world.rows(0).await + world.rows(1).await, before);
    assert_eq!(stays.call(&old, Confirm).await, done(), "others are served as before");
    let new = world.instance(4).await;
    for _ in 0..2 {
        assert_eq!(in_doubt.call(&new, Confirm).await, done());
        assert_eq!(refused.call(&new, Try).await, why);
    }
    let coupons = world.coupons().await;
    for (coupon_id, (database, _)) in &coupons {
        assert_eq!(*database, Slot::of_id(*coupon_id).number() % 4);
    }
    assert_eq!([coupon, used, other].map(|coupon_id| coupons[&coupon_id].1), [1, 3, 1]);
    // And back, with what has happened since.
    go(&world.mover().await, 2).await.expect("nothing is in its way");
    assert_eq!((world.rows(2).await, world.rows(3).await), (0, 0), "nothing is left behind");
    assert_eq!(in_doubt.call(&old, Confirm).await, done());
    for answer in [NotNowMs(0), done()] {
        assert_eq!(redeem.call(&frozen, Confirm).await, answer);
    }
    let back = world.coupons().await;
    assert!(back.keys().eq(coupons.keys()) && back.values().all(|(database, _)| *database < 2), "{back:?}");
}

#[tokio::test]
async fn a_move_that_is_killed_anywhere_is_gone_on_with_and_writes_go_on_meanwhile() {
    let Some(mut world) = World::new().await else { return };
    let instance = world.instance(4).await;
    let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
    let mut open: Vec<(Branch, i64)> = Vec::new();
    let (mut user_id, mut polls) = (0, 3);
    for databases in [4, 2, 4] {
        let begun = Instant::now();
        while !world.move_and_die(databases, polls).await {
            polls += 7;
            // Half of the transactions that are under way end somewhere else.
            for _ in 0..2 {
                user_id += 1;
                let (claim, coupon_id) = world.claim(user_id);
                if claim.call(&instance, Try).await == done() {
                    expected.insert(coupon_id, 0);
                    open.push((claim, coupon_id));
                }
            }
            if open.len() > 2 {
                let (claim, coupon_id) = open.remove(0);
                let operation = if coupon_id % 3 == 0 { Cancel } else { Confirm };
                let answer = claim.call(&instance, operation).await;
                if matches!(answer, NotNowMs(_)) {
                    open.push((claim, coupon_id));
                } else if operation == Cancel {
                    assert_eq!((answer, expected.remove(&coupon_id)), (done(), Some(0)));
                } else {
                    assert_eq!((answer, expected.insert(coupon_id, 1)), (done(), Some(0)));
                }
            }
            assert!(begun.elapsed() < PATIENCE, "it comes to no end");
        }
        let coupons = world.coupons().await;
        let statuses: BTreeMap<i64, i64> = coupons.iter().map(|(id, (_, status))| (*id, *status)).collect();
        assert_eq!(statuses, expected);
        for (coupon_id, (database, _)) in coupons {
            assert_eq!(database, Slot::of_id(coupon_id).number() % databases);
        }
        for said in world.said().await {
            let states = [State::Arriving, State::Frozen, State::Left];
            assert!(states.iter().all(|state| !said.states.contains(&Some(*state))), "{:?}", said.states);
        }
        polls /= 2;
    }
    let totals = tercet_coupon::audit(&world.shards(4).await).await.expect("the tables are there");
    assert_eq!((totals.miscounted, totals.over_limit), (0, 0), "{totals:?}");
}

#[tokio::test]
async fn what_is_given_up_is_served_where_it_was() {
    let Some(mut world) = World::new().await else { return };
    let instance = world.instance(4).await;
    // Of the slots that move first.
    let first = |user_id: &i64| Slot::of_user(*user_id).number() % 4 == 2 && Slot::of_user(*user_id).number() < 256;
    let user_id = (1..).find(first).expect("there is one");
    let slot = Slot::of_user(user_id);
    let (before, _) = world.claim(user_id);
    assert_eq!(before.call(&instance, Try).await, done());
    // Somebody is at work where they are going, and is not idle: so long they are frozen, and then the mover dies.
    let mut busy = MySqlConnection::connect(&world.urls[2]).await.expect("it is there");
    let work = async {
        let mut db_tx = busy.begin().await.expect("it answers");
        assert!(tercet::fence::is_at::<MySql>(&mut db_tx, 0).await.expect("the fence is there"));
        for _ in 0..100 {
            sqlx::query("SELECT SLEEP(0.1)").execute(&mut *db_tx).await.expect("it answers");
        }
    };
    let (mover, watch) = (world.mover().await, world.mover().await);
    let frozen = async {
        while watch.said().await.expect("they answer")[0].states[slot.number()] != Some(State::Frozen) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ran = go(&mover, 4) => panic!("it did not wait: {ran:?}"),
        () = work => panic!("they are not frozen"),
        () = frozen => {}
    }
    drop(busy);
    assert_eq!(before.call(&instance, Confirm).await, NotNowMs(150));
    // Another mover had planned to go on.
    let late = world.mover().await;
    let group = late.plan(&World::map(4)).await.expect("they answer").remove(0);
    world.mover().await.give_up().await.expect("they answer");
    assert_eq!(before.call(&instance, Confirm).await, done());
    assert_eq!((world.rows(2).await, world.rows(3).await), (0, 0));
    // It begins anew, with what has happened since.
    late.go(&group).await.expect("nothing is in its way");
    for answer in [NotNowMs(0), done()] {
        assert_eq!(before.call(&instance, Confirm).await, answer);
    }
}

#[tokio::test]
async fn rows_stay_where_slots_were_until_no_reader_looks_there() {
    let Some(mut world) = World::new().await else { return };
    let (claim, _) = world.claim(users(true).next().expect("there are some"));
    assert_eq!(claim.call(&world.instance(2).await, Try).await, done());
    let before = world.rows(0).await + world.rows(1).await;
    let mover = Mover::open(TABLES, &world.urls, Duration::ZERO).await.expect("the databases are there");
    for group in mover.plan(&World::map(4)).await.expect("they answer") {
        mover.go(&group).await.expect("nothing is in its way");
    }
    let served = Instant::now();
    let look = async {
        tokio::time::sleep(limits::LINGER / 3 * 2).await;
        world.rows(0).await + world.rows(1).await
    };
    let (deleted, then) = tokio::join!(mover.finish(), look);
    assert_eq!((deleted.expect("they answer") as i64, then), (before, before));
    assert!(served.elapsed() >= limits::LINGER);
    assert_eq!(world.rows(0).await + world.rows(1).await, 0);
}

/// What another does with slots that a mover has when it falls asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    GivesUp,
    GoesElsewhere,
    GoesThere,
}

#[tokio::test]
async fn a_mover_that_wakes_up_when_another_has_taken_its_slots_does_nothing() {
    let Some(mut world) = World::new().await else { return };
    let instance = world.instance(4).await;
    for user_id in 1..20 {
        assert_eq!(world.claim(user_id).0.call(&instance, Try).await, done());
    }
    let coupons: Vec<i64> = world.coupons().await.into_keys().collect();
    // What it brings to the third database, another brings to the fourth, or there too, or a person gives up.
    let other: ShardMap = "4x4:0=256-1023;3=0-255".parse().expect("it is a map");
    let (mut polls, mut through, mut taken) = (60, false, 0);
    while !through {
        for taker in [Taker::GivesUp, Taker::GoesElsewhere, Taker::GoesThere] {
            let sleeper = world.mover().await;
            let group = sleeper.plan(&World::map(4)).await.expect("they answer").remove(0);
            let mut run = pin!(sleeper.go(&group));
            through = poll(run.as_mut(), polls).await.is_some();
            let awake = world.mover().await;
            let mut same = pin!(awake.go(&group));
            let mut ran = None;
            match taker {
                Taker::GivesUp => {
                    awake.give_up().await.expect("they answer");
                }
                Taker::GoesElsewhere => {
                    awake.finish().await.expect("they answer");
                    for group in awake.plan(&other).await.expect("they answer") {
                        awake.go(&group).await.expect("it takes them");
                    }
                }
                Taker::GoesThere => ran = poll(same.as_mut(), polls).await,
            }
            // It may find its connection ended too.
            let woken = if through { None } else { Some(run.await) };
            taken += usize::from(matches!(woken, Some(Err(Error::Taken(_)))));
            if let (Taker::GoesThere, Some(woken)) = (taker, woken) {
                let ran = if let Some(ran) = ran { ran } else { same.await };
                // Where the other one had not taken them yet, they are the first one's: it has moved them, or does not
                // know, since its connection was ended after it took them.
                let first = matches!(woken, Ok(_) | Err(Error::Database(..)));
                assert!(first || !matches!(ran, Err(Error::Taken(_))), "{ran:?} after {polls} polls, {woken:?}");
                if woken.is_err() && ran.is_err() {
                    world.mover().await.go(&group).await.expect("nothing is in its way");
                }
            }
            let said = world.said().await;
            for slot in Slot::all() {
                let of = |state| said.iter().filter(|said| said.states[slot.number()] == Some(state)).count();
                let stand = (of(State::Served), of(State::Frozen));
                assert_eq!(stand, (1, 0), "slot {} after {polls} polls, {taker:?}", slot.number());
            }
            go(&world.mover().await, 2).await.expect("nothing is in its way");
            assert!(world.coupons().await.into_keys().eq(coupons.iter().copied()));
        }
        polls += polls / 2;
    }
    assert!(taken > 0, "it was never awake in time to be refused");
}

#[tokio::test]
async fn slots_that_are_frozen_where_they_are_wanted_are_served_again() {
    let Some(world) = World::new().await else { return };
    let slot = Slot::all().find(|slot| slot.number() % 4 == 2).expect("it moves");
    let frozen = format!("UPDATE slot SET state = 2 WHERE slot = {}", slot.number());
    sqlx::query(AssertSqlSafe(frozen.clone())).execute(&world.pool(0).await).await.expect("the table is there");
    let groups = world.mover().await.plan(&World::map(2)).await.expect("they answer");
    assert_eq!(groups.iter().map(|group| group.slots.len()).sum::<usize>(), 1);
    go(&world.mover().await, 2).await.expect("nothing is in its way");
    assert_eq!(world.said().await[0].states[slot.number()], Some(State::Served));
    assert_eq!(world.mover().await.plan(&World::map(2)).await.expect("they answer"), []);
    sqlx::query(AssertSqlSafe(frozen)).execute(&world.pool(0).await).await.expect("the table is there");
    world.mover().await.give_up().await.expect("they answer");
    assert_eq!(world.said().await[0].states[slot.number()], Some(State::Served));
}

#[tokio::test]
async fn a_local_transaction_of_a_process_that_is_frozen_does_not_stop_a_move() {
    let Some(world) = World::new().await else { return };
    let mut frozen = MySqlConnection::connect(&world.urls[0]).await.expect("it is there");
    let mut db_tx = frozen.begin().await.expect("it answers");
    assert!(tercet::fence::is_at::<MySql>(&mut db_tx, 0).await.expect("the fence is there"));
    let slot = Slot::all().find(|slot| slot.number() % 4 == 2).expect("it moves");
    let sql = format!(
        "INSERT INTO paid_notice(order_id, shop_id, user_id, paid_cents, slot) VALUES (1, 0, 1, 1, {})",
        slot.number()
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *db_tx).await.expect("the table is there");
    let begun = Instant::now();
    go(&world.mover().await, 4).await.expect("it ends what stands in its way");
    assert!(begun.elapsed() < PATIENCE / 8);
    db_tx.commit().await.expect_err("it was ended");
    assert_eq!((world.rows(0).await, world.rows(2).await), (0, 0), "it was rolled back");
}
