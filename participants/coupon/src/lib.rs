//! The coupon service: who may have a coupon, and what it can be used for.
//!
//! A coupon goes from pending (its claim is under way) to issued, from there to locked by an order, and to used by it.
//! Its terms are those of its template on the day of the claim. Money is in cents.
//!
//! It declares no invariant: it keeps no levels. How many coupons of a template are reserved, issued and free stands in
//! the stock service, as an item of that template, and is watched there. A coupon here is one row whose every step asks
//! for the status before it, so a book of it would repeat the row, once for each coupon ever claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::time::Duration;

use prost::Message as _;
use sqlx::migrate::MigrateError;
use tercet::action::{Action, Message, Saga, Tcc};
use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, SliceCompensable, SliceParticipant, SliceReceiver};
use tercet::service::Service;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::Paid as PaidNotice;

pub mod store;

use store::{Claim as ClaimRow, Coupon, Move, Status, Store, Template, Totals};

/// The service's name.
pub const SERVICE: &str = "coupon";
/// Issues a coupon to a user, within the template's limit for each user.
pub const CLAIM: Action<Tcc, pb::Claim> = Action::tcc(SERVICE, "claim");
/// Uses a coupon for an order. Answers [`pb::Redeemed`].
pub const REDEEM: Action<Tcc, pb::Redeem> = Action::tcc(SERVICE, "redeem");
/// Gives a used coupon back to its user, as the last step of a refund.
pub const GIVE_BACK: Action<Saga, pb::GiveBack> = Action::saga(SERVICE, "give_back");
/// Is told that an order was paid.
pub const PAID: Action<Message, PaidNotice> = Action::message(SERVICE, "paid");

/// How long a compensation waits for a coupon that another order holds for the moment.
const LOCKED_DELAY: Duration = Duration::from_secs(1);

/// The service over this database, whose tables are made where they are missing.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Store + Dialect>(pool: sqlx::Pool<Db>) -> Result<Service<Db>, MigrateError> {
    Db::migrate(&pool).await?;
    Ok(Service::new(SERVICE, [pool])
        .tables(&["coupon", "template", "user_template", "paid_notice"])
        .tcc_slice(CLAIM, Claim(PhantomData))
        .tcc_slice(REDEEM, Redeem(PhantomData))
        .saga_slice(GIVE_BACK, GiveBack(PhantomData))
        .receiver_slice(PAID, Paid(PhantomData)))
}

/// Creates templates. One that exists takes the new terms; coupons keep theirs.
///
/// # Errors
/// The database's.
pub async fn seed_templates<Db: Store>(pool: &sqlx::Pool<Db>, templates: &[Template]) -> sqlx::Result<()> {
    Db::put_templates(&mut *pool.acquire().await?, templates).await
}

/// Issues coupons of templates that exist, past the limit for each user.
///
/// # Errors
/// The database's; `RowNotFound` when a template does not exist.
pub async fn seed_coupons<Db: Store>(pool: &sqlx::Pool<Db>, coupons: &[ClaimRow]) -> sqlx::Result<()> {
    let mut db_tx = pool.begin().await?;
    Db::insert(&mut db_tx, coupons, Status::Issued).await?;
    db_tx.commit().await
}

/// The coupons by status. `miscounted` is 0 at any time, and so is `over_limit` unless a limit was lowered.
///
/// # Errors
/// The database's.
pub async fn audit<Db: Store>(pool: &sqlx::Pool<Db>) -> sqlx::Result<Totals> {
    Db::totals(&mut *pool.acquire().await?).await
}

/// Every used coupon with its order, by coupon.
///
/// # Errors
/// The database's.
pub async fn used<Db: Store>(pool: &sqlx::Pool<Db>) -> sqlx::Result<Vec<(i64, i64)>> {
    Db::used(&mut *pool.acquire().await?).await
}

/// The first of these fields that is below its least value, in words.
fn fault<const N: usize>(fields: [(&str, i64, i64); N]) -> Option<String> {
    let (name, value, least) = fields.into_iter().find(|(_, value, least)| value < least)?;
    Some(format!("{name} is {value}: it is at least {least}"))
}

/// [`CLAIM`].
#[derive(Debug)]
pub struct Claim<Db>(pub PhantomData<fn() -> Db>);

fn claim_row(op: &Op<pb::Claim>) -> ClaimRow {
    let pb::Claim { coupon_id, template_id, user_id } = op.request;
    ClaimRow { coupon_id, template_id, user_id }
}

fn claim_fault(request: &pb::Claim) -> Option<String> {
    fault([
        ("coupon_id", request.coupon_id, 1),
        ("template_id", request.template_id, 1),
        ("user_id", request.user_id, 1),
    ])
}

