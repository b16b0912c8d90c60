//! The suite on itself: participants with one fault each, all found, and a sound one that is not accused.
//!
//! All of them sell seats. Table `seats` says how many are free, held and sold; `journal` has a row for each
//! reservation that is held or sold.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Pool, Sqlite, SqliteConnection};
use tercet::action::{Action, Json, Message, Saga, Tcc};
use tercet::participant::{Answer, Compensable, Op, Participant, Receiver, SliceParticipant};
use tercet::service::Service;

use crate::{Faults, Report, Suite};

const RESERVE: Action<Tcc, Json<Seats>> = Action::tcc("seats", "reserve");
const ADD: Action<Message, Json<i64>> = Action::message("seats", "add");
const UPGRADE: Action<Saga, Json<Seats>> = Action::saga("seats", "upgrade");

/// So many seats for somebody.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Seats {
    who: i64,
    count: i64,
}

const FREE: i64 = 5;

async fn rows(pool: Pool<Sqlite>) -> sqlx::Result<()> {
    let sql = "CREATE TABLE IF NOT EXISTS seats (free INTEGER, held INTEGER, sold INTEGER) STRICT;
        CREATE TABLE IF NOT EXISTS journal (who INTEGER PRIMARY KEY, count INTEGER) STRICT;
        INSERT INTO seats VALUES (5, 0, 0)";
    sqlx::raw_sql(sql).execute(&pool).await.map(|_| ())
}

async fn adds_up(pool: Pool<Sqlite>) -> Result<(), String> {
    let sql = "SELECT free, held + sold FROM seats";
    let (free, gone): (i64, i64) = sqlx::query_as(sql).fetch_one(&pool).await.map_err(|error| error.to_string())?;
    if free + gone == FREE { Ok(()) } else { Err(format!("{free} free and {gone} gone are not {FREE}")) }
}

fn seats(who: i64, count: i64) -> Json<Seats> {
    Json(Seats { who, count })
}

fn service(pool: Pool<Sqlite>) -> Service<Sqlite> {
    Service::new("seats", [pool]).tables(["seats", "journal"])
}

/// The suite for a service that reserves seats.
fn suite(make: impl Fn(Pool<Sqlite>) -> Service<Sqlite> + 'static) -> Suite<Sqlite, Tcc, Json<Seats>> {
    Suite::new(RESERVE, move |pool| std::future::ready(make(pool)))
        .seed(rows)
        .invariant(adds_up)
        .granting([seats(1, 2), seats(2, 1)])
        .refusing([seats(3, 3)])
}

async fn take(db_tx: &mut SqliteConnection, count: i64) -> sqlx::Result<bool> {
    let sql = "UPDATE seats SET free = free - $1, held = held + $1 WHERE free >= $1";
    Ok(sqlx::query(sql).bind(count).execute(db_tx).await?.rows_affected() == 1)
}

async fn note(db_tx: &mut SqliteConnection, Seats { who, count }: Seats) -> sqlx::Result<()> {
    let sql = "INSERT INTO journal (who, count) VALUES ($1, $2)";
    sqlx::query(sql).bind(who).bind(count).execute(db_tx).await.map(|_| ())
}

async fn sell(db_tx: &mut SqliteConnection, count: i64) -> sqlx::Result<Answer> {
    let sql = "UPDATE seats SET held = held - $1, sold = sold + $1";
    sqlx::query(sql).bind(count).execute(db_tx).await?;
    Ok(Answer::done())
}

async fn give_back(db_tx: &mut SqliteConnection, Seats { who, count }: Seats) -> sqlx::Result<Answer> {
    let sql = "UPDATE seats SET held = held - $1, free = free + $1";
    sqlx::query(sql).bind(count).execute(&mut *db_tx).await?;
    sqlx::query("DELETE FROM journal WHERE who = $1").bind(who).execute(db_tx).await?;
    Ok(Answer::done())
}

/// What one of them does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Writes the journal on a connection of its own, past the local transaction.
    OwnConnection,
    /// Commits by itself between its two writes.
    CommitsItself,
    /// Gives the seats back and leaves the journal as it was.
    CancelsHalf,
    /// Sells what the try has noted in memory.
    ConfirmsFromMemory,
    /// Counts the free seats in memory.
    CountsInMemory,
    /// Goes on where its second write failed.
    SwallowsErrors,
    /// Looks in its confirm whether there are free seats.
    RefusesConfirm,
    /// Takes as many seats as nobody else has, and gives as many back as there are then.
    CancelsByState,
}

