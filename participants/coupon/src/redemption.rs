//! Redemption: what coupons take off an order, using them for it, and giving them back.
//!
//! What an order gets is computed here, from the rules of each coupon's template and version, which never change
//! ([`terms`]). A redemption is written down first, in its user's database, at the price that was computed, and then
//! submitted as one transaction: its own row, its coupons, the units of its products and the order move together, or
//! not at all. With no coordinator in reach the row is what is kept; a job submits it later ([`later`]). A row and the
//! number of its attempt name the transaction, so whatever is asked twice is done once; and a row that was given up
//! refuses whatever of its transactions still comes, so giving up needs nobody's consent.
//!
//! What the coordinator has taken it carries out: what fails then is retried and parked by it, through its
//! `compensation_log`. What was kept and came to nothing goes there too, as owed. The order service learns of it twice:
//! its order is a branch, and the events of the coupons tell it once more, by which it finds what does not match.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sqlx::pool::PoolConnection;
use tercet::client::Client;
use tercet::fence::{self, Dialect};
use tercet::participant::Moves as _;
use tercet::service::Service;
use tercet_proto::coupon::v1::redemption_server::RedemptionServer;
use tercet_rules::{Code, Fault};
use tercet_shards::{Ids, Slot, node};
use tonic::service::Routes;

mod api;
mod fields;
mod later;
pub mod limits;
mod purge;
mod redeem;
mod refund;
mod terms;
mod trial;

pub use crate::issuing::{Error, Peers};
use crate::store::redemptions::{Change, Redemptions};
use crate::{Shards, metrics};
use terms::Terms;

/// The service's name.
pub const SERVICE: &str = "redemption";

