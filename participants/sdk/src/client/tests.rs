//! The client against a coordinator whose answers are given by hand.

mod fake;

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use self::fake::{Call, Fake};
use super::*;
use crate::action::{Action, Json, Saga, Tcc};
use crate::plan::{message, saga, tcc};

const RESERVE: Action<Tcc, Json<u64>> = Action::tcc("stock", "reserve");
const NOTIFY: Action<Message, Json<u64>> = Action::message("mail", "notify");
const PLACED: Action<Sender, ()> = Action::sender("order", "placed");

fn client(fake: &Fake) -> Client {
    Client::connect([fake.address.to_string()], Options::default()).unwrap()
}

fn plan(number: u64, key: &str) -> Plan<Tcc> {
    let mut plan = if key.is_empty() { tcc() } else { tcc().idempotency_key(key) };
    plan.branch(RESERVE.with(&Json(number)).unwrap());
    plan.build().unwrap()
}

fn view(status: pb::Status) -> pb::TransactionView {
    pb::TransactionView { xid: Bytes::from_static(&[7; 16]), status: status.into(), ..pb::TransactionView::default() }
}

fn submitted(status: pb::Status) -> Result<pb::SubmitResponse, tonic::Status> {
    Ok(pb::SubmitResponse { transaction: Some(view(status)) })
}

fn lost() -> tonic::Status {
    tonic::Status::unavailable("gone")
}

fn overloaded(retry_after: Duration) -> tonic::Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    tonic::Status::with_error_details(Code::ResourceExhausted, "full", details)
}

fn key_of(request: &pb::SubmitRequest) -> String {
    request.transaction.as_ref().unwrap().idempotency_key.clone()
}

#[tokio::test]
async fn a_submit_is_repeated_with_the_same_random_key() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let script = async {
        let (first, reply) = fake.submit().await;
        reply.send(Err(lost())).unwrap();
        let (second, reply) = fake.submit().await;
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
        let (third, reply) = fake.submit().await;
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
        (first, second, third)
    };
    let calls = async {
        let answer = client.submit(plan(1, ""), Wait::Ended).await.unwrap();
        client.submit(plan(1, ""), Wait::Ended).await.unwrap();
        answer
    };
    let ((first, second, third), answer) = tokio::join!(script, calls);
    assert_eq!(answer.status(), Status::Confirmed);
    assert_eq!(first.wait(), pb::Wait::Ended);
    assert_eq!(first, second);
    assert!(key_of(&first).len() == 32 && key_of(&first).bytes().all(|c| c.is_ascii_hexdigit()));
    assert_ne!(key_of(&first), key_of(&third));
}

#[tokio::test]
async fn the_callers_key_is_kept_and_named_when_the_outcome_is_unknown() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let script = async {
        let (request, reply) = fake.submit().await;
        reply.send(Err(tonic::Status::internal("odd"))).unwrap();
        key_of(&request)
    };
    let (sent, answer) = tokio::join!(script, client.submit(plan(1, "order/42"), Wait::Decided));
    assert_eq!(sent, "order/42");
    assert!(matches!(answer, Err(Error::Unknown { idempotency_key, .. }) if idempotency_key == "order/42"));
}

#[tokio::test]
async fn an_overloaded_coordinator_is_left_alone_for_as_long_as_it_asked() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let wanted = Duration::from_millis(120);
    let script = async {
        let (_, reply) = fake.submit().await;
        let refused = Instant::now();
        reply.send(Err(overloaded(wanted))).unwrap();
        let (_, reply) = fake.submit().await;
        let left_alone = refused.elapsed();
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
        left_alone
    };
    let (left_alone, answer) = tokio::join!(script, client.submit(plan(1, ""), Wait::Decided));
    answer.unwrap();
    assert!(left_alone >= wanted, "{left_alone:?}");
}

