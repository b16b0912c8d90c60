//! `tercet.participant.v1.Sessions`: what participants open.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tercet_proto::participant::v1 as pb;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::participant::v1::sessions_server::Sessions as Contract;
use tercet_secure::sign::{NONCE_BYTES, Session as Signing};
use tercet_secure::token::random;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::errors;
use crate::clock::{Clock, SystemClock};
use crate::limits;
use crate::plan::{Invalid, check_name};
use crate::request::{Error, Input};
use crate::session::{Refusal, SessionId, Sessions};
use crate::tokens::{Identity, Role};

/// The first message has to come within this time.
const REGISTER_MS_MAX: u64 = 5_000;

/// How often each side says that it is there.
const HEARTBEAT_MS: u32 = 1_000;

/// Silence for this long, and the session is gone.
const SILENCE_MS_MAX: u32 = 5_000;

/// The service. Clones are one.
#[derive(Clone)]
pub struct Service {
    sessions: Sessions,
    inbox: mpsc::Sender<Input>,
    clock: SystemClock,
}

impl Service {
    /// In front of the sessions and of the driver that calls them.
    pub fn new(sessions: Sessions, inbox: mpsc::Sender<Input>, clock: SystemClock) -> Self {
        Self { sessions, inbox, clock }
    }
}

/// What a participant sends, whatever carries it.
pub trait Uplink: Stream<Item = Result<pb::OpenRequest, Status>> + Unpin + Send + 'static {}

impl<U: Stream<Item = Result<pb::OpenRequest, Status>> + Unpin + Send + 'static> Uplink for U {}

type Streamed = Pin<Box<dyn Stream<Item = Result<pb::OpenResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Contract for Service {
    type OpenStream = Streamed;

    async fn open(&self, request: Request<Streaming<pb::OpenRequest>>) -> Result<Response<Self::OpenStream>, Status> {
        let identity = request.extensions().get::<Arc<Identity>>().cloned();
        Ok(Response::new(Box::pin(self.session_of(identity.as_deref(), request.into_inner()).await?)))
    }
}

impl Service {
    /// Opens a session of anybody: what comes back goes down to the participant.
    ///
    /// # Errors
    /// When it does not register as it must. The status tells the participant why.
    pub async fn session<U: Uplink>(&self, up: U) -> Result<ReceiverStream<Result<pb::OpenResponse, Status>>, Status> {
        self.session_of(None, up).await
    }

    /// The same of somebody known, who may be only the services of its token.
    ///
    /// # Errors
    /// When it does not register as it must. The status tells the participant why.
    async fn session_of<U: Uplink>(
        &self,
        identity: Option<&Identity>,
        mut up: U,
    ) -> Result<ReceiverStream<Result<pb::OpenResponse, Status>>, Status> {
        let first = tokio::time::timeout(Duration::from_millis(REGISTER_MS_MAX), up.next()).await;
        let Ok(Some(Ok(pb::OpenRequest { message: Some(Up::Register(register)) }))) = first else {
            let limit = format!("the first message, within {REGISTER_MS_MAX} ms");
            return Err(errors::status(&Invalid { field: "register".into(), limit }.into()));
        };
        check(&register).map_err(|error| errors::status(&error))?;
        // A batch in each place of the window, and what else may be on its way.
        let (down, responses) = mpsc::channel(limits::WINDOW_MAX as usize + 4);
        let now_ms = self.clock.now().0;
        let (nonce, signing) = signed(&register, now_ms, identity)?;
        let registered = pb::Registered { heartbeat_ms: HEARTBEAT_MS, silence_max_ms: SILENCE_MS_MAX, now_ms, nonce };
        // An empty channel has room.
        drop(down.try_send(Ok(pb::OpenResponse { message: Some(Down::Registered(registered)) })));
        let added = self.sessions.add(&register, down.clone(), signing);
        let (id, first) = added.map_err(|refusal| refused(&refusal))?;
        info!(service = register.service, instance = register.instance, version = register.version, "session opened");
        let served = Served { service: self.clone(), name: register.service, instance: register.instance, id, down };
        tokio::spawn(served.run(up, first));
        Ok(ReceiverStream::new(responses))
    }
}

