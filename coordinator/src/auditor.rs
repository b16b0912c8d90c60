//! The auditor: watches what participants promise to conserve, and names the first transaction that broke it.
//!
//! Once a second it asks one session of each service that has promised something for the next page of its books (why
//! they say which transaction it was stands in the SDK's `conserve`). What comes back is of one snapshot, so nothing
//! that is under way, repeated or killed can look wrong in it. Three things are compared: what the rows hold with
//! their own total, with the book, and the watermark with the one before. Each resource that differs is one alarm,
//! logged once with its transaction, counted as long as it differs, and gone when its page no longer shows it. Nothing
//! of it is durable here: the marks are in the participants' books, and the first pass after a restart reads them
//! again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tercet_core::Xid;
use tercet_proto::admin::v1 as admin;
use tercet_proto::participant::v1 as pb;
use tracing::{error, info};

use crate::{limits, metrics};

/// How often the next page is asked for.
pub const ROUND: Duration = Duration::from_secs(1);

/// An answer is waited for no longer than this; then another session is asked.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// Where and what: the service, its invariant, and which of its databases.
type Key = (String, String, u32);

/// One invariant in one database.
#[derive(Debug, Default)]
struct Watched {
    /// Where the next page begins.
    after: Option<i64>,
    /// Of the pages of the pass that is under way, and of the last whole one.
    pass: Sums,
    whole: Sums,
    /// When the last page came.
    heard_at: Duration,
    alarms: BTreeMap<i64, pb::Misfit>,
    /// Rows that do not add up, without one that is known to differ.
    unnamed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    resources: u64,
    levels: pb::Levels,
    watermark: u64,
}

impl Sums {
    fn add(&mut self, page: &pb::AuditPage) {
        let found = page.found.unwrap_or_default();
        self.resources += page.resources;
        self.watermark += page.watermark;
        self.levels.reserved += found.reserved;
        self.levels.issued += found.issued;
        self.levels.free += found.free;
        self.levels.total += found.total;
    }
}

/// All that is watched.
#[derive(Debug, Default)]
pub struct Auditor {
    watched: BTreeMap<Key, Watched>,
    /// Rounds without an answer, by service.
    asked: HashMap<String, Duration>,
    round: u64,
}

impl Auditor {
    /// What to ask a service now; `None` while an answer is waited for.
    pub fn ask(&mut self, service: &str, now: Duration) -> Option<pb::Audit> {
        if self.asked.get(service).is_some_and(|asked| now.saturating_sub(*asked) < ANSWER_MAX) {
            return None;
        }
        self.asked.insert(service.to_owned(), now);
        self.round += 1;
        let own = self.watched.iter().filter(|((of, _, _), _)| of == service);
        let from = own.filter_map(|((_, invariant, place), watched)| {
            Some(pb::Position { invariant: invariant.clone(), place: *place, after: watched.after? })
        });
        Some(pb::Audit { round: self.round, from: from.collect() })
    }

    /// Lets go of what a service promised once, and none of its instances does any more.
    pub fn keep(&mut self, service: &str, promised: impl Fn(&str) -> bool) {
        let first = (service.to_owned(), String::new(), 0);
        let own = self.watched.range(first..).take_while(|((of, _, _), _)| of == service);
        let gone: Vec<Key> = own.map(|(key, _)| key).filter(|key| !promised(&key.1)).cloned().collect();
        for key in gone {
            self.watched.remove(&key);
            metrics::audited(&key.0, &key.1, Duration::ZERO, 0);
            info!(service, invariant = key.1, place = key.2, "no longer promised");
        }
    }

    /// Takes an answer, compares, and raises or ends alarms.
    pub fn hear(&mut self, service: &str, audited: pb::Audited, now: Duration) {
        self.asked.remove(service);
        for page in audited.pages {
            let key = (service.to_owned(), page.invariant.clone(), page.place);
            if self.watched.len() >= limits::INVARIANTS_MAX && !self.watched.contains_key(&key) {
                continue;
            }
            self.watched.entry(key).or_default().hear(service, page, now);
        }
    }

