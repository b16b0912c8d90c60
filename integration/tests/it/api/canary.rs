//! Canaries: a coordinator that does not execute says so, and so does a session.

use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use tercet_proto::coordinator::v1 as pb;
use tonic_health::pb as health;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::party::{Party, Say, agrees};
use super::world::{Coordinator, branch, tcc, until, violation};

/// By when a coordinator says that it is not ready, on a machine that has other things to do: the unit tests hold it to
/// three seconds, by a clock of their own.
const UNREADY_MAX: Duration = Duration::from_secs(6);

async fn store(coordinator: &Coordinator) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(coordinator.file()).busy_timeout(Duration::from_secs(5));
    options.connect().await.expect("the file opens")
}

/// Something is under way until the test ends: its service never comes.
async fn keep_busy(coordinator: &Coordinator) {
    let waits = pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch("missing", 1)]) };
    coordinator.submit(waits, pb::Wait::Accepted).await.expect("it is accepted");
}

/// Canaries that the store has seen.
async fn canaries(reader: &mut SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tx WHERE mode = 9").fetch_one(reader).await.expect("it reads")
}

/// As initiators see it.
async fn ready(coordinator: &Coordinator) -> bool {
    says(coordinator, "tercet.coordinator.v1.Coordinator").await
}

async fn says(coordinator: &Coordinator, service: &str) -> bool {
    let mut client = HealthClient::new(coordinator.raw());
    let service = service.into();
    let answer = client.check(health::HealthCheckRequest { service }).await.expect("it answers");
    answer.into_inner().status() == ServingStatus::Serving
}

#[tokio::test]
async fn a_coordinator_whose_store_is_stuck_is_not_ready_soon_and_ready_again_afterwards() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "stock", agrees).await;
    let mut other = store(&coordinator).await;
    other.execute("BEGIN IMMEDIATE").await.expect("it gets the lock");
    let held = Instant::now();
    let mut client = coordinator.client();
    let request = pb::SubmitRequest { transaction: Some(tcc(vec![branch("stock", 1)])), wait: pb::Wait::Ended.into() };
    let accepted = tokio::spawn(async move { client.submit(request).await });
    until("a coordinator that is not ready", async || (!ready(&coordinator).await).then_some(())).await;
    let unready = held.elapsed();
    assert!(unready < UNREADY_MAX, "{unready:?}");
    assert!(coordinator.statistics().await.idle_ms >= 2_000);
    other.execute("ROLLBACK").await.expect("it lets go");
    until("a coordinator that is ready", async || ready(&coordinator).await.then_some(())).await;
    let view = accepted.await.expect("no panic").expect("it was accepted").into_inner().transaction;
    assert_eq!(view.expect("a view").status(), pb::Status::Confirmed);
    assert_eq!(party.effects().await.len(), 2);
}

#[tokio::test]
async fn a_session_that_does_not_execute_shows_in_its_own_health_alone() {
    let coordinator = Coordinator::start().await;
    let _sound = Party::join(&coordinator, "stock", agrees).await;
    let stuck = Party::join(&coordinator, "coupon", |_| Say::Hangs).await;
    keep_busy(&coordinator).await;
    let ages = async || {
        let mut all = coordinator.statistics().await.participants;
        all.sort_by(|a, b| b.service.cmp(&a.service));
        (all[0].canary_age_ms, all[1].canary_age_ms)
    };
    // Both answer as long as nothing hangs, again and again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(4_500) {
        let (sound, other) = ages().await;
        assert!(sound < 3_500 && other < 3_500, "{sound} and {other} ms");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let slow = pb::Branch { call_timeout_ms: 60_000, ..branch("coupon", 1) };
    coordinator.submit(tcc(vec![slow]), pb::Wait::Accepted).await.expect("it is accepted");
    stuck.hears("try", 1, 1).await;
    until("an old canary", async || {
        let (sound, stuck) = ages().await;
        assert!(sound < 3_500, "{sound} ms");
        assert!(ready(&coordinator).await, "a participant's troubles are its own");
        (stuck > 4_000).then_some(())
    })
    .await;
    // None of it is ever retried, parked or listed.
    assert_eq!(coordinator.count().await, 2);
    assert!(coordinator.compensations().await.is_empty());
}