/// How much is taken on.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Settings {
    /// Redemptions that are kept in a database while no coordinator is in reach; with 0 none is
    #[arg(long, env = "TERCET_KEPT_MAX", default_value_t = limits::KEPT,
        value_parser = clap::value_parser!(u32).range(..=i64::from(limits::KEPT_MAX)))]
    pub kept_max: u32,
    /// Calls that are answered at a time; what comes besides is told at once to come again
    #[arg(long, env = "TERCET_CALLS_MAX", default_value_t = limits::CALLS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::CALLS_MAX)))]
    pub calls_max: u32,
    /// Days for which ended redemptions are kept; until then their orders can be taken back
    #[arg(long, env = "TERCET_RETENTION_DAYS", default_value_t = limits::RETENTION_DAYS,
        value_parser = clap::value_parser!(u32)
            .range(i64::from(limits::RETENTION_DAYS_MIN)..=i64::from(limits::RETENTION_DAYS_MAX)))]
    pub retention_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { kept_max: limits::KEPT, calls_max: limits::CALLS, retention_days: limits::RETENTION_DAYS }
    }
}

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
    settings: Settings,
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Over these databases, with ids of this node.
    pub fn new(shards: Shards<Db>, ids: Arc<Ids>, peers: Peers, settings: Settings) -> Self {
        let kept = shards.pools().iter().map(|_| AtomicI64::new(0)).collect();
        let terms = Terms::new(peers.templates);
        Self { shards, ids, client: peers.client, terms, away: Mutex::default(), kept, settings }
    }

    /// The number of a user's database.
    fn place(&self, user_id: i64) -> usize {
        self.shards.slots().view().database(Slot::of_user(user_id))
    }

    /// A connection that reads a user's rows.
    ///
    /// # Errors
    /// [`Code::SystemBusy`], also while nobody says where they are.
    async fn connection(&self, user_id: i64) -> Result<PoolConnection<Db>, Fault> {
        let pool = self.shards.pool(Slot::of_user(user_id)).map_err(trial::database)?;
        pool.acquire().await.map_err(trial::database)
    }

    /// Changes a user's redemption where it is: whether it stood where it has to.
    ///
    /// # Errors
    /// [`Code::SystemBusy`], also while it moves to another database.
    async fn change(&self, user_id: i64, redemption_id: i64, change: Change<'_>) -> Result<bool, Fault> {
        let slot = Slot::of_user(user_id);
        for _ in 0..limits::LOOKS_MAX {
            if let Some(place) = self.shards.slots().place(slot) {
                let epoch = place.epoch.unwrap_or_default();
                let pool = &self.shards.pools()[place.database];
                let mut connection = pool.acquire().await.map_err(trial::database)?;
                let done = Db::change(&mut connection, redemption_id, change, epoch).await.map_err(trial::database)?;
                // An epoch only rises: if it is the same now, it was not what stood in the way.
                if done || fence::is_at::<Db>(&mut connection, epoch).await.map_err(trial::database)? {
                    return Ok(done);
                }
            }
            self.shards.look().await;
        }
        Err(trial::busy())
    }

    /// What is said of a user by his rows, and not by those that he left behind in another database.
    ///
    /// # Errors
    /// Those of `ask`; [`Code::SystemBusy`] while his rows move.
    async fn settled<T, F>(&self, user_id: i64, ask: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let slot = Slot::of_user(user_id);
        for _ in 0..limits::LOOKS_MAX {
            let view = self.shards.slots().view();
            let fault = match ask().await {
                Err(fault) if fault.code != Code::SystemBusy => fault,
                answer => return answer,
            };
            // While they are frozen another database may begin to serve them at any time.
            if let Some(place) = view.place(slot) {
                let epoch = place.epoch.unwrap_or_default();
                let mut connection = self.shards.pools()[place.database].acquire().await.map_err(trial::database)?;
                // An epoch only rises: if it is the same now, his rows were there.
                if fence::is_at::<Db>(&mut connection, epoch).await.map_err(trial::database)? {
                    return Err(fault);
                }
            }
            self.shards.look().await;
        }
        Err(trial::busy())
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
    settings: Settings,
) -> Result<Service<Db>, Error> {
    shards.migrate().await?;
    metrics::redemption_ready();
    let (ids, keeper) = node::lease(shards.home().clone(), SERVICE, node::LEASE).await?;
    let (pools, own) = (shards.pools().to_vec(), shards.clone());
    let redemption = Arc::new(Redemption::new(shards, ids, peers, settings));
    let server = RedemptionServer::new(api::Api::new(Arc::clone(&redemption)));
    let server = server.max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let purging = Arc::clone(&redemption);
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
        })
        .beside("old redemptions", |stop| async move { purging.purge(stop).await }))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn settings(flags: &[&str]) -> Option<(u32, u32, u32)> {
        let flags = std::iter::once(&SERVICE).chain(flags);
        let matches = Settings::augment_args(Command::new(SERVICE)).try_get_matches_from(flags).ok()?;
        Settings::from_arg_matches(&matches).ok().map(|own| (own.kept_max, own.calls_max, own.retention_days))
    }

    #[test]
    fn what_is_taken_on_has_its_bounds() {
        assert_eq!(settings(&[]), Some((100_000, 1_024, 365)));
        assert_eq!(settings(&["--kept-max=0", "--calls-max=1", "--retention-days=30"]), Some((0, 1, 30)));
        assert_eq!(settings(&["--kept-max=1000000", "--calls-max=65536"]), Some((1_000_000, 65_536, 365)));
        for flag in ["--kept-max=1000001", "--kept-max=-1", "--calls-max=0", "--calls-max=65537", "--retention-days=29"]
        {
            assert_eq!(settings(&[flag]), None, "{flag}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn what_has_moved_to_where_nobody_is_heard_is_not_said_to_be_missing() {
        use tercet::client::Options;
        use tercet_proto::coupon::v1::{GetRedemptionRequest, get_redemption_request::By};
        use tercet_shards::SLOTS;
        use tonic::transport::Endpoint;

        use crate::store::seats::{Said, State};

        let folder = tempfile::tempdir().expect("a folder");
        let urls = ["old", "new"].map(|name| format!("sqlite://{}", folder.path().join(name).display()));
        let map = "2x4:0=0-1023".parse().expect("it is a map");
        let shards = Shards::<sqlx::Sqlite>::open(map, &urls).await.expect("the folder is there");
        shards.migrate().await.expect("the schema is sound");
        let (ids, _keeper) = node::lease(shards.home().clone(), SERVICE, node::LEASE).await.expect("nodes are free");
        let peers = Peers {
            client: Client::connect(["127.0.0.1:1"], Options::default()).expect("it is an address"),
            templates: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
        };
        let redemption = Redemption::new(shards.clone(), ids, peers, Settings::default());
        let asked = GetRedemptionRequest { user_id: 7, by: Some(By::OrderId(1)), shop_id: 9 };
        let code = async || redemption.get(&asked).await.err().map(|fault| fault.code);
        assert_eq!(code().await, Some(Code::NotFound));
        let in_state = |state| Said { epoch: 1, states: vec![Some(state); SLOTS] };
        shards.slots().hear(&[in_state(State::Left), in_state(State::Arriving)]);
        assert_eq!(code().await, Some(Code::SystemBusy));
        shards.slots().hear(&[in_state(State::Left), in_state(State::Served)]);
        assert_eq!(code().await, Some(Code::NotFound));
    }
}
