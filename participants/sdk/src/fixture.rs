//! What the tests of this crate share: a shop on SQLite with so many things free and held.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet_proto::participant::v1::{Call, Operation, Reply, reply};
use tokio::sync::Semaphore;

use crate::action::{Action, Json, Tcc};
use crate::fence::Dialect as _;
use crate::participant::{Answer, DbTx, Participant};
use crate::service::Service;

pub(crate) const TAKE: Action<Tcc, Json<i64>> = Action::tcc("shop", "take");

/// Holds tries until a test lets them through.
pub(crate) struct Gate {
    /// Gets a permit from each try that has come.
    pub(crate) came: Semaphore,
    /// Each try takes a permit on its way.
    pub(crate) pass: Semaphore,
}

impl Gate {
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { came: Semaphore::new(0), pass: Semaphore::new(permits) })
    }
}

/// Takes things from a shelf.
pub(crate) struct Shop(pub(crate) Arc<Gate>);

impl Participant for Shop {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn try_(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> Result<Answer, sqlx::Error> {
        self.0.came.add_permits(1);
        self.0.pass.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?.forget();
        match request.0 {
            -1 => return Ok(Answer::not_now(Duration::from_millis(7))),
            -2 => panic!("a handler panics"),
            _ => {}
        }
        let done = sqlx::query("UPDATE shop SET free = free - $1, held = held + $1 WHERE free >= $1")
            .bind(request.0)
            .execute(&mut *db_tx)
            .await?;
        Ok(if done.rows_affected() == 1 { Answer::done_with("held") } else { Answer::refused("sold out") })
    }

    async fn confirm(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> Result<Answer, sqlx::Error> {
        sqlx::query("UPDATE shop SET held = held - $1").bind(request.0).execute(db_tx).await?;
        Ok(Answer::done())
    }

    async fn cancel(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> Result<Answer, sqlx::Error> {
        sqlx::query("UPDATE shop SET held = held - $1, free = free + $1").bind(request.0).execute(db_tx).await?;
        Ok(Answer::done())
    }
}

/// An empty database in a folder that goes with the guard, and its one table with 10 free.
pub(crate) async fn shop_database() -> (TempDir, Pool<Sqlite>) {
    let folder = tempfile::tempdir().unwrap();
    let pool = Sqlite::open(&format!("sqlite://{}/shop.db", folder.path().display())).await.unwrap();
    sqlx::raw_sql("CREATE TABLE shop (free INTEGER, held INTEGER); INSERT INTO shop VALUES (10, 0)")
        .execute(&pool)
        .await
        .unwrap();
    (folder, pool)
}

/// The shop's service, whose tries do not wait.
pub(crate) fn shop(pool: &Pool<Sqlite>) -> Service<Sqlite> {
    Service::new("shop", [pool.clone()]).tables(["shop"]).tcc(TAKE, Shop(Gate::new(1_000)))
}

/// Free and held.
pub(crate) async fn shelf(pool: &Pool<Sqlite>) -> (i64, i64) {
    sqlx::query_as("SELECT free, held FROM shop").fetch_one(pool).await.unwrap()
}

/// A call of transaction `number` that takes `request`.
pub(crate) fn call(number: u8, operation: Operation, request: i64) -> Call {
    Call {
        xid: vec![number; 16].into(),
        branch: 1,
        operation: operation.into(),
        tried: true,
        action: "take".into(),
        request: request.to_string().into(),
        not_after_ms: 1_000,
        ..Call::default()
    }
}

pub(crate) fn answers(replies: Vec<Reply>) -> Vec<reply::Answer> {
    replies.into_iter().filter_map(|reply| reply.answer).collect()
}

pub(crate) fn done(result: &'static str) -> reply::Answer {
    reply::Answer::Done(result.into())
}

pub(crate) fn refused(reason: &str) -> reply::Answer {
    reply::Answer::Refused(reason.to_owned())
}
