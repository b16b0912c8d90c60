//! Who is let in, and who is not: TLS, client certificates, tokens, and what they may do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use tempfile::TempDir;
use tercet::client::{Client, Options, Outcome, Wait};
use tercet_coordinator::config::Config;
use tercet_proto::admin::v1 as admin;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tercet_proto::participant::v1 as session;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tercet_secure::client::{Credentials, Settings};
use tercet_secure::token::{hash, hex, random};
use tonic::codegen::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::party::{Party, agrees};
use super::world::{Coordinator, in_time, until};
use crate::authority::{Authority, write};

/// A coordinator with mutual TLS, and what its clients need.
struct Secured {
    coordinator: Coordinator,
    authority: Authority,
    folder: TempDir,
}

impl Secured {
    async fn start(change: impl FnOnce(&Path, &mut Config)) -> Self {
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new());
        let (cert, key) = authority.issue(folder.path(), "server", false);
        let ca = write(folder.path(), "ca.pem", &authority.certificate);
        let coordinator = Coordinator::with(|config| {
            config.security.tls_cert = Some(cert);
            config.security.tls_key = Some(key);
            config.security.tls_client_ca = Some(ca);
            change(folder.path(), config);
        });
        Self { coordinator: coordinator.await, authority, folder }
    }

    fn urls(&self) -> [String; 2] {
        [self.coordinator.url(), self.coordinator.admin_url()].map(|url| url.replace("http", "https"))
    }

    /// A client that trusts this authority and shows a certificate of that one.
    fn client(&self, trusted: &Authority, own: Option<(&Authority, bool)>) -> Settings {
        let name = hex(&random::<8>().expect("random bytes"));
        let ca = Some(write(self.folder.path(), &format!("{name}.ca"), &trusted.certificate));
        let own = own.map(|(signer, expired)| signer.issue(self.folder.path(), &name, expired));
        let (client_cert, client_key) = own.unzip();
        Settings { ca, client_cert, client_key, ..Settings::default() }
    }

    fn trusted(&self) -> Settings {
        self.client(&self.authority, Some((&self.authority, false)))
    }
}

async fn channel(url: &str, settings: &Settings) -> Result<(Channel, Credentials), String> {
    let credentials = Credentials::load(settings).map_err(|error| error.to_string())?;
    let target = credentials.target(url).map_err(|error| error.to_string())?;
    let channel = in_time("a connection", target.connect()).await.map_err(|error| format!("{error:?}"))?;
    Ok((channel, credentials))
}