#[tokio::test]
async fn a_coordinator_whose_sessions_are_all_silent_is_not_ready_for_initiators_until_one_answers() {
    let coordinator = Coordinator::start().await;
    let stock = Party::join(&coordinator, "stock", |_| Say::Held).await;
    let coupon = Party::join(&coordinator, "coupon", |_| Say::Held).await;
    let slow = |service: &str| tcc(vec![pb::Branch { call_timeout_ms: 60_000, ..branch(service, 1) }]);
    let begun = Instant::now();
    coordinator.submit(slow("stock"), pb::Wait::Accepted).await.expect("it is accepted");
    stock.hears("try", 1, 1).await;
    let mut looked = begun;
    while begun.elapsed() < Duration::from_secs(4) {
        if !ready(&coordinator).await {
            // The participants are part of this process. While it stands still they are silent indeed.
            assert!(looked.elapsed() > Duration::from_secs(1), "the other one answers");
            until("a coordinator that is ready", async || ready(&coordinator).await.then_some(())).await;
        }
        looked = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    coordinator.submit(slow("coupon"), pb::Wait::Accepted).await.expect("it is accepted");
    coupon.hears("try", 1, 1).await;
    let stopped = Instant::now();
    until("a coordinator that is not ready", async || (!ready(&coordinator).await).then_some(())).await;
    let unready = stopped.elapsed();
    assert!(unready < UNREADY_MAX, "{unready:?}");
    for service in ["", "tercet.participant.v1.Sessions", "tercet.admin.v1.Admin"] {
        assert!(says(&coordinator, service).await, "{service} is not for initiators");
    }
    let statistics = coordinator.statistics().await;
    assert!(statistics.silent_ms >= 2_000 && statistics.idle_ms < 2_000, "{statistics:?}");
    // Its try, and its confirm.
    coupon.let_through(2);
    until("a coordinator that is ready", async || ready(&coordinator).await.then_some(())).await;
    assert_eq!(coordinator.statistics().await.silent_ms, 0);
}

#[tokio::test]
async fn canaries_are_transactions_that_no_listing_shows_and_nobody_else_can_make() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "stock", agrees).await;
    let mut reader = store(&coordinator).await;
    keep_busy(&coordinator).await;
    // With two branches: its own and those of sessions.
    until("canaries that have ended", async || {
        let sql = "SELECT count(*), count(ended_at) FROM tx WHERE mode = 9 AND status = 4";
        let (all, ended): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut reader).await.expect("it reads");
        (all > 3 && ended == all).then_some(())
    })
    .await;
    assert_eq!(coordinator.count().await, 1);
    assert_eq!(coordinator.statistics().await.ended, 0);
    assert!(coordinator.statistics().await.participants.iter().all(|one| one.service == "stock"));
    assert!(party.heard().is_empty());
    let own = pb::Branch { action: "tercet.canary".into(), ..branch("stock", 1) };
    let refused = coordinator.submit(tcc(vec![own]), pb::Wait::Decided).await.expect_err("the name is reserved");
    assert_eq!(violation(&refused).0, "transaction.branches[0].action");
}

#[tokio::test]
async fn a_coordinator_with_nothing_to_do_writes_next_to_nothing_and_one_that_ends_transactions_has_no_canaries() {
    let coordinator = Coordinator::start().await;
    let _party = Party::join(&coordinator, "stock", agrees).await;
    let mut reader = store(&coordinator).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        coordinator.submit(tcc(vec![branch("stock", 1)]), pb::Wait::Ended).await.expect("it is accepted");
    }
    // The first one of all, and those of a machine that stood still for a while.
    let while_busy = canaries(&mut reader).await;
    assert!(while_busy < 4, "{while_busy}");
    let before = coordinator.statistics().await.store_commits;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let quiet = coordinator.statistics().await;
    assert!(quiet.store_commits - before <= 8, "{} commits", quiet.store_commits - before);
    assert!(ready(&coordinator).await && quiet.idle_ms == 0, "{} ms", quiet.idle_ms);
    assert!(canaries(&mut reader).await <= while_busy + 2);
    // Busy without an end it wants to know.
    keep_busy(&coordinator).await;
    let seen = canaries(&mut reader).await;
    until("canaries", async || (canaries(&mut reader).await > seen + 2).then_some(())).await;
}
