//! One service's trouble stays its own: what it is handed, what waits for it, and what it may take up is bounded.

use std::num::NonZeroU32;

use futures_util::future::join_all;
use tercet_coordinator::limits;
use tercet_proto::admin::v1 as admin;
use tercet_proto::coordinator::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::party::{Heard, Party, Say, agrees};
use super::world::{Coordinator, branch, reason, tcc, until};

/// A transaction with this service that nobody gives up for a while.
fn patient(service: &str, number: i64) -> pb::Transaction {
    let branch = pb::Branch { call_timeout_ms: 600_000, ..branch(service, number) };
    pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch]) }
}

/// A service that takes so many calls at a time.
async fn join(
    coordinator: &Coordinator,
    name: &'static str,
    calls: u32,
    script: impl Fn(Heard) -> Say + Send + Sync + 'static,
) -> Party {
    let mut party = Party::away(name, script).await;
    let calls = NonZeroU32::new(calls).expect("it takes some");
    party.start_as(party.service(coordinator.url()).concurrency(calls));
    coordinator.connected(name, 1).await;
    party
}

async fn participant(coordinator: &Coordinator, service: &str) -> admin::Participant {
    let participants = coordinator.statistics().await.participants;
    participants.into_iter().find(|one| one.service == service).expect("it is connected")
}

/// The service, and what of it there is too much.
#[track_caller]
fn blamed(error: &Status) -> (String, String) {
    assert_eq!(reason(error, Code::ResourceExhausted), "SERVICE_OVERLOADED");
    let delay = error.get_details_retry_info().and_then(|info| info.retry_delay).expect("it says when");
    assert!(!delay.is_zero());
    let mut info = error.get_details_error_info().expect("it is there").metadata;
    let mut word = |name| info.remove(name).expect("it is told");
    (word("service"), word("what"))
}

#[tokio::test]
async fn an_instance_never_has_more_calls_than_it_takes() {
    let coordinator = Coordinator::start().await;
    let party =
        join(&coordinator, "shop", 3, |heard| if heard.operation == "try" { Say::Held } else { Say::Done }).await;
    let mut xids = Vec::new();
    let counts = async || {
        let one = participant(&coordinator, "shop").await;
        assert!(one.in_flight <= 3, "{one:?}");
        (one.in_flight, one.queued)
    };
    // Not more than it takes wait for it: else it would be behind.
    for number in 0..4 {
        xids.push(coordinator.submit(patient("shop", number), pb::Wait::Accepted).await.expect("it is sound").xid);
        counts().await;
    }
    let full = async || matches!(counts().await, (1.., 1..)).then_some(());
    until("calls that wait behind those under way", full).await;
    for _ in 0..4 {
        party.let_through(1);
        counts().await;
    }
    party.let_through(1_000);
    for xid in &xids {
        coordinator.reaches(xid, pb::Status::Confirmed).await;
    }
}

