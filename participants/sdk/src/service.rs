//! A service: its databases, its actions and the coordinators that it serves.

use std::future::ready;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, try_join_all};
use sqlx::Pool;
use tercet_proto::participant::v1::Register;
use tercet_secure::client::{self, Credentials, Target};
use tercet_secure::server::{self, Protocol};
use tokio::sync::watch;
use tonic::service::Routes;
use tracing::info;

use crate::action::{Action, Message, Saga, Sender, Tcc};
use crate::batch::Executor;
use crate::beside::{Failure, Stop, Work};
use crate::conserve::Invariant;
use crate::fence::{self, Dialect};
use crate::handler::{self, Asked, Handler};
use crate::measured::measured;
use crate::participant::{
    Compensable, Moves, Participant, Receiver, SliceCompensable, SliceParticipant, SliceReceiver,
};
use crate::port;
use crate::session::{self, Coordinator};

mod error;

pub use error::Error;

/// For the first packets of a connection to a coordinator, or to another service.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// The most that [`Service::batch_max`] takes: a coordinator sends no more calls at a time.
pub const BATCH_CALLS_MAX: u32 = 256;

/// An action and its handler, without types.
pub(crate) struct Registered<Db: Dialect> {
    pub(crate) name: &'static str,
    pub(crate) handler: Arc<dyn Handler<Db>>,
}

/// A service under construction.
///
/// ```text
/// Service::new("stock", [Sqlite::open("sqlite://stock.db").await?])
///     .tables(["stock"])
///     .tcc_slice(RESERVE, Stock)
///     .coordinator("http://127.0.0.1:7070")
///     .run(shutdown)
///     .await
/// ```
pub struct Service<Db: Dialect> {
    name: &'static str,
    databases: Vec<Pool<Db>>,
    tables: Vec<String>,
    actions: Vec<Registered<Db>>,
    /// The first thing that is wrong with what the author said.
    mistake: Option<String>,
    fenced: bool,
    invariants: Vec<Invariant>,
    coordinators: Vec<String>,
    instance: String,
    version: String,
    window: Option<u32>,
    batch_max: u32,
    concurrency: u32,
    address: Option<SocketAddr>,
    own_port: server::Settings,
    any_caller: bool,
    security: client::Settings,
    routes: Routes,
    descriptors: Vec<&'static [u8]>,
    works: Vec<Work>,
    moves: Option<Arc<dyn Moves>>,
}

