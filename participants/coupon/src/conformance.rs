//! Each action for the conformance suite: on SQLite in this crate's tests, on MariaDB in `integration`. On four tables,
//! since a slice is a statement for each.

use sqlx::Pool;
use tercet::action::{Action, Message, Request, Saga, Tcc};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::Paid;
use tercet_shards::{ShardMap, Slot};
use tercet_testing::{Database, Mode, Suite};

use super::store::batches::State::{Ending, Opening, Running};
use super::store::batches::{Batch, Batches};
use super::store::redemptions::{Change, Redemption, Redemptions, State, Step};
use super::store::{self, Move, Order, Status, Store, Totals};
use super::{
    CLAIM, CLOSE, GIVE_BACK, HONOUR, OPEN, OWED, PAID, REDEEM, Shards, TAKE_BACK, audit, claim_by_hand, seed_coupons,
    service,
};

fn shards<Db: Store + Database>(pool: Pool<Db>) -> Shards<Db> {
    let map = ShardMap::even(1, 4).expect("the counts are within their limits");
    Shards::new(map, vec![pool]).expect("it is one database")
}

fn id(number: i64, user_id: i64) -> i64 {
    Slot::of_user(user_id).id(number)
}

/// Of template 1, two for each user. Of user 7 coupons 1 and 2 are issued; of user 8 coupons 3 and 4 are used, by
/// orders 103 and 104, for 500. Of its redemptions 1 and 2 are kept, and 3 and 4 are done. 5 to 7 came to nothing, of
/// which 5 and 6 are for the orders of 3 and 4.
async fn rows<Db: Redemptions + Database>(pool: Pool<Db>) -> sqlx::Result<()> {
    let shards = shards(pool.clone());
    let coupon = |number, user_id| claim_by_hand(number, user_id, 1, 2);
    seed_coupons(&shards, &[coupon(1, 7), coupon(2, 7), coupon(3, 8), coupon(4, 8)]).await?;
    let mut db_tx = pool.begin().await?;
    for (from, to) in [(Status::Issued, Status::Locked), (Status::Locked, Status::Used)] {
        let step = |number| Move { coupon_id: id(number, 8), from, to, order: Some(used_by(100 + number)) };
        let steps = [3, 4].map(step);
        store::advance::<Db>(&mut db_tx, shards.map(), &steps).await?;
    }
    for number in 1..=4 {
        Db::change(&mut db_tx, id(number, 8), Change::Keep(&redemption(number), 60_000), 0).await?;
    }
    for (number, order_id) in [(5, 103), (6, 104), (7, 107)] {
        let own = Redemption { order_id, ..redemption(number) };
        Db::change(&mut db_tx, own.redemption_id, Change::Keep(&own, 60_000), 0).await?;
        Db::change(&mut db_tx, own.redemption_id, Change::GiveUp("SYSTEM_BUSY"), 0).await?;
    }
    for (from, to) in [(State::Kept, State::Submitted), (State::Submitted, State::Done)] {
        let step = |number| Step { redemption_id: id(number, 8), from, to, attempt: None, refund: None };
        Db::step(&mut db_tx, &[step(3), step(4)]).await?;
    }
    db_tx.commit().await
}

fn used_by(order_id: i64) -> Order {
    Order { shop_id: 9, order_id, discount_cents: 500 }
}

fn redemption(number: i64) -> Redemption {
    Redemption::kept(id(number, 8), 8, (9, 100 + number), number.to_string())
}

async fn counted<Db: Store + Database>(pool: Pool<Db>) -> Result<(), String> {
    let totals = audit(&shards(pool)).await.map_err(|error| error.to_string())?;
    let Totals { miscounted, over_limit, .. } = totals;
    if (miscounted, over_limit) == (0, 0) { Ok(()) } else { Err(format!("{totals:?}")) }
}

fn suite<Db: Batches + Redemptions + Database, M: Mode, R: Request>(action: Action<M, R>) -> Suite<Db, M, R> {
    let make = |pool| service::<Db>(shards(pool), None);
    Suite::new(action, make).seed(rows::<Db>).invariant(counted::<Db>).ignoring(&[
        "used_ms",
        "started_ms",
        "due_ms",
        "created_ms",
        "ended_ms",
        "refunded_ms",
        "refund_xid",
        // Whatever happens to a coupon raises it.
        "step",
    ])
}

pub(crate) fn claim<Db: Batches + Redemptions + Database>() -> Suite<Db, Tcc, pb::Claim> {
    let claim = |number, template_id, user_id| claim_by_hand(number, user_id, template_id, 2);
    let misplaced = pb::Claim { coupon_id: id(16, 9) + 1, ..claim(16, 2, 9) };
    // The row that counts a user's claims stays, with one claim less.
    suite(CLAIM)
        .granting([claim(11, 1, 9), claim(12, 1, 10), claim(13, 1, 9)])
        .refusing([claim(14, 1, 9), claim(12, 1, 10), claim(15, 1, 7), misplaced, claim(17, 0, 9)])
        .cancel_leaves_traces_in(&["claimed_000", "claimed_001", "claimed_002", "claimed_003"])
}

