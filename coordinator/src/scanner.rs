//! The scanner over `compensation_log`: a cron schedule says when to look, and it only wakes transactions up.
//!
//! What a retry means is the machine's to say. The scanner keeps a bounded number of rows under way for each service
//! and claims the next ones as those finish, so that a million due rows cost no more memory than a thousand, a service
//! is never handed more than it takes at a time, and one with many rows starves none with few. A row is leased for as
//! long as its attempt may take. When the process dies meanwhile, its next start takes the row at once, and another
//! node does when the lease has lapsed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use tercet_core::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tracing::error;

use crate::clock::{Clock, sleep_until};
use crate::driver::{Gauges, Settings};
use crate::live::Live;
use crate::outage::Outage;
use crate::request::Input;
use crate::store::{CLAIM_SERVICES_MAX, ClaimCompensations, Claimed, Owner, Store};
use crate::{limits, metrics};

mod places;

pub use places::{Place, Places};

/// How long a claimed row is nobody else's. An attempt is over by then, or is repeated.
const LEASE_MS: u64 = 30_000;

/// A schedule that is later than this does not tick by itself.
const LATE_MS: u64 = 1_000;

/// Coordinators that share a store look at different moments of the second.
const OFFSET_MS_MAX: u64 = 250;

/// Services that can be called at the moment, and how much of each. Rows of others stay where they are.
pub type Services = Box<dyn Fn() -> Vec<Room> + Send + Sync>;

/// How much of a service can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub service: String,
    /// Calls that it takes at a time; 0 while it answers nothing.
    pub calls: usize,
    /// Calls that it has or that wait for it, those of the scanner included.
    pub busy: usize,
}

impl Room {
    /// Rows that may be under way when so many are: what other calls leave free, but always a quarter, so that neither
    /// starves the other.
    fn places(&self, under_way: usize) -> usize {
        let others = self.busy.saturating_sub(under_way);
        self.calls.saturating_sub(others).max(self.calls.div_ceil(4))
    }
}

/// Everything a scan needs.
pub struct Scanner<S, K> {
    /// Where the rows are.
    pub store: Arc<S>,
    /// The store's time.
    pub clock: K,
    /// Who can be called.
    pub services: Services,
    /// The driver.
    pub inbox: mpsc::Sender<Input>,
    /// What operators have set.
    pub gauges: Arc<Gauges>,
    /// What the driver was told.
    pub settings: Settings,
}

/// When a scanner looks.
#[derive(Clone)]
pub struct Looks {
    cron: Cron,
    offset_ms: u64,
}

impl Looks {
    /// Of a coordinator's start.
    ///
    /// # Errors
    /// When `cron` (seconds first) can not be read.
    pub fn new(cron: &str, owner: Owner) -> Result<Self, JobSchedulerError> {
        Ok(Self { cron: parsed(cron)?, offset_ms: offset_ms(owner) })
    }

    /// The first look from this time on, `None` when there is none any more. What has finished meanwhile may bring one
    /// sooner.
    pub fn next(&self, from: Timestamp) -> Option<Timestamp> {
        let from = Timestamp(from.0.saturating_sub(self.offset_ms));
        occurrence(&self.cron, from).map(|tick| tick.after_ms(self.offset_ms))
    }
}

/// The first time of a schedule from this one on. Its times are whole seconds.
fn occurrence(cron: &Cron, from: Timestamp) -> Option<Timestamp> {
    let from = DateTime::from_timestamp_secs(from.0.div_ceil(1_000).try_into().ok()?)?;
    let next = cron.find_next_occurrence(&from, true).ok()?;
    next.timestamp_millis().try_into().ok().map(Timestamp)
}

