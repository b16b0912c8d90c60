//! A claim by a user: decided here as far as that can be, and then a transaction over stock and coupon.
//!
//! The caller's key names the transaction, whose coupon id stands in a business key of it; so the same key finds the
//! coupon that it made, whichever instance is asked, for as long as the coordinator knows the transaction. What is
//! refused here is looked for under its key first: a user who has the last coupon is told so when he asks again.

use sha2::{Digest as _, Sha256};
use tercet::action::Tcc;
use tercet::client::{Error, Outcome, View, Wait};
use tercet::fence::Dialect;
use tercet::plan::{self, Plan};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::stock::v1::Reserve;
use tercet_rules::{Code, Fault, Refusal};
use tercet_shards::Slot;
use tracing::{error, warn};

use super::known::Wish;
use super::limits::{ATTEMPTS_MAX, CLAIM_DEADLINE};
use super::{Issuing, fields};
use crate::store::Status;
use crate::store::jobs::Jobs;
use crate::{CLAIM, stock};

/// What stands before the id in the business keys of a claim.
const COUPON: &str = "coupon/";
const TEMPLATE: &str = "template/";

/// What a transaction came to.
enum Came {
    /// To this coupon.
    Coupon(i64),
    /// To nothing, for this reason.
    Refused(Fault),
    /// To nothing, since it took too long: it may be begun again.
    Late,
}

pub(super) fn busy() -> Fault {
    Code::SystemBusy.fault([])
}

impl<Db: Jobs + Dialect> Issuing<Db> {
    /// A coupon for a user.
    ///
    /// # Errors
    /// Why not, and [`Code::SystemBusy`] where it is not known.
    pub(super) async fn claim(&self, request: &pb::ClaimRequest) -> Result<pb::ClaimResponse, Fault> {
        fields::claim(request)?;
        match self.decide(request).await {
            Ok((claim, wish)) => self.issue(request, &claim, wish).await,
            Err(fault) => self.earlier(request).await?.ok_or(fault),
        }
    }

    /// The claim that is to be made, on the terms of the version that the user gets.
    async fn decide(&self, request: &pb::ClaimRequest) -> Result<(pb::Claim, Wish), Fault> {
        let &pb::ClaimRequest { user_id, template_id, .. } = request;
        let current = self.offers.get(template_id).await?;
        let refuse = |fault: Fault| if current.fresh { fault } else { busy() };
        let claimed_ms = self.ids.clock_ms().ok_or_else(busy)?;
        let release = current.offer.choose(user_id, &request.groups);
        let release = release.map_err(|refusal| refuse(refusal.into()))?;
        let rules = &release.rules;
        rules.may_claim(claimed_ms, 0, 0).map_err(|refusal: Refusal| refuse(refusal.into()))?;
        let day = rules.validity().zone().day(claimed_ms);
        let wish = Wish { template_id, revision: current.offer.revision, user_id, day };
        if let Some(fault) = self.known.refusal(wish, rules) {
            return Err(refuse(fault));
        }
        let coupon_id = self.ids.next(Slot::of_user(user_id)).await.map_err(|error| {
            warn!(%error, "no id for a coupon");
            busy()
        })?;
        let period = rules.validity().period(claimed_ms);
        let claim = pb::Claim {
            coupon_id,
            template_id,
            user_id,
            version: release.version,
            claimed_ms,
            valid_from_ms: period.start_ms(),
            valid_until_ms: period.end_ms(),
            per_user: rules.quota().per_user(),
            per_user_day: rules.quota().per_user_day(),
            day,
        };
        Ok((claim, wish))
    }

    async fn issue(
        &self,
        request: &pb::ClaimRequest,
        claim: &pb::Claim,
        wish: Wish,
    ) -> Result<pb::ClaimResponse, Fault> {
        for attempt in 0..ATTEMPTS_MAX {
            let key = key(request, attempt);
            let plan = plan(claim, &key).map_err(|error| {
                error!(%error, "a claim is no plan");
                busy()
            })?;
            let view = match self.claims.submit(plan, Wait::Ended).await {
                Err(Error::KeyReused { .. }) => self.client.find(&key).await,
                answer => answer,
            };
            let view = view.map_err(|error| {
                warn!(%error, "a claim of unknown outcome");
                busy()
            })?;
            match came(&view, claim.template_id)? {
                Came::Coupon(coupon_id) if coupon_id == claim.coupon_id => {
                    return Ok(pb::ClaimResponse { coupon: Some(fields::claimed(claim)), claimed: true });
                }
                Came::Coupon(coupon_id) => return self.found(coupon_id).await,
                Came::Refused(fault) => {
                    self.known.learn(wish, &fault);
                    return Err(plain(&fault));
                }
                Came::Late => {}
            }
        }
        Err(busy())
    }

