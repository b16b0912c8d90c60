//! Redemption: what coupons take off an order, using them for it, and giving them back.
//!
//! What an order gets is computed here, from the rules of each coupon's template and version, which never change
//! ([`terms`]). A redemption is written down first, in its user's database, at the price that was computed, and then
//! submitted as one transaction: its own row, its coupons and the order move together, or not at all. With no
//! coordinator in reach the row is what is kept; a job submits it later ([`later`]). A row and the number of its
//! attempt name the transaction, so whatever is asked twice is done once; and a row that was given up refuses whatever
//! of its transactions still comes, so giving up needs nobody's consent.
//!
//! What the coordinator has taken it carries out: what fails then is retried and parked by it, through its
//! `compensation_log`. The order service learns of it twice: its order is a branch, and the events of the coupons tell
//! it once more, by which it finds what does not match.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sqlx::{Pool, Transaction};
use tercet::client::Client;
use tercet::fence::Dialect;
use tercet::service::Service;
use tercet_proto::coupon::v1::redemption_server::RedemptionServer;
use tercet_rules::Fault;
use tercet_shards::{Ids, Slot, node};
use tonic::service::Routes;

mod api;
mod fields;
mod later;
pub mod limits;
mod redeem;
mod refund;
mod terms;
mod trial;

use crate::Shards;
pub use crate::issuing::{Error, Peers};
use crate::store::redemptions::Redemptions;
use terms::Terms;

/// The service's name.
pub const SERVICE: &str = "redemption";

/// All that answers a call.
pub struct Redemption<Db: sqlx::Database> {
    shards: Shards<Db>,
    ids: Arc<Ids>,
    client: Client,
    terms: Terms,
    /// When the coordinator was last found to be away.
    away: Mutex<Option<Instant>>,
    /// What waits to be submitted, by database: as it was counted last, and what was added since.
    kept: Vec<AtomicI64>,
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Over these databases, with ids of this node.
    pub fn new(shards: Shards<Db>, ids: Arc<Ids>, peers: Peers) -> Self {
        let kept = shards.pools().iter().map(|_| AtomicI64::new(0)).collect();
        let terms = Terms::new(peers.templates);
        Self { shards, ids, client: peers.client, terms, away: Mutex::default(), kept }
    }

    /// The number of a user's database.
    fn place(&self, user_id: i64) -> usize {
        self.shards.slots().view().database(Slot::of_user(user_id))
    }

    fn pool(&self, user_id: i64) -> &Pool<Db> {
        self.shards.pool(Slot::of_user(user_id))
    }

    /// Begins a local transaction that writes a user's rows.
    ///
    /// # Errors
    /// [`Code::SystemBusy`](tercet_rules::Code::SystemBusy), also while they move to another database.
    async fn begin(&self, user_id: i64) -> Result<Transaction<'static, Db>, Fault> {
        self.shards.begin(Slot::of_user(user_id)).await.map_err(trial::database)?.ok_or_else(trial::busy)
    }
}

/// The service over these databases, whose tables are made where they are missing, and its job that submits what was
/// kept. It takes part in no transaction itself: the coupon service does, over the same databases.
///
/// # Errors
/// Those of [`Error`].
pub async fn service<Db: Redemptions + Dialect + node::Store>(
    shards: Shards<Db>,
    peers: Peers,
) -> Result<Service<Db>, Error> {
    shards.migrate().await?;
    let (ids, keeper) = node::lease(shards.home().clone(), SERVICE, node::LEASE).await?;
    let (pools, own) = (shards.pools().to_vec(), shards.clone());
    let redemption = Arc::new(Redemption::new(shards, ids, peers));
    let server = RedemptionServer::new(api::Api::new(Arc::clone(&redemption)));
    let server = server.max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let service = Service::new(SERVICE, pools).routes(Routes::new(server), tercet_proto::DESCRIPTORS);
    Ok(service
        .beside("node id", |mut stop| async move {
            keeper.run(stop.requested()).await;
            Ok(())
        })
        .beside("slots", |mut stop| async move {
            own.keep_looking(stop.requested()).await;
            Ok(())
        })
        .beside("kept redemptions", |mut stop| async move {
            redemption.submit_kept(stop.requested()).await;
            Ok(())
        }))
}