/// The own nonce and the session's key, where the participant wants signatures and may be this service at all.
fn signed(
    register: &pb::Register,
    now_ms: u64,
    identity: Option<&Identity>,
) -> Result<(Bytes, Option<Signing>), Status> {
    let key = match identity {
        None => None,
        Some(Identity { role: Role::Participant { services, key }, .. }) if services.contains(&register.service) => {
            key.as_ref()
        }
        Some(Identity { name, .. }) => {
            return Err(errors::denied(name, &format!("register the service {}", register.service)));
        }
    };
    // Without a nonce of the coordinator's the participant knows that it gets no signatures, and refuses that.
    let Some(key) = key.filter(|_| !register.nonce.is_empty()) else { return Ok((Bytes::new(), None)) };
    let nonce = random::<NONCE_BYTES>().map_err(|error| Status::unavailable(error.to_string()))?;
    let signing = key.session(&register.service, [&register.nonce, &nonce], now_ms);
    Ok((Bytes::copy_from_slice(&nonce), Some(signing)))
}

fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::OtherFence { .. } => Status::failed_precondition(refusal.to_string()),
        Refusal::TooMany(limit) => errors::status(&Error::Overloaded { what: "sessions", limit: *limit }),
    }
}

fn check(register: &pb::Register) -> Result<(), Error> {
    check_name(&register.service, || "register.service".into())?;
    for (at, action) in register.actions.iter().enumerate() {
        check_name(&action.name, || format!("register.actions[{at}].name"))?;
    }
    if register.actions.is_empty() || register.actions.len() > limits::BRANCHES_MAX {
        let limit = format!("1 to {}", limits::BRANCHES_MAX);
        return Err(Invalid { field: "register.actions".into(), limit }.into());
    }
    for (field, text) in [("register.instance", &register.instance), ("register.version", &register.version)] {
        if text.len() > limits::KEY_BYTES_MAX {
            let limit = format!("at most {} bytes", limits::KEY_BYTES_MAX);
            return Err(Invalid { field: field.into(), limit }.into());
        }
    }
    if register.fence_id.len() != 16 {
        return Err(Invalid { field: "register.fence_id".into(), limit: "16 bytes".into() }.into());
    }
    if !matches!(register.nonce.len(), 0 | NONCE_BYTES) {
        return Err(Invalid { field: "register.nonce".into(), limit: format!("none, or {NONCE_BYTES} bytes") }.into());
    }
    Ok(())
}

/// One open session.
struct Served {
    service: Service,
    name: String,
    instance: String,
    id: SessionId,
    down: crate::session::Down,
}

impl Served {
    /// `first`: how long to wait until the driver hears that its service is there, if it does not know.
    async fn run<U: Uplink>(self, mut up: U, first: Option<Duration>) {
        let mut untold = first.map(|delay| Box::pin(tokio::time::sleep(delay)));
        let why = self.listen(&mut up, &mut untold).await;
        let unanswered = self.service.sessions.remove(&self.name, self.id, why);
        let calls = unanswered.len();
        if calls > 0 {
            warn!(service = self.name, instance = self.instance, why, calls, "session closed with unanswered calls");
        } else {
            info!(service = self.name, instance = self.instance, why, "session closed");
        }
        // When the driver is gone so is everyone who could wait.
        let mut unanswered = unanswered.into_iter().peekable();
        while unanswered.peek().is_some() {
            let some = unanswered.by_ref().take(limits::WAKE_MAX).collect();
            drop(self.service.inbox.send(Input::Replies(some)).await);
        }
        // Those that came meanwhile were not the first, and rely on this one to tell.
        if untold.is_some() && self.service.sessions.has(&self.name) {
            drop(self.service.inbox.send(Input::Connected { service: self.name.clone() }).await);
        }
    }