impl<Db: Dialect> Service<Db> {
    /// A service with the databases among which its participants' `place` chooses; most have one. Names are 1 to 64 of
    /// `[a-z0-9_.-]`.
    pub fn new(name: &'static str, databases: impl IntoIterator<Item = Pool<Db>>) -> Self {
        let databases = databases.into_iter().collect();
        // Two of one process differ in the second part.
        let instance = format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(()));
        Self {
            name,
            databases,
            tables: Vec::new(),
            actions: Vec::new(),
            mistake: None,
            fenced: true,
            invariants: Vec::new(),
            coordinators: Vec::new(),
            instance,
            version: String::new(),
            window: None,
            batch_max: BATCH_CALLS_MAX,
            concurrency: 0,
            address: None,
            own_port: server::Settings::default(),
            any_caller: false,
            security: client::Settings::default(),
            routes: Routes::default(),
            descriptors: Vec::new(),
            works: Vec::new(),
            moves: None,
        }
    }

    /// Adds a coordinator by its URL, `http://host:port` or `https://host:port`. The service holds a session with each.
    #[must_use]
    pub fn coordinator(mut self, url: impl Into<String>) -> Self {
        self.coordinators.push(url.into());
        self
    }

    /// Knows where rows are that move between the databases, where any do: see
    /// [`Place`](crate::participant::Place). Which database is which is then what each says of itself, so instances
    /// that name more of them, or in another order, serve side by side; the first is the same for all.
    #[must_use]
    pub fn moves(mut self, moves: Arc<dyn Moves>) -> Self {
        self.moves = Some(moves);
        self
    }

    /// Names this process among the service's instances; by default its process id and a random number.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// The service's version, for people.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// How many batches of a coordinator run at once, 1 to 16. By default 1 on SQLite, which has one writer, and 4
    /// elsewhere.
    #[must_use]
    pub fn window(mut self, batches: u32) -> Self {
        self.window = Some(batches);
        self
    }

    /// Most calls that are executed in one local transaction, 1 to [`BATCH_CALLS_MAX`], which is the default; with 1
    /// each has one of its own, and a commit.
    #[must_use]
    pub const fn batch_max(mut self, calls: u32) -> Self {
        self.batch_max = calls;
        self
    }

    /// Most calls of a coordinator that this instance has at a time, over all its batches; a coordinator never sends
    /// more before it has an answer. By default 256 for each batch of the window.
    #[must_use]
    pub fn concurrency(mut self, calls: NonZeroU32) -> Self {
        self.concurrency = calls.get();
        self
    }

    /// Opens a port of the service's own, with gRPC health and reflection.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// How the own port is secured. By default it has no TLS, and so may listen on loopback only.
    #[must_use]
    pub fn own_port(mut self, settings: server::Settings) -> Self {
        self.own_port = settings;
        self
    }

    /// Whether clients without a certificate may call the routes of the own port where it is not on loopback: routes
    /// know their callers by nothing else.
    #[must_use]
    pub const fn any_caller(mut self, is_allowed: bool) -> Self {
        self.any_caller = is_allowed;
        self
    }

    /// Which coordinators it trusts, and how it is known to them.
    #[must_use]
    pub fn security(mut self, settings: client::Settings) -> Self {
        self.security = settings;
        self
    }

    /// Serves these on the own port too. `descriptors` is their encoded `FileDescriptorSet`, for reflection. A service
    /// that has routes and no action takes part in no transaction: it needs neither coordinator nor fence, and its
    /// health is SERVING as soon as it runs. Their calls are counted and timed, by method.
    #[must_use]
    pub fn routes(mut self, routes: Routes, descriptors: &'static [u8]) -> Self {
        match measured(self.name, routes, descriptors) {
            Ok(routes) => self.routes = routes,
            Err(error) => {
                self.mistake.get_or_insert_with(|| format!("the descriptors of the routes: {error}"));
            }
        }
        self.descriptors.push(descriptors);
        self
    }

    /// What [`Service::routes`] was told, for callers in the same process: they need no connection. The routes work on
    /// the thread of whoever calls them.
    pub fn own_routes(&self) -> Routes {
        self.routes.clone()
    }

    /// Runs this beside the sessions until it is told to stop. The service ends with its failure; that it ends well
    /// earlier means nothing.
    #[must_use]
    pub fn beside<W>(mut self, name: &'static str, work: impl FnOnce(Stop) -> W + Send + 'static) -> Self
    where
        W: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.works.push(Work { name, start: Box::new(move |stop| work(stop).boxed()) });
        self
    }

    /// The business tables. The start fails when one of them is not visible where the fence is, since then the two
    /// could not be written in one local transaction.
    #[must_use]
    pub fn tables<T: AsRef<str>>(mut self, tables: impl IntoIterator<Item = T>) -> Self {
        self.tables.extend(tables.into_iter().map(|table| table.as_ref().to_owned()));
        self
    }

    /// The tables that [`Service::tables`] named.
    pub fn business_tables(&self) -> &[String] {
        &self.tables
    }

    /// Promises what its resources conserve: the coordinator watches it, and names the first transaction that breaks
    /// it.
    #[must_use]
    pub fn conserve(mut self, invariant: Invariant) -> Self {
        self.invariants.push(invariant);
        self
    }

    /// Runs handlers without a fence: for measuring, or for handlers that are idempotent themselves, and bear a cancel
    /// without its try and a try after its cancel. The senders of messages can not be asked then.
    #[must_use]
    pub fn without_fence(mut self) -> Self {
        self.fenced = false;
        self
    }

    /// Try, confirm and cancel, one operation at a time.
    #[must_use]
    pub fn tcc<P: Participant<Db = Db>>(self, action: Action<Tcc, P::Request>, participant: P) -> Self {
        self.register(action, handler::tcc(participant))
    }

    /// Try, confirm and cancel, many operations at once.
    #[must_use]
    pub fn tcc_slice<P: SliceParticipant<Db = Db>>(self, action: Action<Tcc, P::Request>, participant: P) -> Self {
        self.register(action, handler::tcc_slice(participant))
    }

    /// Do and compensate, one operation at a time.
    #[must_use]
    pub fn saga<P: Compensable<Db = Db>>(self, action: Action<Saga, P::Request>, participant: P) -> Self {
        self.register(action, handler::saga(participant))
    }

    /// Do and compensate, many operations at once.
    #[must_use]
    pub fn saga_slice<P: SliceCompensable<Db = Db>>(self, action: Action<Saga, P::Request>, participant: P) -> Self {
        self.register(action, handler::saga_slice(participant))
    }

    /// Receives messages, one at a time.
    #[must_use]
    pub fn receiver<P: Receiver<Db = Db>>(self, action: Action<Message, P::Request>, participant: P) -> Self {
        self.register(action, handler::receiver(participant))
    }

    /// Receives messages, many at once.
    #[must_use]
    pub fn receiver_slice<P: SliceReceiver<Db = Db>>(
        self,
        action: Action<Message, P::Request>,
        participant: P,
    ) -> Self {
        self.register(action, handler::receiver_slice(participant))
    }

    /// Sends messages. There is no handler: the fence says whether the sender's local transaction committed. A sender
    /// writes its fence row with [`fence::commit_sender`](crate::fence::commit_sender), in the first database.
    #[must_use]
    pub fn sender<R>(self, action: Action<Sender, R>) -> Self {
        self.register(action, Arc::new(Asked))
    }

    const fn takes_part(&self) -> bool {
        !self.actions.is_empty()
    }

    fn register<Mode, R>(mut self, action: Action<Mode, R>, handler: Arc<dyn Handler<Db>>) -> Self {
        if action.service() != self.name {
            let (service, name, own) = (action.service(), action.name(), self.name);
            self.mistake.get_or_insert_with(|| format!("action {name} belongs to service {service}, not to {own}"));
        }
        if self.actions.iter().any(|other| other.name == action.name()) {
            let name = action.name();
            self.mistake.get_or_insert_with(|| format!("action {name} is registered twice"));
        }
        self.actions.push(Registered { name: action.name(), handler });
        self
    }

    /// Makes the fence's tables where they are missing, looks for the business tables, and is ready to run batches:
    /// what [`Service::run`] does first, and all that a test without a coordinator needs.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn executor(self) -> Result<Executor<Db>, Error> {
        self.check()?;
        let fenced = self.fenced && self.takes_part();
        let mut id = 0_u128;
        for (place, pool) in self.databases.iter().enumerate() {
            let database = |source| Error::Database { place, source };
            let mut connection = Db::connect(pool).await.map_err(database)?;
            if fenced {
                fence::prepare(pool).await.map_err(|error| database(error.into()))?;
                let own = Db::fence_id(&mut connection).await.map_err(database)?;
                // The order matters, where `place` goes by it.
                if self.moves.is_none() || place == 0 {
                    id = id.rotate_left(1) ^ u128::from_be_bytes(own);
                }
            }
            for table in &self.tables {
                let elsewhere = |source| Error::TableElsewhere { table: table.clone(), place, source };
                fence::check_table::<Db>(&mut connection, table).await.map_err(elsewhere)?;
            }
        }
        let fence_id = fenced.then(|| id.to_be_bytes());
        let executor = Executor::new(self.name, self.actions, self.databases, fence_id, self.invariants);
        Ok(executor.moving(self.moves).batch_max(self.batch_max as usize))
    }

    /// Runs the service until `shutdown` ends: a session with each coordinator, opened again whenever it breaks, and
    /// the own port. Health is NOT_SERVING until the first session is registered and from `shutdown` on. Then it takes
    /// no further batch, answers what it holds and returns.
    ///
    /// # Errors
    /// Those of [`Error`]. A coordinator that can not be reached, or refuses the service, is no error: it is logged and
    /// tried again.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let credentials = Credentials::load(&self.security)?;
        let takes_part = self.takes_part();
        let coordinators = self.coordinators.iter().filter(|_| takes_part);
        let targets =
            coordinators.map(|url| Ok(credentials.target(url)?.with(|endpoint| endpoint.connect_timeout(CONNECT_MAX))));
        let targets: Vec<Target> = targets.collect::<Result<_, Error>>()?;
        let (registered, welcome) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let routes = std::mem::take(&mut self.routes);
        let port = match self.address {
            Some(address) => {
                self.own_port.check("listen", address)?;
                if !self.descriptors.is_empty() && !self.any_caller {
                    self.own_port.check_callers("listen", address)?;
                }
                let tls = self.own_port.load(Protocol::Http2)?;
                let (address, serving) =
                    port::open(address, tls, routes, &self.descriptors, welcome, stopped.clone()).await?;
                info!(service = self.name, %address, "own port open");
                serving
            }
            None => ready(Ok(())).boxed(),
        };
        let (instance, version, concurrency) = (self.instance.clone(), self.version.clone(), self.concurrency);
        let window = self.window.unwrap_or(if Db::WRITERS == 1 { 1 } else { 4 });
        let works = std::mem::take(&mut self.works);
        let works = try_join_all(works.into_iter().map(|work| run_beside(work, stopped.clone())).collect::<Vec<_>>());
        let executor = self.executor().await?;
        if !takes_part {
            registered.send_replace(true);
        }
        let register = Register { instance, version, window, concurrency, ..executor.register() };
        let sessions = targets.into_iter().map(|target| {
            let coordinator = Coordinator { target, credentials: credentials.clone() };
            session::hold(&executor, coordinator, register.clone(), &registered, stopped.clone())
        });
        let sessions = join_all(sessions).map(|_| Ok(()));
        let stopping = async {
            shutdown.await;
            stop.send_replace(true);
            Ok(())
        };
        tokio::try_join!(sessions, port, stopping, works).map(|_| ())
    }

    fn check(&self) -> Result<(), Error> {
        let mistake = |text: String| Err(Error::Mistake(text));
        if let Some(text) = &self.mistake {
            return mistake(text.clone());
        }
        for name in [self.name]
            .into_iter()
            .chain(self.actions.iter().map(|action| action.name))
            .chain(self.invariants.iter().map(|invariant| invariant.name))
        {
            let letters = name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'));
            if !letters || name.is_empty() || name.len() > 64 {
                return mistake(format!("the name {name:?} is not 1 to 64 of [a-z0-9_.-]"));
            }
        }
        if !self.fenced && !self.invariants.is_empty() {
            return mistake(format!("service {} promises to conserve something and has no fence", self.name));
        }
        if !self.fenced && self.moves.is_some() {
            return mistake(format!("rows of service {} move, and it has no fence", self.name));
        }
        for action in self.invariants.iter().flat_map(Invariant::actions) {
            if !self.actions.iter().any(|own| own.name == action) {
                return mistake(format!("an invariant knows the action {action}, which service {} has not", self.name));
            }
        }
        if !self.takes_part() && self.descriptors.is_empty() {
            return mistake(format!("service {} has neither actions nor routes", self.name));
        }
        if self.databases.is_empty() {
            return mistake(format!("service {} has no database", self.name));
        }
        if !(1..=16).contains(&self.window.unwrap_or(1)) {
            return mistake("the window is not 1 to 16 batches".to_owned());
        }
        if !(1..=BATCH_CALLS_MAX).contains(&self.batch_max) {
            return mistake(format!("batch_max is {}, not 1 to {BATCH_CALLS_MAX} calls", self.batch_max));
        }
        for table in &self.tables {
            if table.is_empty() || !table.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.')) {
                return mistake(format!("{table:?} is not the name of a table"));
            }
        }
        Ok(())
    }
}

async fn run_beside(work: Work, stopped: watch::Receiver<bool>) -> Result<(), Error> {
    let ended = (work.start)(Stop::from(stopped)).await;
    ended.map_err(|source| Error::Beside { name: work.name, source })
}

/// Waits until the flag is set, or can not be any more.
pub(crate) async fn is_set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
