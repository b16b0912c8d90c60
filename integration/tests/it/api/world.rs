//! A coordinator on a thread of its own that a test can stop, kill and start again, and short ways to talk to it.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use tercet_coordinator::Error;
use tercet_coordinator::config::{Config, LogFormat};
use tercet_proto::admin::v1 as admin;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tercet_secure::server;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// No test waits longer for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, and says what it waited for when it does not.
pub(super) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The future's value, which has to come in time.
pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

/// A coordinator with its folder, started or not.
pub(super) struct Coordinator {
    config: Config,
    running: Option<Running>,
    /// Of those that stopped: what they leave behind on their threads would show.
    stopped: Vec<Runtime>,
    _folder: TempDir,
}

impl Coordinator {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// How one is started with its data here.
    pub(super) fn config(folder: &std::path::Path) -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            security: server::Settings::default(),
            tokens: None,
            insecure_no_tokens: false,
            metrics: None,
            data: folder.to_owned(),
            node: 0,
            live_max: 200_000,
            scanner_cron: "* * * * * *".into(),
            retention_seconds: 3_600,
            disk_reserve_mib: 0,
            retention_max: 1_000_000,
            stop_grace_ms: 5_000,
            log: LogFormat::Text,
            log_filter: "info".into(),
        }
    }

    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut config = Self::config(folder.path());
        change(&mut config);
        let mut coordinator = Self { config, running: None, stopped: Vec::new(), _folder: folder };
        coordinator.start_again().await;
        coordinator
    }

    /// Starts it on the file and the ports that it had.
    pub(super) async fn start_again(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let ((ready, is_ready), (stop, stopped)) = (oneshot::channel(), oneshot::channel());
        let (end, ended) = oneshot::channel();
        let config = self.config.clone();
        runtime.spawn(async move {
            let shutdown = async { drop(stopped.await) };
            drop(end.send(tercet_coordinator::run(config, ready, shutdown).await));
        });
        self.running = Some(Running { runtime, stop, ended });
        let addresses = in_time("the coordinator's start", is_ready).await.expect("it starts");
        (self.config.listen, self.config.admin_listen) = (addresses.listen, addresses.admin);
    }

    /// Ends it as a SIGKILL would: between any two of its steps, without a word to anyone.
    pub(super) async fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        let gone = tokio::task::spawn_blocking(move || running.runtime.shutdown_timeout(PATIENCE));
        gone.await.expect("a runtime ends");
    }

    /// Begins to stop it; what comes back ends when it has stopped.
    pub(super) fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        let Running { runtime, stop, ended } = self.running.take().expect("it runs");
        stop.send(()).expect("it runs");
        self.stopped.push(runtime);
        async move {
            in_time("the coordinator's stop", ended).await.expect("it ends by itself").expect("it ends well");
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.config.listen)
    }

    /// The file of its store.
    pub(super) fn file(&self) -> std::path::PathBuf {
        self.config.data.join("tercet.db")
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).expect("it is a URL").connect_lazy()
    }

    pub(super) fn client(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel())
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.config.admin_listen)
    }

    pub(super) fn raw(&self) -> Channel {
        self.channel()
    }

    pub(super) fn raw_admin(&self) -> Channel {
        Endpoint::from_shared(self.admin_url()).expect("it is a URL").connect_lazy()
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.raw_admin())
    }

    pub(super) fn sdk(&self) -> tercet::client::Client {
        let options = tercet::client::Options::default();
        tercet::client::Client::connect([self.url()], options).expect("it is an address")
    }

    pub(super) async fn submit(
        &self,
        transaction: pb::Transaction,
        wait: pb::Wait,
    ) -> Result<pb::TransactionView, Status> {
        submit(&mut self.client(), transaction, wait).await
    }

    pub(super) async fn get(&self, xid: &[u8]) -> Result<pb::TransactionView, Status> {
        let key = Some(pb::get_request::Key::Xid(xid.to_vec().into()));
        let answer = self.client().get(pb::GetRequest { key }).await?;
        Ok(answer.into_inner().transaction.expect("an answer has a transaction"))
    }

    /// Waits until the transaction has this status and says how it looks then.
    pub(super) async fn reaches(&self, xid: &[u8], status: pb::Status) -> pb::TransactionView {
        until(&format!("a transaction that is {status:?}"), async || {
            let view = self.get(xid).await.expect("it is there");
            (view.status() == status).then_some(view)
        })
        .await
    }

    pub(super) async fn compensations(&self) -> Vec<admin::Compensation> {
        let answer = self.admin().list_compensations(admin::ListCompensationsRequest::default()).await;
        answer.expect("it lists").into_inner().compensations
    }

    pub(super) async fn statistics(&self) -> admin::GetStatisticsResponse {
        self.admin().get_statistics(admin::GetStatisticsRequest::default()).await.expect("it tells").into_inner()
    }

    /// How many transactions the store holds; at most 1,000 are counted.
    pub(super) async fn count(&self) -> usize {
        let request = admin::ListTransactionsRequest { limit: 1_000, ..Default::default() };
        self.admin().list_transactions(request).await.expect("it lists").into_inner().transactions.len()
    }

    /// Waits until every transaction has ended.
    pub(super) async fn all_end(&self) {
        until("every end", async || {
            let request = admin::ListTransactionsRequest { unfinished: true, limit: 1, ..Default::default() };
            let left = self.admin().list_transactions(request).await.expect("it lists").into_inner().transactions;
            left.is_empty().then_some(())
        })
        .await;
    }

    /// Waits until so many instances of a service are connected.
    pub(super) async fn connected(&self, service: &str, instances: usize) {
        until(&format!("{instances} instances of {service}"), async || {
            let participants = self.statistics().await.participants;
            let found = participants.iter().filter(|one| one.service == service).count();
            (found == instances).then_some(())
        })
        .await;
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let running = self.running.take().map(|running| running.runtime);
        self.stopped.drain(..).chain(running).for_each(Runtime::shutdown_background);
    }
}

