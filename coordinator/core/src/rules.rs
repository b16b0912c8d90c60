//! Rules that have to do with time and counting, which the walk leaves out, each as a small story.

use alloc::vec;
use alloc::vec::Vec;

use crate::*;

const RETRY: RetryPolicy = RetryPolicy {
    first_delay_ms: 100,
    factor_percent: 200,
    delay_max_ms: 1_000,
    jitter_percent: 0,
    quick_attempts: 3,
    attempts: 5,
};

/// A transaction under test, with what its last step wanted.
struct Story {
    tx: Tx,
    effects: Effects,
}

impl Story {
    fn new(operations: Operations, count: usize) -> Self {
        let branches = vec![Branch::new(operations, &[], RETRY, 300); count];
        Self::of(Tx::new(Xid([9; 16]), false, Timestamp(1_000), branches))
    }

    fn of(tx: Tx) -> Self {
        Self { tx, effects: Effects::default() }
    }

    #[track_caller]
    fn at(&mut self, now: u64, event: Event) -> &mut Self {
        self.effects.clear();
        step(&mut self.tx, event, Timestamp(now), &mut self.effects);
        self
    }

    #[track_caller]
    fn woken(&mut self, now: u64) -> &mut Self {
        self.at(now, Event::Woken)
    }

    #[track_caller]
    fn replied(&mut self, now: u64, branch: u8, operation: Operation, reply: Reply) -> &mut Self {
        let attempt = self.tx.branches[usize::from(branch)].attempts;
        self.at(now, Event::Replied { branch, operation, attempt, reply })
    }

    /// Branch, operation, attempt and `not_after` of each call of the last step.
    fn calls(&self) -> Vec<(u8, Operation, u32, u64)> {
        self.effects.calls.iter().map(|call| (call.branch, call.operation, call.attempt, call.not_after.0)).collect()
    }

    /// One branch that has tried and confirms, called at 0.
    fn confirming() -> Self {
        let mut story = Self::new(Operations::TCC, 1);
        story.woken(0).replied(0, 0, Operation::Try, Reply::Done);
        assert_eq!(story.tx.status, Status::Confirming);
        story
    }
}

#[test]
fn a_call_may_begin_until_its_time_out_and_a_try_until_the_deadline() {
    let mut story = Story::new(Operations::TCC, 1);
    assert_eq!(story.woken(10).calls(), [(0, Operation::Try, 0, 310)]);
    let mut story = Story::new(Operations::TCC, 1);
    assert_eq!(story.woken(900).calls(), [(0, Operation::Try, 0, 1_000)]);
    assert_eq!(story.tx.wake_at(), Some(Timestamp(1_000)), "the deadline comes before the time-out");
    let confirm = (0, Operation::Confirm, 0, 1_250);
    assert_eq!(story.replied(950, 0, Operation::Try, Reply::Done).calls(), [confirm]);
}

#[test]
fn the_deadline_cancels_at_its_very_moment_and_not_before() {
    let mut story = Story::new(Operations::TCC, 1);
    story.woken(0).woken(299);
    assert_eq!((story.calls(), story.tx.status), (vec![], Status::Trying));
    story.woken(999);
    assert_eq!(story.tx.status, Status::Trying);
    story.woken(1_000);
    assert_eq!((story.tx.status, story.tx.cause), (Status::Cancelling, Some(Cause::Deadline)));
    assert_eq!(story.calls(), [(0, Operation::Cancel, 0, 1_300)]);
    assert_eq!(story.effects.notes, [Note::Cancelling]);
}