    /// What the same key has come to before.
    async fn earlier(&self, request: &pb::ClaimRequest) -> Result<Option<pb::ClaimResponse>, Fault> {
        for attempt in 0..ATTEMPTS_MAX {
            let view = match self.client.find(&key(request, attempt)).await {
                Ok(view) => view,
                Err(Error::NotFound) => return Ok(None),
                Err(error) => {
                    warn!(%error, "it is not known whether a claim was made before");
                    return Err(busy());
                }
            };
            match came(&view, request.template_id)? {
                Came::Coupon(coupon_id) => return self.found(coupon_id).await.map(Some),
                Came::Refused(fault) => return Err(plain(&fault)),
                Came::Late => {}
            }
        }
        Ok(None)
    }

    /// A coupon that was claimed before, as it is now.
    async fn found(&self, coupon_id: i64) -> Result<pb::ClaimResponse, Fault> {
        let coupon = self.coupon(coupon_id).await?.ok_or_else(busy)?;
        Ok(pb::ClaimResponse { coupon: Some(fields::shown(&coupon)), claimed: false })
    }
}

/// What a transaction of a claim came to.
fn came(view: &View, template_id: i64) -> Result<Came, Fault> {
    let branches = &view.details().branches;
    let named = |what: &str| {
        let mut ids = branches.iter().filter_map(|branch| branch.business_key.strip_prefix(what));
        ids.next().and_then(|id| id.parse::<i64>().ok())
    };
    if named(TEMPLATE) != Some(template_id) {
        return Err(Code::KeyReused.fault([]));
    }
    match view.outcome() {
        Some(Outcome::Confirmed) => named(COUPON).map(Came::Coupon).ok_or_else(busy),
        Some(Outcome::Cancelled) => {
            let said = branches.iter().find_map(|branch| Fault::from_reason(&branch.reason));
            Ok(said.or_else(|| Fault::from_reason(view.reason())).map_or(Came::Late, Came::Refused))
        }
        None => Err(busy()),
    }
}

/// Without what only services need.
pub(super) fn plain(fault: &Fault) -> Fault {
    match fault.argument("limit") {
        Some(limit) => fault.code.fault([("limit", limit.to_owned())]),
        None => fault.code.fault([]),
    }
}

fn plan(claim: &pb::Claim, key: &str) -> anyhow::Result<Plan<Tcc>> {
    let units = Reserve { item: stock::template_item(claim.template_id), count: 1 };
    let mut plan = plan::tcc().idempotency_key(key).deadline(CLAIM_DEADLINE);
    plan.branch(stock::RESERVE.with(&units)?.business_key(format!("{TEMPLATE}{}", claim.template_id)));
    plan.branch(CLAIM.with(claim)?.business_key(format!("{COUPON}{}", claim.coupon_id)));
    Ok(plan.build()?)
}

/// The key of an attempt's transaction: of any length, and of this user alone.
fn key(request: &pb::ClaimRequest, attempt: u32) -> String {
    let digest = Sha256::digest(request.idempotency_key.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    match attempt {
        0 => format!("claim/{}/{digest}", request.user_id),
        _ => format!("claim/{}/{digest}/{attempt}", request.user_id),
    }
}

/// As users see a status.
pub(super) const fn seen(status: Status) -> pb::CouponStatus {
    match status {
        Status::Pending => pb::CouponStatus::Claiming,
        Status::Issued => pb::CouponStatus::Available,
        Status::Locked => pb::CouponStatus::Locked,
        Status::Used => pb::CouponStatus::Used,
        Status::Expired => pb::CouponStatus::Expired,
    }
}
