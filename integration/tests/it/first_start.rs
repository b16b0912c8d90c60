//! Several services and instances find an empty database at the same moment: each of them starts.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use sqlx::{MySql, Pool, Postgres, Sqlite};
use tercet::fence::{self, Dialect};
use tercet::tables::{self, Error};
use tercet_coupon::Shards;
use tercet_integration::servers;
use tercet_shards::{ShardMap, node};
use tokio::task::JoinSet;
use tokio::time::timeout;

const STARTS: usize = 8;
const ROUNDS: usize = 3;

/// A database in which all services can live.
trait Home:
    tercet_coupon::store::Store
    + node::Store
    + tercet_order::store::Store
    + tercet_stock::store::Store
    + tercet_business_log::store::Store
    + tercet_coupon_template::store::Store
{
}

impl Home for Sqlite {}
impl Home for MySql {}

/// What the processes of the platform do at their start, each with the next as its first.
async fn start<Db: Home>([url, templates]: [String; 2], first: usize) {
    let pool = Db::open(&url).await.unwrap_or_else(|error| panic!("start {first}: {error:?}"));
    // Its tables have names of which coupons have one too.
    let apart = Db::open(&templates).await.unwrap_or_else(|error| panic!("start {first}: {error:?}"));
    for at in 0..6 {
        let made = match (first + at) % 6 {
            0 => coupons(pool.clone()).await,
            1 => tercet_order::service(pool.clone(), None).await.map(drop).map_err(Into::into),
            2 => tercet_stock::service(pool.clone(), None).await.map(drop).map_err(Into::into),
            3 => tercet_coupon_template::service(apart.clone(), None).await.map(drop).map_err(Into::into),
            4 => <Db as tercet_business_log::store::Store>::migrate(&pool).await.map_err(Into::into),
            _ => fence::prepare(&pool).await.map_err(Into::into),
        };
        made.unwrap_or_else(|error: anyhow::Error| panic!("start {first}, tables {at}: {error:?}"));
    }
}

async fn coupons<Db: Home>(pool: Pool<Db>) -> anyhow::Result<()> {
    let shards = Shards::new(ShardMap::even(1, 4)?, vec![pool.clone()])?;
    shards.migrate().await?;
    Db::migrate_events(&pool).await?;
    let (_, keeper) = node::lease(pool, "first start", node::LEASE).await?;
    keeper.run(std::future::ready(())).await;
    Ok(())
}