#[test]
fn a_try_without_an_answer_is_repeated_with_growing_delays_and_never_logged() {
    let mut story = Story::new(Operations::TCC, 1);
    story.woken(0).woken(300);
    assert_eq!(story.effects.notes, [Note::Unknown(Operation::Try, 0)]);
    assert_eq!(story.tx.wake_at(), Some(Timestamp(400)));
    assert_eq!(story.woken(399).calls(), []);
    assert_eq!(story.woken(400).calls(), [(0, Operation::Try, 1, 700)]);
    story.replied(450, 0, Operation::Try, Reply::Unknown);
    assert_eq!(story.tx.wake_at(), Some(Timestamp(650)));
    assert!(!story.effects.persist);
    for _ in 0..20 {
        story.tx.deadline = Timestamp(1_000_000);
        let due = story.tx.wake_at().expect("it goes on").0;
        story.woken(due).replied(due, 0, Operation::Try, Reply::Unknown);
    }
    assert_eq!(story.tx.branches[0].progress, Progress::Delayed);
}

#[test]
fn not_now_waits_as_long_as_the_participant_asks_for() {
    let mut story = Story::confirming();
    story.replied(50, 0, Operation::Confirm, Reply::NotNow { delay_ms: 777 });
    assert_eq!((story.tx.wake_at(), story.tx.branches[0].attempts), (Some(Timestamp(827)), 1));
    assert_eq!(story.effects.notes, [Note::NotNow(Operation::Confirm, 0)]);
    story.woken(827).replied(830, 0, Operation::Confirm, Reply::NotNow { delay_ms: 1 });
    assert_eq!(story.tx.wake_at(), Some(Timestamp(1_030)), "but no less than the policy says");
    story.woken(1_030).replied(1_030, 0, Operation::Confirm, Reply::NotNow { delay_ms: 50 });
    let next = RowStatus::Pending(Timestamp(1_030 + 50 + 400));
    assert_eq!(story.effects.compensations[0].status, next, "also when it goes to the log");
}

#[test]
fn quick_attempts_used_up_go_to_the_log_and_all_of_them_to_a_person() {
    let mut story = Story::confirming();
    story.woken(300).woken(400).woken(700).woken(900);
    assert_eq!(story.calls(), [(0, Operation::Confirm, 2, 1_200)]);
    story.woken(1_200);
    let row = |status, retry_count| Compensation { branch: 0, operation: Operation::Confirm, status, retry_count };
    assert_eq!(story.effects.compensations, [row(RowStatus::Pending(Timestamp(1_600)), 3)]);
    assert_eq!(story.effects.notes, [Note::Unknown(Operation::Confirm, 0), Note::Logged(Operation::Confirm, 0)]);
    assert!(story.effects.persist && story.tx.rests());
    assert_eq!(story.tx.wake_at(), None);
    assert_eq!(story.at(1_600, Event::Retry { branch: 0 }).calls(), [(0, Operation::Confirm, 3, 1_900)]);
    assert!(!story.effects.persist && story.tx.rests(), "its row is there all the time");
    story.woken(1_900);
    assert_eq!(story.effects.compensations, [row(RowStatus::Pending(Timestamp(2_700)), 4)]);
    story.at(2_700, Event::Retry { branch: 0 }).replied(2_750, 0, Operation::Confirm, Reply::Unknown);
    assert_eq!(story.effects.compensations, [row(RowStatus::Failed, 5)]);
    assert_eq!(story.tx.branches[0].progress, Progress::Parked(Parked::Exhausted));
    assert_eq!(story.effects.notes[1], Note::Parked(Operation::Confirm, 0));
    assert_eq!(story.at(9_999, Event::Retry { branch: 0 }).calls(), [], "only a person moves what is parked");
    story.replied(9_999, 0, Operation::Confirm, Reply::Refused);
    assert_eq!(story.effects, Effects::default(), "it is parked already");
    story.replied(9_999, 0, Operation::Confirm, Reply::Done);
    assert_eq!(story.effects.compensations, [row(RowStatus::Done, 5)]);
    assert_eq!(story.tx.status, Status::Confirmed);
}

#[test]
fn a_refusal_in_the_second_phase_parks_at_once() {
    let mut story = Story::confirming();
    story.replied(10, 0, Operation::Confirm, Reply::Refused);
    assert_eq!(story.tx.branches[0].progress, Progress::Parked(Parked::Refused));
    assert_eq!(story.effects.notes, [Note::Refused(Operation::Confirm, 0), Note::Parked(Operation::Confirm, 0)]);
    assert_eq!(story.effects.compensations[0].status, RowStatus::Failed);
    assert!(story.effects.persist);
}

