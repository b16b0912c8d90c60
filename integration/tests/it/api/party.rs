//! A service of the SDK on SQLite whose handlers say what a test told them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet::action::{Action, Json, Message, Saga, Sender, Tcc};
use tercet::fence::Dialect as _;
use tercet::participant::{Answer, Compensable, DbTx, Participant, Receiver};
use tercet::service::Service;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::world::{Coordinator, PATIENCE, until};

/// What a handler says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Say {
    Done,
    /// Done, with a result.
    Result(&'static str),
    Refused(&'static str),
    NotNow(u64),
    /// An error of the database: the answer is unknown.
    Fails,
    Panics,
    Hangs,
    /// Done once the test has let one through.
    Held,
}

/// A call that a handler has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) operation: &'static str,
    pub(super) number: i64,
    /// How often the same was heard before.
    pub(super) before: usize,
}

type Script = Box<dyn Fn(Heard) -> Say + Send + Sync>;

struct Handlers {
    heard: Mutex<Vec<Heard>>,
    script: Script,
    gate: Semaphore,
}

impl Handlers {
    async fn run(&self, operation: &'static str, db_tx: &mut DbTx<Sqlite>, number: i64) -> sqlx::Result<Answer> {
        let heard = {
            let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all.iter().filter(|one| one.operation == operation && one.number == number).count();
            let heard = Heard { operation, number, before };
            all.push(heard);
            heard
        };
        let answer = match (self.script)(heard) {
            Say::Done => Answer::done(),
            Say::Result(result) => Answer::done_with(result),
            Say::Refused(reason) => return Ok(Answer::refused(reason)),
            Say::NotNow(ms) => return Ok(Answer::not_now(Duration::from_millis(ms))),
            Say::Fails => return Err(sqlx::Error::Protocol("the test wants it".into())),
            Say::Panics => panic!("the test wants it"),
            Say::Hangs => std::future::pending().await,
            Say::Held => {
                self.gate.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?.forget();
                Answer::done()
            }
        };
        sqlx::query("INSERT INTO effect VALUES ($1, $2)").bind(operation).bind(number).execute(db_tx).await?;
        Ok(answer)
    }
}

struct Handler(Arc<Handlers>);

impl Participant for Handler {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn try_(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("try", db_tx, request.0).await
    }

    async fn confirm(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("confirm", db_tx, request.0).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("cancel", db_tx, request.0).await
    }
}

impl Compensable for Handler {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn try_(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("try", db_tx, request.0).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("cancel", db_tx, request.0).await
    }
}

impl Receiver for Handler {
    type Db = Sqlite;
    type Request = Json<i64>;

    async fn deliver(&self, db_tx: &mut DbTx<Sqlite>, request: Json<i64>) -> sqlx::Result<Answer> {
        self.0.run("deliver", db_tx, request.0).await
    }
}

/// One database of a service and the instances that run on it.
pub(super) struct Party {
    name: &'static str,
    pub(super) pool: Pool<Sqlite>,
    handlers: Arc<Handlers>,
    instances: Vec<(JoinHandle<()>, oneshot::Sender<()>)>,
    _folder: TempDir,
}

impl Party {
    /// A service of this name on a new database, with one instance that is connected.
    pub(super) async fn join(
        coordinator: &Coordinator,
        name: &'static str,
        script: impl Fn(Heard) -> Say + Send + Sync + 'static,
    ) -> Self {
        let mut party = Self::away(name, script).await;
        party.come(coordinator).await;
        party
    }

    /// The same without an instance.
    pub(super) async fn away(name: &'static str, script: impl Fn(Heard) -> Say + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = format!("sqlite://{}/{name}.db", folder.path().display());
        let pool = Sqlite::open(&url).await.expect("a database can be made");
        let table = "CREATE TABLE effect (operation TEXT, number INTEGER)";
        sqlx::raw_sql(table).execute(&pool).await.expect("it is empty");
        let handlers = Handlers { heard: Mutex::default(), script: Box::new(script), gate: Semaphore::new(0) };
        Self { name, pool, handlers: Arc::new(handlers), instances: Vec::new(), _folder: folder }
    }

    pub(super) fn service(&self, url: String) -> Service<Sqlite> {
        let handler = || Handler(Arc::clone(&self.handlers));
        let [act, step, hear, send] = ["act", "step", "hear", "send"];
        let (act, step): (Action<Tcc, _>, Action<Saga, _>) =
            (Action::tcc(self.name, act), Action::saga(self.name, step));
        let hear: Action<Message, _> = Action::message(self.name, hear);
        let send: Action<Sender, Json<i64>> = Action::sender(self.name, send);
        let service = Service::new(self.name, [self.pool.clone()]).tables(["effect"]).coordinator(url);
        service.tcc(act, handler()).saga(step, handler()).receiver(hear, handler()).sender(send)
    }

    /// Starts one more instance.
    pub(super) fn start(&mut self, coordinator: &Coordinator) {
        self.start_as(self.service(coordinator.url()));
    }

    /// Starts one more instance, which is this one.
    pub(super) fn start_as(&mut self, service: Service<Sqlite>) {
        let (stop, stopped) = oneshot::channel();
        let run = service.run(async { drop(stopped.await) });
        let task = tokio::spawn(async { run.await.expect("the service is sound") });
        self.instances.push((task, stop));
    }

    /// Starts one more instance and waits for its session.
    pub(super) async fn come(&mut self, coordinator: &Coordinator) {
        self.start(coordinator);
        coordinator.connected(self.name, self.instances.len()).await;
    }

    /// Ends the oldest instance without a word.
    pub(super) async fn die(&mut self) {
        let (task, _stop) = self.instances.remove(0);
        task.abort();
        drop(task.await);
    }

    /// Ends the oldest instance as a shutdown would.
    pub(super) async fn leave(&mut self) {
        let (task, stop) = self.instances.remove(0);
        stop.send(()).expect("it runs");
        tokio::time::timeout(PATIENCE, task).await.expect("it stops in time").expect("it does not panic");
    }

    /// Lets so many of those through that are held.
    pub(super) fn let_through(&self, count: usize) {
        self.handlers.gate.add_permits(count);
    }

    /// Every call, in the order of their coming.
    pub(super) fn heard(&self) -> Vec<(&'static str, i64)> {
        let heard = self.handlers.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|one| (one.operation, one.number)).collect()
    }

    /// Waits until this call has come so many times.
    pub(super) async fn hears(&self, operation: &str, number: i64, times: usize) {
        until(&format!("{times} times {operation} {number}"), async || {
            let heard = self.heard().into_iter().filter(|one| *one == (operation, number)).count();
            (heard >= times).then_some(())
        })
        .await;
    }

    /// What has been committed, in order.
    pub(super) async fn effects(&self) -> Vec<(String, i64)> {
        let rows = sqlx::query_as("SELECT operation, number FROM effect ORDER BY rowid").fetch_all(&self.pool).await;
        rows.expect("the table is there")
    }

    /// The state in the fence of a branch of a transaction, `None` without a row.
    pub(super) async fn fence(&self, xid: &[u8], branch: i64) -> Option<i64> {
        let sql = "SELECT state FROM tercet_fence WHERE xid = $1 AND branch = $2";
        let row = sqlx::query_scalar(sql).bind(xid).bind(branch).fetch_optional(&self.pool).await;
        row.expect("the fence is there")
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.instances.iter().for_each(|(task, _stop)| task.abort());
    }
}

/// A script in which everything is done.
pub(super) fn agrees(_: Heard) -> Say {
    Say::Done
}