impl<Db: Store + Dialect> SliceParticipant for Claim<Db> {
    type Db = Db;
    type Request = pb::Claim;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        let rows: Vec<ClaimRow> = operations.iter().map(claim_row).collect();
        let standings = Db::standings(db_tx, &rows).await?;
        let (mut granted, mut ids, mut claimed) = (Vec::new(), BTreeSet::new(), BTreeMap::<_, i64>::new());
        let mut answers = Vec::with_capacity(rows.len());
        for ((op, row), standing) in operations.iter().zip(rows).zip(standings) {
            // What the slice granted before counts too.
            let claimed = claimed.entry((row.user_id, row.template_id)).or_default();
            let refusal = match (claim_fault(&op.request), standing.per_user_limit) {
                (Some(fault), _) => Some(fault),
                (None, None) => Some(format!("template {} does not exist", row.template_id)),
                (None, Some(limit)) if standing.claimed + *claimed >= limit => {
                    Some(format!("user {} has {limit} of template {}: that is its limit", row.user_id, row.template_id))
                }
                (None, Some(_)) if standing.exists || ids.contains(&row.coupon_id) => {
                    Some(format!("coupon {} exists", row.coupon_id))
                }
                (None, Some(_)) => None,
            };
            if refusal.is_none() {
                *claimed += 1;
                ids.insert(row.coupon_id);
                granted.push(row);
            }
            answers.push(refusal.map_or_else(Answer::done, Answer::refused));
        }
        Db::insert(db_tx, &granted, Status::Pending).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        let issue = |op: &Op<pb::Claim>| Move {
            coupon_id: op.request.coupon_id,
            from: Status::Pending,
            to: Status::Issued,
            order_id: None,
        };
        advance_all::<Db, _>(db_tx, operations, issue).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Claim>]) -> sqlx::Result<Vec<Answer>> {
        let rows: Vec<ClaimRow> = operations.iter().map(claim_row).collect();
        Db::delete(db_tx, &rows).await?;
        Ok(vec![Answer::done(); operations.len()])
    }
}

async fn advance_all<Db: Store, R>(
    db_tx: &mut DbTx<Db>,
    operations: &[Op<R>],
    step: fn(&Op<R>) -> Move,
) -> sqlx::Result<Vec<Answer>> {
    let moves: Vec<Move> = operations.iter().map(step).collect();
    Db::advance(db_tx, &moves).await?;
    Ok(vec![Answer::done(); operations.len()])
}

/// The coupons of one slice as its operations find them, each after those before it.
struct Slice {
    coupons: BTreeMap<i64, Coupon>,
    moves: Vec<Move>,
}

impl Slice {
    async fn load<Db: Store>(db_tx: &mut DbTx<Db>, ids: impl Iterator<Item = i64>) -> sqlx::Result<Self> {
        let ids: Vec<i64> = ids.collect::<BTreeSet<i64>>().into_iter().collect();
        let coupons = Db::coupons(db_tx, &ids).await?.into_iter().map(|coupon| (coupon.coupon_id, coupon)).collect();
        Ok(Self { coupons, moves: Vec::new() })
    }

    fn get(&self, coupon_id: i64) -> Option<&Coupon> {
        self.coupons.get(&coupon_id)
    }

    /// At most once for each coupon: two steps of one would be two rows for one UPDATE.
    fn advance(&mut self, coupon_id: i64, to: Status, order_id: Option<i64>) {
        let Some(coupon) = self.coupons.get_mut(&coupon_id) else { return };
        self.moves.push(Move { coupon_id, from: coupon.status, to, order_id });
        (coupon.status, coupon.order_id) = (to, order_id);
    }
}

/// [`REDEEM`].
#[derive(Debug)]
pub struct Redeem<Db>(pub PhantomData<fn() -> Db>);

/// Why this coupon can not be used for that order.
fn redeem_fault(request: &pb::Redeem, coupon: Option<&Coupon>) -> Option<String> {
    let &pb::Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents } = request;
    let fault = fault([
        ("coupon_id", coupon_id, 1),
        ("user_id", user_id, 1),
        ("order_id", order_id, 1),
        ("amount_cents", amount_cents, 0),
    ]);
    let Some(coupon) = coupon else { return fault.or_else(|| Some(format!("coupon {coupon_id} does not exist"))) };
    fault.or_else(|| {
        Some(match coupon.status {
            _ if coupon.user_id != user_id => format!("coupon {coupon_id} is not user {user_id}'s"),
            Status::Pending => format!("coupon {coupon_id} is not issued yet"),
            Status::Locked | Status::Used => format!("coupon {coupon_id} is taken by another order"),
            Status::Issued if coupon.expired => format!("coupon {coupon_id} has expired"),
            Status::Issued if amount_cents < coupon.minimum_spend_cents => {
                format!("amount_cents is {amount_cents}: it is at least {}", coupon.minimum_spend_cents)
            }
            Status::Issued if discount_cents.is_some_and(|promised| promised != coupon.discount_cents) => {
                format!("discount_cents is not what coupon {coupon_id} takes off: {}", coupon.discount_cents)
            }
            Status::Issued => return None,
        })
    })
}