#[test]
fn a_service_that_is_not_connected_is_waited_for_and_costs_no_attempt() {
    let mut story = Story::confirming();
    story.replied(10, 0, Operation::Confirm, Reply::Unreachable);
    assert_eq!(story.effects.notes, [Note::Unreachable(Operation::Confirm, 0)]);
    assert_eq!((story.tx.wake_at(), story.tx.branches[0].attempts), (Some(Timestamp(5_010)), 0));
    let again = story.at(20, Event::Reachable { branch: 0 }).calls();
    assert_eq!(again, [(0, Operation::Confirm, 0, 320)]);
    story.replied(30, 0, Operation::Confirm, Reply::Unreachable).woken(5_029);
    assert_eq!(story.effects, Effects::default());
    story.woken(5_030);
    let next = RowStatus::Pending(Timestamp(5_130));
    let row = Compensation { branch: 0, operation: Operation::Confirm, status: next, retry_count: 0 };
    assert_eq!(story.effects.compensations, [row]);
    // In the log, it goes back to the row that it has.
    story.at(6_000, Event::Retry { branch: 0 }).replied(6_000, 0, Operation::Confirm, Reply::Unreachable);
    assert_eq!((&story.effects, story.tx.branches[0].progress), (&Effects::default(), Progress::Logged));
}

#[test]
fn a_try_that_was_never_sent_needs_no_cancel() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(0, 0, Operation::Try, Reply::Unreachable);
    assert_eq!(story.tx.wake_at(), Some(Timestamp(300)), "only the other branch and the deadline");
    story.replied(10, 1, Operation::Try, Reply::Refused);
    assert_eq!(story.calls(), [(1, Operation::Cancel, 0, 310)]);
    assert_eq!(story.tx.cause, Some(Cause::Refused { branch: 1 }));
    assert_eq!(story.effects.notes, [Note::Refused(Operation::Try, 1), Note::Cancelling]);
    story.replied(20, 1, Operation::Cancel, Reply::Done);
    assert_eq!(story.tx.status, Status::Cancelled);
}

#[test]
fn an_answer_counts_only_for_the_call_that_waits_for_it_unless_it_is_final() {
    let mut story = Story::confirming();
    story.woken(300).woken(400);
    let late = |reply| Event::Replied { branch: 0, operation: Operation::Confirm, attempt: 0, reply };
    for reply in [Reply::Unknown, Reply::NotNow { delay_ms: 5 }, Reply::Unreachable] {
        story.at(410, late(reply));
        assert_eq!((&story.effects, story.tx.branches[0].attempts), (&Effects::default(), 1));
    }
    story.at(420, Event::Replied { branch: 7, operation: Operation::Confirm, attempt: 0, reply: Reply::Done });
    assert_eq!(story.effects, Effects::default(), "there is no such branch");
    story.at(430, late(Reply::Done));
    assert_eq!(story.tx.status, Status::Confirmed);
}

impl Story {
    fn prepared() -> Self {
        let sender = Branch::new(Operations::SENDER, &[], RETRY, 300);
        let receiver = Branch::new(Operations::RECEIVER, &[], RETRY, 300);
        Self::of(Tx::new(Xid([9; 16]), false, Timestamp(1_000), vec![sender, receiver]))
    }
}

#[test]
fn a_silent_sender_is_asked_when_its_time_is_over_and_its_deadline_cancels_nothing() {
    let mut story = Story::prepared();
    assert_eq!((story.woken(0).calls(), story.tx.wake_at()), (vec![], Some(Timestamp(1_000))));
    assert_eq!(story.woken(999).calls(), []);
    assert_eq!(story.woken(1_000).calls(), [(0, Operation::Ask, 0, 1_300)]);
    assert_eq!(story.tx.status, Status::Trying);
    assert_eq!(story.replied(1_010, 0, Operation::Ask, Reply::Done).calls(), [(1, Operation::Confirm, 0, 1_310)]);
    let mut story = Story::prepared();
    story.woken(1_000).replied(1_010, 0, Operation::Ask, Reply::Refused);
    assert_eq!((story.tx.status, story.tx.cause), (Status::Cancelled, Some(Cause::Refused { branch: 0 })));
}

