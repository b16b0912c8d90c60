//! Batches on SQLite.

use sqlx::Sqlite;

use super::*;
use crate::action::{Action, Json, Tcc};
use crate::participant::Participant;
use crate::service::Service;

const TAKE: Action<Tcc, Json<i64>> = Action::tcc("shop", "take");

struct Shop;

impl Participant for Shop {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn try_(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> Result<Answer, sqlx::Error> {
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

fn call(number: u8, operation: pb::Operation, request: i64) -> Call {
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

#[tokio::test]
async fn a_batch_answers_in_order_and_commits_once() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Sqlite::open(&format!("sqlite://{}/shop.db", folder.path().display())).await.unwrap();
    sqlx::raw_sql("CREATE TABLE shop (free INTEGER, held INTEGER); INSERT INTO shop VALUES (10, 0)")
        .execute(&pool)
        .await
        .unwrap();
    let executor = Service::new("shop", [pool.clone()]).tables(&["shop"]).tcc(TAKE, Shop).executor().await.unwrap();
    let calls = vec![
        call(3, pb::Operation::Try, 4),
        call(1, pb::Operation::Try, 7),
        call(2, pb::Operation::Cancel, 7),
        call(1, pb::Operation::Try, 7),
        call(1, pb::Operation::Confirm, 7),
    ];
    let replies = executor.run(calls).await;
    let answers: Vec<_> = replies.into_iter().filter_map(|reply| reply.answer).collect();
    let done = |result: &'static str| reply::Answer::Done(result.into());
    let refused = reply::Answer::Refused("sold out".to_owned());
    assert_eq!(answers, [refused, done("held"), done(""), done("held"), done("")]);
    let (free, held): (i64, i64) = sqlx::query_as("SELECT free, held FROM shop").fetch_one(&pool).await.unwrap();
    assert_eq!((free, held), (3, 0));
}
