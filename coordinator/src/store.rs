//! Where transactions are durable: the one trait that every database implements, and what it moves.
//!
//! A row is one global transaction. Every write of one says which version it replaces, and only that comparison decides
//! who moved it; owners and leases merely keep two coordinators from wasting each other's time. The store does not
//! understand what it keeps: `plan` and `state` are bytes, `status` a number. There is no cache here, no retry, and no
//! time but that of [`Clock`](crate::clock::Clock).

#[doc(hidden)]
pub mod conformance;
mod error;
pub mod memory;
pub mod sqlite;

use std::future::Future;

use bytes::Bytes;
use tercet_core::{Timestamp, Xid};

use crate::audit::{AuditRow, AuditWrite};

pub use error::Error;
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// Longest idempotency key that a store takes, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Longest label (`name=value`) or business key that a store takes, in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// Services whose compensations a beat counts.
pub const BACKLOGS_MAX: usize = 1_000;

/// Most services of one claim of compensations.
pub const CLAIM_SERVICES_MAX: usize = 256;
/// The mode of transactions that only test whether work gets done. A store lists none of them.
pub const CANARY_MODE: u8 = 9;

/// The durable side of a coordinator. An answer means that the write is on disk.
pub trait Store: Send + Sync + 'static {
    /// Makes a batch durable in one commit and answers for each write, in order. A write happens whole (its keys,
    /// compensations and audit row with it) or not at all, whatever becomes of the others.
    ///
    /// The caller owes at most one write per xid in a batch. [`Error::Unavailable`] says nothing about any of them:
    /// [`get`](Self::get) each and compare versions.
    fn write(&self, batch: Vec<Write>) -> impl Future<Output = Result<Vec<Written>, Error>> + Send;

    /// The transaction of this name, if there is one.
    fn get(&self, lookup: Lookup) -> impl Future<Output = Result<Option<Record>, Error>> + Send;

    /// The rows that fit every part of the query: transactions ([`ListQuery`]) newest first but those of
    /// [`CANARY_MODE`], compensations ([`CompensationQuery`]) and the audit log ([`AuditQuery`]) in order of their ids.
    fn list<Q: Query>(&self, query: Q) -> impl Future<Output = Result<Vec<Q::Row>, Error>> + Send;

    /// Makes `owner` the owner of up to `limit` transactions that are waiting (`wake_at` set) under an older epoch of
    /// its node or under a node whose lease has lapsed, start by start, oldest first. Each gets a new version, which
    /// the records show. After [`Error::Unavailable`], or when the call is dropped, some may be claimed and not shown:
    /// the caller owes a look at all that it owns.
    fn claim_orphans(&self, owner: Owner, limit: u32) -> impl Future<Output = Result<Vec<Record>, Error>> + Send;

    /// Leases compensations that are due, so that nobody else gets them before `lease_until`, and shows each with its
    /// transaction; those that are due for longest first, so many of each service that a stuck one starves no other. A
    /// write that leaves one pending ends its lease, and so does a newer start of the node that holds it.
    fn claim_compensations(
        &self,
        claim: ClaimCompensations,
    ) -> impl Future<Output = Result<Vec<Claimed>, Error>> + Send;

    /// Renews the lease of `node` for `lease_ms` from now and tells the store's time. Without an `epoch` it starts the
    /// node: it gets the next epoch, durably. [`Error::Superseded`] when a newer start of that node has beaten.
    fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> impl Future<Output = Result<Beat, Error>> + Send;

    /// Deletes up to `limit` ended transactions that are too old or too many, those that ended first first, with all
    /// that belongs to them, and says how many went. Never touches one that has not ended.
    fn purge(&self, purge: Purge) -> impl Future<Output = Result<u64, Error>> + Send;
}

/// One change of one transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new one.
    Create(Create),
    /// The next version of one.
    Advance(Advance),
    /// A change by a person that is about no transaction.
    Audit(AuditWrite),
}

impl Write {
    /// The transaction that it writes.
    pub fn xid(&self) -> Option<Xid> {
        match self {
            Self::Create(create) => Some(create.xid),
            Self::Advance(advance) => Some(advance.xid),
            Self::Audit(_) => None,
        }
    }

    /// The version that the transaction has when this is done; 0 when it writes none.
    pub fn version(&self) -> u64 {
        match self {
            Self::Create(_) => 1,
            Self::Advance(advance) => advance.version + 1,
            Self::Audit(_) => 0,
        }
    }

    /// The row that it adds to the audit log, if it adds one.
    pub fn audit(&self) -> Option<&AuditWrite> {
        match self {
            Self::Create(_) => None,
            Self::Advance(advance) => advance.audit.as_deref(),
            Self::Audit(audit) => Some(audit),
        }
    }
}

