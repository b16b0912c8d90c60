//! Instances of services that come, go, die and never come.

use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::BranchStatus::{Pending, Skipped};
use tercet_proto::participant::v1 as session;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::party::{Heard, Party, Say, agrees};
use super::world::{Coordinator, branch, branches, in_time, tcc, until};

/// A transaction with time enough that only a lost call would keep it from its end.
fn patient(number: i64) -> pb::Transaction {
    let branch = pb::Branch { call_timeout_ms: 600_000, ..branch("shop", number) };
    pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch]) }
}

#[tokio::test]
async fn what_has_no_session_waits_without_an_attempt_and_the_first_session_wakes_it() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::away("shop", agrees).await;
    let mut xids = Vec::new();
    for number in 0..50 {
        xids.push(coordinator.submit(patient(number), pb::Wait::Accepted).await.expect("it is sound").xid);
    }
    let view = coordinator.get(&xids[0]).await.expect("it is there");
    assert_eq!((branches(&view), view.branches[0].attempts), (vec![Pending], 0));
    party.come(&coordinator).await;
    for xid in &xids {
        let view = coordinator.reaches(xid, pb::Status::Confirmed).await;
        assert_eq!(view.branches[0].attempts, 0);
    }
    assert_eq!(party.effects().await.len(), 100);
}

#[tokio::test]
async fn a_try_without_a_session_is_cancelled_at_its_deadline_without_a_call() {
    let coordinator = Coordinator::start().await;
    let transaction = pb::Transaction { deadline_ms: 200, ..tcc(vec![branch("shop", 1)]) };
    let view = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((view.status(), branches(&view)), (pb::Status::Cancelled, vec![Skipped]));
    assert_eq!(view.reason, "the deadline passed before it was decided");
    let party = Party::join(&coordinator, "shop", agrees).await;
    coordinator.submit(patient(2), pb::Wait::Ended).await.expect("it is sound");
    assert_eq!(party.heard(), [("try", 2), ("confirm", 2)]);
}

#[tokio::test]
async fn calls_that_a_lost_session_had_not_taken_are_made_when_the_service_comes_back() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let first = coordinator.submit(patient(0), pb::Wait::Accepted).await.expect("it is sound");
    party.hears("try", 0, 1).await;
    // The session is busy with the first, so these are in the queue.
    let mut xids = vec![first.xid];
    for number in 1..20 {
        xids.push(coordinator.submit(patient(number), pb::Wait::Accepted).await.expect("it is sound").xid);
    }
    until("a queue", async || {
        let participants = coordinator.statistics().await.participants;
        participants.iter().any(|one| one.queued == 19).then_some(())
    })
    .await;
    party.die().await;
    coordinator.connected("shop", 0).await;
    party.let_through(1_000);
    party.come(&coordinator).await;
    for xid in &xids {
        let view = coordinator.reaches(xid, pb::Status::Confirmed).await;
        assert_eq!(view.branches[0].attempts, 0);
    }
}

#[tokio::test]
async fn another_instance_takes_over_the_calls_of_one_that_dies() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", |heard: Heard| match (heard.operation, heard.before) {
        ("try", 0) => Say::Hangs,
        _ => Say::Done,
    })
    .await;
    let held = coordinator.submit(patient(1), pb::Wait::Accepted).await.expect("it is sound");
    party.hears("try", 1, 1).await;
    party.come(&coordinator).await;
    party.die().await;
    let view = coordinator.reaches(&held.xid, pb::Status::Confirmed).await;
    assert_eq!(party.heard(), [("try", 1), ("try", 1), ("confirm", 1)]);
    assert_eq!(view.timeline.len(), 2, "an unknown answer and the decision: {:?}", view.timeline);
}

#[tokio::test]
async fn an_instance_that_leaves_answers_what_it_holds_and_gets_no_more() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let held = coordinator.submit(patient(1), pb::Wait::Accepted).await.expect("it is sound");
    party.hears("try", 1, 1).await;
    party.start(&coordinator);
    coordinator.connected("shop", 2).await;
    party.let_through(1_000);
    party.leave().await;
    coordinator.connected("shop", 1).await;
    coordinator.reaches(&held.xid, pb::Status::Confirmed).await;
    assert_eq!(party.heard(), [("try", 1), ("confirm", 1)], "nothing was asked twice");
    coordinator.submit(patient(2), pb::Wait::Ended).await.expect("the other one serves");
}

#[tokio::test]
async fn instances_share_the_load() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", agrees).await;
    party.come(&coordinator).await;
    party.come(&coordinator).await;
    let submits = (0..200).map(|number| coordinator.submit(patient(number), pb::Wait::Ended));
    for view in futures_util::future::join_all(submits).await {
        assert_eq!(view.expect("it is sound").status(), pb::Status::Confirmed);
    }
    assert_eq!(party.effects().await.len(), 400);
}

#[tokio::test]
async fn an_instance_on_another_database_is_refused_by_name() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", agrees).await;
    let register = session::Register {
        service: "shop".into(),
        actions: vec![session::Action { name: "act".into(), operations: vec![1, 2, 3] }],
        fence_id: vec![7; 16].into(),
        ..Default::default()
    };
    let open = async || {
        let message = Some(session::open_request::Message::Register(register.clone()));
        // It stays open: only what it said counts.
        let up = tokio_stream::iter([session::OpenRequest { message }]).chain(tokio_stream::pending());
        in_time("an answer to Open", SessionsClient::new(coordinator.raw()).open(up)).await
    };
    let error = open().await.expect_err("it has another fence");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("shop") && error.message().contains("07070707"), "{error:?}");
    coordinator.submit(patient(1), pb::Wait::Ended).await.expect("the right one serves");
    // Once nobody holds the old one, the service may have moved.
    party.die().await;
    coordinator.connected("shop", 0).await;
    open().await.expect("it is the only one");
}
