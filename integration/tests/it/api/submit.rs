//! Declared transactions: when their answers come, what they say, their order, and the idempotency key.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::BranchStatus::{Done, Pending, Skipped};
use tonic::{Code, Request};

use super::party::{Heard, Party, Say, agrees};
use super::world::{Coordinator, branch, branches, in_time, keyed, reason, step, submit, tcc, until};

/// Holds tries and confirms.
fn holds(_: Heard) -> Say {
    Say::Held
}

#[tokio::test]
async fn an_answer_comes_when_what_was_waited_for_is_durable_and_not_before() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", holds).await;
    let key = "one";
    let transaction = keyed(key, tcc(vec![branch("shop", 1)]));

    let accepted = coordinator.submit(transaction.clone(), pb::Wait::Accepted).await.expect("it is sound");
    assert_eq!((accepted.status(), accepted.version, accepted.repeated), (pb::Status::Trying, 1, false));
    assert_eq!(branches(&accepted), [Pending]);
    party.hears("try", 1, 1).await;

    // Two more wait for the same transaction; neither may hear of it before its moment.
    let wait = |wait: pb::Wait| {
        let (mut client, transaction) = (coordinator.client(), transaction.clone());
        tokio::spawn(async move { submit(&mut client, transaction, wait).await.expect("it is sound") })
    };
    let (decided, ended) = (wait(pb::Wait::Decided), wait(pb::Wait::Ended));
    let unspecified = wait(pb::Wait::Unspecified);
    assert_eq!(coordinator.get(&accepted.xid).await.expect("it is there").status(), pb::Status::Trying);
    assert!(!decided.is_finished() && !ended.is_finished(), "nothing is decided while the try is held");

    party.let_through(1);
    let decided = in_time("the decision", decided).await.expect("it does not panic");
    assert_eq!((decided.status(), decided.repeated), (pb::Status::Confirming, true));
    assert_eq!(in_time("the default", unspecified).await.expect("no panic").status(), pb::Status::Confirming);
    party.hears("confirm", 1, 1).await;
    assert!(!ended.is_finished(), "nothing has ended while the confirm is held");

    party.let_through(1);
    let ended = in_time("the end", ended).await.expect("it does not panic");
    assert_eq!((ended.status(), branches(&ended)), (pb::Status::Confirmed, vec![Done]));
    assert_eq!(ended.xid, accepted.xid);
    assert!(ended.ended_at_ms >= ended.created_at_ms && ended.version > decided.version);
    assert_eq!(
        coordinator.get(&ended.xid).await.expect("it is there"),
        pb::TransactionView { repeated: false, ..ended }
    );
}

