//! As the README has it: slots move from ten databases to twenty, with what was begun before and has not ended.

use std::collections::BTreeMap;

use tercet_coupon::store::seats::State;
use tercet_proto::participant::v1::Operation::{Cancel, Confirm, Try};
use tercet_proto::participant::v1::reply::Answer::{NotNowMs, Refused};
use tercet_shards::{ShardMap, Slot};

use super::{Branch, World, done, go_to};

const BEFORE: usize = 10;
const AFTER: usize = 20;

/// What each database had begun: a claim that holds, one that is confirmed, and one that was cancelled before its try.
struct Begun {
    holds: Branch,
    coupon_id: i64,
    cancelled: Branch,
}

fn database(user_id: i64) -> usize {
    Slot::of_user(user_id).number() % AFTER
}

#[tokio::test]
async fn slots_of_ten_databases_are_in_twenty_and_what_was_begun_before_ends_there() {
    let Some(mut world) = World::of(BEFORE, 1).await else { return };
    let old = world.instance(BEFORE).await;
    let (mut begun, mut expected) = (Vec::new(), BTreeMap::new());
    // Of each database one user who moves and one who stays.
    for place in 0..AFTER {
        let next = |after: i64| (after + 1..).find(|user_id| database(*user_id) == place).expect("there are many");
        let user_id = next(0);
        let (holds, coupon_id) = world.claim(user_id);
        let (confirmed, issued) = world.claim(next(user_id));
        let (cancelled, _) = world.claim(user_id);
        assert_eq!(holds.call(&old, Try).await, done());
        for operation in [Try, Confirm] {
            assert_eq!(confirmed.call(&old, operation).await, done());
        }
        assert_eq!(cancelled.call(&old, Cancel).await, done());
        expected.extend([(coupon_id, 0), (issued, 1)]);
        begun.push(Begun { holds, coupon_id, cancelled });
    }
    // One that knows of all twenty while they are empty, and is asleep until slots have moved.
    let asleep = world.instance(AFTER).await;
    let map = ShardMap::even(AFTER, 1).expect("the counts are within their limits");
    go_to(&world.mover().await, &map).await.expect("nothing is in its way");

    let statuses = async |world: &World| {
        let coupons = world.coupons().await;
        for (coupon_id, (database, _)) in &coupons {
            assert_eq!(*database, Slot::of_id(*coupon_id).number() % AFTER, "coupon {coupon_id}");
        }
        coupons.into_iter().map(|(id, (_, status))| (id, status)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(statuses(&world).await, expected);
    for said in world.said().await {
        let served = said.states.iter().filter(|state| **state == Some(State::Served)).count();
        assert!((51..=52).contains(&served), "each has its twentieth: {served}");
    }
    for (at, own) in begun.iter().enumerate() {
        // Whoever does not know that they have moved does nothing where they were.
        let operation = if at % 4 < 2 { Confirm } else { Cancel };
        let mut answer = own.holds.call(&asleep, operation).await;
        if let NotNowMs(_) = answer {
            answer = own.holds.call(&asleep, operation).await;
        }
        assert_eq!(answer, done(), "{at}");
        assert_eq!(own.holds.call(&asleep, operation).await, done(), "{at}: again");
        let late = own.cancelled.call(&asleep, Try).await;
        assert!(matches!(&late, Refused(reason) if reason.contains("cancelled before its try")), "{at}: {late:?}");
        expected.remove(&own.coupon_id);
        if operation == Confirm {
            expected.insert(own.coupon_id, 1);
        }
    }
    assert_eq!(statuses(&world).await, expected);
    let totals = tercet_coupon::audit(&world.shards(AFTER).await).await.expect("the tables are there");
    assert_eq!((totals.pending, totals.issued, totals.miscounted, totals.over_limit), (0, 30, 0, 0), "{totals:?}");
}
