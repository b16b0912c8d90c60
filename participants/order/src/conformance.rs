//! Each action for the conformance suite: on SQLite in this crate's tests, on MariaDB in `integration`.

use sqlx::Pool;
use tercet::action::{Action, Request, Saga, Tcc};
use tercet_proto::order::v1 as pb;
use tercet_testing::{Database, Mode, Suite};

use super::store::{Key, Move, Order, Status, Store};
use super::{PLACE, PLACE_BASKET, REFUND, audit, service};

/// Order 1 is placed, order 2 is paid, and order 3 is frozen.
async fn rows<Db: Store>(pool: Pool<Db>) -> sqlx::Result<()> {
    let order = |order_id, coupon_id| Order {
        key: Key::single(order_id),
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: 0,
    };
    let step = |order_id, from, to| Move { key: Key::single(order_id), from, to };
    let mut db_tx = pool.begin().await?;
    Db::insert(&mut db_tx, &[order(1, None), order(2, Some(5)), order(3, None)]).await?;
    let placed = [1, 2].map(|order_id| step(order_id, Status::Frozen, Status::Placed));
    Db::advance(&mut db_tx, &placed).await?;
    Db::advance(&mut db_tx, &[step(2, Status::Placed, Status::Paid)]).await?;
    db_tx.commit().await
}

async fn coupons_once<Db: Store>(pool: Pool<Db>) -> Result<(), String> {
    let totals = audit(&pool).await.map_err(|error| error.to_string())?;
    if totals.coupons_twice == 0 { Ok(()) } else { Err(format!("{totals:?}")) }
}

fn suite<Db: Store + Database, M: Mode, R: Request>(action: Action<M, R>) -> Suite<Db, M, R> {
    Suite::new(action, |pool| service::<Db>(pool, None)).seed(rows::<Db>).invariant(coupons_once::<Db>)
}

pub(crate) fn place<Db: Store + Database>() -> Suite<Db, Tcc, pb::Place> {
    let place = |order_id, coupon_id| pb::Place {
        order_id,
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: if coupon_id == 0 { 0 } else { 500 },
    };
    // An order that came to nothing is closed, and stays.
    suite(PLACE)
        .granting([place(11, 6), place(12, 0)])
        .refusing([place(11, 0), place(1, 0), place(0, 0)])
        .cancel_leaves_traces_in(&["orders"])
}

pub(crate) fn refund<Db: Store + Database>() -> Suite<Db, Saga, pb::Refund> {
    let refund = |order_id| pb::Refund { order_id, ..pb::Refund::default() };
    suite(REFUND).granting([refund(1), refund(2)]).refusing([refund(1), refund(9)])
}

pub(crate) fn place_basket<Db: Store + Database>() -> Suite<Db, Tcc, pb::PlaceBasket> {
    let basket = |order_id, coupon_ids: &[i64]| pb::PlaceBasket {
        shop_id: 3,
        order_id,
        user_id: 7,
        count: 3,
        coupons: coupon_ids.iter().map(|id| pb::BasketCoupon { coupon_id: *id, discount_cents: 100 }).collect(),
        amount_cents: 2_000,
        discount_cents: 100 * coupon_ids.len() as i64,
        lines: vec![
            pb::Line { product_id: 1, price_cents: 500, quantity: 2 },
            pb::Line { product_id: 2, price_cents: 1_000, quantity: 1 },
        ],
    };
    let wrong_sum = pb::PlaceBasket { discount_cents: 300, ..basket(14, &[8, 9]) };
    let no_lines = pb::PlaceBasket { lines: Vec::new(), ..basket(15, &[]) };
    let too_few = pb::PlaceBasket { count: 4, ..basket(16, &[]) };
    let nobodys = pb::PlaceBasket { shop_id: 0, ..basket(18, &[]) };
    let too_dear = pb::PlaceBasket { amount_cents: 2_001, ..basket(17, &[]) };
    suite(PLACE_BASKET)
        .granting([basket(11, &[6, 7]), basket(12, &[])])
        .refusing([
            basket(11, &[]),
            nobodys,
            basket(0, &[]),
            basket(13, &[8, 8]),
            wrong_sum,
            no_lines,
            too_few,
            too_dear,
        ])
        .cancel_leaves_traces_in(&["orders", "basket_coupon", "basket_line"])
}