impl<Db: Store + Dialect> SliceParticipant for Redeem<Db> {
    type Db = Db;
    type Request = pb::Redeem;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db>(db_tx, operations.iter().map(|op| op.request.coupon_id)).await?;
        let mut answers = Vec::with_capacity(operations.len());
        for Op { request, .. } in operations {
            let coupon = slice.get(request.coupon_id);
            answers.push(match (redeem_fault(request, coupon), coupon) {
                (None, Some(coupon)) => {
                    let redeemed = pb::Redeemed { discount_cents: coupon.discount_cents };
                    slice.advance(request.coupon_id, Status::Locked, Some(request.order_id));
                    Answer::done_with(redeemed.encode_to_vec())
                }
                (fault, _) => Answer::refused(fault.unwrap_or_default()),
            });
        }
        Db::advance(db_tx, &slice.moves).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let mark_used = |op: &Op<pb::Redeem>| Move {
            coupon_id: op.request.coupon_id,
            from: Status::Locked,
            to: Status::Used,
            order_id: Some(op.request.order_id),
        };
        advance_all::<Db, _>(db_tx, operations, mark_used).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let release = |op: &Op<pb::Redeem>| Move {
            coupon_id: op.request.coupon_id,
            from: Status::Locked,
            to: Status::Issued,
            order_id: None,
        };
        advance_all::<Db, _>(db_tx, operations, release).await
    }
}

/// [`GIVE_BACK`].
#[derive(Debug)]
pub struct GiveBack<Db>(pub PhantomData<fn() -> Db>);

impl<Db: Store + Dialect> SliceCompensable for GiveBack<Db> {
    type Db = Db;
    type Request = pb::GiveBack;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::GiveBack>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db>(db_tx, operations.iter().map(|op| op.request.coupon_id)).await?;
        let mut give_back = |&pb::GiveBack { coupon_id, order_id }: &pb::GiveBack| {
            let used = |coupon: &Coupon| coupon.status == Status::Used && coupon.order_id == Some(order_id);
            if !slice.get(coupon_id).is_some_and(used) {
                return Answer::refused(format!("order {order_id} did not use coupon {coupon_id}"));
            }
            slice.advance(coupon_id, Status::Issued, None);
            Answer::done()
        };
        let answers = operations.iter().map(|op| give_back(&op.request)).collect();
        Db::advance(db_tx, &slice.moves).await?;
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::GiveBack>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db>(db_tx, operations.iter().map(|op| op.request.coupon_id)).await?;
        let mut take = |&pb::GiveBack { coupon_id, order_id }: &pb::GiveBack| match slice.get(coupon_id) {
            Some(Coupon { status: Status::Issued, .. }) => {
                slice.advance(coupon_id, Status::Used, Some(order_id));
                Answer::done()
            }
            Some(Coupon { status: Status::Locked, .. }) => Answer::not_now(LOCKED_DELAY),
            // Its user was quicker. A person has to say who pays.
            Some(Coupon { status: Status::Pending | Status::Used, .. }) | None => {
                Answer::refused(format!("coupon {coupon_id} is used for another order than {order_id}"))
            }
        };
        let answers = operations.iter().map(|op| take(&op.request)).collect();
        Db::advance(db_tx, &slice.moves).await?;
        Ok(answers)
    }
}

/// [`PAID`].
#[derive(Debug)]
pub struct Paid<Db>(pub PhantomData<fn() -> Db>);

impl<Db: Store + Dialect> SliceReceiver for Paid<Db> {
    type Db = Db;
    type Request = PaidNotice;

    async fn deliver(&self, db_tx: &mut DbTx<Db>, operations: &[Op<PaidNotice>]) -> sqlx::Result<Vec<Answer>> {
        let (mut rows, mut answers) = (Vec::new(), Vec::with_capacity(operations.len()));
        for op in operations {
            let PaidNotice { order_id, user_id, paid_cents } = op.request;
            let fault = fault([("order_id", order_id, 1), ("user_id", user_id, 1), ("paid_cents", paid_cents, 0)]);
            if fault.is_none() {
                rows.push((order_id, user_id, paid_cents));
            }
            answers.push(fault.map_or_else(Answer::done, Answer::refused));
        }
        rows.sort_unstable();
        Db::note_paid(db_tx, &rows).await?;
        Ok(answers)
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
