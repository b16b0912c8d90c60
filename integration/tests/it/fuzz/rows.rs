//! Rows that somebody else has written: in the coordinator's store, and in a participant's fence.

use sqlx::{Pool, Sqlite, SqliteConnection};
use tercet::action::{Action, Json, Tcc};
use tercet::fence::Dialect as _;
use tercet::participant::{Answer, Participant};
use tercet::service::Service;
use tercet_coordinator::audit::Verifier;
use tercet_coordinator::clock::SystemClock;
use tercet_coordinator::live::Live;
use tercet_coordinator::store::{
    AuditQuery, ClaimCompensations, CompensationQuery, ListQuery, Lookup, SqliteStore, Store as _,
};
use tercet_core::Timestamp;
use tercet_proto::participant::v1::Call;

use super::schema::{Choices, Schema};
use super::{OWNER, XID, fuzz};

/// Writes a row of these columns, of which `xid` is sound, and the others are anything that the table takes.
async fn put(connection: &mut SqliteConnection, table: &str, columns: &[&str], choices: &mut Choices<'_>) {
    let places = vec!["?"; columns.len()].join(", ");
    let sql = format!("INSERT OR REPLACE INTO {table} ({}) VALUES ({places})", columns.join(", "));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for column in columns {
        query = match choices.below(6) {
            _ if *column == "xid" => query.bind(XID.0.to_vec()),
            0 | 1 => query.bind(choices.number().cast_signed()),
            2 => query.bind(choices.text()),
            3 | 4 => query.bind((0..choices.below(40)).map(|_| choices.byte()).collect::<Vec<u8>>()),
            _ => query.bind(None::<i64>),
        };
    }
    // What the table itself refuses is not there.
    drop(query.execute(connection).await);
}

const TX: [&str; 12] = [
    "xid",
    "version",
    "mode",
    "status",
    "ended_at",
    "node",
    "epoch",
    "wake_at",
    "idempotency_key",
    "digest",
    "plan",
    "state",
];
const LOG: [&str; 14] = [
    "id",
    "coupon_id",
    "status",
    "retry_count",
    "create_time",
    "xid",
    "branch",
    "operation",
    "service",
    "next_retry_time",
    "lease_until",
    "owner_node",
    "last_error",
    "update_time",
];
const AUDIT: [&str; 10] = ["id", "at", "who", "act", "xid", "why", "before", "after", "previous", "hash"];

#[test]
fn the_store_reads_damaged_rows_or_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tercet.db");
    let clock = SystemClock::start();
    let (store, pool) = runtime.block_on(async {
        let store = SqliteStore::open(&file, clock).await.expect("it opens");
        (store, Pool::<Sqlite>::connect(&format!("sqlite://{}", file.display())).await.expect("it opens"))
    });
    fuzz(1, |choices| {
        runtime.block_on(async {
            let mut connection = pool.acquire().await.expect("it is open");
            let clear = "PRAGMA synchronous = OFF; PRAGMA ignore_check_constraints = ON; \
                         DELETE FROM tx; DELETE FROM compensation_log; DELETE FROM audit";
            sqlx::raw_sql(clear).execute(&mut *connection).await.expect("they are tables");
            put(&mut connection, "tx", &TX, choices).await;
            put(&mut connection, "compensation_log", &LOG, choices).await;
            put(&mut connection, "audit", &AUDIT, choices).await;
            if let Ok(Some(record)) = store.get(Lookup::Xid(XID)).await {
                drop(Live::decode(&record));
            }
            drop(store.list(ListQuery { limit: 10, ..ListQuery::default() }).await);
            drop(store.list(CompensationQuery { limit: 10, ..CompensationQuery::default() }).await);
            let mut verifier = Verifier::default();
            for row in store.list(AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap_or_default() {
                verifier.check(&row).expect_err("nobody can write its hash by chance");
            }
            drop(store.claim_orphans(OWNER, 10).await);
            let (now, lease_until) = (Timestamp(choices.number()), Timestamp(choices.number()));
            let claim = ClaimCompensations { now, lease_until, owner: OWNER, services: vec![("shop".into(), 9)] };
            drop(store.claim_compensations(claim).await);
        });
    });
}

const ACT: Action<Tcc, Json<i64>> = Action::tcc("shop", "act");

struct Shop;

impl Participant for Shop {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn try_(&self, _: &mut SqliteConnection, Json(number): Json<i64>) -> sqlx::Result<Answer> {
        Ok(if number < 0 { Answer::refused("negative") } else { Answer::done() })
    }

    async fn confirm(&self, _: &mut SqliteConnection, _: Json<i64>) -> sqlx::Result<Answer> {
        Ok(Answer::done())
    }

    async fn cancel(&self, _: &mut SqliteConnection, _: Json<i64>) -> sqlx::Result<Answer> {
        Ok(Answer::done())
    }
}

#[test]
fn a_participant_answers_every_call_whatever_its_fence_holds() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let schema = Schema::load();
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("shop.db").display());
    let (executor, pool) = runtime.block_on(async {
        let pool = Sqlite::open(&url).await.expect("it opens");
        (Service::new("shop", [pool.clone()]).tcc(ACT, Shop).executor().await.expect("it is sound"), pool)
    });
    fuzz(1, |choices| {
        let calls: Vec<Call> = (0..=choices.below(4))
            .map(|_| {
                let mut call: Call = schema.value(".tercet.participant.v1.Call", choices);
                if choices.below(4) != 3 {
                    (call.xid, call.action) = (XID.0.to_vec().into(), "act".into());
                    call.not_after_ms = u64::MAX / 2;
                }
                call
            })
            .collect();
        runtime.block_on(async {
            let mut connection = pool.acquire().await.expect("it is open");
            sqlx::raw_sql("PRAGMA synchronous = OFF; DELETE FROM tercet_fence")
                .execute(&mut *connection)
                .await
                .expect("it is one");
            for _ in 0..choices.below(3) {
                put(&mut connection, "tercet_fence", &["xid", "branch", "state", "prev", "reply"], choices).await;
            }
            drop(connection);
            let count = calls.len();
            let replies = executor.run(calls).await;
            assert_eq!(replies.iter().filter(|reply| reply.answer.is_some()).count(), count);
        });
    });
}
