//! Shards on real databases: node ids that are leased, tables that are found by index, and nothing outside its shard.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{AssertSqlSafe, MySql, Pool, Row as _, Sqlite};
use tercet::fence::Dialect as _;
use tercet_coupon::Shards;
use tercet_coupon::store::{Kind, Statement};
use tercet_integration::servers;
use tercet_shards::node::{self, Error};
use tercet_shards::{Parts, ShardMap, Slot};

const LEASE: Duration = Duration::from_millis(400);
const MARIADB_TABLES: usize = 4;

/// A holder that went on for too long finds its node taken, and every id is one all the same.
async fn leases<Db: node::Store>(pool: Pool<Db>) {
    let slot = Slot::of_user(7);
    let mut made = HashSet::new();
    let (first, mut first_keeper) = node::lease(pool.clone(), "first", LEASE).await.expect("nodes are free");
    let (second, _) = node::lease(pool.clone(), "second", LEASE).await.expect("nodes are free");
    let one = first.next(slot).await.expect("it has a lease");
    let two = second.next(slot).await.expect("it has a lease");
    assert_ne!(Parts::of(one).node, Parts::of(two).node);
    assert!(two > one, "it began after every lease that there was");
    made.extend([one, two]);
    // The first is frozen; its lease ends, and every other node is taken, so that the next gets the first's.
    tokio::time::sleep(LEASE * 2).await;
    let mut others = Vec::new();
    let taken = loop {
        let other = node::lease(pool.clone(), "other", Duration::from_secs(60)).await;
        match other {
            Ok((ids, keeper)) => {
                let id = ids.next(slot).await.expect("it has a lease");
                assert!(made.insert(id), "{:?} twice", Parts::of(id));
                others.push(keeper);
                if Parts::of(id).node == Parts::of(one).node {
                    break Parts::of(id);
                }
            }
            Err(error) => panic!("the node of the first was never taken: {error}"),
        }
    };
    assert!(taken.time_ms > Parts::of(one).time_ms);
    // Woken up, it has nothing left to give, and takes another node at its next beat.
    let beat = first_keeper.beat().await;
    match beat {
        Ok(()) => {
            let id = first.next(slot).await.expect("it has a lease again");
            assert_ne!(Parts::of(id).node, taken.node);
            assert!(made.insert(id) && id > one, "{:?}", Parts::of(id));
        }
        Err(error) => assert!(matches!(error, Error::AllHeld), "{error}"),
    }
}

#[tokio::test]
async fn a_node_is_leased_once_at_a_time_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/ids.db", folder.path().display());
    leases(Sqlite::open(&url).await.expect("the folder is there")).await;
}

#[tokio::test]
async fn a_node_is_leased_once_at_a_time_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    leases(MySql::open(&url).await.expect("the database is there")).await;
}

#[tokio::test]
async fn a_lease_that_is_given_up_is_free_at_once_and_time_goes_on_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/ids.db", folder.path().display());
    let pool = Sqlite::open(&url).await.expect("the folder is there");
    let long = Duration::from_secs(3_600);
    let (ids, keeper) = node::lease(pool.clone(), "first", long).await.expect("nodes are free");
    let last = ids.next(Slot::of_user(7)).await.expect("it has a lease");
    keeper.run(std::future::ready(())).await;
    let held: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM id_node WHERE owner <> ''")
        .fetch_one(&pool)
        .await
        .expect("the table is there");
    assert_eq!(held, 0);
    let (again, _) = node::lease(pool, "second", long).await.expect("nodes are free");
    let next = again.next(Slot::of_user(7)).await.expect("it has a lease");
    assert!(next > last && Parts::of(next).time_ms < Parts::of(last).time_ms + 3_600_000, "{:?}", Parts::of(next));
}

