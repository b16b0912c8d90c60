//! Every limit of a plan, at its edge and one past it.

use super::*;
use crate::action::Json;

const RESERVE: Action<Tcc, Json<u64>> = Action::tcc("stock", "reserve");
const PAY: Action<Saga, Json<u64>> = Action::saga("purse", "pay");

fn reserve() -> Branch<Tcc> {
    RESERVE.with(&Json(1)).unwrap()
}

/// One branch and whatever the test adds.
#[track_caller]
fn check_plan(want: Result<(), (&str, &str)>, change: impl FnOnce(Builder<Tcc>) -> Builder<Tcc>) {
    let mut plan = tcc();
    plan.branch(reserve());
    check(want, change(plan).build());
}

#[track_caller]
fn check_branch(want: Result<(), (&str, &str)>, branch: Branch<Tcc>) {
    let mut plan = tcc();
    plan.branch(branch);
    check(want, plan.build());
}

#[track_caller]
fn check(want: Result<(), (&str, &str)>, built: Result<Plan<Tcc>, InvalidField>) {
    let want = want.map_err(|(field, limit)| InvalidField::new(field, limit));
    assert_eq!(built.map(|_| ()), want);
}

#[test]
fn a_plan_becomes_the_transaction_that_was_declared() {
    let mut plan = saga().deadline(Duration::from_secs(2)).label("shop", "7").idempotency_key("order/42");
    let first = plan.branch(PAY.with(&Json(250)).unwrap().business_key("order/42"));
    let policy = RetryPolicy {
        first_delay: Some(Duration::from_millis(20)),
        factor_percent: Some(200),
        delay_max: Some(Duration::from_secs(1)),
        jitter_percent: Some(50),
        quick_attempts: Some(3),
        attempts: Some(9),
    };
    let second = PAY.with(&Json(3)).unwrap().after(&[first]).concurrent();
    plan.branch(second.call_timeout(Duration::from_millis(300)).retry(policy));
    let branch = |request: &'static str| pb::Branch {
        service: "purse".into(),
        action: "pay".into(),
        request: Bytes::from_static(request.as_bytes()),
        ..pb::Branch::default()
    };
    let retry = pb::RetryPolicy {
        first_delay_ms: 20,
        factor_percent: 200,
        delay_max_ms: 1_000,
        jitter_percent: 50,
        quick_attempts: 3,
        attempts: 9,
    };
    let want = pb::Transaction {
        mode: pb::Mode::Saga.into(),
        branches: vec![
            pb::Branch { business_key: "order/42".into(), ..branch("250") },
            pb::Branch { after: vec![0], concurrent: true, call_timeout_ms: 300, retry: Some(retry), ..branch("3") },
        ],
        deadline_ms: 2_000,
        labels: [("shop".to_owned(), "7".to_owned())].into(),
        idempotency_key: "order/42".into(),
    };
    assert_eq!(plan.build().unwrap().into_wire(), (want, None));
}

#[test]
fn a_plan_has_1_to_256_branches() {
    let with = |count: usize| {
        let mut plan = tcc();
        for _ in 0..count {
            plan.branch(reserve());
        }
        plan.build()
    };
    check(Err(("branches", "1 to 256")), with(0));
    check(Ok(()), with(256));
    check(Err(("branches", "1 to 256")), with(257));
}

#[test]
fn a_request_has_at_most_1_mib() {
    let dynamic = |bytes: usize| Branch::<Tcc>::dynamic("stock", "reserve", vec![0; bytes].into());
    assert!(dynamic(1 << 20).is_ok());
    assert_eq!(dynamic((1 << 20) + 1).unwrap_err().field, "request");
    const TEXT: Action<Tcc, Json<String>> = Action::tcc("stock", "reserve");
    let long = TEXT.with(&Json("x".repeat(1 << 20))).unwrap();
    check_branch(Err(("branches[0].request", "at most 1 MiB")), long);
}

