//! What the author of a participant writes: business rules over a typed request and an open local transaction.
//!
//! Repeats, a cancel without a try and a try after its cancel never reach a handler: the [fence](crate::fence) answers
//! them in the same local transaction. So a handler holds no code for them.
//!
//! | action | one by one | in slices |
//! |---|---|---|
//! | try, confirm, cancel | [`Participant`] | [`SliceParticipant`] |
//! | do and compensate | [`Compensable`] | [`SliceCompensable`] |
//! | receive a message | [`Receiver`] | [`SliceReceiver`] |
//!
//! A handler that takes one operation runs under a savepoint of its own: what it wrote is undone unless it answers
//! done, and an SQL error of one operation harms no other. A handler that takes a slice runs once for all operations
//! of its kind that came together, which makes a hot row fast; it answers in the slice's order and has written nothing
//! for those that it does not answer done.
//!
//! What a handler logs is in the `tracing` span of its operation, which carries the xid, the branch and the caller's
//! trace id; a slice of several is in one span that says how many they are.
//!
//! An SQL error is not an answer: the coordinator asks again. Work outside the database (calls, files, caches) is not
//! undone with the local transaction; a handler should do none.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::action::Request;
use crate::context::Context;
use crate::fence::Dialect;

/// The database connection with its open transaction: pass `&mut *db_tx` to sqlx. The SDK commits; a handler may nest
/// transactions with `begin`, which makes savepoints.
pub type DbTx<Db> = <Db as sqlx::Database>::Connection;

/// The most bytes a result may have. It is kept in the fence for repeats.
pub const RESULT_BYTES_MAX: usize = 4 * 1024;
/// The most bytes of a reason that are kept; the rest is cut off.
pub const REASON_BYTES_MAX: usize = 512;

/// What a participant says to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, durably once the local transaction commits. The result goes to the initiator.
    Done(Bytes),
    /// Final. In a try it cancels the whole transaction; in a confirm or cancel it is a fault that waits for a person.
    Refused(String),
    /// Nothing was done; ask again after this.
    NotNow(Duration),
}

impl Answer {
    /// Done, without a result.
    pub const fn done() -> Self {
        Self::Done(Bytes::new())
    }

    /// Done, with a result of at most [`RESULT_BYTES_MAX`] bytes for the initiator.
    pub fn done_with(result: impl Into<Bytes>) -> Self {
        Self::Done(result.into())
    }

    /// No, finally, for a reason that people read; at most [`REASON_BYTES_MAX`] bytes of it are kept.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Not now: ask again after `delay`.
    pub const fn not_now(delay: Duration) -> Self {
        Self::NotNow(delay)
    }
}

/// One operation of a slice.
#[derive(Clone, Debug)]
pub struct Op<R> {
    /// Where it belongs.
    pub context: Context,
    /// The caller's trace: empty, or a [`Traceparent`](crate::context::Traceparent).
    pub traceparent: String,
    /// What it asks for.
    pub request: R,
}

/// Where the rows of a request are.
///
/// Rows that stay where they are need the number of the database alone. Parts of them may move to another database
/// while the service runs, on MariaDB and MySQL: then each database has an epoch, which rises whenever it begins or
/// ceases to serve a part, in the commit that does so. A request that was placed by an earlier epoch touches nothing,
/// and is placed again: see [`Moves`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which of the service's databases, from 0.
    pub database: usize,
    /// The part that they belong to: what the fence keeps for the request moves along with it.
    pub part: Option<u16>,
    /// The epoch by which the database serves it.
    pub epoch: Option<i64>,
}

impl Place {
    /// In this database, for good.
    pub const fn in_database(database: usize) -> Self {
        Self { database, part: None, epoch: None }
    }
}

/// Knows where parts are that move.
pub trait Moves: Send + Sync + 'static {
    /// Looks again: what was placed by an earlier epoch, or nowhere, is placed once more afterwards.
    fn look(&self) -> BoxFuture<'_, ()>;
}

macro_rules! operation {
    (one, $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// The database's: the operation is undone and asked for again.
        fn $name(
            &self,
            db_tx: &mut DbTx<Self::Db>,
            request: Self::Request,
        ) -> impl Future<Output = Result<Answer, sqlx::Error>> + Send;
    };
    (slice, $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        /// One answer for each, in their order.
        ///
        /// # Errors
        /// The database's: all are undone, and asked for again in smaller slices.
        fn $name(
            &self,
            db_tx: &mut DbTx<Self::Db>,
            operations: &[Op<Self::Request>],
        ) -> impl Future<Output = Result<Vec<Answer>, sqlx::Error>> + Send;
    };
}

macro_rules! participant {
    ($form:ident, $(#[$doc:meta])* $name:ident { $($(#[$operation_doc:meta])* $operation:ident),* $(,)? }) => {
        $(#[$doc])*
        pub trait $name: Send + Sync + 'static {
            /// The database that its rows live in.
            type Db: Dialect;
            /// What a branch asks for.
            type Request: Request;

            /// Where the rows of this request are: in the first database, unless the service says otherwise. Nowhere
            /// while they move to another, when the coordinator is told to ask again; else always the same place for
            /// the same request, until its part has moved.
            fn place(&self, request: &Self::Request) -> Option<Place> {
                let _ = request;
                Some(Place::default())
            }

            $(operation!($form, $(#[$operation_doc])* $operation);)*
        }
    };
}

participant!(
    one,
    /// Try, confirm and cancel, one operation at a time.
    Participant {
        /// Reserves what the request asks for, so that a later confirm can not fail.
        try_,
        /// Makes the reservation final.
        confirm,
        /// Releases the reservation.
        cancel,
    }
);

participant!(
    slice,
    /// Try, confirm and cancel, many operations at once.
    SliceParticipant {
        /// Reserves what the requests ask for, so that later confirms can not fail.
        try_,
        /// Makes the reservations final.
        confirm,
        /// Releases the reservations.
        cancel,
    }
);

participant!(
    one,
    /// Do it, and compensate: a step of a saga, one operation at a time.
    Compensable {
        /// Does what the request asks for.
        try_,
        /// Undoes it by a second change of the business's own.
        cancel,
    }
);

participant!(
    slice,
    /// Do it, and compensate: a step of a saga, many operations at once.
    SliceCompensable {
        /// Does what the requests ask for.
        try_,
        /// Undoes them by second changes of the business's own.
        cancel,
    }
);

participant!(
    one,
    /// Receives messages, one at a time.
    Receiver {
        /// Acts on a message. The decision has been made: a refusal waits for a person.
        deliver,
    }
);

participant!(
    slice,
    /// Receives messages, many at once.
    SliceReceiver {
        /// Acts on messages. The decisions have been made: a refusal waits for a person.
        deliver,
    }
);