#[tokio::test]
async fn the_answer_tells_results_and_the_reason_of_a_refusal() {
    let coordinator = Coordinator::start().await;
    let stock = Party::join(&coordinator, "stock", |heard| match heard.operation {
        "try" => Say::Result("lot 7"),
        _ => Say::Done,
    })
    .await;
    let purse = Party::join(&coordinator, "purse", |heard| match (heard.operation, heard.number) {
        ("try", 2) => Say::Refused("too poor"),
        // The cancel has its troubles too, and they are not why the transaction was cancelled.
        ("cancel", _) if heard.before == 0 => Say::Fails,
        _ => Say::Done,
    })
    .await;
    let good = tcc(vec![branch("stock", 1), branch("purse", 1)]);
    let view = coordinator.submit(good, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((view.status(), view.reason.as_str(), &view.refusal), (pb::Status::Confirmed, "", &None));
    assert_eq!((&*view.branches[0].result, &*view.branches[1].result), (&b"lot 7"[..], &b""[..]));

    let mut refused = tcc(vec![branch("stock", 2), branch("purse", 2)]);
    refused.branches[1].after = vec![0];
    refused.labels.insert("kind".into(), "test".into());
    let view = coordinator.submit(refused, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((view.status(), view.reason.as_str()), (pb::Status::Cancelled, "purse refused: too poor"));
    assert_eq!(view.refusal, Some(pb::Refusal { branch: 1, reason: "too poor".into() }));
    assert_eq!(branches(&view), [Done, Done]);
    assert_eq!((&*view.branches[0].result, view.labels["kind"].as_str()), (&b"lot 7"[..], "test"));
    assert!(!view.timeline.is_empty());
    assert_eq!((stock.fence(&view.xid, 0).await, purse.fence(&view.xid, 1).await), (Some(3), Some(4)));
    assert_eq!(stock.heard()[2..], [("try", 2), ("cancel", 2)]);
    // The refused branch has no effect to undo, so its handler is never asked to.
    assert_eq!(purse.heard(), [("try", 1), ("confirm", 1), ("try", 2)]);
}

#[tokio::test]
async fn a_caller_whose_time_is_over_is_told_so_by_name_and_the_transaction_goes_on() {
    let coordinator = Coordinator::start().await;
    let shop = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let named = pb::Transaction { idempotency_key: "late".into(), ..tcc(vec![branch("shop", 1)]) };
    let wanted = pb::SubmitRequest { transaction: Some(named), wait: pb::Wait::Ended.into() };
    // A client that is slow to hear of it gives up by itself.
    let late = until("the coordinator's word", async || {
        let mut request = Request::new(wanted.clone());
        request.set_timeout(Duration::from_secs(1));
        let late = coordinator.client().submit(request).await.expect_err("it is held");
        (late.code() != Code::Cancelled).then_some(late)
    })
    .await;
    assert_eq!(reason(&late, Code::DeadlineExceeded), "LATE");
    shop.let_through(10);
    let key = pb::get_request::Key::IdempotencyKey("late".into());
    let found = coordinator.client().get(pb::GetRequest { key: Some(key) }).await.expect("it was begun");
    let view = found.into_inner().transaction.expect("it is there");
    coordinator.reaches(&view.xid, pb::Status::Confirmed).await;
}

#[tokio::test]
async fn the_tries_of_a_dag_come_in_its_order_and_those_that_nothing_orders_at_once() {
    let coordinator = Coordinator::start().await;
    let parties = [
        Party::join(&coordinator, "a", holds).await,
        Party::join(&coordinator, "b", holds).await,
        Party::join(&coordinator, "c", holds).await,
        Party::join(&coordinator, "d", holds).await,
    ];
    // a before b and c, both before d.
    let mut diamond: Vec<_> = ["a", "b", "c", "d"].map(|service| branch(service, 1)).into();
    (diamond[1].after, diamond[2].after, diamond[3].after) = (vec![0], vec![0], vec![1, 2]);
    let view = coordinator.submit(tcc(diamond), pb::Wait::Accepted).await.expect("it is sound");
    let tried = || parties.iter().map(|party| party.heard().len()).collect::<Vec<_>>();
    parties[0].hears("try", 1, 1).await;
    assert_eq!(tried(), [1, 0, 0, 0]);
    parties[0].let_through(1);
    parties[1].hears("try", 1, 1).await;
    parties[2].hears("try", 1, 1).await;
    parties[1].let_through(1);
    until("the first of two to be done", async || (parties[1].effects().await.len() == 1).then_some(())).await;
    assert_eq!(tried(), [1, 1, 1, 0]);
    parties[2].let_through(1);
    parties[3].hears("try", 1, 1).await;
    parties.iter().for_each(|party| party.let_through(2));
    coordinator.reaches(&view.xid, pb::Status::Confirmed).await;
}

#[tokio::test]
async fn a_saga_is_compensated_newest_first() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.number) {
        ("try", 4) => Say::Refused("no more"),
        _ => Say::Done,
    })
    .await;
    let branches_ = (1..=5).map(|number| step("shop", number)).collect();
    let saga = pb::Transaction { mode: pb::Mode::Saga.into(), branches: branches_, ..Default::default() };
    let view = coordinator.submit(saga, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((view.status(), view.reason.as_str()), (pb::Status::Cancelled, "shop refused: no more"));
    assert_eq!(branches(&view), [Done, Done, Done, Done, Skipped]);
    let tries = (1..=4).map(|number| ("try", number));
    let cancels = (1..=3).rev().map(|number| ("cancel", number));
    assert_eq!(party.heard(), tries.chain(cancels).collect::<Vec<_>>());

    let branches_ = (11..=13).map(|number| step("shop", number)).collect();
    let saga = pb::Transaction { mode: pb::Mode::Saga.into(), branches: branches_, ..Default::default() };
    let view = coordinator.submit(saga, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!(view.status(), pb::Status::Confirmed);
    assert_eq!(party.heard()[7..], [("try", 11), ("try", 12), ("try", 13)]);
}

#[tokio::test]
async fn not_now_and_unknown_tries_are_asked_again_until_they_are_answered() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.before) {
        ("try", 0..2) => Say::NotNow(10),
        ("try", 2) => Say::Fails,
        ("try", 3) => Say::Panics,
        ("try", 4) => Say::Hangs,
        _ => Say::Done,
    })
    .await;
    let mut transaction = tcc(vec![branch("shop", 1)]);
    transaction.branches[0].call_timeout_ms = 300;
    let view = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!(view.status(), pb::Status::Confirmed);
    assert_eq!(view.branches[0].reason, "", "what went wrong on the way is over");
    assert_eq!(party.effects().await, [("try".to_owned(), 1), ("confirm".to_owned(), 1)]);
    assert!(party.heard().len() >= 7, "{:?}", party.heard());
}

