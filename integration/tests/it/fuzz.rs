//! Bytes from anywhere, wherever bytes come in: nothing panics, and what is refused says what is wrong with it.
//!
//! A test run makes a bounded number of cases, always the same; `PROPTEST_CASES=25600` makes a hundred times as many,
//! and `PROPTEST_RNG_SEED=1` makes others.

mod ports;
mod rows;
mod schema;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message as _;
use tercet_coordinator::explain::{Facts, explain};
use tercet_coordinator::live::Live;
use tercet_coordinator::plan::{Invalid, Plan};
use tercet_coordinator::store::{Owner, Record};
use tercet_coordinator::tokens::Tokens;
use tercet_core::{Act, Effects, Event, Operation, Reply, RetryPolicy, Timestamp, Xid, step};
use tercet_proto::store::v1 as record;
use tercet_secure::sign::Key;
use tercet_secure::token::Secret;

use self::schema::{Choices, Schema};
use crate::operators::healthy;

const XID: Xid = Xid([7; 16]);
const OWNER: Owner = Owner { node: 0, epoch: 1 };

/// Checks so many lists of choices for each case that proptest would make.
fn fuzz(times: u32, check: impl Fn(&mut Choices<'_>)) {
    let config = Config::default();
    // What a change is refused for must be the change's.
    let rng_seed = if config.rng_seed == RngSeed::Random { RngSeed::Fixed(0) } else { config.rng_seed };
    let cases = config.cases.saturating_mul(times);
    let config = Config { cases, rng_seed, failure_persistence: None, ..config };
    let result = TestRunner::new(config).run(&vec(any::<u64>(), 0..80), |numbers| {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        check(&mut Choices(&bytes));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

fn stored(plan: Bytes, state: Bytes) -> Record {
    Record {
        xid: XID,
        version: 1,
        mode: 1,
        status: 0,
        ended_at: None,
        owner: Some(OWNER),
        wake_at: None,
        idempotency_key: None,
        digest: 0,
        plan,
        state,
    }
}

/// An event about one of so many branches.
fn event(choices: &mut Choices<'_>, count: usize) -> Event {
    let branch = choices.below(count.max(1)) as u8;
    let operation = [Operation::Try, Operation::Confirm, Operation::Cancel, Operation::Ask][choices.below(4)];
    let replies = [
        Reply::Done,
        Reply::Refused,
        Reply::NotNow { delay_ms: choices.number() as u32 },
        Reply::Unknown,
        Reply::Unreachable,
    ];
    let acts = [
        Act::Retry { branch },
        Act::Park { branch },
        Act::Resume { branch },
        Act::Resolve { branch },
        Act::SetRetry { branch, policy: RetryPolicy::DEFAULT },
        Act::ForceConfirm,
        Act::ForceCancel,
    ];
    match choices.below(if count == 0 { 3 } else { 7 }) {
        0 => Event::Woken,
        1 => Event::CommitAsked,
        2 => Event::RollbackAsked,
        3 => Event::Replied { branch, operation, attempt: choices.number() as u32, reply: replies[choices.below(5)] },
        4 => Event::Reachable { branch },
        5 => Event::Retry { branch },
        _ => Event::Operator(acts[choices.below(7)]),
    }
}

/// What is known of each branch; quick attempts are not stored.
fn told(live: &Live) -> Vec<(i32, Bytes, String)> {
    live.view().branches.into_iter().map(|branch| (branch.status, branch.result, branch.reason)).collect()
}

/// Shows it, explains it, and drives it on.
fn drive(mut live: Live, read: &Record, choices: &mut Choices<'_>) {
    let now = Timestamp(choices.number());
    let services = [healthy("shop")];
    let looks = &|from: Timestamp| from.0.is_multiple_of(2).then_some(from);
    let facts = Facts { live: live.clone(), rows: &[], acts: &[], services: &services, now, looks };
    assert!(!explain(facts).lines.is_empty());
    live.history().for_each(drop);
    live.tx.recover();
    let mut effects = Effects::default();
    for _ in 0..8 {
        effects.clear();
        let event = event(choices, live.tx.branches.len());
        step(&mut live.tx, event, now, &mut effects);
        live.note(&effects.notes, now);
        let written = live.advance(OWNER, &effects, false, now);
        let again = Live::decode(&Record { state: written.state, ..read.clone() });
        assert_eq!(told(&again.expect("it is its own")), told(&live));
    }
}

#[test]
fn stored_transactions_are_read_or_refused() {
    let schema = Schema::load();
    fuzz(8, |choices| {
        let mut plan: record::Plan = schema.value(".tercet.store.v1.Plan", choices);
        let mut state: record::State = schema.value(".tercet.store.v1.State", choices);
        if choices.below(8) != 7 {
            state.branches.resize_with(plan.branches.len() + state.added.len(), record::BranchState::default);
            plan.branches.iter_mut().chain(&mut state.added).for_each(|branch| branch.operations %= 16);
        }
        let (mut plan, mut state) = (plan.encode_to_vec(), state.encode_to_vec());
        if choices.below(2) == 1 {
            (plan, state) = (choices.mutate(plan), choices.mutate(state));
        }
        let read = stored(plan.into(), state.into());
        match Live::decode(&read) {
            Ok(live) => drive(live, &read, choices),
            Err(refused) => assert!(refused.to_string().contains(&XID.to_string()), "{refused}"),
        }
    });
}

#[test]
fn a_branch_that_this_version_can_not_call_is_refused() {
    let read = |operations| {
        let branch = record::Branch { operations, ..record::Branch::default() };
        let plan = record::Plan { branches: vec![branch], mode: 1, ..record::Plan::default() };
        let due = record::BranchState { progress: 1, ..record::BranchState::default() };
        let state = record::State { status: 1, branches: vec![due], ..record::State::default() };
        Live::decode(&stored(plan.encode_to_vec().into(), state.encode_to_vec().into())).map(drop)
    };
    assert!(read(7).is_ok());
    for operations in [16, 256 + 7, u32::MAX] {
        let refused = read(operations).expect_err("nobody knows these operations").to_string();
        assert!(refused.contains("operations of a branch"), "{refused}");
    }
}

#[test]
fn what_is_declared_is_stored_and_read_again_or_refused_by_its_field() {
    let schema = Schema::load();
    let refused =
        |Invalid { field, limit }: Invalid| assert!(!field.is_empty() && !limit.is_empty(), "{field}: {limit}");
    fuzz(8, |choices| {
        let plan = match choices.below(4) {
            0 | 1 => Plan::declared(schema.value(".tercet.coordinator.v1.Transaction", choices)),
            2 => Plan::begun(schema.value(".tercet.coordinator.v1.BeginRequest", choices)),
            _ => Plan::prepared(schema.value(".tercet.coordinator.v1.PrepareRequest", choices)),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(invalid) => return refused(invalid),
        };
        let branch = schema.value(".tercet.coordinator.v1.Branch", choices);
        Plan::added(&plan.record, choices.below(80), branch).map_or_else(refused, drop);
        let now = Timestamp(choices.number());
        let digest = plan.digest();
        let mut live = Live::new(XID, plan, now);
        let create = live.create(OWNER, digest, now);
        let read = stored(create.plan, create.state);
        let again = Live::decode(&read).expect("what is accepted can be read");
        assert_eq!(told(&again), told(&live));
        drive(again, &read, choices);
    });
}

#[test]
fn tokens_and_signatures_hold_against_everything_else() {
    let digits = "5a".repeat(32);
    let words = [
        "shop",
        "initiator",
        "participant",
        "operator",
        "view",
        "force",
        "stock,depot",
        "stock,",
        &digits,
        "5A",
        "\n",
        "\n",
        "#",
        "é",
        "\u{0}",
        "\t",
        ".",
    ];
    fuzz(8, |choices| {
        let text: Vec<&str> = (0..choices.below(24)).map(|_| words[choices.below(words.len())]).collect();
        if let Err(fault) = Tokens::parse(&text.join(" ")) {
            assert!(fault == "holds no token" || fault.starts_with("line "), "{fault}");
        }
        Secret::parse(&text.concat()).map_or_else(|fault| assert!(!fault.is_empty()), drop);

        let [mut coordinator, mut participant] =
            [0; 2].map(|_| Key::new([7; 32]).session("shop", [&[1; 16], &[2; 16]], 9));
        let message: Vec<u8> = (0..choices.below(64)).map(|_| choices.byte()).collect();
        let (number, signature) = coordinator.sign(&message);
        let given =
            (number ^ choices.below(2) as u64, choices.mutate(message.clone()), choices.mutate(signature.clone()));
        let verified = participant.verify(given.0, &given.1, &given.2);
        assert_eq!(verified.is_ok(), given == (number, message, signature));
    });
}
