//! The fence for services whose handlers are called by the initiator itself, and for the senders of messages.

use std::time::Duration;

use sqlx::{Connection, SqlStr};

use super::{Dialect, Entry, Operation, Settled, Sql, State, Verdict, enter, verdict};
use crate::context::Context;
use crate::handler::shortened;
use crate::participant::{Answer, RESULT_BYTES_MAX};

const BEFORE: SqlStr = SqlStr::from_static("SAVEPOINT tercet_guard");
const UNDO: SqlStr = SqlStr::from_static("ROLLBACK TO SAVEPOINT tercet_guard");

/// Runs a try that came to the service's own door, behind the fence, in the caller's local transaction. A repeat, or a
/// try after its cancel, is answered without the handler.
///
/// The caller commits whatever the answer is: unless it is done, the handler's own writes have been undone, and a
/// refusal is kept for repeats. On SQLite, begin with `BEGIN IMMEDIATE`.
///
/// # Errors
/// The database's. The caller rolls back and tells the initiator that the outcome is unknown, or runs the whole local
/// transaction again.
pub async fn guard<C>(
    db_tx: &mut C,
    context: &Context,
    handler: impl AsyncFnOnce(&mut C) -> Result<Answer, sqlx::Error>,
) -> Result<Answer, sqlx::Error>
where
    C: Connection<Database: Dialect<Connection = C>>,
{
    let entry = Entry::new(context, Operation::Try, None);
    let found = enter::<C::Database>(db_tx, &[entry], None).await?;
    let Some(found) = found.and_then(|mut found| found.pop().flatten()) else {
        return Ok(Answer::not_now(Duration::ZERO));
    };
    match verdict(Operation::Try, true, &found) {
        Verdict::Say(answer) => return Ok(answer),
        Verdict::Fault(reason) => return Ok(Answer::refused(reason)),
        Verdict::Run => {}
    }
    C::Database::execute(db_tx, BEFORE).await?;
    let answer = match handler(db_tx).await? {
        Answer::Refused(reason) => Answer::Refused(shortened(reason)),
        answer @ (Answer::Done(_) | Answer::NotNow(_)) => answer,
    };
    let settled = match &answer {
        Answer::Done(result) if result.len() > RESULT_BYTES_MAX => {
            return Err(sqlx::Error::Encode("the handler's result is over its limit".into()));
        }
        Answer::Done(result) if result.is_empty() => {
            C::Database::check(db_tx).await?;
            return Ok(answer);
        }
        Answer::Done(result) => Settled::keep(entry.key(), State::Tried, result),
        Answer::Refused(reason) => Settled::keep(entry.key(), State::Refused, reason.as_bytes()),
        Answer::NotNow(_) => Settled::put_back(entry.key(), found.prev),
    };
    if !matches!(answer, Answer::Done(_)) {
        C::Database::execute(db_tx, UNDO).await?;
    }
    C::Database::settle(db_tx, &[settled]).await?;
    Ok(answer)
}

/// Why a sender may not commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The coordinator asked, was told no, and has rolled the message back. The caller must roll back too.
    #[error("the message of transaction {} has been rolled back", .0.xid)]
    RolledBack(Context),
    /// The database's word. The caller rolls back, and may begin again.
    #[error("the fence can not be written")]
    Database(#[from] sqlx::Error),
}

/// Marks a message's sender as committed, in the local transaction that the message tells about. When the coordinator
/// asks, this row is the answer, so it must be written before the caller commits.
///
/// # Errors
/// Those of [`CommitError`]: after either, the caller must roll back.
pub async fn commit_sender<C>(db_tx: &mut C, context: &Context) -> Result<(), CommitError>
where
    C: Connection<Database: Dialect<Connection = C>>,
{
    let Context { xid, branch, not_after_ms } = *context;
    let entry = Entry { xid, branch, wanted: State::Confirmed, not_after_ms, part: None };
    let found = enter::<C::Database>(db_tx, &[entry], None).await?.and_then(|mut found| found.pop().flatten());
    match found.map(|found| found.prev) {
        Some(State::None | State::Confirmed) => Ok(()),
        // Below the floor the transaction is long over.
        None | Some(State::Tried | State::Cancelled | State::Refused) => Err(CommitError::RolledBack(*context)),
    }
}
