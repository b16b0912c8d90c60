//! A coupon for a user, within his limits.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, Place, SliceParticipant};
use tercet_events::outbox::Outbox;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::Code;
use tercet_shards::Slot;

use crate::slots::Slots;
use crate::store::{self, Move, Standing, Status, Store};
use crate::{fault, told};

/// More than the coordinator's clock and a database's ever differ.
const CLOCKS_DIFFER_MS: u64 = 86_400_000;

/// [`CLAIM`](crate::CLAIM). A claim that is refused for a limit says `final=true` when no claim of its user and
/// template is under way: then only a cancelled claim could have changed the answer, and there is none to cancel.
#[derive(Debug)]
pub struct Claim<Db> {
    slots: Arc<Slots>,
    outbox: Outbox,
    db: PhantomData<fn() -> Db>,
}

impl<Db> Claim<Db> {
    /// With rows where these slots are.
    pub fn new(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), outbox: Outbox::off(), db: PhantomData }
    }

    /// Tells there what it does.
    #[must_use]
    pub fn telling(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }
}

fn claim_fault(claim: &pb::Claim) -> Option<String> {
    if let Some(fault) = fault([
        ("coupon_id", claim.coupon_id, 1),
        ("template_id", claim.template_id, 1),
        ("user_id", claim.user_id, 1),
        ("version", claim.version.into(), 1),
        ("valid_until_ms", claim.valid_until_ms, claim.valid_from_ms),
        ("key", claim.key, 0),
    ]) {
        return Some(fault);
    }
    // Nobody would find it.
    let misplaced = Slot::of_id(claim.coupon_id) != Slot::of_user(claim.user_id);
    misplaced.then(|| format!("coupon_id is {}: it does not carry the slot of user {}", claim.coupon_id, claim.user_id))
}

/// Whether a coupon may have ended before it is issued. No call is made after its `not_after`, and clocks differ less.
fn may_have_ended(op: &Op<pb::Claim>) -> bool {
    let certain_ms = op.context.not_after_ms.saturating_add(CLOCKS_DIFFER_MS);
    u64::try_from(op.request.valid_until_ms).is_ok_and(|until_ms| until_ms <= certain_ms)
}

/// What a slice has granted to a user of a template so far.
#[derive(Default)]
struct Granted {
    claims: i64,
    /// The latest of their days, and how many of it.
    day: i64,
    today: i64,
}

impl Granted {
    /// Which limit one more claim would break.
    fn limit(&self, claim: &pb::Claim, standing: &Standing) -> Option<(Code, u32)> {
        let day = claim.day.max(standing.day).max(self.day);
        let today = if standing.day == day { standing.today } else { 0 } + if self.day == day { self.today } else { 0 };
        if standing.claimed + self.claims >= claim.per_user.into() {
            Some((Code::PerUserLimit, claim.per_user))
        } else if today >= claim.per_user_day.into() {
            Some((Code::PerUserDayLimit, claim.per_user_day))
        } else {
            None
        }
    }

    fn add(&mut self, claim: &pb::Claim, standing: &Standing) {
        let day = claim.day.max(standing.day).max(self.day);
        if day != self.day {
            (self.day, self.today) = (day, 0);
        }
        (self.claims, self.today) = (self.claims + 1, self.today + 1);
    }
}

/// What becomes of one claim.
enum Verdict {
    Granted,
    Refused(String),
    /// The user has this coupon by the same key.
    Repeated(i64),
    Limited(Code, u32),
}

/// Decides about the claims of a slice that have no fault, each after those before it.
fn decide(claims: &[pb::Claim], standings: &[Standing]) -> Vec<Verdict> {
    let (mut ids, mut granted) = (BTreeSet::new(), BTreeMap::<(i64, i64), Granted>::new());
    let mut keys = BTreeMap::<(i64, i64), i64>::new();
    let mut one = |(claim, standing): (&pb::Claim, &Standing)| {
        // Before any limit, which the claim that has the key may have reached.
        let named = (claim.user_id, claim.key);
        let before = Some(standing.keyed).filter(|keyed| *keyed != 0).or_else(|| keys.get(&named).copied());
        if let Some(coupon_id) = before {
            return Verdict::Repeated(coupon_id);
        }
        let so_far = granted.entry((claim.user_id, claim.template_id)).or_default();
        if let Some((code, limit)) = so_far.limit(claim, standing) {
            return Verdict::Limited(code, limit);
        }
        if standing.exists || !ids.insert(claim.coupon_id) {
            return Verdict::Refused(format!("coupon {} exists", claim.coupon_id));
        }
        so_far.add(claim, standing);
        if claim.key != 0 {
            keys.insert(named, claim.coupon_id);
        }
        Verdict::Granted
    };
    claims.iter().zip(standings).map(&mut one).collect()
}

