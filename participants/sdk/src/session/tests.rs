//! Sessions with a coordinator that does what a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet_proto::participant::v1::Operation::Try;
use tercet_proto::participant::v1::reply::Answer;
use tercet_proto::participant::v1::sessions_server::{Sessions, SessionsServer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response};

use super::*;
use crate::fixture::{Gate, Shop, TAKE, answers, call, done, refused, shop_database};
use crate::service::{Error, Service};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);

struct Fake(mpsc::Sender<Opened>);

/// One session, seen from the coordinator.
struct Opened {
    up: Streaming<OpenRequest>,
    down: mpsc::Sender<Result<OpenResponse, Status>>,
}

impl Opened {
    async fn say(&self, message: Down) {
        self.down.send(Ok(OpenResponse { message: Some(message) })).await.unwrap();
    }

    /// The next message up that is no heartbeat; `None` at the end.
    async fn hear(&mut self) -> Option<Up> {
        loop {
            let message = timeout(PATIENCE, self.up.message()).await.expect("a message in time").unwrap()?;
            match message.message {
                Some(Up::Heartbeat(_)) => {}
                other => return other,
            }
        }
    }

    async fn welcome(&mut self, silence_max_ms: u32) -> Register {
        let Some(Up::Register(register)) = self.hear().await else { panic!("the first message is no registration") };
        self.say(Down::Registered(Registered { heartbeat_ms: 20, silence_max_ms, now_ms: 100 })).await;
        register
    }
}

#[tonic::async_trait]
impl Sessions for Fake {
    type OpenStream = ReceiverStream<Result<OpenResponse, Status>>;

    async fn open(&self, request: Request<Streaming<OpenRequest>>) -> Result<Response<Self::OpenStream>, Status> {
        let (down, from_test) = mpsc::channel(16);
        self.0.send(Opened { up: request.into_inner(), down }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(from_test)))
    }
}

struct World {
    address: SocketAddr,
    opened: mpsc::Receiver<Opened>,
    gate: Arc<Gate>,
    pool: Pool<Sqlite>,
    stop: Option<oneshot::Sender<()>>,
    service: Option<JoinHandle<Result<(), Error>>>,
    _folder: TempDir,
}

impl World {
    /// A coordinator and a service whose tries wait for `tries` permits.
    async fn start(tries: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, opened) = mpsc::channel(4);
        let server = Server::builder().add_service(SessionsServer::new(Fake(sender)));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let (folder, pool) = shop_database().await;
        let mut world =
            Self { address, opened, gate: Gate::new(tries), pool, stop: None, service: None, _folder: folder };
        let (stop, stopped) = oneshot::channel();
        let service = world.service().run(async { drop(stopped.await) });
        (world.stop, world.service) = (Some(stop), Some(tokio::spawn(service)));
        world
    }

    fn service(&self) -> Service<Sqlite> {
        Service::new("shop", [self.pool.clone()])
            .coordinator(format!("http://{}", self.address))
            .version("7")
            .tcc(TAKE, Shop(Arc::clone(&self.gate)))
    }

    async fn next(&mut self) -> Opened {
        timeout(PATIENCE, self.opened.recv()).await.expect("a session in time").unwrap()
    }

    async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        let ended = timeout(PATIENCE, self.service.take().unwrap()).await.expect("the service stops in time");
        ended.unwrap().unwrap();
    }
}

#[tokio::test]
async fn registers_and_answers_batches_and_beats() {
    let mut world = World::start(100).await;
    let mut session = world.next().await;
    let register = session.welcome(5_000).await;
    assert_eq!((register.service.as_str(), register.version.as_str(), register.window), ("shop", "7", 1));
    assert_eq!(register.fence_id.len(), 16);
    assert_eq!(register.actions.len(), 1);
    assert_eq!((register.actions[0].name.as_str(), &*register.actions[0].operations), ("take", &[1, 2, 3][..]));
    for batch in [5, 6] {
        session.say(Down::Calls(Calls { batch, calls: vec![call(1, Try, 7), call(2, Try, 7)] })).await;
        let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
        assert_eq!((replies.batch, answers(replies.replies)), (batch, vec![done("held"), refused("sold out")]));
    }
    let beat = timeout(PATIENCE, session.up.message()).await.expect("a heartbeat in time").unwrap().unwrap();
    assert!(matches!(beat.message, Some(Up::Heartbeat(_))));
    world.stop().await;
}

#[tokio::test]
async fn comes_back_after_a_broken_or_silent_session() {
    let mut world = World::start(100).await;
    let mut session = world.next().await;
    let first = session.welcome(5_000).await;
    drop(session);
    let mut session = world.next().await;
    assert_eq!(session.welcome(60).await, first);
    let start = Instant::now();
    let mut session_after_silence = world.next().await;
    assert!(start.elapsed() >= Duration::from_millis(50), "it did not wait for the silence to be long");
    session_after_silence.welcome(5_000).await;
    world.stop().await;
}

#[tokio::test]
async fn asks_again_slowly_where_it_is_refused() {
    let mut world = World::start(100).await;
    let session = world.next().await;
    session.down.send(Err(Status::failed_precondition("another fence"))).await.unwrap();
    let start = Instant::now();
    let mut session = world.next().await;
    assert!(start.elapsed() >= Duration::from_millis(400), "it came back after {:?}", start.elapsed());
    session.welcome(5_000).await;
    world.stop().await;
}

#[tokio::test]
async fn a_stop_says_so_and_answers_what_it_holds() {
    let mut world = World::start(0).await;
    let mut session = world.next().await;
    session.welcome(5_000).await;
    session.say(Down::Calls(Calls { batch: 1, calls: vec![call(1, Try, 7)] })).await;
    world.gate.came.acquire().await.unwrap().forget();
    world.stop.take().unwrap().send(()).unwrap();
    assert!(matches!(session.hear().await, Some(Up::Leaving(_))));
    world.gate.pass.add_permits(1);
    let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
    assert_eq!(answers(replies.replies), [done("held")]);
    assert!(session.hear().await.is_none());
    drop(session);
    timeout(PATIENCE, world.service.take().unwrap()).await.expect("it stops in time").unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_in_a_handler_kills_neither_session_nor_batch() {
    let mut world = World::start(100).await;
    let mut session = world.next().await;
    session.welcome(5_000).await;
    session.say(Down::Calls(Calls { batch: 1, calls: vec![call(1, Try, 1), call(2, Try, -2), call(3, Try, 1)] })).await;
    let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
    let unknown = Answer::Unknown("the handler panicked".to_owned());
    assert_eq!(answers(replies.replies), [done("held"), unknown, done("held")]);
    world.stop().await;
}
