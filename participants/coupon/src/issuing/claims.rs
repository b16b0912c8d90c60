//! A claim by a user: decided here as far as that can be, and then a transaction over stock and coupon.
//!
//! The caller's key stands in the coupon's row, where one user has it once, and the try looks for it. So the same key
//! finds the coupon that it made for as long as that exists, and a claim that is begun again while an earlier one still
//! holds comes to nothing. Whoever is refused is looked for by his key in his own shard first: a user who has the last
//! coupon is told so when he asks again. No service is asked for it. A claim without a key repeats none, so what
//! refuses it here is answered without a look at any database.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tercet::action::Tcc;
use tercet::client::{Outcome, View, Wait};
use tercet::fence::Dialect;
use tercet::plan::{self, Plan};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::stock::v1::Reserve;
use tercet_rules::{Code, Fault, Refusal};
use tercet_shards::Slot;
use tracing::{error, warn};

use super::known::Wish;
use super::limits::CLAIM_DEADLINE;
use super::{Issuing, fields};
use crate::store::Status;
use crate::store::jobs::Jobs;
use crate::{CLAIM, stock};

/// What stands before the id in the business keys of a claim.
const COUPON: &str = "coupon/";
const TEMPLATE: &str = "template/";

/// A claim that is to be made.
struct Decided {
    claim: pb::Claim,
    wish: Wish,
    /// It is under a version that is tried beside a live one.
    beside: bool,
}

/// Of a claim that nobody repeats.
const NO_KEY: i64 = 0;
/// How long a claim by the same key that is under way is waited for.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(25);

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
        let key = key(&request.idempotency_key);
        let refused = match self.decide(request, key.unwrap_or(NO_KEY)).await {
            Ok(decided) => match self.known.in_turn(decided.wish, |alone| self.issue(&decided, alone)).await {
                Ok(granted) => return Ok(granted),
                Err(fault) => plain(&fault),
            },
            Err(fault) => fault,
        };
        match key {
            Some(key) => self.earlier(request, key).await?.ok_or(refused),
            None => Err(refused),
        }
    }

    /// The claim that is to be made, on the terms of the version that the user gets.
    async fn decide(&self, request: &pb::ClaimRequest, key: i64) -> Result<Decided, Fault> {
        let &pb::ClaimRequest { user_id, template_id, .. } = request;
        let current = self.offers.get(template_id).await?;
        let refuse = |fault: Fault| if current.fresh { fault } else { busy() };
        let claimed_ms = self.ids.clock_ms().ok_or_else(busy)?;
        let release = current.offer.choose(user_id, &request.groups);
        let release = release.map_err(|refusal| refuse(refusal.into()))?;
        let rules = &release.rules;
        rules.may_claim(claimed_ms, 0, 0).map_err(|refusal: Refusal| refuse(refusal.into()))?;
        let day = rules.validity().zone().day(claimed_ms);
        let (revision, version) = (current.offer.revision, release.version);
        let wish = Wish { template_id, revision, version, user_id, day };
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
            version,
            claimed_ms,
            valid_from_ms: period.start_ms(),
            valid_until_ms: period.end_ms(),
            per_user: rules.quota().per_user(),
            per_user_day: rules.quota().per_user_day(),
            day,
            key,
        };
        let beside = current.offer.beside().is_some_and(|release| release.version == version);
        Ok(Decided { claim, wish, beside })
    }

    /// Makes the claim; where stock has none it is told before the shards are asked, if it is to be asked alone.
    async fn issue(&self, decided: &Decided, alone: bool) -> Result<pb::ClaimResponse, Fault> {
        let Decided { claim, wish, .. } = decided;
        let plan = plan(decided, alone).map_err(|error| {
            error!(%error, "a claim is no plan");
            busy()
        })?;
        let view = self.claims.submit(plan, Wait::Ended).await.map_err(|error| {
            warn!(%error, "a claim of unknown outcome");
            busy()
        })?;
        match view.outcome() {
            Some(Outcome::Confirmed) => Ok(pb::ClaimResponse { coupon: Some(fields::claimed(claim)), claimed: true }),
            Some(Outcome::Cancelled) => {
                let fault = refusal(&view).ok_or_else(busy)?;
                self.known.learn(*wish, &fault);
                Err(fault)
            }
            None => Err(busy()),
        }
    }

    /// The coupon that the same key has made before, as it is now.
    async fn earlier(&self, request: &pb::ClaimRequest, key: i64) -> Result<Option<pb::ClaimResponse>, Fault> {
        let begun = Instant::now();
        while let Some(coupon) = self.keyed(request.user_id, key).await? {
            if coupon.template_id != request.template_id {
                return Err(Code::KeyReused.fault([]));
            }
            if coupon.status != Status::Pending {
                return Ok(Some(pb::ClaimResponse { coupon: Some(fields::shown(&coupon)), claimed: false }));
            }
            if begun.elapsed() > WAIT_MAX {
                return Err(busy());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }
}

/// Why a claim was refused; none where it took too long, or another by its key held what it wanted.
fn refusal(view: &View) -> Option<Fault> {
    let first = view.refusal()?;
    let branches = view.details().branches.iter();
    let said: Vec<Fault> = branches.filter_map(|branch| Fault::from_reason(&branch.reason)).collect();
    if said.iter().any(|fault| fault.code == Code::KeyReused) {
        return None;
    }
    said.into_iter().next().or_else(|| Fault::from_reason(&first.reason))
}

/// Without what only services need.
pub(super) fn plain(fault: &Fault) -> Fault {
    match fault.argument("limit") {
        Some(limit) => fault.code.fault([("limit", limit.to_owned())]),
        None => fault.code.fault([]),
    }
}

fn plan(Decided { claim, beside, .. }: &Decided, stock_first: bool) -> anyhow::Result<Plan<Tcc>> {
    let unit = |item| -> anyhow::Result<_> {
        let unit = stock::RESERVE.with(&Reserve { item, count: 1 })?;
        Ok(unit.business_key(format!("{TEMPLATE}{}", claim.template_id)))
    };
    let mut plan = plan::tcc().deadline(CLAIM_DEADLINE);
    let of_template = unit(stock::template_item(claim.template_id))?;
    let of_template = if *beside {
        // First, so that what is refused for this budget takes nothing from the others meanwhile.
        let of_candidate = plan.branch(unit(stock::candidate_item(claim.template_id, claim.version))?);
        plan.branch(of_template.after(&[of_candidate]))
    } else {
        plan.branch(of_template)
    };
    let own = CLAIM.with(claim)?.business_key(format!("{COUPON}{}", claim.coupon_id));
    plan.branch(if stock_first { own.after(&[of_template]) } else { own });
    Ok(plan.build()?)
}

/// What stands for a key in the coupon's row, if the caller has one: of two keys of one user, the same with a chance of
/// 2^-63.
fn key(text: &str) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    let digest = Sha256::digest(text.as_bytes());
    let (first, _) = digest.split_first_chunk::<8>().expect("a digest is 32 bytes");
    Some((i64::from_le_bytes(*first) & i64::MAX).max(1))
}

/// As users see a status.
pub(super) const fn seen(status: Status) -> pb::CouponStatus {
    match status {
        Status::Pending => pb::CouponStatus::Claiming,
        Status::Issued => pb::CouponStatus::Available,
        Status::Locked => pb::CouponStatus::Locked,
        Status::Used => pb::CouponStatus::Used,
        Status::Expired => pb::CouponStatus::Expired,
        Status::Voided => pb::CouponStatus::Voided,
    }
}