impl<Db: Store + Dialect> SliceParticipant for Claim<Db> {
    type Db = Db;
    type Request = pb::Claim;

    fn place(&self, request: &pb::Claim) -> Option<Place> {
        self.slots.place(Slot::of_id(request.coupon_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        // A claim with a fault touches nothing: not even the counters, which would be made to be locked.
        let faults: Vec<Option<String>> = operations.iter().map(|op| claim_fault(&op.request)).collect();
        let sound = operations.iter().zip(&faults).filter(|(_, fault)| fault.is_none());
        let claims: Vec<pb::Claim> = sound.map(|(op, _)| op.request).collect();
        let standings = store::standings::<Db>(db_tx, self.slots.map(), &claims).await?;
        let verdicts = decide(&claims, &standings);
        let of = |wanted: fn(&Verdict) -> bool| {
            claims.iter().zip(&verdicts).filter(move |(_, verdict)| wanted(verdict)).map(|(claim, _)| *claim)
        };
        let granted: Vec<pb::Claim> = of(|verdict| matches!(verdict, Verdict::Granted)).collect();
        if !granted.is_empty() {
            store::insert::<Db>(db_tx, self.slots.map(), &granted, Status::Pending).await?;
        }
        let limited = of(|verdict| matches!(verdict, Verdict::Limited(..)));
        let limited: BTreeSet<i64> = limited.map(|claim| claim.user_id).collect();
        let mut pending = Vec::new();
        if !limited.is_empty() {
            let users: Vec<i64> = limited.into_iter().collect();
            pending = store::pending::<Db>(db_tx, self.slots.map(), &users).await?;
        }
        let answer = |(claim, verdict): (&pb::Claim, &Verdict)| match verdict {
            Verdict::Granted => Answer::done(),
            Verdict::Refused(reason) => Answer::refused(reason),
            Verdict::Repeated(coupon_id) => {
                Answer::refused(Code::KeyReused.fault([("coupon_id", coupon_id.to_string())]).reason())
            }
            Verdict::Limited(code, limit) => {
                let last = !pending.contains(&(claim.user_id, claim.template_id));
                let arguments = [("limit", limit.to_string()), ("final", last.to_string())];
                Answer::refused(code.fault(arguments).reason())
            }
        };
        let mut answers = claims.iter().zip(&verdicts).map(answer);
        let answers = faults.into_iter().map(|fault| match fault {
            Some(fault) => Some(Answer::refused(fault)),
            None => answers.next(),
        });
        Ok(answers.flatten().collect())
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        let (from, to) = (Status::Pending, Status::Issued);
        let issue = |op: &Op<pb::Claim>| Move { coupon_id: op.request.coupon_id, from, to, order: None };
        let moves: Vec<Move> = operations.iter().map(issue).collect();
        store::advance::<Db>(db_tx, self.slots.map(), &moves).await?;
        if self.outbox.is_on() {
            let mut events: Vec<_> = operations.iter().map(|op| told::issued(&op.request).by(op)).collect();
            let close: Vec<_> =
                operations.iter().filter(|op| may_have_ended(op)).map(|op| op.request.coupon_id).collect();
            events.extend(told::expired_instead::<Db>(db_tx, self.slots.map(), &close).await?);
            self.outbox.append::<Db>(db_tx, events).await?;
        }
        Ok(vec![Answer::done(); operations.len()])
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        let claims: Vec<pb::Claim> = operations.iter().map(|op| op.request).collect();
        store::delete::<Db>(db_tx, self.slots.map(), &claims).await?;
        Ok(vec![Answer::done(); operations.len()])
    }
}