#[tokio::test]
async fn a_delay_past_the_time_out_is_told_instead_of_waited_for() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let hour = Duration::from_secs(3_600);
    let script = async {
        let (_, reply) = fake.submit().await;
        reply.send(Err(overloaded(hour))).unwrap();
    };
    let ((), answer) = tokio::join!(script, client.submit(plan(1, ""), Wait::Decided));
    assert!(matches!(answer, Err(Error::Overloaded { retry_after }) if retry_after == hour));
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_time_out() {
    let mut fake = Fake::start_anywhere().await;
    let options = Options { timeout: Duration::from_millis(60), ..Options::default() };
    let client = Client::connect([fake.address.to_string()], options).unwrap();
    let silent = async { drop(fake.submit().await) };
    let ((), answer) = tokio::join!(silent, client.submit(plan(1, "k"), Wait::Decided));
    assert!(matches!(answer, Err(Error::Unknown { idempotency_key, .. }) if idempotency_key == "k"));
    let batching = client.batching();
    let (answer, _stream) = tokio::join!(batching.submit(plan(1, "k"), Wait::Decided), fake.stream());
    assert!(matches!(answer, Err(Error::Unknown { idempotency_key, .. }) if idempotency_key == "k"));
}

#[tokio::test]
async fn another_address_is_called_when_the_first_is_silent() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut fake = Fake::start_anywhere().await;
    let addresses = [nobody.to_string(), format!("http://{}", fake.address)];
    // It begins with the first, where nobody is.
    let link = Link::new(addresses, &Security::default(), 0).unwrap();
    let client = Client { link: Arc::new(link), ..client(&fake) };
    let script = async {
        let (_, reply) = fake.submit().await;
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
    };
    let ((), answer) = tokio::join!(script, client.submit(plan(1, ""), Wait::Decided));
    answer.unwrap();
}

#[tokio::test]
async fn a_coordinator_that_comes_later_is_found() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = Options { timeout: Duration::from_millis(200), ..Options::default() };
    let mut client = Client::connect([nobody.to_string()], options).unwrap();
    assert!(matches!(client.submit(plan(1, ""), Wait::Decided).await, Err(Error::Unknown { .. })));
    Arc::make_mut(&mut client.options).timeout = Options::default().timeout;
    let mut fake = Fake::start(TcpListener::bind(nobody).await.unwrap());
    let script = async {
        let (_, reply) = fake.submit().await;
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
    };
    let ((), answer) = tokio::join!(script, client.submit(plan(1, ""), Wait::Decided));
    answer.unwrap();
}

#[tokio::test]
async fn a_submit_whose_connection_broke_is_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect([listener.local_addr().unwrap().to_string()], Options::default()).unwrap();
    let script = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        // The client has sent something, and gets nothing but a reset.
        connection.read_u8().await.unwrap();
        drop(connection);
        let mut fake = Fake::start(listener);
        let (_, reply) = fake.submit().await;
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
        fake
    };
    let (_fake, answer) = tokio::join!(script, client.submit(plan(1, ""), Wait::Decided));
    answer.unwrap();
}

#[tokio::test]
async fn a_transaction_is_found_by_xid_and_by_key() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let script = async {
        let mut keys = Vec::new();
        for answer in
            [Ok(pb::GetResponse { transaction: Some(view(pb::Status::Trying)) }), Err(tonic::Status::not_found(""))]
        {
            let Call::Get(request, reply) = fake.call().await else { panic!("only gets come") };
            keys.extend(request.key);
            reply.send(answer).unwrap();
        }
        keys
    };
    let calls = async {
        assert_eq!(client.get(Xid::new([7; 16])).await.unwrap().status(), Status::Trying);
        assert!(matches!(client.find("order/42").await, Err(Error::NotFound)));
    };
    let (keys, ()) = tokio::join!(script, calls);
    use pb::get_request::Key;
    assert_eq!(keys, [Key::Xid(bytes_of(Xid::new([7; 16]))), Key::IdempotencyKey("order/42".into())]);
}

#[tokio::test]
async fn the_callers_span_travels_with_its_transaction() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let span: Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let traced = || {
        let mut plan = tcc().traceparent(span.clone());
        plan.branch(RESERVE.with(&Json(1)).unwrap());
        plan.build().unwrap()
    };
    let script = async {
        let Call::Submit(_, seen, reply) = fake.call().await else { panic!("a submit comes first") };
        assert_eq!(seen.as_ref(), Some(&span));
        reply.send(submitted(pb::Status::Confirmed)).unwrap();
        let (mut up, down) = fake.stream().await;
        let entry = up.message().await.unwrap().unwrap().entries.remove(0);
        assert_eq!(entry.traceparent, span.as_str());
        let entries = vec![entry_of(entry.id, pb::Status::Confirmed)];
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        (up, down)
    };
    let calls = async {
        client.submit(traced(), Wait::Decided).await.unwrap();
        client.batching().submit(traced(), Wait::Decided).await.unwrap();
    };
    tokio::join!(script, calls);
}

