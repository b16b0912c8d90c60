//! Transactions whose initiator calls the tries itself.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::Connection as _;
use tercet::context::Context;
use tercet::fence;
use tercet::participant::Answer;
use tercet::xid::Xid;
use tercet_proto::coordinator::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::party::{Party, agrees};
use super::world::{Coordinator, branch, branches, reason, tcc, violation};

async fn begin(coordinator: &Coordinator, deadline_ms: u32) -> bytes::Bytes {
    let request = pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms, ..Default::default() };
    coordinator.client().begin(request).await.expect("it is sound").into_inner().xid
}

async fn add(
    coordinator: &Coordinator,
    xid: &bytes::Bytes,
    index: Option<u32>,
    branch: pb::Branch,
) -> Result<pb::AddBranchResponse, Status> {
    let request = pb::AddBranchRequest { xid: xid.clone(), branch: Some(branch), index };
    Ok(coordinator.client().add_branch(request).await?.into_inner())
}

async fn commit(coordinator: &Coordinator, xid: &bytes::Bytes, wait: pb::Wait) -> Result<pb::TransactionView, Status> {
    let answer = coordinator.client().commit(pb::CommitRequest { xid: xid.clone(), wait: wait.into() }).await?;
    Ok(answer.into_inner().transaction.expect("an answer has a transaction"))
}

async fn rollback(coordinator: &Coordinator, xid: &bytes::Bytes, why: &str) -> Result<pb::TransactionView, Status> {
    let request = pb::RollbackRequest { xid: xid.clone(), wait: pb::Wait::Ended.into(), reason: why.into() };
    let answer = coordinator.client().rollback(request).await?;
    Ok(answer.into_inner().transaction.expect("an answer has a transaction"))
}

/// The initiator's own call of a branch's try, as the service's door takes it.
async fn try_it(party: &Party, xid: &[u8], added: &pb::AddBranchResponse) -> Answer {
    let xid = Xid::from_slice(xid).expect("16 bytes");
    let context = Context { xid, branch: added.branch, not_after_ms: added.not_after_ms };
    let mut connection = party.pool.acquire().await.expect("the pool is open");
    let mut db_tx = connection.begin_with("BEGIN IMMEDIATE").await.expect("nobody holds it for long");
    let answer = fence::guard(&mut *db_tx, &context, async |db_tx| {
        sqlx::query("INSERT INTO effect VALUES ('try', 1)").execute(db_tx).await?;
        Ok(Answer::done())
    });
    let answer = answer.await.expect("the fence is there");
    db_tx.commit().await.expect("it commits");
    answer
}

#[tokio::test]
async fn what_is_begun_added_and_committed_is_confirmed() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let xid = begin(&coordinator, 30_000).await;
    for number in 0..3 {
        let added = add(&coordinator, &xid, None, branch("shop", number)).await.expect("it is open");
        assert_eq!(added.branch, number as u32);
        assert_eq!(try_it(&party, &xid, &added).await, Answer::done());
    }
    assert_eq!(coordinator.get(&xid).await.expect("it is there").status(), pb::Status::Trying);
    let view = commit(&coordinator, &xid, pb::Wait::Ended).await.expect("it is open");
    assert_eq!((view.status(), view.branches.len()), (pb::Status::Confirmed, 3));
    let mut confirmed = party.heard();
    confirmed.sort_unstable();
    assert_eq!(confirmed, [("confirm", 0), ("confirm", 1), ("confirm", 2)], "the coordinator calls no try");
    // Again, in memory or not, is the same answer; so is a rollback that comes too late.
    let again = commit(&coordinator, &xid, pb::Wait::Ended).await.expect("it is known");
    assert_eq!(
        pb::TransactionView { repeated: false, ..again },
        pb::TransactionView { repeated: false, ..view.clone() }
    );
    assert_eq!(rollback(&coordinator, &xid, "too late").await.expect("it is known").status(), pb::Status::Confirmed);
}

