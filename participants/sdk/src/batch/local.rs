//! One local transaction: fence, handlers, settle, COMMIT.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::{Connection as _, SqlStr};
use tokio::time::Instant;
use tracing::{Instrument as _, error, info_span};

use super::connections::Connections;
use super::{Executor, Item};
use crate::fence::{self, Dialect, Entry, Operation, Settled, State, Verdict};
use crate::handler::{Job, Outcome, Trouble, shortened};
use crate::metrics;
use crate::participant::{Answer, DbTx};

/// How often a local transaction is run that loses against others, or can not begin, before the answer is unknown.
const ATTEMPTS_MAX: u32 = 20;

/// Why a local transaction came to nothing.
pub(super) enum Failure {
    /// It lost against another and was rolled back.
    Conflict(String),
    /// It failed and was rolled back; fewer operations at once may succeed.
    Failed(String),
    /// Operations did not do what their invariant says, and were rolled back.
    Differs,
    /// The database is past the epoch by which the operations were placed: nothing has happened.
    Moved,
    /// As `Failed`, and its connection is in doubt.
    Panicked,
    /// It could not begin on this connection: nothing has happened.
    NotBegun(String),
    /// The calls' time was over, and anything may have happened.
    Overran,
    /// Anything may have happened.
    Lost(String),
}

pub(super) fn failure<Db: Dialect>(error: sqlx::Error) -> Failure {
    if Db::is_conflict(&error) {
        Failure::Conflict(error.to_string())
    } else if matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed) {
        Failure::Lost(error.to_string())
    } else {
        Failure::Failed(error.to_string())
    }
}

impl<Db: Dialect> Executor<Db> {
    /// One local transaction, run again while it loses against others.
    pub(super) async fn run_in_place(
        &self,
        place: &Connections<Db>,
        lot: &[Item],
        accuse: bool,
    ) -> Result<Vec<Outcome>, Failure> {
        let not_after = lot.iter().map(|item| item.job.context.not_after_ms).min().unwrap_or(u64::MAX);
        let deadline = self.clock.instant_of(not_after);
        let run = async {
            let closed = |_| Failure::Lost("the service is closing".to_owned());
            let _permit = place.writers.acquire().await.map_err(closed)?;
            let mut attempts = 0;
            loop {
                attempts += 1;
                let mut connection = place.connection().await.map_err(|error| Failure::Lost(error.to_string()))?;
                match self.transact((place, &mut connection), (lot, accuse), deadline).await {
                    Ok(outcomes) => {
                        place.put(connection);
                        return Ok(outcomes);
                    }
                    Err(Failure::NotBegun(_)) if attempts < ATTEMPTS_MAX => {}
                    Err(Failure::Conflict(_)) if attempts < ATTEMPTS_MAX => {
                        place.put(connection);
                        metrics::fence_retried(self.service);
                        // Two that lost to each other must not meet again in step: their first keys differ.
                        let spread = lot[0].job.context.xid.as_bytes()[15] % 8;
                        tokio::time::sleep(Duration::from_millis(u64::from(attempts) + u64::from(spread))).await;
                    }
                    Err(failure) => {
                        if matches!(
                            failure,
                            Failure::Conflict(_) | Failure::Failed(_) | Failure::Differs | Failure::Moved
                        ) {
                            place.put(connection);
                        }
                        return Err(failure);
                    }
                }
            }
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, run).await.unwrap_or_else(|_| Err(Failure::Overran)),
            None => run.await,
        }
    }

    /// One local transaction, once. It is rolled back unless the outcomes are returned or the failure says that its
    /// connection is in doubt.
    async fn transact(
        &self,
        (place, connection): (&Connections<Db>, &mut Db::Connection),
        (lot, accuse): (&[Item], bool),
        deadline: Option<Instant>,
    ) -> Result<Vec<Outcome>, Failure> {
        let begun = match Db::BEGIN {
            Some(sql) => connection.begin_with(SqlStr::from_static(sql)).await,
            None => connection.begin().await,
        };
        let mut db_tx = match begun {
            Ok(db_tx) => db_tx,
            Err(error) if Db::is_conflict(&error) => return Err(failure::<Db>(error)),
            // A connection that lay idle may have been closed by the server.
            Err(error) => return Err(Failure::NotBegun(error.to_string())),
        };
        let ran = match self.fill(&mut db_tx, place, lot, accuse).await {
            // A commit that late could come after the fence has forgotten the calls.
            Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => Err(Failure::Overran),
            ran => ran,
        };
        match ran {
            Ok(outcomes) => {
                let start = Instant::now();
                match db_tx.commit().await {
                    Ok(()) => metrics::committed(self.service, start.elapsed()),
                    Err(error) if Db::is_conflict(&error) => return Err(failure::<Db>(error)),
                    Err(error) => return Err(Failure::Lost(format!("COMMIT of unknown result: {error}"))),
                }
                Ok(outcomes)
            }
            Err(failure @ (Failure::Conflict(_) | Failure::Failed(_) | Failure::Differs | Failure::Moved)) => {
                match db_tx.rollback().await {
                    Ok(()) => Err(failure),
                    Err(error) => Err(Failure::Lost(format!("ROLLBACK of unknown result: {error}"))),
                }
            }
            Err(failure @ (Failure::Panicked | Failure::NotBegun(_) | Failure::Overran | Failure::Lost(_))) => {
                Err(failure)
            }
        }
    }

    /// All of a local transaction between its BEGIN and its COMMIT.
    async fn fill(
        &self,
        db_tx: &mut DbTx<Db>,
        place: &Connections<Db>,
        lot: &[Item],
        accuse: bool,
    ) -> Result<Vec<Outcome>, Failure> {
        let (mut steps, prevs) = self.enter(db_tx, lot).await?;
        self.handle(db_tx, lot, &mut steps).await?;
        let ran = steps.iter().any(|step| matches!(step, Step::Ran(_)));
        self.book(db_tx, place, (lot, &steps), accuse).await?;
        let mut settled = Vec::new();
        let outcomes = steps
            .into_iter()
            .zip(lot)
            .zip(prevs)
            .map(|((step, item), prev)| step.finish(item, prev, &mut settled))
            .collect();
        if self.fence_id.is_some() && !settled.is_empty() {
            Db::settle(db_tx, &settled).await.map_err(failure::<Db>)?;
        } else if ran {
            Db::check(db_tx).await.map_err(failure::<Db>)?;
        }
        Ok(outcomes)
    }

    /// The fence's word on each.
    async fn enter(&self, db_tx: &mut DbTx<Db>, lot: &[Item]) -> Result<(Vec<Step>, Vec<State>), Failure> {
        if self.fence_id.is_none() {
            let steps = lot.iter().map(|item| match item.operation {
                Operation::Ask => Step::Said(Err("without a fence nothing is known".to_owned())),
                Operation::Try | Operation::Confirm | Operation::Cancel => Step::Run,
            });
            return Ok((steps.collect(), vec![State::None; lot.len()]));
        }
        let entry = |item: &Item| Entry::new(&item.job.context, item.operation, item.place.part);
        let entries: Vec<Entry> = lot.iter().map(entry).collect();
        let epoch = lot.first().and_then(|item| item.place.epoch);
        let rows = fence::enter::<Db>(db_tx, &entries, epoch).await.map_err(failure::<Db>)?.ok_or(Failure::Moved)?;
        let steps = lot.iter().zip(rows).map(|(item, row)| {
            let Some(row) = row else {
                return (Step::Said(Ok(Answer::not_now(Duration::ZERO))), State::None);
            };
            let step = match fence::verdict(item.operation, item.tried, &row) {
                Verdict::Run => Step::Run,
                Verdict::Say(answer) => Step::Said(Ok(answer)),
                Verdict::Fault(reason) => Step::Fault(reason),
            };
            (step, row.prev)
        });
        Ok(steps.unzip())
    }

    /// Runs the handlers, once for each action and operation.
    async fn handle(&self, db_tx: &mut DbTx<Db>, lot: &[Item], steps: &mut [Step]) -> Result<(), Failure> {
        let mut groups: BTreeMap<(usize, Operation), (Vec<usize>, Vec<Job>)> = BTreeMap::new();
        for (at, item) in lot.iter().enumerate() {
            if matches!(steps[at], Step::Run) {
                let (places, jobs) = groups.entry((item.action, item.operation)).or_default();
                places.push(at);
                jobs.push(item.job.clone());
            }
        }
        for ((action, operation), (places, jobs)) in groups {
            let action = &self.actions[action];
            let span =
                info_span!("handler", service = self.service, action = action.name, operation = operation.name());
            let run = AssertUnwindSafe(action.handler.run(operation, db_tx, &jobs)).catch_unwind();
            let outcomes = match run.instrument(span).await {
                Ok(Ok(outcomes)) => outcomes,
                Ok(Err(Trouble::Sql(error))) => return Err(failure::<Db>(error)),
                Ok(Err(Trouble::Author(text))) => {
                    let (action, operation) = (action.name, operation.name());
                    error!(service = self.service, action, operation, error = text, "the handler breaks its contract");
                    return Err(Failure::Failed(text));
                }
                Err(_) => return Err(Failure::Panicked),
            };
            for (at, outcome) in places.into_iter().zip(outcomes) {
                steps[at] = Step::Ran(outcome);
            }
        }
        Ok(())
    }
}

