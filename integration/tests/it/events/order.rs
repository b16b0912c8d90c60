//! The order of each user's events, whoever writes at once and whatever is committed late.

use sqlx::MySql;

use super::on_all;
use super::stage::{Db, LEDGER, Stage, event};

on_all! {
    each_user_s_events_keep_their_order_under_concurrent_writers;
}

const USERS: i64 = 4;
const WRITERS: i64 = 6;
const EACH: i64 = 40;

/// Writers raise the numbers of few users, and relays crash meanwhile: each number comes once, and in its order.
async fn each_user_s_events_keep_their_order_under_concurrent_writers<D: Db>(stage: Stage<D>) {
    let (ledger, witness) = (stage.ledger(), stage.witness());
    let writers = (0..WRITERS).map(|writer| {
        let (pool, outbox) = (stage.source.clone(), stage.outbox.clone());
        tokio::spawn(async move {
            for turn in 0..EACH {
                let user_id = (writer + turn) % USERS + 1;
                let mut db_tx = pool.begin_with(D::BEGIN_WRITE).await.expect("the pool is open");
                let n = D::raise(&mut db_tx, user_id).await;
                outbox.append::<D>(&mut db_tx, [event(user_id, n)]).await.expect("it is small");
                db_tx.commit().await.expect("nothing is in its way");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut relay = stage.relay();
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        relay.crash().await;
        relay = stage.relay();
    }
    for writer in writers {
        writer.await.expect("it writes");
    }
    let each = WRITERS * EACH / USERS;
    for user_id in 1..=USERS {
        let noted = stage.until(&LEDGER, user_id, each as usize).await;
        assert_eq!(noted, (1..=each).collect::<Vec<_>>(), "user {user_id}");
    }
    for running in [relay, ledger, witness] {
        running.stop().await;
    }
    for user_id in 1..=USERS {
        assert_eq!(stage.noted(&LEDGER, user_id).await.len(), each as usize, "nothing comes twice");
    }
}

/// The row with the lower id appears when the one with the higher id has long been published.
#[tokio::test]
async fn a_row_that_is_committed_late_is_published_late_and_not_lost() {
    let Some(stage) = Stage::<MySql>::within().await else { return };
    let (ledger, witness, relay) = (stage.ledger(), stage.witness(), stage.relay());
    let mut late = stage.source.begin().await.expect("the pool is open");
    stage.outbox.append::<MySql>(&mut late, [event(1, 1)]).await.expect("it is small");
    stage.write(2, [1, 2]).await;
    assert_eq!(stage.until(&LEDGER, 2, 2).await, [1, 2]);
    late.commit().await.expect("nothing is in its way");
    assert_eq!(stage.until(&LEDGER, 1, 1).await, [1]);
    // What was rolled back leaves a gap among the ids, which nobody waits for.
    let mut gone = stage.source.begin().await.expect("the pool is open");
    stage.outbox.append::<MySql>(&mut gone, [event(1, 2)]).await.expect("it is small");
    gone.rollback().await.expect("it is open");
    stage.write(1, [3]).await;
    assert_eq!(stage.until(&LEDGER, 1, 2).await, [1, 3]);
    for running in [ledger, witness, relay] {
        running.stop().await;
    }
}
