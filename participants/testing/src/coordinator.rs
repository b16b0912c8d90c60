//! A coordinator in memory: the real one, on a loopback port, over a store that goes with it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args as _, Command, FromArgMatches as _};
use tercet::client::{Client, Options, View};
use tercet::fence::Dialect;
use tercet::service::Service;
use tercet::xid::Xid;
use tercet_coordinator::clock::SystemClock;
use tercet_coordinator::config::Config;
use tercet_coordinator::server::Ports;
use tercet_coordinator::store::{ListQuery, MemoryStore, Purge, Store as _};
use tercet_core::Timestamp;
use tercet_proto::coordinator::v1::BranchStatus;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// For everything to end.
const ALL_MAX: Duration = Duration::from_secs(10);
/// For one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two looks at what has not ended.
const LOOK: Duration = Duration::from_millis(5);
/// For a port to be free again.
const START_MAX: Duration = Duration::from_secs(5);

/// A coordinator for one test. It runs on a thread of its own and ends when it is dropped, and so do the services that
/// it [serves](Self::serve).
///
/// Its mistakes are the test's: what can not go on panics, and says why.
pub struct Coordinator {
    store: MemoryStore,
    clock: SystemClock,
    listen: SocketAddr,
    admin: SocketAddr,
    client: Client,
    running: Option<Running>,
    services: Vec<JoinHandle<()>>,
    /// Why services do not run.
    broken: Arc<Mutex<Vec<String>>>,
}

struct Running {
    /// Ends the thread at once, as a SIGKILL would.
    kill: oneshot::Sender<()>,
    killed: oneshot::Receiver<()>,
}

