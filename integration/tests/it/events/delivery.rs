//! Each event once for each group, whatever crashes in between.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message as _;
use tercet_events::bus::Record;
use tercet_events::event::{Event, Payload, Topic};
use tercet_events::limits::EVENT_BYTES_MAX;
use tercet_events::store::Position;
use tercet_proto::events::v1 as pb;

use super::on_all;
use super::stage::{Db, LEASE, LEDGER, Stage, WITNESS, eventually};

on_all! {
    what_is_published_twice_has_one_effect;
    a_consumer_that_dies_between_effect_and_commit_leaves_nothing_of_it;
    one_relay_at_a_time_publishes_and_another_takes_over;
    a_batch_is_published_again_under_the_same_numbers;
    a_relay_that_lost_its_place_changes_nothing_any_more;
    a_group_s_place_is_of_one_source_in_one_partition_and_only_rises;
    what_is_larger_than_a_statement_is_written_once_and_in_order;
}

fn record(sequence: i64, source: &str, n: i64) -> Record {
    let used = pb::CouponUsed { coupon_id: n, order_id: 1, ..pb::CouponUsed::default() };
    let event = pb::Event {
        source: source.into(),
        sequence: sequence.unsigned_abs(),
        version: 1,
        user_id: 1,
        payload: Some(Payload::CouponUsed(used)),
        ..pb::Event::default()
    };
    Record {
        topic: Topic::Coupon.name().into(),
        key: "1".into(),
        source: source.into(),
        sequence,
        letter: None,
        payload: Bytes::from(event.encode_to_vec()),
    }
}

async fn what_is_published_twice_has_one_effect<D: Db>(stage: Stage<D>) {
    let (ledger, witness) = (stage.ledger(), stage.witness());
    let all = [1, 2, 3].map(|n| record(n, "a", n));
    stage.bus.publish(&all).await.expect("it is up");
    assert_eq!(stage.until(&LEDGER, 1, 3).await, [1, 2, 3]);
    // A relay that was frozen sends its batch once more, another source has numbers of its own, and it goes on.
    let repeats = [record(2, "a", 2), record(1, "b", 10), record(3, "a", 3), record(4, "a", 4), record(4, "a", 4)];
    stage.bus.publish(&repeats).await.expect("it is up");
    assert_eq!(stage.until(&LEDGER, 1, 5).await, [1, 2, 3, 10, 4]);
    assert_eq!(stage.until(&WITNESS, 1, 5).await, [1, 2, 3, 10, 4]);
    ledger.stop().await;
    let ledger = stage.ledger();
    stage.bus.publish(&[record(1, "a", 1), record(5, "a", 5)]).await.expect("it is up");
    assert_eq!(stage.until(&LEDGER, 1, 6).await, [1, 2, 3, 10, 4, 5]);
    // What is a repeat stays one, whatever came since.
    stage.bus.publish(&[record(2, "a", 2)]).await.expect("it is up");
    stage.bus.publish(&[record(3, "a", 3), record(6, "a", 6)]).await.expect("it is up");
    assert_eq!(stage.until(&LEDGER, 1, 7).await, [1, 2, 3, 10, 4, 5, 6]);
    // Those of a producer without an outbox are numbered by the topic.
    stage.bus.publish(&[record(7, "", 7), record(8, "", 8)]).await.expect("it is up");
    assert_eq!(stage.until(&LEDGER, 1, 9).await[7..], [7, 8]);
    for running in [ledger, witness] {
        running.stop().await;
    }
}

