//! The SDK of Tercet: what a service needs to take part in global transactions, and an initiator to start them.
//!
//! A participant is its business rule. This one, whole, reserves seats:
//!
//! ```no_run
//! use sqlx::{Sqlite, SqliteConnection};
//! use tercet::action::{Action, Json, Tcc};
//! use tercet::fence::Dialect as _;
//! use tercet::participant::{Answer, Participant};
//! use tercet::service::Service;
//!
//! pub const RESERVE: Action<Tcc, Json<i64>> = Action::tcc("seats", "reserve");
//!
//! struct Seats;
//!
//! impl Participant for Seats {
//!     type Db = Sqlite;
//!     type Request = Json<i64>;
//!
//!     async fn try_(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//!         let sql = "UPDATE seats SET free = free - ?1, held = held + ?1 WHERE free >= ?1";
//!         let reserved = sqlx::query(sql).bind(count).execute(db_tx).await?.rows_affected() == 1;
//!         Ok(if reserved { Answer::done() } else { Answer::refused("sold out") })
//!     }
//!     async fn confirm(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//!         sqlx::query("UPDATE seats SET held = held - ?1").bind(count).execute(db_tx).await?;
//!         Ok(Answer::done())
//!     }
//!     async fn cancel(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//!         let sql = "UPDATE seats SET free = free + ?1, held = held - ?1";
//!         sqlx::query(sql).bind(count).execute(db_tx).await?;
//!         Ok(Answer::done())
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pool = Sqlite::open("sqlite://seats.db").await?;
//!     let seats = Service::new("seats", [pool]).tables(["seats"]).tcc(RESERVE, Seats);
//!     seats.coordinator("http://127.0.0.1:7070").run(std::future::pending()).await?;
//!     Ok(())
//! }
//! ```
//!
//! An initiator reserves a seat and, in the same transaction, whatever else belongs to it:
//!
//! ```no_run
//! # use tercet::action::{Action, Json, Tcc};
//! # const RESERVE: Action<Tcc, Json<i64>> = Action::tcc("seats", "reserve");
//! use tercet::client::{Client, Options, Wait};
//! use tercet::plan::tcc;
//!
//! # async fn initiator() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:7070"], Options::default())?;
//! let mut plan = tcc().idempotency_key("booking/42");
//! plan.branch(RESERVE.with(&Json(2))?.business_key("booking/42"));
//! client.submit(plan.build()?, Wait::Decided).await?.confirmed()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it guarantees
//! - Every branch of a transaction is confirmed, or every one is cancelled. What can not be brought to its end is
//!   parked for a person, never dropped.
//! - What a handler writes is committed once for each operation of a branch, whatever is repeated, lost or late on the
//!   way: a repeat, a cancel without its try and a try after its cancel are answered by the [`fence`], in the handler's
//!   own local transaction.
//! - The coordinator hears that an operation is done only after the local transaction has committed.
//! - An answer that the [`client`] returns is durable: it does not change back after a crash.
//! - Nothing is isolated: others see a reservation before it is confirmed, and a saga's step before the saga has ended.
//!
//! # What the author owes
//! - The business rows live in the database that is given to the [`service`], and are changed through `db_tx` alone.
//! - A try that is done makes its confirm and its cancel possible; neither of them may refuse.
//! - A handler does nothing that a rollback does not undo: no calls, no files, no caches.
//! - An initiator that may be restarted gives its plans idempotency keys of its own.

#![cfg_attr(
    not(any(feature = "sqlite", feature = "postgres", feature = "mysql")),
    allow(dead_code, reason = "what only a database needs is not taken out without one")
)]

pub mod action;
pub mod batch;
pub mod beside;
pub mod bootstrap;
pub mod client;
mod clock;
pub mod conserve;
pub mod context;
pub mod fence;
#[cfg(test)]
mod fixture;
mod handler;
mod measured;
mod metrics;
pub mod participant;
pub mod plan;
mod port;
pub mod readers;
pub mod retry;
pub mod service;
mod session;
pub mod tables;
pub mod xid;
