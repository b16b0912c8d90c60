//! Clients and participants that keep no rule: they hear so, and harm nobody else.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::future::join_all;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::participant::v1 as session;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::participant::v1::reply::Answer;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status, Streaming};

use super::party::{Party, agrees};
use super::world::{Coordinator, branch, in_time, tcc, until, violation};

/// Sends and takes bytes as they are.
pub(crate) struct Raw;

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

/// The same bytes for the same seed (splitmix64, Steele et al. 2014).
fn noise(seed: u64) -> Bytes {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let length = next() % 120;
    // Small first bytes are field numbers that exist more often than not.
    (0..length).map(|at| if at == 0 { (next() % 64) as u8 } else { next() as u8 }).collect()
}

async fn still_serves(coordinator: &Coordinator, number: i64) {
    let view = coordinator.submit(tcc(vec![branch("shop", number)]), pb::Wait::Ended).await.expect("it serves");
    assert_eq!(view.status(), pb::Status::Confirmed);
}

#[tokio::test]
async fn random_bytes_to_every_method_harm_nobody() {
    let coordinator = Coordinator::start().await;
    let party = Party::join(&coordinator, "shop", agrees).await;
    let methods = [
        (
            "tercet.coordinator.v1.Coordinator",
            &["Submit", "Begin", "AddBranch", "Prepare", "Commit", "Rollback", "Get"][..],
        ),
        ("tercet.coordinator.v1.Coordinator", &["SubmitStream", "Watch"]),
        ("tercet.participant.v1.Sessions", &["Open"]),
        (
            "tercet.admin.v1.Admin",
            &["GetTransaction", "WatchTransaction", "ListTransactions", "ListCompensations", "GetStatistics"],
        ),
        ("grpc.health.v1.Health", &["Check"]),
        ("tercet.coordinator.v1.Coordinator", &["Nothing"]),
    ];
    let paths = methods.iter().flat_map(|(service, names)| names.iter().map(move |name| format!("/{service}/{name}")));
    let attack = async |path: String| {
        let path: tonic::codegen::http::uri::PathAndQuery = path.parse().expect("it is a path");
        let admin = path.path().starts_with("/tercet.admin");
        for seed in 0..100 {
            let mut grpc = tonic::client::Grpc::new(if admin { coordinator.raw_admin() } else { coordinator.raw() });
            grpc.ready().await.expect("it takes connections");
            let request = tonic::Request::new(tokio_stream::once(noise(seed)));
            // Whatever it says, it says something.
            let answer = in_time("an answer", grpc.streaming(request, path.clone(), Raw)).await;
            if let Ok(answer) = answer {
                let mut stream = answer.into_inner();
                while let Ok(Some(_)) = in_time("the stream's end", stream.message()).await {}
            }
        }
    };
    let honest = async {
        for number in 0..100 {
            still_serves(&coordinator, number).await;
        }
    };
    tokio::join!(join_all(paths.map(attack)), honest);
    assert_eq!(party.effects().await.len(), 200);
}

#[tokio::test]
async fn what_is_not_even_http_harms_nobody() {
    let coordinator = Coordinator::start().await;
    let _party = Party::join(&coordinator, "shop", agrees).await;
    let address = coordinator.url().replace("http://", "");
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 5_000]] {
        let mut socket = tokio::net::TcpStream::connect(&address).await.expect("it takes connections");
        socket.write_all(bytes).await.expect("it reads");
        socket.shutdown().await.ok();
        let mut answer = Vec::new();
        in_time("the end of the connection", socket.read_to_end(&mut answer)).await.ok();
        still_serves(&coordinator, 1).await;
    }
}

fn register() -> session::Register {
    session::Register {
        service: "odd".into(),
        instance: "one".into(),
        actions: vec![session::Action { name: "act".into(), operations: vec![1, 2, 3] }],
        fence_id: vec![7; 16].into(),
        ..Default::default()
    }
}

/// A session without the SDK.
struct Session {
    up: mpsc::Sender<session::OpenRequest>,
    down: Streaming<session::OpenResponse>,
}

impl Session {
    async fn open(coordinator: &Coordinator, first: Option<Up>) -> Result<Self, Status> {
        let (up, requests) = mpsc::channel(16);
        up.send(session::OpenRequest { message: first }).await.expect("there is room");
        let mut client = SessionsClient::new(coordinator.raw());
        let answer = client.open(ReceiverStream::new(requests));
        let down = in_time("an answer to Open", answer).await?.into_inner();
        Ok(Self { up, down })
    }

