//! Events of the coupon platform: from the local transaction that they tell of to the local transactions that they
//! lead to.
//!
//! ```text
//! service's database                    bus                      consumer's database
//! rows + outbox, one commit ──► relay ──► Kafka, or this process ──► effects + inbox, one commit
//! ```
//!
//! # What it guarantees
//! - An event is published if and only if its local transaction commits; at least once, in the order of each user's
//!   changes ([`outbox`] says what the author owes for that).
//! - The effects of an event are committed once for each group, whatever is repeated, killed or late: how far a group
//!   has come stands beside the effects, and is written in the same commit ([`consumer`]).
//! - An event that a consumer can not take is put away with the reason, others go on, and it can be sent back
//!   ([`dead`]).
//! - Without a bus nothing is written: a service pays for events only where somebody listens.
//!
//! # What it does not
//! - Whoever restores a database from a backup brings back its old numbers: consumers would take new events for
//!   repeats. Give the outbox a new `source` in `tercet_outbox_relay` then.
//! - Others that read the topics know repeats by source and sequence themselves.

pub mod bus;
pub mod consumer;
pub mod dead;
pub mod event;
pub mod limits;
mod metrics;
pub mod outbox;
pub mod relay;
pub mod settings;
pub mod store;

use sqlx::Pool;
use tercet::service::Service;

use bus::Bus;
use outbox::Outbox;
use relay::Relay;
use store::Store;

/// Calls a function, generic over the database, with the kind of database that a URL's scheme names: of those that the
/// calling program is built with, by its features `sqlite` and `mysql`. Another one is an error of `anyhow`.
///
/// ```text
/// by_database!(config.scheme(), serve(config, own))
/// ```
#[macro_export]
macro_rules! by_database {
    ($scheme:expr, $run:ident($($argument:expr),*)) => {
        match $scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => $run::<sqlx::Sqlite>($($argument),*).await,
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => $run::<sqlx::MySql>($($argument),*).await,
            other => anyhow::bail!("no database of kind {other:?} is built into this program"),
        }
    };
}

/// The service with a relay beside it for each of its databases.
#[must_use]
pub fn relayed<Db: Store>(
    service: Service<Db>,
    name: &'static str,
    pools: &[Pool<Db>],
    outbox: &Outbox,
    bus: &Bus,
) -> Service<Db> {
    pools.iter().enumerate().fold(service, |service, (place, pool)| {
        let relay = Relay::new(name, place, pool.clone(), outbox, bus.clone());
        service.beside("relay", |stop| relay.run(stop))
    })
}
