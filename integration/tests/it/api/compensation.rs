//! Confirms and cancels that do not succeed: quick retries, then `compensation_log`, then a person.

use tercet_proto::admin::v1 as admin;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::BranchStatus::{Done, Logged, Parked};

use super::party::{Heard, Party, Say, agrees};
use super::world::{Coordinator, branch, branches, step, tcc, until};

/// One branch that is retried within milliseconds: so many times at once, and so many in all.
fn retried(number: i64, key: &str, quick_attempts: u32, attempts: u32) -> pb::Branch {
    let retry = pb::RetryPolicy { first_delay_ms: 1, delay_max_ms: 10, quick_attempts, attempts, ..Default::default() };
    let business_key = key.into();
    pb::Branch { retry: Some(retry), business_key, call_timeout_ms: 20_000, ..branch("shop", number) }
}

/// Confirms fail until they have failed so often; the next one is held.
fn fails(times: usize) -> impl Fn(Heard) -> Say + Send + Sync {
    move |heard| match heard.operation {
        "confirm" | "cancel" if heard.before < times => Say::Fails,
        "confirm" | "cancel" if heard.before == times => Say::Held,
        _ => Say::Done,
    }
}

#[tokio::test]
async fn what_stays_unknown_goes_to_the_log_and_the_scanner_finishes_it() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", fails(4)).await;
    let transaction = tcc(vec![retried(1, "coupon/42", 3, 10)]);
    let rests = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    // Who waits for the end is not left waiting for the log.
    assert_eq!((rests.status(), branches(&rests)), (pb::Status::Confirming, vec![Logged]));
    party.hears("confirm", 1, 5).await;
    let rows = coordinator.compensations().await;
    let [row] = &*rows else { panic!("{rows:?}") };
    assert_eq!((row.xid.clone(), row.branch, row.service.as_str()), (rests.xid.clone(), 0, "shop"));
    assert_eq!((row.operation.as_str(), row.coupon_id, row.status), ("confirm", Some(42), 0));
    assert_eq!(row.retry_count, 4, "three quick ones and one of the scanner's");
    assert!(row.last_error.contains("the test wants it"), "{}", row.last_error);
    assert!(row.create_time_ms > 0 && row.next_retry_time_ms >= row.create_time_ms);

    party.let_through(1);
    let view = coordinator.reaches(&rests.xid, pb::Status::Confirmed).await;
    assert_eq!(branches(&view), [Done]);
    let after = coordinator.compensations().await;
    assert_eq!((after.len(), after[0].id, after[0].status), (1, row.id, 1));
    assert_eq!(party.effects().await, [("try".to_owned(), 1), ("confirm".to_owned(), 1)]);
}

#[tokio::test]
async fn used_up_attempts_park_the_branch_and_its_transaction_goes_on_confirming() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.number) {
        ("confirm", 1) => Say::Fails,
        _ => Say::Done,
    })
    .await;
    let _desk = Party::join(&coordinator, "desk", agrees).await;
    let transaction = tcc(vec![retried(1, "order/7", 2, 4), branch("desk", 2)]);
    let rests = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    let parked = async || {
        let rows = coordinator.compensations().await;
        rows.into_iter().find(|row| row.status == 2)
    };
    let row = until("the row to be given up", parked).await;
    assert_eq!((row.coupon_id, row.retry_count, row.branch), (None, 4, 0));
    let view = coordinator.get(&rests.xid).await.expect("it is there");
    assert_eq!((view.status(), branches(&view)), (pb::Status::Confirming, vec![Parked, Done]));
    assert_eq!(party.heard().into_iter().filter(|one| *one == ("confirm", 1)).count(), 4);
    assert!(view.timeline.iter().any(|line| line.text.contains("parked")), "{:?}", view.timeline);
    // It stays so, whoever starts again.
    coordinator.kill().await;
    coordinator.start_again().await;
    let after = coordinator.get(&rests.xid).await.expect("it is there");
    assert_eq!((after.status(), branches(&after)), (pb::Status::Confirming, vec![Parked, Done]));
    assert_eq!(coordinator.compensations().await, [row]);
}

#[tokio::test]
async fn a_refusal_in_the_second_phase_is_parked_at_once() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.number) {
        ("confirm", 1) | ("cancel", 2) => Say::Refused("I will not"),
        ("try", 3) => Say::Refused("the real reason"),
        _ => Say::Done,
    })
    .await;
    let confirming = coordinator.submit(tcc(vec![retried(1, "coupon/1", 4, 100)]), pb::Wait::Ended).await;
    let confirming = confirming.expect("it is sound");
    assert_eq!((confirming.status(), branches(&confirming)), (pb::Status::Confirming, vec![Parked]));
    assert_eq!(confirming.branches[0].reason, "I will not");

    let saga = vec![step("shop", 2), step("shop", 3)];
    let saga = pb::Transaction { mode: pb::Mode::Saga.into(), branches: saga, ..Default::default() };
    let cancelling = coordinator.submit(saga, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((cancelling.status(), branches(&cancelling)), (pb::Status::Cancelling, vec![Parked, Done]));
    assert_eq!(cancelling.reason, "shop refused: the real reason");
    assert_eq!(cancelling.branches[0].reason, "I will not");

    let rows = coordinator.compensations().await;
    let found: Vec<_> = rows.iter().map(|row| (row.operation.as_str(), row.status, row.last_error.as_str())).collect();
    assert_eq!(found, [("confirm", 2, "I will not"), ("cancel", 2, "I will not")]);
    for call in [("confirm", 1), ("cancel", 2)] {
        assert_eq!(party.heard().into_iter().filter(|one| *one == call).count(), 1);
    }
    // A repeat hears the same, and is not left waiting for a person.
    let list = async |request| {
        let rows = coordinator.admin().list_compensations(request).await.expect("it lists").into_inner();
        rows.compensations.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = admin::ListCompensationsRequest::default();
    assert_eq!(list(admin::ListCompensationsRequest { status: Some(2), ..all.clone() }).await.len(), 2);
    assert_eq!(list(admin::ListCompensationsRequest { status: Some(0), ..all.clone() }).await.len(), 0);
    assert_eq!(list(admin::ListCompensationsRequest { service: "desk".into(), ..all.clone() }).await.len(), 0);
    let second = admin::ListCompensationsRequest { after_id: rows[0].id, limit: 1, ..all };
    assert_eq!(list(second).await, [rows[1].id]);
}

#[tokio::test]
async fn who_repeats_what_is_parked_is_told_so() {
    let coordinator = Coordinator::start().await;
    let refuses = |heard: Heard| if heard.operation == "confirm" { Say::Refused("no") } else { Say::Done };
    let _party = Party::join(&coordinator, "shop", refuses).await;
    let transaction = pb::Transaction { idempotency_key: "k".into(), ..tcc(vec![branch("shop", 1)]) };
    let first = coordinator.submit(transaction.clone(), pb::Wait::Ended).await.expect("it is sound");
    let again = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    assert_eq!(again, pb::TransactionView { repeated: true, ..first });
    assert_eq!(branches(&again), [Parked]);
}

#[tokio::test]
async fn not_now_in_the_second_phase_counts_and_is_asked_again() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.before) {
        ("confirm", 0..3) => Say::NotNow(5),
        _ => Say::Done,
    })
    .await;
    let view = coordinator.submit(tcc(vec![retried(1, "", 10, 10)]), pb::Wait::Ended).await.expect("it is sound");
    assert_eq!((view.status(), view.branches[0].attempts), (pb::Status::Confirmed, 3));
    assert_eq!(party.heard().len(), 5);
    assert!(coordinator.compensations().await.is_empty());
}
