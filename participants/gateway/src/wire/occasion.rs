//! Occasions to give coupons, as operators see them, and what they are told.

use std::collections::BTreeMap;

use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Fault, Language};

use crate::schema::{Entries, Id, choices, params, records};
use crate::wire::common::{one_of, time};
use crate::wire::coupon::Why;

choices! {
    /// Whether an occasion gives.
    OccasionState: pb::OccasionState {
        Active = "active",
        Stopped = "stopped",
    }

    /// Where a run stands.
    RunState: pb::RunState {
        Waiting = "waiting",
        Done = "done",
        Refused = "refused",
    }
}

params! {
    /// An occasion.
    OccasionId {
        /// The occasion.
        occasion_id: Id,
    }

    /// Which occasions.
    OccasionFilter {
        /// Only those that stand there.
        state: Option<OccasionState>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        before: Option<Id>,
    }

    /// Which runs of an occasion.
    RunFilter {
        /// The occasion.
        occasion_id: Id,
        /// Only those that stand there.
        state: Option<RunState>,
        /// Most entries, 1 to 100; 20 when left out.
        limit: Option<Entries<100>>,
        /// `next` of the page before.
        before: Option<Id>,
    }

    /// A user who has registered.
    Registered {
        /// The user.
        user_id: Id,
    }

    /// A campaign.
    CampaignId {
        /// The campaign.
        campaign_id: Id,
    }
}

records! {
    /// A user registers.
    OnRegistered {
        /// Only one who belongs to this group, 1 to 64 bytes; left out: everyone.
        group: Option<String>,
    }

    /// A campaign starts.
    OnCampaign {
        /// The campaign.
        campaign_id: Id,
    }

    /// Exactly one of its parts.
    On {
        /// A user registers.
        registered: Option<OnRegistered>,
        /// A campaign starts, for the users that it names.
        campaign: Option<OnCampaign>,
    }

    /// A standing rule.
    NewOccasion {
        /// What has to happen.
        on: On,
        /// Of which kind the coupons are.
        template_id: Id,
        /// For each user, 1 to 20, past the template's limits for each user.
        coupons_per_user: u32,
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// When something happens, those whom it is about get coupons, each of them once.
    Occasion {
        /// Its number.
        occasion_id: Id,
        /// What has to happen.
        on: On,
        /// Of which kind the coupons are.
        template_id: Id,
        /// For each user.
        coupons_per_user: u32,
        /// Whether it gives.
        state: Option<OccasionState>,
        /// How many users it was told.
        users: u64,
        /// How many of them have their coupons.
        given: u64,
        /// How many of them were refused. The others wait.
        refused: u64,
        /// Who made it.
        operator: String,
        /// Why.
        reason: String,
        /// When.
        created_ms: i64,
        /// When it was stopped.
        stopped_ms: Option<i64>,
    }

    /// Why an occasion is changed.
    OccasionReason {
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// Occasions.
    Occasions {
        /// Newest first.
        items: Vec<Occasion>,
        /// Where the next page begins; left out on the last one.
        next: Option<Id>,
    }

    /// What came of events that came together.
    OccasionRun {
        /// Its number. Its coupons are those of the batch occasion/NUMBER.
        run_id: Id,
        /// Where it stands.
        state: Option<RunState>,
        /// For how many users it is.
        users: u64,
        /// Some of them, at most 100.
        user_ids: Vec<Id>,
        /// Why it was refused.
        refusal: Option<Why>,
        /// How often it was tried.
        tries: u32,
        /// When its events came.
        created_ms: i64,
        /// When it ended.
        ended_ms: Option<i64>,
    }

    /// Runs.
    OccasionRuns {
        /// Newest first.
        items: Vec<OccasionRun>,
        /// Where the next page begins; left out on the last one.
        next: Option<Id>,
    }

    /// What is known of a user who has registered.
    Registration {
        /// Groups that he belongs to, at most 32.
        groups: Option<Vec<String>>,
    }

    /// Whom a campaign is for.
    CampaignStart {
        /// 1 to 20,000, none twice; more users are more calls.
        user_ids: Vec<Id>,
        /// Why, 1 to 512 bytes.
        reason: String,
    }

    /// It is told.
    Notice {
        /// How many users it is about.
        users: u64,
    }
}

impl On {
    /// For the service.
    ///
    /// # Errors
    /// When it is not made of one part.
    pub(crate) fn wire(self) -> Result<pb::create_occasion_request::On, Fault> {
        use pb::create_occasion_request::On as Wire;
        let registered = self.registered.map(|on| pb::OnRegistered { group: on.group.unwrap_or_default() });
        let campaign = self.campaign.map(|on| pb::OnCampaign { campaign_id: on.campaign_id.0 });
        one_of("on", [registered.map(Wire::Registered), campaign.map(Wire::Campaign)])
    }

    fn of(wire: Option<pb::occasion::On>) -> Self {
        let (mut registered, mut campaign) = (None, None);
        match wire {
            Some(pb::occasion::On::Registered(on)) => {
                registered = Some(OnRegistered { group: (!on.group.is_empty()).then_some(on.group) });
            }
            Some(pb::occasion::On::Campaign(on)) => {
                campaign = Some(OnCampaign { campaign_id: Id(on.campaign_id) });
            }
            // The service is newer.
            None => {}
        }
        Self { registered, campaign }
    }
}

impl From<pb::Occasion> for Occasion {
    fn from(wire: pb::Occasion) -> Self {
        Self {
            occasion_id: Id(wire.occasion_id),
            on: On::of(wire.on),
            template_id: Id(wire.template_id),
            coupons_per_user: wire.coupons_per_user,
            state: OccasionState::of(wire.state),
            users: wire.users,
            given: wire.given,
            refused: wire.refused,
            operator: wire.operator,
            reason: wire.reason,
            created_ms: wire.created_ms,
            stopped_ms: time(wire.stopped_ms),
        }
    }
}

impl OccasionRun {
    /// What a service says.
    pub(crate) fn of(wire: pb::OccasionRun, language: Language) -> Self {
        let refusal = |code: String| Why::of(pb::Refusal { code, arguments: BTreeMap::new() }, language);
        Self {
            run_id: Id(wire.run_id),
            state: RunState::of(wire.state),
            users: wire.users,
            user_ids: wire.user_ids.into_iter().map(Id).collect(),
            refusal: (!wire.refusal.is_empty()).then(|| refusal(wire.refusal)),
            tries: wire.tries,
            created_ms: wire.created_ms,
            ended_ms: time(wire.ended_ms),
        }
    }
}
