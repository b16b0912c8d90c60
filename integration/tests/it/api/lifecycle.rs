//! Stops, kills and starts of the coordinator, and what it says of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tercet_proto::admin::v1 as admin;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_proto::coordinator::v1 as pb;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb as health;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::party::{Party, Say, agrees};
use super::world::{Coordinator, branch, in_time, keyed, reason, submit, tcc, until};

fn patient(number: i64) -> pb::Transaction {
    let branch = pb::Branch { call_timeout_ms: 600_000, ..branch("shop", number) };
    pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch]) }
}

#[tokio::test]
async fn a_stop_takes_nothing_new_and_ends_what_is_under_way() {
    let mut coordinator = Coordinator::with(|config| config.stop_grace_ms = 20_000).await;
    let party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let mut client = coordinator.client();
    let mut waiting = client.clone();
    let mut health = HealthClient::new(coordinator.raw());
    health.check(health::HealthCheckRequest::default()).await.expect("it answers");
    let ends = tokio::spawn(async move { submit(&mut waiting, patient(1), pb::Wait::Ended).await });
    party.hears("try", 1, 1).await;
    let stopped = tokio::spawn(coordinator.stop());
    let error = until("a refusal", async || submit(&mut client, patient(2), pb::Wait::Accepted).await.err()).await;
    assert_eq!(reason(&error, Code::Unavailable), "STOPPING");
    assert!(tonic_types::StatusExt::get_details_retry_info(&error).is_some());
    assert!(!stopped.is_finished(), "something is under way");
    let answer = health.check(health::HealthCheckRequest::default()).await.expect("it goes on answering");
    assert_eq!(answer.into_inner().status(), health::health_check_response::ServingStatus::NotServing);
    party.let_through(1_000);
    let view = in_time("the end", ends).await.expect("it does not panic").expect("it is under way");
    assert_eq!(view.status(), pb::Status::Confirmed);
    in_time("the stop", stopped).await.expect("it does not panic");
}

#[tokio::test]
async fn what_a_stop_leaves_is_due_at_the_next_start_and_participants_come_back() {
    let mut coordinator = Coordinator::with(|config| config.stop_grace_ms = 300).await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let begin = pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms: 3_000, ..Default::default() };
    let begun = coordinator.client().begin(begin).await.expect("it is sound").into_inner().xid;
    let add = pb::AddBranchRequest { xid: begun.clone(), branch: Some(branch("shop", 7)), index: None };
    coordinator.client().add_branch(add).await.expect("it is open");
    let lonely = pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch("desk", 1)]) };
    let lonely = coordinator.submit(lonely, pb::Wait::Accepted).await.expect("it is sound").xid;
    let mut watch = coordinator.client().watch(pb::WatchRequest { xid: lonely.clone() }).await.expect("it is there");
    coordinator.stop().await;
    // Its threads still run: whatever held a connection would hold it now.
    let watched = async { while let Some(Ok(_)) = watch.get_mut().next().await {} };
    in_time("the end of the watch", watched).await;
    coordinator.start_again().await;
    coordinator.connected("shop", 1).await;
    let view = coordinator.reaches(&begun, pb::Status::Cancelled).await;
    assert_eq!(view.reason, "the deadline passed before it was decided");
    assert_eq!(party.heard(), [], "an empty cancel needs no handler");
    assert_eq!(party.fence(&begun, 0).await, Some(3));
    let _desk = Party::join(&coordinator, "desk", agrees).await;
    coordinator.reaches(&lonely, pb::Status::Confirmed).await;
}

#[tokio::test]
async fn hundreds_in_flight_at_a_kill_are_taken_up_and_ended_at_once() {
    const COUNT: i64 = 600;
    let mut coordinator = Coordinator::start().await;
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    // Every third waits in its try, every third in its confirm, every third in its cancel.
    let party = Party::join(&coordinator, "shop", move |heard| match (heard.operation, heard.number % 3) {
        _ if gate.load(Ordering::Relaxed) && heard.operation != "try" => Say::Done,
        ("try", 2) => Say::Refused("a two"),
        ("confirm", 1) => Say::NotNow(600_000),
        ("try", 0) if !gate.load(Ordering::Relaxed) => Say::NotNow(600_000),
        _ => Say::Done,
    })
    .await;
    let desk = Arc::clone(&open);
    let desk = Party::join(&coordinator, "desk", move |heard| match heard.operation {
        "cancel" if !desk.load(Ordering::Relaxed) => Say::NotNow(600_000),
        _ => Say::Done,
    })
    .await;
    let mut xids = Vec::new();
    let mut client = coordinator.client();
    for number in 0..COUNT {
        let mut transaction = patient(number);
        transaction.branches.insert(0, branch("desk", number));
        transaction.branches[1].after = vec![0];
        let view = submit(&mut client, transaction, pb::Wait::Accepted).await.expect("it is sound");
        xids.push(view.xid);
    }
    until("all to be in doubt", async || {
        let (shop, desk) = (party.heard().len() as i64, desk.heard().len() as i64);
        (shop >= COUNT + COUNT / 3 && desk >= COUNT + COUNT / 3).then_some(())
    })
    .await;
    coordinator.kill().await;
    open.store(true, Ordering::Relaxed);
    coordinator.start_again().await;
    let ready = Instant::now();
    coordinator.all_end().await;
    let took = ready.elapsed();
    for (number, xid) in xids.iter().enumerate() {
        let view = coordinator.get(xid).await.expect("it is there");
        let wanted = if number % 3 == 2 { pb::Status::Cancelled } else { pb::Status::Confirmed };
        assert_eq!(view.status(), wanted, "{number}");
    }
    // An idle release build does it in well under a second.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let effects = |all: Vec<(String, i64)>, operation| all.iter().filter(|(one, _)| one == operation).count();
    assert_eq!(effects(party.effects().await, "confirm"), COUNT as usize * 2 / 3);
    assert_eq!(effects(desk.effects().await, "cancel"), COUNT as usize / 3);
}

