//! Rows of every kind come with their slots, whole and alone, and what is to be known of them where they come to.

use std::pin::pin;

use sqlx::{AssertSqlSafe, MySql, Pool, Row as _};
use tercet_coupon::mover::{Error, Group, limits};
use tercet_shards::Slot;

use super::{World, go, poll};

/// The tables that have rows of slots of the first table.
const TABLES_OF_SLOTS: [&str; 6] =
    ["coupon_000", "claimed_000", "redemption", "paid_notice", "issue_chunk", "tercet_fence"];

pub(super) async fn run(pool: &Pool<MySql>, sql: String) -> u64 {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.expect("it is sound").rows_affected()
}

/// Of all that a database has in each of those tables.
pub(super) async fn checksums(pool: &Pool<MySql>) -> Vec<Option<u64>> {
    let sql = format!("CHECKSUM TABLE {}", TABLES_OF_SLOTS.join(", "));
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(pool).await.expect("the tables are there");
    rows.iter().map(|row| row.try_get_unchecked(1).expect("it is a number or none")).collect()
}

/// The first user of a slot of the first table that moves, or of one that stays.
pub(super) fn user(moves: bool) -> i64 {
    let is_it = |user_id: &i64| {
        let number = Slot::of_user(*user_id).number();
        number < 256 && number % 4 == if moves { 2 } else { 0 }
    };
    (1..).find(is_it).expect("there are many")
}

/// Writes rows of a user's slot, so many of some tables, with everything that columns may have.
async fn fill(pool: &Pool<MySql>, user_id: i64, rows: usize) {
    let slot = Slot::of_user(user_id).number();
    for sql in [
        format!(
            "INSERT INTO coupon_000 SELECT seq * 1024 + {slot}, {user_id}, seq % 9, 1, IF(seq % 3 = 0, 3, 1),
                IF(seq % 3 = 0, 0, NULL), IF(seq % 3 = 0, seq, NULL), IF(seq % 3 = 0, -1, NULL), 5, -5, 1 << 60,
                IF(seq % 3 = 0, 7, NULL), 0, IF(seq % 2 = 0, -seq, NULL), seq FROM seq_1_to_{rows}"
        ),
        format!("INSERT INTO claimed_000 SELECT {user_id}, seq, seq, 9, 3, 0 FROM seq_1_to_3"),
        format!(
            "INSERT INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content, state,
                refusal, due_ms, created_ms, refunded_ms, refund_xid, refund_operator, refund_reason)
            SELECT seq * 1024 + {slot}, {user_id}, 3, seq, CONCAT(UNHEX('00ff27'), seq), '', UNHEX('5c00'),
                IF(seq = 1, 4, 2), '退''\\\\', 5, 5, IF(seq = 1, 9, NULL), IF(seq = 1, REPEAT('0', 36), NULL),
                IF(seq = 1, '安', NULL), IF(seq = 1, '', NULL) FROM seq_1_to_2"
        ),
        format!("INSERT INTO paid_notice VALUES ({user_id}, 3, {user_id}, 900, {slot})"),
        format!("INSERT INTO issue_chunk SELECT 4, seq * 1024 + {slot}, seq FROM seq_1_to_2"),
        // Two of each transaction.
        format!(
            "INSERT INTO tercet_fence SELECT UNHEX(LPAD(HEX((seq DIV 2) * 1024 + {slot}), 32, '0')), seq % 2, 2, 1,
                IF(seq % 3 = 0, NULL, IF(seq % 3 = 1, '', UNHEX('02002c27'))), {slot} FROM seq_1_to_{rows}"
        ),
    ] {
        run(pool, sql).await;
    }
}

#[tokio::test]
async fn rows_of_every_kind_come_whole_and_those_of_others_stay() {
    let Some(world) = World::new().await else { return };
    let (mover, from, to) = (world.mover().await, world.pool(0).await, world.pool(2).await);
    let rows = limits::PAGE + 1;
    fill(&from, user(true), rows).await;
    let moving = checksums(&from).await;
    for table in TABLES_OF_SLOTS {
        run(&from, format!("DELETE FROM {table}")).await;
    }
    fill(&from, user(false), rows).await;
    let staying = checksums(&from).await;
    fill(&from, user(true), rows).await;
    // What an earlier move left there, and was not deleted.
    run(&to, format!("INSERT INTO issue_chunk VALUES (5, {}, 1)", 1024 + Slot::of_user(user(true)).number())).await;
    let group = mover.plan(&World::map(4)).await.expect("they answer").remove(0);
    let moved = mover.go(&group).await.expect("nothing is in its way");
    assert_eq!(moved.copied, (2 * rows as u64 + 9, 0), "none of them under the freeze");
    mover.finish().await.expect("they answer");
    assert_eq!(checksums(&to).await, moving, "{TABLES_OF_SLOTS:?}");
    assert_eq!(checksums(&from).await, staying, "{TABLES_OF_SLOTS:?}");
}

