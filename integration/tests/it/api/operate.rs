//! What operators do: explain, retry, park, resume, resolve, force, drain, limits, and the log of all that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tercet_coordinator::audit::{AuditRow, AuditWrite, Verifier};
use tercet_core::{Timestamp, Xid};
use tercet_proto::admin::v1 as admin;
use tercet_proto::admin::v1::next::Kind;
use tercet_proto::coordinator::v1 as pb;
use tonic::{Code, Request, Status};

use super::party::{Party, Say, agrees};
use super::world::{Coordinator, branch, branches, reason, tcc, until, violation};

/// A request of an operator with a name.
fn by<T>(who: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-tercet-operator", who.parse().expect("it is a name"));
    request
}

fn why(reason: &str) -> Option<admin::Change> {
    Some(admin::Change { reason: reason.into(), dry_run: false })
}

fn dry(reason: &str) -> Option<admin::Change> {
    Some(admin::Change { reason: reason.into(), dry_run: true })
}

/// A service whose confirms are refused until the test lets them be.
async fn stubborn(coordinator: &Coordinator) -> (Party, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&mended);
    let party = Party::join(coordinator, "shop", move |heard| match heard.operation {
        "confirm" if !told.load(Ordering::Relaxed) => Say::Refused("I will not"),
        _ => Say::Done,
    })
    .await;
    (party, mended)
}

async fn parked(coordinator: &Coordinator) -> pb::TransactionView {
    let view = coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Ended).await.expect("it is sound");
    assert_eq!(branches(&view), [pb::BranchStatus::Parked]);
    view
}

async fn explained(coordinator: &Coordinator, xid: &[u8]) -> admin::ExplainResponse {
    let request = admin::ExplainRequest { xid: xid.to_vec().into() };
    coordinator.admin().explain(request).await.expect("it explains").into_inner()
}

async fn audit(coordinator: &Coordinator) -> Vec<admin::AuditRow> {
    let rows = coordinator.admin().list_audit(admin::ListAuditRequest::default()).await.expect("it lists").into_inner();
    let mut verifier = Verifier::default();
    for row in &rows.rows {
        let write = AuditWrite {
            who: row.who.clone(),
            act: row.act.clone(),
            xid: Xid::from_slice(&row.xid),
            why: row.why.clone(),
            before: row.before.clone(),
            after: row.after.clone(),
        };
        let (previous, hash) = (row.previous.to_vec(), row.hash.to_vec());
        verifier.check(&AuditRow { id: row.id, at: Timestamp(row.at_ms), write, previous, hash }).expect("it is sound");
    }
    let head = verifier.end().expect("it is sound");
    assert_eq!((head.count, &head.hash[..]), (rows.count, if rows.count > 0 { &rows.head[..] } else { &[0; 32] }));
    rows.rows
}

