//! The scanner over `compensation_log`: a cron schedule ticks it, and it only wakes transactions up.
//!
//! What a retry means is the machine's to say. A row is leased for as long as its attempt may take; when the process
//! dies meanwhile, the lease lapses and the row is due again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tercet_core::Event;
use tokio::sync::{Notify, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tracing::{error, warn};

use crate::clock::Clock;
use crate::driver::{Gauges, Settings};
use crate::live::Live;
use crate::metrics;
use crate::outage::Outage;
use crate::request::Input;
use crate::store::{ClaimCompensations, Compensation, Lookup, Store};

/// How long a claimed row is nobody else's. An attempt is over by then, or is repeated.
const LEASE_MS: u64 = 30_000;

/// Tells which services can be called at the moment.
pub type Services = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Everything a scan needs.
pub struct Scanner<S, K> {
    /// Where the rows are.
    pub store: Arc<S>,
    /// The store's time.
    pub clock: K,
    /// Who can be called at all: rows of other services stay where they are.
    pub services: Services,
    /// The driver.
    pub inbox: mpsc::Sender<Input>,
    /// How full the driver is.
    pub gauges: Arc<Gauges>,
    /// What the driver was told.
    pub settings: Settings,
}

/// Starts a schedule that notifies. Keep what it returns: the schedule ends with it.
///
/// # Errors
/// When `cron` (seconds first) can not be read.
pub async fn schedule(cron: &str, tick: Arc<Notify>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    let job = Job::new(cron, move |_, _| tick.notify_one())?;
    scheduler.add(job).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

impl<S: Store, K: Clock> Scanner<S, K> {
    /// Scans at every tick, until the driver is gone.
    pub async fn run(self, tick: Arc<Notify>) {
        let mut scanning = Outage::new("scanning compensation_log");
        while !self.inbox.is_closed() {
            tick.notified().await;
            // Never more than the driver has room for: a row would spend its lease in a queue.
            while self.gauges.live.load(Ordering::Relaxed) < self.gauges.controls.live_max() as u64 / 2 {
                match self.scan().await {
                    Ok(0) => {
                        scanning.over();
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        scanning.failed(&error);
                        break;
                    }
                }
            }
        }
    }

    /// Claims what is due and wakes it; says how many rows that were.
    async fn scan(&self) -> Result<usize, crate::store::Error> {
        let services = (self.services)();
        if services.is_empty() {
            return Ok(0);
        }
        let now = self.clock.now();
        let claim = ClaimCompensations {
            now,
            lease_until: now.after_ms(LEASE_MS),
            owner: self.settings.owner,
            services,
            limit: self.gauges.controls.scan_rows(),
        };
        let rows = self.store.claim_compensations(claim).await?;
        for row in &rows {
            metrics::scanned(row.next_retry_time, now);
            self.wake(row).await?;
        }
        Ok(rows.len())
    }

    async fn wake(&self, row: &Compensation) -> Result<(), crate::store::Error> {
        let Some(record) = self.store.get(Lookup::Xid(row.xid)).await? else {
            warn!(xid = %row.xid, id = row.id, "a row of compensation_log without its transaction");
            return Ok(());
        };
        match Live::decode(&record) {
            Ok(live) => {
                let event = Event::Retry { branch: row.branch as u8 };
                // When the driver is gone, the lease lapses and the next one takes the row.
                drop(self.inbox.send(Input::Adopt { live: Box::new(live), event }).await);
            }
            Err(error) => error!(xid = %row.xid, error = &error as &dyn std::error::Error, "left in compensation_log"),
        }
        Ok(())
    }
}
