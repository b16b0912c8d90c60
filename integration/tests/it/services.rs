//! Every statement of stock, coupon and order on a real MariaDB. Their rules are tested beside them, on SQLite.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{MySql, MySqlPool};
use tercet_coupon::Shards;
use tercet_coupon::store as coupon;
use tercet_events::outbox::Outbox;
use tercet_integration::servers;
use tercet_order::store as order;
use tercet_proto::coupon::v1::Claim;
use tercet_shards::{ShardMap, Slot};
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
    let reserve = |units: i64| Change { free: -units, reserved: units, ..Change::default() };
    MySql::change(&mut db_tx, &BTreeMap::from([(1, reserve(10)), (2, reserve(2))])).await.expect("there is enough");
    let change = Change { reserved: -10, issued: 10, ..Change::default() };
    MySql::change(&mut db_tx, &BTreeMap::from([(1, change)])).await.expect("they are reserved");
    db_tx.commit().await.expect("the constraints hold");
    let totals = tercet_stock::audit(&pool).await.expect("the table is there");
    assert_eq!(totals, Totals { items: 3, total: 17, free: 5, reserved: 2, issued: 10, broken: 0 });
    // Item 1 has none left, and of 2 and 3 there are enough.
    let low = async |templates| {
        let low = MySql::low(&mut *pool.acquire().await?, templates).await?;
        Ok::<_, sqlx::Error>((low.templates, low.products))
    };
    assert_eq!(low(1).await.expect("the statement is sound"), (1, 0));
    let lowest = async |items, templates, most| {
        MySql::lowest(&mut pool.acquire().await.expect("the pool is open"), items, templates, most).await
    };
    assert_eq!(lowest(1..=9, 1, 5).await.expect("the statement is sound"), [1]);
    assert!(lowest(2..=9, 1, 5).await.expect("the statement is sound").is_empty(), "of others there are enough");
    assert_eq!(lowest(1..=9, 2, 5).await.expect("the statement is sound"), [1], "it is a product's");
    assert_eq!(low(2).await.expect("the statement is sound"), (0, 1));
    tercet_stock::seed(&pool, &[(1, 1)]).await.expect("the item is there");
    assert_eq!(low(1).await.expect("the statement is sound"), (1, 0), "one of eleven is free");
    tercet_stock::seed(&pool, &[(1, 1)]).await.expect("the item is there");
    assert_eq!(low(1).await.expect("the statement is sound"), (0, 0), "two of twelve are");
    sqlx::raw_sql("UPDATE stock SET total = total - 2, free = 0 WHERE item = 1").execute(&pool).await.expect("sound");

    let mut connection = pool.acquire().await.expect("the pool is open");
    let error = MySql::change(&mut connection, &BTreeMap::from([(1, reserve(1))])).await.expect_err("none is free");
    assert!(error.as_database_error().is_some_and(|error| error.is_check_violation()), "{error}");
    let error = MySql::change(&mut connection, &BTreeMap::from([(9, reserve(1))])).await.expect_err("there is none");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn coupons_are_claimed_redeemed_and_counted() {
    use coupon::{Move, Notice, Order, Standing, Status, Store as _};
    let Some(pool) = database().await else { return };
    let map: ShardMap = "1x4".parse().expect("it is a map");
    let shards = Shards::new(map.clone(), vec![pool.clone()]).expect("it is one database");
    shards.migrate().await.expect("the schema is sound");

    let claim = |number, user_id| Claim { day: 5, ..tercet_coupon::claim_by_hand(number, user_id, 1, 2) };
    let ended = Claim { valid_until_ms: 1, ..claim(3, 8) };
    let claims = [claim(1, 7), claim(2, 7), ended];
    let mut db_tx = pool.begin().await.expect("the pool is open");
    coupon::standings::<MySql>(&mut db_tx, &map, &claims).await.expect("the statements are sound");
    coupon::insert::<MySql>(&mut db_tx, &map, &claims, Status::Pending).await.expect("they are new");
    let asked = [claim(1, 7), claim(9, 7), claim(8, 6)];
    let found = coupon::standings::<MySql>(&mut db_tx, &map, &asked).await.expect("the statements are sound");
    let two = Standing { claimed: 2, day: 5, today: 2, exists: true, keyed: 0 };
    assert_eq!(found, [two, Standing { exists: false, ..two }, Standing::default()]);
    coupon::delete::<MySql>(&mut db_tx, &map, &[claim(2, 7)]).await.expect("it is pending");
    let found = coupon::standings::<MySql>(&mut db_tx, &map, &asked[..1]).await.expect("the statements are sound");
    assert_eq!(found, [Standing { claimed: 1, today: 1, ..two }]);
    let pending = coupon::pending::<MySql>(&mut db_tx, &map, &[6, 7, 8]).await.expect("the statement is sound");
    assert_eq!(pending.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([(7, 1), (8, 1)]));

    let ids = [claims[0].coupon_id, claims[1].coupon_id, claims[2].coupon_id];
    let step = |coupon_id, from, to, order| Move { coupon_id, from, to, order };
    let issue = ids.map(|id| step(id, Status::Pending, Status::Issued, None));
    coupon::advance::<MySql>(&mut db_tx, &map, &[issue[2], issue[0]]).await.expect("they are pending");
    let coupons = coupon::coupons::<MySql>(&mut db_tx, &map, &ids).await.expect("the statement is sound");
    let found: BTreeSet<_> = coupons.iter().map(|(one, _)| (one.coupon_id, one.status, one.user_id)).collect();
    assert_eq!(found, BTreeSet::from([(ids[0], Status::Issued, 7), (ids[2], Status::Expired, 8)]));
    let order = Some(Order { shop_id: 9, order_id: 100, discount_cents: 500 });
    for (from, to) in [(Status::Issued, Status::Locked), (Status::Locked, Status::Used)] {
        coupon::advance::<MySql>(&mut db_tx, &map, &[step(ids[0], from, to, order)]).await.expect("it stands there");
    }
    let again = [step(ids[0], Status::Issued, Status::Locked, order)];
    let error = coupon::advance::<MySql>(&mut db_tx, &map, &again).await;
    assert!(matches!(error, Err(sqlx::Error::RowNotFound)), "{error:?}");
    let notice = |order_id, shop_id| Notice { order_id, shop_id, user_id: 7, paid_cents: 10 * shop_id, slot: 399 };
    for notices in [&[notice(100, 0), notice(100, 3), notice(101, 0)][..], &[notice(100, 3), notice(100, 4)]] {
        MySql::note_paid(&mut db_tx, notices).await.expect("a second notice changes nothing");
    }
    let noted = "SELECT order_id, shop_id, paid_cents FROM paid_notice ORDER BY order_id, shop_id";
    let noted: Vec<(i64, i64, i64)> = sqlx::query_as(noted).fetch_all(&mut *db_tx).await.expect("the table is there");
    assert_eq!(noted, [(100, 0, 0), (100, 3, 30), (100, 4, 40), (101, 0, 0)], "two shops have equal numbers");
    db_tx.commit().await.expect("the constraints hold");
    let mut db_tx = shards.home().acquire().await.expect("it is there");
    let ran = MySql::run(&mut db_tx, &coupon::coupon(&map, ids[0])).await.expect("the statement is sound");
    let found = coupon::newest(&ran).expect("they are rows of coupons").into_iter().next();
    assert_eq!(found.map(|one| (one.status, one.order)), Some((Status::Used, order)));
    drop(db_tx);
    let totals = tercet_coupon::audit(&shards).await.expect("the tables are there");
    assert_eq!(totals, coupon::Totals { expired: 1, used: 1, ..coupon::Totals::default() });
    assert_eq!(tercet_coupon::used(&shards).await.expect("the tables are there"), [(ids[0], 100)]);
}