#[test]
fn addresses_that_can_not_be_read_are_refused() {
    let refused = |addresses: &[&str]| Client::connect(addresses, Options::default()).unwrap_err().field;
    assert_eq!(refused(&[]), "addresses");
    assert_eq!(refused(&["a b"]), "addresses[0]");
    assert_eq!(refused(&["https://example.org"]), "addresses[0]");
}

#[tokio::test]
async fn begin_add_commit_names_each_branch_by_its_place() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let xid = Xid::new([7; 16]);
    let script = async {
        let Call::Begin(request, reply) = fake.call().await else { panic!("a begin comes first") };
        assert_eq!((request.mode(), request.deadline_ms, request.idempotency_key.len()), (pb::Mode::Saga, 5_000, 32));
        reply.send(Ok(pb::BeginResponse { xid: bytes_of(xid), deadline_at_ms: 9_000 })).unwrap();
        for index in 0..2 {
            let (request, reply) = fake.add_branch().await;
            assert_eq!((&request.xid, request.index), (&bytes_of(xid), Some(index)));
            reply.send(Ok(pb::AddBranchResponse { branch: index, not_after_ms: 8_000 })).unwrap();
        }
        let Call::Commit(request, reply) = fake.call().await else { panic!("a commit comes last") };
        assert_eq!((&request.xid, request.wait()), (&bytes_of(xid), pb::Wait::Ended));
        reply.send(Ok(pb::CommitResponse { transaction: Some(view(pb::Status::Confirmed)) })).unwrap();
    };
    let initiator = async {
        const PAY: Action<Saga, Json<u64>> = Action::saga("purse", "pay");
        let mut tx = client.begin(saga().deadline(Duration::from_secs(5))).await.unwrap();
        for branch in 0..2 {
            let context = tx.add(PAY.with(&Json(1)).unwrap()).await.unwrap();
            assert_eq!(context, Context { xid, branch, not_after_ms: 8_000 });
        }
        tx.commit(Wait::Ended).await.unwrap().confirmed().unwrap();
        tx.deadline_at_ms()
    };
    assert_eq!(tokio::join!(script, initiator).1, 9_000);
}

#[tokio::test]
async fn a_branch_without_an_answer_is_added_again_at_the_same_place_or_not_committed() {
    let mut fake = Fake::start_anywhere().await;
    let mut tx: Driven<Tcc> = Driven::new(client(&fake), Xid::new([7; 16]), 9_000);
    let script = async {
        let (first, reply) = fake.add_branch().await;
        reply.send(Err(lost())).unwrap();
        let (second, reply) = fake.add_branch().await;
        reply.send(Err(tonic::Status::internal("odd"))).unwrap();
        let (third, reply) = fake.add_branch().await;
        // As a coordinator would that does not know the index.
        reply.send(Ok(pb::AddBranchResponse { branch: 1, not_after_ms: 0 })).unwrap();
        let (fourth, reply) = fake.add_branch().await;
        reply.send(Ok(pb::AddBranchResponse { branch: 0, not_after_ms: 0 })).unwrap();
        assert_eq!(BTreeSet::from([first, second, third, fourth].map(|request| request.index)), [Some(0)].into());
    };
    let initiator = async {
        let branch = RESERVE.with(&Json(1)).unwrap();
        for _ in 0..2 {
            assert!(matches!(tx.add(branch.clone()).await, Err(Error::Unknown { .. })));
            assert!(matches!(tx.commit(Wait::Ended).await, Err(Error::Refused(_))));
        }
        assert_eq!(tx.add(branch).await.unwrap().branch, 0);
    };
    tokio::join!(script, initiator);
}

#[tokio::test]
async fn begin_takes_no_branches_and_an_added_branch_no_order() {
    let fake = Fake::start_anywhere().await;
    let mut plan = tcc();
    let first = plan.branch(RESERVE.with(&Json(1)).unwrap());
    let client = client(&fake);
    assert!(matches!(client.begin(plan).await, Err(Error::Refused(field)) if field.field == "branches"));
    let mut tx: Driven<Tcc> = Driven::new(client, Xid::new([7; 16]), 9_000);
    let ordered = RESERVE.with(&Json(1)).unwrap().after(&[first]);
    assert!(matches!(tx.add(ordered).await, Err(Error::Refused(field)) if field.field == "after"));
}

