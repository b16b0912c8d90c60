//! What can not be taken is put away with its reason, holds up nobody, and comes back to whom it belongs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message as _;
use tercet_events::bus::Record;
use tercet_events::dead::{self, Fate, Letter};
use tercet_proto::events::v1 as pb;

use super::on_all;
use super::stage::{Db, LEDGER, Stage, WITNESS, eventually};

on_all! {
    a_poison_message_is_put_away_and_comes_back;
    what_can_not_be_taken_now_is_taken_later_and_is_no_letter;
}

/// What the ledger could not take, by the way that its stage keeps it.
async fn letters<D: Db>(stage: &Stage<D>, fate: Option<Fate>) -> Vec<Letter> {
    let mut found = Vec::new();
    if stage.kafka.is_some() {
        let show = |_: &str, one: &dead::InTopic| {
            assert_eq!(one.key, "1", "what keeps its order");
            found.push(one.letter.clone());
        };
        dead::in_topic(&stage.bus, "coupon", LEDGER.name, fate, usize::MAX, show).await.expect("it is up");
        return found;
    }
    let kept = dead::kept(&stage.sink, 0, 100).await.expect("it is sound");
    for kept in kept.into_iter().filter(|kept| kept.letter.group == LEDGER.name) {
        assert_eq!(kept.key, "1", "what keeps its order");
        if let Some(fate) = fate {
            assert!(dead::settle(&stage.sink, kept.id, fate).await.expect("it is sound"));
        }
        found.push(kept.letter);
    }
    found
}

async fn a_poison_message_is_put_away_and_comes_back<D: Db>(stage: Stage<D>) {
    stage.trap.refused.store(13, Ordering::SeqCst);
    let (ledger, witness, relay, sink_relay) = (stage.ledger(), stage.witness(), stage.relay(), stage.sink_relay());
    stage.write(1, 1..=20).await;
    let without: Vec<i64> = (1..=20).filter(|n| *n != 13).collect();
    assert_eq!(stage.until(&LEDGER, 1, 19).await, without);
    assert_eq!(stage.until(&WITNESS, 1, 20).await, (1..=20).collect::<Vec<_>>());
    let one = async |count| {
        let found = letters(&stage, None).await;
        (found.len() == count).then_some(found)
    };
    let found = eventually("one letter", async || one(1).await).await;
    let Letter { group, topic, sequence, reason, attempts, .. } = &found[0];
    assert_eq!((group.as_str(), topic.as_str(), *sequence, *attempts), ("ledger", "coupon", 13, 5));
    assert_eq!(reason, "13 brings bad luck");
    if stage.kafka.is_none() {
        let kept = dead::kept(&stage.sink, 0, 100).await.expect("it is sound");
        let next = dead::kept(&stage.sink, kept[0].id, 100).await.expect("it is sound");
        assert_eq!((kept.len(), next.len()), (1, 0), "a page begins above the one before");
    }

    // One that is still refused is put away once more.
    letters(&stage, Some(Fate::Back)).await;
    eventually("it is put away again", async || one(1).await).await;
    stage.trap.refused.store(0, Ordering::SeqCst);
    assert_eq!(letters(&stage, Some(Fate::Back)).await.len(), 1);
    let noted = stage.until(&LEDGER, 1, 20).await;
    assert_eq!(noted.iter().filter(|n| **n == 13).count(), 1);
    assert_eq!(letters(&stage, None).await, []);

    // Nobody could take these. They are given up.
    let newer = pb::Event { source: "x".into(), sequence: 1, version: 2, user_id: 1, ..pb::Event::default() };
    let record = |sequence, payload: Vec<u8>| Record {
        topic: "coupon".into(),
        key: "1".into(),
        source: "x".into(),
        sequence,
        letter: None,
        payload: Bytes::from(payload),
    };
    let strange = [record(1, newer.encode_to_vec()), record(2, vec![0xff; 9])];
    stage.bus.publish(&strange).await.expect("it is up");
    stage.write(1, [21]).await;
    assert_eq!(stage.until(&LEDGER, 1, 21).await.last(), Some(&21));
    let reasons = eventually("two letters", async || one(2).await).await;
    assert!(reasons[0].reason.contains("its version is 2"), "{reasons:?}");
    assert!(reasons[1].reason.contains("decode"), "{reasons:?}");
    letters(&stage, Some(Fate::Discard)).await;
    assert_eq!(letters(&stage, None).await, []);
    for running in [ledger, witness, relay, sink_relay] {
        running.stop().await;
    }
    // It came back to nobody else.
    assert_eq!(stage.noted(&WITNESS, 1).await, (1..=21).collect::<Vec<_>>());
}

/// Its database is out of reach for longer than a poison message is tried.
async fn what_can_not_be_taken_now_is_taken_later_and_is_no_letter<D: Db>(stage: Stage<D>) {
    stage.trap.away.store(6, Ordering::SeqCst);
    let (ledger, witness, relay, sink_relay) = (stage.ledger(), stage.witness(), stage.relay(), stage.sink_relay());
    stage.write(1, [1, 2]).await;
    assert_eq!(stage.until(&LEDGER, 1, 2).await, [1, 2]);
    assert!(stage.trap.away.load(Ordering::SeqCst) < 0, "it was tried again and again");
    assert_eq!(letters(&stage, None).await, []);
    for running in [ledger, witness, relay, sink_relay] {
        running.stop().await;
    }
}