#[tokio::test]
async fn what_is_rolled_back_is_cancelled_for_its_reason() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let xid = begin(&coordinator, 30_000).await;
    let first = add(&coordinator, &xid, None, branch("shop", 0)).await.expect("it is open");
    try_it(&party, &xid, &first).await;
    let second = add(&coordinator, &xid, None, branch("shop", 1)).await.expect("it is open");
    let view = rollback(&coordinator, &xid, "changed my mind").await.expect("it is open");
    assert_eq!((view.status(), branches(&view)), (pb::Status::Cancelled, vec![pb::BranchStatus::Done; 2]));
    assert!(view.reason.ends_with("changed my mind") && view.refusal.is_none(), "{view:?}");
    // The one that was never tried has an empty cancel, which keeps its late try out.
    assert_eq!(party.heard(), [("cancel", 0)]);
    assert!(matches!(try_it(&party, &xid, &second).await, Answer::Refused(_)));
    assert_eq!(commit(&coordinator, &xid, pb::Wait::Ended).await.expect("it is told").status(), pb::Status::Cancelled);
}

#[tokio::test]
async fn a_branch_is_durable_before_add_branch_answers() {
    let mut coordinator = Coordinator::start().await;
    let mut party = Party::join(&coordinator, "shop", agrees).await;
    let xid = begin(&coordinator, 1_500).await;
    let added = add(&coordinator, &xid, None, branch("shop", 7)).await.expect("it is open");
    coordinator.kill().await;
    try_it(&party, &xid, &added).await;
    coordinator.start_again().await;
    let view = coordinator.get(&xid).await.expect("it is durable");
    assert_eq!(view.branches.len(), 1);
    let view = coordinator.reaches(&xid, pb::Status::Cancelled).await;
    assert_eq!((&*view.reason, &view.refusal), ("the deadline passed before it was decided", &None));
    assert_eq!((party.heard(), party.fence(&xid, 0).await), (vec![("cancel", 7)], Some(3)));
    party.die().await;
}

#[tokio::test]
async fn after_a_restart_branches_are_added_and_committed_as_before() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let xid = begin(&coordinator, 60_000).await;
    let first = add(&coordinator, &xid, Some(0), branch("shop", 0)).await.expect("it is open");
    try_it(&party, &xid, &first).await;
    coordinator.kill().await;
    coordinator.start_again().await;
    // The client that lost the answer says the same again.
    let again = add(&coordinator, &xid, Some(0), branch("shop", 0)).await.expect("it is open");
    assert_eq!(again.branch, 0);
    let second = add(&coordinator, &xid, Some(1), branch("shop", 1)).await.expect("it is open");
    try_it(&party, &xid, &second).await;
    let view = commit(&coordinator, &xid, pb::Wait::Ended).await.expect("it is open");
    assert_eq!((view.status(), view.branches.len()), (pb::Status::Confirmed, 2));
    assert_eq!((party.fence(&xid, 0).await, party.fence(&xid, 1).await), (Some(2), Some(2)));
}

#[tokio::test]
async fn an_index_makes_the_repeat_of_a_branch_safe() {
    let coordinator = Coordinator::start().await;
    let xid = begin(&coordinator, 60_000).await;
    let same = || add(&coordinator, &xid, Some(0), branch("shop", 0));
    let answers = join_all((0..20).map(|_| same())).await;
    assert!(answers.into_iter().all(|answer| answer.expect("it is the same").branch == 0));
    assert_eq!(coordinator.get(&xid).await.expect("it is there").branches.len(), 1);
    let other = add(&coordinator, &xid, Some(0), branch("shop", 1)).await.expect_err("it is another");
    assert_eq!(reason(&other, Code::AlreadyExists), "BRANCH_DIFFERS");
    let far = add(&coordinator, &xid, Some(2), branch("shop", 2)).await.expect_err("there is no 1");
    assert_eq!(violation(&far).0, "index");
    assert_eq!(add(&coordinator, &xid, Some(1), branch("shop", 1)).await.expect("it is the next").branch, 1);
}

