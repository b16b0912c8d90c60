//! Handlers without their types: what a batch needs of any of them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::SqlStr;
use tracing::{Instrument as _, Span, info_span};

use crate::action::{FormatError, Request};
use crate::context::{Context, Traceparent};
use crate::fence::{Dialect, Operation};
use crate::participant::{
    Answer, Compensable, DbTx, Op, Participant, Place, REASON_BYTES_MAX, RESULT_BYTES_MAX, Receiver, SliceCompensable,
    SliceParticipant, SliceReceiver,
};

/// An answer, or why there is none: then the operation has been undone.
pub(crate) type Outcome = Result<Answer, String>;

/// One operation for a handler.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) context: Context,
    pub(crate) request: Bytes,
    /// As the coordinator passed it on: empty, or a [`Traceparent`].
    pub(crate) traceparent: String,
}

impl Job {
    /// What is logged about one operation belongs to its transaction, and to its caller's trace.
    fn span(&self) -> Span {
        let Context { xid, branch, .. } = self.context;
        let traceparent = || self.traceparent.parse::<Traceparent>().ok();
        info_span!("operation", %xid, branch, trace_id = traceparent().as_ref().map(Traceparent::trace_id))
    }
}

/// Why a whole group came to nothing. All of it must be undone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The database's word.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The handler broke its contract: a person must change it.
    #[error("{0}")]
    Author(String),
}

/// The handler of one action.
pub(crate) trait Handler<Db: Dialect>: Send + Sync {
    /// The operations that the action has.
    fn operations(&self) -> &'static [Operation];

    /// Where the rows of the request are.
    fn place(&self, request: &[u8]) -> Result<Option<Place>, FormatError>;

    /// Runs the jobs in the open transaction: an outcome for each, in their order.
    fn run<'a>(
        &'a self,
        operation: Operation,
        db_tx: &'a mut DbTx<Db>,
        jobs: &'a [Job],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, Trouble>>;
}

fn undecodable(error: &FormatError) -> Outcome {
    Ok(Answer::refused(error.to_string()))
}

fn missing(operation: Operation) -> Trouble {
    Trouble::Author(format!("the action has no {}", operation.name()))
}

fn too_large(result: &Bytes) -> String {
    format!("the handler's result has {} bytes, over the limit of {RESULT_BYTES_MAX}", result.len())
}

/// The reason, cut to its limit between two characters.
pub(crate) fn shortened(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

/// A handler of one operation, whatever operations it has.
trait One<Db: Dialect>: Send + Sync + 'static {
    type Request: Request;
    const OPERATIONS: &'static [Operation];
    fn place(&self, request: &Self::Request) -> Option<Place>;
    fn call(
        &self,
        operation: Operation,
        db_tx: &mut DbTx<Db>,
        request: Self::Request,
    ) -> impl Future<Output = Result<Answer, Trouble>> + Send;
}

/// A handler of slices, whatever operations it has.
trait Slice<Db: Dialect>: Send + Sync + 'static {
    type Request: Request;
    const OPERATIONS: &'static [Operation];
    fn place(&self, request: &Self::Request) -> Option<Place>;
    fn call(
        &self,
        operation: Operation,
        db_tx: &mut DbTx<Db>,
        operations: &[Op<Self::Request>],
    ) -> impl Future<Output = Result<Vec<Answer>, Trouble>> + Send;
}

macro_rules! adapter {
    ($wrapper:ident: $form:ident($argument:ty) -> $answer:ty, $participant:ident, $make:ident via $run:ident,
        { $($operation:ident => $method:ident),* }) => {
        struct $wrapper<P>(P);

        impl<P: $participant> $form<P::Db> for $wrapper<P> {
            type Request = P::Request;
            const OPERATIONS: &'static [Operation] = &[$(Operation::$operation),*];

            fn place(&self, request: &P::Request) -> Option<Place> {
                self.0.place(request)
            }

            async fn call(
                &self,
                operation: Operation,
                db_tx: &mut DbTx<P::Db>,
                argument: $argument,
            ) -> Result<$answer, Trouble> {
                $(if operation == Operation::$operation {
                    return Ok(self.0.$method(db_tx, argument).await?);
                })*
                Err(missing(operation))
            }
        }

        pub(crate) fn $make<P: $participant>(participant: P) -> Arc<dyn Handler<P::Db>> {
            Arc::new($run($wrapper(participant)))
        }
    };
}

adapter!(TccOne: One(P::Request) -> Answer, Participant, tcc via OneByOne,
    { Try => try_, Confirm => confirm, Cancel => cancel });
adapter!(SagaOne: One(P::Request) -> Answer, Compensable, saga via OneByOne, { Try => try_, Cancel => cancel });
adapter!(ReceiverOne: One(P::Request) -> Answer, Receiver, receiver via OneByOne, { Confirm => deliver });
adapter!(TccSlice: Slice(&[Op<P::Request>]) -> Vec<Answer>, SliceParticipant, tcc_slice via InSlices,
    { Try => try_, Confirm => confirm, Cancel => cancel });
adapter!(SagaSlice: Slice(&[Op<P::Request>]) -> Vec<Answer>, SliceCompensable, saga_slice via InSlices,
    { Try => try_, Cancel => cancel });
adapter!(ReceiverSlice: Slice(&[Op<P::Request>]) -> Vec<Answer>, SliceReceiver, receiver_slice via InSlices,
    { Confirm => deliver });

