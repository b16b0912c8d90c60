//! Every limit that a client can pass: refused with the field's name and its limit, and nothing is changed.

use tercet_proto::admin::v1 as admin;
use tercet_proto::coordinator::v1 as pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::party::{Party, Say, agrees};
use super::world::{Coordinator, branch, in_time, reason, tcc, violation};

const MIB: usize = 1 << 20;

type Change = fn(&mut pb::Transaction);

fn retry(change: fn(&mut pb::RetryPolicy)) -> Option<pb::RetryPolicy> {
    let mut retry = pb::RetryPolicy::default();
    change(&mut retry);
    Some(retry)
}

fn declared() -> pb::Transaction {
    tcc(vec![branch("shop", 1), branch("shop", 2)])
}

/// What passes a limit of a declared transaction, the field that is blamed, and a word of the limit.
const DECLARED: &[(Change, &str, &str)] = &[
    (|t| t.mode = 0, "transaction.mode", "TCC, saga or message"),
    (|t| t.mode = 99, "transaction.mode", "TCC, saga or message"),
    (|t| t.branches.clear(), "transaction.branches", "at least 1"),
    (|t| t.branches = vec![branch("shop", 1); 257], "transaction.branches", "at most 256"),
    (|t| t.deadline_ms = 86_400_001, "transaction.deadline_ms", "86400000"),
    (|t| t.idempotency_key = "x".repeat(129), "transaction.idempotency_key", "at most 128 bytes"),
    (|t| t.labels = (0..17).map(|n| (format!("{n}"), String::new())).collect(), "transaction.labels", "at most 16"),
    (|t| drop(t.labels.insert(String::new(), "x".into())), "transaction.labels", "name"),
    (|t| drop(t.labels.insert("a=b".into(), "x".into())), "transaction.labels", "without '='"),
    (|t| drop(t.labels.insert("x".repeat(129), String::new())), "transaction.labels", "bytes"),
    (|t| drop(t.labels.insert("x".into(), "y".repeat(129))), "transaction.labels", "bytes"),
    (|t| t.branches[1].service = String::new(), "transaction.branches[1].service", "1 to 64 of [a-z0-9_.-]"),
    (|t| t.branches[1].service = "x".repeat(65), "transaction.branches[1].service", "1 to 64"),
    (|t| t.branches[1].service = "Shop".into(), "transaction.branches[1].service", "1 to 64"),
    (|t| t.branches[0].action = "a b".into(), "transaction.branches[0].action", "1 to 64"),
    (|t| t.branches[0].request = vec![0; MIB + 1].into(), "transaction.branches[0].request", "at most 1048576 bytes"),
    (
        |t| t.branches = vec![pb::Branch { request: vec![0; 1_000_000].into(), ..branch("shop", 1) }; 9],
        "transaction.branches.request",
        "at most 8388608 bytes",
    ),
    (|t| t.branches[1].after = vec![2], "transaction.branches[1].after", "indexes of branches"),
    (|t| t.branches[1].after = vec![u32::MAX], "transaction.branches[1].after", "indexes of branches"),
    (|t| t.branches[1].after = vec![0; 257], "transaction.branches[1].after", "at most 256"),
    (|t| t.branches[1].after = vec![1], "transaction.branches.after", "no cycle"),
    (|t| (t.branches[0].after, t.branches[1].after) = (vec![1], vec![0]), "transaction.branches.after", "no cycle"),
    (|t| t.branches[0].call_timeout_ms = 600_001, "transaction.branches[0].call_timeout_ms", "at most 600000 ms"),
    (|t| t.branches[0].business_key = "x".repeat(129), "transaction.branches[0].business_key", "at most 128 bytes"),
    (
        |t| t.branches[0].retry = retry(|retry| retry.factor_percent = 99),
        "transaction.branches[0].retry.factor_percent",
        "100 to 10000",
    ),
    (
        |t| t.branches[0].retry = retry(|retry| retry.jitter_percent = 101),
        "transaction.branches[0].retry.jitter_percent",
        "0 to 100",
    ),
    (
        |t| t.branches[0].retry = retry(|retry| retry.quick_attempts = 101),
        "transaction.branches[0].retry.quick_attempts",
        "1 to 100",
    ),
    (
        |t| t.branches[0].retry = retry(|retry| retry.attempts = 1_000_001),
        "transaction.branches[0].retry.attempts",
        "1 to 1000000",
    ),
    (
        |t| t.branches[0].retry = retry(|retry| retry.first_delay_ms = 86_400_001),
        "transaction.branches[0].retry.first_delay_ms",
        "86400000",
    ),
    (
        |t| t.branches[0].retry = retry(|retry| retry.delay_max_ms = 86_400_001),
        "transaction.branches[0].retry.delay_max_ms",
        "86400000",
    ),
];

