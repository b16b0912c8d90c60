//! A coordinator's store with very many transactions whose only work is in `compensation_log`.

use std::path::Path;

use prost::Message as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};
use tercet_coordinator::names;
use tercet_coordinator::plan::Plan;
use tercet_core::{Operation, Status};
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::store::v1 as record;

use crate::noop;

/// Rows of one statement while filling.
const FILL_ROWS: u64 = 50_000;

/// When the rows were made, and how long ago the first of them was due.
const MADE_MS: u64 = 1_700_000_000_000;
const DUE_SPREAD_MS: u64 = 3_600_000;

/// Numbers from $1 to below $2: $3 services take turns.
const TRANSACTIONS: &str = "
    WITH RECURSIVE number(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < $2)
    INSERT INTO tx (xid, version, mode, status, digest, plan, state)
    SELECT unhex(printf('%012x70008000%012x', $4 + n / 100, n)), 3, $5, $6, 0, plan, $7
    FROM number CROSS JOIN filling ON filling.at = n % $3";

const ROWS: &str = "
    WITH RECURSIVE number(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < $2)
    INSERT INTO compensation_log (status, retry_count, create_time, xid, branch, operation, service, next_retry_time,
        last_error, update_time)
    SELECT 0, 4, $4, unhex(printf('%012x70008000%012x', $4 + n / 100, n)), 0, $5, filling.service,
        $4 + (n * 7919) % $6, 'no answer', $4
    FROM number CROSS JOIN filling ON filling.at = n % $3";

/// The name of a service.
pub(super) fn service(at: usize) -> String {
    format!("s{at:04}")
}

/// The store's file, beside the coordinator that uses it.
pub(super) struct Log {
    connection: SqliteConnection,
    services: usize,
}

impl Log {
    /// Writes so many rows into a store that a coordinator has made, while none runs on it.
    pub(super) async fn fill(folder: &Path, rows: u64, services: usize) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new().filename(folder.join("coordinator").join("tercet.db"));
        // Nothing here is worth waiting for the disk.
        let filling = options.clone().synchronous(SqliteSynchronous::Off).pragma("cache_size", "-65536");
        let mut connection = filling.connect().await?;
        sqlx::raw_sql("CREATE TEMP TABLE filling (at INTEGER PRIMARY KEY, service TEXT, plan BLOB)")
            .execute(&mut connection)
            .await?;
        let mut mode = 0;
        for at in 0..services {
            let plan = Plan::declared(message(at))?.record;
            mode = plan.mode;
            sqlx::query("INSERT INTO filling VALUES ($1, $2, $3)")
                .bind(at as i64)
                .bind(service(at))
                .bind(plan.encode_to_vec())
                .execute(&mut connection)
                .await?;
        }
        for from in (0..rows).step_by(FILL_ROWS as usize) {
            let (from, to) = (from.cast_signed(), (from + FILL_ROWS).min(rows).cast_signed());
            let made = MADE_MS.cast_signed();
            let numbers = sqlx::query(TRANSACTIONS).bind(from).bind(to).bind(services as i64).bind(made);
            let status = i64::from(names::status_number(Status::Confirming));
            numbers.bind(i64::from(mode)).bind(status).bind(state()).execute(&mut connection).await?;
            let numbers = sqlx::query(ROWS).bind(from).bind(to).bind(services as i64).bind(made);
            let confirm = i64::from(names::operation_number(Operation::Confirm));
            numbers.bind(confirm).bind(DUE_SPREAD_MS.cast_signed()).execute(&mut connection).await?;
        }
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
        connection.close().await?;
        Ok(Self { connection: options.read_only(true).connect().await?, services })
    }

    /// Rows of each service that are tried again.
    pub(super) async fn pending(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut pending = vec![0; self.services];
        let rows = sqlx::query("SELECT service, pending FROM compensation_count").fetch_all(&mut self.connection);
        for row in rows.await? {
            let (name, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(at) = (0..self.services).find(|at| service(*at) == name) {
                pending[at] = count.cast_unsigned();
            }
        }
        Ok(pending)
    }

    /// What is not as it has to be once the first services have no pending row left: all their transactions have
    /// ended, all rows of the others are untouched, and what is counted is what is there.
    pub(super) async fn unsound(&mut self, alive: usize) -> anyhow::Result<Vec<String>> {
        const COUNTS: &str = "
            SELECT (SELECT count(*) FROM compensation_log WHERE service < $1 AND status <> 1),
                (SELECT count(*) FROM compensation_log AS log JOIN tx USING (xid)
                    WHERE log.service < $1 AND (tx.ended_at IS NULL OR tx.status <> $2)),
                (SELECT count(*) FROM compensation_log
                    WHERE service >= $1 AND (status <> 0 OR retry_count <> 4 OR lease_until <> 0)),
                (SELECT count(*) FROM compensation_count AS counted WHERE pending <>
                    (SELECT count(*) FROM compensation_log AS log WHERE log.service = counted.service AND status = 0))";
        let confirmed = i64::from(names::status_number(Status::Confirmed));
        let row = sqlx::query(COUNTS).bind(service(alive)).bind(confirmed).fetch_one(&mut self.connection).await?;
        let names = [
            "rows of living services are not done",
            "transactions of living services are not confirmed",
            "rows of dead services were touched",
            "services are counted wrongly",
        ];
        let mut unsound = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            match row.try_get::<i64, _>(at)? {
                0 => {}
                count => unsound.push(format!("{count} {name}")),
            }
        }
        Ok(unsound)
    }
}

/// To a receiver, whose fence needs to know nothing of it.
fn message(at: usize) -> pb::Transaction {
    let branch = pb::Branch {
        service: service(at),
        action: noop::TELL[0].name().to_owned(),
        request: noop::NOTHING.encode_to_vec().into(),
        ..pb::Branch::default()
    };
    pb::Transaction { mode: pb::Mode::Message.into(), branches: vec![branch], ..pb::Transaction::default() }
}

/// Decided, and its one branch in the log.
fn state() -> Vec<u8> {
    let branch = record::BranchState { progress: 3, attempts: 4, reason: "no answer".into(), ..Default::default() };
    let state = record::State {
        status: names::status_number(Status::Confirming).into(),
        deadline_ms: MADE_MS,
        branches: vec![branch],
        ..record::State::default()
    };
    state.encode_to_vec()
}
