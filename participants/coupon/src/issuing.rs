//! Issuing: how users get coupons.
//!
//! A claim is a transaction of the coordinator over the stock of its template and the rows of its user. Before it is
//! begun, what can be known here is decided here ([`known`]): the template's offer is at most [`FRESH`] old, a limit is
//! refused by where nothing but a change of the template could make that wrong, and what is sold out by what stock has
//! said since the claim came. Many coupons at once go straight into the shards ([`batch`]), after their stock was
//! reserved by one transaction; so do those of occasions ([`occasions`]), which events lead to.
//!
//! The stock of a template is set here, before the first claim under a new revision of it: nobody can claim anything
//! that this service has not seen, so it is early enough, and the template service stays free of the coordinator. A
//! supply carries the revision, so repeats by other instances and late ones change nothing.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tercet::client::{Batching, Client};
use tercet::fence::Dialect;
use tercet::service::Service;
use tercet_events::bus::Bus;
use tercet_events::consumer::Consuming;
use tercet_events::outbox::Outbox;
use tercet_proto::coupon::v1::issuing_server::IssuingServer;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_shards::{Ids, node};
use tonic::service::Routes;
use tonic::transport::Channel;

mod api;
pub mod batch;
mod claims;
mod fields;
mod jobs;
mod known;
pub mod limits;
mod lookup;
pub mod occasions;
mod offers;
mod reads;
mod voids;

use crate::store::jobs::Jobs;
use crate::store::old::Old;
use crate::{Shards, metrics};
pub(crate) use fields::id;
use known::Known;
use occasions::Told;
use offers::Offers;
use reads::Reads;

pub use jobs::CRON;

/// The service's name.
pub const SERVICE: &str = "issuing";

/// How old an offer may be: a change of a template takes effect within it.
pub const FRESH: Duration = Duration::from_secs(1);

/// What is done by the clock.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// When scheduled jobs run, seconds first
    #[arg(long, env = "TERCET_JOBS_CRON", default_value = CRON)]
    pub jobs_cron: String,
    /// Days for which it is kept whom an occasion gave coupons, after it was stopped
    #[arg(long, env = "TERCET_RETENTION_DAYS", default_value_t = limits::RETENTION_DAYS,
        value_parser = clap::value_parser!(u32)
            .range(i64::from(limits::RETENTION_DAYS_MIN)..=i64::from(limits::RETENTION_DAYS_MAX)))]
    pub retention_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { jobs_cron: CRON.to_owned(), retention_days: limits::RETENTION_DAYS }
    }
}

/// Why the service can not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its databases can not be used.
    #[error(transparent)]
    Shards(#[from] crate::shards::Error),
    /// It has no node id to make ids with.
    #[error(transparent)]
    Node(#[from] node::Error),
}

/// Whom it asks.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The coordinator.
    pub client: Client,
    /// The template service.
    pub templates: Channel,
}

/// All that answers a call.
pub struct Issuing<Db: Jobs> {
    shards: Shards<Db>,
    /// For each database.
    reads: Vec<Arc<Reads<Db>>>,
    ids: Arc<Ids>,
    client: Client,
    /// For claims, of which many come at a time.
    claims: Batching,
    offers: Offers<Db>,
    known: Known,
    outbox: Outbox,
}

impl<Db: Jobs + Dialect> Issuing<Db> {
    /// Over these databases, with ids of this node; it tells there what it does. To be called within a tokio runtime.
    pub fn new(shards: Shards<Db>, ids: Arc<Ids>, peers: Peers, outbox: Outbox) -> Self {
        let templates = CouponTemplatesClient::new(peers.templates);
        let offers = Offers::new(shards.home().clone(), templates, peers.client.clone());
        let claims = peers.client.batching();
        let reads = (0..shards.pools().len()).map(|at| Arc::new(Reads::new(shards.clone(), at))).collect();
        Self { shards, reads, ids, client: peers.client, claims, offers, known: Known::default(), outbox }
    }
}

/// The service over these databases, whose tables are made where they are missing, with its scheduled jobs. It takes
/// part in no transaction itself: the coupon service does, over the same databases. With a bus it tells of batches and
/// of what expires, to the outboxes that the coupon service publishes, and gives to those whom events are about as
/// occasions say.
///
/// # Errors
/// Those of [`Error`].
pub async fn service<Db: Old + Dialect + node::Store>(
    shards: Shards<Db>,
    peers: Peers,
    settings: Settings,
    bus: Option<&Bus>,
) -> Result<Service<Db>, Error> {
    shards.migrate().await?;
    metrics::issuing_ready();
    let outbox = shards.outbox(bus).await?;
    let home: Pool<Db> = shards.home().clone();
    let (ids, keeper) = node::lease(home, SERVICE, node::LEASE).await?;
    let (pools, own) = (shards.pools().to_vec(), shards.clone());
    let scheduled = jobs::Jobs::new(shards.clone(), Arc::clone(&ids), peers.clone(), outbox.clone(), settings);
    let told = bus.map(|bus| Consuming::new(Told::<Db>::new(&ids), [shards.home().clone()], bus.clone()));
    let issuing = Arc::new(Issuing::new(shards, ids, peers, outbox));
    let batches = Arc::clone(&issuing);
    let server = IssuingServer::new(api::Api(Arc::clone(&issuing)));
    let server = server.max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let mut service = Service::new(SERVICE, pools).routes(Routes::new(server), tercet_proto::DESCRIPTORS);
    if let Some(told) = told {
        service = service.beside("occasions' events", |stop| told.run(stop));
    }
    Ok(service
        .beside("occasions", |stop| occasions::run(issuing, stop))
        .beside("batches", |stop| batch::run(batches, stop))
        .beside("slots", |mut stop| async move {
            own.keep_looking(stop.requested()).await;
            Ok(())
        })
        .beside("node id", |mut stop| async move {
            keeper.run(stop.requested()).await;
            Ok(())
        })
        .beside("scheduled jobs", |mut stop| async move { Ok(scheduled.run(stop.requested()).await?) }))
}
