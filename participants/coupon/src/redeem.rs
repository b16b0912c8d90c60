//! A coupon used for an order, and given back by its refund.
//!
//! What it takes off is decided by whoever asks, from the rules of the coupon's template and version, which never
//! change; it is kept with the coupon. Whose it is, whether it is free and whether it is its time is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, Place, SliceCompensable, SliceParticipant};
use tercet_events::outbox::Outbox;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Code, Fault};
use tercet_shards::{ShardMap, Slot};

use crate::slots::Slots;
use crate::store::{self, Coupon, Move, Order, Status, Store};
use crate::{fault, told};

/// How long a compensation waits for a coupon that another order holds for the moment.
pub(crate) const LOCKED_DELAY: Duration = Duration::from_secs(1);

/// The coupons of one slice as its operations find them, each after those before it.
struct Slice {
    coupons: BTreeMap<i64, (Coupon, i64)>,
    moves: Vec<Move>,
}

impl Slice {
    async fn load<Db: Store>(
        db_tx: &mut DbTx<Db>,
        map: &ShardMap,
        ids: impl Iterator<Item = i64>,
    ) -> sqlx::Result<Self> {
        let ids: Vec<i64> = ids.collect::<BTreeSet<i64>>().into_iter().collect();
        let coupons = store::coupons::<Db>(db_tx, map, &ids).await?;
        let coupons = coupons.into_iter().map(|(coupon, now_ms)| (coupon.coupon_id, (coupon, now_ms))).collect();
        Ok(Self { coupons, moves: Vec::new() })
    }

    /// The coupon, and the database's clock.
    fn get(&self, coupon_id: i64) -> Option<&(Coupon, i64)> {
        self.coupons.get(&coupon_id)
    }

    /// At most once for each coupon: two steps of one would be two rows for one UPDATE.
    fn advance(&mut self, coupon_id: i64, to: Status, order: Option<Order>) {
        let Some((coupon, _)) = self.coupons.get_mut(&coupon_id) else { return };
        self.moves.push(Move { coupon_id, from: coupon.status, to, order });
        (coupon.status, coupon.order) = (to, order);
    }

    async fn write<Db: Store>(&self, db_tx: &mut DbTx<Db>, map: &ShardMap) -> sqlx::Result<()> {
        if self.moves.is_empty() { Ok(()) } else { store::advance::<Db>(db_tx, map, &self.moves).await }
    }
}

/// [`REDEEM`](crate::REDEEM).
#[derive(Debug)]
pub struct Redeem<Db> {
    slots: Arc<Slots>,
    outbox: Outbox,
    db: PhantomData<fn() -> Db>,
}

impl<Db> Redeem<Db> {
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

fn order_of(&pb::Redeem { shop_id, order_id, discount_cents, .. }: &pb::Redeem) -> Order {
    Order { shop_id, order_id, discount_cents }
}

/// Why an order does not get a coupon.
fn redeem_fault(request: &pb::Redeem, found: Option<&(Coupon, i64)>) -> Option<String> {
    let &pb::Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents, .. } = request;
    let fields = [
        ("order_id", order_id, 1),
        ("discount_cents", discount_cents, 0),
        ("amount_cents", amount_cents, discount_cents),
    ];
    if let Some(fault) = fault(fields) {
        return Some(fault);
    }
    let Some((coupon, now_ms)) = found.filter(|(coupon, _)| coupon.user_id == user_id) else {
        return Some(Code::NotFound.fault([("what", "coupon".into()), ("id", coupon_id.to_string())]).reason());
    };
    unusable(coupon, *now_ms).map(|fault| fault.reason())
}

/// Why a coupon can not be used now, whatever for.
pub(crate) fn unusable(coupon: &Coupon, now_ms: i64) -> Option<Fault> {
    let coupon_id = coupon.coupon_id;
    let at = |at_ms: i64| [("at_ms", at_ms.to_string()), ("coupon_id", coupon_id.to_string())];
    let taken = |status: &str| {
        let arguments = [("coupon_id", coupon_id.to_string()), ("status", status.to_owned())];
        Some(Code::CouponTaken.fault(arguments))
    };
    match coupon.status {
        Status::Pending => taken("claiming"),
        Status::Locked => taken("locked"),
        Status::Used => taken("used"),
        Status::Expired => Some(Code::Expired.fault(at(coupon.valid_until_ms))),
        Status::Voided => Some(Code::CouponVoided.fault([("coupon_id", coupon_id.to_string())])),
        Status::Issued if coupon.valid_until_ms <= now_ms => Some(Code::Expired.fault(at(coupon.valid_until_ms))),
        Status::Issued if coupon.valid_from_ms > now_ms => Some(Code::NotYetValid.fault(at(coupon.valid_from_ms))),
        Status::Issued => None,
    }
}

/// Whose order it is, in words; nothing where it is one of one thing.
fn shop(shop_id: i64) -> String {
    if shop_id == 0 { String::new() } else { format!(" of shop {shop_id}") }
}

async fn advance_all<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    operations: &[Op<pb::Redeem>],
    step: fn(&pb::Redeem) -> Move,
) -> sqlx::Result<Vec<Answer>> {
    let moves: Vec<Move> = operations.iter().map(|op| step(&op.request)).collect();
    store::advance::<Db>(db_tx, map, &moves).await?;
    Ok(vec![Answer::done(); operations.len()])
}

impl<Db: Store + Dialect> SliceParticipant for Redeem<Db> {
    type Db = Db;
    type Request = pb::Redeem;

