//! The business log: who did what to coupons, orders and templates, when, and what it was before and after.
//!
//! It is written by nobody but its consumer, a statement for each batch of events, and so costs those whose deeds it
//! keeps no more than their events. What is issued, redeemed, expired, voided and refunded is logged, and every change
//! of an operator's.

use std::sync::Arc;

use sqlx::Pool;
use tercet::service::Service;
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::consumer::Consuming;
use tercet_events::outbox::Outbox;
use tercet_events::relayed;
use tercet_proto::log::v1::business_log_server::BusinessLogServer;
use tonic::service::Routes;

pub mod api;
pub mod entry;
pub mod limits;
mod retention;
pub mod store;
pub mod writer;

use store::Store;
use writer::Writer;

/// The service's name.
pub const SERVICE: &str = "business_log";

/// How entries are kept.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Settings {
    /// Days for which entries are kept; 0 for ever
    #[arg(long, env = "TERCET_RETENTION_DAYS", default_value_t = limits::RETENTION_DAYS)]
    pub retention_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { retention_days: limits::RETENTION_DAYS }
    }
}

/// The service over this database, whose tables are made where they are missing. Without a bus it only shows what is
/// there.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Store>(
    pool: Pool<Db>,
    bus: Option<&Bus>,
    settings: Settings,
) -> Result<Service<Db>, tables::Error> {
    Db::migrate(&pool).await?;
    let server = BusinessLogServer::from_arc(Arc::new(api::Api::new(pool.clone())));
    let service = Service::new(SERVICE, [pool.clone()]).routes(Routes::new(server), tercet_proto::DESCRIPTORS);
    let purging = retention::Purging::new(pool.clone(), settings.retention_days);
    let service = service.beside("retention", |stop| purging.run(stop));
    let Some(bus) = bus else { return Ok(service) };
    let pools = [pool];
    // For what it can not take.
    let outbox = Outbox::open(&pools).await?;
    let consuming = Consuming::new(Writer::default(), pools.clone(), bus.clone());
    let service = service.beside("writer", |stop| consuming.run(stop));
    Ok(relayed(service, SERVICE, &pools, &outbox, bus))
}