#[test]
fn keys_and_labels_have_at_most_128_bytes_and_there_are_at_most_16_labels() {
    let at = |bytes: usize| "é".repeat(bytes / 2);
    check_plan(Ok(()), |plan| plan.idempotency_key(at(128)));
    check_plan(Err(("idempotency_key", "at most 128 bytes")), |plan| plan.idempotency_key(at(130)));
    check_plan(Err(("idempotency_key", "1 to 128 bytes")), |plan| plan.idempotency_key(""));
    check_branch(Ok(()), reserve().business_key(at(128)));
    check_branch(Err(("branches[0].business_key", "at most 128 bytes")), reserve().business_key(at(130)));
    check_plan(Ok(()), |plan| plan.label(at(128), at(128)));
    check_plan(Err(("labels[shop]", "at most 128 bytes")), |plan| plan.label("shop", at(130)));
    check_plan(Err(("labels", "names of 1 to 128 bytes")), |plan| plan.label(at(130), ""));
    check_plan(Err(("labels", "names of 1 to 128 bytes")), |plan| plan.label("", "7"));
    let labelled = |plan: Builder<Tcc>, count: u32| (0..count).fold(plan, |plan, n| plan.label(n.to_string(), "x"));
    check_plan(Ok(()), |plan| labelled(plan, 16));
    check_plan(Err(("labels", "at most 16")), |plan| labelled(plan, 17));
}

#[test]
fn names_are_1_to_64_of_a_small_alphabet() {
    for (name, fine) in [("a_0.b-c", true), (&*"x".repeat(64), true), (&*"x".repeat(65), false), ("", false)] {
        assert_eq!(Branch::<Tcc>::dynamic(name, "reserve", Bytes::new()).is_ok(), fine, "{name}");
        assert_eq!(Branch::<Tcc>::dynamic("stock", name, Bytes::new()).is_ok(), fine, "{name}");
    }
    for name in ["Stock", "a b", "a/b", "é"] {
        let refused = Branch::<Tcc>::dynamic("stock", name, Bytes::new()).unwrap_err();
        assert_eq!(refused.to_string(), "action: 1 to 64 of [a-z0-9_.-]");
    }
    const SHOUT: Action<Tcc, Json<u64>> = Action::tcc("STOCK", "reserve");
    check_branch(Err(("branches[0].service", "1 to 64 of [a-z0-9_.-]")), SHOUT.with(&Json(1)).unwrap());
}

#[test]
fn durations_are_1_ms_to_24_h() {
    let day = Duration::from_secs(24 * 60 * 60);
    let limit = "1 ms to 24 h";
    for (duration, fine) in [
        (Duration::from_micros(999), false),
        (Duration::from_millis(1), true),
        (day, true),
        (day + Duration::from_nanos(1), false),
        (Duration::MAX, false),
    ] {
        let want = |field: &'static str| if fine { Ok(()) } else { Err((field, limit)) };
        check_plan(want("deadline"), |plan| plan.deadline(duration));
        check_branch(want("branches[0].call_timeout"), reserve().call_timeout(duration));
        let policy = RetryPolicy { first_delay: Some(duration), ..RetryPolicy::default() };
        check_branch(want("branches[0].retry.first_delay"), reserve().retry(policy));
        let policy = RetryPolicy { delay_max: Some(duration), ..RetryPolicy::default() };
        check_branch(want("branches[0].retry.delay_max"), reserve().retry(policy));
    }
}

#[test]
fn a_retry_policy_says_nothing_absurd() {
    let none = RetryPolicy::default();
    let refused = |policy| reserve().retry(policy).check().unwrap_err().to_string();
    assert_eq!(refused(RetryPolicy { factor_percent: Some(99), ..none }), "retry.factor_percent: 100 to 10000");
    assert_eq!(refused(RetryPolicy { jitter_percent: Some(101), ..none }), "retry.jitter_percent: 1 to 100");
    assert_eq!(refused(RetryPolicy { quick_attempts: Some(0), ..none }), "retry.quick_attempts: at least 1");
    assert_eq!(refused(RetryPolicy { attempts: Some(0), ..none }), "retry.attempts: at least 1");
    assert_eq!(reserve().retry(none).into_wire().unwrap().retry, Some(pb::RetryPolicy::default()));
}

#[test]
fn a_handle_of_another_plan_is_found_out() {
    let mut other = tcc();
    let strange = other.branch(reserve());
    let mut plan = tcc();
    plan.branch(reserve());
    plan.branch(reserve().after(&[strange]));
    check(Err(("branches[1].after", "earlier branches of the same plan")), plan.build());
}

#[test]
fn the_first_fault_is_the_one_told() {
    let mut plan = tcc().deadline(Duration::ZERO);
    plan.branch(reserve().call_timeout(Duration::ZERO));
    check(Err(("deadline", "1 ms to 24 h")), plan.build());
}
