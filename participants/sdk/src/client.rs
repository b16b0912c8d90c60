//! The initiator's side: declares transactions, or drives one call by call, and asks how they stand.
//!
//! [`Client::submit`] runs a declared [`Plan`]; [`Client::begin`] is for initiators that call the services themselves;
//! [`Client::prepare`] is for a message that goes out if, and only if, the sender's own local transaction commits;
//! [`Client::batching`] is for many transactions at a time.
//!
//! Every call repeats by itself what is safe to repeat, within its time-out. What remains is an [`Error`] whose variant
//! says what to do. That a transaction was cancelled is no error: it is in the [`View`].

mod batching;
mod driven;
mod error;
mod link;
mod throttle;
mod view;
mod watch;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use tercet_proto::coordinator::v1 as pb;

pub use self::batching::Batching;
pub use self::driven::{Driven, Prepared};
pub use self::error::Error;
use self::link::Link;
pub use self::view::{Outcome, Status, Undone, View};
use crate::action::{Message, Sender};
use crate::context::{Context, Traceparent};
use crate::plan::{Branch, Builder, InvalidField, Plan, Tried, millis};
use crate::xid::Xid;
pub use tercet_secure::client::Settings as Security;

/// What a call waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// The transaction is durable and will be driven to an end.
    Accepted,
    /// The outcome is durable and final.
    #[default]
    Decided,
    /// Every branch has ended.
    Ended,
}

impl Wait {
    fn to_wire(self) -> i32 {
        match self {
            Self::Accepted => pb::Wait::Accepted,
            Self::Decided => pb::Wait::Decided,
            Self::Ended => pb::Wait::Ended,
        }
        .into()
    }
}

/// How a [`Client`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long one call may take, repeats and the wait asked for included. 30 s. What an overloaded coordinator
    /// refuses is repeated for half of it.
    pub timeout: Duration,
    /// How many transactions one [`Batching`] has sent without an answer before more have to wait. 4,096.
    pub outstanding_max: usize,
    /// Which coordinators it trusts, and how it is known to them. By default it has no secret and speaks http.
    pub security: Security,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), outstanding_max: 4_096, security: Security::default() }
    }
}

/// A connection to the coordinator. Cheap to clone; all clones share two connections.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
    keys: Arc<Keys>,
    options: Arc<Options>,
}

impl Client {
    /// Connects at the first call, again after every loss: first after about 20 ms, then at most 500 ms apart. With
    /// several addresses (`host:port`, `http://host:port` or `https://host:port`) it stays with one until that is lost,
    /// and starts at a random one. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no address or one that can not be read, or a file of [`Options::security`] can not be used.
    pub fn connect<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> Result<Self, InvalidField> {
        let keys = Keys::default();
        let link = Link::new(addresses, &options.security, keys.prefix)?;
        Ok(Self { link: Arc::new(link), keys: Arc::new(keys), options: Arc::new(options) })
    }

    /// Runs a declared transaction. Repeated by itself where no answer came: a plan without an idempotency key gets a
    /// random one for this. To be safe beyond the end of this process, give the plan a key of your own.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the outcome is not known within [`Options::timeout`]; [`Client::find`] asks again.
    pub async fn submit<M>(&self, plan: Plan<M>, wait: Wait) -> Result<View, Error> {
        let (transaction, traceparent) = self.with_key(plan.into_wire());
        let key = transaction.idempotency_key.clone();
        let request = pb::SubmitRequest { transaction: Some(transaction), wait: wait.to_wire() };
        let send = |mut to: link::Coordinator, request| async move { to.submit(request).await };
        let answer = self.link.call(request, traceparent.as_ref(), self.options.timeout, send).await;
        let answer: pb::SubmitResponse = answer.map_err(|status| Error::from_status(status, key))?;
        View::from_answer(answer.transaction)
    }

    /// A handle that sends whatever is waiting as one batch, on one stream. More throughput than [`Client::submit`]
    /// when many tasks submit at a time. To be called within a tokio runtime, once: clones of the handle share its
    /// stream.
    pub fn batching(&self) -> Batching {
        Batching::new(self.link.clone(), &self.options)
    }

    /// Begins a transaction whose tries the initiator calls by itself. Takes a plan without branches: they are added
    /// one by one.
    ///
    /// # Errors
    /// [`Error::Refused`] when the plan has branches; else as [`Client::submit`].
    pub async fn begin<M: Tried>(&self, plan: Builder<M>) -> Result<Driven<M>, Error> {
        let plan = plan.check()?;
        if plan.branch_count() > 0 {
            return Err(InvalidField::new("branches", "none: they are added after the transaction has begun").into());
        }
        let (transaction, traceparent) = self.with_key(plan.into_wire());
        let key = transaction.idempotency_key.clone();
        let request = pb::BeginRequest {
            mode: transaction.mode,
            deadline_ms: transaction.deadline_ms,
            labels: transaction.labels,
            idempotency_key: transaction.idempotency_key,
        };
        let send = |mut to: link::Coordinator, request| async move { to.begin(request).await };
        let answer = self.link.call(request, traceparent.as_ref(), self.options.timeout, send).await;
        let answer: pb::BeginResponse = answer.map_err(|status| Error::from_status(status, key))?;
        Ok(Driven::new(self.clone(), xid_of(&answer.xid)?, answer.deadline_at_ms))
    }

