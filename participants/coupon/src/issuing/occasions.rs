//! Occasions: when something happens, those whom it is about get coupons.
//!
//! What is told is written down first ([`told`]), in the commit in which its consumer passes it: for each occasion that
//! it concerns a run with the users that the occasion does not know yet. Then runs are carried out ([`runs`]), each as
//! a batch of its own. So the broker is never held up by a batch, events that come together share one, and nobody is
//! given anything twice, however often and under whatever id an event is repeated.

use sha2::{Digest as _, Sha256};
use tercet::fence::Dialect;
use tercet_events::event::{Event, Payload};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::events::v1::{CampaignStarted, OperatorChange, UserRegistered};
use tercet_rules::{Code, Fault, Invalid, Limit};
use tercet_shards::Slot;
use tracing::error;

use super::claims::busy;
use super::limits::{OCCASIONS_MAX, OPERATOR_BYTES_MAX, RETRY_MAX, RUN_USERS_MAX};
use super::{Issuing, fields};
use crate::store::occasions::{Occasion, Occasions, On, Run, RunState, Which};

mod runs;
mod told;

pub(super) use runs::{batch_id, run};
pub use told::GROUP;
pub(super) use told::Told;

fn database(error: sqlx::Error) -> Fault {
    error!(%error, "the database of occasions");
    busy()
}

/// Who does it, and why.
#[derive(Clone, Copy)]
struct By<'a> {
    operator: &'a str,
    reason: &'a str,
}

impl<Db: Occasions + Dialect> Issuing<Db> {
    /// Without events nothing would ever come of it.
    fn hears(&self) -> Result<(), Fault> {
        if self.outbox.is_on() { Ok(()) } else { Err(Code::NoEvents.fault([])) }
    }

