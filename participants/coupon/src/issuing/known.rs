//! What is refused without asking anybody.
//!
//! Only what can not become wrong while the template stays as it is: stock says whether anything is reserved when there
//! is nothing free, and the coupon service whether a claim is under way when a user has all that he may have. Where
//! there is, a cancelled claim could change the answer, so nothing is remembered. Sold out is asked again after
//! [`SOLD_OUT`], because a person may put units back; a user's claims never become fewer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tercet_rules::{Code, Fault, Rules};

use super::limits::REACHED_MAX;

/// How long nothing is asked of a template that is sold out.
const SOLD_OUT: Duration = Duration::from_secs(1);

/// So many a user has at least.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    claimed: u32,
    day: i64,
    today: u32,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of a template's version: at which revision, and since when.
    sold_out: Mutex<HashMap<(i64, u32), (u64, Instant)>>,
    reached: Mutex<HashMap<(i64, i64), Reached>>,
}

/// A claim, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) template_id: i64,
    pub(super) revision: u64,
    pub(super) version: u32,
    pub(super) user_id: i64,
    /// In the template's zone.
    pub(super) day: i64,
}

impl Known {
    /// Why the claim would be refused.
    pub(super) fn refusal(&self, wish: Wish, rules: &Rules) -> Option<Fault> {
        let sold_out = self.sold_out.lock().unwrap_or_else(PoisonError::into_inner);
        let sold_out = sold_out.get(&(wish.template_id, wish.version)).copied();
        if sold_out.is_some_and(|(revision, since)| revision == wish.revision && since.elapsed() < SOLD_OUT) {
            return Some(Code::SoldOut.fault([]));
        }
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = *reached.get(&(wish.user_id, wish.template_id))?;
        let today = if reached.day == wish.day { reached.today } else { 0 };
        let quota = rules.quota();
        let limit = |code: Code, limit: u32| Some(code.fault([("limit", limit.to_string())]));
        if reached.claimed >= quota.per_user() {
            limit(Code::PerUserLimit, quota.per_user())
        } else if today >= quota.per_user_day() {
            limit(Code::PerUserDayLimit, quota.per_user_day())
        } else {
            None
        }
    }

    /// Remembers why a claim was refused, if it will be refused again.
    pub(super) fn learn(&self, wish: Wish, fault: &Fault) {
        if fault.argument("final") != Some("true") {
            return;
        }
        let limit = || fault.argument("limit").and_then(|limit| limit.parse::<u32>().ok());
        if fault.code == Code::SoldOut {
            let mut sold_out = self.sold_out.lock().unwrap_or_else(PoisonError::into_inner);
            if sold_out.len() >= super::limits::OFFERS_MAX {
                sold_out.clear();
            }
            sold_out.insert((wish.template_id, wish.version), (wish.revision, Instant::now()));
        } else if let Some(limit) = limit() {
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            if reached.len() >= REACHED_MAX {
                reached.clear();
            }
            let own = reached.entry((wish.user_id, wish.template_id)).or_default();
            if fault.code == Code::PerUserLimit {
                own.claimed = own.claimed.max(limit);
            } else if fault.code == Code::PerUserDayLimit {
                (own.day, own.today) = (wish.day, limit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_proto::coupon_template::v1 as pb;

    use super::*;

    fn rules(per_user: u32, per_user_day: u32) -> Rules {
        let kind = pb::discount::Kind::Universal(pb::Universal { off_cents: 1 });
        let wire = pb::Rules {
            discount: Some(pb::Discount { kind: Some(kind) }),
            validity: Some(pb::Validity { utc_offset_minutes: 0, kind: Some(pb::validity::Kind::DaysFromClaim(1)) }),
            scope: Some(pb::Scope { kind: Some(pb::scope::Kind::All(pb::Everything {})) }),
            quota: Some(pb::Quota { per_user, per_user_day }),
            stacking: Some(pb::Stacking { kind: Some(pb::stacking::Kind::Alone(pb::Alone {})) }),
            budget: Some(pb::Budget { coupons: 100, cents: 100 }),
            claim: Some(pb::Period { start_ms: 1, end_ms: 2 }),
        };
        Rules::try_from(&wire).expect("they are sound")
    }

    fn said(code: Code, limit: u32, last: bool) -> Fault {
        code.fault([("limit", limit.to_string()), ("final", last.to_string())])
    }

    const WISH: Wish = Wish { template_id: 1, revision: 5, version: 1, user_id: 7, day: 100 };

    fn refused(known: &Known, wish: Wish, rules: &Rules) -> Option<Code> {
        known.refusal(wish, rules).map(|fault| fault.code)
    }

    #[test]
    fn only_what_is_final_is_remembered() {
        let (known, rules) = (Known::default(), rules(2, 2));
        for code in [Code::SoldOut, Code::PerUserLimit, Code::PerUserDayLimit] {
            known.learn(WISH, &said(code, 2, false));
        }
        assert_eq!(refused(&known, WISH, &rules), None, "a cancelled claim may still change it");
        known.learn(WISH, &said(Code::PerUserLimit, 2, true));
        assert_eq!(refused(&known, WISH, &rules), Some(Code::PerUserLimit));
        assert_eq!(refused(&known, Wish { user_id: 8, ..WISH }, &rules), None);
        assert_eq!(refused(&known, Wish { template_id: 2, ..WISH }, &rules), None);
    }

    #[test]
    fn sold_out_is_forgotten_with_the_next_revision_of_the_template() {
        let (known, rules) = (Known::default(), rules(2, 2));
        known.learn(WISH, &said(Code::SoldOut, 0, true));
        assert_eq!(refused(&known, Wish { user_id: 8, ..WISH }, &rules), Some(Code::SoldOut));
        assert_eq!(refused(&known, Wish { revision: 6, ..WISH }, &rules), None);
        assert_eq!(refused(&known, Wish { version: 2, ..WISH }, &rules), None, "each has its own budget");
    }

    #[test]
    fn a_limit_that_is_raised_and_a_day_that_is_over_refuse_no_more() {
        let known = Known::default();
        known.learn(WISH, &said(Code::PerUserLimit, 2, true));
        assert_eq!(refused(&known, WISH, &rules(3, 3)), None);
        assert_eq!(refused(&known, WISH, &rules(1, 1)), Some(Code::PerUserLimit));
        known.learn(WISH, &said(Code::PerUserDayLimit, 2, true));
        assert_eq!(refused(&known, WISH, &rules(9, 2)), Some(Code::PerUserDayLimit));
        assert_eq!(refused(&known, Wish { day: 101, ..WISH }, &rules(9, 2)), None);
    }
}
