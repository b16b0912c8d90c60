//! What keeps the driver from taking more than it can end: how far behind the writer is, and which services have taken
//! up their share of memory.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tercet_core::{Event, Timestamp};
use tercet_proto::store::v1::{Branch, Plan};

use super::Driver;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::request::{Error, Input, Waits};
use crate::store::Store;
use crate::{limits, plan};

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    /// What there is too much of for one more with this plan. What waits for a service that does not come, or keeps
    /// saying "not now", must leave room for the others.
    pub(super) fn overload(&mut self, plan: &plan::Plan, wait: Waits) -> Option<Error> {
        if self.gauges.disk_full.load(Ordering::Relaxed) {
            return Some(Error::DiskFull);
        }
        let live_max = self.gauges.controls.live_max();
        if self.slots.len().saturating_sub(self.canaries) >= live_max {
            return Some(Error::Overloaded { what: "live transactions", limit: live_max });
        }
        self.overloaded_service(&plan.record.branches, wait)
    }

    /// What the services of these branches have too much of, for a transaction that they are new to.
    pub(super) fn overloaded_service(&mut self, branches: &[Branch], wait: Waits) -> Option<Error> {
        let live_max = self.gauges.controls.live_max();
        let refused =
            |service: &str, what, limit| Some(Error::ServiceOverloaded { service: service.to_owned(), what, limit });
        let asked = wait != Waits::Accepted;
        let waiting_max = if asked { limits::WAITING_ASKED_MAX } else { limits::WAITING_MAX };
        let waiting_max = waiting_max.min(Shares::most(live_max));
        if !self.unreachable.is_empty() {
            let waits = |service: &str| self.unreachable.get(service).is_some_and(|all| all.len() >= waiting_max);
            if let Some(branch) = branches.iter().find(|branch| waits(&branch.service)) {
                return refused(&branch.service, "waiting calls", waiting_max);
            }
        }
        let live = self.slots.values().map(|slot| &*slot.live.plan);
        let service = self.shares.full(branches, live_max, live)?;
        refused(service, "live transactions", Shares::most(live_max))
    }

    pub(super) fn behind(&self) -> bool {
        // Most of the time nothing is, and no clock is asked.
        self.queued.len() >= limits::COMMIT_ROWS_MAX && self.pace.behind(self.queued.len(), self.clock.monotonic())
    }

    /// Wakes some of what waited for services that have come back; the others of this loop have their turn in between.
    pub(super) fn wake_some(&mut self, now: Timestamp) {
        for _ in 0..self.waking.len().min(limits::WAKE_MAX) {
            let Some((xid, branch)) = self.waking.pop_front() else { return };
            self.take(Input::Wake { xid, event: Event::Reachable { branch } }, now);
        }
    }
}

/// How long the writer takes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the commit that is under way began.
    began: Option<Duration>,
    /// How long the last one took.
    took: Duration,
}

impl Pace {
    pub(super) fn began(&mut self, at: Duration) {
        self.began = Some(at);
    }

    pub(super) fn ended(&mut self, at: Duration) {
        if let Some(began) = self.began.take() {
            self.took = at.saturating_sub(began);
        }
    }

    /// Whether what is queued will wait too long for its commit. A commit that hangs counts for as long as it does.
    pub(super) fn behind(&self, queued: usize, now: Duration) -> bool {
        let waits = (queued / limits::COMMIT_ROWS_MAX) as u32;
        let under_way = self.began.map_or(Duration::ZERO, |began| now.saturating_sub(began));
        waits > 0 && self.took.max(under_way) * waits > Duration::from_millis(limits::BEHIND_MS)
    }
}

/// How many live transactions each service is in. Counted only while memory is half full, because up to there nobody
/// asks.
#[derive(Debug, Default)]
pub(super) struct Shares {
    counts: Option<HashMap<String, usize>>,
}

impl Shares {
    /// The most that one service may be in when so many may live in all.
    pub(super) fn most(live_max: usize) -> usize {
        live_max.div_ceil(2)
    }