async fn a_consumer_that_dies_between_effect_and_commit_leaves_nothing_of_it<D: Db>(stage: Stage<D>) {
    let (witness, relay) = (stage.witness(), stage.relay());
    stage.trap.held.store(true, Ordering::SeqCst);
    let ledger = stage.ledger();
    stage.write(1, 1..=5).await;
    stage.trap.holds.notified().await;
    ledger.crash().await;
    assert_eq!(stage.noted(&LEDGER, 1).await, [] as [i64; 0]);
    stage.trap.held.store(false, Ordering::SeqCst);
    // The next one panics before it does better.
    stage.trap.panics.store(true, Ordering::SeqCst);
    let ledger = stage.ledger();
    stage.write(1, [6]).await;
    assert_eq!(stage.until(&LEDGER, 1, 6).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(stage.until(&WITNESS, 1, 6).await, [1, 2, 3, 4, 5, 6]);
    for running in [ledger, witness, relay] {
        running.stop().await;
    }
    assert_eq!((stage.noted(&LEDGER, 1).await.len(), stage.noted(&WITNESS, 1).await.len()), (6, 6));
}

async fn one_relay_at_a_time_publishes_and_another_takes_over<D: Db>(stage: Stage<D>) {
    let (ledger, witness) = (stage.ledger(), stage.witness());
    let mut relays = vec![stage.relay()];
    stage.write(1, [1]).await;
    stage.until(&LEDGER, 1, 1).await;
    relays.extend([stage.relay(), stage.relay()]);
    for n in 2..=20 {
        stage.write(1, [n]).await;
        tokio::time::sleep(LEASE / 30).await;
        if n == 10 {
            relays.remove(0).crash().await;
        }
    }
    assert_eq!(stage.until(&LEDGER, 1, 20).await, (1..=20).collect::<Vec<_>>());
    for running in relays.into_iter().chain([ledger, witness]) {
        running.stop().await;
    }
    assert_eq!(stage.noted(&LEDGER, 1).await.len(), 20);
}

/// Seen from outside, where nobody knows repeats but by their numbers.
async fn a_batch_is_published_again_under_the_same_numbers<D: Db>(stage: Stage<D>) {
    let mut outside = stage.bus.subscribe(&LEDGER).await.expect("it is up");
    let witness = stage.witness();
    stage.write(1, 1..=3).await;
    let relay = stage.relay();
    let first = outside.next().await.expect("it is up");
    relay.crash().await;
    let ids = |events: &[tercet_events::bus::Delivered]| -> Vec<(String, u64, i64)> {
        let event = events.iter().map(|event| pb::Event::decode(event.payload.clone()).expect("it is one"));
        let number = |event: &pb::Event| match &event.payload {
            Some(Payload::CouponUsed(used)) => used.coupon_id,
            other => panic!("nobody has sent {other:?}"),
        };
        let event = event.inspect(|event| assert!(event.occurred_ms > 1_700_000_000_000, "when it was: {event:?}"));
        event.map(|event| (event.source.clone(), event.sequence, number(&event))).collect()
    };
    let mut seen = ids(&first.events);
    drop(first);
    stage.write(1, [4]).await;
    let relay = stage.relay();
    while seen.last().is_none_or(|last| last.2 != 4) {
        let batch = outside.next().await.expect("it is up");
        seen.extend(ids(&batch.events));
        outside.done(batch).expect("it is up");
    }
    let source = &seen[0].0;
    // Whether its repeat was needed depends on how far it had come: within a process nobody had taken it.
    assert!(stage.kafka.is_some() || seen.len() == 7, "{seen:?}");
    assert!(seen.iter().all(|(own, sequence, n)| own == source && *sequence == n.unsigned_abs()), "{seen:?}");
    let rows = async || {
        let look = D::outbox_look(&mut *stage.source.acquire().await.expect("it is open")).await.expect("it is sound");
        (look.rows == 0).then_some(())
    };
    eventually("the outbox is empty", rows).await;
    for running in [witness, relay] {
        running.stop().await;
    }
}

/// One that was frozen thinks that it is still the one.
async fn a_relay_that_lost_its_place_changes_nothing_any_more<D: Db>(stage: Stage<D>) {
    stage.write(1, 1..=3).await;
    let mut db = stage.source.acquire().await.expect("it is open");
    let taken = D::outbox_take(&mut db, "first", 60_000, false).await.expect("it is sound");
    let mut first = taken.expect("it is free");
    assert!(D::outbox_take(&mut db, "second", 60_000, false).await.expect("it is sound").is_none(), "it is held");
    let rows = D::outbox_next(&mut db, &mut first, 60_000).await.expect("it is sound").expect("it is the one");
    assert_eq!(rows.len(), 3);
    // Its time is over.
    assert!(D::outbox_renew(&mut db, first.epoch, -1).await.expect("it is sound"));
    let taken = D::outbox_take(&mut db, "second", 60_000, false).await.expect("it is sound");
    let mut second = taken.expect("it is free again");
    assert_eq!((&second.batch, second.sequence), (&first.batch, first.sequence), "it goes on with what was begun");
    assert!(!D::outbox_renew(&mut db, first.epoch, 60_000).await.expect("it is sound"));
    let mut db_tx = stage.source.begin_with(D::BEGIN_WRITE).await.expect("it is open");
    assert!(D::outbox_next(&mut db_tx, &mut first, 60_000).await.expect("it is sound").is_none());
    db_tx.rollback().await.expect("it is open");
    let begun = D::outbox_batch(&mut db, &second).await.expect("it is sound");
    assert_eq!(begun.iter().map(|row| row.id).collect::<Vec<_>>(), second.batch);
    let rows = D::outbox_next(&mut db, &mut second, 60_000).await.expect("it is sound").expect("it is the one");
    assert_eq!((rows.len(), second.sequence), (0, first.sequence + 3));
}

async fn a_group_s_place_is_of_one_source_in_one_partition_and_only_rises<D: Db>(stage: Stage<D>) {
    let mut db = stage.sink.acquire().await.expect("it is open");
    // Eight places, whose numbers differ.
    let places = |from: i64| -> Vec<Position> {
        (0..8)
            .map(|at: i32| {
                let [topic, source] = [at & 4, at & 1].map(|bit| if bit == 0 { "a" } else { "b" }.to_owned());
                Position { topic, partition: at >> 1 & 1, source, sequence: from + i64::from(at) }
            })
            .collect()
    };
    let of = |from: i64| (from..from + 8).collect::<Vec<_>>();
    for (consumer, from, before) in [
        ("one", 10, vec![-1; 8]),
        ("two", 20, vec![-1; 8]),
        ("one", 30, of(10)),
        // Repeats of what another has taken.
        ("one", 5, of(30)),
        ("one", 40, of(30)),
        ("two", 50, of(20)),
    ] {
        let found = D::inbox_enter(&mut db, consumer, &places(from)).await.expect("they are sorted");
        assert_eq!(found, before, "{consumer} from {from}");
    }
}

async fn what_is_larger_than_a_statement_is_written_once_and_in_order<D: Db>(stage: Stage<D>) {
    let large = |n, bytes| {
        let used = pb::CouponUsed { coupon_id: n, operator: "x".repeat(bytes), ..pb::CouponUsed::default() };
        Event::new(1, Payload::CouponUsed(used))
    };
    let (ledger, witness, relay) = (stage.ledger(), stage.witness(), stage.relay());
    let mut db_tx = stage.source.begin_with(D::BEGIN_WRITE).await.expect("it is open");
    stage.outbox.append::<D>(&mut db_tx, (1..=7).map(|n| large(n, 400 << 10))).await.expect("each is small enough");
    db_tx.commit().await.expect("nothing is in its way");
    let mut db_tx = stage.source.begin_with(D::BEGIN_WRITE).await.expect("it is open");
    let refused = stage.outbox.append::<D>(&mut db_tx, [large(8, EVENT_BYTES_MAX)]).await;
    assert!(matches!(refused, Err(sqlx::Error::Encode(_))), "{refused:?}");
    db_tx.rollback().await.expect("it is open");
    stage.write(1, [9]).await;
    assert_eq!(stage.until(&LEDGER, 1, 8).await, [1, 2, 3, 4, 5, 6, 7, 9]);
    for running in [ledger, witness, relay] {
        running.stop().await;
    }
}
