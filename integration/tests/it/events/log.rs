//! The business log: what is written, how it is searched, and that every search stays in its index.

use sqlx::{MySql, Pool, Sqlite};
use tempfile::TempDir;
use tercet::fence::Dialect;
use tercet_business_log::api::Api;
use tercet_business_log::entry::entries;
use tercet_business_log::store::{Search, Store};
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_integration::servers;
use tercet_proto::events::v1 as events;
use tercet_proto::events::v1::event::Payload;
use tercet_proto::log::v1 as pb;
use tercet_proto::log::v1::business_log_client::BusinessLogClient;
use tercet_proto::log::v1::business_log_server::BusinessLogServer;
use tercet_rules::{Code, Fault};

type Client<Db> = BusinessLogClient<BusinessLogServer<Api<Db>>>;

struct Stage<Db: Store> {
    pool: Pool<Db>,
    client: Client<Db>,
    _folder: Option<TempDir>,
}

async fn stage<Db: Store + Dialect>(url: &str, folder: Option<TempDir>) -> Stage<Db> {
    let pool = Db::open(url).await.expect("the database is there");
    Db::migrate(&pool).await.expect("the schema is sound");
    let client = BusinessLogClient::new(BusinessLogServer::new(Api::new(pool.clone())));
    Stage { pool, client, _folder: folder }
}

async fn sqlite() -> Stage<Sqlite> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/business_log.db", folder.path().display());
    stage(&url, Some(folder)).await
}

async fn mariadb() -> Option<Stage<MySql>> {
    let url = servers::mariadb().await.expect("the server answers")?;
    Some(stage(&url, None).await)
}

/// The same test on both.
macro_rules! on_both {
    ($($name:ident;)*) => {
        mod on_sqlite {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::sqlite().await).await;
            }
        )*}
        mod on_mariadb {$(
            #[tokio::test]
            async fn $name() {
                let Some(stage) = super::mariadb().await else { return };
                super::$name(stage).await;
            }
        )*}
    };
}

on_both! {
    everything_is_found_by_each_of_its_keys;
    an_order_is_found_by_its_shop_and_its_number;
    pages_are_whole_and_within_their_bounds;
    old_entries_go_and_young_ones_stay;
}

fn event(sequence: u64, user_id: i64, occurred_ms: i64, payload: Payload) -> events::Event {
    let (source, xid, payload) = ("s".to_owned(), vec![1; 16].into(), Some(payload));
    events::Event { source, sequence, version: 1, user_id, occurred_ms, xid, payload, ..events::Event::default() }
}

async fn write<Db: Store>(pool: &Pool<Db>, all: &[events::Event]) {
    let rows: Vec<_> = all.iter().flat_map(entries).collect();
    let mut db_tx = pool.begin().await.expect("the pool is open");
    Db::write(&mut db_tx, &rows).await.expect("they are sound");
    db_tx.commit().await.expect("nothing is in its way");
}

async fn found<Db: Store>(client: &mut Client<Db>, request: pb::SearchRequest) -> Vec<pb::Entry> {
    client.search(request).await.expect("it is sound").into_inner().entries
}

fn actions(entries: &[pb::Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.action.as_str()).collect()
}

/// What an operator has done, and what became of coupons 21 and 22.
fn story() -> [events::Event; 7] {
    let change = events::OperatorChange {
        what: "template".into(),
        id: 4,
        revision: 2,
        operator: "ann".into(),
        action: "promote".into(),
        reason: "双十一".into(),
        before: r#"{"status":"gray"}"#.into(),
        after: r#"{"status":"published"}"#.into(),
    };
    let issued =
        |coupon_id| events::CouponIssued { coupon_id, template_id: 4, template_version: 1, ..Default::default() };
    let used = events::CouponUsed {
        coupon_id: 21,
        order_id: 31,
        discount_cents: 500,
        shop_id: 9,
        operator: "bob".to_owned(),
        ..events::CouponUsed::default()
    };
    let refunded = events::OrderRefunded {
        order_id: 31,
        coupon_ids: vec![21],
        refunded_cents: 900,
        was_paid: true,
        shop_id: 9,
        ..Default::default()
    };
    let back = events::CouponGivenBack { coupon_id: 21, order_id: 31, shop_id: 9, ..Default::default() };
    [
        event(1, 0, 1_000, Payload::OperatorChange(change)),
        event(2, 7, 1_001, Payload::CouponIssued(issued(21))),
        event(3, 8, 1_002, Payload::CouponIssued(issued(22))),
        event(4, 7, 1_003, Payload::CouponUsed(used)),
        event(5, 7, 1_004, Payload::OrderRefunded(refunded)),
        event(6, 7, 1_005, Payload::CouponGivenBack(back)),
        event(7, 8, 1_006, Payload::CouponExpired(events::CouponExpired { coupon_id: 22, template_id: 4, step: 2 })),
    ]
}

