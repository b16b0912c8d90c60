//! What is refused without asking anybody.
//!
//! A limit that a user has reached is remembered, since his claims never become fewer: the coupon service says whether
//! one is under way when he has all that he may have, and where there is, it may be cancelled yet, so nothing is.
//!
//! That a template is sold out is not, since units come back: of a batch that is ended, or by a person. Once stock has
//! said so, one claim at a time asks it, at most one every [`SOLD_OUT_GAP`], and whoever came before it was asked has
//! that answer too ([`Known::in_turn`]). So nobody is refused who did not come before stock had none, and however many
//! come, stock and the coordinator hear of few of them. A claim that takes longer than [`TURN_MAX`] may wait for its
//! own database: the next one asks meanwhile.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tercet_rules::{Code, Fault, Rules};

use super::limits::{OFFERS_MAX, REACHED_MAX, SOLD_OUT_GAP, TURN_MAX};

/// When stock was asked last, and had none; nothing when it had some again.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

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
    /// Of a template's version, at which revision.
    sold_out: Mutex<HashMap<(i64, u32), (u64, Turn)>>,
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

    /// Makes a claim, which asks stock: `ask` is told whether that may well be in vain, so that nothing else is to be
    /// asked before stock has answered. Or refuses it, by the answer to one that asked stock after this one came here.
    pub(super) async fn in_turn<T, F>(&self, wish: Wish, ask: impl FnOnce(bool) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let came = Instant::now();
        if let Some(turn) = self.turn(wish) {
            let mut last = turn.lock().await;
            match *last {
                Some(asked) if asked >= came => return Err(Code::SoldOut.fault([])),
                Some(asked) => {
                    tokio::time::sleep_until((asked + SOLD_OUT_GAP).into()).await;
                    let asked = Instant::now();
                    let mut asking = pin!(ask(true));
                    tokio::select! {
                        answer = &mut asking => {
                            *last = has_none(&answer).then_some(asked);
                            if last.is_none() {
                                // Those who wait for their turn need none.
                                self.forget(wish, &turn);
                            }
                            return answer;
                        }
                        () = tokio::time::sleep(TURN_MAX) => {}
                    }
                    drop(last);
                    let answer = asking.await;
                    if answer.is_ok() {
                        self.forget(wish, &turn);
                    }
                    return answer;
                }
                None => {}
            }
        }
        let asked = Instant::now();
        let answer = ask(false).await;
        if has_none(&answer) {
            self.sold_out(wish, asked);
        }
        answer
    }

    fn turn(&self, wish: Wish) -> Option<Turn> {
        let sold_out = self.sold_out.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, turn) = sold_out.get(&(wish.template_id, wish.version))?;
        (*revision == wish.revision).then(|| Arc::clone(turn))
    }

    fn sold_out(&self, wish: Wish, asked: Instant) {
        let mut sold_out = self.sold_out.lock().unwrap_or_else(PoisonError::into_inner);
        if sold_out.len() >= OFFERS_MAX {
            sold_out.clear();
        }
        let new = || (wish.revision, Arc::new(tokio::sync::Mutex::new(Some(asked))));
        let own = sold_out.entry((wish.template_id, wish.version)).or_insert_with(new);
        // One of this revision is being asked for.
        if own.0 < wish.revision {
            *own = new();
        }
    }

    fn forget(&self, wish: Wish, turn: &Turn) {
        let mut sold_out = self.sold_out.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (wish.template_id, wish.version);
        if sold_out.get(&key).is_some_and(|(_, own)| Arc::ptr_eq(own, turn)) {
            sold_out.remove(&key);
        }
    }

    /// Remembers why a claim was refused, if it will be refused again.
    pub(super) fn learn(&self, wish: Wish, fault: &Fault) {
        if fault.argument("final") != Some("true") {
            return;
        }
        let limit = fault.argument("limit").and_then(|limit| limit.parse::<u32>().ok());
        if let Some(limit) = limit {
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

/// Whether stock had none to give, and nobody held any.
fn has_none<T>(answer: &Result<T, Fault>) -> bool {
    let said = |fault: &Fault| fault.code == Code::SoldOut && fault.argument("final") == Some("true");
    answer.as_ref().is_err_and(said)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        for code in [Code::PerUserLimit, Code::PerUserDayLimit] {
            known.learn(WISH, &said(code, 2, false));
        }
        assert_eq!(refused(&known, WISH, &rules), None, "a cancelled claim may still change it");
        known.learn(WISH, &said(Code::PerUserLimit, 2, true));
        assert_eq!(refused(&known, WISH, &rules), Some(Code::PerUserLimit));
        assert_eq!(refused(&known, Wish { user_id: 8, ..WISH }, &rules), None);
        assert_eq!(refused(&known, Wish { template_id: 2, ..WISH }, &rules), None);
    }

    /// A stock, and how often it was asked: each time for a while.
    struct Stock {
        free: Mutex<u32>,
        asked: Mutex<Vec<bool>>,
    }

    impl Stock {
        async fn ask(&self, alone: bool) -> Result<(), Fault> {
            self.asked.lock().expect("nobody panics").push(alone);
            // What it has is decided while it is asked.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut free = self.free.lock().expect("nobody panics");
            *free = free.checked_sub(1).ok_or_else(|| said(Code::SoldOut, 0, true))?;
            Ok(())
        }

        async fn claim(&self, known: &Known, wish: Wish) -> Result<(), Code> {
            known.in_turn(wish, |alone| self.ask(alone)).await.map_err(|fault| fault.code)
        }
    }

    #[tokio::test]
    async fn of_many_who_want_what_is_sold_out_one_asks_and_whoever_comes_later_asks_again() {
        let (known, stock) = (Known::default(), Stock { free: Mutex::new(1), asked: Mutex::default() });
        let asked = || std::mem::take(&mut *stock.asked.lock().expect("nobody panics"));
        assert_eq!(stock.claim(&known, WISH).await, Ok(()));
        assert_eq!(stock.claim(&known, WISH).await, Err(Code::SoldOut));
        assert_eq!(asked(), [false, false]);
        let all = || futures_util::future::join_all((0..100).map(|_| stock.claim(&known, WISH)));
        assert_eq!(all().await, vec![Err(Code::SoldOut); 100]);
        // The others have its answer, those aside who came after it was asked.
        let alone = asked();
        assert!(alone.len() < 10 && alone.iter().all(|alone| *alone), "{alone:?}");
        // Of another revision or version nobody knows it.
        for wish in [Wish { revision: 6, ..WISH }, Wish { version: 2, ..WISH }] {
            assert_eq!(stock.claim(&known, wish).await, Err(Code::SoldOut));
        }
        assert_eq!(asked(), [false, false]);
        // As soon as there are some again nobody is refused for what was.
        let wish = Wish { revision: 6, ..WISH };
        *stock.free.lock().expect("nobody panics") = 3;
        let found = futures_util::future::join_all((0..5).map(|_| stock.claim(&known, wish))).await;
        assert_eq!(found.iter().filter(|answer| answer.is_ok()).count(), 3);
        let alone = asked();
        assert!(alone[0] && alone.len() == 5, "they ask side by side: {alone:?}");
    }

    #[tokio::test]
    async fn one_whose_database_hangs_keeps_nobody_from_what_is_there_again() {
        let known = Known::default();
        known.sold_out(WISH, Instant::now());
        let mut hangs = pin!(known.in_turn(WISH, |_| std::future::pending::<Result<(), Fault>>()));
        tokio::select! {
            biased;
            _ = &mut hangs => unreachable!("it hangs"),
            () = std::future::ready(()) => {}
        }
        let other = known.in_turn(WISH, |alone| std::future::ready(Ok::<_, Fault>(alone)));
        tokio::select! {
            _ = hangs => unreachable!("it hangs"),
            other = tokio::time::timeout(10 * TURN_MAX, other) => {
                assert!(other.expect("it is not held up").expect("there is one"), "it asks in its turn");
            }
        }
        let next = known.in_turn(WISH, |alone| std::future::ready(Ok::<_, Fault>(alone))).await;
        assert!(!next.expect("there is one"), "nobody needs a turn any more");
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
