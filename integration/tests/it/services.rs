//! Every statement of stock, coupon and order on a real MariaDB. Their rules are tested beside them, on SQLite.

use std::collections::BTreeMap;

use sqlx::{MySql, MySqlPool};
use tercet_coupon::store as coupon;
use tercet_events::outbox::Outbox;
use tercet_integration::servers;
use tercet_order::store as order;
use tercet_stock::store as stock;

async fn database() -> Option<MySqlPool> {
    let url = servers::mariadb().await.expect("the server answers")?;
    Some(MySqlPool::connect(&url).await.expect("the database is there"))
}

#[tokio::test]
async fn stock_moves_units_and_never_below_zero() {
    use stock::{Change, Store as _, Totals};
    let Some(pool) = database().await else { return };
    MySql::migrate(&pool).await.expect("the schema is sound");
    tercet_stock::seed(&pool, &[(1, 10), (2, 5), (3, 1)]).await.expect("the items are sound");
    tercet_stock::seed(&pool, &[(2, 1)]).await.expect("the item is there");
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let levels = MySql::levels(&mut db_tx, &[1, 2, 9]).await.expect("the statement is sound");
    let found: Vec<_> = levels.iter().map(|level| (level.item, level.free, level.issued)).collect();
    assert_eq!(found, [(1, 10, 0), (2, 6, 0)]);
    let reserve = |units: i64| Change { free: -units, reserved: units, issued: 0 };
    MySql::change(&mut db_tx, &BTreeMap::from([(1, reserve(10)), (2, reserve(2))])).await.expect("there is enough");
    let change = Change { free: 0, reserved: -10, issued: 10 };
    MySql::change(&mut db_tx, &BTreeMap::from([(1, change)])).await.expect("they are reserved");
    db_tx.commit().await.expect("the constraints hold");
    let totals = tercet_stock::audit(&pool).await.expect("the table is there");
    assert_eq!(totals, Totals { items: 3, total: 17, free: 5, reserved: 2, issued: 10, broken: 0 });

    let mut connection = pool.acquire().await.expect("the pool is open");
    let error = MySql::change(&mut connection, &BTreeMap::from([(1, reserve(1))])).await.expect_err("none is free");
    assert!(error.as_database_error().is_some_and(|error| error.is_check_violation()), "{error}");
    let error = MySql::change(&mut connection, &BTreeMap::from([(9, reserve(1))])).await.expect_err("there is none");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn coupons_are_claimed_redeemed_and_counted() {
    use coupon::{Claim, Move, Status, Store as _, Template};
    let Some(pool) = database().await else { return };
    MySql::migrate(&pool).await.expect("the schema is sound");
    let template = Template {
        template_id: 1,
        per_user_limit: 2,
        valid_ms: 3_600_000,
        minimum_spend_cents: 2_000,
        discount_cents: 400,
    };
    let expired = Template { template_id: 2, valid_ms: 0, ..template };
    tercet_coupon::seed_templates(&pool, &[template, expired]).await.expect("the templates are sound");
    let better = Template { discount_cents: 500, ..template };
    tercet_coupon::seed_templates(&pool, &[better]).await.expect("it takes the new terms");

    let claim = |coupon_id, template_id, user_id| Claim { coupon_id, template_id, user_id };
    let claims = [claim(1, 1, 7), claim(2, 1, 7), claim(3, 2, 7)];
    let mut db_tx = pool.begin().await.expect("the pool is open");
    MySql::standings(&mut db_tx, &claims).await.expect("the statements are sound");
    MySql::insert(&mut db_tx, &claims, Status::Pending).await.expect("they are new");
    let asked = [claim(1, 1, 8), claim(9, 1, 7), claim(8, 6, 7)];
    let standings = MySql::standings(&mut db_tx, &asked).await.expect("the statements are sound");
    let found: Vec<_> = standings.iter().map(|one| (one.per_user_limit, one.claimed, one.exists)).collect();
    assert_eq!(found, [(Some(2), 0, true), (Some(2), 2, false), (None, 0, false)]);
    MySql::delete(&mut db_tx, &[claim(2, 1, 7)]).await.expect("it is pending");

    let step = |coupon_id, from, to, order_id| Move { coupon_id, from, to, order_id };
    let issue = [step(3, Status::Pending, Status::Issued, None), step(1, Status::Pending, Status::Issued, None)];
    MySql::advance(&mut db_tx, &issue).await.expect("they are pending");
    let coupons = MySql::coupons(&mut db_tx, &[1, 2, 3]).await.expect("the statement is sound");
    let found: Vec<_> =
        coupons.iter().map(|one| (one.coupon_id, one.status, one.expired, one.discount_cents)).collect();
    assert_eq!(found, [(1, Status::Issued, false, 500), (3, Status::Issued, true, 400)]);
    MySql::advance(&mut db_tx, &[step(1, Status::Issued, Status::Locked, Some(100))]).await.expect("it is issued");
    MySql::advance(&mut db_tx, &[step(1, Status::Locked, Status::Used, Some(100))]).await.expect("it is locked");
    let error = MySql::advance(&mut db_tx, &[step(1, Status::Issued, Status::Locked, Some(101))]).await;
    assert!(matches!(error, Err(sqlx::Error::RowNotFound)), "{error:?}");
    for notices in [&[(100, 7, 1_500), (101, 7, 0)][..], &[(100, 7, 1_500)]] {
        MySql::note_paid(&mut db_tx, notices).await.expect("a second notice changes nothing");
    }
    db_tx.commit().await.expect("the constraints hold");
    let totals = tercet_coupon::audit(&pool).await.expect("the tables are there");
    assert_eq!(totals, coupon::Totals { issued: 1, used: 1, ..coupon::Totals::default() });
    assert_eq!(tercet_coupon::used(&pool).await.expect("the table is there"), [(1, 100)]);
}

#[tokio::test]
async fn orders_are_placed_paid_and_refunded() {
    use order::{Move, Order, Status, Store as _};
    let Some(pool) = database().await else { return };
    MySql::migrate(&pool).await.expect("the schema is sound");
    let order = |order_id, coupon_id| Order {
        order_id,
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: 500,
    };
    let step = |order_id, from, to| Move { order_id, from, to };
    let mut db_tx = pool.begin().await.expect("the pool is open");
    MySql::insert(&mut db_tx, &[order(1, Some(5)), order(2, None)]).await.expect("they are new");
    assert_eq!(MySql::taken(&mut db_tx, &[2, 3]).await.expect("the statement is sound"), [2]);
    let place = [step(2, Status::Frozen, Status::Placed), step(1, Status::Frozen, Status::Placed)];
    MySql::advance(&mut db_tx, &place).await.expect("they are frozen");
    MySql::advance(&mut db_tx, &[step(2, Status::Placed, Status::Refunded)]).await.expect("it is placed");
    let paid = tercet_proto::order::v1::Paid { order_id: 1, user_id: 7, paid_cents: 1_500 };
    tercet_order::pay::<MySql>(&mut db_tx, &Outbox::off(), &paid).await.expect("it is placed");
    let standings = MySql::standings(&mut db_tx, &[1, 2, 9]).await.expect("the statement is sound");
    let found: Vec<_> = standings.iter().map(|one| (one.order_id, one.status, one.refunded_from)).collect();
    assert_eq!(found, [(1, Status::Paid, None), (2, Status::Refunded, Some(Status::Placed))]);
    let error = MySql::advance(&mut db_tx, &[step(2, Status::Placed, Status::Paid)]).await;
    assert!(matches!(error, Err(sqlx::Error::RowNotFound)), "{error:?}");
    db_tx.commit().await.expect("the constraints hold");
    let totals = tercet_order::audit(&pool).await.expect("the table is there");
    assert_eq!(totals, order::Totals { paid: 1, refunded: 1, ..order::Totals::default() });
    assert_eq!(tercet_order::coupons(&pool).await.expect("the table is there"), [(5, 1)]);
}