/// Runs each operation under a savepoint of its own.
struct OneByOne<H>(H);

const FIRST: SqlStr = SqlStr::from_static("SAVEPOINT tercet_operation");
const NEXT: SqlStr = SqlStr::from_static("RELEASE SAVEPOINT tercet_operation; SAVEPOINT tercet_operation");
const UNDO: SqlStr = SqlStr::from_static("ROLLBACK TO SAVEPOINT tercet_operation");

impl<H> OneByOne<H> {
    async fn run_all<Db: Dialect>(
        &self,
        operation: Operation,
        db_tx: &mut DbTx<Db>,
        jobs: &[Job],
    ) -> Result<Vec<Outcome>, Trouble>
    where
        H: One<Db>,
    {
        let mut outcomes = Vec::with_capacity(jobs.len());
        // An undone savepoint is still there and serves the next operation; the last one ends with the transaction.
        let mut savepoint = Some(FIRST);
        for job in jobs {
            let request = match H::Request::from_bytes(&job.request) {
                Ok(request) => request,
                Err(error) => {
                    outcomes.push(undecodable(&error));
                    continue;
                }
            };
            if let Some(sql) = savepoint.take() {
                Db::execute(db_tx, sql).await?;
            }
            let outcome = match self.0.call(operation, db_tx, request).instrument(job.span()).await {
                Ok(Answer::Done(result)) if result.len() > RESULT_BYTES_MAX => Err(too_large(&result)),
                Ok(answer) => Ok(answer),
                // The transaction may be gone altogether.
                Err(Trouble::Sql(error)) if Db::is_conflict(&error) || error.as_database_error().is_none() => {
                    return Err(error.into());
                }
                Err(trouble) => Err(trouble.to_string()),
            };
            if matches!(outcome, Ok(Answer::Done(_))) {
                savepoint = Some(NEXT);
            } else {
                Db::execute(db_tx, UNDO).await?;
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

impl<Db: Dialect, H: One<Db>> Handler<Db> for OneByOne<H> {
    fn operations(&self) -> &'static [Operation] {
        H::OPERATIONS
    }

    fn place(&self, request: &[u8]) -> Result<Option<Place>, FormatError> {
        H::Request::from_bytes(request).map(|request| self.0.place(&request))
    }

    fn run<'a>(
        &'a self,
        operation: Operation,
        db_tx: &'a mut DbTx<Db>,
        jobs: &'a [Job],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, Trouble>> {
        Box::pin(self.run_all::<Db>(operation, db_tx, jobs))
    }
}

/// Hands all operations over at once.
struct InSlices<H>(H);

impl<H> InSlices<H> {
    async fn run_all<Db: Dialect>(
        &self,
        operation: Operation,
        db_tx: &mut DbTx<Db>,
        jobs: &[Job],
    ) -> Result<Vec<Outcome>, Trouble>
    where
        H: Slice<Db>,
    {
        let mut operations = Vec::with_capacity(jobs.len());
        let mut wrong = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            match H::Request::from_bytes(&job.request) {
                Ok(request) => {
                    operations.push(Op { context: job.context, traceparent: job.traceparent.clone(), request })
                }
                Err(error) => wrong.push((at, undecodable(&error))),
            }
        }
        let span = match jobs {
            [job] => job.span(),
            _ => info_span!("operations", count = jobs.len()),
        };
        let answers = if operations.is_empty() {
            Vec::new()
        } else {
            self.0.call(operation, db_tx, &operations).instrument(span).await?
        };
        if answers.len() != operations.len() {
            let (got, want) = (answers.len(), operations.len());
            return Err(Trouble::Author(format!("the handler gave {got} answers to {want} operations")));
        }
        for answer in &answers {
            if let Answer::Done(result) = answer
                && result.len() > RESULT_BYTES_MAX
            {
                return Err(Trouble::Author(too_large(result)));
            }
        }
        let mut outcomes: Vec<Outcome> = answers.into_iter().map(Ok).collect();
        for (at, outcome) in wrong {
            outcomes.insert(at, outcome);
        }
        Ok(outcomes)
    }
}

impl<Db: Dialect, H: Slice<Db>> Handler<Db> for InSlices<H> {
    fn operations(&self) -> &'static [Operation] {
        H::OPERATIONS
    }

    fn place(&self, request: &[u8]) -> Result<Option<Place>, FormatError> {
        H::Request::from_bytes(request).map(|request| self.0.place(&request))
    }

    fn run<'a>(
        &'a self,
        operation: Operation,
        db_tx: &'a mut DbTx<Db>,
        jobs: &'a [Job],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, Trouble>> {
        Box::pin(self.run_all::<Db>(operation, db_tx, jobs))
    }
}

/// The sender of a message: the fence alone answers whether its local transaction committed.
pub(crate) struct Asked;

impl<Db: Dialect> Handler<Db> for Asked {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Ask]
    }

    fn place(&self, _request: &[u8]) -> Result<Option<Place>, FormatError> {
        Ok(Some(Place::default()))
    }

    fn run<'a>(
        &'a self,
        operation: Operation,
        _db_tx: &'a mut DbTx<Db>,
        _jobs: &'a [Job],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, Trouble>> {
        Box::pin(async move { Err(missing(operation)) })
    }
}