#[test]
fn a_question_that_no_one_answers_goes_to_the_log_and_a_commit_takes_it_out() {
    let mut story = Story::prepared();
    story.woken(1_000).woken(1_300).woken(1_400).woken(1_700).woken(1_900).woken(2_200);
    assert_eq!(story.effects.compensations[0].operation, Operation::Ask);
    assert!(story.tx.rests());
    story.at(3_000, Event::CommitAsked);
    let done = Compensation { branch: 0, operation: Operation::Ask, status: RowStatus::Done, retry_count: 3 };
    assert_eq!(story.effects.compensations, [done]);
    assert_eq!(story.calls(), [(1, Operation::Confirm, 0, 3_300)]);
    assert!(!story.tx.rests());
}

#[test]
fn a_senders_rollback_is_checked_by_asking_at_once() {
    let mut story = Story::prepared();
    story.woken(0).at(50, Event::RollbackAsked);
    assert_eq!((story.calls(), story.tx.status), (vec![(0, Operation::Ask, 0, 350)], Status::Trying));
    story.at(60, Event::RollbackAsked);
    assert_eq!(story.effects, Effects::default(), "it is being asked");
}

#[test]
fn an_initiator_adds_branches_and_one_too_many_is_not_taken() {
    let branch = || Branch::new(Operations::TCC, &[], RETRY, 300);
    let mut story = Story::of(Tx::new(Xid([9; 16]), true, Timestamp(1_000), Vec::new()));
    story.woken(0);
    assert_eq!((story.tx.status, story.tx.wake_at()), (Status::Trying, Some(Timestamp(1_000))));
    for count in 1..=BRANCHES_MAX {
        story.at(1, Event::BranchAdded(branch()));
        assert!(story.effects.persist && story.calls().is_empty() && story.tx.branches.len() == count);
    }
    story.at(1, Event::BranchAdded(branch()));
    assert!(!story.effects.persist && story.tx.branches.len() == BRANCHES_MAX);
    story.at(2, Event::CommitAsked);
    assert_eq!((story.effects.calls.len(), &story.effects.notes[..]), (BRANCHES_MAX, &[Note::Confirming][..]));
    story.at(3, Event::BranchAdded(branch()));
    assert_eq!((&story.effects, story.tx.branches.len()), (&Effects::default(), BRANCHES_MAX));
    let mut declared = Story::new(Operations::TCC, 1);
    declared.woken(0).at(1, Event::BranchAdded(branch()));
    assert_eq!((&declared.effects, declared.tx.branches.len()), (&Effects::default(), 1));
    declared.at(1, Event::CommitAsked);
    assert_eq!((&declared.effects, declared.tx.status), (&Effects::default(), Status::Trying));
}

#[test]
fn a_commit_at_the_deadline_loses_and_one_before_it_wins() {
    for (now, status) in [(999, Status::Confirmed), (1_000, Status::Cancelled)] {
        let mut story = Story::of(Tx::new(Xid([9; 16]), true, Timestamp(1_000), Vec::new()));
        story.woken(0).at(now, Event::CommitAsked);
        assert_eq!(story.tx.status, status);
        story.at(now, Event::RollbackAsked);
        assert_eq!((story.tx.status, &story.effects), (status, &Effects::default()));
    }
}