#[tokio::test]
async fn whoever_deletes_what_slots_left_behind_deletes_nothing_when_they_have_come_back() {
    let Some(world) = World::new().await else { return };
    let (mover, from) = (world.mover().await, world.pool(0).await);
    fill(&from, user(true), 9).await;
    let all = checksums(&from).await;
    let there = mover.plan(&World::map(4)).await.expect("they answer").remove(0);
    let back = Group { from: there.to, to: there.from, ..there.clone() };
    let (mut polls, mut refused) = (16, 0);
    loop {
        mover.go(&there).await.expect("nothing is in its way");
        let mut deleting = pin!(mover.finish());
        if poll(deleting.as_mut(), polls).await.is_some() {
            break;
        }
        // Whoever it was falls asleep.
        world.mover().await.go(&back).await.expect("nothing is in its way");
        refused += usize::from(matches!(deleting.await, Err(Error::Taken(0))));
        assert_eq!(checksums(&from).await, all, "after {polls} polls");
        mover.finish().await.expect("they answer");
        polls += polls / 2;
    }
    assert!(refused > 0, "it was never asleep with rows to delete");
}

#[tokio::test]
async fn a_mover_that_planned_before_slots_came_leaves_them_where_they_have_come_to() {
    let Some(world) = World::new().await else { return };
    let mover = world.mover().await;
    let group = mover.plan(&World::map(4)).await.expect("they answer").remove(0);
    // Another has served them there, and died.
    for slot in &group.slots {
        let number = slot.number();
        run(&world.pool(0).await, format!("UPDATE slot SET state = 2 WHERE slot = {number}")).await;
        run(&world.pool(2).await, format!("INSERT INTO slot VALUES ({number}, 1, 7)")).await;
    }
    let before = world.said().await;
    let went = mover.go(&group).await;
    assert!(matches!(went, Err(Error::Taken(2))), "{went:?}");
    assert_eq!(world.said().await, before);
}

/// How far tables are expired, by number.
async fn expired(pool: &Pool<MySql>) -> Vec<(i64, i64, i64)> {
    const SQL: &str = "SELECT table_n, until_ms, coupon_id FROM expiry ORDER BY table_n";
    sqlx::query_as(SQL).fetch_all(pool).await.expect("the table is there")
}

#[tokio::test]
async fn the_floor_and_how_far_tables_are_expired_come_with_slots() {
    let Some(world) = World::new().await else { return };
    let mover = world.mover().await;
    for (at, floor_ms, rows) in [
        (0, 70, "(0, 10, 5), (1, 20, 5), (2, 10, 9), (3, 10, 5)"),
        (2, 60, "(0, 20, 7), (1, 10, 7), (2, 10, 4)"),
        (1, 50, "(2, 10, 4)"),
        (3, 80, "(1, 10, 5), (2, 10, 9)"),
    ] {
        let pool = world.pool(at).await;
        run(&pool, format!("INSERT INTO expiry VALUES {rows}")).await;
        run(&pool, format!("UPDATE tercet_fence_meta SET floor_ms = {floor_ms}")).await;
    }
    go(&mover, 4).await.expect("nothing is in its way");
    let floor = async |at| {
        let sql = "SELECT floor_ms FROM tercet_fence_meta";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&world.pool(at).await).await.expect("the row is there")
    };
    assert_eq!((floor(2).await, floor(3).await), (70, 80), "never below either");
    // Whichever has expired less.
    assert_eq!(expired(&world.pool(2).await).await, [(0, 10, 5), (1, 10, 7), (2, 10, 4), (3, 10, 5)]);
    assert_eq!(expired(&world.pool(3).await).await, [(0, 0, 0), (1, 0, 0), (2, 10, 4), (3, 0, 0)]);
}