pub(crate) fn redeem<Db: Batches + Redemptions + Database>() -> Suite<Db, Tcc, pb::Redeem> {
    let redeem = |coupon_id, user_id, order_id| pb::Redeem {
        coupon_id,
        user_id,
        order_id,
        amount_cents: 2_000,
        discount_cents: 500,
        ..pb::Redeem::default()
    };
    suite(REDEEM).granting([redeem(id(1, 7), 7, 100), redeem(id(2, 7), 7, 101)]).refusing([
        redeem(id(1, 7), 7, 102),
        redeem(id(3, 8), 8, 105),
        redeem(id(2, 7), 8, 106),
        redeem(id(9, 7), 7, 107),
    ])
}

pub(crate) fn give_back<Db: Batches + Redemptions + Database>() -> Suite<Db, Saga, pb::GiveBack> {
    let give_back = |coupon_id, order_id| pb::GiveBack {
        coupon_id,
        order_id,
        discount_cents: 500,
        shop_id: 9,
        amount_cents: 2_000,
    };
    suite(GIVE_BACK).granting([give_back(id(3, 8), 103), give_back(id(4, 8), 104)]).refusing([
        give_back(id(3, 8), 103),
        give_back(id(4, 8), 103),
        give_back(id(1, 7), 100),
    ])
}

pub(crate) fn open<Db: Batches + Redemptions + Database>() -> Suite<Db, Tcc, pb::OpenBatch> {
    let open = |batch, batch_id: &str| pb::OpenBatch { batch, batch_id: batch_id.into(), ..pb::OpenBatch::default() };
    suite(OPEN).granting([open(1, "spring"), open(2, "summer")]).refusing([open(3, "spring")])
}

/// Two batches that are being ended, and one that runs.
async fn ending<Db: Batches + Redemptions + Database>(pool: Pool<Db>) -> sqlx::Result<()> {
    let mut db_tx = pool.begin().await?;
    for number in 1..=3 {
        let batch = Batch {
            batch: number,
            batch_id: number.to_string(),
            digest: String::new(),
            template_id: 1,
            version: 1,
            claimed_ms: 1,
            valid_from_ms: 1,
            valid_until_ms: 2,
            coupons: 5,
            state: Opening,
            refusal: String::new(),
            operator: "ann".into(),
            reason: "spring".into(),
            started_ms: 0,
            ended_ms: None,
        };
        Db::open_batch(&mut db_tx, &batch).await?;
        <Db as Batches>::step(&mut *db_tx, number, (Opening, Running), "").await?;
    }
    for number in 1..=2 {
        <Db as Batches>::step(&mut *db_tx, number, (Running, Ending), "").await?;
    }
    db_tx.commit().await
}

pub(crate) fn close<Db: Batches + Redemptions + Database>() -> Suite<Db, Saga, pb::CloseBatch> {
    let close = |batch| pb::CloseBatch { batch };
    suite(CLOSE).seed(ending::<Db>).granting([close(1), close(2)]).refusing([close(3), close(9)])
}

pub(crate) fn paid<Db: Batches + Redemptions + Database>() -> Suite<Db, Message, Paid> {
    let paid = |shop_id, order_id, paid_cents| Paid { shop_id, order_id, user_id: 7, paid_cents };
    suite(PAID).granting([paid(0, 2, 1_500), paid(0, 1, 0), paid(9, 1, 1_500)])
}

pub(crate) fn honour<Db: Batches + Redemptions + Database>() -> Suite<Db, Tcc, pb::Honour> {
    let honour = |number, attempt| pb::Honour { redemption_id: id(number, 8), attempt };
    suite(HONOUR).granting([honour(1, 0), honour(2, 0)]).refusing([
        honour(1, 0),
        honour(2, 1),
        honour(3, 0),
        honour(9, 0),
    ])
}

pub(crate) fn owed<Db: Batches + Redemptions + Database>() -> Suite<Db, Tcc, pb::Owed> {
    let owed = |number, order_id| pb::Owed { redemption_id: id(number, 8), user_id: 8, order_id, shop_id: 9 };
    suite(OWED).granting([owed(5, 103), owed(6, 104)]).refusing([
        owed(5, 103),
        owed(1, 101),
        owed(3, 103),
        owed(9, 109),
    ])
}

pub(crate) fn take_back<Db: Batches + Redemptions + Database>() -> Suite<Db, Saga, pb::TakeBack> {
    let take_back = |number| pb::TakeBack {
        redemption_id: id(number, 8),
        order_id: 100 + number,
        operator: "ann".into(),
        reason: "broken".into(),
    };
    suite(TAKE_BACK).granting([take_back(3), take_back(4)]).refusing([take_back(3), take_back(1), take_back(9)])
}
