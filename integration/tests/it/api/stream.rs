//! Many transactions on one stream.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::submit_stream_response::entry::Result as Told;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::party::{Party, Say, agrees};
use super::world::{Coordinator, branch, branches, in_time, keyed, reason, tcc, until, violation};

type Entry = pb::submit_stream_request::Entry;

fn entry(id: u64, transaction: pb::Transaction, wait: pb::Wait) -> Entry {
    let request = pb::SubmitRequest { transaction: Some(transaction), wait: wait.into() };
    Entry { id, request: Some(request), ..Entry::default() }
}

async fn open(
    coordinator: &Coordinator,
    room: usize,
) -> (mpsc::Sender<pb::SubmitStreamRequest>, Streaming<pb::SubmitStreamResponse>) {
    let (up, requests) = mpsc::channel(room);
    let stream = coordinator.client().submit_stream(ReceiverStream::new(requests)).await;
    (up, stream.expect("it opens").into_inner())
}

/// A refused entry as a unary call would have told it.
fn status(error: &pb::Error) -> Status {
    let status = Status::with_details(Code::from(error.code), error.message.clone(), error.details.clone());
    assert!(!error.details.is_empty(), "{error:?}");
    status
}

/// False: the service, or a busy coordinator, has no room, and said so.
fn has_room(error: &pb::Error) -> bool {
    let reason = reason(&status(error), Code::ResourceExhausted);
    assert!(["OVERLOADED", "SERVICE_OVERLOADED"].contains(&&*reason), "{reason}");
    false
}

/// The answers to so many entries, by id; each has to come once.
async fn answers(stream: &mut Streaming<pb::SubmitStreamResponse>, count: usize) -> BTreeMap<u64, Told> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        let response = in_time("an answer on the stream", stream.message()).await.expect("it holds");
        for entry in response.expect("it goes on").entries {
            let again = all.insert(entry.id, entry.result.expect("an entry has a result"));
            assert!(again.is_none(), "two answers to {}", entry.id);
        }
    }
    all
}

#[tokio::test]
async fn ten_thousand_entries_are_answered_by_id() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match heard.operation {
        "try" if heard.number % 10 == 3 => Say::Refused("a three"),
        _ => Say::Done,
    })
    .await;
    let (up, mut stream) = open(&coordinator, 4).await;
    const COUNT: u64 = 10_000;
    let submit = |id: u64| entry(id, tcc(vec![branch("shop", id as i64)]), pb::Wait::Ended);
    let (first, again) = (up.clone(), up);
    let sender = tokio::spawn(async move {
        for ids in (0..COUNT).collect::<Vec<_>>().chunks(500) {
            let entries = ids.iter().map(|id| submit(*id)).collect();
            first.send(pb::SubmitStreamRequest { entries }).await.expect("it is read");
        }
    });
    // What service or coordinator have no room for is sent again, as the SDK does it.
    let mut answers = BTreeMap::new();
    let mut senders = vec![sender];
    while answers.len() < COUNT as usize {
        let response = in_time("an answer on the stream", stream.message()).await.expect("it holds");
        let mut refused = Vec::new();
        for entry in response.expect("it goes on").entries {
            match entry.result.expect("an entry has a result") {
                Told::Error(error) if error.code == Code::ResourceExhausted as i32 => {
                    let reason = reason(&status(&error), Code::ResourceExhausted);
                    assert!(["OVERLOADED", "SERVICE_OVERLOADED"].contains(&&*reason), "{reason}");
                    refused.push(submit(entry.id));
                }
                told @ (Told::Transaction(_) | Told::Error(_)) => {
                    assert!(answers.insert(entry.id, told).is_none(), "two answers to {}", entry.id)
                }
            }
        }
        if !refused.is_empty() {
            let again = again.clone();
            senders.push(tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                again.send(pb::SubmitStreamRequest { entries: refused }).await.expect("it is read");
            }));
        }
    }
    drop(again);
    for sender in senders {
        sender.await.expect("it does not panic");
    }
    for (id, told) in answers {
        let Told::Transaction(view) = told else { panic!("{id}: {told:?}") };
        let wanted = if id % 10 == 3 { pb::Status::Cancelled } else { pb::Status::Confirmed };
        // What a busy machine was too slow for goes on through compensation_log, and whoever waits is told so.
        if view.status() != wanted {
            coordinator.reaches(&view.xid, wanted).await;
        }
    }
    assert!(in_time("the end", stream.message()).await.expect("it ends well").is_none(), "all answers have come");
    let confirmed = party.effects().await.into_iter().filter(|(operation, _)| operation == "confirm").count();
    assert_eq!(confirmed, 9_000);
}