#[tokio::test]
async fn a_client_that_loses_the_coordinator_gets_its_answer_from_the_next_one() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", |_| Say::Held).await;
    let client = coordinator.sdk();
    let mut plan = tercet::plan::tcc();
    plan.branch(tercet::plan::Branch::dynamic("shop", "act", "1".into()).expect("it is sound"));
    let plan = plan.build().expect("it is sound");
    let submit = tokio::spawn(async move { client.submit(plan, tercet::client::Wait::Ended).await });
    party.hears("try", 1, 1).await;
    coordinator.kill().await;
    party.let_through(1_000);
    coordinator.start_again().await;
    let view = in_time("the answer", submit).await.expect("it does not panic").expect("it is accepted");
    assert!(view.repeated() && view.confirmed().is_ok());
    assert_eq!(coordinator.count().await, 1);
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_in_kills_under_load() {
    let mut coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let tasks: Vec<_> = (0..20)
            .map(|task| {
                let mut client = coordinator.client();
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let number = round * 1_000_000 + task * 10_000 + number;
                        let transaction = keyed(&number.to_string(), tcc(vec![branch("shop", number)]));
                        match submit(&mut client, transaction, pb::Wait::Decided).await {
                            Ok(view) => done.push((number, view)),
                            Err(_) => return done,
                        }
                    }
                    done
                })
            })
            .collect();
        until("some work", async || (coordinator.statistics().await.ended > 150).then_some(())).await;
        coordinator.kill().await;
        for task in tasks {
            acknowledged.extend(in_time("a client's last error", task).await.expect("it does not panic"));
        }
        coordinator.start_again().await;
    }
    coordinator.all_end().await;
    assert!(acknowledged.len() > 250, "only {} acknowledged", acknowledged.len());
    for (number, told) in acknowledged {
        let view = coordinator.get(&told.xid).await.expect("what was acknowledged is there");
        assert_eq!(view.status(), pb::Status::Confirmed, "{number}");
        assert_eq!(party.fence(&told.xid, 0).await, Some(2), "{number}");
    }
    let effects = party.effects().await;
    let mut confirms: Vec<_> = effects.iter().filter(|(one, _)| one == "confirm").collect();
    confirms.sort_unstable();
    let all = confirms.len();
    confirms.dedup();
    assert_eq!(confirms.len(), all, "something was confirmed twice");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let coordinator = Coordinator::start().await;
    let mut client = HealthClient::new(coordinator.raw());
    for service in ["", "tercet.coordinator.v1.Coordinator", "tercet.participant.v1.Sessions", "tercet.admin.v1.Admin"]
    {
        let answer = client.check(health::HealthCheckRequest { service: service.into() }).await.expect(service);
        assert_eq!(answer.into_inner().status(), health::health_check_response::ServingStatus::Serving, "{service}");
    }
    let unknown = client.check(health::HealthCheckRequest { service: "nobody".into() }).await;
    assert_eq!(unknown.expect_err("there is none").code(), Code::NotFound);

    let common = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    let public = ["tercet.coordinator.v1.Coordinator", "tercet.participant.v1.Sessions"];
    assert_eq!(services(coordinator.raw()).await, [&common[..], &public].concat());
    assert_eq!(services(coordinator.raw_admin()).await, [&common[..], &["tercet.admin.v1.Admin"]].concat());
    let elsewhere = AdminClient::new(coordinator.raw()).get_statistics(admin::GetStatisticsRequest::default()).await;
    assert_eq!(elsewhere.expect_err("it is on the other port").code(), Code::Unimplemented);
}

/// What a port says that it serves, by name.
async fn services(port: Channel) -> Vec<String> {
    use reflection::server_reflection_response::MessageResponse;
    let message_request = Some(reflection::server_reflection_request::MessageRequest::ListServices(String::new()));
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request };
    let answers = ServerReflectionClient::new(port).server_reflection_info(tokio_stream::iter([request])).await;
    let answer = answers.expect("it answers").into_inner().message().await.expect("it holds").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    names
}
