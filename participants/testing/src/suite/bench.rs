//! The database of a suite, and the instances of the service in it.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use sqlx::Pool;
use tempfile::TempDir;
use tercet::batch::Executor;
use tercet_proto::participant::v1::reply::Answer;
use tercet_proto::participant::v1::{Call, Operation, Reply};

use super::Plan;
use crate::crash::{Watched, Watcher};
use crate::database::{Database, Rows, Tables};

/// For one batch of calls: twice what SQLite waits for a lock.
const BATCH_MAX: Duration = Duration::from_secs(12);

/// What is wrong, in words.
pub(super) type Fault = String;

/// A database with the rows that every run starts from.
pub(super) struct Bench<'a, Db: Database> {
    pub(super) plan: &'a Plan<Db>,
    /// Not watched, for the suite itself.
    pub(super) pool: Pool<Db>,
    pub(super) tables: Tables,
    pub(super) seeded: Rows,
    watcher: Watcher,
    runs: Cell<u128>,
    _folder: TempDir,
}

/// One time from the seeded rows on, with transactions of its own.
pub(super) struct Run(u128);

impl<'a, Db: Database> Bench<'a, Db> {
    pub(super) async fn open(plan: &'a Plan<Db>) -> Result<Self, Fault> {
        if plan.granted.is_empty() {
            return Err("the suite has no request that is granted: name one with granting()".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = || format!("sqlite://{}/test.db", folder.path().display());
        let url = plan.url.clone().unwrap_or_else(file);
        let pool = Db::open(&url).await.map_err(|error| format!("the database can not be opened: {error}"))?;
        let service = (plan.make)(pool.clone()).await?;
        (plan.seed)(pool.clone()).await.map_err(|error| format!("the seed: {error}"))?;
        let names = service.business_tables().to_vec();
        if names.is_empty() {
            return Err("the service names no tables(), so there is nothing to compare".to_owned());
        }
        let made = Tables::keep(&pool, &names, &plan.ignored).await;
        let tables = made.map_err(|error| format!("the service's tables: {error}"))?;
        let seeded = tables.read(&pool).await.map_err(broken)?;
        let watcher = Watcher::new::<Db>(url).await?;
        Ok(Self { plan, pool, tables, seeded, watcher, runs: Cell::new(1), _folder: folder })
    }

    /// Begins again from the seeded rows, with transactions that are new.
    pub(super) async fn begin(&self) -> Result<Run, Fault> {
        self.tables.put_back(&self.pool).await.map_err(broken)?;
        self.runs.set(self.runs.get() + 1);
        Ok(Run(self.runs.get()))
    }

    /// The service as a process that has just been started has it.
    pub(super) async fn instance(&self) -> Result<Executor<Db>, Fault> {
        let pool = Db::open(self.watcher.url()).await.map_err(broken)?;
        let service = (self.plan.make)(pool).await?;
        service.executor().await.map_err(|error| error.to_string())
    }

    /// The requests that are called with this operation. One that was refused is never confirmed.
    pub(super) fn requests(&self, operation: Operation) -> usize {
        let refused = if operation == Operation::Confirm { 0 } else { self.plan.refused.len() };
        self.plan.granted.len() + refused
    }

    pub(super) fn is_granted(&self, request: usize) -> bool {
        request < self.plan.granted.len()
    }

    /// The call of one request. Those of a run are sorted as the requests are.
    pub(super) fn call(&self, run: &Run, operation: Operation, request: usize) -> Call {
        let requests = self.plan.granted.iter().chain(&self.plan.refused);
        let xid = (0x0198_0000_0000_7000_8000_0000_0000_0000 + (run.0 << 16) + request as u128).to_be_bytes();
        Call {
            xid: xid.to_vec().into(),
            branch: 0,
            operation: operation.into(),
            tried: self.plan.scripts.iter().any(|script| script.contains(&Operation::Try)),
            action: self.plan.action.to_owned(),
            request: requests.clone().nth(request).cloned().unwrap_or_default(),
            attempt: 1,
            not_after_ms: 1_000_000,
            traceparent: String::new(),
        }
    }

    /// The calls of all requests, as one batch.
    pub(super) fn batch(&self, run: &Run, operation: Operation) -> Vec<Call> {
        (0..self.requests(operation)).map(|request| self.call(run, operation, request)).collect()
    }

    /// The answers to these calls, each to its own.
    pub(super) async fn ask(&self, instance: &Executor<Db>, calls: Vec<Call>) -> Result<Vec<Answer>, Fault> {
        in_time(instance.run(calls)).await.map(answers)
    }

    /// The answers to these calls; none when their local transaction was dropped after so many statements.
    pub(super) async fn ask_watched(
        &self,
        instance: Executor<Db>,
        calls: Vec<Call>,
        after: Option<usize>,
    ) -> Result<(Option<Vec<Answer>>, Vec<String>), Fault> {
        let work = async move { instance.run(calls).await };
        let Watched { result, statements } = in_time(self.watcher.run(work, after)).await?;
        Ok((result.map(answers), statements))
    }

    /// The rows as they are, which keep the invariant.
    pub(super) async fn rows(&self) -> Result<Rows, Fault> {
        let rows = self.tables.read(&self.pool).await.map_err(broken)?;
        (self.plan.invariant)(self.pool.clone())
            .await
            .map_err(|fault| format!("the invariant does not hold: {fault}"))?;
        Ok(rows)
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::time::timeout(BATCH_MAX, work).await.map_err(|_| format!("no answer within {BATCH_MAX:?}"))
}

fn answers(replies: Vec<Reply>) -> Vec<Answer> {
    let unanswered = || Answer::Unknown("no answer".to_owned());
    replies.into_iter().map(|reply| reply.answer.unwrap_or_else(unanswered)).collect()
}

pub(super) fn broken(error: sqlx::Error) -> Fault {
    format!("the suite's own database connection: {error}")
}