struct Clerk {
    fault: Fault,
    own: Pool<Sqlite>,
    tried: Mutex<Vec<i64>>,
    free: AtomicI64,
}

impl Clerk {
    fn service(fault: Fault, pool: Pool<Sqlite>) -> Service<Sqlite> {
        let own = SqliteConnectOptions::clone(&pool.connect_options()).busy_timeout(Duration::from_millis(20));
        let own = SqlitePoolOptions::new().connect_lazy_with(own);
        let clerk = Self { fault, own, tried: Mutex::default(), free: AtomicI64::new(FREE) };
        service(pool).tcc(RESERVE, clerk)
    }
}

impl Participant for Clerk {
    type Db = Sqlite;
    type Request = Json<Seats>;

    async fn try_(&self, db_tx: &mut SqliteConnection, Json(request): Json<Seats>) -> sqlx::Result<Answer> {
        if self.fault == Fault::CountsInMemory {
            let free = self.free.fetch_sub(request.count, Ordering::Relaxed);
            if free < request.count {
                return Ok(Answer::refused("sold out"));
            }
        }
        if !take(db_tx, request.count).await? {
            return Ok(Answer::refused("sold out"));
        }
        self.tried.lock().expect("nothing panics here").push(request.who);
        if self.fault == Fault::CommitsItself {
            sqlx::raw_sql("COMMIT; BEGIN IMMEDIATE").execute(&mut *db_tx).await?;
        }
        let noted = if self.fault == Fault::OwnConnection {
            note(&mut *self.own.acquire().await?, request).await
        } else {
            note(db_tx, request).await
        };
        if self.fault == Fault::SwallowsErrors { Ok(Answer::done()) } else { noted.map(|()| Answer::done()) }
    }

    async fn confirm(&self, db_tx: &mut SqliteConnection, Json(request): Json<Seats>) -> sqlx::Result<Answer> {
        let tried = || self.tried.lock().expect("nothing panics here").contains(&request.who);
        if self.fault == Fault::ConfirmsFromMemory && !tried() {
            return Ok(Answer::done());
        }
        let free: i64 = sqlx::query_scalar("SELECT free FROM seats").fetch_one(&mut *db_tx).await?;
        if self.fault == Fault::RefusesConfirm && free <= 2 {
            return Ok(Answer::refused("none is free"));
        }
        sell(db_tx, request.count).await
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, Json(request): Json<Seats>) -> sqlx::Result<Answer> {
        if self.fault == Fault::CancelsByState {
            sqlx::query("UPDATE seats SET free = free + held, held = 0").execute(&mut *db_tx).await?;
            sqlx::query("DELETE FROM journal").execute(db_tx).await?;
            return Ok(Answer::done());
        }
        let who = if self.fault == Fault::CancelsHalf { 0 } else { request.who };
        give_back(db_tx, Seats { who, ..request }).await
    }
}

/// Takes slices.
struct Office {
    /// Writes the journal for all, also those that it refuses.
    notes_all: bool,
    /// Answers those that it grants first.
    sorts: bool,
}

impl SliceParticipant for Office {
    type Db = Sqlite;
    type Request = Json<Seats>;

    async fn try_(&self, db_tx: &mut SqliteConnection, all: &[Op<Json<Seats>>]) -> sqlx::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for Op { request: Json(request), .. } in all {
            let taken = take(db_tx, request.count).await?;
            if taken || self.notes_all {
                note(db_tx, *request).await?;
            }
            answers.push(if taken { Answer::done() } else { Answer::refused("sold out") });
        }
        if self.sorts {
            answers.sort_by_key(|answer| *answer == Answer::done());
        }
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut SqliteConnection, all: &[Op<Json<Seats>>]) -> sqlx::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for op in all {
            answers.push(sell(db_tx, op.request.0.count).await?);
        }
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, all: &[Op<Json<Seats>>]) -> sqlx::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for op in all {
            answers.push(give_back(db_tx, op.request.0).await?);
        }
        Ok(answers)
    }
}

/// Is told of further seats.
struct Usher;

impl Receiver for Usher {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn deliver(&self, db_tx: &mut SqliteConnection, Json(more): Json<i64>) -> sqlx::Result<Answer> {
        sqlx::query("UPDATE seats SET free = free + $1").bind(more).execute(db_tx).await?;
        Ok(Answer::done())
    }
}

fn clerk(fault: Fault) -> Suite<Sqlite, Tcc, Json<Seats>> {
    suite(move |pool| Clerk::service(fault, pool))
}