    /// Until the session ends; says why.
    async fn listen<U: Uplink>(&self, up: &mut U, untold: &mut Option<Pin<Box<Sleep>>>) -> &'static str {
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS.into()));
        let silence_max = Duration::from_millis(SILENCE_MS_MAX.into());
        let mut heard = Instant::now();
        loop {
            // In this order: a simulation can run it again, and what came while this process stood still is heard
            // before anyone is called silent.
            tokio::select! {
                biased;
                () = self.service.inbox.closed() => return "the coordinator stops",
                () = self.down.closed() => return "it reads no more",
                message = up.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(pb::OpenRequest { message: Some(message) })) => {
                            if let Err(why) = self.hear(message).await {
                                // It is told so that a person can mend it; a full stream ends without a word.
                                drop(self.down.try_send(Err(Status::invalid_argument(why))));
                                return why;
                            }
                        }
                        Some(Ok(_)) => return "it sent an empty message",
                        Some(Err(_)) => return "the connection broke",
                        None => return "it closed the stream",
                    }
                }
                () = async { if let Some(delay) = untold.as_mut() { delay.await } }, if untold.is_some() => {
                    *untold = None;
                    let connected = Input::Connected { service: self.name.clone() };
                    if self.service.inbox.send(connected).await.is_err() {
                        return "the coordinator stops";
                    }
                }
                _ = beat.tick() => {
                    if heard.elapsed() > silence_max {
                        return "it was silent for too long";
                    }
                    if !self.service.sessions.beat(&self.name, self.id) {
                        return "it does not read";
                    }
                }
            }
        }
    }

    async fn hear(&self, message: Up) -> Result<(), &'static str> {
        match message {
            Up::Replies(replies) => {
                let answers = self.service.sessions.answer(&self.name, self.id, replies);
                let answers = answers.ok_or("it answered a batch that it does not have")?;
                // Without a driver the session is about to end.
                drop(self.service.inbox.send(Input::Replies(answers)).await);
                Ok(())
            }
            Up::Heartbeat(_) => Ok(()),
            Up::Audited(audited) => {
                self.service.sessions.audited(&self.name, audited);
                Ok(())
            }
            Up::Leaving(_) => {
                self.service.sessions.leave(&self.name, self.id);
                Ok(())
            }
            Up::Register(_) => Err("it registered twice"),
        }
    }
}

impl Drop for Served {
    /// However its task ends: what goes down a session that nobody reads has no answer.
    fn drop(&mut self) {
        let unanswered = self.service.sessions.remove(&self.name, self.id, "its task failed");
        if !unanswered.is_empty() {
            // A driver without room or that is gone finds out by the time-outs of the calls.
            drop(self.service.inbox.try_send(Input::Replies(unanswered)));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    type Up = mpsc::Sender<Result<pb::OpenRequest, Status>>;

    /// A session of one more instance.
    async fn open(service: &Service) -> (Up, ReceiverStream<Result<pb::OpenResponse, Status>>) {
        let (up, requests) = mpsc::channel(4);
        let register = pb::Register {
            service: "shop".into(),
            fence_id: Bytes::from_static(&[1; 16]),
            actions: vec![pb::Action { name: "act".into(), ..pb::Action::default() }],
            ..pb::Register::default()
        };
        let message = Some(super::Up::Register(register));
        up.send(Ok(pb::OpenRequest { message })).await.expect("it is read");
        let down = service.session(ReceiverStream::new(requests)).await.expect("it registers");
        (up, down)
    }

    #[tokio::test]
    async fn a_session_whose_task_fails_is_gone() {
        let clock = SystemClock::start();
        let (inbox, _inputs) = mpsc::channel(16);
        let service = Service::new(Sessions::new(clock.clone()), inbox, clock);
        let (down, _responses) = mpsc::channel(4);
        let register = pb::Register { service: "shop".into(), ..pb::Register::default() };
        let (id, _) = service.sessions.add(&register, down.clone(), None).expect("there is room");
        assert!(service.sessions.has("shop"));
        let (name, instance) = ("shop".into(), String::new());
        drop(Served { service: service.clone(), name, instance, id, down });
        assert!(!service.sessions.has("shop"));
    }

    async fn told(inbox: &mut mpsc::Receiver<Input>) -> bool {
        let input = timeout(Duration::from_secs(3), inbox.recv()).await;
        matches!(input, Ok(Some(Input::Connected { service })) if service == "shop")
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_while_the_first_has_not_told_yet_does_not_rely_on_it_in_vain() {
        let clock = SystemClock::start();
        let (inbox, mut inputs) = mpsc::channel(16);
        let service = Service::new(Sessions::new(clock.clone()), inbox, clock);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let gone = open(&service).await;
        assert!(told(&mut inputs).await, "nobody was there");
        drop(gone);
        while service.sessions.has("shop") {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let flapping = open(&service).await;
        let _stays = open(&service).await;
        drop(flapping);
        assert!(told(&mut inputs).await, "one is there");
    }
}
