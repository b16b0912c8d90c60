//! What is done by the clock, on one process at a time: coupons whose time has ended become expired, what nobody
//! claimed of templates that have ended, or that nobody can claim any more, goes back, and what is kept of occasions
//! that were stopped long ago is deleted ([`old`]).
//!
//! A lease in the database says who; when its holder dies, another has it [`LEASE`] later. Nothing else hangs on
//! it: how far each table is stands beside its rows and is written with them, and a supply carries its sequence. A
//! database that does not answer, and a template that is not returned, keep nothing else from being done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet::client::Client;
use tercet::fence::Dialect;
use tercet::participant::Moves as _;
use tercet_events::event::Event;
use tercet_events::outbox::Outbox;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::coupon_template::v1::{self as templates, GetRulesRequest, GetTemplateRequest};
use tercet_shards::{Ids, Slot};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tonic::Request;
use tonic::transport::Channel;
use tracing::{info, warn};

mod old;

use super::Settings;
use super::offers::set_stock;
use crate::store::jobs::Jobs as JobStore;
use crate::store::old::Old;
use crate::store::{self, Move, Status};
use crate::{Shards, metrics, stock, told};

/// When the jobs run by default: every minute. Seconds come first.
pub const CRON: &str = "0 * * * * *";

/// How long a process that says nothing keeps the jobs. It says something three times as often.
const LEASE: Duration = Duration::from_secs(30);
/// Coupons of one local transaction.
const ROWS: u32 = 500;
/// How long a time has been over before it counts: longer than a transaction that began before.
const GRACE_MS: i64 = 60_000;
/// Templates of one statement.
const TEMPLATES: u32 = 100;
/// For a call to the template service.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a round is not finished. The next one goes on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the database of jobs")]
    Database(#[from] sqlx::Error),
    #[error("the template service")]
    Templates(#[from] tonic::Status),
    #[error("another process has the jobs")]
    Elsewhere,
    #[error("the stock is not set")]
    Stock,
    #[error("{databases} databases and {templates} templates are left for the next round")]
    Left { databases: usize, templates: usize },
}

/// The jobs of a process.
pub(super) struct Jobs<Db: JobStore> {
    shards: Shards<Db>,
    ids: Arc<Ids>,
    client: Client,
    templates: CouponTemplatesClient<Channel>,
    outbox: Outbox,
    settings: Settings,
}

impl<Db: Old + Dialect> Jobs<Db> {
    /// Over these databases, telling there what expires.
    pub(super) fn new(
        shards: Shards<Db>,
        ids: Arc<Ids>,
        peers: super::Peers,
        outbox: Outbox,
        settings: Settings,
    ) -> Self {
        let templates = CouponTemplatesClient::new(peers.templates);
        Self { shards, ids, client: peers.client, templates, outbox, settings }
    }

    /// Runs a round whenever the schedule says so and the lease is this process's, until `stop` ends.
    ///
    /// # Errors
    /// When the schedule can not be read.
    pub(super) async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), JobSchedulerError> {
        let tick = Arc::new(Notify::new());
        let mut scheduler = JobScheduler::new().await?;
        let notify = Arc::clone(&tick);
        scheduler.add(Job::new(self.settings.jobs_cron.as_str(), move |_, _| notify.notify_one())?).await?;
        scheduler.start().await?;
        let mut stop = std::pin::pin!(stop);
        let mut runner = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = tick.notified() => {}
            }
            if runner.is_none() {
                runner = self.ids.next(Slot::of_user(0)).await.ok();
            }
            let Some(runner) = runner else { continue };
            let round = async {
                match self.round(runner).await {
                    Ok(()) => metrics::jobs("done"),
                    Err(Error::Elsewhere) => {}
                    Err(error) => {
                        metrics::jobs("failed");
                        warn!(%error, "scheduled jobs go on at the next tick");
                    }
                }
            };
            tokio::select! {
                () = &mut stop => break,
                () = round => {}
            }
        }
        if let Some(runner) = runner
            && let Err(error) = self.leave(runner).await
        {
            warn!(%error, "the lease on scheduled jobs ends by itself");
        }
        scheduler.shutdown().await
    }

    /// All jobs once, for as long as the lease is kept.
    async fn round(&self, runner: i64) -> Result<(), Error> {
        self.keep(runner).await?;
        let all = async {
            let (expired, databases) = self.expire().await?;
            let (returned, templates) = self.give_back().await?;
            if expired > 0 || returned > 0 {
                info!(coupons = expired, templates = returned, "coupons expired and unclaimed stock returned");
            }
            let users = self.delete_old().await?;
            if users > 0 {
                info!(users, "whom occasions gave coupons that were stopped long ago is deleted");
            }
            if databases + templates == 0 { Ok(()) } else { Err(Error::Left { databases, templates }) }
        };
        tokio::select! {
            done = all => done,
            lost = self.keep_on(runner) => Err(lost),
        }
    }

    async fn keep(&self, runner: i64) -> Result<(), Error> {
        let mut connection = self.shards.home().acquire().await?;
        let kept = Db::lease_jobs(&mut connection, runner, LEASE.as_millis() as i64).await?;
        if kept { Ok(()) } else { Err(Error::Elsewhere) }
    }

    /// Ends when the lease is lost.
    async fn keep_on(&self, runner: i64) -> Error {
        let mut kept = Instant::now();
        loop {
            tokio::time::sleep(LEASE / 3).await;
            match tokio::time::timeout(LEASE / 3, self.keep(runner)).await {
                Ok(Ok(())) => kept = Instant::now(),
                Ok(Err(Error::Elsewhere)) => return Error::Elsewhere,
                Ok(Err(_)) | Err(_) if kept.elapsed() < LEASE * 2 / 3 => {}
                Ok(Err(error)) => return error,
                Err(_) => return Error::Elsewhere,
            }
        }
    }

    async fn leave(&self, runner: i64) -> sqlx::Result<()> {
        Db::leave_jobs(&mut *self.shards.home().acquire().await?, runner).await
    }

    /// Expires what has ended, in all tables; returns how many coupons, and in how many databases that goes on later.
    async fn expire(&self) -> Result<(usize, usize), Error> {
        let Some(now_ms) = self.ids.clock_ms() else { return Ok((0, 0)) };
        let (mut expired, mut left) = (0, 0);
        for database in 0..self.shards.pools().len() {
            let tables = self.shards.tables_in(&self.shards.slots().view(), database);
            if let Err(error) = self.expire_in(database, &tables, now_ms - GRACE_MS, &mut expired).await {
                warn!(database, %error, "the coupons of a database are expired later");
                left += 1;
            }
        }
        metrics::expired(expired);
        Ok((expired, left))
    }

    async fn expire_in(
        &self,
        database: usize,
        tables: &[usize],
        until_ms: i64,
        expired: &mut usize,
    ) -> Result<(), Error> {
        for table in tables {
            while let Some(rows) = self.expire_some(database, *table, until_ms).await? {
                *expired += rows;
            }
        }
        Ok(())
    }

    /// Looks at the next coupons of a table that have ended, and expires those that nobody used; returns how many, or
    /// `None` where there are no more.
    async fn expire_some(&self, database: usize, table: usize, until_ms: i64) -> Result<Option<usize>, Error> {
        let view = self.shards.slots().view();
        let Some(mut db_tx) = self.shards.begin_at(database, view.epoch(database)).await? else {
            self.shards.look().await;
            return Ok(None);
        };
        let mark = Db::mark(&mut db_tx, table).await?;
        let ended = store::ended::<Db>(&mut db_tx, table, mark, (until_ms, ROWS)).await?;
        let Some(last) = ended.last() else { return Ok(None) };
        // What a slot has left behind, or a move brings, is not this table's: the mark comes along with the slot.
        let here = |ended: &&store::Ended| view.database(Slot::of_id(ended.coupon_id)) == database;
        let issued: Vec<_> = ended.iter().filter(here).filter(|ended| ended.status == Status::Issued).collect();
        if issued.iter().any(|ended| !view.is_served(Slot::of_id(ended.coupon_id))) {
            return Ok(None);
        }
        let expire = |ended: &&store::Ended| Move {
            coupon_id: ended.coupon_id,
            from: Status::Issued,
            to: Status::Expired,
            order: None,
        };
        let moves: Vec<Move> = issued.iter().map(expire).collect();
        if !moves.is_empty() {
            store::advance::<Db>(&mut db_tx, self.shards.map(), &moves).await?;
            let events: Vec<Event> = issued.iter().map(|ended| expired(ended)).collect();
            self.outbox.append::<Db>(&mut db_tx, events).await?;
        }
        Db::put_mark(&mut db_tx, table, (last.valid_until_ms, last.coupon_id)).await?;
        db_tx.commit().await?;
        Ok(Some(moves.len()))
    }

    /// Returns the stock that nobody claimed of templates that have ended, or whose claims have; returns how many
    /// templates, and of how many that is not known or not done.
    async fn give_back(&self) -> Result<(usize, usize), Error> {
        let Some(now_ms) = self.ids.clock_ms() else { return Ok((0, 0)) };
        let (mut after, mut returned, mut left) = (0, 0, 0);
        loop {
            let open = Db::unreturned(&mut *self.shards.home().acquire().await?, after, TEMPLATES).await?;
            let Some((last, _)) = open.last() else { return Ok((returned, left)) };
            after = *last;
            for (template_id, candidate) in open {
                match self.give_back_of(template_id, candidate, now_ms).await {
                    Ok(done) => returned += usize::from(done),
                    Err(error) => {
                        warn!(template_id, %error, "the stock of a template is returned later");
                        left += 1;
                    }
                }
            }
        }
    }

    /// Whether the stock of this template is returned.
    async fn give_back_of(&self, template_id: i64, candidate: u32, now_ms: i64) -> Result<bool, Error> {
        let answer = self.templates.clone().get_template(timed(GetTemplateRequest { template_id })).await?;
        let Some(template) = answer.into_inner().template else { return Ok(false) };
        if !self.is_over(&template, now_ms).await? {
            return Ok(false);
        }
        let of_candidate = (candidate > 0).then(|| stock::candidate_item(template_id, candidate));
        for item in std::iter::once(stock::template_item(template_id)).chain(of_candidate) {
            if !set_stock(&self.client, item, 0, stock::returned(template.revision)).await {
                return Err(Error::Stock);
            }
        }
        let revision = i64::try_from(template.revision).unwrap_or(i64::MAX);
        Db::returned(&mut *self.shards.home().acquire().await?, template_id, revision).await?;
        metrics::stock_returned();
        Ok(true)
    }

    /// Whether nobody can claim any more, nor has a claim under way. A later revision that goes on brings its own
    /// supply.
    async fn is_over(&self, template: &templates::Template, now_ms: i64) -> Result<bool, Error> {
        let ended = |claim: Option<&templates::Period>| claim.is_some_and(|claim| claim.end_ms + GRACE_MS <= now_ms);
        if template.status() == templates::Status::Ended {
            return Ok(true);
        }
        // A version may be tried while its template is paused, and goes on then.
        if !ended(template.claim.as_ref()) || template.audience.is_none() {
            return Ok(ended(template.claim.as_ref()));
        }
        // Its audience has a claim period of its own.
        let (template_id, version) = (template.template_id, template.candidate_version);
        let found = self.templates.clone().get_rules(timed(GetRulesRequest { template_id, version })).await?;
        Ok(ended(found.into_inner().rules.and_then(|rules| rules.claim).as_ref()))
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn expired(ended: &store::Ended) -> Event {
    told::expired(ended.coupon_id, ended.user_id, ended.template_id, ended.step + 1)
}
