//! One call at a time: the table, what is put back, and what is forgotten.

use super::*;

/// What came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Tried,
    Confirmed,
    Cancelled,
    Refused,
}
use Before::{Cancelled, Confirmed, Nothing, Refused, Tried};

/// What a cell answers.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Done(&'static str),
    No(&'static str),
    Unknown,
}
use Expected::{Done, No, Unknown};

/// Before, wanted, the answer, the row afterwards (state and bytes kept), and whether the handler ran.
type Cell = (Before, Wanted, Expected, (i64, i64), bool);

const CELLS: [Cell; 20] = [
    (Nothing, Try, Done("t"), (1, 2), true),
    (Tried, Try, Done("t"), (1, 2), false),
    // The confirm's result has taken the place of the try's.
    (Confirmed, Try, Done(""), (2, 2), false),
    (Cancelled, Try, No("fence: the branch was cancelled before its try came"), (3, 2), false),
    (Refused, Try, No("no"), (4, 3), false),
    (Nothing, Confirm, No("fence: confirm of a branch that was never tried"), (0, 0), false),
    (Tried, Confirm, Done("c"), (2, 2), true),
    (Confirmed, Confirm, Done("c"), (2, 2), false),
    (Cancelled, Confirm, No("fence: confirm of a branch that was cancelled"), (3, 2), false),
    (Refused, Confirm, No("fence: confirm of a branch whose try was refused"), (4, 3), false),
    (Nothing, Cancel, Done(""), (3, 0), false),
    (Tried, Cancel, Done("x"), (3, 2), true),
    (Confirmed, Cancel, No("fence: cancel of a branch that was confirmed"), (2, 2), false),
    (Cancelled, Cancel, Done("x"), (3, 2), false),
    (Refused, Cancel, Done(""), (4, 3), false),
    (Nothing, Ask, No("the local transaction did not commit"), (3, 0), false),
    (Tried, Ask, Unknown, (1, 2), false),
    (Confirmed, Ask, Done(""), (2, 2), false),
    (Cancelled, Ask, No("the local transaction did not commit"), (3, 2), false),
    (Refused, Ask, Unknown, (4, 3), false),
];

/// Brings a new key there.
async fn after<Db: Probe>(world: &World<Db>, before: Before, action: &str) -> i64 {
    let key = world.key().await;
    let calls: &[(Wanted, Do)] = match before {
        Nothing => &[],
        Tried => &[(Try, Do::Done)],
        Confirmed => &[(Try, Do::Done), (Confirm, Do::Done)],
        Cancelled => &[(Try, Do::Done), (Cancel, Do::Done)],
        Refused => &[(Try, Do::Refuse)],
    };
    for (operation, what) in calls {
        world.say(call(key, action, *operation, *what)).await;
    }
    key
}

fn check(answer: &Said, expected: Expected, name: &str) {
    match (answer, expected) {
        (Said::Done(result), Done(want)) => assert_eq!(result, want, "{name}"),
        (Said::Refused(reason), No(want)) => assert_eq!(reason, want, "{name}"),
        (Said::Unknown(_), Unknown) => {}
        (Said::Done(_) | Said::Refused(_) | Said::NotNowMs(_) | Said::Unknown(_), Done(_) | No(_) | Unknown) => {
            panic!("{name}: {answer:?} is not {expected:?}")
        }
    }
}

fn ran(operation: Wanted) -> i64 {
    match operation {
        Try => 10_000,
        Confirm => 100,
        Cancel => 1,
        Ask | Wanted::Unspecified => 0,
    }
}