#[tokio::test]
async fn a_parked_branch_is_explained_retried_and_audited() {
    let coordinator = Coordinator::start().await;
    let (_party, mended) = stubborn(&coordinator).await;
    let view = parked(&coordinator).await;
    let told = explained(&coordinator, &view.xid).await;
    assert_eq!(told.next.as_ref().map(admin::Next::kind), Some(Kind::Person));
    assert!(told.waits[0].connected && told.waits[0].said == "I will not", "{:?}", told.waits);
    assert!(told.remedies.iter().any(|remedy| remedy.command.starts_with("tercet tx retry") && remedy.safe));
    assert!(told.lines.last().is_some_and(|line| line.contains("waits for a person")), "{:?}", told.lines);

    mended.store(true, Ordering::Relaxed);
    let request = |change| admin::RetryRequest { xid: view.xid.clone(), branch: None, change };
    let would = coordinator.admin().retry(by("ann", request(dry("mended")))).await.expect("it applies").into_inner();
    assert_eq!(coordinator.get(&view.xid).await.expect("it is there").version, view.version, "nothing is changed");
    assert_eq!(audit(&coordinator).await, []);
    let did = coordinator.admin().retry(by("ann", request(why("mended")))).await.expect("it applies").into_inner();
    let difference = |response: admin::RetryResponse| {
        let mut difference = response.changed.expect("it tells").difference.expect("it tells");
        // The row is due at the moment of the act.
        difference.rows.iter_mut().for_each(|row| row.next_retry_time_ms = 0);
        difference
    };
    let did = difference(did);
    assert_eq!(difference(would), did);
    assert_eq!((&*did.branches[0].before, &*did.branches[0].after), ("parked: refused", "called"));
    assert_eq!(did.calls.iter().map(|call| &*call.operation).collect::<Vec<_>>(), ["confirm"]);
    assert_eq!((did.rows[0].status, did.rows[0].retry_count), (0, 0));

    coordinator.reaches(&view.xid, pb::Status::Confirmed).await;
    let rows = audit(&coordinator).await;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&*row.who, &*row.act, &*row.why, &row.xid), ("ann", "retry", "mended", &view.xid));
    assert_eq!(row.before, r#"{"branches":{"0":{"attempts":0,"state":"parked: refused"}}}"#);
    assert_eq!(row.after, r#"{"branches":{"0":{"attempts":0,"state":"called"}}}"#);
    let ended = explained(&coordinator, &view.xid).await;
    assert_eq!(ended.next.as_ref().map(admin::Next::kind), Some(Kind::Nothing));
    assert!(ended.lines.iter().any(|line| line.ends_with("ann did retry: mended")), "{:?}", ended.lines);
    let again = coordinator.admin().retry(request(why("again"))).await.expect_err("it has ended");
    assert_eq!(reason(&again, Code::FailedPrecondition), "ALREADY_DECIDED");
}

#[tokio::test]
async fn what_a_person_did_by_hand_is_resolved_and_other_branches_stay_as_they_are() {
    let coordinator = Coordinator::start().await;
    let (party, _mended) = stubborn(&coordinator).await;
    let _desk = Party::join(&coordinator, "desk", |heard| match heard.operation {
        "confirm" => Say::Refused("nor I"),
        _ => Say::Done,
    })
    .await;
    let transaction = tcc(vec![branch("shop", 1), branch("desk", 2)]);
    let view = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it is sound");
    let mut rows = coordinator.compensations().await;
    rows.sort_by_key(|row| row.branch);
    let resolve = |id, change| admin::ResolveCompensationRequest { id, change };
    let mut client = coordinator.admin();
    let silent = client.resolve_compensation(resolve(rows[0].id, None)).await.expect_err("a reason is required");
    assert_eq!(violation(&silent).0, "change.reason");
    let absent = client.resolve_compensation(resolve(99, why("x"))).await.expect_err("there is none");
    assert_eq!(reason(&absent, Code::NotFound), "NOT_FOUND");
    let done = client.resolve_compensation(by("bob", resolve(rows[0].id, why("booked by hand")))).await;
    let done = done.expect("it is parked").into_inner().changed.expect("it tells").transaction.expect("it shows");
    assert_eq!(branches(&done), [pb::BranchStatus::Done, pb::BranchStatus::Parked]);
    assert_eq!(done.branches[0].reason, "resolved by hand: booked by hand, by bob");
    let again = client.resolve_compensation(resolve(rows[0].id, why("x"))).await.expect_err("it is done");
    assert_eq!(reason(&again, Code::FailedPrecondition), "NOTHING_TO_DO");
    client.resolve_compensation(resolve(rows[1].id, why("too"))).await.expect("it is parked");
    let ended = coordinator.get(&view.xid).await.expect("it is there");
    assert_eq!(ended.status(), pb::Status::Confirmed);
    assert!(coordinator.compensations().await.iter().all(|row| row.status == 1));
    assert!(party.heard().iter().filter(|heard| heard.0 == "confirm").count() == 1, "nobody called it again");
    assert_eq!(audit(&coordinator).await.len(), 2);
}

#[tokio::test]
async fn parked_by_a_person_it_waits_over_a_restart_and_is_resumed_by_the_scanner() {
    let mut coordinator = Coordinator::start().await;
    let (_party, mended) = stubborn(&coordinator).await;
    // Nobody is there to confirm it, so it waits for its service.
    let away = coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Ended).await.expect("it is sound");
    mended.store(true, Ordering::Relaxed);
    let resume = admin::ResumeRequest { xid: away.xid.clone(), branch: Some(0), change: None };
    let park = admin::ParkRequest { xid: away.xid.clone(), branch: Some(0), change: why("wait") };
    let parked = coordinator.admin().park(park.clone()).await.expect_err("it is parked");
    assert_eq!(reason(&parked, Code::FailedPrecondition), "NOTHING_TO_DO");
    coordinator.kill().await;
    coordinator.start_again().await;
    coordinator.connected("shop", 1).await;
    let listed = admin::ListTransactionsRequest { parked: true, service: "shop".into(), ..Default::default() };
    let listed = coordinator.admin().list_transactions(listed).await.expect("it lists").into_inner();
    assert_eq!(listed.transactions.iter().map(|view| &view.xid).collect::<Vec<_>>(), [&away.xid]);
    let mut difference = coordinator.admin().resume(resume).await.expect("it is parked").into_inner();
    let difference = difference.changed.take().expect("it tells").difference.expect("it tells");
    assert_eq!((difference.calls.len(), &*difference.branches[0].after), (0, "logged"));
    coordinator.reaches(&away.xid, pb::Status::Confirmed).await;
    let park = coordinator.admin().park(park).await.expect_err("it has ended");
    assert_eq!(reason(&park, Code::FailedPrecondition), "ALREADY_DECIDED");
}