#[test]
fn what_is_read_back_is_due_with_all_its_quick_attempts() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(1, 0, Operation::Try, Reply::Done).replied(2, 1, Operation::Try, Reply::Unknown);
    story.tx.recover();
    let [done, due] = &story.tx.branches[..] else { panic!("two branches") };
    assert_eq!((done.progress, due.progress, due.attempts, due.sent), (Progress::Done, Progress::Due, 0, 1));
    assert_eq!(story.woken(5).calls(), [(1, Operation::Try, 0, 305)]);
    let mut story = Story::prepared();
    story.woken(1_000);
    story.tx.recover();
    assert_eq!(story.tx.branches[0].progress, Progress::Delayed, "a question waits for its time again");
    let mut story = Story::confirming();
    story.tx.recover();
    assert_eq!(story.woken(7).calls(), [(0, Operation::Confirm, 0, 307)]);
}

#[test]
fn operations_and_statuses_say_what_they_are() {
    assert_eq!(
        [Operations::TCC, Operations::SAGA, Operations::RECEIVER, Operations::SENDER].map(Operations::bits),
        [7, 5, 2, 8]
    );
    assert_eq!(Operations::from_bits(5), Some(Operations::SAGA));
    assert_eq!((Operations::from_bits(15).is_some(), Operations::from_bits(16)), (true, None));
    let ended = [Status::Trying, Status::Confirming, Status::Cancelling, Status::Confirmed, Status::Cancelled]
        .map(Status::ended);
    assert_eq!(ended, [false, false, false, true, true]);
    assert!(!Status::Trying.decided() && Status::Cancelling.decided() && Status::Confirmed.decided());
    let of_one = [
        Act::Retry { branch: 3 },
        Act::Park { branch: 3 },
        Act::Resume { branch: 3 },
        Act::Resolve { branch: 3 },
        Act::SetRetry { branch: 3, policy: RETRY },
    ];
    assert_eq!(of_one.map(Act::branch), [Some(3); 5]);
    assert_eq!([Act::ForceConfirm, Act::ForceCancel].map(Act::branch), [None; 2]);
    let branches = |afters: &[&[u8]]| -> Vec<Branch> {
        afters.iter().map(|after| Branch::new(Operations::TCC, after, RETRY, 0)).collect()
    };
    assert!(acyclic(&[]) && acyclic(&branches(&[&[1], &[2], &[]])));
    assert!(!acyclic(&branches(&[&[0]])) && !acyclic(&branches(&[&[1], &[0]])) && !acyclic(&branches(&[&[1]])));
    assert!(!acyclic(&branches(&[&[], &[2], &[1]])));
}

impl Story {
    fn acts(&mut self, now: u64, act: Act) -> &mut Self {
        self.at(now, Event::Operator(act))
    }

    fn progress(&self, branch: usize) -> Progress {
        self.tx.branches[branch].progress
    }
}

#[test]
fn a_person_has_a_parked_branch_called_at_once_with_all_attempts_before_it() {
    let mut story = Story::confirming();
    story.replied(10, 0, Operation::Confirm, Reply::Refused);
    assert_eq!(story.progress(0), Progress::Parked(Parked::Refused));
    story.acts(50, Act::Retry { branch: 0 });
    assert_eq!((story.calls(), story.effects.acted), (vec![(0, Operation::Confirm, 0, 350)], 1));
    let row = story.effects.compensations[0];
    assert_eq!((row.status, row.retry_count), (RowStatus::Pending(Timestamp(50)), 0), "a crash leads back to it");
    assert!(story.effects.persist);
    story.acts(60, Act::Retry { branch: 0 });
    assert_eq!((story.calls(), story.effects.acted, story.effects.persist), (vec![], 0, false), "it is called already");
    story.replied(70, 0, Operation::Confirm, Reply::Done);
    assert_eq!(story.tx.status, Status::Confirmed);
}