#[tokio::test]
async fn transactions_with_a_service_that_hangs_are_refused_and_no_others() {
    let coordinator = Coordinator::start().await;
    let party = join(&coordinator, "shop", 1, |_| Say::Held).await;
    let _desk = Party::join(&coordinator, "desk", agrees).await;
    let mut accepted = Vec::new();
    let mut number = 0;
    let error = until("a refusal", async || {
        number += 1;
        match coordinator.submit(patient("shop", number), pb::Wait::Accepted).await {
            Ok(view) => {
                accepted.push(view.xid);
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    assert_eq!(blamed(&error), ("shop".to_owned(), "call delay in ms".to_owned()));
    let both = tcc(vec![branch("desk", 1), branch("shop", 0)]);
    let error = coordinator.submit(both, pb::Wait::Accepted).await.expect_err("it names the same service");
    assert_eq!(blamed(&error).0, "shop");
    let view = coordinator.submit(tcc(vec![branch("desk", 2)]), pb::Wait::Ended).await.expect("desk is well");
    assert_eq!(view.status(), pb::Status::Confirmed);
    // Nothing that was accepted is lost, and once it answers it is as before.
    party.let_through(1_000_000);
    for xid in &accepted {
        coordinator.reaches(xid, pb::Status::Confirmed).await;
    }
    let view = coordinator.submit(patient("shop", 0), pb::Wait::Ended).await.expect("it is well again");
    assert_eq!(view.status(), pb::Status::Confirmed);
}

#[tokio::test]
async fn what_waits_for_a_service_that_does_not_come_leaves_room_for_others() {
    let coordinator = Coordinator::with(|config| config.live_max = 8).await;
    let fails = |heard: Heard| heard.operation == "confirm" && heard.number == 100 && heard.before < 3;
    let script = move |heard| if fails(heard) { Say::Fails } else { Say::Done };
    let _desk = Party::join(&coordinator, "desk", script).await;
    let mut accepted = Vec::new();
    for number in 0..4 {
        accepted
            .push(coordinator.submit(patient("shop", number), pb::Wait::Accepted).await.expect("there is room").xid);
    }
    let error = coordinator.submit(patient("shop", 4), pb::Wait::Accepted).await.expect_err("it is too much");
    assert_eq!(blamed(&error), ("shop".to_owned(), "waiting calls".to_owned()));
    for number in 0..20 {
        let view = coordinator.submit(tcc(vec![branch("desk", number)]), pb::Wait::Ended).await.expect("desk is well");
        assert_eq!(view.status(), pb::Status::Confirmed);
    }
    // Nor does it keep the scanner from what others have in the log.
    let retry = pb::RetryPolicy { first_delay_ms: 1, delay_max_ms: 10, quick_attempts: 1, ..Default::default() };
    let logged = tcc(vec![pb::Branch { retry: Some(retry), ..branch("desk", 100) }]);
    let logged = coordinator.submit(logged, pb::Wait::Accepted).await.expect("desk is well").xid;
    coordinator.reaches(&logged, pb::Status::Confirmed).await;
    assert_eq!(coordinator.compensations().await.len(), 1);
    let _shop = Party::join(&coordinator, "shop", agrees).await;
    for xid in &accepted {
        coordinator.reaches(xid, pb::Status::Confirmed).await;
    }
}

#[tokio::test]
async fn those_who_wait_for_a_service_that_does_not_come_leave_half_of_a_connection_to_others() {
    let coordinator = Coordinator::start().await;
    // Less at a time than one commit takes: else the store would be behind.
    for _ in 0..limits::WAITING_ASKED_MAX / 64 {
        let some = (0..64).map(|number| coordinator.submit(patient("shop", number), pb::Wait::Accepted));
        join_all(some).await.into_iter().for_each(|one| drop(one.expect("there is room")));
    }
    for wait in [pb::Wait::Decided, pb::Wait::Ended] {
        let error = coordinator.submit(patient("shop", 0), wait).await.expect_err("it would keep the connection");
        assert_eq!(blamed(&error), ("shop".to_owned(), "waiting calls".to_owned()));
    }
    coordinator.submit(patient("shop", 0), pb::Wait::Accepted).await.expect("it keeps nothing");
}

#[tokio::test]
async fn a_service_that_always_says_not_now_takes_up_half_of_the_memory_at_most() {
    let coordinator = Coordinator::with(|config| config.live_max = 8).await;
    let _shop = Party::join(&coordinator, "shop", |_| Say::NotNow(3_600_000)).await;
    let _desk = Party::join(&coordinator, "desk", agrees).await;
    for number in 0..4 {
        coordinator.submit(patient("shop", number), pb::Wait::Accepted).await.expect("there is room");
    }
    let error = coordinator.submit(patient("shop", 4), pb::Wait::Accepted).await.expect_err("it is too much");
    assert_eq!(blamed(&error), ("shop".to_owned(), "live transactions".to_owned()));
    for number in 0..20 {
        let view = coordinator.submit(tcc(vec![branch("desk", number)]), pb::Wait::Ended).await.expect("desk is well");
        assert_eq!(view.status(), pb::Status::Confirmed);
    }
}

#[tokio::test]
async fn a_service_that_comes_and_goes_all_the_time_is_still_served() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", agrees).await;
    let mut xids = Vec::new();
    for number in 0..20 {
        party.die().await;
        xids.push(coordinator.submit(patient("shop", number), pb::Wait::Accepted).await.expect("it is sound").xid);
        party.come(&coordinator).await;
    }
    for xid in &xids {
        coordinator.reaches(xid, pb::Status::Confirmed).await;
    }
}
