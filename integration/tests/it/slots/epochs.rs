//! A redemption is changed by the epoch at which its writer knew where it is, or not at all.

use sqlx::{Connection as _, MySql, MySqlConnection};
use tercet::xid::Xid;
use tercet_coupon::store::redemptions::{Change, Redemption, Redemptions as _};
use tercet_shards::Slot;

use super::World;

const KEPT: &str = "UPDATE redemption SET state = 0, due_ms = 5, refunded_ms = NULL, refund_xid = NULL";
const REFUNDING: &str =
    "UPDATE redemption SET state = 6, refunded_ms = 5, refund_xid = '00000000-0000-0000-0000-000000000000'";

async fn run(connection: &mut MySqlConnection, sql: &'static str) -> sqlx::Result<u64> {
    Ok(sqlx::raw_sql(sql).execute(connection).await?.rows_affected())
}

fn kept() -> Redemption {
    Redemption { due_ms: 5, created_ms: 5, ..Redemption::kept(Slot::of_user(7).id(1), 7, (3, 9), "k".into()) }
}

#[tokio::test]
async fn what_is_changed_by_an_epoch_that_is_over_is_not_and_an_epoch_stays_while_anything_is_changed() {
    let Some(world) = World::new().await else { return };
    let mut writer = MySqlConnection::connect(&world.urls[0]).await.expect("it is there");
    let mut mover = MySqlConnection::connect(&world.urls[0]).await.expect("it is there");
    run(&mut mover, "SET SESSION innodb_lock_wait_timeout = 1").await.expect("there is such a setting");
    let (own, refusal) = (kept(), "SYSTEM_BUSY");
    let changes = [
        Change::Keep(&own, 5),
        Change::Take { due_ms: 5, due_after_ms: 9 },
        Change::Again { attempt: 0, due_after_ms: 9 },
        Change::Refuse { attempt: 0, refusal },
        Change::Promise,
        Change::GiveUp(refusal),
        Change::TakenBack(Xid::new([0; 16])),
        Change::Forget,
    ];
    for change in changes {
        let is_first = matches!(change, Change::Keep(..));
        let before = if matches!(change, Change::TakenBack(_)) { REFUNDING } else { KEPT };
        assert_eq!(run(&mut writer, before).await.expect("the table is there"), u64::from(!is_first));
        let mut db_tx = writer.begin().await.expect("it answers");
        let id = own.redemption_id;
        assert!(!MySql::change(&mut db_tx, id, change, 1).await.expect("it is sound"), "{change:?} by another epoch");
        assert!(MySql::change(&mut db_tx, id, change, 0).await.expect("it is sound"), "{change:?}");
        let next = run(&mut mover, "UPDATE tercet_fence_meta SET epoch = epoch + 1").await;
        assert!(next.is_err(), "the epoch ends before {change:?}");
        // What comes next needs the row.
        if is_first { db_tx.commit().await } else { db_tx.rollback().await }.expect("it answers");
    }
    run(&mut writer, "UPDATE redemption SET state = 3").await.expect("the table is there");
    let ids = [own.redemption_id];
    assert_eq!(MySql::delete(&mut writer, &ids, 1).await.expect("it is sound"), 0);
    assert_eq!(MySql::delete(&mut writer, &ids, 0).await.expect("it is sound"), 1);
}