async fn healthy(channel: Channel) -> Result<(), String> {
    let answer = in_time("an answer", HealthClient::new(channel).check(HealthCheckRequest::default())).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

/// Whether a client is let in at all.
async fn enters(url: &str, settings: &Settings) -> Result<(), String> {
    healthy(channel(url, settings).await?.0).await
}

#[tokio::test]
async fn only_who_is_trusted_gets_through_to_either_port() {
    let secured = Secured::start(|_, _| {}).await;
    let (own, other) = (&secured.authority, Authority::new());
    for url in secured.urls() {
        assert_eq!(enters(&url, &secured.trusted()).await, Ok(()));
        enters(&url, &secured.client(own, None)).await.expect_err("it shows no certificate");
        enters(&url, &secured.client(own, Some((&other, false)))).await.expect_err("another has signed it");
        enters(&url, &secured.client(own, Some((own, true)))).await.expect_err("it has expired");
        let wrong = enters(&url, &secured.client(&other, Some((own, false)))).await.expect_err("it trusts another");
        assert!(wrong.contains("InvalidCertificate"), "{wrong}");
        enters(&url.replace("https", "http"), &Settings::default()).await.expect_err("it speaks no TLS");
    }
}

#[tokio::test]
async fn an_expired_certificate_of_the_coordinator_is_refused() {
    let secured = Secured::start(|_, _| {}).await;
    let trusted = secured.trusted();
    secured.authority.issue(secured.folder.path(), "server", true);
    let expired = until("the expired certificate", async || enters(&secured.urls()[0], &trusted).await.err()).await;
    assert!(expired.contains("Expired"), "{expired}");
}

#[tokio::test]
async fn a_certificate_is_good_for_its_own_names_alone() {
    let secured = Secured::start(|_, _| {}).await;
    let url = &secured.urls()[0];
    let expecting = |name: &str| Settings { server_name: Some(name.into()), ..secured.trusted() };
    let wrong = enters(url, &expecting("elsewhere.example")).await.expect_err("it is this machine's");
    assert!(wrong.contains("NotValidForName"), "{wrong}");
    assert_eq!(enters(url, &expecting("localhost")).await, Ok(()));
    secured.authority.issue_for(&["elsewhere.example"], secured.folder.path(), "server", false);
    let trusted = secured.trusted();
    let wrong = until("the other certificate", async || enters(url, &trusted).await.err()).await;
    assert!(wrong.contains("NotValidForName"), "{wrong}");
    assert_eq!(enters(url, &expecting("elsewhere.example")).await, Ok(()));
}

#[tokio::test]
async fn certificates_are_read_again_while_old_connections_go_on() {
    let secured = Secured::start(|_, _| {}).await;
    let url = &secured.urls()[0];
    let (old, _credentials) = channel(url, &secured.trusted()).await.expect("it is trusted");
    healthy(old.clone()).await.expect("it is let in");
    let other = Authority::new();
    let renewed = secured.client(&other, Some((&other, false)));
    enters(url, &renewed).await.expect_err("neither side trusts the other yet");
    // One file after another, as people and programs do it.
    other.issue(secured.folder.path(), "server", false);
    write(secured.folder.path(), "ca.pem", &other.certificate);
    until("the new certificates", async || enters(url, &renewed).await.ok()).await;
    healthy(old).await.expect("it was let in before");
    enters(url, &secured.trusted()).await.expect_err("its time is over");
}

#[tokio::test]
async fn a_client_reads_its_certificates_and_its_secret_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (token(folder.path(), "first", "initiator"), token(folder.path(), "second", "initiator"));
    let tokens = write(folder.path(), "tokens", &first.1);
    let secured = Secured::start(|_, config| config.tokens = Some(tokens)).await;
    let settings = Settings { token_file: first.0.token_file, ..secured.trusted() };
    let credentials = Credentials::load(&settings).expect("they are sound");
    let target = credentials.target(&secured.urls()[0]).expect("it is an address");
    let told = async || {
        let channel = target.connect().await.ok()?;
        Some(ask(InterceptedService::new(channel, credentials.clone())).await)
    };
    assert_eq!(told().await, Some(Code::NotFound));

    let other = Authority::new();
    other.issue(secured.folder.path(), "server", false);
    write(secured.folder.path(), "ca.pem", &other.certificate);
    write(folder.path(), "tokens", &second.1);
    until("a refusal", async || (told().await != Some(Code::NotFound)).then_some(())).await;
    // Under the names that the client was given when it started.
    let (certificate, key) = other.issue(secured.folder.path(), "renewed", false);
    let copied = |from: Option<PathBuf>, to: &Option<PathBuf>| {
        std::fs::copy(from.expect("it was given"), to.as_ref().expect("it was given")).expect("it can be written");
    };
    copied(Some(certificate), &settings.client_cert);
    copied(Some(key), &settings.client_key);
    std::fs::write(settings.ca.as_ref().expect("it was given"), &other.certificate).expect("it can be written");
    copied(second.0.token_file, &settings.token_file);
    until("the new files", async || told().await.filter(|told| *told == Code::NotFound)).await;
}

/// A secret in a file of its own, and the line that lets it in.
fn token(folder: &Path, name: &str, role: &str) -> (Settings, String) {
    let [bearer, key] = [random::<32>(), random::<32>()].map(|bytes| hex(&bytes.expect("random bytes")));
    let secret = if role.starts_with("participant") { format!("{bearer}.{key}") } else { bearer.clone() };
    let token_file = Some(write(folder, &format!("{name}.secret"), &secret));
    let key = if role.starts_with("participant") { format!(" {key}") } else { String::new() };
    let line = format!("{name} {role} {}{key}\n", hex(&hash(&bearer)));
    (Settings { token_file, ..Settings::default() }, line)
}

type Authorized = InterceptedService<Channel, Credentials>;

async fn authorized(url: &str, settings: &Settings) -> Authorized {
    let (channel, credentials) = channel(url, settings).await.expect("it answers");
    InterceptedService::new(channel, credentials)
}

/// A call of an initiator.
async fn initiates(coordinator: &Coordinator, settings: &Settings) -> Code {
    ask(authorized(&coordinator.url(), settings).await).await
}

/// What whoever asks for a transaction that there is not is told.
async fn ask(initiator: Authorized) -> Code {
    let mut client = CoordinatorClient::new(initiator);
    let key = Some(pb::get_request::Key::IdempotencyKey("nobody's".into()));
    client.get(pb::GetRequest { key }).await.expect_err("there is none").code()
}

/// What a call of this method on the admin port is told.
async fn operates(coordinator: &Coordinator, settings: &Settings, method: &str) -> Code {
    let mut grpc = tonic::client::Grpc::new(authorized(&coordinator.admin_url(), settings).await);
    grpc.ready().await.expect("it takes calls");
    let path = format!("/tercet.admin.v1.Admin/{method}").parse().expect("it is a path");
    let codec = tonic_prost::ProstCodec::<admin::GetStatisticsRequest, admin::GetStatisticsResponse>::default();
    let answer = grpc.unary(tonic::Request::new(admin::GetStatisticsRequest::default()), path, codec).await;
    answer.map_or_else(|status: Status| status.code(), |_| Code::Ok)
}