/// A transaction's first version, 1.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its name, which also tells when it was made.
    pub xid: Xid,
    /// TCC, saga or message; the store only keeps it.
    pub mode: u8,
    /// Its phase; the store only keeps it and filters by it.
    pub status: u8,
    /// Set when it has ended.
    pub ended_at: Option<Timestamp>,
    /// Who drives it.
    pub owner: Owner,
    /// When it next needs its owner; `None`: an orphaned one is not taken over.
    pub wake_at: Option<Timestamp>,
    /// The caller's own name for it, unique in the store, at most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
    pub idempotency_key: Option<String>,
    /// Of the content, to tell a repeat from a clash when the key is taken.
    pub digest: u64,
    /// What is written once.
    pub plan: Bytes,
    /// What changes.
    pub state: Bytes,
    /// By what it is found, beside its xid.
    pub keys: Vec<Key>,
}

/// A transaction's next version.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which transaction.
    pub xid: Xid,
    /// The version that this replaces; the new one is one more.
    pub version: u64,
    /// Its phase.
    pub status: u8,
    /// Set when it has ended.
    pub ended_at: Option<Timestamp>,
    /// Who drives it from now on; `None` for one that has ended or whose remaining work is all compensations.
    pub owner: Option<Owner>,
    /// When it next needs its owner.
    pub wake_at: Option<Timestamp>,
    /// What changes.
    pub state: Bytes,
    /// Keys to add to those it has.
    pub keys: Vec<Key>,
    /// Compensations to add or change.
    pub compensations: Vec<CompensationWrite>,
    /// Set when a person wanted it.
    pub audit: Option<Box<AuditWrite>>,
}

/// A row of `compensation_log` as it shall be; there is one for each operation of each branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompensationWrite {
    /// Which branch of the transaction.
    pub branch: u16,
    /// Which of its operations; the store only keeps it.
    pub operation: u8,
    /// Who carries it out.
    pub service: String,
    /// The coupon that it is about, if it is about one.
    pub coupon_id: Option<i64>,
    /// What has become of it.
    pub status: CompensationStatus,
    /// Attempts made so far.
    pub retry_count: u32,
    /// When it is due.
    pub next_retry_time: Timestamp,
    /// What the last attempt met.
    pub last_error: String,
}

/// What has become of a compensation. The numbers are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CompensationStatus {
    /// It is tried again when it is due.
    Pending = 0,
    /// It is done.
    Done = 1,
    /// Its attempts are used up: parked, a person decides.
    Failed = 2,
}

impl CompensationStatus {
    /// The status with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Pending, Self::Done, Self::Failed].into_iter().find(|status| *status as u32 == number)
    }
}

/// What became of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Done {
        /// The version that the transaction now has.
        version: u64,
    },
    /// Somebody wrote the transaction since that version (or it is gone, or a created xid exists): nothing was done.
    Stale,
    /// The idempotency key names this transaction already: nothing was done.
    KeyTaken(Box<Record>),
    /// The database refuses the content of this write, and will again: nothing was done.
    Refused(String),
    /// There is no room for anything new: nothing was done.
    NoRoom,
}

/// A start of a coordinator node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The node, 0 to 1,023.
    pub node: u16,
    /// Which of its starts, from 1.
    pub epoch: u64,
}

/// By what a transaction is found, beside its xid. At most [`KEY_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `name=value` of a label.
    Label(String),
    /// A business key of one of its branches.
    Business(String),
}

/// Names one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// By its xid.
    Xid(Xid),
    /// By the key that its initiator gave.
    IdempotencyKey(String),
}

/// A transaction as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name, which also tells when it was made.
    pub xid: Xid,
    /// How often it has been written.
    pub version: u64,
    /// As created.
    pub mode: u8,
    /// Its phase.
    pub status: u8,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// Who drives it.
    pub owner: Option<Owner>,
    /// When it next needs its owner.
    pub wake_at: Option<Timestamp>,
    /// As created.
    pub idempotency_key: Option<String>,
    /// As created.
    pub digest: u64,
    /// As created.
    pub plan: Bytes,
    /// As last written.
    pub state: Bytes,
}

/// Which transactions to list; `None` and `false` leave that part open.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// In this phase.
    pub status: Option<u8>,
    /// That have not ended.
    pub unfinished: bool,
    /// With this label, `name=value`.
    pub label: Option<String>,
    /// With this business key.
    pub business_key: Option<String>,
    /// With a compensation that waits for a person.
    pub parked: bool,
    /// Older than this one: the last of the page before.
    pub before: Option<Xid>,
    /// No older than this one.
    pub from: Option<Xid>,
    /// At most so many.
    pub limit: u32,
}