#[tokio::test]
async fn an_entry_has_its_own_error_and_harms_no_other() {
    let coordinator = Coordinator::with(|config| config.live_max = 4).await;
    let party =
        Party::join(&coordinator, "shop", |heard| if heard.number >= 100 { Say::Held } else { Say::Done }).await;
    let (up, mut stream) = open(&coordinator, 4).await;
    let good = |number| tcc(vec![branch("shop", number)]);
    let entries = vec![
        entry(1, good(1), pb::Wait::Ended),
        entry(2, tcc(vec![branch("Shop", 1)]), pb::Wait::Ended),
        Entry { id: 3, ..Entry::default() },
        entry(4, keyed("k", good(4)), pb::Wait::Ended),
    ];
    up.send(pb::SubmitStreamRequest { entries }).await.expect("it is read");
    let first = answers(&mut stream, 4).await;
    let error = |told: &Told| match told {
        Told::Error(error) => status(error),
        Told::Transaction(view) => panic!("no error: {view:?}"),
    };
    assert_eq!(violation(&error(&first[&2])).0, "transaction.branches[0].service");
    assert_eq!(violation(&error(&first[&3])).0, "transaction");
    assert!(matches!(&first[&1], Told::Transaction(view) if view.status() == pb::Status::Confirmed));
    let Told::Transaction(kept) = &first[&4] else { panic!("{first:?}") };

    // The same id may come again: it is the client's to tell them apart.
    let repeats = vec![entry(4, keyed("k", good(4)), pb::Wait::Ended), entry(5, keyed("k", good(5)), pb::Wait::Ended)];
    up.send(pb::SubmitStreamRequest { entries: repeats }).await.expect("it is read");
    let second = answers(&mut stream, 2).await;
    assert_eq!(second[&4], Told::Transaction(pb::TransactionView { repeated: true, ..kept.clone() }));
    assert_eq!(reason(&error(&second[&5]), Code::AlreadyExists), "KEY_REUSED");

    let held = (100..110).map(|id| entry(id, good(id as i64), pb::Wait::Accepted)).collect();
    up.send(pb::SubmitStreamRequest { entries: held }).await.expect("it is read");
    let third = answers(&mut stream, 10).await;
    let (taken, full): (Vec<_>, Vec<_>) = third.values().partition(|told| matches!(told, Told::Transaction(_)));
    // One service may be in half of them.
    assert_eq!((taken.len(), full.len()), (2, 8));
    full.into_iter().for_each(|told| assert_eq!(reason(&error(told), Code::ResourceExhausted), "SERVICE_OVERLOADED"));
    party.let_through(100);
}

#[tokio::test]
async fn a_stream_is_read_no_further_than_its_outstanding_entries() {
    use tercet_coordinator::limits::STREAM_OUTSTANDING_MAX;
    let coordinator = Coordinator::start().await;
    let (up, mut stream) = open(&coordinator, 1).await;
    // Nobody serves them, so none is decided; and no service is waited for by too many.
    const SERVICES: [&str; 10] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
    let entries = |from: u64| {
        let service = |id: u64| SERVICES[id as usize % SERVICES.len()];
        let entries = (from..from + 512).map(|id| entry(id, tcc(vec![branch(service(id), 1)]), pb::Wait::Decided));
        pb::SubmitStreamRequest { entries: entries.collect() }
    };
    let sender = tokio::spawn(async move {
        for batch in 0..40 {
            if up.send(entries(batch * 512)).await.is_err() {
                break;
            }
        }
    });
    let full = until("the outstanding ones", async || {
        let live = coordinator.statistics().await.live;
        (live >= STREAM_OUTSTANDING_MAX as u64).then_some(live)
    })
    .await;
    assert_eq!(full, STREAM_OUTSTANDING_MAX as u64);
    // Another call is not held up, and the stream still gets no further.
    let other = coordinator.submit(tcc(vec![branch("s0", 1)]), pb::Wait::Accepted).await.expect("it is taken");
    assert_eq!(branches(&other), [pb::BranchStatus::Pending]);
    assert_eq!(coordinator.statistics().await.live, full + 1);
    let mut parties = Vec::new();
    for service in SERVICES {
        parties.push(Party::join(&coordinator, service, agrees).await);
    }
    let all = answers(&mut stream, 40 * 512).await;
    sender.await.expect("it does not panic");
    let decided = all.values().filter(|told| match told {
        Told::Transaction(view) => view.status() != pb::Status::Trying,
        // It may not keep up with all of them at once.
        Told::Error(error) => has_room(error),
    });
    assert!(decided.count() >= STREAM_OUTSTANDING_MAX);
}

#[tokio::test]
async fn a_stream_that_its_client_drops_leaves_its_transactions_to_their_end() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let (up, stream) = open(&coordinator, 4).await;
    let entries =
        (0..50).map(|id| entry(id, keyed(&format!("k{id}"), tcc(vec![branch("shop", id as i64)])), pb::Wait::Ended));
    let request = pb::SubmitStreamRequest { entries: entries.collect() };
    assert!(request.encoded_len() > 0);
    up.send(request).await.expect("it is read");
    until("the first try", async || (!party.heard().is_empty()).then_some(())).await;
    drop((up, stream));
    party.let_through(1_000);
    let mut outcomes = HashMap::new();
    for id in 0..50 {
        let transaction = keyed(&format!("k{id}"), tcc(vec![branch("shop", id)]));
        let view = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
        *outcomes.entry(view.status()).or_insert(0) += 1;
    }
    assert_eq!(outcomes, HashMap::from([(pb::Status::Confirmed, 50)]));
}