#[test]
fn what_a_person_parks_waits_for_a_person_and_is_resumed_by_the_scanner() {
    let mut story = Story::confirming();
    story.acts(10, Act::Park { branch: 0 });
    assert_eq!(story.effects.compensations[0].status, RowStatus::Failed);
    story.replied(20, 0, Operation::Confirm, Reply::Unknown).woken(10_000);
    assert_eq!((story.progress(0), story.tx.wake_at()), (Progress::Parked(Parked::ByPerson), None));
    assert_eq!(next(&story.tx, Timestamp(20), at_once, |_| true), Next::Person { branch: 0 });
    story.acts(30, Act::Resume { branch: 0 });
    assert_eq!((story.progress(0), story.calls()), (Progress::Logged, vec![]));
    assert_eq!(story.effects.compensations[0].status, RowStatus::Pending(Timestamp(30)));
    story.at(31, Event::Retry { branch: 0 });
    assert_eq!(story.calls(), [(0, Operation::Confirm, 0, 331)]);
}

#[test]
fn a_call_that_succeeds_after_its_branch_was_parked_still_counts() {
    let mut story = Story::confirming();
    story.acts(10, Act::Park { branch: 0 }).replied(20, 0, Operation::Confirm, Reply::Done);
    assert_eq!((story.tx.status, story.effects.compensations[0].status), (Status::Confirmed, RowStatus::Done));
}

#[test]
fn only_what_is_parked_is_resolved_by_hand_and_other_branches_stay_as_they_are() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(0, 0, Operation::Try, Reply::Done).replied(0, 1, Operation::Try, Reply::Done);
    story.acts(5, Act::Resolve { branch: 0 });
    assert_eq!(story.effects.acted, 0, "it is under way");
    story.replied(10, 0, Operation::Confirm, Reply::Refused);
    let other = story.tx.branches[1].clone();
    story.acts(20, Act::Resolve { branch: 0 });
    assert_eq!((story.progress(0), &story.tx.branches[1]), (Progress::Done, &other));
    assert_eq!(story.effects.compensations[0].status, RowStatus::Done);
    story.replied(30, 1, Operation::Confirm, Reply::Done);
    assert_eq!(story.tx.status, Status::Confirmed);
}

#[test]
fn a_try_is_bounded_by_its_deadline_and_not_parked() {
    let mut story = Story::new(Operations::TCC, 1);
    story.woken(0).acts(10, Act::Park { branch: 0 });
    assert_eq!((story.effects.acted, story.progress(0)), (0, Progress::Called));
}

#[test]
fn the_first_decision_stays_whoever_forces_another_one() {
    let mut story = Story::confirming();
    let before = story.tx.clone();
    story.acts(10, Act::ForceCancel).acts(11, Act::ForceConfirm);
    assert_eq!((&story.tx, story.effects.acted), (&before, 0));
    let mut story = Story::new(Operations::TCC, 1);
    story.woken(0).acts(10, Act::ForceCancel);
    assert_eq!((story.tx.status, story.tx.cause), (Status::Cancelling, Some(Cause::Forced)));
    assert_eq!(story.effects.acted, 1);
}

#[test]
fn a_forced_confirm_never_confirms_what_was_not_tried() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(0, 0, Operation::Try, Reply::Done).acts(10, Act::ForceConfirm);
    assert_eq!((story.tx.status, story.effects.acted), (Status::Trying, 0));
    let mut begun = Story::of(Tx::new(Xid([9; 16]), true, Timestamp(1_000), vec![]));
    begun.at(0, Event::BranchAdded(Branch::new(Operations::TCC, &[], RETRY, 300))).acts(10, Act::ForceConfirm);
    assert_eq!((begun.tx.status, begun.calls()), (Status::Confirming, vec![(0, Operation::Confirm, 0, 310)]));
    assert_eq!(begun.effects.acted, 1);
    let mut late = Story::of(Tx::new(Xid([9; 16]), true, Timestamp(1_000), vec![]));
    late.acts(1_000, Act::ForceConfirm);
    assert_eq!((late.tx.status, late.effects.acted), (Status::Cancelled, 0), "the deadline came first");
}