async fn everything_is_found_by_each_of_its_keys<Db: Store>(mut stage: Stage<Db>) {
    write(&stage.pool, &story()).await;
    let client = &mut stage.client;
    let nothing = pb::SearchRequest::default();
    let of_21 = ["coupon given back", "order refunded", "coupon used", "coupon issued"];
    let by_user = found(client, pb::SearchRequest { user_id: 7, ..nothing.clone() }).await;
    assert_eq!(actions(&by_user), of_21);
    let by_coupon = found(client, pb::SearchRequest { coupon_id: 21, ..nothing.clone() }).await;
    assert_eq!(actions(&by_coupon), of_21);
    let by_order = found(client, pb::SearchRequest { shop_id: Some(9), order_id: 31, ..nothing.clone() }).await;
    assert_eq!(actions(&by_order), of_21[..3]);
    assert_eq!(by_order[2].after, r#"{"discount_cents":500,"order_id":31,"shop_id":9,"status":"used"}"#);
    let by_bob = found(client, pb::SearchRequest { operator: "bob".into(), ..nothing.clone() }).await;
    assert_eq!(actions(&by_bob), ["coupon used"]);
    assert_eq!((by_order[1].before.as_str(), by_order[1].at_ms), (r#"{"status":"paid"}"#, 1_004));
    let by_operator = found(client, pb::SearchRequest { operator: "ann".into(), ..nothing.clone() }).await;
    let [change] = &by_operator[..] else { panic!("{by_operator:?}") };
    assert_eq!((change.action.as_str(), change.template_id, change.user_id), ("template promote", 4, 0));
    assert_eq!((change.reason.as_str(), change.before.as_str()), ("双十一", r#"{"status":"gray"}"#));
    assert_eq!((change.source.as_str(), change.sequence), ("s", 1));
    assert_eq!(change.xid, "01010101-0101-0101-0101-010101010101");
    assert_eq!(found(client, nothing.clone()).await.len(), 7);
    // What is given has to be so, all of it.
    let both = pb::SearchRequest { user_id: 8, coupon_id: 21, ..nothing.clone() };
    assert_eq!(found(client, both).await, []);
    let bob = pb::SearchRequest { operator: "bob".into(), ..nothing.clone() };
    for request in [
        pb::SearchRequest { user_id: 7, ..bob.clone() },
        pb::SearchRequest { coupon_id: 21, ..bob.clone() },
        pb::SearchRequest { shop_id: Some(9), order_id: 31, ..bob },
    ] {
        assert_eq!(found(client, request).await, by_bob);
    }
    let stranger = pb::SearchRequest { operator: "eve".into(), ..nothing };
    assert_eq!(found(client, stranger).await, []);
}

/// Two shops and nobody's, with one number.
async fn an_order_is_found_by_its_shop_and_its_number<Db: Store>(mut stage: Stage<Db>) {
    let of = |sequence: u64, shop_id| {
        let used = events::CouponUsed { coupon_id: 20 + shop_id, order_id: 1, shop_id, ..Default::default() };
        let coupon_ids = vec![20 + shop_id];
        let refunded =
            events::OrderRefunded { order_id: 1, coupon_ids: coupon_ids.clone(), shop_id, ..Default::default() };
        let back = events::OrderRefundTakenBack { order_id: 1, coupon_ids, shop_id, ..Default::default() };
        let given = events::CouponGivenBack { coupon_id: 20 + shop_id, order_id: 1, shop_id, ..Default::default() };
        [
            event(sequence, 7, 1_000, Payload::CouponUsed(used)),
            event(sequence + 1, 7, 1_001, Payload::OrderRefunded(refunded)),
            event(sequence + 2, 7, 1_002, Payload::OrderRefundTakenBack(back)),
            event(sequence + 3, 7, 1_003, Payload::CouponGivenBack(given)),
        ]
    };
    write(&stage.pool, &[of(1, 9), of(5, 10), of(9, 0)].concat()).await;
    let client = &mut stage.client;
    for shop_id in [9, 10, 0] {
        let by_order = pb::SearchRequest { shop_id: Some(shop_id), order_id: 1, ..Default::default() };
        // The index of the coupon finds it too, and the other's order is not it.
        let by_coupon = pb::SearchRequest { coupon_id: 20 + shop_id, ..by_order.clone() };
        for request in [by_order.clone(), by_coupon] {
            let found = found(client, request).await;
            assert_eq!(
                actions(&found),
                ["coupon given back", "order refund taken back", "order closed", "coupon used"]
            );
            let own =
                |entry: &pb::Entry| (entry.shop_id, entry.order_id, entry.coupon_id) == (shop_id, 1, 20 + shop_id);
            assert!(found.iter().all(own), "{found:?}");
        }
        let mixed = pb::SearchRequest { coupon_id: if shop_id == 9 { 30 } else { 29 }, ..by_order };
        assert_eq!(found(client, mixed).await, []);
    }
    let status = client.search(pb::SearchRequest { order_id: 1, ..Default::default() }).await.expect_err("whose?");
    let fault = Fault::from_status(&status).expect("it is one of ours");
    assert_eq!((fault.code, fault.argument("field")), (Code::Invalid, Some("shop_id")));
}

async fn pages_are_whole_and_within_their_bounds<Db: Store>(mut stage: Stage<Db>) {
    // Three share each time.
    let issued =
        |at: i64| events::CouponIssued { coupon_id: at, template_id: 4, template_version: 1, ..Default::default() };
    let all: Vec<_> = (0..10_u32)
        .map(|at| event(at.into(), 7, 1_000 + i64::from(at / 3), Payload::CouponIssued(issued(at.into()))))
        .collect();
    // What happened later may be written earlier.
    write(&stage.pool, &[&all[3..6], &all[9..], &all[..3], &all[6..9]].concat()).await;
    let client = &mut stage.client;
    for (from_ms, before_ms, want) in [(0, 0, 0..10), (1_001, 0, 3..10), (0, 1_003, 0..9), (1_001, 1_002, 3..6)] {
        let mut coupons = Vec::new();
        let mut after = String::new();
        loop {
            let request = pb::SearchRequest { user_id: 7, from_ms, before_ms, limit: 2, after, ..Default::default() };
            let page = client.search(request).await.expect("a page").into_inner();
            assert!(page.entries.len() <= 2);
            coupons.extend(page.entries.iter().map(|entry| entry.coupon_id));
            assert!(coupons.len() <= all.len(), "pages repeat: {coupons:?}");
            if page.next.is_empty() {
                break;
            }
            after = page.next;
        }
        assert_eq!(coupons, want.rev().collect::<Vec<_>>(), "from {from_ms} before {before_ms}");
    }
    // Entries as large as can be do not make a page that can not be sent.
    let large = |at: u64| {
        let after = "x".repeat(400 << 10);
        let change = events::OperatorChange { id: 1, operator: "eve".into(), after, ..Default::default() };
        event(at, 0, 5_000, Payload::OperatorChange(change))
    };
    write(&stage.pool, &(1..=8).map(large).collect::<Vec<_>>()).await;
    let request = pb::SearchRequest { operator: "eve".into(), ..Default::default() };
    let page = client.search(request.clone()).await.expect("a page").into_inner();
    assert!((1..8).contains(&page.entries.len()) && !page.next.is_empty(), "{}", page.entries.len());
    let rest = client.search(pb::SearchRequest { after: page.next, ..request }).await.expect("a page").into_inner();
    assert_eq!(page.entries.len() + rest.entries.len(), 8);

    let wrong = pb::SearchRequest { limit: 101, ..Default::default() };
    let status = client.search(wrong).await.expect_err("it is refused");
    assert_eq!(Fault::from_status(&status).map(|fault| fault.code), Some(Code::Invalid));
}

async fn old_entries_go_and_young_ones_stay<Db: Store>(mut stage: Stage<Db>) {
    let issued = |coupon_id| Payload::CouponIssued(events::CouponIssued { coupon_id, ..Default::default() });
    let hour_ago = SystemClock::start().now().0.cast_signed() - 3_600_000;
    // The first three are of 1970, and the last is of the next century.
    let all: Vec<_> = [(1, 10), (2, 11), (3, 12), (4, hour_ago), (5, 4_102_444_800_000)]
        .map(|(coupon_id, at_ms)| event(1, 7, at_ms, issued(coupon_id)))
        .into();
    write(&stage.pool, &all).await;
    let mut db = stage.pool.acquire().await.expect("it is open");
    for (limit, gone) in [(2, 2), (2, 1), (2, 0)] {
        assert_eq!(Db::purge(&mut db, 86_400_000, limit).await.expect("it is sound"), gone);
    }
    drop(db);
    let left = found(&mut stage.client, pb::SearchRequest::default()).await;
    assert_eq!(left.iter().map(|entry| entry.coupon_id).collect::<Vec<_>>(), [5, 4]);
}

/// A search by each key, and one by none, with its index.
fn searches() -> [(Search, &'static str); 5] {
    let any = Search { before: (i64::MAX, i64::MAX), limit: 20, ..Search::default() };
    [
        (Search { user_id: 7, ..any.clone() }, "business_log_user"),
        (Search { coupon_id: 7, user_id: 7, ..any.clone() }, "business_log_coupon"),
        (Search { order: Some((7, 7)), operator: "ann".into(), ..any.clone() }, "business_log_order"),
        (Search { operator: "ann".into(), ..any.clone() }, "business_log_operator"),
        (any, "business_log_time"),
    ]
}

macro_rules! bind_all {
    ($query:expr, $search:ident) => {{
        let mut query = $query;
        if $search.coupon_id > 0 {
            query = query.bind(7_i64);
        } else if $search.order.is_some() {
            query = query.bind(7_i64).bind(7_i64);
        } else if $search.user_id > 0 {
            query = query.bind(7_i64);
        } else if !$search.operator.is_empty() {
            query = query.bind(&$search.operator);
        }
        let (shop_id, order_id) = $search.order.unwrap_or_default();
        for number in [$search.user_id, $search.coupon_id, order_id] {
            query = query.bind(number).bind(number);
        }
        query = query.bind(shop_id);
        query = query.bind(&$search.operator).bind(&$search.operator).bind(0_i64);
        let until = i64::MAX;
        query.bind(until).bind(until).bind(until).bind(until).bind(20_i64)
    }};
}

#[tokio::test]
async fn every_search_stays_in_its_index() {
    let stage = sqlite().await;
    for (search, index) in searches() {
        let sql = format!("EXPLAIN QUERY PLAN {}", Sqlite::statement(&search));
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        let plan: Vec<(i64, i64, i64, String)> = bind_all!(query, search).fetch_all(&stage.pool).await.expect("a plan");
        let [(.., detail)] = &plan[..] else { panic!("{plan:?}") };
        assert!(detail.contains(&format!("SEARCH business_log USING INDEX {index} (")), "{detail}");
        assert!(detail.contains("at_ms>? AND at_ms<?"), "{detail}");
    }
    let Some(stage) = mariadb().await else { return };
    let issued =
        |at: i64| events::CouponIssued { coupon_id: at, template_id: 4, template_version: 1, ..Default::default() };
    let all: Vec<_> =
        (0..50_u32).map(|at| event(at.into(), 7, 1_000, Payload::CouponIssued(issued(at.into())))).collect();
    write(&stage.pool, &all).await;
    for (search, index) in searches() {
        let sql = format!("EXPLAIN FORMAT=JSON {}", MySql::statement(&search));
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
        let plan: String = bind_all!(query, search).fetch_one(&stage.pool).await.expect("a plan");
        assert!(plan.contains(&format!("\"key\": \"{index}\"")), "{plan}");
        assert!(!plan.contains("filesort") && !plan.contains("temporary"), "{plan}");
    }
}
