//! What a service promises to conserve, so that the coordinator can watch it: every unit of a resource is reserved,
//! issued or free, and only transactions change which.
//!
//! Double-entry bookkeeping. An [`Invariant`] says where the units stand (the author's query over the business rows)
//! and what each operation does to them (a function of its request alone, which the handler does not share). The SDK
//! keeps a *book* beside the fence: for each resource what it must hold by the operations that ran. It is written in
//! their local transaction, so at any moment one snapshot shows rows and book with the same operations in both, and
//! whatever is not the same in both was not done by them.
//!
//! - **A transaction that breaks it** is caught in its own local transaction. After the handlers of a batch the SDK
//!   compares the resources that it touched. When they differ the batch is rolled back and halved until the culprit is
//!   alone; it then runs again, and is marked in the book as it commits. So the first one is named exactly, however hot
//!   the resource is. Nothing is refused: this is an auditor, not a guard.
//! - **A row changed by hand** differs from the book in the next scan. What a connection of its own saw before the
//!   transaction tells it from a broken handler.
//! - **The scan** goes through all resources, up to [`PAGE_RESOURCES`] a second for each invariant in each database,
//!   one statement a page: totals of rows and book, how many operations the book counts (the *watermark* of the
//!   snapshot), and the resources that differ. The coordinator asks for it down a session, compares, and raises the
//!   alarm.
//!
//! Book and marks outlive every process. There is no log that grows: a row for each resource. A resource without a row
//! is entered as the scan, or its first operation, finds it; what was wrong with it before is seen only where its units
//! do not add up. A mark goes when rows and book agree again. Whoever accepts the rows as they are deletes the
//! resource's row of `tercet_book`.
//!
//! The cost is one round trip in each batch that touches a resource, and nothing for services without invariants.
//! Operations that do not run in batches (tries behind [`guard`](crate::fence::guard), work that is no transaction's)
//! enter what they do themselves, with [`Invariant::enter`].

use std::collections::BTreeMap;
use std::ops::Neg;
use std::sync::Arc;

use sqlx::Connection;

use crate::action::{Action, Message, Request, Saga, Tcc};
use crate::fence::{Dialect, Operation};
use crate::xid::Xid;

mod book;

pub(crate) use book::{Entry, Misfit, Page, enter, mark, page, standing};

/// Resources of one page of the scan.
pub const PAGE_RESOURCES: u32 = 250_000;

/// The most misfits that a page shows.
pub(crate) const MISFITS_MAX: usize = 16;

/// Units that come to each state of a resource, or leave it. Unless they add up to 0 the resource grows or shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Held by transactions that are under way.
    pub reserved: i64,
    /// Gone, or in use.
    pub issued: i64,
    /// For anyone.
    pub free: i64,
}

impl Change {
    /// So many free units become reserved.
    pub const fn reserve(units: i64) -> Self {
        Self { reserved: units, issued: 0, free: -units }
    }

    /// So many reserved units become issued.
    pub const fn issue(units: i64) -> Self {
        Self { reserved: -units, issued: units, free: 0 }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.reserved += other.reserved;
        self.issued += other.issued;
        self.free += other.free;
    }
}

impl Neg for Change {
    type Output = Self;

    fn neg(self) -> Self {
        Self { reserved: -self.reserved, issued: -self.issued, free: -self.free }
    }
}

type Effect = Arc<dyn Fn(Operation, &[u8]) -> Option<(i64, Change)> + Send + Sync>;

/// A promise of a service about its resources; see the module.
#[derive(Clone)]
pub struct Invariant {
    pub(crate) name: &'static str,
    pub(crate) levels: &'static str,
    effects: BTreeMap<&'static str, Effect>,
}

impl Invariant {
    /// A promise of this name (1 to 64 of `[a-z0-9_.-]`). `levels` is a query without parameters over one table, such
    /// as `SELECT item AS resource, reserved, issued, free, total FROM stock`: whole numbers, `resource` a primary key
    /// or as quick to look up. `reserved + issued + free = total` holds in each of its rows.
    pub fn new(name: &'static str, levels: &'static str) -> Self {
        Self { name, levels, effects: BTreeMap::new() }
    }

    /// What an action does: the resource, the change by its try, and the change by its confirm. A cancel undoes the
    /// try.
    #[must_use]
    pub fn tcc<R: Request>(self, action: Action<Tcc, R>, effect: fn(&R) -> (i64, Change, Change)) -> Self {
        self.effect(action.name(), move |operation, request: &R| {
            let (resource, tried, confirmed) = effect(request);
            let change = match operation {
                Operation::Try => tried,
                Operation::Confirm => confirmed,
                Operation::Cancel => -tried,
                Operation::Ask => Change::default(),
            };
            (resource, change)
        })
    }

    /// What an action does: the resource, and the change by its try. A cancel undoes it.
    #[must_use]
    pub fn saga<R: Request>(self, action: Action<Saga, R>, effect: fn(&R) -> (i64, Change)) -> Self {
        self.effect(action.name(), move |operation, request: &R| {
            let (resource, change) = effect(request);
            (resource, if operation == Operation::Cancel { -change } else { change })
        })
    }

    /// What the delivery of a message does: the resource, and the change.
    #[must_use]
    pub fn receiver<R: Request>(self, action: Action<Message, R>, effect: fn(&R) -> (i64, Change)) -> Self {
        self.effect(action.name(), move |_, request: &R| effect(request))
    }

    fn effect<R: Request>(
        mut self,
        action: &'static str,
        effect: impl Fn(Operation, &R) -> (i64, Change) + Send + Sync + 'static,
    ) -> Self {
        let effect: Effect = Arc::new(move |operation, request: &[u8]| {
            let request = R::from_bytes(request).ok()?;
            Some(effect(operation, &request))
        });
        self.effects.insert(action, effect);
        self
    }

    /// Enters changes that no operation of a batch makes, in the local transaction that makes them: of a try behind
    /// [`guard`](crate::fence::guard) with its `xid`, or of work outside any transaction, such as a delivery of goods.
    /// The fence's tables must be there: see [`prepare`](crate::fence::prepare).
    ///
    /// # Errors
    /// The database's: the caller rolls back.
    pub async fn enter<C>(&self, db_tx: &mut C, xid: Option<Xid>, changes: &[(i64, Change)]) -> Result<(), sqlx::Error>
    where
        C: Connection<Database: Dialect<Connection = C>>,
    {
        let mut entries = BTreeMap::<i64, Entry>::new();
        for (resource, change) in changes {
            entries.entry(*resource).or_default().add(*change, xid);
        }
        enter::<C::Database>(db_tx, self, &entries).await.map(drop)
    }

    /// The actions that it knows.
    pub(crate) fn actions(&self) -> impl Iterator<Item = &'static str> {
        self.effects.keys().copied()
    }

    /// What an operation that was done did; `None`: nothing that counts here.
    pub(crate) fn of(&self, action: &str, operation: Operation, request: &[u8]) -> Option<(i64, Change)> {
        let (resource, change) = self.effects.get(action)?(operation, request)?;
        (change != Change::default()).then_some((resource, change))
    }
}