    pub(super) async fn create_occasion(
        &self,
        request: pb::CreateOccasionRequest,
    ) -> Result<pb::ChangeOccasionResponse, Fault> {
        let on = fields::occasion(&request)?;
        self.hears()?;
        let (key, digest) = (&request.idempotency_key, digest(&request, &on));
        if let Some(made) = self.made(key, &digest).await? {
            return Ok(made);
        }
        // There is such a template; what it is worth by then, its own life will tell.
        self.offers.get(request.template_id).await?;
        let occasion = Occasion {
            occasion_id: self.ids.next(Slot::of_user(0)).await.map_err(|_| busy())?,
            digest: digest.clone(),
            on,
            template_id: request.template_id,
            coupons_per_user: request.coupons_per_user.into(),
            revision: 1,
            users: 0,
            given: 0,
            refused: 0,
            operator: request.operator,
            reason: request.reason,
            created_ms: self.ids.clock_ms().ok_or_else(busy)?,
            stopped_ms: None,
        };
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        let active = Db::occasions(&mut db_tx, true, i64::MAX, OCCASIONS_MAX).await.map_err(database)?;
        if active.len() >= OCCASIONS_MAX {
            return Err(Invalid::new("occasions", Limit::Entries(0, OCCASIONS_MAX)).into());
        }
        match Db::make_occasion(&mut db_tx, key, &occasion).await {
            Ok(()) => {}
            // Somebody else was quicker.
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                db_tx.rollback().await.map_err(database)?;
                return self.made(key, &digest).await?.ok_or_else(busy);
            }
            Err(error) => return Err(database(error)),
        }
        let by = By { operator: &occasion.operator, reason: &occasion.reason };
        let told = changed("create", &occasion, None, by);
        self.outbox.append::<Db>(&mut db_tx, [told]).await.map_err(database)?;
        db_tx.commit().await.map_err(database)?;
        Ok(pb::ChangeOccasionResponse { occasion: Some(shown(&occasion)), changed: true })
    }

    /// What was made under a key before.
    async fn made(&self, key: &str, digest: &str) -> Result<Option<pb::ChangeOccasionResponse>, Fault> {
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        match Db::occasion(&mut connection, Which::Key(key)).await.map_err(database)? {
            Some(occasion) if occasion.digest != digest => Err(Code::KeyReused.fault([])),
            Some(occasion) => Ok(Some(pb::ChangeOccasionResponse { occasion: Some(shown(&occasion)), changed: false })),
            None => Ok(None),
        }
    }

    pub(super) async fn stop_occasion(
        &self,
        request: &pb::StopOccasionRequest,
    ) -> Result<pb::ChangeOccasionResponse, Fault> {
        let by = By { operator: &request.operator, reason: &request.reason };
        self.change_occasion("stop", request.occasion_id, by).await
    }

    pub(super) async fn retry_occasion(
        &self,
        request: &pb::RetryOccasionRequest,
    ) -> Result<pb::ChangeOccasionResponse, Fault> {
        let by = By { operator: &request.operator, reason: &request.reason };
        self.change_occasion("retry", request.occasion_id, by).await
    }

    async fn change_occasion(
        &self,
        action: &'static str,
        occasion_id: i64,
        by: By<'_>,
    ) -> Result<pb::ChangeOccasionResponse, Fault> {
        fields::id("occasion_id", occasion_id)?;
        fields::by(by.operator, by.reason)?;
        let now_ms = self.ids.clock_ms().ok_or_else(busy)?;
        let before = self.occasion(occasion_id).await?;
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        let is_changed = match action {
            "stop" => Db::stop_occasion(&mut db_tx, occasion_id, now_ms).await,
            _ => Db::retry_runs(&mut db_tx, occasion_id, RETRY_MAX, now_ms).await.map(|runs| runs > 0),
        };
        if !is_changed.map_err(database)? {
            return Ok(pb::ChangeOccasionResponse { occasion: Some(shown(&before)), changed: false });
        }
        let after = Db::occasion(&mut db_tx, Which::Id(occasion_id)).await.map_err(database)?.ok_or_else(busy)?;
        let told = changed(action, &after, Some(&before), by);
        self.outbox.append::<Db>(&mut db_tx, [told]).await.map_err(database)?;
        db_tx.commit().await.map_err(database)?;
        Ok(pb::ChangeOccasionResponse { occasion: Some(shown(&after)), changed: true })
    }

    async fn occasion(&self, occasion_id: i64) -> Result<Occasion, Fault> {
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        let found = Db::occasion(&mut connection, Which::Id(occasion_id)).await.map_err(database)?;
        let id = || occasion_id.to_string();
        found.ok_or_else(|| Code::NotFound.fault([("what", "occasion".to_owned()), ("id", id())]))
    }

    pub(super) async fn get_occasion(&self, occasion_id: i64) -> Result<pb::Occasion, Fault> {
        fields::id("occasion_id", occasion_id)?;
        Ok(shown(&self.occasion(occasion_id).await?))
    }

    pub(super) async fn list_occasions(
        &self,
        request: &pb::ListOccasionsRequest,
    ) -> Result<pb::ListOccasionsResponse, Fault> {
        let (limit, before) = (fields::page(request.limit)? as usize, before(request.before)?);
        let wanted: &[bool] = match pb::OccasionState::try_from(request.state) {
            Ok(pb::OccasionState::Unspecified) => &[true, false],
            Ok(pb::OccasionState::Active) => &[true],
            Ok(pb::OccasionState::Stopped) => &[false],
            Err(_) => return Err(Invalid::new("state", Limit::Listed).into()),
        };
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        let mut found = Vec::new();
        for active in wanted {
            found.extend(Db::occasions(&mut connection, *active, before, limit).await.map_err(database)?);
        }
        found.sort_unstable_by_key(|occasion| std::cmp::Reverse(occasion.occasion_id));
        found.truncate(limit);
        let next = found.last().filter(|_| found.len() == limit).map_or(0, |last| last.occasion_id);
        Ok(pb::ListOccasionsResponse { occasions: found.iter().map(shown).collect(), next })
    }

    pub(super) async fn list_occasion_runs(
        &self,
        request: &pb::ListOccasionRunsRequest,
    ) -> Result<pb::ListOccasionRunsResponse, Fault> {
        let occasion_id = fields::id("occasion_id", request.occasion_id)?;
        let (limit, before) = (fields::page(request.limit)? as usize, before(request.before)?);
        let wanted: &[RunState] = match pb::RunState::try_from(request.state) {
            Ok(pb::RunState::Unspecified) => &[RunState::Waiting, RunState::Done, RunState::Refused],
            Ok(pb::RunState::Waiting) => &[RunState::Waiting],
            Ok(pb::RunState::Done) => &[RunState::Done],
            Ok(pb::RunState::Refused) => &[RunState::Refused],
            Err(_) => return Err(Invalid::new("state", Limit::Listed).into()),
        };
        self.occasion(occasion_id).await?;
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        let mut found = Vec::new();
        for state in wanted {
            found.extend(Db::runs(&mut connection, (occasion_id, *state), before, limit).await.map_err(database)?);
        }
        found.sort_unstable_by_key(|run| std::cmp::Reverse(run.run));
        found.truncate(limit);
        let next = found.last().filter(|_| found.len() == limit).map_or(0, |last| last.run);
        let mut runs = Vec::with_capacity(found.len());
        for run in found {
            let user_ids = Db::run_users(&mut connection, run.run, RUN_USERS_MAX).await.map_err(database)?;
            runs.push(shown_run(run, user_ids));
        }
        Ok(pb::ListOccasionRunsResponse { runs, next })
    }

    pub(super) async fn tell_registered(
        &self,
        request: pb::TellRegisteredRequest,
    ) -> Result<pb::TellRegisteredResponse, Fault> {
        let pb::TellRegisteredRequest { user_id, groups, operator } = request;
        fields::registered(user_id, &groups)?;
        tercet_rules::text("operator", &operator, OPERATOR_BYTES_MAX)?;
        let change = OperatorChange {
            what: "user".to_owned(),
            id: user_id,
            operator,
            action: "registered".to_owned(),
            after: serde_json::json!({ "groups": groups }).to_string(),
            ..OperatorChange::default()
        };
        self.announce(user_id, [Payload::UserRegistered(UserRegistered { groups }), Payload::OperatorChange(change)])
            .await?;
        Ok(pb::TellRegisteredResponse {})
    }

    pub(super) async fn start_campaign(
        &self,
        request: pb::StartCampaignRequest,
    ) -> Result<pb::StartCampaignResponse, Fault> {
        let pb::StartCampaignRequest { campaign_id, user_ids, operator, reason } = request;
        fields::campaign(campaign_id, &user_ids)?;
        fields::by(&operator, &reason)?;
        let change = OperatorChange {
            what: "campaign".to_owned(),
            id: campaign_id,
            operator,
            action: "start".to_owned(),
            reason,
            after: serde_json::json!({ "campaign_id": campaign_id, "users": user_ids.len() }).to_string(),
            ..OperatorChange::default()
        };
        let started = CampaignStarted { campaign_id, user_ids };
        self.announce(0, [Payload::CampaignStarted(started), Payload::OperatorChange(change)]).await?;
        Ok(pb::StartCampaignResponse {})
    }

    /// What has happened, and who said so.
    async fn announce(&self, user_id: i64, payloads: [Payload; 2]) -> Result<(), Fault> {
        self.hears()?;
        let events = payloads.map(|payload| Event::new(user_id, payload));
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        self.outbox.append::<Db>(&mut db_tx, events).await.map_err(database)?;
        db_tx.commit().await.map_err(database)
    }
}