#[tokio::test]
async fn after_a_decision_no_branch_is_taken() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |_| super::party::Say::Held).await;
    let (committed, rolled_back) = (begin(&coordinator, 60_000).await, begin(&coordinator, 60_000).await);
    let late = begin(&coordinator, 1).await;
    let added = add(&coordinator, &committed, None, branch("shop", 0)).await.expect("it is open");
    try_it(&party, &committed, &added).await;
    commit(&coordinator, &committed, pb::Wait::Decided).await.expect("it is open");
    rollback(&coordinator, &rolled_back, "").await.expect("it is open");
    coordinator.reaches(&late, pb::Status::Cancelled).await;
    for (xid, status) in [(&committed, "confirming"), (&rolled_back, "cancelled"), (&late, "cancelled")] {
        let error = add(&coordinator, xid, None, branch("shop", 1)).await.expect_err("it is decided");
        assert_eq!(reason(&error, Code::FailedPrecondition), "ALREADY_DECIDED");
        let info = error.get_details_error_info().expect("it is there");
        assert_eq!(info.metadata["status"], status);
    }
    party.let_through(1);
    let view = coordinator.reaches(&committed, pb::Status::Confirmed).await;
    assert_eq!(view.branches.len(), 1);
}

#[tokio::test]
async fn what_can_not_be_committed_says_so() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |_| super::party::Say::Held).await;
    let nobody = bytes::Bytes::from_static(&[9; 16]);
    let unknown = commit(&coordinator, &nobody, pb::Wait::Ended).await.expect_err("there is none");
    assert_eq!(reason(&unknown, Code::NotFound), "NOT_FOUND");
    let unknown = rollback(&coordinator, &nobody, "").await.expect_err("there is none");
    assert_eq!(reason(&unknown, Code::NotFound), "NOT_FOUND");
    let unknown = add(&coordinator, &nobody, None, branch("shop", 1)).await.expect_err("there is none");
    assert_eq!(reason(&unknown, Code::NotFound), "NOT_FOUND");

    let declared = coordinator.submit(tcc(vec![branch("shop", 1)]), pb::Wait::Accepted).await.expect("it is sound");
    let error = commit(&coordinator, &declared.xid, pb::Wait::Ended).await.expect_err("it decides itself");
    assert_eq!(reason(&error, Code::FailedPrecondition), "DECLARED");
    let error = add(&coordinator, &declared.xid, None, branch("shop", 1)).await.expect_err("it is whole");
    assert_eq!(reason(&error, Code::FailedPrecondition), "DECLARED");
    party.let_through(2);
    coordinator.reaches(&declared.xid, pb::Status::Confirmed).await;
    let error = commit(&coordinator, &declared.xid, pb::Wait::Ended).await.expect_err("it has decided itself");
    assert_eq!(reason(&error, Code::FailedPrecondition), "DECLARED");
}

/// Each commit is sent when the deadline passes, a little earlier or later.
#[tokio::test]
async fn a_commit_that_races_the_deadline_is_told_the_truth() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let (coordinator, party) = (&coordinator, &party);
    let race = async |number: u64| {
        let xid = begin(coordinator, 250).await;
        let added = add(coordinator, &xid, None, branch("shop", number as i64)).await.expect("250 ms are enough");
        let tried = try_it(party, &xid, &added).await == Answer::done();
        let view = coordinator.get(&xid).await.expect("it is there");
        let now_ms = coordinator.statistics().await.now_ms;
        let left_ms = (view.deadline_at_ms + number % 9).saturating_sub(now_ms + 5);
        tokio::time::sleep(Duration::from_millis(left_ms)).await;
        let told = commit(coordinator, &xid, pb::Wait::Decided).await.expect("it is told");
        let confirmed = matches!(told.status(), pb::Status::Confirming | pb::Status::Confirmed);
        assert_ne!(told.status(), pb::Status::Trying);
        let (last, state) = if confirmed { (pb::Status::Confirmed, 2) } else { (pb::Status::Cancelled, 3) };
        coordinator.reaches(&xid, last).await;
        assert_eq!(party.fence(&xid, 0).await, Some(state), "race {number}");
        assert!(tried || !confirmed, "what was not tried was committed");
        confirmed
    };
    let mut won = 0;
    // A few at a time, or the machine's load alone would decide them.
    for round in 0..20 {
        let races = (0..10).map(|number| race(round * 10 + number));
        won += join_all(races).await.into_iter().filter(|won| *won).count();
    }
    assert!((1..200).contains(&won), "{won} of 200 commits won: they did not race");
}
