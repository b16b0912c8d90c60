//! What occasions are told: the group that takes events of users and campaigns.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use tercet::participant::DbTx;
use tercet_events::bus::Group;
use tercet_events::consumer::{Consumer, Trouble};
use tercet_events::event::{Payload, Topic};
use tercet_proto::events::v1 as pb;
use tercet_shards::{Ids, Slot};

use crate::issuing::fields;
use crate::issuing::limits::{OCCASIONS_MAX, SKEW_MS};
use crate::store::occasions::{Occasion, Occasions, On};

/// This consumer.
pub const GROUP: Group = Group { name: "issuing", topics: &[Topic::User, Topic::Campaign] };

/// Tells occasions in this kind of database.
pub(in crate::issuing) struct Told<Db> {
    ids: Arc<Ids>,
    of: PhantomData<fn() -> Db>,
}

impl<Db> Told<Db> {
    /// With ids of this node.
    pub(in crate::issuing) fn new(ids: &Arc<Ids>) -> Self {
        Self { ids: Arc::clone(ids), of: PhantomData }
    }
}

impl<Db: Occasions> Consumer for Told<Db> {
    type Db = Db;
    const GROUP: Group = GROUP;

    async fn consume(&self, db_tx: &mut DbTx<Db>, events: &[pb::Event]) -> Result<(), Trouble> {
        events.iter().try_for_each(check)?;
        let mut active = Db::occasions(db_tx, true, i64::MAX, OCCASIONS_MAX).await?;
        // Whoever tells several occasions does it in one order.
        active.sort_unstable_by_key(|occasion| occasion.occasion_id);
        for occasion in active {
            for user_ids in meant(&occasion, events) {
                let run = self.ids.next(Slot::of_user(0)).await.map_err(unknown)?;
                let now_ms = self.ids.clock_ms().ok_or_else(|| unknown("the clock is not known"))?;
                Db::open_run(db_tx, (occasion.occasion_id, run), &user_ids, now_ms).await?;
            }
        }
        Ok(())
    }
}

/// It may pass: the events come again.
fn unknown(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Trouble {
    Trouble::Database(sqlx::Error::Io(std::io::Error::other(error)))
}

/// Whether an event is one that its producer may send.
fn check(event: &pb::Event) -> Result<(), Trouble> {
    let checked = match &event.payload {
        Some(Payload::UserRegistered(registered)) => fields::registered(event.user_id, &registered.groups),
        Some(Payload::CampaignStarted(started)) => {
            // A user who is there twice is one user.
            let user_ids: BTreeSet<i64> = started.user_ids.iter().copied().collect();
            fields::campaign(started.campaign_id, &user_ids.into_iter().collect::<Vec<_>>())
        }
        Some(_) | None => Ok(()),
    };
    checked.map_err(|invalid| Trouble::Refused(invalid.to_string()))
}

/// Whom an occasion gives to: all who register now together, and those of each campaign. In the order of their ids.
/// Nothing comes of what happened before it was made, however late that is told.
fn meant(occasion: &Occasion, events: &[pb::Event]) -> Vec<Vec<i64>> {
    let (mut registered, mut all) = (BTreeSet::new(), Vec::new());
    for event in events.iter().filter(|event| !is_old(occasion, event)) {
        match (&occasion.on, &event.payload) {
            (On::Registered(group), Some(Payload::UserRegistered(own)))
                if group.is_empty() || own.groups.contains(group) =>
            {
                registered.insert(event.user_id);
            }
            (On::Campaign(campaign_id), Some(Payload::CampaignStarted(own))) if own.campaign_id == *campaign_id => {
                all.push(own.user_ids.iter().copied().collect::<BTreeSet<i64>>());
            }
            (On::Registered(_) | On::Campaign(_), _) => {}
        }
    }
    all.push(registered);
    all.into_iter().filter(|user_ids| !user_ids.is_empty()).map(|user_ids| user_ids.into_iter().collect()).collect()
}

/// It happened before the occasion was made, whatever its producer's clock. Where its time is left out it happens when
/// it comes.
const fn is_old(occasion: &Occasion, event: &pb::Event) -> bool {
    event.occurred_ms > 0 && event.occurred_ms < occasion.created_ms - SKEW_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occasion(on: On) -> Occasion {
        Occasion {
            occasion_id: 1,
            digest: String::new(),
            on,
            template_id: 2,
            coupons_per_user: 1,
            revision: 1,
            users: 0,
            given: 0,
            refused: 0,
            operator: "ann".into(),
            reason: "welcome".into(),
            created_ms: SKEW_MS + 1_000,
            stopped_ms: None,
        }
    }

    fn registered(user_id: i64, groups: &[&str], occurred_ms: i64) -> pb::Event {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let payload = Some(Payload::UserRegistered(pb::UserRegistered { groups }));
        pb::Event { user_id, occurred_ms, payload, ..pb::Event::default() }
    }

    fn campaign(campaign_id: i64, user_ids: &[i64]) -> pb::Event {
        campaign_at(0, campaign_id, user_ids)
    }

    fn campaign_at(occurred_ms: i64, campaign_id: i64, user_ids: &[i64]) -> pb::Event {
        let started = pb::CampaignStarted { campaign_id, user_ids: user_ids.to_vec() };
        pb::Event { occurred_ms, payload: Some(Payload::CampaignStarted(started)), ..pb::Event::default() }
    }

    #[test]
    fn an_occasion_is_told_of_those_whom_it_is_for() {
        let events = [
            registered(9, &[], 0),
            registered(7, &["vip", "cn"], 1_000),
            registered(8, &["vip"], 999),
            registered(9, &[], 5_000),
            campaign(3, &[5, 4, 5]),
            campaign(4, &[1]),
            campaign_at(1_000, 3, &[6]),
            campaign_at(999, 3, &[10]),
        ];
        assert_eq!(meant(&occasion(On::Registered(String::new())), &events), [[7, 9]]);
        assert_eq!(meant(&occasion(On::Registered("vip".into())), &events), [[7]]);
        assert_eq!(meant(&occasion(On::Campaign(3)), &events), [vec![4, 5], vec![6]]);
        assert!(meant(&occasion(On::Campaign(5)), &events).is_empty());
    }

    #[test]
    fn what_nobody_can_take_is_refused_by_its_field() {
        let many: Vec<i64> = (1..=20_001).collect();
        for (event, text) in [
            (registered(0, &[], 0), "user_id"),
            (registered(1, &[""], 0), "groups[0]"),
            (campaign(0, &[1]), "campaign_id"),
            (campaign(1, &[]), "user_ids"),
            (campaign(1, &[0]), "user_ids[0]"),
            (campaign(1, &many), "user_ids"),
        ] {
            let Err(Trouble::Refused(reason)) = check(&event) else { panic!("{text} is taken") };
            assert!(reason.starts_with(text), "{reason}");
        }
        assert!(check(&campaign(1, &[5, 5])).is_ok());
    }
}