/// The table, a call at a time and all in one batch.
pub(super) async fn every_cell<Db: Probe>(world: &World<Db>) {
    for action in BOTH {
        for together in [false, true] {
            let mut keys = Vec::new();
            for (before, ..) in CELLS {
                let key = after(world, before, action).await;
                keys.push((key, world.done(key).await));
            }
            let calls: Vec<Call> = keys
                .iter()
                .zip(CELLS)
                .map(|((key, _), (_, wanted, ..))| call(*key, action, wanted, Do::Done))
                .collect();
            let mut answers = Vec::new();
            if together {
                answers = said(world.executor.run(calls).await);
            } else {
                for call in calls {
                    answers.push(world.say(call).await);
                }
            }
            for ((answer, (key, done)), (before, wanted, expected, row, runs)) in answers.iter().zip(keys).zip(CELLS) {
                let name = format!("{} after {before:?}, {action}, together {together}", wanted.as_str_name());
                check(answer, expected, &name);
                assert_eq!(world.row(key).await, row, "{name}");
                assert_eq!(world.done(key).await - done, if runs { ran(wanted) } else { 0 }, "{name}");
            }
        }
        // A branch without a try is confirmed at once, and repeats say the same.
        let key = world.key().await;
        let deliver = Call { tried: false, ..call(key, action, Confirm, Do::Done) };
        for _ in 0..2 {
            check(&world.say(deliver.clone()).await, Done("c"), "delivered");
        }
        assert_eq!((world.row(key).await, world.done(key).await), ((2, 2), 100));
        // Several calls of one key in one batch are run in their order.
        let key = world.key().await;
        let calls = [Try, Try, Confirm, Cancel, Confirm].map(|wanted| call(key, action, wanted, Do::Done));
        let answers = said(world.executor.run(calls.to_vec()).await);
        let fault = No("fence: cancel of a branch that was confirmed");
        for (answer, expected) in answers.iter().zip([Done("t"), Done("t"), Done("c"), fault, Done("c")]) {
            check(answer, expected, "one key in one batch");
        }
        assert_eq!(world.done(key).await, 10_100);
    }
}

/// Not now, a refusal in phase two and an error: fence row and business rows are as they were.
pub(super) async fn what_is_not_done_leaves_no_trace<Db: Probe>(world: &World<Db>) {
    let runs = [(Nothing, Try, true), (Nothing, Confirm, false), (Tried, Confirm, true), (Tried, Cancel, true)];
    for action in BOTH {
        let mut calls = Vec::new();
        let mut were = Vec::new();
        for (before, wanted, tried) in runs {
            for what in [Do::NotNow, Do::Refuse, Do::Fail] {
                let key = after(world, before, action).await;
                were.push((key, wanted, what, world.row(key).await, world.done(key).await));
                calls.push(Call { tried, ..call(key, action, wanted, what) });
                // And one that is done beside it.
                let other = after(world, before, action).await;
                calls.push(Call { tried, ..call(other, action, wanted, Do::Done) });
            }
        }
        let answers = said(world.executor.run(calls.clone()).await);
        for (pair, (key, wanted, what, row, done)) in answers.chunks(2).zip(&were) {
            let name = format!("{} {what:?}, {action}", wanted.as_str_name());
            assert!(matches!(pair[1], Said::Done(_)), "{name}: its neighbour was answered {:?}", pair[1]);
            assert_eq!(world.done(*key).await, *done, "{name}");
            let kept = match (wanted, what) {
                (Try, Do::Refuse) => (4, 3),
                (Try | Confirm | Cancel | Ask | Wanted::Unspecified, Do::Done | Do::Refuse | Do::NotNow | Do::Fail) => {
                    *row
                }
            };
            assert_eq!(world.row(*key).await, kept, "{name}");
            match what {
                Do::NotNow => assert_eq!(pair[0], Said::NotNowMs(9), "{name}"),
                Do::Refuse => check(&pair[0], No("no"), &name),
                Do::Done | Do::Fail => check(&pair[0], Unknown, &name),
            }
        }
        // What was put back runs when it is asked for again.
        for (key, wanted, what, ..) in were {
            if (wanted, what) != (Try, Do::Refuse) {
                let again = Call { tried: wanted != Confirm, ..call(key, action, wanted, Do::Done) };
                assert!(matches!(world.say(again).await, Said::Done(_)), "{wanted:?} {what:?} did not run again");
            }
        }
    }
}

/// A batch with bad operations in it: all others are done, once.
pub(super) async fn a_bad_operation_harms_no_other<Db: Probe>(world: &World<Db>) {
    for action in BOTH {
        let mut keys = Vec::new();
        for _ in 0..40 {
            keys.push(world.key().await);
        }
        let bad = |at: usize| at == 13 || at == 14 || at == 39;
        let calls: Vec<Call> = keys
            .iter()
            .enumerate()
            .map(|(at, key)| call(*key, action, Try, if bad(at) { Do::Fail } else { Do::Done }))
            .collect();
        for _ in 0..2 {
            let answers = said(world.executor.run(calls.clone()).await);
            for (at, (answer, key)) in answers.iter().zip(&keys).enumerate() {
                check(answer, if bad(at) { Unknown } else { Done("t") }, &format!("operation {at}, {action}"));
                let expected = if bad(at) { ((0, 0), 0) } else { ((1, 2), 10_000) };
                assert_eq!((world.row(*key).await, world.done(*key).await), expected, "operation {at}, {action}");
            }
        }
    }
}

