//! Every command against a coordinator in this process, on a store in memory.

mod moved;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use serde_json::Value;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tercet_proto::participant::v1 as session;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::config::Config;
use crate::server::Ports;
use crate::store::MemoryStore;

/// Where a coordinator is.
struct Place {
    /// For initiators and participants.
    url: String,
    admin: String,
}

/// Starts a coordinator that lasts as long as the test, and tells where.
async fn coordinator() -> Place {
    coordinator_with(&[], std::future::pending()).await
}

/// The same with these arguments, until `shutdown` ends.
async fn coordinator_with(more: &[&str], shutdown: impl Future<Output = ()> + Send + 'static) -> Place {
    let serve = ["tercet", "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let serve = serve.iter().chain(more);
    let Command::Serve(config) = Cli::try_parse_from(serve).expect("good arguments").command else {
        panic!("it serves")
    };
    let clock = SystemClock::start();
    let ports = Ports::open(&config).await.expect("two ports");
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let (ready, address) = oneshot::channel();
    let config = Config { stop_grace_ms: 0, ..config };
    tokio::spawn(crate::serve(store, clock, ports, config, ready, shutdown));
    let addresses = address.await.expect("it starts");
    Place { url: format!("http://{}", addresses.listen), admin: format!("http://{}", addresses.admin) }
}

/// Connects the service `stock`. Its tries of "no" are refused, its confirms of "stuck" too; all else is done.
async fn stock(address: &str) {
    let (up, messages) = mpsc::channel(4);
    let send = |message| session::OpenRequest { message: Some(message) };
    let register = session::Register {
        service: "stock".into(),
        instance: "stock-1".into(),
        version: "7".into(),
        fence_id: vec![1; 16].into(),
        actions: vec![session::Action { name: "any".into(), operations: vec![1, 2, 3] }],
        window: 1,
        ..session::Register::default()
    };
    up.send(send(session::open_request::Message::Register(register))).await.expect("it is open");
    let mut client = SessionsClient::connect(address.to_owned()).await.expect("it listens");
    let mut calls = client.open(ReceiverStream::new(messages)).await.expect("it takes a session").into_inner();
    let (registered, ready) = oneshot::channel();
    tokio::spawn(async move {
        let mut registered = Some(registered);
        while let Some(Ok(response)) = calls.next().await {
            if let Some(session::open_response::Message::Registered(_)) = response.message {
                registered.take().map(|registered| registered.send(()));
                continue;
            }
            let Some(session::open_response::Message::Calls(calls)) = response.message else { continue };
            let replies = calls.calls.iter().map(|call| {
                let refused = matches!((&*call.action, call.operation), ("no", 1) | ("stuck", 2));
                let done = session::reply::Answer::Done(b"ok".to_vec().into());
                let answer = if refused { session::reply::Answer::Refused("sold out".into()) } else { done };
                session::Reply { answer: Some(answer) }
            });
            let replies = session::Replies { batch: calls.batch, replies: replies.collect() };
            if up.send(send(session::open_request::Message::Replies(replies))).await.is_err() {
                return;
            }
        }
    });
    ready.await.expect("it registers");
}

/// Submits a transaction of one branch under the key `service/action`, and tells its xid.
async fn submit(address: &str, service: &str, action: &str, wait: pb::Wait, deadline_ms: u32) -> String {
    let branch = pb::Branch {
        service: service.into(),
        action: action.into(),
        business_key: format!("item/{action}"),
        ..pb::Branch::default()
    };
    let transaction = pb::Transaction {
        mode: pb::Mode::Tcc as i32,
        branches: vec![branch],
        deadline_ms,
        labels: [("for".to_owned(), action.to_owned())].into(),
        idempotency_key: format!("{service}/{action}"),
    };
    let request = pb::SubmitRequest { transaction: Some(transaction), wait: wait as i32 };
    let mut client = CoordinatorClient::connect(address.to_owned()).await.expect("it listens");
    let response = client.submit(request).await.expect("it is accepted").into_inner();
    show::xid(&response.transaction.expect("it answers").xid)
}

/// Begins a transaction with one branch, whose try is the caller's own work.
async fn begin(address: &str, service: &str) {
    let mut client = CoordinatorClient::connect(address.to_owned()).await.expect("it listens");
    let request = pb::BeginRequest { mode: pb::Mode::Tcc as i32, deadline_ms: 60_000, ..pb::BeginRequest::default() };
    let begun = client.begin(request).await.expect("it is accepted").into_inner();
    let branch = pb::Branch { service: service.into(), action: "act".into(), ..pb::Branch::default() };
    let request = pb::AddBranchRequest { xid: begun.xid, branch: Some(branch), ..pb::AddBranchRequest::default() };
    client.add_branch(request).await.expect("it is added");
}

/// Runs a command line; what it wrote, and its exit code as the system sees it.
async fn tercet(address: &str, arguments: &str) -> (String, u8) {
    let all = ["tercet", "--admin", address].into_iter().chain(arguments.split_whitespace());
    let cli = Cli::try_parse_from(all).expect("good arguments");
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, cli.common.json, false, SystemClock::start());
    let Command::Ask(ask) = cli.command else { panic!("{arguments} asks nobody") };
    let result = run(ask, &cli.common, &mut screen).await;
    let (code, error) = match result {
        Ok(code) => (code, String::new()),
        Err(error) => (error.exit_code(), error.to_string()),
    };
    let text = String::from_utf8(out).expect("it is text") + &error;
    (text, (0..6).find(|number| code == ExitCode::from(*number)).expect("a documented code"))
}