/// Every statement of a claim, a redemption, a look-up and a job, with rows as they come, and the index it goes by.
fn statements(coupon_id: i64, user_id: i64) -> Vec<(Kind, String, &'static str)> {
    vec![
        (Kind::LockCounts, format!("[[0,{coupon_id},1,{user_id},5]]"), "PRIMARY"),
        (Kind::Standings, format!("[[0,{coupon_id},1,{user_id}]]"), "PRIMARY"),
        (Kind::Count, format!("[[{user_id},1,1,9,5]]"), "PRIMARY"),
        (Kind::Uncount, format!("[[{user_id},1,1,5,1]]"), "PRIMARY"),
        (Kind::Delete, format!("[{coupon_id}]"), "PRIMARY"),
        (Kind::Coupons, format!("[{coupon_id}]"), "PRIMARY"),
        (Kind::Advance, format!("[[{coupon_id},1,2,9,100,500]]"), "PRIMARY"),
        (Kind::Void, format!("[{coupon_id}]"), "PRIMARY"),
        (Kind::Pending, format!("[{user_id}]"), "of_user"),
        (Kind::Coupon, format!("[{coupon_id}]"), "PRIMARY"),
        (Kind::Keyed, format!("[{user_id},5]"), "by_key"),
        (Kind::Look, format!("[{coupon_id}]"), "PRIMARY"),
        (Kind::Usable, format!("[{user_id},20]"), "of_user"),
        (Kind::OfUser, format!("[{user_id},1,{},20]", i64::MAX), "of_user"),
        (Kind::Page, format!("[{},0,-1,200]", i64::MAX), "PRIMARY"),
        (Kind::EndedWith, format!("[5,{coupon_id},1000,500]"), "by_end"),
        (Kind::EndedAfter, "[5,0,1000,500]".to_owned(), "by_end"),
    ]
}

#[tokio::test]
async fn no_statement_leaves_its_index_or_its_shard() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let map = ShardMap::even(1, MARIADB_TABLES).expect("the counts are within their limits");
    let shards = Shards::<MySql>::open(map, &[url]).await.expect("the database is there");
    shards.migrate().await.expect("the schema is sound");
    let coupons: Vec<_> =
        (1..=4_000).map(|number| tercet_coupon::claim_by_hand(number, 1 + number % 1_000, 1, 9)).collect();
    tercet_coupon::seed_coupons(&shards, &coupons).await.expect("they are new");
    let table = shards.map().table(Slot::of_user(7));
    let names = [format!("coupon_{table:03}"), format!("claimed_{table:03}")];
    for name in &names {
        let sql = format!("ANALYZE TABLE {name}");
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(shards.home()).await.expect("the table is there");
    }
    let mut looked_up = HashSet::new();
    for (kind, about, index) in statements(Slot::of_user(7).id(6), 7) {
        let text = Statement { kind, table, about }.mysql();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_table = word.starts_with("coupon_0") || word.starts_with("claimed_0");
            assert!(!is_table || names.iter().any(|name| name == word), "{kind:?} is about {word} too: {text}");
        }
        let plan = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {text}"))).fetch_all(shards.home()).await;
        for row in plan.unwrap_or_else(|error| panic!("{kind:?}: {error}: {text}")) {
            let of = |name: &str| row.try_get::<Option<String>, _>(name).expect("EXPLAIN has it").unwrap_or_default();
            let (name, access, key) = (of("table"), of("type"), of("key"));
            // Rows that came with the statement are no table's, and an INSERT looks nothing up.
            let aliases = ["c", "u", "k"].map(str::to_owned);
            let index = if name == "k" { "by_key" } else { index };
            if !(names.contains(&name) || aliases.contains(&name)) || of("select_type") == "INSERT" {
                continue;
            }
            let bounded = ["const", "eq_ref", "ref", "range", "system"].contains(&access.as_str());
            assert!(bounded && key == index, "{kind:?} reads {name} by {access} of {key:?}, not of {index}: {text}");
            looked_up.insert(key);
        }
    }
    assert_eq!(looked_up, HashSet::from(["PRIMARY", "of_user", "by_key", "by_end"].map(str::to_owned)));
}
