//! What can not be taken is put away with its reason, holds up nobody, and comes back to whom it belongs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message as _;
use tercet_events::bus::Record;
use tercet_events::dead::{self, Fate, Letter};
use tercet_events::store::Row;
use tercet_proto::events::v1 as pb;

use super::on_all;
use super::stage::{Db, LEDGER, Stage, WITNESS, event, eventually};

on_all! {
    a_poison_message_is_put_away_and_comes_back;
    a_letter_goes_back_to_its_group_alone_with_the_time_of_its_event;
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

    // Its service writes events of this topic too, which are numbered with its letters.
    let mut db_tx = stage.sink.begin_with(D::BEGIN_WRITE).await.expect("the pool is open");
    stage.outbox.append::<D>(&mut db_tx, [event(1, 100)]).await.expect("it is small");
    db_tx.commit().await.expect("nothing is in its way");
    assert_eq!(stage.until(&LEDGER, 1, 20).await.last(), Some(&100));
    // One that is still refused is put away once more.
    letters(&stage, Some(Fate::Back)).await;
    eventually("it is put away again", async || one(1).await).await;
    stage.trap.refused.store(0, Ordering::SeqCst);
    assert_eq!(letters(&stage, Some(Fate::Back)).await.len(), 1);
    let noted = stage.until(&LEDGER, 1, 21).await;
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
    assert_eq!(stage.until(&LEDGER, 1, 22).await.last(), Some(&21));
    let reasons = eventually("two letters", async || one(2).await).await;
    assert!(reasons[0].reason.contains("its version is 2"), "{reasons:?}");
    assert!(reasons[1].reason.contains("decode"), "{reasons:?}");
    letters(&stage, Some(Fate::Discard)).await;
    assert_eq!(letters(&stage, None).await, []);
    stage.until(&WITNESS, 1, 22).await;
    for running in [ledger, witness, relay, sink_relay] {
        running.stop().await;
    }
    // It came back to nobody else.
    assert_eq!(stage.noted(&WITNESS, 1).await, (1..=20).chain([100, 21]).collect::<Vec<_>>());
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

/// Of three letters the second.
async fn a_letter_goes_back_to_its_group_alone_with_the_time_of_its_event<D: Db>(stage: Stage<D>) {
    let rows = [4, 5, 6].map(|n: i64| {
        let (group, reason, source) = (LEDGER.name.to_owned(), format!("{n} is strange"), "s".to_owned());
        let topic = "coupon".to_owned();
        let letter = Letter { group, topic: topic.clone(), partition: 0, source, sequence: n, reason, attempts: 5 };
        let letter = Some(serde_json::to_string(&letter).expect("it has a form"));
        let event = pb::Event { occurred_ms: n, ..pb::Event::default() };
        Row { topic, key: n.to_string(), at_ms: None, letter, payload: event.encode_to_vec() }
    });
    let mut db = stage.sink.acquire().await.expect("it is open");
    D::letter_keep(&mut db, &rows).await.expect("they are small");
    let left = async || dead::kept(&stage.sink, 0, 100).await.expect("it is sound");
    let kept = left().await;
    assert!(kept.iter().map(|one| one.key.as_str()).eq(["4", "5", "6"]), "{kept:?}");
    assert!(kept.iter().all(|one| one.at_ms > 1_700_000_000_000), "when it was put away: {kept:?}");
    for settled in [true, false] {
        assert_eq!(dead::settle(&stage.sink, kept[1].id, Fate::Back).await.expect("it is sound"), settled);
    }
    assert!(left().await.iter().map(|one| one.id).eq([kept[0].id, kept[2].id]));
    let look = D::outbox_look(&mut db).await.expect("it is sound");
    assert_eq!((look.rows, look.dead), (1, 2));
    assert!(look.oldest_ms > 1_700_000_000_000, "since the event has happened: {look:?}");
    let mut lease = D::outbox_take(&mut db, "a", 60_000, false).await.expect("it is sound").expect("it is free");
    let back = D::outbox_next(&mut db, &mut lease, 60_000).await.expect("it is sound").expect("it is the one");
    let [back] = &back[..] else { panic!("{back:?}") };
    let event = pb::Event::decode(&*back.row.payload).expect("it is one");
    assert_eq!((back.at_ms, back.row.key.as_str(), event.only_group.as_str()), (5, "5", LEDGER.name));
    // What comes later makes the outbox no younger.
    let later = Row { letter: None, ..rows[0].clone() };
    D::outbox_append(&mut db, &[later]).await.expect("it is small");
    let look = D::outbox_look(&mut db).await.expect("it is sound");
    assert!(look.rows == 2 && look.oldest_ms > 1_700_000_000_000, "{look:?}");
}
