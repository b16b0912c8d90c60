//! What is tried with a participant, and in which words.

mod bench;
mod scenarios;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use sqlx::Pool;
use tercet::action::{Action, Message, Request, Saga, Tcc};
use tercet::service::Service;
use tercet_proto::participant::v1::Operation;

use crate::database::Database;

/// The operations that an action has, and the orders in which they may come.
pub trait Mode: 'static {
    #[doc(hidden)]
    const SCRIPTS: &'static [&'static [Operation]];
}

impl Mode for Tcc {
    const SCRIPTS: &'static [&'static [Operation]] = &[
        &[Operation::Try, Operation::Confirm],
        &[Operation::Try, Operation::Cancel],
        &[Operation::Cancel, Operation::Try],
    ];
}

impl Mode for Saga {
    const SCRIPTS: &'static [&'static [Operation]] =
        &[&[Operation::Try, Operation::Cancel], &[Operation::Cancel, Operation::Try]];
}

impl Mode for Message {
    const SCRIPTS: &'static [&'static [Operation]] = &[&[Operation::Confirm]];
}

/// What makes a service gives: the service, or why there is none.
pub trait Made<Db: Database> {
    #[doc(hidden)]
    fn made(self) -> Result<Service<Db>, String>;
}

impl<Db: Database> Made<Db> for Service<Db> {
    fn made(self) -> Result<Self, String> {
        Ok(self)
    }
}

impl<Db: Database, E: fmt::Display> Made<Db> for Result<Service<Db>, E> {
    fn made(self) -> Result<Service<Db>, String> {
        self.map_err(|error| error.to_string())
    }
}

type OnPool<Db, T> = Box<dyn Fn(Pool<Db>) -> LocalBoxFuture<'static, Result<T, String>>>;

/// One action of a service, to be run through the suite.
///
/// It starts from the rows that [`seed`](Self::seed) makes, for each of its runs anew, and compares all rows of the
/// tables that the service names. It makes a new instance of the service wherever a process would have been started
/// again, so what a handler keeps in memory is gone by then.
pub struct Suite<Db: Database, M, R> {
    plan: Plan<Db>,
    action: PhantomData<fn() -> (M, R)>,
}

/// The suite without the types of its requests.
struct Plan<Db: Database> {
    name: String,
    action: &'static str,
    scripts: &'static [&'static [Operation]],
    make: OnPool<Db, Service<Db>>,
    seed: OnPool<Db, ()>,
    invariant: OnPool<Db, ()>,
    granted: Vec<Bytes>,
    refused: Vec<Bytes>,
    url: Option<String>,
    ignored: Vec<&'static str>,
    traces: Vec<&'static str>,
}

impl<Db: Database, M: Mode, R: Request> Suite<Db, M, R> {
    /// A suite for this action of the service that `make` makes over a pool. `make` may create the tables. Give it
    /// requests with [`granting`](Self::granting).
    pub fn new<S, F>(action: Action<M, R>, make: S) -> Self
    where
        S: Fn(Pool<Db>) -> F + 'static,
        F: Future<Output: Made<Db>> + 'static,
    {
        let nothing = || -> OnPool<Db, ()> { Box::new(|_| async { Ok(()) }.boxed_local()) };
        let plan = Plan {
            name: format!("{}/{}", action.service(), action.name()),
            action: action.name(),
            scripts: M::SCRIPTS,
            make: Box::new(move |pool| {
                let made = make(pool);
                async { made.await.made() }.boxed_local()
            }),
            seed: nothing(),
            invariant: nothing(),
            granted: Vec::new(),
            refused: Vec::new(),
            url: None,
            ignored: Vec::new(),
            traces: Vec::new(),
        };
        Self { plan, action: PhantomData }
    }

    /// Makes the rows that every run starts from. Called once, after the service has been made.
    #[must_use]
    pub fn seed<S, F, E>(mut self, seed: S) -> Self
    where
        S: Fn(Pool<Db>) -> F + 'static,
        F: Future<Output = Result<(), E>> + 'static,
        E: fmt::Display,
    {
        self.plan.seed = on_pool(seed);
        self
    }

    /// What must hold after every local transaction, whatever came before it: sums that stay the same, limits that are
    /// kept. The error says what is wrong.
    #[must_use]
    pub fn invariant<S, F, E>(mut self, invariant: S) -> Self
    where
        S: Fn(Pool<Db>) -> F + 'static,
        F: Future<Output = Result<(), E>> + 'static,
        E: fmt::Display,
    {
        self.plan.invariant = on_pool(invariant);
        self
    }

    /// Requests that the participant grants one after the other, and all of them at once. At least one.
    ///
    /// # Panics
    /// When a request has no form in its format.
    #[must_use]
    pub fn granting(mut self, requests: impl IntoIterator<Item = R>) -> Self {
        self.plan.granted.extend(requests.into_iter().map(|request| bytes_of(&request)));
        self
    }

    /// Requests that the participant refuses once those that it grants have been granted: of things that are not
    /// there, or of more than what is left.
    ///
    /// # Panics
    /// When a request has no form in its format.
    #[must_use]
    pub fn refusing(mut self, requests: impl IntoIterator<Item = R>) -> Self {
        self.plan.refused.extend(requests.into_iter().map(|request| bytes_of(&request)));
        self
    }

    /// Runs in the empty database at this URL instead of an SQLite file of its own. Required but on SQLite.
    #[must_use]
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.plan.url = Some(url.into());
        self
    }

    /// Columns of this name differ between two equal runs (times, numbers that the database gives): they are not
    /// compared.
    #[must_use]
    pub fn ignoring(mut self, columns: &[&'static str]) -> Self {
        self.plan.ignored.extend_from_slice(columns);
        self
    }

    /// In these tables a cancel leaves something behind on purpose, such as an order that is closed. All others are as
    /// they were before the try.
    #[must_use]
    pub fn cancel_leaves_traces_in(mut self, tables: &[&'static str]) -> Self {
        self.plan.traces.extend_from_slice(tables);
        self
    }

    /// Runs everything. [`conformance!`](crate::conformance) makes a test of this.
    ///
    /// # Errors
    /// What the participant does that it must not, each with the scenario that found it.
    pub async fn check(self) -> Result<Report, Faults> {
        scenarios::check(&self.plan).await
    }
}

fn on_pool<Db: Database, S, F, E>(run: S) -> OnPool<Db, ()>
where
    S: Fn(Pool<Db>) -> F + 'static,
    F: Future<Output = Result<(), E>> + 'static,
    E: fmt::Display,
{
    Box::new(move |pool| run(pool).map(|result| result.map_err(|error| error.to_string())).boxed_local())
}

fn bytes_of<R: Request>(request: &R) -> Bytes {
    request.to_bytes().unwrap_or_else(|error| panic!("{error}"))
}

/// What the suite did with a participant that conforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Service and action.
    pub name: String,
    /// How often a local transaction was dropped after a statement.
    pub drops: usize,
    /// How often a write failed.
    pub failed_writes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, drops, failed_writes } = self;
        write!(f, "{name} conforms: local transactions dropped at {drops} points, {failed_writes} writes failed")
    }
}

/// What a participant does that it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} does not conform\n{}", .faults.join("\n"))]
pub struct Faults {
    /// Service and action.
    pub name: String,
    /// Each with its scenario, in words.
    pub faults: Vec<String>,
}