pub(super) async fn submit(
    client: &mut CoordinatorClient<Channel>,
    transaction: pb::Transaction,
    wait: pb::Wait,
) -> Result<pb::TransactionView, Status> {
    let request = pb::SubmitRequest { transaction: Some(transaction), wait: wait.into() };
    let answer = in_time("an answer to Submit", client.submit(request)).await?;
    Ok(answer.into_inner().transaction.expect("an answer has a transaction"))
}

/// A TCC branch of this service with this number.
pub(super) fn branch(service: &str, number: i64) -> pb::Branch {
    let request = number.to_string().into();
    pb::Branch { service: service.into(), action: "act".into(), request, ..Default::default() }
}

/// A saga branch of this service with this number.
pub(super) fn step(service: &str, number: i64) -> pb::Branch {
    pb::Branch { action: "step".into(), ..branch(service, number) }
}

pub(super) fn tcc(branches: Vec<pb::Branch>) -> pb::Transaction {
    pb::Transaction { mode: pb::Mode::Tcc.into(), branches, ..Default::default() }
}

pub(super) fn keyed(key: &str, transaction: pb::Transaction) -> pb::Transaction {
    pb::Transaction { idempotency_key: key.into(), ..transaction }
}

/// What the error says in `google.rpc.ErrorInfo`.
#[track_caller]
pub(super) fn reason(status: &Status, code: Code) -> String {
    assert_eq!(status.code(), code, "{status:?}");
    status.get_details_error_info().expect("typed errors have an ErrorInfo").reason
}

/// The one field that the error blames, with its limit.
#[track_caller]
pub(super) fn violation(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let mut violations = status.get_details_bad_request().expect("a BadRequest is there").field_violations;
    let violation = violations.pop().expect("a field is named");
    assert!(violations.is_empty(), "one field at a time");
    (violation.field, violation.description)
}

/// A participant's status in this view, branch by branch.
pub(super) fn branches(view: &pb::TransactionView) -> Vec<pb::BranchStatus> {
    view.branches.iter().map(pb::BranchView::status).collect()
}