#[test]
fn another_policy_counts_from_the_next_failed_attempt() {
    let mut story = Story::confirming();
    let policy = RetryPolicy { attempts: 1, ..RETRY };
    story.acts(10, Act::SetRetry { branch: 0, policy });
    assert_eq!((story.effects.acted, story.effects.persist, story.progress(0)), (1, true, Progress::Called));
    story.acts(11, Act::SetRetry { branch: 0, policy });
    assert_eq!(story.effects.acted, 0, "it has this policy");
    let patient = RetryPolicy { attempts: 9, quick_attempts: 1, ..RETRY };
    story.acts(12, Act::SetRetry { branch: 0, policy: patient }).replied(20, 0, Operation::Confirm, Reply::Unknown);
    assert_eq!(story.progress(0), Progress::Logged);
}

/// A scanner that looks all the time, and can call everybody.
fn at_once(_: u8, due: Timestamp) -> Option<Timestamp> {
    Some(due)
}

#[test]
fn what_comes_next_is_what_the_machine_then_does() {
    let mut story = Story::new(Operations::TCC, 1);
    story.woken(0);
    let now = Timestamp(1);
    assert_eq!(
        next(&story.tx, now, at_once, |_| true),
        Next::Woken { at: Timestamp(300), what: What::AskAgain(Operation::Try, 0, Timestamp(400)) }
    );
    story.woken(300);
    assert_eq!(
        next(&story.tx, now, at_once, |_| true),
        Next::Woken { at: Timestamp(400), what: What::Call(Operation::Try, 0) }
    );
    story.replied(310, 0, Operation::Try, Reply::Unreachable).woken(400);
    story.replied(410, 0, Operation::Try, Reply::Unreachable);
    assert_eq!(
        next(&story.tx, now, at_once, |_| true),
        Next::Woken { at: Timestamp(1_000), what: What::Decide(Status::Cancelling) },
        "nothing is connected, so the deadline decides"
    );
    let mut story = Story::confirming();
    for at in [10, 20, 30] {
        story.tx.branches[0].progress = Progress::Called;
        story.replied(at, 0, Operation::Confirm, Reply::Unknown);
    }
    assert_eq!(
        next(&story.tx, now, at_once, |_| true),
        Next::Scanned { at: Timestamp(430), branch: 0, what: What::Call(Operation::Confirm, 0) }
    );
    story.at(430, Event::Retry { branch: 0 }).replied(440, 0, Operation::Confirm, Reply::Done);
    assert_eq!(next(&story.tx, now, at_once, |_| true), Next::Ended);
}

#[test]
fn what_can_not_be_called_is_not_what_comes_next() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).woken(300);
    let now = Timestamp(301);
    let next = |reaches: fn(u8) -> bool| next(&story.tx, now, at_once, reaches);
    assert_eq!(next(|_| true), Next::Woken { at: Timestamp(400), what: What::Call(Operation::Try, 0) });
    assert_eq!(next(|branch| branch == 1), Next::Woken { at: Timestamp(400), what: What::Call(Operation::Try, 1) });
    assert_eq!(next(|_| false), Next::Woken { at: Timestamp(1_000), what: What::Decide(Status::Cancelling) });
}