fn office(notes_all: bool, sorts: bool) -> Suite<Sqlite, Tcc, Json<Seats>> {
    suite(move |pool| service(pool).tcc_slice(RESERVE, Office { notes_all, sorts }))
}

#[tokio::test]
async fn every_faulty_participant_is_found() {
    let unfenced = |pool| std::future::ready(service(pool).receiver(ADD, Usher).without_fence());
    let unfenced = Suite::new(ADD, unfenced).seed(rows).granting([Json(1)]);
    let planted = vec![
        ("writes outside its local transaction", clerk(Fault::OwnConnection).check().await, "database is locked"),
        ("commits by itself", clerk(Fault::CommitsItself).check().await, "dropped after statement"),
        ("cancels half of its try", clerk(Fault::CancelsHalf).check().await, "the cancel does not undo the try"),
        (
            "confirms from memory",
            clerk(Fault::ConfirmsFromMemory).check().await,
            "each call to another instance: try, confirm",
        ),
        ("counts in memory", clerk(Fault::CountsInMemory).check().await, "all calls to one instance: try"),
        ("swallows an SQL error", clerk(Fault::SwallowsErrors).check().await, "INSERT of journal fails"),
        ("refuses its confirm", clerk(Fault::RefusesConfirm).check().await, "try, confirm, undisturbed: request 1"),
        ("cancels what others hold", clerk(Fault::CancelsByState).check().await, "cancel of request 1 alone"),
        ("is not idempotent, and has no fence", unfenced.check().await, "each call twice: confirm"),
        ("writes for what it refuses", office(true, false).check().await, "it must change nothing"),
        ("answers in another order", office(false, true).check().await, "all calls in one batch: try: request 1"),
    ];
    let all = planted.len();
    let mut found = 0;
    for (what, result, words) in planted {
        match result {
            Err(Faults { faults, .. }) if faults.join("\n").contains(words) => found += 1,
            other => println!("a participant that {what}: expected {words:?}, found {other:?}"),
        }
    }
    println!("{found} of {all} found");
    assert_eq!(found, all);
}

#[tokio::test]
async fn sound_participants_are_not_accused() {
    for suite in [clerk(Fault::None), office(false, false)] {
        let report = suite.check().await.unwrap_or_else(|faults| panic!("{faults}"));
        let Report { name, drops, failed_writes } = &report;
        assert_eq!(name, "seats/reserve");
        // Five steps, each with at least the fence, a write and what is around them.
        assert!(*drops >= 20, "{report}");
        assert_eq!(*failed_writes, 5, "{report}");
    }
}

/// Compensates by its own journal, and keeps what it compensated.
struct Upgrade;

impl Compensable for Upgrade {
    type Db = Sqlite;
    type Request = Json<Seats>;

    async fn try_(&self, db_tx: &mut SqliteConnection, Json(request): Json<Seats>) -> sqlx::Result<Answer> {
        note(db_tx, request).await?;
        Ok(Answer::done_with("upgraded"))
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, Json(request): Json<Seats>) -> sqlx::Result<Answer> {
        sqlx::query("UPDATE journal SET count = 0 WHERE who = $1").bind(request.who).execute(db_tx).await?;
        Ok(Answer::done())
    }
}

#[tokio::test]
async fn a_cancel_leaves_traces_only_where_the_suite_is_told() {
    let suite = || {
        let make = |pool| std::future::ready(service(pool).saga(UPGRADE, Upgrade));
        Suite::new(UPGRADE, make).seed(rows).granting([seats(1, 1)])
    };
    let faults = suite().check().await.expect_err("the row stays").to_string();
    assert!(faults.contains("table journal: found    who=1, count=0"), "{faults}");
    suite().cancel_leaves_traces_in(&["journal"]).check().await.unwrap_or_else(|faults| panic!("{faults}"));
}

#[tokio::test]
async fn a_suite_that_can_not_find_anything_says_so() {
    let make = |pool| std::future::ready(Clerk::service(Fault::None, pool));
    let faults = Suite::new(RESERVE, make).seed(rows).check().await.expect_err("it has no request");
    assert!(faults.to_string().contains("name one with granting()"), "{faults}");
    let make = |pool| std::future::ready(Service::new("seats", [pool]).saga(UPGRADE, Upgrade));
    let faults = Suite::new(UPGRADE, make).granting([seats(1, 1)]).check().await.expect_err("it has no tables");
    assert!(faults.to_string().contains("names no tables()"), "{faults}");
}