#[tokio::test]
async fn what_passes_a_limit_is_refused_by_field_and_limit_and_changes_nothing() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    for (change, field, limit) in DECLARED {
        let mut transaction = declared();
        change(&mut transaction);
        let error = coordinator.submit(transaction, pb::Wait::Ended).await.expect_err(field);
        let (named, text) = violation(&error);
        assert_eq!(named, *field);
        assert!(text.contains(limit), "{field}: {text}");
        assert!(error.message().contains(field), "{error:?}");
    }
    let none = coordinator.client().submit(pb::SubmitRequest::default()).await.expect_err("there is no transaction");
    assert_eq!(violation(&none).0, "transaction");
    assert_eq!((coordinator.count().await, party.heard().len()), (0, 0));
}

#[tokio::test]
async fn what_is_at_its_limit_is_taken() {
    let coordinator = Coordinator::start().await;
    let _party = Party::join(&coordinator, "shop", agrees).await;
    let mut transaction = tcc((0..256).map(|number| branch("shop", number)).collect());
    transaction.idempotency_key = "k".repeat(128);
    transaction.deadline_ms = 86_400_000;
    transaction.labels = (0..16).map(|n| (format!("{n:0>127}"), "v".repeat(128))).collect();
    for branch in &mut transaction.branches {
        branch.business_key = "b".repeat(128);
    }
    // JSON of one number, however long.
    transaction.branches[0].request = format!("{}7", " ".repeat(MIB - 1)).into();
    let view = coordinator.submit(transaction, pb::Wait::Ended).await.expect("it fits");
    assert_eq!((view.status(), view.branches.len(), view.labels.len()), (pb::Status::Confirmed, 256, 16));
}

#[tokio::test]
async fn begun_and_prepared_ones_have_the_same_limits() {
    let coordinator = Coordinator::start().await;
    let mut client = coordinator.client();
    let tcc = pb::Mode::Tcc.into();
    for (request, field) in [
        (pb::BeginRequest::default(), "mode"),
        (pb::BeginRequest { mode: pb::Mode::Message.into(), ..Default::default() }, "mode"),
        (pb::BeginRequest { mode: tcc, deadline_ms: 86_400_001, ..Default::default() }, "deadline_ms"),
        (pb::BeginRequest { mode: tcc, idempotency_key: "x".repeat(129), ..Default::default() }, "idempotency_key"),
    ] {
        assert_eq!(violation(&client.begin(request).await.expect_err(field)).0, field);
    }
    let sound = pb::PrepareRequest { sender: Some(branch("shop", 1)), ..Default::default() };
    let bad = branch("Shop", 1);
    let after = pb::Branch { after: vec![0], ..branch("shop", 1) };
    for (request, field) in [
        (pb::PrepareRequest::default(), "sender"),
        (pb::PrepareRequest { sender: Some(bad.clone()), ..Default::default() }, "sender.service"),
        (pb::PrepareRequest { sender: Some(after), ..Default::default() }, "sender.after"),
        (
            pb::PrepareRequest { receivers: vec![branch("shop", 1), bad.clone()], ..sound.clone() },
            "receivers[1].service",
        ),
        (pb::PrepareRequest { query_after_ms: 86_400_001, ..sound.clone() }, "query_after_ms"),
        (pb::PrepareRequest { idempotency_key: "x".repeat(129), ..sound.clone() }, "idempotency_key"),
    ] {
        assert_eq!(violation(&client.prepare(request).await.expect_err(field)).0, field);
    }
    for xid in [&b""[..], &[0; 15], &[0; 17]] {
        let xid = bytes::Bytes::copy_from_slice(xid);
        let commit = pb::CommitRequest { xid: xid.clone(), ..Default::default() };
        assert_eq!(violation(&client.commit(commit).await.expect_err("no xid")).0, "xid");
        let rollback = pb::RollbackRequest { xid: xid.clone(), ..Default::default() };
        assert_eq!(violation(&client.rollback(rollback).await.expect_err("no xid")).0, "xid");
        let add = pb::AddBranchRequest { xid: xid.clone(), branch: Some(branch("shop", 1)), index: None };
        assert_eq!(violation(&client.add_branch(add).await.expect_err("no xid")).0, "xid");
        let get = pb::GetRequest { key: Some(pb::get_request::Key::Xid(xid.clone())) };
        assert_eq!(violation(&client.get(get).await.expect_err("no xid")).0, "xid");
        assert_eq!(violation(&client.watch(pb::WatchRequest { xid }).await.expect_err("no xid")).0, "xid");
    }
    assert_eq!(violation(&client.get(pb::GetRequest::default()).await.expect_err("no key")).0, "key");
    assert_eq!(coordinator.count().await, 0);
}