/// How far an operation has come.
pub(super) enum Step {
    /// The handler is to run.
    Run,
    /// The handler has run.
    Ran(Outcome),
    /// The fence answered, and its row stays.
    Said(Outcome),
    /// The fence found what can not be, and its row is put back.
    Fault(&'static str),
}

impl Step {
    /// The outcome, and what must be written for it.
    fn finish(self, item: &Item, prev: State, settled: &mut Vec<Settled>) -> Outcome {
        let key = item.key();
        let outcome = match self {
            Self::Said(outcome) => return outcome,
            Self::Ran(outcome) => outcome,
            Self::Run => Err("the handler was not run".to_owned()),
            Self::Fault(reason) => match item.operation {
                Operation::Ask => Err(reason.to_owned()),
                Operation::Try | Operation::Confirm | Operation::Cancel => Ok(Answer::refused(reason)),
            },
        };
        match outcome {
            Ok(Answer::Done(result)) => {
                if !result.is_empty() {
                    settled.push(Settled::keep(key, item.operation.wanted(), &result));
                }
                Ok(Answer::Done(result))
            }
            Ok(Answer::Refused(reason)) => {
                let reason = shortened(reason);
                settled.push(match item.operation {
                    Operation::Try => Settled::keep(key, State::Refused, reason.as_bytes()),
                    Operation::Confirm | Operation::Cancel | Operation::Ask => Settled::put_back(key, prev),
                });
                Ok(Answer::Refused(reason))
            }
            other @ (Ok(Answer::NotNow(_)) | Err(_)) => {
                settled.push(Settled::put_back(key, prev));
                other
            }
        }
    }
}