    /// Makes a message durable before the sender's own local transaction commits. The sender then writes its fence row
    /// in that transaction and calls [`Prepared::commit`]; after `query_after` (1 ms to 24 h) of silence it is asked
    /// instead.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn prepare(
        &self,
        sender: Branch<Sender>,
        receivers: Plan<Message>,
        query_after: Duration,
    ) -> Result<Prepared, Error> {
        let (transaction, traceparent) = self.with_key(receivers.into_wire());
        let key = transaction.idempotency_key.clone();
        let request = pb::PrepareRequest {
            sender: Some(sender.into_wire()?),
            receivers: transaction.branches,
            query_after_ms: millis("query_after", query_after)?,
            labels: transaction.labels,
            idempotency_key: transaction.idempotency_key,
        };
        let send = |mut to: link::Coordinator, request| async move { to.prepare(request).await };
        let answer = self.link.call(request, traceparent.as_ref(), self.options.timeout, send).await;
        let answer: pb::PrepareResponse = answer.map_err(|status| Error::from_status(status, key))?;
        let context = Context { xid: xid_of(&answer.xid)?, branch: answer.branch, not_after_ms: answer.not_after_ms };
        Ok(Prepared::new(self.clone(), context))
    }

    /// Confirms what [`Client::begin`] or [`Client::prepare`] started. Safe to repeat. The answer is the outcome that
    /// won: a commit that lost against the deadline tells of a cancelled transaction.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unknown`] when no answer came within [`Options::timeout`].
    pub async fn commit(&self, xid: Xid, wait: Wait) -> Result<View, Error> {
        let request = pb::CommitRequest { xid: bytes_of(xid), wait: wait.to_wire() };
        let send = |mut to: link::Coordinator, request| async move { to.commit(request).await };
        let answer = self.link.call(request, None, self.options.timeout, send).await;
        let answer: pb::CommitResponse = answer.map_err(|status| Error::from_status(status, String::new()))?;
        View::from_answer(answer.transaction)
    }

    /// Cancels what [`Client::begin`] or [`Client::prepare`] started, for this reason. Safe to repeat. The answer is
    /// the outcome that won.
    ///
    /// # Errors
    /// As [`Client::commit`].
    pub async fn rollback(&self, xid: Xid, reason: &str, wait: Wait) -> Result<View, Error> {
        let request = pb::RollbackRequest { xid: bytes_of(xid), wait: wait.to_wire(), reason: reason.into() };
        let send = |mut to: link::Coordinator, request| async move { to.rollback(request).await };
        let answer = self.link.call(request, None, self.options.timeout, send).await;
        let answer: pb::RollbackResponse = answer.map_err(|status| Error::from_status(status, String::new()))?;
        View::from_answer(answer.transaction)
    }

    /// How a transaction stands.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, or it ended so long ago that the coordinator forgot it.
    pub async fn get(&self, xid: Xid) -> Result<View, Error> {
        self.get_by(pb::get_request::Key::Xid(bytes_of(xid))).await
    }

    /// How the transaction with this idempotency key stands.
    ///
    /// # Errors
    /// As [`Client::get`]. After [`Error::Unknown`], not found means only that it was not accepted *yet*: the request
    /// may still be on its way, so submit the same plan with the same key again instead of starting another.
    pub async fn find(&self, idempotency_key: &str) -> Result<View, Error> {
        self.get_by(pb::get_request::Key::IdempotencyKey(idempotency_key.into())).await
    }

    async fn get_by(&self, key: pb::get_request::Key) -> Result<View, Error> {
        let request = pb::GetRequest { key: Some(key) };
        let send = |mut to: link::Coordinator, request| async move { to.get(request).await };
        let answer = self.link.call(request, None, self.options.timeout, send).await;
        let answer: pb::GetResponse = answer.map_err(|status| Error::from_status(status, String::new()))?;
        View::from_answer(answer.transaction)
    }

    /// The transaction as it stands, then again after durable changes, each newer than the one before; the stream ends
    /// when the transaction has ended, or after an error. Connects again by itself.
    pub fn watch(&self, xid: Xid) -> BoxStream<'static, Result<View, Error>> {
        watch::watch(self.link.clone(), xid, self.options.timeout)
    }

    fn with_key(
        &self,
        (mut transaction, traceparent): (pb::Transaction, Option<Traceparent>),
    ) -> (pb::Transaction, Option<Traceparent>) {
        if transaction.idempotency_key.is_empty() {
            transaction.idempotency_key = self.keys.key();
        }
        (transaction, traceparent)
    }
}

fn xid_of(bytes: &[u8]) -> Result<Xid, Error> {
    Xid::from_slice(bytes).ok_or_else(|| Error::unreadable("an xid that is not 16 bytes"))
}

fn bytes_of(xid: Xid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(xid.as_bytes())
}

/// Keys that no other client makes: the standard library seeds its hasher from the system.
#[derive(Debug)]
struct Keys {
    /// Random, of this client.
    prefix: u64,
    counter: AtomicU64,
}

impl Default for Keys {
    fn default() -> Self {
        Self { prefix: RandomState::new().hash_one(0), counter: AtomicU64::new(0) }
    }
}

impl Keys {
    /// 32 hexadecimal digits. Those of one client follow each other, which spares the store's index.
    fn key(&self) -> String {
        format!("{:016x}{:016x}", self.prefix, self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