    /// Says how old and how sound everything is.
    pub fn measure(&self, now: Duration) {
        let mut all = BTreeMap::<(&str, &str), (Duration, usize)>::new();
        for ((service, invariant, _), watched) in &self.watched {
            let (age, broken) = all.entry((service, invariant)).or_default();
            *age = now.saturating_sub(watched.heard_at).max(*age);
            *broken += watched.broken();
        }
        for ((service, invariant), (age, broken)) in all {
            metrics::audited(service, invariant, age, broken);
        }
    }

    /// For listings.
    pub fn list(&self, now: Duration) -> Vec<admin::Invariant> {
        let all = self.watched.iter().map(|((service, invariant, place), watched)| {
            let Sums { resources, levels, watermark } = watched.whole;
            let broken = watched.alarms.values().map(|misfit| admin::Broken {
                resource: misfit.resource,
                text: text(misfit),
                after: misfit.after.clone(),
                by: misfit.by.clone(),
            });
            admin::Invariant {
                service: service.clone(),
                invariant: invariant.clone(),
                place: *place,
                resources,
                reserved: levels.reserved,
                issued: levels.issued,
                free: levels.free,
                total: levels.total,
                watermark,
                age_ms: now.saturating_sub(watched.heard_at).as_millis() as u64,
                holds: watched.broken() == 0,
                broken: broken.collect(),
            }
        });
        all.collect()
    }
}

impl Watched {
    fn broken(&self) -> usize {
        self.alarms.len() + usize::from(self.unnamed)
    }

    fn hear(&mut self, service: &str, page: pb::AuditPage, now: Duration) {
        let until = page.next.unwrap_or(i64::MAX);
        if page.after != self.after.unwrap_or(page.after) || until < page.after {
            // An answer to a question before the last, or one that leads back: its age tells.
            return;
        }
        self.heard_at = now;
        let invariant = &page.invariant;
        let mut raised = 0;
        let before: Vec<i64> = self.alarms.range(page.after..=until).map(|(resource, _)| *resource).collect();
        // A page shows only the first few.
        let full = page.misfits.len() >= limits::MISFITS_SHOWN;
        for resource in before {
            if !full && page.misfits.iter().all(|misfit| misfit.resource != resource) {
                self.alarms.remove(&resource);
                info!(service, invariant, resource, "conserved again");
            }
        }
        for misfit in &page.misfits {
            if self.alarms.len() >= limits::ALARMS_MAX && !self.alarms.contains_key(&misfit.resource) {
                continue;
            }
            if self.alarms.insert(misfit.resource, misfit.clone()).is_none() {
                let (resource, text) = (misfit.resource, text(misfit));
                raised += 1;
                error!(service, invariant, place = page.place, resource, text, "not conserved");
            }
        }
        let (found, booked) = (page.found.unwrap_or_default(), page.booked.unwrap_or_default());
        let odd = found.reserved + found.issued + found.free != found.total
            || page.entered == page.resources
                && (found.reserved, found.issued, found.free) != (booked.reserved, booked.issued, booked.free);
        let unnamed = odd && page.misfits.is_empty();
        if unnamed && !self.unnamed {
            raised += 1;
            error!(service, invariant, place = page.place, ?found, ?booked, "not conserved: the sums differ");
        }
        // Also when there are none, so that a rate sees the first.
        metrics::alarmed(service, invariant, raised);
        self.unnamed = unnamed || self.unnamed && self.after.is_some();
        self.pass.add(&page);
        self.after = page.next;
        if page.next.is_none() {
            if self.pass.watermark < self.whole.watermark {
                let (before, now) = (self.whole.watermark, self.pass.watermark);
                info!(
                    service,
                    invariant, before, now, "the book counts fewer operations than before: was it restored?"
                );
            }
            self.whole = std::mem::take(&mut self.pass);
        }
    }
}