#[tokio::test]
async fn coupons_are_looked_up_by_id_by_user_and_by_page() {
    use coupon::{Status, Store as _};
    let Some(pool) = database().await else { return };
    let map: ShardMap = "1x4".parse().expect("it is a map");
    let shards = Shards::new(map.clone(), vec![pool.clone()]).expect("it is one database");
    shards.migrate().await.expect("the schema is sound");
    let of_7 = [1, 2, 3, 4].map(|number| tercet_coupon::claim_by_hand(number, 7, 1 + number % 2, 9));
    let of_9 = tercet_coupon::claim_by_hand(5, 9, 1, 9);
    let all: Vec<Claim> = of_7.into_iter().chain([of_9]).collect();
    tercet_coupon::seed_coupons(&shards, &all).await.expect("they are new");

    let mut connection = pool.acquire().await.expect("the pool is open");
    let mut read = async |statements: Vec<_>| {
        let ran = MySql::run(&mut connection, &statements).await.expect("the statements are sound");
        coupon::newest(&ran).expect("they are rows of coupons")
    };
    let one = read(coupon::coupon(&map, of_9.coupon_id)).await;
    assert_eq!(
        one.iter().map(|one| (one.user_id, one.status, one.version)).collect::<Vec<_>>(),
        [(9, Status::Issued, 1)]
    );
    assert_eq!(read(coupon::coupon(&map, 77)).await, []);
    let mut page = async |before| {
        let found = read(coupon::of_user(&map, 7, &Status::ALL, (before, 3))).await;
        found.iter().map(|one| one.coupon_id).collect::<Vec<_>>()
    };
    assert_eq!(page(i64::MAX).await, [of_7[3].coupon_id, of_7[2].coupon_id, of_7[1].coupon_id]);
    assert_eq!(page(of_7[1].coupon_id).await, [of_7[0].coupon_id]);
    let table = map.table(Slot::of_user(7));
    let wanted = (2, Some(Status::Issued));
    let found = coupon::page::<MySql>(&mut connection, table, wanted, (i64::MAX, 3)).await;
    let found: Vec<_> = found.expect("the statement is sound").iter().map(|(one, is)| (one.coupon_id, *is)).collect();
    let expected = [(of_7[3].coupon_id, false), (of_7[2].coupon_id, true), (of_7[1].coupon_id, false)];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn orders_are_placed_paid_and_refunded() {
    use order::{Key, Move, Order, Status, Store as _};
    let Some(pool) = database().await else { return };
    MySql::migrate(&pool).await.expect("the schema is sound");
    let order = |order_id, coupon_id| Order {
        key: Key::single(order_id),
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: 500,
        pay_within_s: None,
    };
    let step = |order_id, from, to| Move { key: Key::single(order_id), from, to };
    let mut db_tx = pool.begin().await.expect("the pool is open");
    MySql::insert(&mut db_tx, &[order(1, Some(5)), order(2, None)]).await.expect("they are new");
    assert_eq!(
        MySql::taken(&mut db_tx, &[2, 3].map(Key::single)).await.expect("the statement is sound"),
        [Key::single(2)]
    );
    let place = [step(2, Status::Frozen, Status::Placed), step(1, Status::Frozen, Status::Placed)];
    MySql::advance(&mut db_tx, &place).await.expect("they are frozen");
    MySql::advance(&mut db_tx, &[step(2, Status::Placed, Status::Refunded)]).await.expect("it is placed");
    let paid = tercet_proto::order::v1::Paid { order_id: 1, user_id: 7, paid_cents: 1_500, shop_id: 0 };
    tercet_order::pay::<MySql>(&mut db_tx, &Outbox::off(), &paid).await.expect("it is placed");
    let standings = MySql::standings(&mut db_tx, &[1, 2, 9].map(Key::single)).await.expect("the statement is sound");
    let found: Vec<_> = standings.iter().map(|one| (one.key.order_id, one.status, one.refunded_from)).collect();
    assert_eq!(found, [(1, Status::Paid, None), (2, Status::Refunded, Some(Status::Placed))]);
    let error = MySql::advance(&mut db_tx, &[step(2, Status::Placed, Status::Paid)]).await;
    assert!(matches!(error, Err(sqlx::Error::RowNotFound)), "{error:?}");
    db_tx.commit().await.expect("the constraints hold");
    let totals = tercet_order::audit(&pool).await.expect("the table is there");
    assert_eq!(totals, order::Totals { paid: 1, refunded: 1, unconfirmed: 1, ..order::Totals::default() });
    let used = |coupon_id, discount_cents| order::Used {
        key: Key::single(1),
        coupon_id,
        now: order::Use::Confirmed,
        discount_cents: Some(discount_cents),
        step: 1,
    };
    let mut connection = pool.acquire().await.expect("the pool is open");
    for (strange, theirs) in [(used(6, 500), false), (used(5, 499), false), (used(5, 500), true), (used(5, 500), true)]
    {
        assert_eq!(MySql::note_uses(&mut connection, &[strange]).await.expect("the statement is sound"), theirs);
    }
    drop(connection);
    assert_eq!(tercet_order::audit(&pool).await.expect("the table is there").unconfirmed, 0);
    assert_eq!(tercet_order::coupons(&pool).await.expect("the table is there"), [(5, 1)]);
}