#[tokio::test]
async fn only_the_undecided_is_forced_and_what_was_not_tried_is_not_confirmed() {
    let coordinator = Coordinator::start().await;
    let waits = coordinator.submit(tcc(vec![branch("away", 1)]), pb::Wait::Accepted).await.expect("it is sound");
    let confirm = |change| admin::ForceConfirmRequest { xid: waits.xid.clone(), change };
    let mut client = coordinator.admin();
    let silent = client.force_confirm(confirm(why(" "))).await.expect_err("a reason is required");
    assert_eq!(violation(&silent).0, "change.reason");
    let refused = client.force_confirm(confirm(why("do it"))).await.expect_err("it was not tried");
    assert_eq!(reason(&refused, Code::FailedPrecondition), "NOTHING_TO_DO");
    let request = admin::ForceCancelRequest { xid: waits.xid.clone(), change: why("the customer called") };
    let done = client.force_cancel(by("ann", request)).await.expect("it is undecided").into_inner();
    let done = done.changed.expect("it tells").transaction.expect("it shows");
    assert_eq!(
        (done.status(), &*done.reason, &done.refusal),
        (pb::Status::Cancelled, "a person decided it: the customer called, by ann", &None)
    );
    let late = client.force_confirm(confirm(why("no, do it"))).await.expect_err("it is decided");
    assert_eq!(reason(&late, Code::FailedPrecondition), "ALREADY_DECIDED");
    let begun = pb::BeginRequest { mode: pb::Mode::Tcc.into(), ..Default::default() };
    let begun = coordinator.client().begin(begun).await.expect("it is sound").into_inner();
    let request = admin::ForceConfirmRequest { xid: begun.xid.clone(), change: why("its initiator is gone") };
    client.force_confirm(request).await.expect("nothing is missing");
    coordinator.reaches(&begun.xid, pb::Status::Confirmed).await;
    let unknown = admin::ForceCancelRequest { xid: vec![7; 16].into(), change: why("x") };
    let unknown = client.force_cancel(unknown).await.expect_err("there is none");
    assert_eq!(reason(&unknown, Code::NotFound), "NOT_FOUND");
}