    async fn registered(coordinator: &Coordinator) -> Self {
        let session = Self::open(coordinator, Some(Up::Register(register()))).await.expect("it is sound");
        coordinator.connected("odd", 1).await;
        session
    }

    async fn say(&self, message: Option<Up>) {
        self.up.send(session::OpenRequest { message }).await.expect("it is read");
    }

    async fn reply(&self, batch: u64, answers: Vec<Option<Answer>>) {
        let replies = answers.into_iter().map(|answer| session::Reply { answer }).collect();
        self.say(Some(Up::Replies(session::Replies { batch, replies }))).await;
    }

    /// The next batch that is no canary; that is answered.
    async fn calls(&mut self) -> session::Calls {
        loop {
            let message = in_time("a batch", self.down.message()).await.expect("it holds").expect("it goes on");
            let Some(Down::Calls(calls)) = message.message else { continue };
            if calls.calls.iter().all(|call| call.action != tercet_coordinator::canary::NAME) {
                return calls;
            }
            self.reply(calls.batch, vec![done(); calls.calls.len()]).await;
        }
    }

    /// How the coordinator ends it.
    async fn end(&mut self) -> Result<(), Status> {
        loop {
            if in_time("the session's end", self.down.message()).await?.is_none() {
                return Ok(());
            }
        }
    }
}

fn done() -> Option<Answer> {
    Some(Answer::Done(Bytes::new()))
}

#[tokio::test]
async fn a_registration_that_keeps_no_rule_is_refused_by_field() {
    type Change = fn(&mut session::Register);
    let coordinator = Coordinator::start().await;
    let changes: [(Change, &str); 8] = [
        (|r| r.service.clear(), "register.service"),
        (|r| r.service = "Odd".into(), "register.service"),
        (|r| r.actions.clear(), "register.actions"),
        (|r| r.actions = vec![r.actions[0].clone(); 257], "register.actions"),
        (|r| r.actions[0].name = "a/b".into(), "register.actions[0].name"),
        (|r| r.fence_id.truncate(15), "register.fence_id"),
        (|r| r.instance = "x".repeat(129), "register.instance"),
        (|r| r.version = "x".repeat(129), "register.version"),
    ];
    for (change, field) in changes {
        let mut register = register();
        change(&mut register);
        let error = Session::open(&coordinator, Some(Up::Register(register))).await.err().expect(field);
        assert_eq!(violation(&error).0, field);
    }
    for first in [None, Some(Up::Heartbeat(session::Heartbeat::default())), Some(Up::Leaving(session::Leaving {}))] {
        let error = Session::open(&coordinator, first).await.err().expect("it is no registration");
        assert_eq!(violation(&error).0, "register");
    }
    assert!(coordinator.statistics().await.participants.is_empty());
}

#[tokio::test]
async fn a_stream_that_never_registers_is_closed_with_a_reason() {
    let coordinator = Coordinator::start().await;
    let (_up, requests) = mpsc::channel::<session::OpenRequest>(1);
    let mut client = SessionsClient::new(coordinator.raw());
    let answer = client.open(ReceiverStream::new(requests));
    let error = in_time("a refusal", answer).await.expect_err("it never registered");
    assert_eq!(violation(&error).0, "register");
}

#[tokio::test]
async fn a_session_that_breaks_a_rule_is_ended_and_its_calls_are_made_again() {
    let coordinator = Coordinator::start().await;
    let _party = Party::join(&coordinator, "shop", agrees).await;
    let breaks = [
        (Some(Up::Register(register())), Some("it registered twice")),
        (
            Some(Up::Replies(session::Replies { batch: 99, replies: Vec::new() })),
            Some("it answered a batch that it does not have"),
        ),
        (None, None),
    ];
    let transaction = pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch("odd", 1)]) };
    for (message, why) in breaks {
        let mut session = Session::registered(&coordinator).await;
        let view = coordinator.submit(transaction.clone(), pb::Wait::Accepted).await.expect("it is sound");
        session.calls().await;
        session.say(message).await;
        match (session.end().await, why) {
            (Ok(()), None) => {}
            (Err(status), Some(why)) => assert_eq!((status.code(), status.message()), (Code::InvalidArgument, why)),
            other => panic!("{other:?}"),
        }
        coordinator.connected("odd", 0).await;
        still_serves(&coordinator, 1).await;
        // Whoever comes next is asked again.
        let mut next = Session::registered(&coordinator).await;
        let again = next.calls().await;
        assert_eq!((again.calls.len(), again.calls[0].xid.clone(), again.calls[0].attempt), (1, view.xid.clone(), 1));
        next.reply(again.batch, vec![Some(Answer::Refused("enough".into()))]).await;
        let cancel = next.calls().await;
        next.reply(cancel.batch, vec![done()]).await;
        coordinator.reaches(&view.xid, pb::Status::Cancelled).await;
        drop(next);
        coordinator.connected("odd", 0).await;
    }
}