#[tokio::test]
async fn a_message_is_prepared_then_committed() {
    let mut fake = Fake::start_anywhere().await;
    let client = client(&fake);
    let script = async {
        let Call::Prepare(request, reply) = fake.call().await else { panic!("a prepare comes first") };
        let sender = request.sender.unwrap();
        assert_eq!((sender.service.as_str(), sender.action.as_str()), ("order", "placed"));
        assert_eq!((request.receivers.len(), request.query_after_ms), (1, 700));
        let xid = Bytes::from_static(&[7; 16]);
        reply.send(Ok(pb::PrepareResponse { xid, branch: 1, not_after_ms: 8_000 })).unwrap();
        let Call::Commit(_, reply) = fake.call().await else { panic!("a commit comes second") };
        reply.send(Ok(pb::CommitResponse { transaction: Some(view(pb::Status::Confirming)) })).unwrap();
        let Call::Rollback(request, reply) = fake.call().await else { panic!("a rollback comes last") };
        assert_eq!(request.reason, "no room");
        reply.send(Ok(pb::RollbackResponse { transaction: Some(view(pb::Status::Confirming)) })).unwrap();
    };
    let initiator = async {
        let mut receivers = message();
        receivers.branch(NOTIFY.with(&Json(1)).unwrap());
        let sender = PLACED.with(&()).unwrap();
        let query_after = Duration::from_millis(700);
        let prepared = client.prepare(sender, receivers.build().unwrap(), query_after).await.unwrap();
        assert_eq!(prepared.context(), Context { xid: Xid::new([7; 16]), branch: 1, not_after_ms: 8_000 });
        assert_eq!(prepared.commit(Wait::Decided).await.unwrap().outcome(), Some(Outcome::Confirmed));
        // The loser is told who won.
        let late = prepared.rollback("no room", Wait::Decided).await.unwrap();
        assert_eq!(late.outcome(), Some(Outcome::Confirmed));
    };
    tokio::join!(script, initiator);
}

fn entry_of(id: u64, status: pb::Status) -> pb::submit_stream_response::Entry {
    let result = pb::submit_stream_response::entry::Result::Transaction(view(status));
    pb::submit_stream_response::Entry { id, result: Some(result) }
}

fn error_of(id: u64, status: &tonic::Status) -> pb::submit_stream_response::Entry {
    let error = pb::Error {
        code: status.code().into(),
        message: status.message().into(),
        details: Bytes::copy_from_slice(status.details()),
    };
    let result = pb::submit_stream_response::entry::Result::Error(error);
    pb::submit_stream_response::Entry { id, result: Some(result) }
}

#[tokio::test]
async fn what_waits_goes_out_as_one_batch_and_answers_may_come_in_any_order() {
    let mut fake = Fake::start_anywhere().await;
    let batching = client(&fake).batching();
    let script = async {
        let (mut up, down) = fake.stream().await;
        let mut entries = Vec::new();
        let mut messages = 0;
        while entries.len() < 100 {
            entries.extend(up.message().await.unwrap().unwrap().entries);
            messages += 1;
        }
        let number = |request: &pb::SubmitRequest| request.transaction.as_ref().unwrap().branches[0].request.clone();
        let answer = |entry: pb::submit_stream_request::Entry| {
            let mut view = view(pb::Status::Confirmed);
            let result = number(&entry.request.unwrap());
            view.branches.push(pb::BranchView { result, ..pb::BranchView::default() });
            let result = Some(pb::submit_stream_response::entry::Result::Transaction(view));
            pb::submit_stream_response::Entry { id: entry.id, result }
        };
        let entries = entries.into_iter().rev().map(answer).collect();
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        (messages, up, down)
    };
    let submit = |number: u64| {
        let batching = batching.clone();
        async move { (number, batching.submit(plan(number, ""), Wait::Ended).await.unwrap()) }
    };
    let (script, answers) = tokio::join!(script, join_all((0..100).map(submit)));
    for (number, view) in answers {
        assert_eq!(view.result(0_u32), Some(&Bytes::from(number.to_string())));
    }
    // The first may leave alone, while the stream is being opened.
    assert!(script.0 <= 2, "{} messages", script.0);
}

