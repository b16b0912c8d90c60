//! For the tests of participants: the conformance suite, and a coordinator in memory.
//!
//! [`conformance!`] makes a test of a participant that asks for what the SDK can not promise alone: every call twice,
//! a cancel before its try, a try after its cancel, each call to another instance, all in one batch, each kind of write
//! failing, and the local transaction dropped after every statement, up to the COMMIT whose answer is lost. All rows of
//! the service's tables must come out as they do undisturbed. It needs one line for each action:
//!
//! ```
//! # use sqlx::{Pool, Sqlite, SqliteConnection};
//! # use tercet::action::{Action, Json, Tcc};
//! # use tercet::participant::{Answer, Participant};
//! # use tercet::service::Service;
//! # pub const RESERVE: Action<Tcc, Json<i64>> = Action::tcc("seats", "reserve");
//! # struct Seats;
//! # impl Participant for Seats {
//! #     type Db = Sqlite;
//! #     type Request = Json<i64>;
//! #     async fn try_(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//! #         let sql = "UPDATE seats SET free = free - ?1, held = held + ?1 WHERE free >= ?1";
//! #         let reserved = sqlx::query(sql).bind(count).execute(db_tx).await?.rows_affected() == 1;
//! #         Ok(if reserved { Answer::done() } else { Answer::refused("sold out") })
//! #     }
//! #     async fn confirm(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//! #         sqlx::query("UPDATE seats SET held = held - ?1").bind(count).execute(db_tx).await?;
//! #         Ok(Answer::done())
//! #     }
//! #     async fn cancel(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
//! #         let sql = "UPDATE seats SET free = free + ?1, held = held - ?1";
//! #         sqlx::query(sql).bind(count).execute(db_tx).await?;
//! #         Ok(Answer::done())
//! #     }
//! # }
//! # async fn schema(pool: Pool<Sqlite>) -> sqlx::Result<()> {
//! #     let sql = "CREATE TABLE seats (free INTEGER, held INTEGER); INSERT INTO seats VALUES (10, 0)";
//! #     sqlx::raw_sql(sql).execute(&pool).await.map(|_| ())
//! # }
//! use tercet::client::Wait;
//! use tercet_testing::{Coordinator, Suite, conformance};
//!
//! async fn service(pool: Pool<Sqlite>) -> Service<Sqlite> {
//!     Service::new("seats", [pool]).tables(["seats"]).tcc(RESERVE, Seats)
//! }
//!
//! conformance! {
//!     reserve: Suite::new(RESERVE, service).seed(schema).granting([Json(2), Json(1)]).refusing([Json(8)]);
//! }
//!
//! # async fn open() -> Pool<Sqlite> {
//! #     use tercet::fence::Dialect as _;
//! #     let pool = Sqlite::open("sqlite::memory:").await.unwrap();
//! #     schema(pool.clone()).await.unwrap();
//! #     pool
//! # }
//! /// Service and initiator together, over a real coordinator.
//! #[tokio::test]
//! async fn two_seats_are_booked() {
//!     let mut coordinator = Coordinator::start().await;
//!     coordinator.serve(service(open().await).await);
//!     let mut plan = tercet::plan::tcc();
//!     plan.branch(RESERVE.with(&Json(2)).unwrap());
//!     let view = coordinator.client().submit(plan.build().unwrap(), Wait::Decided).await.unwrap();
//!     view.confirmed().unwrap();
//!     coordinator.crash_and_start().await;
//!     coordinator.all_ended().await;
//! }
//! # let made = |pool| std::future::ready(Service::new("seats", [pool]).tables(["seats"]).tcc(RESERVE, Seats));
//! # tercet_testing::macros::run(async move {
//! #     Suite::new(RESERVE, made).seed(schema).granting([Json(2), Json(1)]).refusing([Json(8)])
//! # });
//! ```
//!
//! On PostgreSQL and MariaDB (features `postgres` and `mysql`) the suite takes an empty database's URL, and drops the
//! connections between a service and its server.

mod coordinator;
mod crash;
mod database;
#[cfg(test)]
mod faulty;
mod suite;

#[doc(hidden)]
pub mod macros;

pub use coordinator::Coordinator;
pub use database::Database;
pub use suite::{Faults, Made, Mode, Report, Suite};