/// Whose due compensations to lease, and for how long.
#[derive(Clone, Debug)]
pub struct ClaimCompensations {
    /// Due and out of lease at this time.
    pub now: Timestamp,
    /// Nobody else gets them before.
    pub lease_until: Timestamp,
    /// For whom.
    pub owner: Owner,
    /// Of these services only, each named once, and at most so many of each. At most [`CLAIM_SERVICES_MAX`].
    pub services: Vec<(String, u32)>,
}

/// A compensation that was leased, and the transaction that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The row, with its lease.
    pub compensation: Compensation,
    /// The transaction as it was at some moment since.
    pub record: Record,
}

/// A row of `compensation_log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compensation {
    /// Its number, in the order of their making.
    pub id: u64,
    /// Whose branch it is.
    pub xid: Xid,
    /// Which branch.
    pub branch: u16,
    /// Which of its operations.
    pub operation: u8,
    /// Who carries it out.
    pub service: String,
    /// The coupon that it is about, if it is about one.
    pub coupon_id: Option<i64>,
    /// What has become of it.
    pub status: CompensationStatus,
    /// Attempts made so far.
    pub retry_count: u32,
    /// When it was first written.
    pub create_time: Timestamp,
    /// When it was last written.
    pub update_time: Timestamp,
    /// When it is due.
    pub next_retry_time: Timestamp,
    /// Until when it is somebody's, `Timestamp(0)` when it is not.
    pub lease_until: Timestamp,
    /// What the last attempt met.
    pub last_error: String,
}

/// Which compensations to list; `None` leaves that part open.
#[derive(Clone, Debug, Default)]
pub struct CompensationQuery {
    /// Of this status.
    pub status: Option<CompensationStatus>,
    /// Of this service.
    pub service: Option<String>,
    /// Of this transaction.
    pub xid: Option<Xid>,
    /// With a higher id: the last of the page before.
    pub after_id: u64,
    /// At most so many.
    pub limit: u32,
}

/// Which rows of the audit log to list; `None` leaves that part open.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// About this transaction.
    pub xid: Option<Xid>,
    /// With a higher id.
    pub after_id: u64,
    /// With a lower id, and then the highest of those, in order of their ids all the same.
    pub before_id: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// What [`Store::list`] can be asked for.
pub trait Query: Send + 'static {
    /// What it answers.
    type Row: Send;

    /// Hands itself to whoever knows how to read its kind of rows.
    fn read<L: Lists>(self, lists: &L) -> impl Future<Output = Result<Vec<Self::Row>, Error>> + Send;
}

/// What a store can list, kind by kind: the other side of [`Query`].
pub trait Lists: Sync {
    /// Transactions, newest first.
    fn transactions(&self, query: ListQuery) -> impl Future<Output = Result<Vec<Record>, Error>> + Send;

    /// Compensations, in order of their ids.
    fn compensations(&self, query: CompensationQuery) -> impl Future<Output = Result<Vec<Compensation>, Error>> + Send;

    /// The audit log, in order of its ids.
    fn audit(&self, query: AuditQuery) -> impl Future<Output = Result<Vec<AuditRow>, Error>> + Send;
}

impl Query for ListQuery {
    type Row = Record;

    fn read<L: Lists>(self, lists: &L) -> impl Future<Output = Result<Vec<Record>, Error>> + Send {
        lists.transactions(self)
    }
}

impl Query for CompensationQuery {
    type Row = Compensation;

    fn read<L: Lists>(self, lists: &L) -> impl Future<Output = Result<Vec<Compensation>, Error>> + Send {
        lists.compensations(self)
    }
}

impl Query for AuditQuery {
    type Row = AuditRow;

    fn read<L: Lists>(self, lists: &L) -> impl Future<Output = Result<Vec<AuditRow>, Error>> + Send {
        lists.audit(self)
    }
}

/// The store's answer to a node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The store's time, the only one that counts.
    pub now: Timestamp,
    /// Which start of the node this is.
    pub epoch: u64,
    /// Of the services that ever had any, the [`BACKLOGS_MAX`] with the most.
    pub backlogs: Vec<Backlog>,
}

/// Compensations of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The service.
    pub service: String,
    /// Those that are tried again.
    pub pending: u64,
    /// Those that wait for a person.
    pub failed: u64,
    /// When the first made of the pending ones was made.
    pub oldest: Option<Timestamp>,
    /// When the first due of the pending ones is due, or was when it was last tried: under way it counts as well.
    pub due: Option<Timestamp>,
}

/// Which ended transactions may go.
#[derive(Clone, Copy, Debug)]
pub struct Purge {
    /// Those that ended before this.
    pub older_than: Timestamp,
    /// And those beyond the so many that ended last.
    pub keep_max: u64,
    /// At most so many in this call.
    pub limit: u32,
}