/// The same for one start of one node.
fn offset_ms(owner: Owner) -> u64 {
    let which = u64::from(owner.node) << 32 | owner.epoch & 0xffff_ffff;
    (which.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % OFFSET_MS_MAX
}

/// Starts a schedule that notifies, and what watches over it. Keep both: the schedule ends with the first.
///
/// # Errors
/// When `cron` (seconds first) can not be read.
pub async fn schedule<K: Clock>(
    cron: &str,
    clock: K,
    tick: Arc<Notify>,
) -> Result<(JobScheduler, Watchdog<K>), JobSchedulerError> {
    let watchdog = Watchdog { cron: parsed(cron)?, clock, ticks: Arc::default(), tick: Arc::clone(&tick) };
    let scheduler = JobScheduler::new().await?;
    let ticks = Arc::clone(&watchdog.ticks);
    let job = Job::new(cron, move |_, _| {
        ticks.fetch_add(1, Ordering::Relaxed);
        tick.notify_one();
    })?;
    scheduler.add(job).await?;
    scheduler.start().await?;
    Ok((scheduler, watchdog))
}

fn parsed(cron: &str) -> Result<Cron, JobSchedulerError> {
    // As the scheduler reads it.
    let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
    parser.parse(cron).map_err(|_| JobSchedulerError::ParseSchedule)
}

/// Ticks in the place of a schedule that has not. The scheduler goes by the system's clock: when that is set back, it
/// waits until its time has come a second time. What is due does not wait for that.
pub struct Watchdog<K> {
    cron: Cron,
    clock: K,
    /// Of the scheduler.
    ticks: Arc<AtomicU64>,
    tick: Arc<Notify>,
}

impl<K: Clock> Watchdog<K> {
    /// Never ends.
    pub async fn run(self) {
        let mut late = Outage::new("the schedule of the scanner");
        while let Some(due) = self.due() {
            let before = self.ticks.load(Ordering::Relaxed);
            sleep_until(&self.clock, due.after_ms(LATE_MS)).await;
            if self.ticks.load(Ordering::Relaxed) == before {
                late.failed(&Late);
                self.tick.notify_one();
            } else {
                late.over();
            }
        }
        // The schedule has no time any more.
        std::future::pending().await
    }

    /// When the schedule ticks next by the coordinator's own clock.
    fn due(&self) -> Option<Timestamp> {
        occurrence(&self.cron, self.clock.now().after_ms(1))
    }
}

/// The scheduler did not tick.
#[derive(Debug, thiserror::Error)]
#[error("it has not ticked in time: was the system's clock set back?")]
struct Late;

impl<S: Store, K: Clock> Scanner<S, K> {
    /// Scans at every tick, and between two of them whenever rows have finished, until the driver is gone.
    pub async fn run(self, tick: Arc<Notify>) {
        let mut scanning = Outage::new("scanning compensation_log");
        let places = Places::default();
        let offset = Duration::from_millis(offset_ms(self.settings.owner));
        let mut turn = 0;
        // Those that had nothing due when they were last looked at: not again before the next tick.
        let mut idle = HashSet::new();
        while !self.inbox.is_closed() {
            tokio::select! {
                biased;
                () = tick.notified() => {
                    tokio::time::sleep(offset).await;
                    idle.clear();
                }
                () = places.freed() => {}
            }
            loop {
                turn += 1;
                let controls = &self.gauges.controls;
                // Beside those that live: what waits in memory for one service must not stop the retries of another.
                let most = limits::RETRIES_MAX.min(controls.live_max().div_ceil(4));
                let wanted = wanted((self.services)(), &places, &idle, (turn, most, controls.scan_rows() as usize));
                if wanted.is_empty() {
                    break;
                }
                if let Err(error) = self.scan(&wanted, &places, &mut idle).await {
                    scanning.failed(&error);
                    idle.extend(wanted.into_iter().map(|(service, _)| service));
                    break;
                }
                scanning.over();
            }
        }
    }

    /// Claims what is due of each service, at most so many rows, and wakes it.
    async fn scan(
        &self,
        wanted: &[(String, u32)],
        places: &Places,
        idle: &mut HashSet<String>,
    ) -> Result<(), crate::store::Error> {
        let now = self.clock.now();
        let claim = ClaimCompensations {
            now,
            lease_until: now.after_ms(LEASE_MS),
            owner: self.settings.owner,
            services: wanted.to_vec(),
        };
        let rows = self.store.claim_compensations(claim).await?;
        for (service, limit) in wanted {
            let found = rows.iter().filter(|row| row.compensation.service == *service).count();
            if found < *limit as usize {
                idle.insert(service.clone());
            }
        }
        for row in rows {
            metrics::scanned(&row.compensation, now);
            self.wake(row, places).await;
        }
        Ok(())
    }

    async fn wake(&self, row: Claimed, places: &Places) {
        match Live::decode(&row.record) {
            Ok(live) => {
                let place = places.take(&row.compensation.service);
                let branch = row.compensation.branch as u8;
                // When the driver is gone, the lease lapses and the next one takes the row.
                drop(self.inbox.send(Input::Retry { live: Box::new(live), branch, place }).await);
            }
            Err(error) => {
                error!(xid = %row.record.xid, error = &error as &dyn std::error::Error, "left in compensation_log");
            }
        }
    }
}

/// How many rows to claim of whom, when so many may be under way in all: of those with half of their places free, the
/// same number of each, beginning with another one each time, since one claim is bounded and there may be more services
/// than it has rows.
fn wanted(
    mut rooms: Vec<Room>,
    places: &Places,
    idle: &HashSet<String>,
    (turn, most, scan_rows): (usize, usize, usize),
) -> Vec<(String, u32)> {
    let share = (most / rooms.len().max(1)).clamp(1, scan_rows);
    let free = |room: &Room| {
        let under_way = places.under_way(&room.service);
        let most = room.places(under_way).min(share);
        // In handfuls: a claim for each row that finishes would be a commit for each.
        if 2 * under_way > most { 0 } else { most - under_way }
    };
    rooms.retain(|room| !idle.contains(&room.service) && free(room) > 0);
    rooms.sort_unstable_by(|a, b| a.service.cmp(&b.service));
    let count = rooms.len();
    rooms.rotate_left(if count == 0 { 0 } else { turn % count });
    rooms.truncate(CLAIM_SERVICES_MAX.min(limits::CLAIM_ROWS_MAX));
    let each = limits::CLAIM_ROWS_MAX / rooms.len().max(1);
    rooms
        .into_iter()
        .map(|room| {
            let rows = free(&room).min(each);
            (room.service, rows as u32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn a_schedule_that_stands_still_is_kept_by_the_own_clock() {
        let (clock, tick) = (SystemClock::start(), Arc::new(Notify::new()));
        let cron = parsed("*/2 * * * * *").expect("a schedule");
        let ticks = Arc::<AtomicU64>::default();
        let watchdog = Watchdog { cron, clock, ticks: Arc::clone(&ticks), tick: Arc::clone(&tick) };
        let watching = tokio::spawn(watchdog.run());
        for _ in 0..5 {
            let ticked = tokio::time::timeout(Duration::from_millis(4_010), tick.notified()).await;
            assert!(ticked.is_ok(), "nobody else does");
        }
        let schedule = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::select! {
            () = schedule => {}
            () = tick.notified() => unreachable!("the scheduler ticks by itself"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        watching.abort();
    }

    fn room(service: &str, calls: usize, busy: usize) -> Room {
        Room { service: service.to_owned(), calls, busy }
    }

    fn asked(rooms: &[Room], places: &Places, turn: usize) -> Vec<(String, u32)> {
        wanted(rooms.to_vec(), places, &HashSet::new(), (turn, limits::RETRIES_MAX, 1_000))
    }

    fn named(list: &[(&str, u32)]) -> Vec<(String, u32)> {
        list.iter().map(|(service, rows)| ((*service).to_owned(), *rows)).collect()
    }

    #[test]
    fn a_service_gets_what_it_takes_at_a_time_and_no_more() {
        let places = Places::default();
        assert_eq!(asked(&[room("a", 10, 0)], &places, 0), named(&[("a", 10)]));
        let mut held: Vec<_> = (0..10).map(|_| places.take("a")).collect();
        // They are its calls, and count once.
        assert_eq!(asked(&[room("a", 10, 10)], &places, 0), []);
        held.truncate(6);
        assert_eq!(asked(&[room("a", 10, 6)], &places, 0), [], "not for each row that finishes");
        held.truncate(5);
        assert_eq!(asked(&[room("a", 10, 5)], &places, 0), named(&[("a", 5)]));
        held.clear();
        assert_eq!(asked(&[room("a", 1, 0)], &places, 0), named(&[("a", 1)]));
        assert_eq!(asked(&[room("a", 0, 900)], &places, 0), [], "it answers nothing");
        let few = wanted(vec![room("a", 10, 0)], &places, &HashSet::new(), (0, limits::RETRIES_MAX, 2));
        assert_eq!(few, named(&[("a", 2)]), "an operator wants no more");
    }

    #[test]
    fn other_calls_leave_a_quarter() {
        let places = Places::default();
        assert_eq!(asked(&[room("a", 100, 30)], &places, 0), named(&[("a", 70)]));
        assert_eq!(asked(&[room("a", 100, 5_000)], &places, 0), named(&[("a", 25)]));
        assert_eq!(asked(&[room("a", 2, 5_000)], &places, 0), named(&[("a", 1)]));
    }

    #[test]
    fn a_claim_is_bounded_and_shared_evenly() {
        let places = Places::default();
        let rooms = [room("a", 1_000, 0), room("b", 10_000, 0), room("c", 3, 0), room("d", 1_000, 0)];
        assert_eq!(asked(&rooms, &places, 0), named(&[("a", 64), ("b", 64), ("c", 3), ("d", 64)]));
        let many: Vec<_> = (0..1_000).map(|at| room(&format!("{at:04}"), 50, 0)).collect();
        let mut seen = HashSet::new();
        for turn in 0..1_000 {
            let claim = asked(&many, &places, turn);
            assert!(claim.iter().map(|(_, rows)| *rows as usize).sum::<usize>() <= limits::CLAIM_ROWS_MAX);
            seen.extend(claim.into_iter().map(|(service, _)| service));
        }
        assert_eq!(seen.len(), 1_000);
    }

    #[test]
    fn all_together_are_bounded() {
        let places = Places::default();
        let rooms: Vec<_> = (0..16).map(|at| room(&format!("{at:02}"), 100_000, 0)).collect();
        let mut held = Vec::new();
        for turn in 0..10_000 {
            let claim = asked(&rooms, &places, turn);
            if claim.is_empty() {
                break;
            }
            held.extend(claim.iter().flat_map(|(service, rows)| (0..*rows).map(|_| places.take(service))));
        }
        assert!(held.len() <= limits::RETRIES_MAX && held.len() > limits::RETRIES_MAX / 2, "{}", held.len());
    }

    #[test]
    fn it_looks_at_the_times_of_its_schedule_and_a_little_later() {
        let looks = Looks { offset_ms: 120, ..Looks::new("30 * * * * *", Owner { node: 0, epoch: 1 }).expect("one") };
        let at = |from| looks.next(Timestamp(from)).map(|at| at.0);
        assert_eq!((at(0), at(30_120), at(30_121)), (Some(30_120), Some(30_120), Some(90_120)));
        assert!(offset_ms(Owner { node: 7, epoch: 9 }) < OFFSET_MS_MAX);
    }

    #[test]
    fn who_had_nothing_due_is_not_asked() {
        let idle = HashSet::from(["a".to_owned()]);
        let rooms = vec![room("a", 10, 0), room("b", 10, 0)];
        let most = limits::RETRIES_MAX;
        assert_eq!(wanted(rooms, &Places::default(), &idle, (0, most, 1_000)), named(&[("b", 10)]));
    }
}