impl Coordinator {
    /// Starts it on free ports. To be called within a tokio runtime.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let clock = SystemClock::start();
        let store = MemoryStore::new(clock.clone());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listen, admin, running) = start(&store, &clock, any, any).await.unwrap_or_else(|why| panic!("{why}"));
        let options = Options { timeout: ANSWER_MAX, ..Options::default() };
        let client = Client::connect([listen.to_string()], options).unwrap_or_else(|error| panic!("{error}"));
        let (services, broken) = (Vec::new(), Arc::default());
        Self { store, clock, listen, admin, client, running: Some(running), services, broken }
    }

    /// Where initiators and participants connect: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where operators connect.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// A client of it, which waits at most 10 s for an answer.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs a service that takes its calls, beside the test, until this is dropped.
    pub fn serve<Db: Dialect>(&mut self, service: Service<Db>) {
        let (service, broken) = (service.coordinator(self.url()), Arc::clone(&self.broken));
        self.services.push(tokio::spawn(async move {
            if let Err(error) = service.run(pending()).await {
                broken.lock().unwrap_or_else(PoisonError::into_inner).push(format!("a service does not run: {error}"));
            }
        }));
    }

    /// The transactions that have not ended, newest first, 1,000 of them at most.
    ///
    /// # Panics
    /// When the coordinator does not answer.
    pub async fn unfinished(&self) -> Vec<View> {
        let query = ListQuery { unfinished: true, limit: 1_000, ..ListQuery::default() };
        let records = self.store.list(query).await.unwrap_or_else(|error| panic!("{error}"));
        let mut views = Vec::new();
        for record in records {
            let xid = Xid::new(record.xid.0);
            let view = self.client.get(xid).await.unwrap_or_else(|error| panic!("transaction {xid}: {error}"));
            if !view.ended() {
                views.push(view);
            }
        }
        views
    }

    /// Forgets the transactions that have ended, as it does by itself when they are too many or too old.
    ///
    /// # Panics
    /// When its store does not answer.
    pub async fn forget(&self) {
        let purge = Purge { older_than: Timestamp(0), keep_max: 0, limit: u32::MAX };
        self.store.purge(purge).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until every transaction has ended or waits for a person, and returns those that do.
    ///
    /// # Panics
    /// When that takes longer than 10 s, or a service does not run.
    pub async fn settled(&self) -> Vec<View> {
        let end = Instant::now() + ALL_MAX;
        loop {
            let unfinished = self.unfinished().await;
            if unfinished.iter().all(is_parked) {
                return unfinished;
            }
            let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
            assert!(broken.is_empty(), "{broken}");
            assert!(Instant::now() < end, "not ended within {ALL_MAX:?}:\n{}", shown(&unfinished));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every transaction has ended.
    ///
    /// # Panics
    /// When that takes longer than 10 s, when one waits for a person, or a service does not run.
    pub async fn all_ended(&self) {
        let parked = self.settled().await;
        assert!(parked.is_empty(), "parked, for a person to decide:\n{}", shown(&parked));
    }

    /// Ends the coordinator between any two of its steps, as a SIGKILL would, and starts it again on what it had
    /// stored. Clients and services find it again by themselves.
    ///
    /// # Panics
    /// When its port is not free again within 5 s.
    pub async fn crash_and_start(&mut self) {
        self.crash().await;
        self.start_again().await;
    }

    /// Ends the coordinator between any two of its steps, as a SIGKILL would. What it had stored stays.
    pub async fn crash(&mut self) {
        if let Some(Running { kill, killed }) = self.running.take() {
            let _ = kill.send(());
            let _ = killed.await;
        }
    }

    /// Starts it on what it had stored, after a [`crash`](Self::crash).
    ///
    /// # Panics
    /// When its port is not free again within 5 s.
    pub async fn start_again(&mut self) {
        let end = Instant::now() + START_MAX;
        loop {
            match start(&self.store, &self.clock, self.listen, self.admin).await {
                Ok((.., running)) => return self.running = Some(running),
                Err(why) => assert!(Instant::now() < end, "{why}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.services.iter().for_each(JoinHandle::abort);
        if let Some(running) = self.running.take() {
            let _ = running.kill.send(());
        }
    }
}

/// Runs a coordinator on a thread of its own.
async fn start(
    store: &MemoryStore,
    clock: &SystemClock,
    listen: SocketAddr,
    admin: SocketAddr,
) -> Result<(SocketAddr, SocketAddr, Running), String> {
    let config = config(listen, admin)?;
    let ((ready, is_ready), (kill, to_kill)) = (oneshot::channel(), oneshot::channel());
    let (end, killed) = oneshot::channel();
    let (why, said) = oneshot::channel();
    let (store, clock) = (Arc::new(store.clone()), clock.clone());
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed = match runtime {
            Ok(runtime) => runtime.block_on(async {
                let coordinator = async {
                    let ports = Ports::open(&config).await.map_err(|error| error.to_string())?;
                    let served = tercet_coordinator::serve(store, clock, ports, config, ready, pending()).await;
                    served.map_err(|error| error.to_string())
                };
                tokio::select! {
                    served = coordinator => served.err(),
                    _ = to_kill => None,
                }
            }),
            Err(error) => Some(error.to_string()),
        };
        let _ = why.send(failed.unwrap_or_default());
        let _ = end.send(());
    };
    std::thread::Builder::new().name("coordinator".to_owned()).spawn(run).map_err(|error| error.to_string())?;
    match is_ready.await {
        Ok(addresses) => Ok((addresses.listen, addresses.admin, Running { kill, killed })),
        Err(_) => Err(said.await.unwrap_or_default()),
    }
}

/// The settings that it has by default, but for its ports.
fn config(listen: SocketAddr, admin: SocketAddr) -> Result<Config, String> {
    let ports = [("--listen", listen), ("--admin-listen", admin)].map(|(name, port)| format!("{name}={port}"));
    let arguments = std::iter::once("coordinator".to_owned()).chain(ports);
    let matches = Config::augment_args(Command::new("coordinator")).try_get_matches_from(arguments);
    matches.and_then(|matches| Config::from_arg_matches(&matches)).map_err(|error| error.to_string())
}

fn is_parked(view: &View) -> bool {
    let mut statuses = view.details().branches.iter().map(|branch| branch.status());
    statuses.any(|status| status == BranchStatus::Parked)
        && !view.details().branches.iter().any(|branch| {
            matches!(branch.status(), BranchStatus::Pending | BranchStatus::Logged | BranchStatus::Unspecified)
        })
}

fn shown(views: &[View]) -> String {
    let branch = |view: &View| {
        let branches = view.details().branches.iter().enumerate();
        let branches = branches.map(|(at, branch)| {
            let (status, reason) = (branch.status().as_str_name(), &branch.reason);
            format!("\n    branch {at} {}/{}: {status} {reason}", branch.service, branch.action)
        });
        format!("  {} {}{}", view.xid(), view.status(), branches.collect::<String>())
    };
    views.iter().map(branch).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use sqlx::{Pool, Sqlite, SqliteConnection};
    use tercet::action::{Action, Json, Tcc};
    use tercet::client::{Outcome, Wait};
    use tercet::fence::Dialect as _;
    use tercet::participant::{Answer, Participant};
    use tercet::plan::tcc;

    use super::*;

    const RESERVE: Action<Tcc, Json<i64>> = Action::tcc("seats", "reserve");

    /// Refuses to confirm more than 5, which no participant should.
    struct Seats;

    impl Participant for Seats {
        type Db = Sqlite;
        type Request = Json<i64>;

        async fn try_(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
            let sql = "UPDATE seats SET free = free - ?1, held = held + ?1 WHERE free >= ?1";
            let reserved = sqlx::query(sql).bind(count).execute(db_tx).await?.rows_affected() == 1;
            Ok(if reserved { Answer::done() } else { Answer::refused("sold out") })
        }

        async fn confirm(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
            sqlx::query("UPDATE seats SET held = held - ?1").bind(count).execute(db_tx).await?;
            Ok(if count > 5 { Answer::refused("too many") } else { Answer::done() })
        }

        async fn cancel(&self, db_tx: &mut SqliteConnection, Json(count): Json<i64>) -> sqlx::Result<Answer> {
            sqlx::query("UPDATE seats SET free = free + ?1, held = held - ?1").bind(count).execute(db_tx).await?;
            Ok(Answer::done())
        }
    }

    async fn database() -> (tempfile::TempDir, Pool<Sqlite>) {
        let folder = tempfile::tempdir().unwrap();
        let pool = Sqlite::open(&format!("sqlite://{}/seats.db", folder.path().display())).await.unwrap();
        let sql = "CREATE TABLE seats (free INTEGER, held INTEGER); INSERT INTO seats VALUES (10, 0)";
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        (folder, pool)
    }

    fn service(pool: &Pool<Sqlite>) -> Service<Sqlite> {
        Service::new("seats", [pool.clone()]).tables(["seats"]).tcc(RESERVE, Seats)
    }

    async fn reserve(client: Client, count: i64, wait: Wait) -> View {
        let mut plan = tcc();
        plan.branch(RESERVE.with(&Json(count)).unwrap());
        client.submit(plan.build().unwrap(), wait).await.unwrap()
    }

    async fn seats(pool: &Pool<Sqlite>) -> (i64, i64) {
        sqlx::query_as("SELECT free, held FROM seats").fetch_one(pool).await.unwrap()
    }

    #[tokio::test]
    async fn a_service_and_its_initiator_meet_in_one_test() {
        let (_folder, pool) = database().await;
        let mut coordinator = Coordinator::start().await;
        coordinator.serve(service(&pool));
        assert_eq!(reserve(coordinator.client(), 3, Wait::Decided).await.outcome(), Some(Outcome::Confirmed));
        assert_eq!(reserve(coordinator.client(), 8, Wait::Decided).await.reason(), "seats refused: sold out");
        coordinator.all_ended().await;
        assert_eq!(seats(&pool).await, (7, 0));
    }

    #[tokio::test]
    async fn what_was_accepted_ends_after_a_crash() {
        let (_folder, pool) = database().await;
        let mut coordinator = Coordinator::start().await;
        let accepted = reserve(coordinator.client(), 3, Wait::Accepted).await;
        coordinator.crash_and_start().await;
        assert_eq!(coordinator.unfinished().await.iter().map(View::xid).collect::<Vec<_>>(), [accepted.xid()]);
        coordinator.serve(service(&pool));
        coordinator.all_ended().await;
        let view = coordinator.client().get(accepted.xid()).await.unwrap();
        assert_eq!((view.outcome(), seats(&pool).await), (Some(Outcome::Confirmed), (7, 0)));
    }

    #[tokio::test]
    async fn what_waits_for_a_person_is_told_from_what_has_ended() {
        let (_folder, pool) = database().await;
        let mut coordinator = Coordinator::start().await;
        coordinator.serve(service(&pool));
        let decided = reserve(coordinator.client(), 6, Wait::Decided).await;
        let parked = coordinator.settled().await;
        assert_eq!(parked.iter().map(View::xid).collect::<Vec<_>>(), [decided.xid()]);
        assert!(shown(&parked).contains("branch 0 seats/reserve: BRANCH_STATUS_PARKED too many"), "{}", shown(&parked));
    }
}