    fn place(&self, request: &pb::Redeem) -> Option<Place> {
        self.slots.place(Slot::of_id(request.coupon_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let ids = operations.iter().map(|op| op.request.coupon_id);
        let mut slice = Slice::load::<Db>(db_tx, self.slots.map(), ids).await?;
        let mut lock = |request: &pb::Redeem| match redeem_fault(request, slice.get(request.coupon_id)) {
            Some(fault) => Answer::refused(fault),
            None => {
                slice.advance(request.coupon_id, Status::Locked, Some(order_of(request)));
                Answer::done()
            }
        };
        let answers = operations.iter().map(|op| lock(&op.request)).collect();
        slice.write::<Db>(db_tx, self.slots.map()).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let mark_used = |request: &pb::Redeem| Move {
            coupon_id: request.coupon_id,
            from: Status::Locked,
            to: Status::Used,
            order: Some(order_of(request)),
        };
        let answers = advance_all::<Db>(db_tx, self.slots.map(), operations, mark_used).await?;
        if self.outbox.is_on() {
            // What each was claimed under is in no request.
            let ids = operations.iter().map(|op| op.request.coupon_id);
            let slice = Slice::load::<Db>(db_tx, self.slots.map(), ids).await?;
            let used = operations.iter().filter_map(|op| {
                let (coupon, _) = slice.get(op.request.coupon_id)?;
                Some(told::used(coupon, &op.request).by(op))
            });
            self.outbox.append::<Db>(db_tx, used.collect::<Vec<_>>()).await?;
        }
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Redeem>]) -> sqlx::Result<Vec<Answer>> {
        let release = |request: &pb::Redeem| Move {
            coupon_id: request.coupon_id,
            from: Status::Locked,
            to: Status::Issued,
            order: None,
        };
        let answers = advance_all::<Db>(db_tx, self.slots.map(), operations, release).await?;
        if self.outbox.is_on() {
            let ids: Vec<i64> = operations.iter().map(|op| op.request.coupon_id).collect();
            let expired = told::expired_instead::<Db>(db_tx, self.slots.map(), &ids).await?;
            self.outbox.append::<Db>(db_tx, expired).await?;
        }
        Ok(answers)
    }
}

/// [`GIVE_BACK`](crate::GIVE_BACK). Answers what the coupon took off, for its compensation.
#[derive(Debug)]
pub struct GiveBack<Db> {
    slots: Arc<Slots>,
    outbox: Outbox,
    db: PhantomData<fn() -> Db>,
}

impl<Db> GiveBack<Db> {
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

impl<Db: Store + Dialect> SliceCompensable for GiveBack<Db> {
    type Db = Db;
    type Request = pb::GiveBack;

    fn place(&self, request: &pb::GiveBack) -> Option<Place> {
        self.slots.place(Slot::of_id(request.coupon_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::GiveBack>]) -> sqlx::Result<Vec<Answer>> {
        let ids = operations.iter().map(|op| op.request.coupon_id);
        let mut slice = Slice::load::<Db>(db_tx, self.slots.map(), ids).await?;
        let mut events = Vec::new();
        let mut give_back = |op: &Op<pb::GiveBack>| {
            let pb::GiveBack { coupon_id, shop_id, order_id, discount_cents, .. } = op.request;
            let order = Some(Order { shop_id, order_id, discount_cents });
            let used = |coupon: &Coupon| coupon.status == Status::Used && coupon.order == order;
            let Some(coupon) = slice.get(coupon_id).map(|found| found.0).filter(used) else {
                let of = shop(shop_id);
                return Answer::refused(format!(
                    "order {order_id}{of} did not use coupon {coupon_id} for {discount_cents}"
                ));
            };
            slice.advance(coupon_id, Status::Issued, None);
            events.push(told::given_back(&coupon, &op.request).by(op));
            Answer::done()
        };
        let answers = operations.iter().map(&mut give_back).collect();
        slice.write::<Db>(db_tx, self.slots.map()).await?;
        if self.outbox.is_on() {
            let ids: Vec<i64> = slice.moves.iter().map(|step| step.coupon_id).collect();
            events.extend(told::expired_instead::<Db>(db_tx, self.slots.map(), &ids).await?);
            self.outbox.append::<Db>(db_tx, events).await?;
        }
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::GiveBack>]) -> sqlx::Result<Vec<Answer>> {
        let ids = operations.iter().map(|op| op.request.coupon_id);
        let mut slice = Slice::load::<Db>(db_tx, self.slots.map(), ids).await?;
        let mut events = Vec::new();
        let mut take = |op: &Op<pb::GiveBack>| {
            let pb::GiveBack { coupon_id, shop_id, order_id, discount_cents, .. } = op.request;
            match slice.get(coupon_id).map(|(coupon, _)| (coupon.status, *coupon)) {
                // One that was voided meanwhile too: the order kept what it took off, and since its time has ended with
                // the void, nobody can use it again.
                Some((Status::Issued | Status::Expired | Status::Voided, coupon)) => {
                    slice.advance(coupon_id, Status::Used, Some(Order { shop_id, order_id, discount_cents }));
                    events.push(told::used_again(&coupon, &op.request).by(op));
                    Answer::done()
                }
                Some((Status::Locked, _)) => Answer::not_now(LOCKED_DELAY),
                // Its user was quicker. A person has to say who pays.
                Some((Status::Pending | Status::Used, _)) | None => {
                    let of = shop(shop_id);
                    Answer::refused(format!("coupon {coupon_id} is used for another order than {order_id}{of}"))
                }
            }
        };
        let answers = operations.iter().map(&mut take).collect();
        slice.write::<Db>(db_tx, self.slots.map()).await?;
        self.outbox.append::<Db>(db_tx, events).await?;
        Ok(answers)
    }
}
