//! Sessions with a coordinator that does what a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet_proto::participant::v1::Call;
use tercet_proto::participant::v1::Operation::{Confirm, Try};
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
use tercet_secure::client::Settings;
use tercet_secure::sign::Key;

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

    /// Whether the participant ends the session, however, and says nothing before.
    async fn ends(&mut self) -> bool {
        let end = async {
            loop {
                match self.up.message().await {
                    Ok(Some(OpenRequest { message: Some(Up::Heartbeat(_)) })) => {}
                    Ok(Some(_)) => return false,
                    Ok(None) | Err(_) => return true,
                }
            }
        };
        timeout(PATIENCE, end).await.expect("an end in time")
    }

    /// Welcomes a participant that wants signatures, as the coordinator would.
    async fn welcome_signed(&mut self, key: &Key) -> Signing {
        let Some(Up::Register(register)) = self.hear().await else { panic!("the first message is no registration") };
        let nonce = vec![9; NONCE_BYTES];
        let signing = key.session(&register.service, [&register.nonce, &nonce], 1_000);
        let nonce = nonce.into();
        // That the coordinator is silent is no reason to end it.
        let registered = Registered { heartbeat_ms: 20, silence_max_ms: 60_000, now_ms: 1_000, nonce };
        self.say(Down::Registered(registered)).await;
        signing
    }

    async fn welcome(&mut self, silence_max_ms: u32) -> Register {
        let Some(Up::Register(register)) = self.hear().await else { panic!("the first message is no registration") };
        self.say(Down::Registered(Registered { heartbeat_ms: 20, silence_max_ms, now_ms: 100, ..Default::default() }))
            .await;
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

    /// The same with a secret of the service's; its key signs what comes down.
    async fn start_signed() -> (Self, Key) {
        let mut world = Self::start(100).await;
        world.stop().await;
        let (path, digits) = (world._folder.path().join("secret"), "5a".repeat(32));
        std::fs::write(&path, format!("{digits}.{digits}\n")).unwrap();
        let security = Settings { token_file: Some(path), ..Settings::default() };
        let (stop, stopped) = oneshot::channel();
        let service = world.service().security(security).run(async { drop(stopped.await) });
        (world.stop, world.service) = (Some(stop), Some(tokio::spawn(service)));
        // Sessions of the one that stopped.
        while let Ok(stale) = world.opened.try_recv() {
            drop(stale);
        }
        (world, Key::new([0x5a; 32]))
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
async fn what_is_held_at_the_stop_is_not_taken_for_silence() {
    let mut world = World::start(0).await;
    let mut session = world.next().await;
    session.welcome(5_000).await;
    session.say(Down::Calls(Calls { batch: 1, calls: vec![call(1, Try, 7)] })).await;
    world.gate.came.acquire().await.unwrap().forget();
    world.stop.take().unwrap().send(()).unwrap();
    assert!(matches!(session.hear().await, Some(Up::Leaving(_))));
    for _ in 0..3 {
        let beat = timeout(PATIENCE, session.up.message()).await.expect("a heartbeat in time").unwrap().unwrap();
        assert!(matches!(beat.message, Some(Up::Heartbeat(_))));
    }
    // One that was on its way when the participant left.
    session.say(Down::Calls(Calls { batch: 2, calls: vec![call(2, Try, 1)] })).await;
    world.gate.pass.add_permits(2);
    let mut held = Vec::new();
    while let Some(Up::Replies(replies)) = session.hear().await {
        held.push((replies.batch, answers(replies.replies)));
    }
    assert_eq!(held, [(1, vec![done("held")]), (2, vec![done("held")])]);
}

#[tokio::test]
async fn a_database_that_hangs_in_forgetting_holds_up_neither_the_next_session_nor_the_stop() {
    let mut world = World::start(100).await;
    let mut session = world.next().await;
    session.welcome(5_000).await;
    // SQLite waits for it longer than this test does.
    let hangs = world.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let forget = || Down::Forget(Forget { floor_ms: 10, xids: vec![vec![1; 16].into()] });
    session.say(forget()).await;
    session.say(Down::Audit(Audit { round: 1, from: Vec::new() })).await;
    assert!(matches!(session.hear().await, Some(Up::Audited(_))), "by now it is at it");
    let begun = Instant::now();
    drop(session);
    let mut session = world.next().await;
    session.welcome(5_000).await;
    session.say(forget()).await;
    world.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(hangs);
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

/// A batch of one call, signed by whoever has `signing`.
fn sealed(signing: &mut Signing, batch: u64, call: Call) -> Signed {
    let calls = Down::Calls(Calls { batch, calls: vec![call] });
    let message = OpenResponse { message: Some(calls) }.encode_to_vec();
    let (number, signature) = signing.sign(&message);
    Signed { number, message: message.into(), signature: signature.into() }
}

fn confirm() -> Call {
    Call { not_after_ms: u64::MAX, ..call(1, Confirm, 7) }
}

async fn confirmed(pool: &Pool<Sqlite>) -> i64 {
    let sql = "SELECT COUNT(*) FROM tercet_fence WHERE state = 2";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_forged_replayed_or_expired_confirm_is_refused() {
    let (mut world, key) = World::start_signed().await;
    let forged = |mut signed: Signed| {
        let mut bytes = signed.message.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        signed.message = bytes.into();
        signed
    };
    let mut session = world.next().await;
    let mut signing = session.welcome_signed(&key).await;
    session.say(Down::Signed(sealed(&mut signing, 1, Call { not_after_ms: u64::MAX, ..call(1, Try, 7) }))).await;
    let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
    assert_eq!(answers(replies.replies), [done("held")]);

    // Past its time it is answered with not now, whoever has signed it.
    let expired = Call { not_after_ms: 10, ..confirm() };
    session.say(Down::Signed(sealed(&mut signing, 2, expired))).await;
    let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
    assert_eq!(answers(replies.replies), [Answer::NotNowMs(0)]);
    assert_eq!(confirmed(&world.pool).await, 0);

    session.say(Down::Signed(forged(sealed(&mut signing, 3, confirm())))).await;
    assert!(session.ends().await, "the session ends at once");
    // What is not signed is forged: so is a time that would let an expired call run, or one to forget the fence by.
    for unsigned in [
        Down::Calls(Calls { batch: 1, calls: vec![confirm()] }),
        Down::Heartbeat(Heartbeat { now_ms: 0 }),
        Down::Forget(Forget { floor_ms: 10, xids: Vec::new() }),
        Down::Audit(Audit::default()),
    ] {
        let mut session = world.next().await;
        session.welcome_signed(&key).await;
        session.say(unsigned.clone()).await;
        assert!(session.ends().await, "{unsigned:?}");
    }
    let mut session = world.next().await;
    session.welcome_signed(&Key::new([0; 32])).await;
    let mut stranger = Key::new([0; 32]).session("shop", [&[1; NONCE_BYTES], &[9; NONCE_BYTES]], 1_000);
    session.say(Down::Signed(sealed(&mut stranger, 1, confirm()))).await;
    assert!(session.ends().await, "another key is not the coordinator's");
    assert_eq!(confirmed(&world.pool).await, 0);

    let mut session = world.next().await;
    let mut signing = session.welcome_signed(&key).await;
    let once = sealed(&mut signing, 1, confirm());
    session.say(Down::Signed(once.clone())).await;
    let Some(Up::Replies(replies)) = session.hear().await else { panic!("no replies") };
    assert!(matches!(answers(replies.replies)[..], [Answer::Done(_)]));
    assert_eq!(confirmed(&world.pool).await, 1);
    session.say(Down::Signed(once.clone())).await;
    assert!(session.ends().await, "a replay ends the session");
    // Nor in a later session, whose nonces are others.
    let mut session = world.next().await;
    session.welcome_signed(&key).await;
    session.say(Down::Signed(once)).await;
    assert!(session.ends().await, "a replay from another session does too");
    drop(session);
    world.next().await.welcome_signed(&key).await;
}

#[tokio::test]
async fn a_coordinator_that_does_not_sign_is_refused() {
    let (mut world, key) = World::start_signed().await;
    let mut session = world.next().await;
    session.welcome(60_000).await;
    assert!(session.ends().await);
    world.next().await.welcome_signed(&key).await;
}