#[tokio::test]
async fn the_same_key_and_content_is_one_transaction_whenever_it_is_repeated() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match heard.operation {
        "try" => Say::Result("kept"),
        _ => Say::Done,
    })
    .await;
    let transaction = keyed("order/1", tcc(vec![branch("shop", 1)]));
    let asks = (0..100).map(|_| coordinator.submit(transaction.clone(), pb::Wait::Ended));
    let views: Vec<_> = join_all(asks).await.into_iter().map(|view| view.expect("it is sound")).collect();
    assert_eq!(views.iter().filter(|view| !view.repeated).count(), 1);
    let views: HashSet<Vec<u8>> = views
        .into_iter()
        .map(|view| prost::Message::encode_to_vec(&pb::TransactionView { repeated: true, ..view }))
        .collect();
    assert_eq!(views.len(), 1, "all get the same answer");
    assert_eq!(party.heard(), [("try", 1), ("confirm", 1)]);
    assert_eq!(coordinator.count().await, 1);

    let before = coordinator.submit(transaction.clone(), pb::Wait::Ended).await.expect("it is sound");
    coordinator.kill().await;
    coordinator.start_again().await;
    let after = coordinator.submit(transaction.clone(), pb::Wait::Ended).await.expect("it is sound");
    assert!(after.repeated);
    assert_eq!(after, before);

    let mut other = transaction.clone();
    other.branches[0].request = "2".into();
    let error = coordinator.submit(other, pb::Wait::Ended).await.expect_err("the content differs");
    assert_eq!(reason(&error, Code::AlreadyExists), "KEY_REUSED");
    let xid = tercet::xid::Xid::from_slice(&before.xid).expect("16 bytes").to_string();
    let info = tonic_types::StatusExt::get_details_error_info(&error).expect("it is there");
    assert_eq!((info.metadata["xid"].as_str(), info.metadata["field"].as_str()), (xid.as_str(), "idempotency_key"));
    assert!(error.message().contains(&xid), "{error:?}");
    for change in [
        |t: &mut pb::Transaction| t.deadline_ms = 12_345,
        |t: &mut pb::Transaction| drop(t.labels.insert("a".into(), "b".into())),
        |t: &mut pb::Transaction| t.mode = pb::Mode::Saga.into(),
        |t: &mut pb::Transaction| t.branches[0].business_key = "x".into(),
    ] {
        let mut other = transaction.clone();
        change(&mut other);
        let error = coordinator.submit(other, pb::Wait::Accepted).await.expect_err("the content differs");
        assert_eq!(error.code(), Code::AlreadyExists);
    }
    assert_eq!((coordinator.count().await, party.heard().len()), (1, 2), "nothing was done for the others");
}