/// The floor rises first; rows go a round later; a call at or below the floor touches nothing.
pub(super) async fn rows_go_after_the_floor<Db: Probe>(world: &World<Db>) {
    let action = SLICE.name();
    let (key, other) = (after(world, Tried, action).await, after(world, Tried, action).await);
    let at = |not_after_ms, wanted, key| Call { not_after_ms, ..call(key, action, wanted, Do::Done) };
    world.executor.forget(500, vec![xid(key)]).await;
    assert_eq!(world.row(key).await, (1, 2), "the rows of this round stay");
    let new = world.key().await;
    let calls = vec![at(500, Confirm, key), at(501, Confirm, other), at(499, Try, new)];
    let answers = said(world.executor.run(calls).await);
    assert_eq!(answers, [Said::NotNowMs(0), Said::Done("c".into()), Said::NotNowMs(0)]);
    assert_eq!((world.row(key).await, world.row(new).await), ((1, 2), (0, 0)));
    world.executor.forget(400, Vec::new()).await;
    assert_eq!((world.row(key).await, world.row(other).await), ((0, 0), (2, 2)), "a round later they go");
    assert_eq!(world.say(at(500, Try, key)).await, Said::NotNowMs(0), "the floor does not fall");
    let mut db_tx = world.pool.begin().await.expect("a transaction");
    let late = Context { not_after_ms: 500, ..context(key) };
    let guarded = guard(&mut *db_tx, &late, async |_| Ok(Answer::done())).await.expect("an answer");
    assert_eq!(guarded, Answer::not_now(Duration::ZERO));
    assert!(matches!(commit_sender(&mut *db_tx, &late).await, Err(CommitError::RolledBack(_))));
    db_tx.commit().await.expect("a commit");
    assert_eq!((world.row(key).await, world.done(key).await), ((0, 0), 10_000));
}

async fn guarded_try<Db: Probe>(world: &World<Db>, key: i64, what: Do) -> Result<Answer, sqlx::Error> {
    let mut connection = world.pool.acquire().await?;
    let mut db_tx = connection.begin().await?;
    let answer =
        guard(&mut *db_tx, &context(key), async |db_tx| Counter::<Db>::one(db_tx, "t", (key, what)).await).await?;
    db_tx.commit().await?;
    Ok(answer)
}

/// A service's own handler behind the fence.
pub(super) async fn guarded<Db: Probe>(world: &World<Db>) {
    let action = ONE.name();
    for (before, what, expected, row, done) in [
        (Nothing, Do::Done, Some(Answer::done_with("t")), (1, 2), 10_000),
        (Nothing, Do::Refuse, Some(Answer::refused("no")), (4, 3), 0),
        (Nothing, Do::NotNow, Some(Answer::not_now(Duration::from_millis(9))), (0, 0), 0),
        (Nothing, Do::Fail, None, (0, 0), 0),
        (Tried, Do::Done, Some(Answer::done_with("t")), (1, 2), 10_000),
        (Refused, Do::Done, Some(Answer::refused("no")), (4, 3), 0),
    ] {
        let key = after(world, before, action).await;
        assert_eq!(guarded_try(world, key, what).await.ok(), expected, "guard after {before:?}, {what:?}");
        assert_eq!((world.row(key).await, world.done(key).await), (row, done), "guard after {before:?}, {what:?}");
    }
    let key = after(world, Cancelled, action).await;
    assert!(matches!(guarded_try(world, key, Do::Done).await, Ok(Answer::Refused(_))));
    assert_eq!(world.done(key).await, 10_001);
}

/// The sender of a message commits before or after it is asked.
pub(super) async fn senders<Db: Probe>(world: &World<Db>) {
    let key = world.key().await;
    for _ in 0..2 {
        let mut db_tx = world.pool.begin().await.expect("a transaction");
        commit_sender(&mut *db_tx, &context(key)).await.expect("nothing stands against it");
        db_tx.commit().await.expect("a commit");
        check(&world.say(call(key, "", Ask, Do::Done)).await, Done(""), "asked after the commit");
    }
    let key = world.key().await;
    check(&world.say(call(key, "", Ask, Do::Done)).await, No("the local transaction did not commit"), "asked first");
    let mut db_tx = world.pool.begin().await.expect("a transaction");
    assert!(matches!(commit_sender(&mut *db_tx, &context(key)).await, Err(CommitError::RolledBack(_))));
    db_tx.rollback().await.expect("a rollback");
    assert_eq!(world.row(key).await, (3, 0));
}