async fn registers(coordinator: &Coordinator, settings: &Settings, service: &str) -> Result<(), Status> {
    let mut client = SessionsClient::new(authorized(&coordinator.url(), settings).await);
    let register = session::Register {
        service: service.into(),
        actions: vec![session::Action { name: "act".into(), operations: vec![1, 2, 3] }],
        fence_id: vec![7; 16].into(),
        ..Default::default()
    };
    let first = session::OpenRequest { message: Some(Up::Register(register)) };
    let mut down = client.open(tokio_stream::once(first)).await?.into_inner();
    down.message().await.map(drop)
}

/// The methods of the admin port by what they need: view, operate, force.
const METHODS: [&[&str]; 3] = [
    &[
        "Explain",
        "GetStatistics",
        "GetTransaction",
        "ListAudit",
        "ListCompensations",
        "ListLimits",
        "ListParticipants",
        "ListTransactions",
        "WatchTransaction",
    ],
    &["Drain", "Park", "Resume", "Retry", "RetryCompensations", "SetLimit", "SetRetryPolicy"],
    &["ForceCancel", "ForceConfirm", "ResolveCompensation", "WhateverComesNext"],
];

#[test]
fn what_each_method_of_the_admin_port_needs_is_written_down() {
    let set = prost_types::FileDescriptorSet::decode(tercet_proto::DESCRIPTORS).expect("the build made it");
    let services = set.file.iter().flat_map(|file| &file.service).filter(|service| service.name() == "Admin");
    let there: BTreeSet<&str> =
        services.flat_map(|service| service.method.iter().map(|method| method.name())).collect();
    let mut written: BTreeSet<&str> = METHODS.into_iter().flatten().copied().collect();
    assert!(written.remove("WhateverComesNext") && !there.is_empty());
    assert_eq!(there, written);
}

#[tokio::test]
async fn an_operator_is_called_what_its_token_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ann, line) = token(folder.path(), "ann", "operator operate");
    let tokens = write(folder.path(), "tokens", &line);
    let coordinator = Coordinator::with(|config| config.tokens = Some(tokens)).await;
    let mut client = AdminClient::new(authorized(&coordinator.admin_url(), &ann).await);
    let change = Some(admin::Change { reason: "a new disk".into(), dry_run: false });
    let mut drain = tonic::Request::new(admin::DrainRequest { undo: false, change });
    drain.metadata_mut().insert("x-tercet-operator", "eve".parse().expect("it is a name"));
    client.drain(drain).await.expect("it may");
    let rows = client.list_audit(admin::ListAuditRequest::default()).await.expect("it may").into_inner().rows;
    assert_eq!(rows.iter().map(|row| (row.who.as_str(), row.act.as_str())).collect::<Vec<_>>(), [("ann", "drain")]);
}

#[tokio::test]
async fn each_token_opens_its_own_doors_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let roles = ["initiator", "participant shop,depot", "operator view", "operator operate", "operator force"];
    let names = ["initiator", "participant", "view", "operate", "force"];
    let made: Vec<_> = names.iter().zip(roles).map(|(name, role)| token(folder.path(), name, role)).collect();
    let lines: String = made.iter().map(|(_, line)| line.as_str()).collect();
    let tokens = write(folder.path(), "tokens", &lines);
    let coordinator = Coordinator::with(|config| config.tokens = Some(tokens.clone())).await;
    let [initiator, participant, view, operate, force] = [0, 1, 2, 3, 4].map(|at: usize| &made[at].0);
    let (none, (wrong, late)) = (Settings::default(), token(folder.path(), "late", "initiator"));

    assert_eq!(initiates(&coordinator, initiator).await, Code::NotFound);
    for stranger in [&none, &wrong] {
        assert_eq!(initiates(&coordinator, stranger).await, Code::Unauthenticated);
        assert_eq!(operates(&coordinator, stranger, "GetStatistics").await, Code::Unauthenticated);
        let refused = registers(&coordinator, stranger, "shop").await.expect_err("it has no token");
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    for other in [participant, view, force] {
        assert_eq!(initiates(&coordinator, other).await, Code::PermissionDenied);
    }
    assert_eq!(registers(&coordinator, participant, "depot").await.map_err(|status| status.code()), Ok(()));
    for (other, service) in [(initiator, "shop"), (force, "shop"), (participant, "bakery")] {
        let refused = registers(&coordinator, other, service).await.expect_err("it is not for that");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains(if service == "bakery" { service } else { "participant" }), "{refused:?}");
    }
    for other in [initiator, participant] {
        for method in ["GetStatistics", "Retry", "ForceConfirm"] {
            assert_eq!(operates(&coordinator, other, method).await, Code::PermissionDenied, "{method}");
        }
    }
    for (level, operator) in [view, operate, force].into_iter().enumerate() {
        for (needed, methods) in METHODS.iter().enumerate() {
            for method in *methods {
                let refused = operates(&coordinator, operator, method).await == Code::PermissionDenied;
                assert_eq!(refused, level < needed, "{method} by level {level}");
            }
        }
    }

    // Read again: who is added comes in, who is taken out does not.
    write(folder.path(), "tokens", &late);
    until("the new token", async || (initiates(&coordinator, &wrong).await == Code::NotFound).then_some(())).await;
    assert_eq!(initiates(&coordinator, initiator).await, Code::Unauthenticated);
    write(folder.path(), "tokens", "nonsense\n");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    assert_eq!(initiates(&coordinator, &wrong).await, Code::NotFound, "a file that can not be read changes nothing");
}