async fn json(address: &str, arguments: &str) -> Value {
    let (text, _) = tercet(address, &format!("{arguments} --json")).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The outcome of a check by its name.
fn outcome(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().expect("it has checks");
    let check = checks.iter().find(|check| check["name"] == name).expect("it is checked");
    check["outcome"].as_str().expect("it is text").to_owned()
}

#[tokio::test]
async fn transactions_are_shown_listed_and_followed() {
    let Place { url, admin } = coordinator().await;
    stock(&url).await;
    let confirmed = submit(&url, "stock", "yes", pb::Wait::Ended, 0).await;
    let refused = submit(&url, "stock", "no", pb::Wait::Ended, 0).await;
    let waiting = submit(&url, "absent", "wait", pb::Wait::Accepted, 0).await;

    let (text, code) = tercet(&admin, &format!("tx get {refused}")).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\n  status    cancelled\n  why       stock refused: sold out\n"), "{text}");
    let found = json(&admin, "tx get --key stock/yes").await;
    assert_eq!((&found["xid"], &found["status"]), (&confirmed.clone().into(), &"confirmed".into()));
    assert_eq!(found["branches"][0]["result_hex"], "6f6b");

    let listed = async |filter: &str| {
        let page = json(&admin, &format!("tx list {filter}")).await;
        let xids = page["transactions"].as_array().expect("a list").iter();
        xids.map(|transaction| transaction["xid"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [&*waiting, &*refused, &*confirmed]);
    assert_eq!(listed("--status cancelled").await, [&*refused]);
    assert_eq!(listed("--unfinished").await, [&*waiting]);
    assert_eq!(listed("--label for=yes").await, [&*confirmed]);
    assert_eq!(listed("--business-key item/no").await, [&*refused]);
    assert_eq!(listed(&format!("--before {refused}")).await, [&*confirmed]);
    assert_eq!(json(&admin, "tx list --limit 1").await["next"], *waiting);
    let (text, _) = tercet(&admin, "tx list --limit 2").await;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("XID                                   MODE  STATUS     AGE "), "{text}");
    assert!(lines[2].starts_with(&format!("{refused}  tcc   cancelled  ")), "{text}");
    assert_eq!(lines.last(), Some(&&*format!("Older ones: --before {refused}")));

    let (text, code) = tercet(&admin, &format!("tx watch {confirmed}")).await;
    assert!(text.ends_with("  confirmed   1/1\n") && text.lines().count() == 1 && code == 0, "{text}");
}

#[tokio::test]
async fn a_watch_ends_with_the_transaction() {
    let Place { url, admin } = coordinator().await;
    let waiting = submit(&url, "absent", "wait", pb::Wait::Accepted, 200).await;
    let watch = format!("tx watch {waiting} --json");
    let watched = tokio::time::timeout(Duration::from_secs(20), tercet(&admin, &watch)).await;
    let (text, code) = watched.expect("it ends");
    let changes: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!((&changes[0]["status"], code), (&"trying".into(), 0), "{text}");
    let last = changes.last().expect("there is one");
    assert_eq!(last["status"], "cancelled", "{text}");
    assert!(last["ended_at"].is_string(), "{text}");
}

#[tokio::test]
async fn doctor_names_who_is_missing_and_counts_what_is_parked() {
    let Place { url, admin } = coordinator().await;
    assert_eq!(tercet(&admin, "doctor").await.1, 0, "{}", tercet(&admin, "doctor").await.0);
    stock(&url).await;
    let parked = submit(&url, "stock", "stuck", pb::Wait::Decided, 0).await;
    submit(&url, "absent", "wait", pb::Wait::Accepted, 0).await;
    begin(&url, "elsewhere").await;
    // Bounded: parking is durable a moment after the decision.
    for _ in 0..200 {
        if json(&admin, "compensation list --status failed").await["compensations"] != Value::Array(vec![]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = json(&admin, "compensation list --status failed --service stock").await;
    let row = &found["compensations"][0];
    assert_eq!((&row["xid"], &row["operation"], &row["status"]), (&parked.into(), &"confirm".into(), &"failed".into()));
    assert_eq!(json(&admin, "compensation list --service other").await["compensations"], Value::Array(vec![]));

    let report = json(&admin, "doctor").await;
    assert_eq!(report["ok"], false);
    let outcomes = ONLINE_OUTCOMES.map(|(name, _)| (name, outcome(&report, name)));
    assert_eq!(outcomes, ONLINE_OUTCOMES.map(|(name, outcome)| (name, outcome.to_owned())), "{report}");
    let (text, code) = tercet(&admin, "doctor").await;
    assert!(text.contains("failed   participants  absent is not connected (1 transaction waits"), "{text}");
    assert!(!text.contains("elsewhere"), "its initiator calls the tries of a begun transaction: {text}");
    assert!(text.contains("1 waiting for a person"), "{text}");
    assert_eq!(code, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let report = json(&admin, &format!("doctor --data {}", folder.path().display())).await;
    assert_eq!((outcome(&report, "folder"), outcome(&report, "port")), ("passed".into(), "skipped".into()));
}

const ONLINE_OUTCOMES: [(&str, &str); 12] = [
    ("address", "passed"),
    ("connection", "passed"),
    ("health", "passed"),
    ("version", "passed"),
    ("clock", "passed"),
    ("room", "passed"),
    ("drain", "passed"),
    ("space", "passed"),
    ("reach", "passed"),
    ("participants", "failed"),
    ("retries", "passed"),
    ("parked", "failed"),
];

#[tokio::test]
async fn participants_are_listed() {
    let Place { url, admin } = coordinator().await;
    assert!(tercet(&admin, "participants").await.0.starts_with("No service is connected"));
    stock(&url).await;
    let (text, _) = tercet(&admin, "participants").await;
    assert!(text.contains("\nstock    healthy  1 ") && text.contains("\nstock    stock-1   7        0"), "{text}");
    let stock = &json(&admin, "participants").await["services"][0];
    assert_eq!((&stock["state"], &stock["instances"][0]["instance"]), (&"healthy".into(), &"stock-1".into()));
}

#[tokio::test]
async fn exit_codes_tell_what_kind_of_failure_it_was() {
    let Place { admin, .. } = coordinator().await;
    let (text, code) = tercet(&admin, "tx get 00010203-0405-0607-0809-0a0b0c0d0e0f").await;
    assert!(text.starts_with("there is no transaction 00010203-") && code == 4, "{text}");
    assert_eq!(tercet(&admin, "tx get --key nobody's").await.1, 4);
    assert_eq!(tercet(&admin, "tx watch 00010203-0405-0607-0809-0a0b0c0d0e0f").await.1, 4);
    assert_eq!(tercet("https://127.0.0.1:1", "participants").await.1, 2);
    let named = Cli::try_parse_from(["tercet", "--admin", &admin, "--as", "x\ny", "drain"]).expect("good arguments");
    let (mut out, Command::Ask(ask)) = (Vec::new(), named.command) else { panic!("it asks") };
    let mut screen = Screen::new(&mut out, false, false, SystemClock::start());
    let refused = run(ask, &named.common, &mut screen).await.expect_err("nobody is called that");
    assert_eq!(refused.exit_code(), ExitCode::from(2), "{refused}");
    assert_eq!(json(&admin, "stats").await["draining"], false);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
    let (text, code) = tercet(&format!("http://{free}"), "tx list").await;
    assert!(text.ends_with("start one with `tercet serve`, or name it with --admin") && code == 3, "{text}");
    let (text, code) = tercet(&format!("http://{free}"), "doctor").await;
    assert!(text.contains("skipped  parked        needs connection") && code == 1, "{text}");
    assert!(Cli::try_parse_from(["tercet", "tx", "get"]).is_err());
    assert!(Cli::try_parse_from(["tercet", "tx", "list", "--limit", "0"]).is_err());
}

#[test]
fn every_failure_has_its_exit_code() {
    let (text, io) = (|| "x".to_owned(), |kind: std::io::ErrorKind| Error::Output(kind.into()));
    let credentials = tercet_secure::client::Credentials::load(&tercet_secure::client::Settings {
        token_file: Some("/nowhere".into()),
        ..Default::default()
    });
    for (error, code) in [
        (io(std::io::ErrorKind::BrokenPipe), 0),
        (io(std::io::ErrorKind::StorageFull), 1),
        (Error::Failed { address: text(), cause: text() }, 1),
        (Error::Denied { address: text(), cause: text() }, 1),
        (Error::Broken(text()), 1),
        (Error::Unread { file: text().into(), cause: text() }, 1),
        (Error::Undrained(1), 1),
        (Error::Unwatched(text()), 1),
        (Error::Some { failed: 1, all: 2 }, 1),
        (Error::Address { address: text(), why: "has no port" }, 2),
        (Error::Operator(text()), 2),
        (credentials.err().expect("there is no such file").into(), 2),
        (Error::Refused(text()), 2),
        (Error::Unreachable { address: text(), cause: text(), hint: "" }, 3),
        (Error::NotFound(text()), 4),
        (Error::NoRow(1), 4),
        (Error::Unfit(text()), 5),
        (Error::Unsure(text()), 5),
    ] {
        assert_eq!(error.exit_code(), ExitCode::from(code), "{error}");
    }
}

/// Waits until something is parked, and tells its row's id.
async fn parked(address: &str) -> u64 {
    // Bounded: parking is durable a moment after the decision.
    for _ in 0..200 {
        let found = json(address, "compensation list --status failed").await;
        if let Some(id) = found["compensations"][0]["id"].as_u64() {
            return id;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing is parked");
}

#[tokio::test]
async fn a_stuck_transaction_is_explained_and_resolved_and_the_log_tells_who_did_it() {
    let Place { url, admin: address } = coordinator().await;
    stock(&url).await;
    let xid = submit(&url, "stock", "stuck", pb::Wait::Decided, 0).await;
    let id = parked(&address).await;
    let (text, code) = tercet(&address, &format!("tx explain {xid}")).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("it said: sold out") && text.contains("Can be done (safe): tercet tx retry"), "{text}");
    assert!(text.contains(&format!("tercet compensation resolve {id} --reason TEXT")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("Next      nothing by itself")), "{text}");

    let remedies = json(&address, &format!("tx explain {xid}")).await["remedies"].take();
    let remedies = remedies.as_array().expect("a list").iter();
    let safe: Vec<_> = remedies.filter(|one| one["safe"] == true).map(|one| one["command"].clone()).collect();
    assert_eq!(safe, ["retry", "resume"].map(|verb| Value::from(format!("tercet tx {verb} {xid} --branch 0"))));
    let (text, code) = tercet(&address, &format!("tx retry {xid} --dry-run")).await;
    assert!(text.starts_with("Would be done; nothing has been changed:\n  branch 0") && code == 0, "{text}");
    assert!(text.contains("  call       confirm of branch 0 (stock/stuck)"), "{text}");
    let (text, code) = tercet(&address, &format!("tx force-cancel {xid} --reason late --yes")).await;
    assert!(text.starts_with("nothing was changed: already decided: it is confirming") && code == 5, "{text}");
    let (text, code) = tercet(&address, &format!("tx force-cancel {xid} --reason late")).await;
    assert!(text.contains(&format!("This cancels {xid}. It can not be taken back: add --yes")) && code == 5, "{text}");
    assert_eq!(tercet(&address, "compensation resolve 99 --reason x --yes").await.1, 4);
    let resolve = format!("compensation resolve {id} --reason booked --yes --as ann");
    let (text, code) = tercet(&address, &resolve).await;
    assert!(text.contains("status     confirming -> confirmed") && code == 0, "{text}");
    assert_eq!(json(&address, &format!("tx get {xid}")).await["status"], "confirmed");

    let log = json(&address, "audit list").await;
    let row = &log["rows"][0];
    assert_eq!((&row["who"], &row["act"], &row["why"]), (&"ann".into(), &"resolve".into(), &"booked".into()));
    assert_eq!(row["after"]["status"], "confirmed");
    let head = log["head"].as_str().expect("it is text");
    let (text, code) = tercet(&address, &format!("audit verify --head {head}")).await;
    assert!(text.starts_with("The log is sound: 1 rows") && code == 0, "{text}");
    let later = head.replace(":1", ":2");
    let (text, code) = tercet(&address, &format!("audit verify --head {later}")).await;
    assert!(text.contains("row 2 is missing") && code == 1, "{text}");
}

#[tokio::test]
async fn numbers_limits_and_draining_are_shown_and_changed() {
    let Place { url, admin: address } = coordinator().await;
    stock(&url).await;
    let (text, code) = tercet(&address, "top --once").await;
    assert!(text.contains("stock    healthy  1 ") && text.contains("(0/s)") && code == 0, "{text}");
    let numbers = json(&address, "stats").await;
    let stock = &numbers["services"][0];
    assert_eq!((&stock["state"], &stock["pending"], &stock["parked"]), (&"healthy".into(), &0.into(), &0.into()));
    assert_eq!(numbers["disk_full"], false);
    let (text, _) = tercet(&address, "limits set live_max 7 --dry-run").await;
    assert!(text.contains("setting    live_max: 200000 -> 7"), "{text}");
    let told = json(&address, "limits set live_max 7 --dry-run").await;
    assert_eq!((&told["dry_run"], &told["difference"]["settings"][0]["after"]), (&true.into(), &"7".into()));
    let told = json(&address, "drain --dry-run").await;
    assert_eq!((&told["dry_run"], &told["live"], told.get("log")), (&true.into(), &0.into(), None));
    assert_eq!(tercet(&address, "limits set live_max 7").await.1, 0);
    assert_eq!(json(&address, "limits list").await[0]["value"], 7);
    assert_eq!(tercet(&address, "limits set nothing 7").await.1, 2);
    let (text, code) = tercet(&address, "drain --wait").await;
    assert!(text.contains("draining: false -> true") && code == 0, "{text}");
    assert!(text.ends_with("Nothing is in memory, and nothing waits in compensation_log\n"), "{text}");
    assert!(tercet(&address, "stats").await.0.contains("DRAINING"));
    let (text, code) = tercet(&address, "doctor").await;
    assert!(text.contains("failed   drain         somebody drains it") && code == 1, "{text}");
    assert_eq!(tercet(&address, "drain").await.1, 5);
    assert_eq!(tercet(&address, "drain --undo").await.1, 0);
    // With something that does not end.
    submit(&url, "nobody", "wait", pb::Wait::Accepted, 60_000).await;
    let undone = async {
        while !tercet(&address, "stats").await.0.contains("DRAINING") {}
        tercet(&address, "drain --undo").await
    };
    let ((text, code), _) = tokio::join!(tercet(&address, "drain --wait"), undone);
    assert!(text.contains("no longer drains") && code == 1, "{text}");
}

#[test]
fn every_shell_gets_its_completions() {
    use clap::ValueEnum as _;
    for shell in clap_complete::Shell::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "tercet", &mut script);
        assert!(String::from_utf8(script).expect("it is text").contains("force-cancel"), "{shell}");
    }
}