#[tokio::test]
async fn every_field_of_a_change_is_checked_by_name() {
    let coordinator = Coordinator::start().await;
    let view = coordinator.submit(tcc(vec![branch("away", 1)]), pb::Wait::Accepted).await.expect("it is sound");
    let mut client = coordinator.admin();
    let retry = |branch, change| admin::RetryRequest { xid: view.xid.clone(), branch, change };
    let refused = async |request: Request<admin::RetryRequest>| -> Status {
        coordinator.admin().retry(request).await.expect_err("outside a limit")
    };
    let field = async |request| violation(&refused(request).await).0;
    assert_eq!(field(Request::new(retry(Some(1), None))).await, "branch");
    assert_eq!(field(Request::new(retry(Some(256), None))).await, "branch");
    assert_eq!(field(Request::new(retry(None, why(&"x".repeat(513))))).await, "change.reason");
    assert_eq!(field(Request::new(retry(None, why("two\nlines")))).await, "change.reason");
    assert_eq!(field(by(&"x".repeat(129), retry(None, None))).await, "x-tercet-operator");
    let xid = admin::RetryRequest { xid: vec![1].into(), ..Default::default() };
    assert_eq!(field(Request::new(xid)).await, "xid");
    let policy = |attempts| admin::SetRetryPolicyRequest {
        xid: view.xid.clone(),
        retry: Some(pb::RetryPolicy { attempts, ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(violation(&client.set_retry_policy(policy(0)).await.expect_err("nothing")).0, "retry");
    let most = client.set_retry_policy(policy(1_000_001)).await.expect_err("outside");
    assert_eq!(violation(&most).0, "retry.attempts");
    let set = client.set_retry_policy(policy(7)).await.expect("it is sound").into_inner();
    let set = set.changed.expect("it tells").difference.expect("it tells");
    assert_eq!(set.branches[0].retry_after.map(|retry| retry.attempts), Some(7));
    let same = client.set_retry_policy(policy(7)).await.expect_err("it has it");
    assert_eq!(reason(&same, Code::FailedPrecondition), "NOTHING_TO_DO");
    let limit = |name: &str, value| admin::SetLimitRequest { name: name.into(), value, change: None };
    assert_eq!(violation(&client.set_limit(limit("nothing", 1)).await.expect_err("unknown")).0, "name");
    assert_eq!(violation(&client.set_limit(limit("live_max", 0)).await.expect_err("outside")).0, "value");
}

#[tokio::test]
async fn a_drained_coordinator_takes_nothing_new_until_it_is_told_to() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |heard| match heard.operation {
        "confirm" => Say::Held,
        _ => Say::Done,
    })
    .await;
    let under_way = coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Decided).await.expect("it is sound");
    let mut client = coordinator.admin();
    let drain = |undo, change| admin::DrainRequest { undo, change };
    let would = client.drain(drain(false, dry(""))).await.expect("it does not").into_inner();
    coordinator.submit(tcc(vec![]), pb::Wait::Accepted).await.expect_err("no branch");
    let did = client.drain(by("ann", drain(false, why("update")))).await.expect("it does not").into_inner();
    assert_eq!((&would, did.live), (&did, 1));
    let refused = coordinator.submit(tcc(vec![branch("shop", 2)]), pb::Wait::Decided).await.expect_err("it drains");
    assert_eq!(reason(&refused, Code::Unavailable), "DRAINING");
    party.let_through(1);
    coordinator.reaches(&under_way.xid, pb::Status::Confirmed).await;
    assert!(coordinator.statistics().await.draining);
    let twice = client.drain(drain(false, None)).await.expect_err("it does");
    assert_eq!(reason(&twice, Code::FailedPrecondition), "NOTHING_TO_DO");
    client.drain(drain(true, None)).await.expect("it does");
    coordinator.submit(tcc(vec![branch("shop", 3)]), pb::Wait::Decided).await.expect("it takes work again");
    let rows = audit(&coordinator).await;
    let found: Vec<_> = rows.iter().map(|row| (&*row.who, &*row.act, &*row.before, &*row.after)).collect();
    let (no, yes) = (r#"{"draining":"false"}"#, r#"{"draining":"true"}"#);
    assert_eq!(found, [("ann", "drain", no, yes), ("unknown", "undo-drain", yes, no)]);
}

#[tokio::test]
async fn a_limit_is_moved_while_it_runs_and_is_as_configured_after_a_restart() {
    let mut coordinator = Coordinator::start().await;
    let limit = async |coordinator: &Coordinator| {
        let limits = coordinator.admin().list_limits(admin::ListLimitsRequest {}).await.expect("it lists").into_inner();
        let live_max = limits.limits.into_iter().find(|limit| limit.name == "live_max").expect("it is there");
        (live_max.value, live_max.configured)
    };
    let request = admin::SetLimitRequest { name: "live_max".into(), value: 1, change: why("calm") };
    coordinator.admin().set_limit(request).await.expect("it is within its bounds");
    assert_eq!(limit(&coordinator).await, (1, 200_000));
    coordinator.submit(tcc(vec![branch("away", 1)]), pb::Wait::Accepted).await.expect("there is room for one");
    let full = coordinator.submit(tcc(vec![branch("away", 2)]), pb::Wait::Accepted).await.expect_err("it is full");
    assert_eq!(reason(&full, Code::ResourceExhausted), "OVERLOADED");
    coordinator.kill().await;
    coordinator.start_again().await;
    assert_eq!(limit(&coordinator).await, (200_000, 200_000));
    assert_eq!(audit(&coordinator).await.len(), 1);
}

#[tokio::test]
async fn rows_are_retried_by_filter_each_with_its_own_answer() {
    let coordinator = Coordinator::start().await;
    let (_party, mended) = stubborn(&coordinator).await;
    let views = [parked(&coordinator).await, parked(&coordinator).await, parked(&coordinator).await];
    mended.store(true, Ordering::Relaxed);
    let request = |limit, after_id| admin::RetryCompensationsRequest {
        status: Some(2),
        service: "shop".into(),
        limit,
        after_id,
        change: why("mended"),
        ..Default::default()
    };
    let mut client = coordinator.admin();
    let first = client.retry_compensations(request(2, 0)).await.expect("it is sound").into_inner();
    assert_eq!((first.changed.len(), first.next_id), (2, first.changed[1].id));
    let second = client.retry_compensations(request(2, first.next_id)).await.expect("it is sound").into_inner();
    assert_eq!((second.changed.len(), second.next_id), (1, 0));
    for view in &views {
        coordinator.reaches(&view.xid, pb::Status::Confirmed).await;
    }
    assert_eq!(audit(&coordinator).await.len(), 3);
    let ended = admin::RetryCompensationsRequest { ids: vec![first.changed[0].id], ..Default::default() };
    let ended = client.retry_compensations(ended).await.expect("it answers").into_inner();
    let error = match &ended.changed[0].result {
        Some(admin::compensation_changed::Result::Error(error)) => error.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(error, Code::FailedPrecondition as i32);
}

#[tokio::test]
async fn transactions_are_listed_by_service_and_age_and_pages_are_stable() {
    let coordinator = Coordinator::start().await;
    let _shop = Party::join(&coordinator, "shop", agrees).await;
    let _desk = Party::join(&coordinator, "desk", agrees).await;
    let mut shop = Vec::new();
    for number in 0..6 {
        let service = if number % 2 == 0 { "shop" } else { "desk" };
        let view = coordinator.submit(tcc(vec![branch(service, number)]), pb::Wait::Ended).await.expect("it is sound");
        shop.extend((number % 2 == 0).then(|| view.clone()));
    }
    let list = async |request: admin::ListTransactionsRequest| {
        coordinator.admin().list_transactions(request).await.expect("it lists").into_inner()
    };
    let ask = || admin::ListTransactionsRequest { service: "shop".into(), limit: 2, ..Default::default() };
    let first = list(ask()).await;
    // What comes meanwhile belongs to no later page.
    coordinator.submit(tcc(vec![branch("shop", 9)]), pb::Wait::Ended).await.expect("it is sound");
    let second = list(admin::ListTransactionsRequest { before: first.next, ..ask() }).await;
    let pages = first.transactions.into_iter().chain(second.transactions).map(|view| view.xid);
    assert_eq!(pages.collect::<Vec<_>>(), shop.iter().rev().map(|view| view.xid.clone()).collect::<Vec<_>>());
    assert!(second.next.is_empty());
    let at = shop[1].created_at_ms;
    let until_then = list(admin::ListTransactionsRequest { created_before_ms: at, limit: 0, ..ask() }).await;
    assert!(until_then.transactions.iter().all(|view| view.created_at_ms < at));
    let since = list(admin::ListTransactionsRequest { created_from_ms: at, limit: 0, ..ask() }).await;
    assert_eq!(until_then.transactions.len() + since.transactions.len(), 4);
    let none = list(admin::ListTransactionsRequest { parked: true, ..Default::default() }).await;
    assert_eq!((none.transactions.len(), none.next.is_empty()), (0, true));
}

#[tokio::test]
async fn participants_tell_how_they_are() {
    let coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", |heard| match (heard.operation, heard.number) {
        ("confirm", 2) => Say::Refused("sold out"),
        ("try", 3) => Say::Hangs,
        _ => Say::Done,
    })
    .await;
    coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Ended).await.expect("it is sound");
    let health = async || {
        let all = coordinator.admin().list_participants(admin::ListParticipantsRequest {}).await.expect("it lists");
        all.into_inner().services.into_iter().find(|one| one.service == "shop").expect("it is known")
    };
    let well = health().await;
    assert_eq!((well.state(), well.done, well.instances.len()), (admin::service_health::State::Healthy, 2, 1));
    assert_eq!((well.in_flight, well.parked, &*well.last_error), (0, 0, ""));

    let stuck = coordinator.submit(tcc(vec![branch("shop", 2)]), pb::Wait::Ended).await.expect("it is sound");
    let parked = until("the beat that counts it", async || Some(health().await).filter(|one| one.parked == 1)).await;
    let xid = Xid::from_slice(&stuck.xid).expect("16 bytes");
    assert_eq!(parked.last_error, format!("refused the confirm of {xid}: sold out"));
    assert!(parked.last_error_at_ms >= stuck.created_at_ms && parked.pending == 0, "{parked:?}");

    coordinator.submit(tcc(vec![branch("shop", 3)]), pb::Wait::Accepted).await.expect("it is sound");
    let stuck = admin::service_health::State::Stuck;
    let hung = until("its only batch to hang", async || Some(health().await).filter(|one| one.state() == stuck)).await;
    assert_eq!((hung.in_flight, hung.instances[0].in_flight), (1, 1));
    assert!(hung.oldest_batch_ms >= 2_000, "{hung:?}");

    party.die().await;
    let gone = until("a service that is gone", async || {
        let gone = health().await;
        (gone.state() == admin::service_health::State::Absent && gone.instances.is_empty()).then_some(gone)
    })
    .await;
    assert!(gone.last_error.starts_with("lost the session of "), "{gone:?}");
    assert!(gone.last_error.ends_with("; 1 calls had no answer"), "{gone:?}");
}