async fn all_at_once(start: impl Fn(usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) {
    let mut starts = JoinSet::new();
    for first in 0..STARTS {
        starts.spawn(start(first));
    }
    while let Some(ended) = starts.join_next().await {
        ended.expect("it starts");
    }
}

fn file(folder: &Path, name: &str) -> String {
    format!("sqlite://{}/{name}.db", folder.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everyone_starts_on_an_empty_file() {
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a folder");
        let urls = ["all", "templates"].map(|name| file(folder.path(), name));
        all_at_once(|first| Box::pin(start::<Sqlite>(urls.clone(), first))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everyone_starts_on_an_empty_mariadb() {
    for _ in 0..ROUNDS {
        let Some(all) = servers::mariadb().await.expect("the server answers") else { return };
        let Some(templates) = servers::mariadb().await.expect("the server answers") else { return };
        all_at_once(|first| Box::pin(start::<MySql>([all.clone(), templates.clone()], first))).await;
    }
}

/// A process may be killed at any moment of its first start; the server ends the statement that it is at.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_first_start_that_was_cut_off_anywhere_is_gone_on_with_on_mariadb() {
    let Some(all) = servers::mariadb().await.expect("the server answers") else { return };
    let Some(templates) = servers::mariadb().await.expect("the server answers") else { return };
    for cut_ms in (20..).step_by(20) {
        let started = start::<MySql>([all.clone(), templates.clone()], 0);
        if timeout(Duration::from_millis(cut_ms), started).await.is_ok() {
            // The first cuts are while it connects.
            assert!(cut_ms >= 60, "nothing was cut off");
            break;
        }
    }
}

/// What a process leaves that is killed at its first start: versions that are begun, with some of their tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_statement_of_a_version_can_be_repeated_on_mariadb() {
    const OWNERS: [&str; 7] = ["tercet_fence", "tercet_events", "shards", "coupon", "order", "stock", "business_log"];
    let Some(all) = servers::mariadb().await.expect("the server answers") else { return };
    let Some(templates) = servers::mariadb().await.expect("the server answers") else { return };
    start::<MySql>([all.clone(), templates.clone()], 0).await;
    let pools = [MySql::open(&all).await.expect("it is there"), MySql::open(&templates).await.expect("it is there")];
    let run = async |pool: &Pool<MySql>, sql: &str| {
        let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}")).rows_affected()
    };
    let fence_id = sqlx::query_scalar::<_, Vec<u8>>("SELECT fence_id FROM tercet_fence_meta");
    let before = fence_id.fetch_one(&pools[0]).await.expect("it is one row");
    let owners = OWNERS.map(|owner| (&pools[0], owner)).into_iter().chain([(&pools[1], "coupon_template")]);
    for (pool, owner) in owners {
        assert!(run(pool, &format!("UPDATE {owner}_migrations SET success = FALSE")).await > 0, "{owner}");
    }
    let dropped =
        ["tercet_book", "tercet_outbox_relay", "tercet_inbox", "id_node", "job", "claimed_003", "basket_line"];
    for table in dropped {
        run(&pools[0], &format!("DROP TABLE {table}")).await;
    }
    all_at_once(|first| Box::pin(start::<MySql>([all.clone(), templates.clone()], first))).await;
    for table in dropped.into_iter().chain(["tercet_fence_meta"]) {
        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&pools[0]).await.expect("it was made again");
        let expected = match table {
            "id_node" => 128,
            "tercet_outbox_relay" | "job" | "tercet_fence_meta" => 1,
            _ => 0,
        };
        assert_eq!(count, expected, "{table}");
    }
    let fence_id = sqlx::query_scalar::<_, Vec<u8>>("SELECT fence_id FROM tercet_fence_meta");
    assert_eq!(fence_id.fetch_one(&pools[0]).await.expect("it is one row"), before);
}

/// Another build of this product died within a version that is not the one of this build.
#[tokio::test]
async fn what_was_begun_otherwise_is_refused_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let pool = MySql::open(&url).await.expect("the database is there");
    let (first, other) = ("CREATE TABLE IF NOT EXISTS a (n BIGINT)", "CREATE TABLE IF NOT EXISTS a (n TEXT)");
    tables::make(&pool, "first_start", tables::versions([first])).await.expect("the schema is sound");
    let begun = sqlx::query("UPDATE first_start_migrations SET success = FALSE").execute(&pool).await;
    assert_eq!(begun.expect("the table is there").rows_affected(), 1);
    let error = tables::make(&pool, "first_start", tables::versions([other])).await.expect_err("it is another");
    assert!(matches!(error, Error::Migrate(_)), "{error:?}");
    tables::make(&pool, "first_start", tables::versions([first])).await.expect("it is gone on with");
}

/// Tables that nobody else makes, many of them, so that two are at it at once.
async fn make<Db: Dialect>(url: String) {
    let pool = Db::open(&url).await.expect("the database is there");
    let schema = tables::versions(["CREATE TABLE a (n BIGINT)", "CREATE TABLE b (n BIGINT)", "DROP TABLE a"]);
    tables::make(&pool, "first_start", schema).await.unwrap_or_else(|error| panic!("{error:?}"));
    fence::prepare(&pool).await.unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everyone_starts_on_an_empty_postgres() {
    for _ in 0..ROUNDS {
        let Some(url) = servers::postgres().await.expect("the server answers") else { return };
        all_at_once(|_| Box::pin(make::<Postgres>(url.clone()))).await;
    }
}

/// What a later version wants to have been otherwise is refused, and the tables stay.
#[tokio::test]
async fn another_schema_than_the_one_that_was_applied_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = Sqlite::open(&file(folder.path(), "a")).await.expect("the folder is there");
    let (first, other) = ("CREATE TABLE a (n BIGINT)", "CREATE TABLE a (n TEXT)");
    tables::make(&pool, "first_start", tables::versions([first])).await.expect("the schema is sound");
    let error = tables::make(&pool, "first_start", tables::versions([other])).await.expect_err("it is another");
    assert!(matches!(error, Error::Migrate(_)), "{error:?}");
    // What fails half way leaves nothing behind.
    let broken = tables::versions([first, "CREATE TABLE b (n BIGINT)", "CREATE TABLE"]);
    tables::make(&pool, "first_start", broken).await.expect_err("it is no SQL");
    let made = tables::versions([first, "CREATE TABLE b (n BIGINT)"]);
    tables::make(&pool, "first_start", made).await.expect("nothing of it was made");
}
