//! The business rule on SQLite, by slices in a local transaction.

use sqlx::Sqlite;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use tercet::context::Context;
use tercet::xid::Xid;

use super::*;

const RESERVER: Reserve<Sqlite> = Reserve(PhantomData);
const RESTOCKER: Restock<Sqlite> = Restock(PhantomData);

/// A database with these items.
async fn stock(items: &[(i64, i64)]) -> SqlitePool {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.expect("memory is there");
    Sqlite::migrate(&pool).await.expect("the schema is sound");
    seed(&pool, items).await.expect("the items are sound");
    pool
}

fn slice<R>(requests: impl IntoIterator<Item = R>) -> Vec<Op<R>> {
    let context = Context { xid: Xid::new([0; 16]), branch: 0, not_after_ms: u64::MAX };
    let op = |request| Op { context, traceparent: String::new(), request };
    requests.into_iter().map(op).collect()
}

fn reserve<const N: usize>(units: [(i64, u32); N]) -> Vec<Op<pb::Reserve>> {
    slice(units.map(|(item, count)| pb::Reserve { item, count }))
}

fn restock<const N: usize>(units: [(i64, u32); N]) -> Vec<Op<pb::Restock>> {
    slice(units.map(|(item, count)| pb::Restock { item, count }))
}

/// Free, reserved and issued of all items; the rest of the audit has to hold.
async fn units(pool: &SqlitePool) -> (i64, i64, i64) {
    let totals = audit(pool).await.expect("the table is there");
    assert_eq!((totals.total, totals.broken), (totals.free + totals.reserved + totals.issued, 0), "{totals:?}");
    (totals.free, totals.reserved, totals.issued)
}

macro_rules! run {
    ($pool:expr, $handler:ident.$operation:ident, $slice:expr) => {{
        let mut db_tx = $pool.begin().await.expect("the pool is open");
        let answers = $handler.$operation(&mut db_tx, &$slice).await.expect("the statements are sound");
        db_tx.commit().await.expect("the constraints hold");
        answers
    }};
}

fn is_refused(answer: &Answer, reason: &str) -> bool {
    matches!(answer, Answer::Refused(found) if found.contains(reason))
}

#[tokio::test]
async fn a_slice_is_granted_in_order_until_free_runs_out() {
    let pool = stock(&[(1, 10), (2, 1)]).await;
    let answers = run!(pool, RESERVER.try_, reserve([(1, 4), (2, 1), (1, 7), (1, 6), (2, 1), (1, 1)]));
    let done: Vec<bool> = answers.iter().map(|answer| *answer == Answer::done()).collect();
    assert_eq!(done, [true, true, false, true, false, false]);
    assert!(
        is_refused(&answers[2], "OUT_OF_STOCK(product_id=1)") && is_refused(&answers[4], "OUT_OF_STOCK(product_id=2)"),
        "{answers:?}"
    );
    assert_eq!(units(&pool).await, (0, 11, 0));
}

#[tokio::test]
async fn a_confirm_issues_what_was_reserved_and_a_cancel_frees_it() {
    let pool = stock(&[(1, 10), (2, 10)]).await;
    run!(pool, RESERVER.try_, reserve([(1, 2), (1, 3), (2, 4)]));
    assert_eq!(units(&pool).await, (11, 9, 0));
    run!(pool, RESERVER.confirm, reserve([(1, 3), (2, 4)]));
    assert_eq!(units(&pool).await, (11, 2, 7));
    run!(pool, RESERVER.cancel, reserve([(1, 2)]));
    assert_eq!(units(&pool).await, (13, 0, 7));
}

