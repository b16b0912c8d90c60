//! The ports of every program: with TLS they speak nothing else, and without it they are for this machine alone.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tercet_integration::platform::Platform;
use tercet_integration::processes::{Process, Spec, free_address};
use tercet_secure::client::{Credentials, Settings};
use tercet_secure::fetch::Fetch;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::authority::{Authority, write};

/// For a program to start, or to give up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program, and the flags of its ports.
struct Program {
    spec: Spec,
    /// Where it takes calls.
    calls: Vec<(&'static str, SocketAddr)>,
    /// Where it shows pages, and one of them.
    pages: Vec<(&'static str, &'static str, SocketAddr)>,
}

fn port() -> SocketAddr {
    free_address().expect("there is one")
}

/// Those that are served apart, each with all its ports on loopback. Other services have them from the same place as
/// stock.
fn programs(folder: &Path) -> [Program; 3] {
    let spec = |name: &str, program: &str| Spec::new(name, program, "tercet-*", folder).expect("it is built");
    let file = |name: &str| folder.join(name).display().to_string();
    let jwks = file("jwks.json");
    std::fs::write(&jwks, tercet_gateway::token::new_keys("first").expect("there is chance"))
        .expect("it can be written");
    let coordinator = spec("coordinator", "tercet").word("serve").with("--data", file("coordinator"));
    let stock = spec("stock", "tercet-stock").with("--database", format!("sqlite://{}", file("stock.db")));
    let gateway = spec("gateway", "tercet-gateway").word("serve").with("--jwks", jwks);
    [
        Program {
            spec: coordinator,
            calls: vec![("--listen", port()), ("--admin-listen", port())],
            pages: vec![("--metrics", "/metrics", port())],
        },
        Program {
            spec: stock.with("--coordinator", format!("http://{}", port())),
            calls: vec![("--listen", port())],
            pages: vec![("--metrics", "/metrics", port())],
        },
        Program {
            spec: gateway,
            calls: Vec::new(),
            pages: vec![("--listen", "/health", port()), ("--metrics", "/metrics", port())],
        },
    ]
    .map(|program| {
        let pages = program.pages.iter().map(|(flag, _, at)| (*flag, *at));
        let ports: Vec<_> = program.calls.iter().copied().chain(pages).collect();
        let spec = ports.iter().fold(program.spec, |spec, (flag, at)| spec.with(flag, at.to_string()));
        Program { spec, ..program }
    })
}

/// Waits until it does.
async fn listens(process: &mut Process, at: SocketAddr) {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(at).await.is_err() {
        process.check().expect("it goes on");
        assert!(Instant::now() < until, "{} does not listen at {at}", process.name());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether it answers a call.
async fn answers(url: &str, settings: &Settings) -> bool {
    let credentials = Credentials::load(settings).expect("the files are sound");
    let target = credentials.target(url).expect("it is an address");
    let asked = async {
        let channel = target.connect().await.ok()?;
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.ok()
    };
    timeout(PATIENCE, asked).await.expect("an end in time").is_some()
}

/// Whether it shows a page.
async fn shows(url: &str, ca: Option<&Path>) -> bool {
    let fetch = Fetch::new(url, ca).expect("it is an address");
    timeout(PATIENCE, fetch.get(1 << 20)).await.expect("an end in time").is_ok()
}

#[tokio::test]
async fn with_tls_every_port_speaks_nothing_else_and_asks_for_certificates_where_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let authority = Authority::new();
    let ca = write(path, "ca.pem", &authority.certificate);
    let ((cert, key), (client_cert, client_key)) =
        (authority.issue(path, "server", false), authority.issue(path, "client", false));
    let nobody = Settings { ca: Some(ca.clone()), ..Settings::default() };
    let known = Settings { client_cert: Some(client_cert), client_key: Some(client_key), ..nobody.clone() };
    for is_mutual in [false, true] {
        for Program { spec, calls, pages } in programs(path) {
            let spec = spec.with("--tls-cert", &cert).with("--tls-key", &key);
            let spec = if is_mutual { spec.with("--tls-client-ca", &ca) } else { spec };
            let mut process = spec.start().expect("it starts");
            for at in calls.iter().map(|(_, at)| at).chain(pages.iter().map(|(_, _, at)| at)) {
                listens(&mut process, *at).await;
            }
            for (flag, at) in &calls {
                let what = format!("{} {flag}, mutual: {is_mutual}", spec.name);
                let url = format!("https://{at}");
                assert!(!answers(&format!("http://{at}"), &Settings::default()).await, "{what}: without TLS");
                assert_eq!(answers(&url, &nobody).await, !is_mutual, "{what}: without a certificate");
                assert!(answers(&url, &known).await, "{what}: with one");
            }
            for (flag, page, at) in &pages {
                let what = format!("{} {flag}, mutual: {is_mutual}", spec.name);
                assert!(!shows(&format!("http://{at}{page}"), None).await, "{what}: without TLS");
                assert_eq!(shows(&format!("https://{at}{page}"), Some(&ca)).await, !is_mutual, "{what}: with TLS");
            }
        }
    }
}

/// The same program with one of its ports at this address.
fn elsewhere(mut spec: Spec, flag: &str, address: &str) -> Spec {
    let place = spec.arguments.iter().position(|argument| argument == flag).expect("it is given");
    spec.arguments[place + 1] = address.into();
    spec
}

/// What it says, and ends; nothing when it goes on.
async fn says(spec: &Spec) -> String {
    let mut command = tokio::process::Command::new(&spec.program);
    command.args(&spec.arguments).kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await.map(|output| output.expect("it starts"));
    ended.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn without_tls_no_port_is_for_more_than_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cases: Vec<_> = programs(folder.path())
        .into_iter()
        .flat_map(|Program { spec, calls, pages }| {
            let flags = calls.iter().map(|(flag, _)| *flag).chain(pages.iter().map(|(flag, _, _)| *flag));
            flags.map(|flag| (spec.clone(), flag)).collect::<Vec<_>>()
        })
        .collect();
    let own = cases.len();
    let (embedded, _) = Platform::spec(&folder.path().join("platform")).expect("it is built");
    let flags = ["--coordinator", "--admin", "--gateway", "--metrics", "--stock"];
    cases.extend(flags.map(|flag| (embedded.clone(), flag)));
    for (at, (spec, flag)) in cases.into_iter().enumerate() {
        let address = format!("0.0.0.0:{}", port().port());
        let spec = elsewhere(spec, flag, &address);
        let said = says(&spec).await;
        let refusal = if at < own {
            format!("{address} is not loopback: give --tls-cert and --tls-key, or allow it with")
        } else {
            // It has no such flags.
            format!("{flag} {address} is not loopback, and this program is for whoever is on this machine")
        };
        assert!(said.contains(&refusal), "{} {flag}: {said}", spec.name);
    }
}

/// Their routes know callers by their certificates, and by nothing else.
#[tokio::test]
async fn what_services_do_they_do_for_everybody_only_where_that_is_allowed_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let (cert, key) = Authority::new().issue(path, "server", false);
    let [_, Program { spec, .. }, _] = programs(path);
    let address = SocketAddr::from(([0, 0, 0, 0], port().port()));
    let spec = elsewhere(spec, "--listen", &address.to_string()).with("--tls-cert", cert).with("--tls-key", key);
    let said = says(&spec).await;
    let refusal = format!("{address} is not loopback: give --tls-client-ca, or allow it with --insecure-any-caller");
    assert!(said.contains(&refusal), "{said}");
    let mut process = spec.word("--insecure-any-caller").start().expect("it starts");
    listens(&mut process, SocketAddr::from(([127, 0, 0, 1], address.port()))).await;
}