#[tokio::test]
async fn all_of_it_together_confirms_a_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let (participant, stock) = token(folder.path(), "shop", "participant shop");
    let (initiator, shop) = token(folder.path(), "buyer", "initiator");
    let tokens = write(folder.path(), "tokens", &(stock + &shop));
    let secured = Secured::start(|_, config| config.tokens = Some(tokens)).await;
    let [url, _] = secured.urls();
    let with = |token: Settings| Settings { token_file: token.token_file, ..secured.trusted() };
    let party = Party::away("shop", agrees).await;
    let service = party.service(url.clone()).security(with(participant));
    let running = tokio::spawn(service.run(std::future::pending()));
    let options = Options { security: with(initiator), ..Options::default() };
    let client = Client::connect([&url], options).expect("it is an address");
    let action: tercet::action::Action<tercet::action::Tcc, tercet::action::Json<i64>> =
        tercet::action::Action::tcc("shop", "act");
    for at in 0..20 {
        let mut plan = tercet::plan::tcc();
        plan.branch(action.with(&tercet::action::Json(at)).expect("it is a number"));
        let plan = plan.build().expect("it is within the limits");
        let view = if at % 2 == 0 {
            client.submit(plan, Wait::Ended).await
        } else {
            client.batching().submit(plan, Wait::Ended).await
        };
        assert_eq!(view.expect("it is let in").outcome(), Some(Outcome::Confirmed));
    }
    running.abort();
}

#[tokio::test]
async fn what_is_not_loopback_starts_only_secured_or_allowed_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let anywhere = "0.0.0.0:0".parse().expect("it is an address");
    let tell = async |change: &dyn Fn(&mut Config)| {
        let mut config = Coordinator::config(folder.path());
        change(&mut config);
        let (ready, _started) = tokio::sync::oneshot::channel();
        let run = Box::pin(tercet_coordinator::run(config, ready, std::future::ready(())));
        in_time("the end", run).await.err().map_or_else(String::new, |error| error.to_string())
    };
    let plain = "0.0.0.0:0 is not loopback: give --tls-cert and --tls-key, or allow it with --insecure-plaintext";
    assert_eq!(tell(&|config| config.listen = anywhere).await, format!("listen: {plain}"));
    assert_eq!(tell(&|config| config.admin_listen = anywhere).await, format!("admin_listen: {plain}"));
    assert_eq!(tell(&|config| config.metrics = Some(anywhere)).await, format!("metrics: {plain}"));
    let plaintext = |config: &mut Config| {
        config.listen = anywhere;
        config.security.insecure_plaintext = true;
    };
    let open = tell(&plaintext).await;
    assert_eq!(open, "listen: 0.0.0.0:0 is not loopback: give --tokens, or allow it with --insecure-no-tokens");
    let plaintext = |config: &mut Config| {
        config.admin_listen = anywhere;
        config.security.insecure_plaintext = true;
    };
    let open = tell(&plaintext).await;
    assert_eq!(open, "admin_listen: 0.0.0.0:0 is not loopback: give --tokens, or allow it with --insecure-no-tokens");
    assert_eq!(tell(&|_| {}).await, "");
    assert_eq!(tell(&|config| config.security.tls_cert = Some("a.pem".into())).await, "tls_cert: needs tls_key too");
    let missing = tell(&|config| config.tokens = Some("/nowhere/tokens".into())).await;
    assert_eq!(missing, "tokens: can not read /nowhere/tokens");

    let service = Party::away("shop", agrees).await.service("http://127.0.0.1:1".into()).listen(anywhere);
    let refused = service.run(std::future::pending()).await.expect_err("it is everyone's");
    assert_eq!(refused.to_string(), format!("listen: {plain}"));
}
