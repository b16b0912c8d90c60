//! Slots wait for the events of their users to be published, and what happens to them meanwhile comes with them.

use std::time::Duration;

use sqlx::{MySql, Pool};
use tercet_coupon::mover::{Error, Group, Moved, Mover, limits};
use tercet_coupon::store::seats::State;
use tercet_events::outbox::Outbox;
use tercet_shards::Slot;
use tokio::time::{sleep, timeout};

use super::World;
use super::rows::{checksums, run, user};

/// Longer than a move of few rows takes.
const LONG: Duration = Duration::from_secs(1);

/// Slots that are about to move, and an event of one of their users, which nobody publishes but the test.
struct Stage {
    world: World,
    from: Pool<MySql>,
    mover: Mover,
    group: Group,
}

impl Stage {
    async fn new() -> Option<Self> {
        let world = World::new().await?;
        let (mover, from) = (world.mover().await, world.pool(0).await);
        Outbox::open(std::slice::from_ref(&from)).await.expect("the schema is sound");
        let group = mover.plan(&World::map(4)).await.expect("they answer").remove(0);
        let stage = Self { world, from, mover, group };
        stage.write(user(true)).await;
        Some(stage)
    }

    async fn write(&self, key: impl std::fmt::Display) {
        run(&self.from, format!("INSERT INTO tercet_outbox VALUES (0, 'coupon', '{key}', 1, NULL, '')")).await;
    }

    /// The first of its key.
    async fn publish(&self, key: impl std::fmt::Display) {
        let sql = format!("DELETE FROM tercet_outbox WHERE record_key = '{key}' ORDER BY id LIMIT 1");
        assert_eq!(run(&self.from, sql).await, 1);
    }

    /// Writes a row of the user's slot where it is.
    async fn notice(&self, order_id: i64) {
        let (user_id, slot) = (user(true), Slot::of_user(user(true)).number());
        run(&self.from, format!("INSERT INTO paid_notice VALUES ({order_id}, 0, {user_id}, 900, {slot})")).await;
    }

    /// How the user's slot stands where it was, and where it goes.
    async fn stands(&self) -> [Option<State>; 2] {
        let said = self.world.said().await;
        [self.group.from, self.group.to].map(|at| said[at].states[Slot::of_user(user(true)).number()])
    }

    /// Waits until rows are copied.
    async fn arriving(&self) {
        while self.stands().await != [Some(State::Served), Some(State::Arriving)] {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Moves them while something else happens.
    async fn go(&self, meanwhile: impl Future<Output = ()>) -> Result<Moved, Error> {
        let patience = limits::RELAY_MAX - 5 * LONG;
        let meanwhile = async {
            meanwhile.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            went = timeout(patience, self.mover.go(&self.group)) => went.expect("it waits for nobody else's events"),
            () = meanwhile => unreachable!("it waits for ever"),
        }
    }
}

#[tokio::test]
async fn slots_wait_for_the_events_of_their_users_and_for_no_others() {
    let Some(stage) = Stage::new().await else { return };
    let (own, other, strange) = (user(true).to_string(), user(false), "x".to_owned());
    stage.write(other).await;
    stage.write(&strange).await;
    let meanwhile = async {
        stage.arriving().await;
        for key in [&own, &strange] {
            sleep(LONG).await;
            assert_eq!(stage.stands().await, [Some(State::Served), Some(State::Arriving)], "it waits for {key}");
            // One that is written meanwhile is waited for once they are frozen.
            stage.write(&own).await;
            stage.publish(key).await;
        }
    };
    let went = stage.go(meanwhile).await;
    assert!(matches!(went, Err(Error::Events(0))), "{went:?}");
    assert_eq!(stage.stands().await, [Some(State::Served), Some(State::Left)], "they are served where they were");
    for _ in 0..2 {
        stage.publish(&own).await;
    }
    stage.go(async {}).await.expect("nothing is in its way");
    assert_eq!(stage.stands().await, [Some(State::Left), Some(State::Served)]);
}

#[tokio::test]
async fn what_is_written_when_all_else_is_copied_comes_too_and_nothing_of_what_is_given_up() {
    let Some(stage) = Stage::new().await else { return };
    stage.notice(1).await;
    let copied = async {
        while stage.world.rows(2).await == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    // One is killed while it waits, and a person gives up what it has begun.
    tokio::select! {
        went = stage.mover.go(&stage.group) => panic!("it does not wait: {went:?}"),
        () = copied => {}
    }
    stage.world.mover().await.give_up().await.expect("they answer");
    assert_eq!((stage.stands().await, stage.world.rows(2).await), ([Some(State::Served), Some(State::Empty)], 0));
    let meanwhile = async {
        stage.arriving().await;
        sleep(LONG).await;
        stage.notice(2).await;
        stage.publish(user(true)).await;
    };
    stage.go(meanwhile).await.expect("nothing is in its way");
    assert_eq!(checksums(&stage.world.pool(2).await).await, checksums(&stage.from).await);
}
