//! A mover that goes on by what it saw before others moved its slots.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _, MySql, Pool};
use tercet_coupon::mover::{Error, Group, Mover};
use tercet_coupon::store::seats::State::{self, Arriving, Frozen, Served};

use super::{World, go, poll};

/// How a group's first slot stands where it is and where it is going.
async fn stands(watch: &Mover, group: &Group) -> [Option<State>; 2] {
    let said = watch.said().await.expect("they answer");
    [group.from, group.to].map(|at| said[at].states[group.slots[0].number()])
}

/// Lets a run go on until a group's first slot stands so, and then falls asleep.
async fn until<F: Future>(mut run: Pin<&mut F>, watch: &Mover, group: &Group, wanted: [State; 2]) {
    while stands(watch, group).await != wanted.map(Some) {
        assert!(poll(run.as_mut(), 1).await.is_none(), "it ends before");
    }
}

#[tokio::test]
async fn slots_that_another_has_frozen_are_not_noted_as_left_by_who_had_frozen_them_before() {
    let Some(world) = World::new().await else { return };
    let (watch, sleeper, awake) = (world.mover().await, world.mover().await, world.mover().await);
    let group = sleeper.plan(&World::map(4)).await.expect("they answer").remove(0);
    let mut asleep = pin!(sleeper.go(&group));
    until(asleep.as_mut(), &watch, &group, [Frozen, Served]).await;
    // They come back, and are about to leave again.
    go(&world.mover().await, 2).await.expect("nothing is in its way");
    let mut again = pin!(awake.go(&group));
    until(again.as_mut(), &watch, &group, [Frozen, Arriving]).await;
    let woken = asleep.await;
    assert!(matches!(woken, Err(Error::Taken(_))), "{woken:?}");
    assert_eq!(stands(&watch, &group).await, [Frozen, Arriving].map(Some));
    again.await.expect("nothing is in its way");
}

#[tokio::test]
async fn slots_that_nobody_serves_any_more_when_they_are_taken_are_not_noted_as_left() {
    let Some(world) = World::new().await else { return };
    let (watch, mover) = (world.mover().await, world.mover().await);
    let mut group = mover.plan(&World::map(4)).await.expect("they answer").remove(0);
    group.slots.truncate(1);
    let slot = group.slots[0].number();
    let run = async |pool: &Pool<MySql>, sql: String| {
        pool.execute(AssertSqlSafe(sql)).await.expect("the table is there");
    };
    let (from, to) = (world.pool(group.from).await, world.pool(group.to).await);
    run(&from, format!("UPDATE slot SET state = 2 WHERE slot = {slot}")).await;
    run(&to, format!("INSERT INTO slot(slot, state, mover) VALUES ({slot}, 1, 1)")).await;
    // The database that is asked last makes it wait, having heard of the others that they are served elsewhere.
    let last = world.pool(3).await;
    assert!(group.from < 3 && group.to < 3, "{group:?}");
    let mut held = last.acquire().await.expect("it is there");
    held.execute("LOCK TABLES slot WRITE").await.expect("nobody has them");
    let come_back = async {
        let waits = "SELECT COUNT(*) FROM information_schema.PROCESSLIST
            WHERE DB = DATABASE() AND STATE LIKE 'Waiting for table%'";
        let deadline = Instant::now() + Duration::from_secs(30);
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&last).await.expect("it answers") == 0 {
            assert!(Instant::now() < deadline, "it never waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Meanwhile they have come back, and are about to leave again.
        run(&to, format!("UPDATE slot SET state = 0 WHERE slot = {slot}")).await;
        held.execute("UNLOCK TABLES").await.expect("it has them");
    };
    let (finished, ()) = tokio::join!(mover.finish(), come_back);
    assert_eq!(finished.expect("nothing is in its way"), 0);
    assert_eq!(stands(&watch, &group).await, [Frozen, Arriving].map(Some));
    mover.give_up().await.expect("they answer");
    assert_eq!(stands(&watch, &group).await[0], Some(Served));
}