    /// The service of these branches that is in too many of them already, if one is. `live`: all that live.
    pub(super) fn full<'a, 'l>(
        &mut self,
        branches: &'a [Branch],
        live_max: usize,
        live: impl ExactSizeIterator<Item = &'l Plan>,
    ) -> Option<&'a str> {
        let most = Self::most(live_max);
        if live.len() < most {
            // Not at once, or a load around the half would be counted again and again.
            if live.len() < most / 2 {
                self.counts = None;
            }
            return None;
        }
        let counts = self.counts.get_or_insert_with(|| {
            let mut counts = HashMap::new();
            live.flat_map(|plan| services(&plan.branches)).for_each(|service| add(&mut counts, service));
            counts
        });
        services(branches).find(|service| counts.get(*service).is_some_and(|count| *count >= most))
    }

    /// One more with this plan lives.
    pub(super) fn added(&mut self, plan: &Plan) {
        if let Some(counts) = &mut self.counts {
            services(&plan.branches).for_each(|service| add(counts, service));
        }
    }

    /// One of those that live has a branch more: the last one of this plan.
    pub(super) fn grown(&mut self, plan: &Plan) {
        if let (Some(counts), Some((last, before))) = (&mut self.counts, plan.branches.split_last())
            && before.iter().all(|branch| branch.service != last.service)
        {
            add(counts, &last.service);
        }
    }

    /// One less.
    pub(super) fn removed(&mut self, plan: &Plan) {
        let Some(counts) = &mut self.counts else { return };
        for service in services(&plan.branches) {
            if let Some(count) = counts.get_mut(service) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

fn add(counts: &mut HashMap<String, usize>, service: &str) {
    match counts.get_mut(service) {
        Some(count) => *count += 1,
        None => drop(counts.insert(service.to_owned(), 1)),
    }
}

/// The services of branches, each once.
fn services(branches: &[Branch]) -> impl Iterator<Item = &str> {
    let first = |at: usize, service: &str| branches[..at].iter().all(|before| before.service != service);
    let services = branches.iter().map(|branch| branch.service.as_str()).enumerate();
    services.filter(move |(at, service)| first(*at, service)).map(|(_, service)| service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(services: &[&str]) -> Plan {
        let branches = services.iter().map(|service| Branch { service: (*service).into(), ..Branch::default() });
        Plan { branches: branches.collect(), ..Plan::default() }
    }

    #[test]
    fn the_writer_is_behind_when_what_is_queued_takes_too_long() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let one = limits::COMMIT_ROWS_MAX;
        assert!(!pace.behind(100 * one, ms(0)), "nothing is known yet");
        pace.began(ms(0));
        pace.ended(ms(50));
        assert!(!pace.behind(one - 1, ms(60)), "the next commit takes them all");
        assert!(!pace.behind(5 * one, ms(60)));
        assert!(pace.behind(6 * one, ms(60)));
        pace.began(ms(100));
        assert!(!pace.behind(one, ms(350)));
        assert!(pace.behind(one, ms(351)), "it hangs");
        assert!(!pace.behind(one - 1, ms(100_000)));
        pace.ended(ms(400));
        pace.began(ms(400));
        pace.ended(ms(401));
        assert!(!pace.behind(100 * one, ms(402)), "it is quick again");
    }

    #[test]
    fn a_service_is_in_half_of_the_live_transactions_at_most() {
        let (a, b, ab) = (plan(&["a", "a"]), plan(&["b"]), plan(&["a", "b"]));
        let mut shares = Shares::default();
        let mut live: Vec<&Plan> = vec![&a; 4];
        assert_eq!(shares.full(&a.branches, 10, live.iter().copied()), None);
        live.push(&a);
        assert_eq!(shares.full(&a.branches, 10, live.iter().copied()), Some("a"));
        assert_eq!(shares.full(&ab.branches, 10, live.iter().copied()), Some("a"));
        assert_eq!(shares.full(&b.branches, 10, live.iter().copied()), None);
        shares.added(&b);
        live.push(&b);
        shares.removed(&a);
        live.remove(0);
        assert_eq!(shares.full(&ab.branches, 10, live.iter().copied()), None, "a has room again");
        shares.added(&ab);
        live.push(&ab);
        assert_eq!(shares.full(&a.branches, 10, live.iter().copied()), Some("a"));
        // Far below the half nothing is counted any more, and what happens meanwhile is seen when it is again.
        live.truncate(1);
        assert_eq!(shares.full(&a.branches, 10, live.iter().copied()), None);
        live = vec![&b; 5];
        assert_eq!(shares.full(&ab.branches, 10, live.iter().copied()), Some("b"));
    }

    #[test]
    fn a_branch_that_is_added_later_counts_like_the_others() {
        let (none, a) = (plan(&[]), plan(&["a"]));
        let mut shares = Shares::default();
        assert_eq!(shares.full(&a.branches, 10, [&a; 5].into_iter()), Some("a"));
        (0..5).for_each(|_| shares.removed(&a));
        for _ in 0..5 {
            assert_eq!(shares.full(&a.branches, 10, [&a; 5].into_iter()), None);
            shares.added(&none);
            shares.grown(&a);
            shares.grown(&plan(&["a", "a"]));
        }
        assert_eq!(shares.full(&a.branches, 10, [&a; 5].into_iter()), Some("a"));
    }
}