#[tokio::test]
async fn the_branches_of_a_begun_one_have_limits_alone_and_together() {
    let coordinator = Coordinator::start().await;
    let mut client = coordinator.client();
    let begin = pb::BeginRequest { mode: pb::Mode::Tcc.into(), ..Default::default() };
    let xid = client.begin(begin).await.expect("it is sound").into_inner().xid;
    let add = |branch| pb::AddBranchRequest { xid: xid.clone(), branch, index: None };
    for (branch, field) in [
        (None, "branch.service"),
        (Some(pb::Branch { request: vec![0; MIB + 1].into(), ..branch("shop", 1) }), "branch.request"),
        (Some(pb::Branch { after: vec![0], ..branch("shop", 1) }), "branch.after"),
        (Some(pb::Branch { business_key: "x".repeat(129), ..branch("shop", 1) }), "branch.business_key"),
    ] {
        assert_eq!(violation(&client.add_branch(add(branch)).await.expect_err(field)).0, field);
    }
    let large = pb::Branch { request: vec![0; MIB].into(), ..branch("shop", 1) };
    for _ in 0..8 {
        client.add_branch(add(Some(large.clone()))).await.expect("it fits");
    }
    let error = client.add_branch(add(Some(branch("shop", 1)))).await.expect_err("all of them are too large");
    assert_eq!(violation(&error), ("branch.request".into(), "at most 8388608 bytes in all branches".into()));
    let view = coordinator.get(&xid).await.expect("it is there");
    assert_eq!((view.branches.len(), view.status()), (8, pb::Status::Trying));
}

#[tokio::test]
async fn pages_of_the_admin_have_limits() {
    let coordinator = Coordinator::start().await;
    let mut admin = coordinator.admin();
    let list = admin::ListTransactionsRequest { limit: 1_001, ..Default::default() };
    assert_eq!(violation(&admin.list_transactions(list).await.expect_err("too long")).0, "limit");
    let list = admin::ListTransactionsRequest { before: vec![1].into(), ..Default::default() };
    assert_eq!(violation(&admin.list_transactions(list).await.expect_err("no xid")).0, "before");
    let list = admin::ListCompensationsRequest { limit: 1_001, ..Default::default() };
    assert_eq!(violation(&admin.list_compensations(list).await.expect_err("too long")).0, "limit");
    let list = admin::ListCompensationsRequest { status: Some(3), ..Default::default() };
    assert_eq!(violation(&admin.list_compensations(list).await.expect_err("no status")).0, "status");
}

#[tokio::test]
async fn past_live_max_new_ones_are_refused_with_a_delay_until_there_is_room() {
    let coordinator = Coordinator::with(|config| config.live_max = 4).await;
    let party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let desk = Party::join(&coordinator, "desk", |_| Say::Held).await;
    for number in 0..2 {
        for service in ["shop", "desk"] {
            coordinator.submit(tcc(vec![branch(service, number)]), pb::Wait::Accepted).await.expect("there is room");
        }
    }
    let error = coordinator.submit(tcc(vec![branch("shop", 3)]), pb::Wait::Accepted).await.expect_err("it is full");
    assert_eq!(reason(&error, Code::ResourceExhausted), "OVERLOADED");
    let info = error.get_details_error_info().expect("it is there").metadata;
    assert_eq!((info["what"].as_str(), info["limit"].as_str()), ("live transactions", "4"));
    let delay = error.get_details_retry_info().and_then(|info| info.retry_delay).expect("it says when");
    assert!(!delay.is_zero());
    assert_eq!(coordinator.count().await, 4);
    // The SDK waits for room by itself.
    let client = coordinator.sdk();
    let plan = || {
        let mut plan = tercet::plan::tcc();
        plan.branch(tercet::plan::Branch::dynamic("shop", "act", "4".into()).expect("it is sound"));
        plan.build().expect("it is sound")
    };
    let submit = tokio::spawn(async move { client.submit(plan(), tercet::client::Wait::Ended).await });
    party.let_through(100);
    desk.let_through(100);
    let view = in_time("room", submit).await.expect("it does not panic").expect("there is room in the end");
    assert!(view.confirmed().is_ok());
    assert_eq!(coordinator.count().await, 5);
}
