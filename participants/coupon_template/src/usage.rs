//! What is done with coupons, as their events tell it: counted by the version that each was claimed under, beside the
//! version that its template was trying when it was claimed, so that the two can be compared.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use tercet::participant::DbTx;
use tercet_events::bus::Group;
use tercet_events::consumer::{Consumer, Trouble};
use tercet_events::event::{Payload, Topic};
use tercet_proto::coupon_template::v1::Usage;
use tercet_proto::events::v1 as pb;

use crate::store::Store;

/// Whom the bus tells.
pub const GROUP: Group = Group { name: "coupon_template", topics: &[Topic::Coupon] };

/// Counts each event once: it is in one local transaction with how far the group is.
#[derive(Debug)]
pub struct Counting<Db>(PhantomData<fn() -> Db>);

impl<Db> Default for Counting<Db> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What an event adds to which version; `None` where it is no part of the comparison, or tells of no version.
fn of(event: &pb::Event) -> Option<Usage> {
    let usage = match event.payload.as_ref()? {
        Payload::CouponIssued(issued) => {
            let pb::CouponIssued { template_id, template_version: version, claimed_ms, .. } = *issued;
            Usage { template_id, version, claimed_ms, claimed: 1, ..Usage::default() }
        }
        Payload::CouponUsed(used) => Usage {
            template_id: used.template_id,
            version: used.template_version,
            used: 1,
            discount_cents: used.discount_cents,
            order_cents: used.amount_cents,
            claimed_ms: used.claimed_ms,
            ..Usage::default()
        },
        Payload::CouponGivenBack(back) => Usage {
            template_id: back.template_id,
            version: back.template_version,
            refunded: 1,
            discount_cents: -back.discount_cents,
            order_cents: -back.amount_cents,
            claimed_ms: back.claimed_ms,
            ..Usage::default()
        },
        Payload::CouponExpired(_)
        | Payload::CouponVoided(_)
        | Payload::OrderPlaced(_)
        | Payload::OrderPaid(_)
        | Payload::OrderRefunded(_)
        | Payload::OrderRefundTakenBack(_)
        | Payload::OperatorChange(_)
        | Payload::UserRegistered(_)
        | Payload::CampaignStarted(_) => return None,
    };
    (usage.template_id > 0 && usage.version > 0).then_some(usage)
}

/// What events add up to, one for each version and time of claims.
fn sums(events: &[pb::Event]) -> Vec<Usage> {
    let mut sums: BTreeMap<(i64, u32, i64), Usage> = BTreeMap::new();
    for usage in events.iter().filter_map(of) {
        let Usage { template_id, version, claimed_ms, .. } = usage;
        let sum = sums.entry((template_id, version, claimed_ms)).or_default();
        *sum = Usage {
            template_id,
            version,
            claimed: sum.claimed + usage.claimed,
            used: sum.used + usage.used,
            refunded: sum.refunded + usage.refunded,
            discount_cents: sum.discount_cents + usage.discount_cents,
            order_cents: sum.order_cents + usage.order_cents,
            claimed_ms,
        };
    }
    sums.into_values().collect()
}

impl<Db: Store> Consumer for Counting<Db> {
    type Db = Db;
    const GROUP: Group = GROUP;

    async fn consume(&self, db_tx: &mut DbTx<Db>, events: &[pb::Event]) -> Result<(), Trouble> {
        let sums = sums(events);
        if !sums.is_empty() {
            Db::count(db_tx, &sums).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_version_add_up_and_those_of_none_are_no_part_of_it() {
        let issued = |template_version| {
            Payload::CouponIssued(pb::CouponIssued { template_id: 4, template_version, ..Default::default() })
        };
        let used = |amount_cents, discount_cents| {
            let (template_id, template_version) = (4, 2);
            let used =
                pb::CouponUsed { template_id, template_version, amount_cents, discount_cents, ..Default::default() };
            Payload::CouponUsed(used)
        };
        let back = |discount_cents| {
            let (template_id, template_version) = (4, 2);
            let back = pb::CouponGivenBack { template_id, template_version, discount_cents, ..Default::default() };
            Payload::CouponGivenBack(back)
        };
        let expired = Payload::CouponExpired(pb::CouponExpired { template_id: 4, ..Default::default() });
        let payloads =
            [issued(2), used(900, 5), issued(1), issued(2), back(5), issued(0), used(1_000, 70), used(10, 1), back(70)];
        let events = payloads
            .into_iter()
            .chain([expired])
            .map(|payload| pb::Event { payload: Some(payload), ..Default::default() });
        let (template_id, other) = (4, Usage { template_id: 4, version: 1, claimed: 1, ..Usage::default() });
        let own = Usage {
            template_id,
            version: 2,
            claimed: 2,
            used: 3,
            refunded: 2,
            discount_cents: 1,
            order_cents: 1_910,
            claimed_ms: 0,
        };
        assert_eq!(sums(&events.collect::<Vec<_>>()), [other, own]);
    }
}
