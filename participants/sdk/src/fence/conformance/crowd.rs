//! Many calls at once, on the same keys, from several instances of a service.

use futures_util::future::join_all;

use super::*;

const INSTANCES: usize = 3;

async fn instances<Db: Probe>(world: &World<Db>) -> Vec<Executor<Db>> {
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(World::instance(&world.pool).await);
    }
    instances
}

/// No answer may speak against what was done, and nothing but a rollback that was asked for may be unknown.
fn check(key: i64, done: i64, answers: &[(Wanted, Do, Said)]) {
    let (tries, confirms, cancels) = (done / 10_000, done / 100 % 100, done % 100);
    let name = format!("key {key}, {tries} tries, {confirms} confirms, {cancels} cancels");
    assert!(tries <= 1 && confirms + cancels <= tries, "{name}: done more than once");
    let yes = |wanted| answers.iter().any(|(w, _, said)| *w == wanted && matches!(said, Said::Done(_)));
    assert!(!yes(Try) || tries == 1, "{name}: a try was answered done");
    assert_eq!(yes(Confirm), confirms == 1, "{name}: a confirm was answered done, or none was");
    assert!(!(yes(Cancel) && yes(Confirm)), "{name}: both ends were answered done");
    assert!(cancels == 0 || yes(Cancel), "{name}: no cancel was answered done");
    for (wanted, what, said) in answers {
        match said {
            Said::Unknown(text) => assert!(*what == Do::Fail, "{name}: {wanted:?} was answered {text}"),
            Said::NotNowMs(_) => panic!("{name}: {wanted:?} was answered not now"),
            Said::Done(_) | Said::Refused(_) => {}
        }
    }
}

/// The `at`th call of a crowd: mostly tries and ends in no order, a tenth of which rolls back.
fn pick(at: usize) -> (Wanted, Do) {
    let wanted = [Try, Confirm, Try, Cancel, Confirm, Try, Try][at * 31 % 7];
    (wanted, if at.is_multiple_of(10) { Do::Fail } else { Do::Done })
}

/// Calls on one key at once.
async fn storm<Db: Probe>(world: &World<Db>, instances: &[Executor<Db>], calls: usize, rollback_every: usize) {
    let key = world.key().await;
    let calls = (0..calls).map(|at| {
        let (wanted, _) = pick(at);
        let what = if at.is_multiple_of(rollback_every) { Do::Fail } else { Do::Done };
        let instance = &instances[at % INSTANCES];
        async move {
            let replies = instance.run(vec![call(key, SLICE.name(), wanted, what)]).await;
            (wanted, what, said(replies).remove(0))
        }
    });
    let answers = join_all(calls).await;
    check(key, world.done(key).await, &answers);
}

/// 1,000 calls on one key, a tenth of which rolls back; and 50 keys whose first writers mostly roll back, at which
/// databases find deadlocks between those who wait.
pub(super) async fn on_one_key<Db: Probe>(world: &World<Db>) {
    let instances = instances(world).await;
    storm(world, &instances, 1_000, 10).await;
    for _ in 0..50 {
        storm(world, &instances, 40, 2).await;
    }
}

/// 150 batches at once of 20 calls each on 30 keys.
pub(super) async fn on_many_keys<Db: Probe>(world: &World<Db>) {
    let instances = instances(world).await;
    let mut keys = Vec::new();
    for _ in 0..30 {
        keys.push(world.key().await);
    }
    let keys = &keys;
    let batches = (0..150).map(|batch| {
        let picked: Vec<(i64, Wanted, Do)> = (0..20)
            .map(|at| {
                let (wanted, what) = pick(batch * 7 + at * 13 + batch * at);
                (keys[(batch * 11 + at * 7) % keys.len()], wanted, what)
            })
            .collect();
        let calls = picked.iter().map(|(key, wanted, what)| call(*key, SLICE.name(), *wanted, *what)).collect();
        let instance = &instances[batch % INSTANCES];
        async move {
            let answers = said(instance.run(calls).await);
            picked.into_iter().zip(answers).map(|((key, wanted, what), said)| (key, (wanted, what, said)))
        }
    });
    let answers: Vec<_> = join_all(batches).await.into_iter().flatten().collect();
    for key in keys {
        let of_key: Vec<_> = answers.iter().filter(|(k, _)| k == key).map(|(_, answer)| answer.clone()).collect();
        check(*key, world.done(*key).await, &of_key);
    }
}