#[tokio::test]
async fn no_more_are_outstanding_than_allowed() {
    const OUTSTANDING: usize = 8;
    const ALL: usize = 100;
    let mut fake = Fake::start_anywhere().await;
    let options = Options { outstanding_max: OUTSTANDING, ..Options::default() };
    let batching = Client::connect([fake.address.to_string()], options).unwrap().batching();
    let script = async {
        let (mut up, down) = fake.stream().await;
        let (mut answered, mut waiting) = (0, Vec::new());
        while answered < ALL {
            waiting.extend(up.message().await.unwrap().unwrap().entries);
            assert!(waiting.len() <= OUTSTANDING, "{} outstanding", waiting.len());
            // Only a full house is answered, so that one too many would have had its chance to come.
            if waiting.len() == OUTSTANDING.min(ALL - answered) {
                answered += waiting.len();
                let entries = waiting.drain(..).map(|entry| entry_of(entry.id, pb::Status::Confirmed)).collect();
                down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
            }
        }
        (up, down)
    };
    let submits = (0..100).map(|number| batching.submit(plan(number, ""), Wait::Ended));
    let (_stream, answers) = tokio::join!(script, join_all(submits));
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn after_a_lost_stream_only_what_has_a_key_is_sent_again() {
    let mut fake = Fake::start_anywhere().await;
    let batching = client(&fake).batching();
    let script = async {
        let (mut up, down) = fake.stream().await;
        let mut first = Vec::new();
        while first.len() < 4 {
            first.extend(up.message().await.unwrap().unwrap().entries);
        }
        let answered = first.iter().find(|entry| key_of(entry.request.as_ref().unwrap()) == "a").unwrap();
        let entries = vec![entry_of(answered.id, pb::Status::Confirmed)];
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        drop(down);
        let (mut up, down) = fake.stream().await;
        let again = up.message().await.unwrap().unwrap().entries;
        let entries = again.iter().map(|entry| entry_of(entry.id, pb::Status::Cancelled)).collect();
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        let keys: Vec<_> = again.iter().map(|entry| key_of(entry.request.as_ref().unwrap())).collect();
        (keys, up, down)
    };
    let submits = ["a", "b", "", "c"].map(|key| batching.submit(plan(1, key), Wait::Ended));
    let (script, answers) = tokio::join!(script, join_all(submits));
    assert_eq!(script.0, ["b", "c"]);
    let told: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(View::status)).collect();
    assert!(
        matches!(
            told[..],
            [Ok(Status::Confirmed), Ok(Status::Cancelled), Err(Error::Unknown { .. }), Ok(Status::Cancelled)]
        ),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_refused_entry_fails_alone_and_an_overloaded_one_is_sent_again() {
    let mut fake = Fake::start_anywhere().await;
    let batching = client(&fake).batching();
    let wanted = Duration::from_millis(80);
    let script = async {
        let (mut up, down) = fake.stream().await;
        let mut entries = Vec::new();
        while entries.len() < 3 {
            entries.extend(up.message().await.unwrap().unwrap().entries);
        }
        let answer = |entry: &pb::submit_stream_request::Entry| match &*key_of(entry.request.as_ref().unwrap()) {
            "reused" => error_of(entry.id, &tonic::Status::already_exists("other content")),
            "" => error_of(entry.id, &overloaded(wanted)),
            _ => entry_of(entry.id, pb::Status::Confirmed),
        };
        let refused = Instant::now();
        let entries = entries.iter().map(answer).collect();
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        let again = up.message().await.unwrap().unwrap().entries;
        assert!(refused.elapsed() >= wanted);
        let entries = again.iter().map(|entry| entry_of(entry.id, pb::Status::Confirmed)).collect();
        down.send(Ok(pb::SubmitStreamResponse { entries })).await.unwrap();
        (up, down)
    };
    let submits = ["reused", "", "fine"].map(|key| batching.submit(plan(1, key), Wait::Ended));
    let (_stream, answers) = tokio::join!(script, join_all(submits));
    assert!(matches!(&answers[0], Err(Error::KeyReused { idempotency_key }) if idempotency_key == "reused"));
    assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn a_stream_that_is_not_let_in_tells_everyone() {
    let mut fake = Fake::start_anywhere().await;
    let batching = client(&fake).batching();
    let script = async {
        let (up, down) = fake.stream().await;
        down.send(Err(tonic::Status::permission_denied("who are you"))).await.unwrap();
        (up, down)
    };
    let (_stream, answer) = tokio::join!(script, batching.submit(plan(1, "k"), Wait::Ended));
    assert!(matches!(answer, Err(Error::Denied { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_watch_connects_again_tells_nothing_twice_and_ends_with_the_transaction() {
    let mut fake = Fake::start_anywhere().await;
    let watch = client(&fake).watch(Xid::new([7; 16]));
    let at =
        |status, version| Ok(pb::WatchResponse { transaction: Some(pb::TransactionView { version, ..view(status) }) });
    let script = async {
        let (request, down) = fake.watch().await;
        assert_eq!(request.xid, bytes_of(Xid::new([7; 16])));
        down.send(at(pb::Status::Trying, 1)).await.unwrap();
        down.send(at(pb::Status::Confirming, 2)).await.unwrap();
        drop(down);
        let (_, down) = fake.watch().await;
        down.send(at(pb::Status::Confirming, 2)).await.unwrap();
        down.send(at(pb::Status::Confirmed, 3)).await.unwrap();
        down
    };
    let (_down, seen) = tokio::join!(script, watch.collect::<Vec<_>>());
    let seen: Vec<_> = seen.into_iter().map(|view| view.unwrap().status()).collect();
    assert_eq!(seen, [Status::Trying, Status::Confirming, Status::Confirmed]);
}

#[tokio::test]
async fn a_watch_of_nothing_ends_with_an_error() {
    let mut fake = Fake::start_anywhere().await;
    let watch = client(&fake).watch(Xid::new([7; 16]));
    let script = async {
        let (_, down) = fake.watch().await;
        down.send(Err(tonic::Status::not_found("no such transaction"))).await.unwrap();
    };
    let ((), seen) = tokio::join!(script, watch.collect::<Vec<_>>());
    assert!(matches!(seen[..], [Err(Error::NotFound)]), "{seen:?}");
}

#[test]
fn a_status_becomes_the_callers_reaction() {
    let told = |code, details| Error::from_status(tonic::Status::with_error_details(code, "m", details), "k".into());
    let none = ErrorDetails::new;
    let bad = ErrorDetails::with_bad_request_violation("branches[1].request", "at most 1 MiB");
    assert_eq!(told(Code::InvalidArgument, bad).to_string(), "refused: branches[1].request: at most 1 MiB");
    assert_eq!(told(Code::InvalidArgument, none()).to_string(), "refused: request: m");
    let decided = |name: &str| {
        let metadata = [("status".to_owned(), name.to_owned())];
        ErrorDetails::with_error_info("ALREADY_DECIDED", "tercet", std::collections::HashMap::from(metadata))
    };
    let already = told(Code::FailedPrecondition, decided("cancelling"));
    assert!(matches!(already, Error::AlreadyDecided { status: Status::Cancelling }));
    assert!(matches!(told(Code::FailedPrecondition, decided("what")), Error::Denied { .. }));
    assert!(
        matches!(told(Code::AlreadyExists, none()), Error::KeyReused { idempotency_key } if idempotency_key == "k")
    );
    let second = Duration::from_secs(1);
    assert!(
        matches!(told(Code::ResourceExhausted, none()), Error::Overloaded { retry_after } if retry_after == second)
    );
    assert!(matches!(told(Code::NotFound, none()), Error::NotFound));
    assert!(matches!(told(Code::Unimplemented, none()), Error::Denied { .. }));
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::Cancelled] {
        assert!(matches!(told(code, none()), Error::Unknown { idempotency_key, .. } if idempotency_key == "k"));
    }
}

#[test]
fn a_view_tells_the_outcome_as_soon_as_it_is_final() {
    let told = |status, reason: &str| {
        let wire = pb::TransactionView { reason: reason.into(), ..view(status) };
        View::from_answer(Some(wire)).unwrap().confirmed().map(|view| view.ended())
    };
    assert_eq!(told(pb::Status::Trying, ""), Err(Undone::Undecided));
    assert_eq!(told(pb::Status::Confirming, ""), Ok(false));
    assert_eq!(told(pb::Status::Confirmed, ""), Ok(true));
    let sold_out = Undone::Cancelled { reason: "sold out".into() };
    assert_eq!(told(pb::Status::Cancelling, "sold out"), Err(sold_out.clone()));
    assert_eq!(told(pb::Status::Cancelled, "sold out"), Err(sold_out));
    assert!(matches!(View::from_answer(Some(view(pb::Status::Unspecified))), Err(Error::Unknown { .. })));
    assert!(matches!(View::from_answer(None), Err(Error::Unknown { .. })));
}