/// Who broke it, and by how much.
fn text(misfit: &pb::Misfit) -> String {
    let xid = |bytes: &[u8]| Xid::from_slice(bytes);
    let levels = |levels: Option<pb::Levels>| {
        let pb::Levels { reserved, issued, free, total } = levels.unwrap_or_default();
        format!("reserved {reserved} + issued {issued} + free {free}, total {total}")
    };
    let who = match (xid(&misfit.by), xid(&misfit.after)) {
        (Some(by), _) => format!("first broken by transaction {by}"),
        (None, Some(after)) => format!("changed outside any transaction, after transaction {after}"),
        (None, None) => "changed outside any transaction".to_owned(),
    };
    let (found, booked) = (levels(misfit.found), levels(misfit.booked));
    format!("{who}: it holds {found}; transactions left {booked}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(misfits: &[(i64, &[u8])], found: i64, booked: i64) -> pb::Audited {
        let levels = |free| Some(pb::Levels { free, total: free, ..pb::Levels::default() });
        let misfits = misfits.iter().map(|(resource, by)| pb::Misfit {
            resource: *resource,
            by: by.to_vec().into(),
            ..pb::Misfit::default()
        });
        let page = pb::AuditPage {
            invariant: "units".into(),
            after: -i64::MAX,
            resources: 2,
            entered: 2,
            found: levels(found),
            booked: levels(booked),
            misfits: misfits.collect(),
            ..pb::AuditPage::default()
        };
        pb::Audited { round: 1, pages: vec![page] }
    }

    const NOW: Duration = Duration::from_secs(5);

    #[test]
    fn an_alarm_names_the_transaction_and_ends_when_all_agree_again() {
        let mut auditor = Auditor::default();
        auditor.hear("stock", page(&[], 10, 10), NOW);
        assert!(auditor.list(NOW)[0].holds);
        auditor.hear("stock", page(&[(7, &[9; 16])], 11, 10), NOW);
        let listed = auditor.list(NOW).remove(0);
        assert!(!listed.holds);
        let named = "first broken by transaction 09090909-0909-0909-0909-090909090909: ";
        assert!(listed.broken[0].text.starts_with(named), "{}", listed.broken[0].text);
        auditor.hear("stock", page(&[], 10, 10), NOW);
        assert!(auditor.list(NOW)[0].holds);
    }

    #[test]
    fn a_page_that_leads_back_is_no_page() {
        let mut auditor = Auditor::default();
        auditor.hear("stock", page(&[(7, &[9; 16])], 11, 10), NOW);
        let mut back = page(&[], 10, 10);
        (back.pages[0].after, back.pages[0].next) = (5, Some(3));
        auditor.hear("stock", back, NOW);
        assert!(!auditor.list(NOW)[0].holds);
    }

    #[test]
    fn what_nobody_promises_any_more_is_not_watched() {
        let mut auditor = Auditor::default();
        auditor.hear("stock", page(&[], 11, 10), NOW);
        auditor.keep("stock", |_| true);
        auditor.keep("order", |_| false);
        assert_eq!(auditor.list(NOW).len(), 1);
        auditor.keep("stock", |_| false);
        assert_eq!(auditor.list(NOW), []);
    }

    #[test]
    fn sums_that_differ_are_an_alarm_even_where_no_resource_is_named() {
        let mut auditor = Auditor::default();
        auditor.hear("stock", page(&[], 11, 10), NOW);
        assert!(!auditor.list(NOW)[0].holds);
        auditor.hear("stock", page(&[], 10, 10), NOW);
        assert!(auditor.list(NOW)[0].holds);
    }

    #[test]
    fn a_service_is_asked_again_after_its_answer_or_when_it_gives_none() {
        let mut auditor = Auditor::default();
        assert!(auditor.ask("stock", NOW).is_some());
        assert!(auditor.ask("stock", NOW).is_none());
        assert!(auditor.ask("stock", NOW + ANSWER_MAX).is_some());
        auditor.hear("stock", page(&[], 1, 1), NOW);
        assert!(auditor.ask("stock", NOW + ANSWER_MAX).is_some());
    }
}