#[tokio::test]
async fn the_database_itself_refuses_to_issue_what_was_not_reserved() {
    let pool = stock(&[(1, 10)]).await;
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let error = RESERVER.confirm(&mut db_tx, &reserve([(1, 1)])).await.expect_err("nothing is reserved");
    assert!(error.as_database_error().is_some_and(|error| error.is_check_violation()), "{error}");
    let error = RESERVER.confirm(&mut db_tx, &reserve([(9, 1)])).await.expect_err("there is no such item");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn a_bad_request_is_refused_by_field_and_limit() {
    let pool = stock(&[(1, 10)]).await;
    let answers = run!(pool, RESERVER.try_, reserve([(1, 0), (1, COUNT_MAX + 1), (-3, 1), (7, 1)]));
    for (answer, reason) in answers.iter().zip([
        "count is 0: it is 1 to 1000000",
        "count is 1000001",
        "item is -3: it is",
        "NOT_STOCKED(product_id=7)",
    ]) {
        assert!(is_refused(answer, reason), "{answer:?}");
    }
    let answers = run!(pool, RESTOCKER.try_, restock([(1, 0)]));
    assert!(is_refused(&answers[0], "count is 0"), "{answers:?}");
    assert_eq!(units(&pool).await, (10, 0, 0));
}

#[tokio::test]
async fn a_refund_gives_issued_units_back_and_its_compensation_takes_them_again() {
    let pool = stock(&[(1, 10)]).await;
    run!(pool, RESERVER.try_, reserve([(1, 5)]));
    run!(pool, RESERVER.confirm, reserve([(1, 5)]));
    let answers = run!(pool, RESTOCKER.try_, restock([(1, 3), (1, 3), (1, 2)]));
    assert!(is_refused(&answers[1], "fewer of item 1 are issued"), "{answers:?}");
    assert_eq!(units(&pool).await, (10, 0, 0));
    run!(pool, RESTOCKER.cancel, restock([(1, 3)]));
    assert_eq!(units(&pool).await, (7, 0, 3));
}

#[tokio::test]
async fn a_compensation_waits_for_units_that_are_reserved() {
    let pool = stock(&[(1, 2)]).await;
    run!(pool, RESERVER.try_, reserve([(1, 2)]));
    run!(pool, RESERVER.confirm, reserve([(1, 2)]));
    run!(pool, RESTOCKER.try_, restock([(1, 2)]));
    run!(pool, RESERVER.try_, reserve([(1, 1)]));
    assert_eq!(run!(pool, RESTOCKER.cancel, restock([(1, 2)])), [Answer::not_now(TAKEN_DELAY)]);
    run!(pool, RESERVER.cancel, reserve([(1, 1)]));
    assert_eq!(run!(pool, RESTOCKER.cancel, restock([(1, 2)])), [Answer::done()]);
    assert_eq!(units(&pool).await, (0, 0, 2));
}

#[tokio::test]
async fn items_that_exist_get_more_units() {
    let pool = stock(&[(1, 2)]).await;
    seed(&pool, &[(1, 5), (2, 1)]).await.expect("both are sound");
    assert_eq!(units(&pool).await, (8, 0, 0));
}

#[tokio::test]
async fn nothing_is_left_of_a_template_for_good_when_nothing_is_reserved_either() {
    let item = template_item(1);
    let pool = stock(&[(item, 2)]).await;
    let refused = |answers: Vec<Answer>, last| assert!(is_refused(&answers[0], last), "{answers:?}");
    run!(pool, RESERVER.try_, reserve([(item, 2)]));
    refused(run!(pool, RESERVER.try_, reserve([(item, 1)])), "SOLD_OUT(final=false,free=0)");
    run!(pool, RESERVER.confirm, reserve([(item, 2)]));
    refused(run!(pool, RESERVER.try_, reserve([(item, 1)])), "SOLD_OUT(final=true,free=0)");
}

#[tokio::test]
async fn a_supply_sets_the_total_once_and_takes_only_what_is_free() {
    const SUPPLIER: Supply<Sqlite> = Supply(PhantomData);
    let pool = stock(&[]).await;
    let supply = |rows: &[(i64, i64)]| {
        slice(rows.iter().map(|&(units, sequence)| pb::Supply { item: 1, units, sequence }).collect::<Vec<_>>())
    };
    run!(pool, SUPPLIER.try_, supply(&[(10, 2), (99, 1)]));
    assert_eq!(units(&pool).await, (10, 0, 0));
    run!(pool, SUPPLIER.try_, supply(&[(50, 2)]));
    assert_eq!(units(&pool).await, (10, 0, 0), "the same sequence again");
    run!(pool, RESERVER.try_, reserve([(1, 4)]));
    run!(pool, SUPPLIER.try_, supply(&[(0, 3)]));
    assert_eq!(units(&pool).await, (0, 4, 0), "what is reserved stays");
    run!(pool, SUPPLIER.try_, supply(&[(6, 5)]));
    run!(pool, SUPPLIER.try_, supply(&[(60, 4)]));
    assert_eq!(units(&pool).await, (2, 4, 0), "a late one changes nothing");
}

#[tokio::test]
async fn a_cancel_frees_nothing_that_the_latest_supply_does_not_want() {
    const SUPPLIER: Supply<Sqlite> = Supply(PhantomData);
    let pool = stock(&[]).await;
    let supply = |units, sequence| slice([pb::Supply { item: 1, units, sequence }]);
    run!(pool, SUPPLIER.try_, supply(10, 1));
    run!(pool, RESERVER.try_, reserve([(1, 4), (1, 3)]));
    run!(pool, RESERVER.confirm, reserve([(1, 3)]));
    run!(pool, SUPPLIER.try_, supply(5, 2));
    assert_eq!(units(&pool).await, (0, 4, 3), "two more than wanted, all of them held");
    run!(pool, RESERVER.cancel, reserve([(1, 1), (1, 3)]));
    assert_eq!(units(&pool).await, (2, 0, 3));
    run!(pool, RESERVER.try_, reserve([(1, 2)]));
    run!(pool, SUPPLIER.try_, supply(0, 3));
    run!(pool, SUPPLIER.try_, supply(4, 4));
    run!(pool, RESERVER.cancel, reserve([(1, 2)]));
    assert_eq!(units(&pool).await, (1, 0, 3), "the next supply is the one that counts");
    run!(pool, SUPPLIER.try_, supply(0, 5));
    run!(pool, RESTOCKER.try_, restock([(1, 2)]));
    run!(pool, SUPPLIER.try_, supply(0, 5));
    assert_eq!(units(&pool).await, (0, 0, 1), "the same again takes what was given back");
}

#[tokio::test]
async fn what_runs_out_is_told_until_it_has_ended() {
    const SUPPLIER: Supply<Sqlite> = Supply(PhantomData);
    let item = template_item(1);
    let pool = stock(&[]).await;
    let supply = |item, units, sequence| slice(vec![pb::Supply { item, units, sequence }]);
    let low = async || {
        let mut connection = pool.acquire().await.expect("the pool is open");
        let low = Sqlite::low(&mut connection, template_item(0)).await.expect("the statement is sound");
        (low.templates, low.products)
    };
    run!(pool, SUPPLIER.try_, supply(item, 100, 2));
    run!(pool, SUPPLIER.try_, supply(7, 100, 1));
    assert_eq!(low().await, (0, 0));
    run!(pool, RESERVER.try_, reserve([(item, 91)]));
    assert_eq!(low().await, (1, 0));
    run!(pool, RESERVER.try_, reserve([(item, 9), (7, 100)]));
    assert_eq!(low().await, (1, 1), "none is left");
    run!(pool, SUPPLIER.try_, supply(item, 200, 4));
    assert_eq!(low().await, (0, 1));
    run!(pool, RESERVER.try_, reserve([(item, 95)]));
    assert_eq!(low().await, (1, 1));
    run!(pool, SUPPLIER.try_, supply(candidate_item(2, 3), 0, 2));
    let named = async |most| {
        let mut connection = pool.acquire().await.expect("the pool is open");
        let all = template_item(0)..=i64::MAX;
        let found = Sqlite::lowest(&mut connection, all, template_item(0), most).await;
        watch::named(&found.expect("the statement is sound"))
    };
    run!(pool, SUPPLIER.try_, supply(candidate_item(2, 3), 1, 4));
    run!(pool, RESERVER.try_, reserve([(candidate_item(2, 3), 1)]));
    assert_eq!((named(9).await, named(1).await), (vec![2, 1], vec![2]), "the one that has fewer comes first");
    run!(pool, SUPPLIER.try_, supply(template_item(2), 1, 2));
    run!(pool, RESERVER.try_, reserve([(template_item(2), 1)]));
    assert_eq!(named(9).await, [2, 1], "it is named once, of its own and of another version");
    run!(pool, SUPPLIER.try_, supply(item, 0, 5));
    assert_eq!((low().await, named(9).await), ((2, 1), vec![2]), "the template has ended");
}

tercet_testing::conformance! {
    supply_conforms: conformance::supply::<Sqlite>();
    reserve_conforms: conformance::reserve::<Sqlite>();
    restock_conforms: conformance::restock::<Sqlite>();
}
