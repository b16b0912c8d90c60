//! What invariants ask of a batch, and of the scan that the coordinator asks for.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tercet_proto::participant::v1 as pb;
use tracing::warn;

use super::connections::Connections;
use super::local::{Failure, Step, failure};
use super::{Executor, Item};
use crate::conserve::{self, Change, Entry, Invariant, Misfit, Page};
use crate::fence::Dialect;
use crate::participant::{Answer, DbTx};

/// How long one page of the scan may take.
const PAGE_MAX: Duration = Duration::from_secs(10);

impl<Db: Dialect> Executor<Db> {
    /// Enters what the operations did, and fails where that is not what their rows show: unless `accuse`, which is for
    /// a batch of one and marks the culprit.
    pub(super) async fn book(
        &self,
        db_tx: &mut DbTx<Db>,
        place: &Connections<Db>,
        (lot, steps): (&[Item], &[Step]),
        accuse: bool,
    ) -> Result<(), Failure> {
        for invariant in &self.invariants {
            let mut entries = BTreeMap::<i64, Entry>::new();
            for (item, step) in lot.iter().zip(steps) {
                if let Step::Ran(Ok(Answer::Done(_))) = step
                    && let Some((resource, change)) =
                        invariant.of(self.actions[item.action].name, item.operation, &item.job.request)
                {
                    entries.entry(resource).or_default().add(change, Some(item.job.context.xid));
                }
            }
            let differing = conserve::enter::<Db>(db_tx, invariant, &entries).await.map_err(failure::<Db>)?;
            if differing.is_empty() {
                continue;
            }
            if !accuse {
                return Err(Failure::Differs);
            }
            // What is committed is what was there before this transaction.
            let mut other = place.connection().await.map_err(failure::<Db>)?;
            for resource in differing {
                let standing = conserve::standing::<Db>(&mut other, invariant, resource).await;
                let (differed, after) = standing.map_err(failure::<Db>)?;
                let by = (!differed).then_some(lot[0].job.context.xid);
                conserve::mark::<Db>(db_tx, invariant, resource, (by, after)).await.map_err(failure::<Db>)?;
            }
            place.put(other);
        }
        Ok(())
    }

    /// The next page of each invariant in each database, from where the coordinator says.
    pub async fn audit(&self, audit: pb::Audit) -> pb::Audited {
        let from: HashMap<(&str, u32), i64> =
            audit.from.iter().map(|from| ((from.invariant.as_str(), from.place), from.after)).collect();
        let mut pages = Vec::new();
        for invariant in &self.invariants {
            for (at, place) in self.places.iter().enumerate() {
                let number = at as u32;
                let after = from.get(&(invariant.name, number)).copied().unwrap_or(-i64::MAX);
                let page = tokio::time::timeout(PAGE_MAX, self.page(place, invariant, after)).await;
                let page = page.unwrap_or(Err(sqlx::Error::PoolTimedOut));
                match page {
                    Ok(page) => pages.push(encode(invariant.name, number, after, page)),
                    Err(error) => warn!(service = self.service, invariant = invariant.name, %error, "not audited"),
                }
            }
        }
        pb::Audited { round: audit.round, pages }
    }

    async fn page(&self, place: &Connections<Db>, invariant: &Invariant, after: i64) -> Result<Page, sqlx::Error> {
        let mut connection = place.connection().await?;
        let (page, repair) = conserve::page::<Db>(&mut connection, invariant, after).await?;
        if repair.is_needed() {
            let _permit = place.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            repair.write::<Db>(&mut connection, invariant).await?;
        }
        place.put(connection);
        Ok(page)
    }
}

fn levels(change: Change, total: i64) -> Option<pb::Levels> {
    Some(pb::Levels { reserved: change.reserved, issued: change.issued, free: change.free, total })
}

fn encode(invariant: &str, place: u32, after: i64, page: Page) -> pb::AuditPage {
    let xid = |xid: Option<crate::xid::Xid>| xid.map_or_else(Vec::new, |xid| xid.as_bytes().to_vec()).into();
    let sum = |change: Change| change.reserved + change.issued + change.free;
    let misfits = page.misfits.into_iter().map(|Misfit { resource, found, booked, after, by }| pb::Misfit {
        resource,
        found: levels(found.0, found.1),
        booked: levels(booked, sum(booked)),
        after: xid(after),
        by: xid(by),
    });
    pb::AuditPage {
        invariant: invariant.to_owned(),
        place,
        after,
        next: page.next,
        resources: page.resources.unsigned_abs(),
        entered: page.entered.unsigned_abs(),
        found: levels(page.found.0, page.found.1),
        booked: levels(page.booked, sum(page.booked)),
        watermark: page.watermark.unsigned_abs(),
        misfits: misfits.collect(),
    }
}