#[test]
fn what_comes_next_is_the_earlier_of_a_timer_and_a_row() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(0, 0, Operation::Try, Reply::Done).replied(0, 1, Operation::Try, Reply::Done);
    story.acts(0, Act::SetRetry { branch: 0, policy: RetryPolicy { quick_attempts: 1, ..RETRY } });
    story.replied(200, 0, Operation::Confirm, Reply::Unknown);
    assert_eq!((story.progress(0), story.tx.branches[0].wake_at), (Progress::Logged, Timestamp(300)));
    assert_eq!(story.tx.wake_at(), Some(Timestamp(300)), "the other is called until then");
    let now = Timestamp(201);
    let woken = |at| Next::Woken { at, what: What::AskAgain(Operation::Confirm, 1, at.after_ms(100)) };
    assert_eq!(
        next(&story.tx, now, at_once, |_| true),
        woken(Timestamp(300)),
        "at the same time the timer comes first"
    );
    story.tx.branches[1].wake_at = Timestamp(299);
    assert_eq!(next(&story.tx, now, at_once, |_| true), woken(Timestamp(299)));
    story.tx.branches[1].wake_at = Timestamp(301);
    let call = |branch| What::Call(Operation::Confirm, branch);
    assert_eq!(next(&story.tx, now, at_once, |_| true), Next::Scanned { at: Timestamp(300), branch: 0, what: call(0) });
    // A row that nobody takes holds up nothing else.
    assert_eq!(next(&story.tx, now, |_, _| None, |_| true), woken(Timestamp(301)));
    assert_eq!(
        next(&story.tx, now, |_, _| Some(Timestamp(302)), |_| true),
        woken(Timestamp(301)),
        "so late the scanner looks"
    );
    story.acts(201, Act::SetRetry { branch: 1, policy: RetryPolicy { quick_attempts: 1, ..RETRY } });
    story.replied(250, 1, Operation::Confirm, Reply::Unknown);
    assert_eq!((story.progress(0), story.progress(1)), (Progress::Logged, Progress::Logged));
    let second = |branch, due: Timestamp| (branch == 1).then(|| due.after_ms(7));
    let at = story.tx.branches[1].wake_at.after_ms(7);
    assert_eq!(next(&story.tx, now, second, |_| true), Next::Scanned { at, branch: 1, what: call(1) });
    assert_eq!(next(&story.tx, now, |_, _| None, |_| true), Next::Service { branch: 0, what: call(0) });
}

#[test]
fn a_call_that_succeeds_takes_its_branch_out_of_the_log_in_the_store_too() {
    let mut story = Story::new(Operations::TCC, 2);
    story.woken(0).replied(0, 0, Operation::Try, Reply::Done).replied(0, 1, Operation::Try, Reply::Done);
    story.acts(0, Act::SetRetry { branch: 0, policy: RetryPolicy { quick_attempts: 1, ..RETRY } });
    story.replied(200, 0, Operation::Confirm, Reply::Unknown);
    let mut late = Story::of(story.tx.clone());
    late.replied(250, 0, Operation::Confirm, Reply::Done);
    assert_eq!((late.progress(0), late.effects.persist), (Progress::Done, true));
    story.at(300, Event::Retry { branch: 0 });
    assert_eq!(story.progress(0), Progress::Called);
    story.replied(310, 0, Operation::Confirm, Reply::Done);
    assert_eq!((story.effects.compensations.len(), story.effects.persist), (1, true));
    assert_eq!(story.tx.status, Status::Confirming);
}

#[test]
fn a_branch_that_a_person_has_retried_has_a_row_only_where_a_crash_would_not_lead_back_to_it() {
    let mut delayed = Story::confirming();
    delayed.replied(10, 0, Operation::Confirm, Reply::Unknown).acts(20, Act::Retry { branch: 0 });
    assert_eq!((delayed.calls(), delayed.effects.compensations.len()), (vec![(0, Operation::Confirm, 0, 320)], 0));
    // Parked before its turn has come: what comes before it leads to it.
    let branch = |after: &[u8]| Branch::new(Operations::TCC, after, RETRY, 300);
    let mut early = Story::of(Tx::new(Xid([9; 16]), false, Timestamp(1_000), vec![branch(&[]), branch(&[0])]));
    early.woken(0).replied(0, 0, Operation::Try, Reply::Done).replied(0, 1, Operation::Try, Reply::Done);
    early.acts(10, Act::Park { branch: 1 }).acts(20, Act::Retry { branch: 1 });
    assert_eq!((early.effects.compensations[0].status, early.tx.branches[1].logged), (RowStatus::Done, false));
}

#[test]
fn a_question_is_not_resolved_by_hand() {
    let mut story = Story::prepared();
    story.woken(1_000).acts(1_001, Act::Park { branch: 0 });
    assert_eq!(story.progress(0), Progress::Parked(Parked::ByPerson));
    story.acts(1_002, Act::Resolve { branch: 0 });
    assert_eq!((story.effects.acted, story.progress(0)), (0, Progress::Parked(Parked::ByPerson)));
}