#[tokio::test]
async fn a_repeat_while_it_goes_on_waits_with_the_first_even_after_a_restart() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", holds).await;
    let transaction = keyed("order/1", tcc(vec![branch("shop", 1)]));
    let first = coordinator.submit(transaction.clone(), pb::Wait::Accepted).await.expect("it is sound");
    party.hears("try", 1, 1).await;
    coordinator.kill().await;
    coordinator.start_again().await;
    let (mut client, again) = (coordinator.client(), transaction.clone());
    let repeat = tokio::spawn(async move { submit(&mut client, again, pb::Wait::Ended).await });
    party.let_through(10);
    let view = in_time("the end", repeat).await.expect("it does not panic").expect("it is sound");
    assert_eq!((view.status(), view.repeated), (pb::Status::Confirmed, true));
    assert_eq!(view.xid, first.xid);
}

#[tokio::test]
async fn any_text_is_a_key_and_finds_its_transaction() {
    let coordinator = Coordinator::start().await;
    let _party = Party::join(&coordinator, "shop", agrees).await;
    let keys =
        ["a", "a\0b", "a\0c", "\"quoted\\", "'; DROP TABLE tx; --", "券/42", "a ", " a", "A", "\u{7f}\n\r\t", "%"];
    let mut xids = HashSet::new();
    for (number, key) in keys.into_iter().enumerate() {
        let transaction = keyed(key, tcc(vec![branch("shop", number as i64)]));
        let view = coordinator.submit(transaction.clone(), pb::Wait::Ended).await.expect(key);
        assert_eq!((view.idempotency_key.as_str(), view.repeated), (key, false), "{key:?}");
        assert!(coordinator.submit(transaction, pb::Wait::Ended).await.expect(key).repeated, "{key:?}");
        let get = pb::GetRequest { key: Some(pb::get_request::Key::IdempotencyKey(key.into())) };
        let found = coordinator.client().get(get).await.expect(key).into_inner().transaction.expect("it is there");
        assert_eq!(found.xid, view.xid, "{key:?}");
        xids.insert(view.xid);
    }
    assert_eq!(xids.len(), keys.len());
}

#[tokio::test]
async fn a_watch_shows_each_state_until_the_end() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", holds).await;
    let accepted = coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Accepted).await.expect("it is sound");
    let watch = coordinator.client().watch(pb::WatchRequest { xid: accepted.xid.clone() }).await;
    let mut watch = watch.expect("it is there").into_inner();
    let mut versions = Vec::new();
    for status in [pb::Status::Trying, pb::Status::Confirming, pb::Status::Confirmed] {
        let next = in_time("the next state", watch.message()).await.expect("the stream holds");
        let view = next.and_then(|next| next.transaction).expect("it goes on");
        assert_eq!(view.status(), status);
        versions.push(view.version);
        party.let_through(1);
    }
    assert!(versions.is_sorted() && versions.len() == 3, "{versions:?}");
    assert!(in_time("the end of the stream", watch.message()).await.expect("it ends well").is_none());
    // What has ended is shown once.
    let watch = coordinator.client().watch(pb::WatchRequest { xid: accepted.xid }).await;
    let mut watch = watch.expect("it is there").into_inner();
    let view = watch.message().await.expect("it holds").and_then(|next| next.transaction).expect("it is shown");
    assert_eq!(view.status(), pb::Status::Confirmed);
    assert!(watch.message().await.expect("it ends well").is_none());
    let error = coordinator.client().watch(pb::WatchRequest { xid: vec![9; 16].into() }).await;
    assert_eq!(reason(&error.expect_err("there is none"), Code::NotFound), "NOT_FOUND");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let coordinator = Coordinator::start().await;
    for key in [
        pb::get_request::Key::Xid(vec![7; 16].into()),
        pb::get_request::Key::IdempotencyKey("nobody's".into()),
        pb::get_request::Key::IdempotencyKey(String::new()),
    ] {
        let error = coordinator.client().get(pb::GetRequest { key: Some(key) }).await.expect_err("it is not there");
        assert_eq!(reason(&error, Code::NotFound), "NOT_FOUND");
    }
}