/// For the business log.
fn changed(action: &str, occasion: &Occasion, before: Option<&Occasion>, by: By<'_>) -> Event {
    let change = OperatorChange {
        what: "occasion".to_owned(),
        id: occasion.occasion_id,
        revision: occasion.revision.unsigned_abs(),
        operator: by.operator.to_owned(),
        action: action.to_owned(),
        reason: by.reason.to_owned(),
        before: before.map_or_else(String::new, written),
        after: written(occasion),
    };
    Event::new(0, Payload::OperatorChange(change))
}

/// An occasion as the log has it.
fn written(occasion: &Occasion) -> String {
    let on = match &occasion.on {
        On::Registered(group) => serde_json::json!({ "registered": { "group": group } }),
        On::Campaign(campaign_id) => serde_json::json!({ "campaign": { "campaign_id": campaign_id } }),
    };
    let state = if occasion.stopped_ms.is_none() { "active" } else { "stopped" };
    let json = serde_json::json!({
        "occasion_id": occasion.occasion_id,
        "on": on,
        "template_id": occasion.template_id,
        "coupons_per_user": occasion.coupons_per_user,
        "state": state,
        "users": occasion.users,
        "given": occasion.given,
        "refused": occasion.refused,
    });
    json.to_string()
}

fn shown(occasion: &Occasion) -> pb::Occasion {
    let active = occasion.stopped_ms.is_none();
    pb::Occasion {
        occasion_id: occasion.occasion_id,
        on: Some(match &occasion.on {
            On::Registered(group) => pb::occasion::On::Registered(pb::OnRegistered { group: group.clone() }),
            On::Campaign(campaign_id) => pb::occasion::On::Campaign(pb::OnCampaign { campaign_id: *campaign_id }),
        }),
        template_id: occasion.template_id,
        coupons_per_user: u32::try_from(occasion.coupons_per_user).unwrap_or(u32::MAX),
        state: if active { pb::OccasionState::Active } else { pb::OccasionState::Stopped }.into(),
        users: occasion.users.unsigned_abs(),
        given: occasion.given.unsigned_abs(),
        refused: occasion.refused.unsigned_abs(),
        operator: occasion.operator.clone(),
        reason: occasion.reason.clone(),
        created_ms: occasion.created_ms,
        stopped_ms: occasion.stopped_ms.unwrap_or(0),
    }
}

fn shown_run(run: Run, user_ids: Vec<i64>) -> pb::OccasionRun {
    let state = match run.state {
        RunState::Waiting => pb::RunState::Waiting,
        RunState::Done => pb::RunState::Done,
        RunState::Refused => pb::RunState::Refused,
    };
    pb::OccasionRun {
        run_id: run.run,
        state: state.into(),
        users: run.users.unsigned_abs(),
        refusal: run.refusal,
        tries: u32::try_from(run.tries).unwrap_or(u32::MAX),
        created_ms: run.created_ms,
        ended_ms: run.ended_ms.unwrap_or(0),
        user_ids,
    }
}

/// Where a page begins.
fn before(before: i64) -> Result<i64, Invalid> {
    match before {
        0 => Ok(i64::MAX),
        1.. => Ok(before),
        _ => Err(Invalid::new("before", Limit::Page)),
    }
}

/// Of what an occasion says.
fn digest(request: &pb::CreateOccasionRequest, on: &On) -> String {
    let mut hash = Sha256::new();
    match on {
        On::Registered(group) => hash.update(format!("registered {group}")),
        On::Campaign(campaign_id) => hash.update(format!("campaign {campaign_id}")),
    }
    hash.update(request.template_id.to_le_bytes());
    hash.update(request.coupons_per_user.to_le_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