#[tokio::test]
async fn a_reply_that_is_missing_or_empty_is_unknown_and_one_too_many_is_nothing() {
    let coordinator = Coordinator::start().await;
    let mut session = Session::registered(&coordinator).await;
    let transaction = tcc((0..4).map(|number| branch("odd", number)).collect());
    let view = coordinator.submit(transaction, pb::Wait::Accepted).await.expect("it is sound");
    let first = session.calls().await;
    assert_eq!(first.calls.len(), 4, "what is due together comes together");
    session.reply(first.batch, vec![done(), None]).await;
    let mut asked = Vec::new();
    while asked.len() < 3 {
        let calls = session.calls().await;
        asked.extend(calls.calls.iter().map(|call| (call.branch, call.operation(), call.attempt)));
        let answers = calls.calls.iter().map(|_| done());
        session.reply(calls.batch, answers.chain([done(), Some(Answer::Refused("who asked?".into()))]).collect()).await;
    }
    asked.sort_unstable_by_key(|(branch, ..)| *branch);
    let tries = session::Operation::Try;
    assert_eq!(asked, [(1, tries, 1), (2, tries, 1), (3, tries, 1)]);
    let confirms = session.calls().await;
    assert!(confirms.calls.iter().all(|call| call.operation() == session::Operation::Confirm));
    session.reply(confirms.batch, vec![done(); 4]).await;
    let view = coordinator.reaches(&view.xid, pb::Status::Confirmed).await;
    assert_eq!(view.branches[1].reason, "");
}

#[tokio::test]
async fn a_session_that_says_nothing_at_all_is_gone_and_another_takes_over() {
    let coordinator = Coordinator::start().await;
    let mut silent = Session::registered(&coordinator).await;
    let branch = pb::Branch { call_timeout_ms: 600_000, ..branch("odd", 1) };
    let transaction = pb::Transaction { deadline_ms: 600_000, ..tcc(vec![branch]) };
    let view = coordinator.submit(transaction, pb::Wait::Accepted).await.expect("it is sound");
    silent.calls().await;
    let mut beats = 0;
    while let Ok(Some(message)) = in_time("a heartbeat or the end", silent.down.message()).await {
        beats += u32::from(matches!(message.message, Some(Down::Heartbeat(_))));
    }
    assert!((4..=8).contains(&beats), "it was given up after {beats} heartbeats");
    coordinator.connected("odd", 0).await;
    let mut next = Session::registered(&coordinator).await;
    let calls = until("the call", async || Some(next.calls().await)).await;
    assert_eq!(calls.calls[0].xid, view.xid);
}

#[tokio::test]
async fn results_and_reasons_are_kept_within_their_limits_whatever_a_participant_sends() {
    use tercet_coordinator::limits::{REASON_BYTES_MAX, RESULT_BYTES_MAX};
    let coordinator = Coordinator::start().await;
    let mut session = Session::registered(&coordinator).await;
    let transaction = tcc(vec![branch("odd", 0), pb::Branch { after: vec![0], ..branch("odd", 1) }]);
    let view = coordinator.submit(transaction, pb::Wait::Accepted).await.expect("it is sound");
    let first = session.calls().await;
    session.reply(first.batch, vec![Some(Answer::Done(vec![1; 3 << 20].into()))]).await;
    let second = session.calls().await;
    session.reply(second.batch, vec![Some(Answer::Refused("券".repeat(1 << 18)))]).await;
    while coordinator.get(&view.xid).await.expect("it is there").status() != pb::Status::Cancelled {
        let cancels = tokio::time::timeout(Duration::from_millis(200), session.calls()).await;
        if let Ok(cancels) = cancels {
            session.reply(cancels.batch, vec![done(); cancels.calls.len()]).await;
        }
    }
    let view = coordinator.get(&view.xid).await.expect("it is there");
    assert_eq!(view.branches[0].result.len(), RESULT_BYTES_MAX);
    let reason = &view.branches[1].reason;
    assert!(reason.len() <= REASON_BYTES_MAX && reason.len() > REASON_BYTES_MAX - 3, "{}", reason.len());
}
