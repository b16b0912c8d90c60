//! A session with one coordinator: registers, runs the batches that come down and sends their replies up.
//!
//! A session that ends, for whatever reason, is opened again until the service stops. Batches that were running are
//! finished first: their replies are lost, and the fence answers when the coordinator asks again. Forgetting and
//! audits are not: what is left of them comes again.

use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tercet_proto::participant::v1::{
    Audit, Calls, Forget, Heartbeat, Leaving, OpenRequest, OpenResponse, Register, Registered, Replies, Signed,
};
use tercet_secure::client::{Credentials, Target};
use tercet_secure::sign::{NONCE_BYTES, Refusal, Session as Signing};
use tercet_secure::token::random;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tracing::{error, info, warn};

use crate::batch::{Executor, Rest};
use crate::fence::Dialect;
use crate::retry::reconnect_delays;
use crate::service::is_set;
use crate::xid::Xid;

/// From the first packet to the coordinator's welcome.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// Between attempts of a registration that the coordinator refuses.
const REFUSED_DELAY: Duration = Duration::from_millis(500);
/// For the last replies to leave before the process does.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Messages that wait for the connection; a session that falls this far behind is given up.
const UP_QUEUE: usize = 64;
/// The most bytes of one batch.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a session ended before the service stopped.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the coordinator can not be reached")]
    Unreachable(#[source] tonic::transport::Error),
    /// Nothing will change until a person changes the service or its database.
    #[error("the coordinator refuses this service: {}", .0.message())]
    Refused(Status),
    #[error("the session broke: {}", .0.message())]
    Broke(Status),
    #[error("the coordinator closed the session")]
    Closed,
    #[error("the coordinator was silent for {0:?}")]
    Silent(Duration),
    #[error("the coordinator takes no replies")]
    Stuck,
    /// Somebody is in between, or the coordinator has another key. Nothing of the message was run.
    #[error(transparent)]
    Untrusted(#[from] Refusal),
    #[error("the coordinator does not sign what it sends: its tokens have no key for this service")]
    Unsigned,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        if matches!(
            status.code(),
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied
        ) {
            Self::Refused(status)
        } else {
            Self::Broke(status)
        }
    }
}

/// Where a coordinator is, and how it is spoken to.
pub(crate) struct Coordinator {
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
}

/// Holds a session with this coordinator until `stop` says so. `registered` is set at the first
/// welcome.
pub(crate) async fn hold<Db: Dialect>(
    executor: &Executor<Db>,
    coordinator: Coordinator,
    register: Register,
    registered: &watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let address = coordinator.target.uri().to_string();
    let mut delays = reconnect_delays();
    let mut reported = String::new();
    while !*stop.borrow() {
        let mut welcomed = false;
        let session = Session { executor, coordinator: &coordinator, address: &address };
        let ended = match session.run(&register, registered, &mut welcomed, &mut stop).await {
            Ok(()) => break,
            // It breaks as well when the coordinator, told to stop too, was quicker.
            Err(_) if *stop.borrow() => break,
            Err(ended) => ended,
        };
        if welcomed {
            delays = reconnect_delays();
            reported.clear();
        }
        // Once for each cause: an hour of attempts must not fill the log.
        let text = ended.to_string();
        if text != reported {
            match &ended {
                Ended::Refused(status) => error!(address, error = status.message(), "registration refused"),
                Ended::Untrusted(_) | Ended::Unsigned => {
                    error!(address, error = text, "the session is not to be trusted")
                }
                Ended::Unreachable(_) | Ended::Broke(_) | Ended::Closed | Ended::Silent(_) | Ended::Stuck => {
                    warn!(address, error = text, "no session, trying again");
                }
            }
            reported = text;
        }
        let delay = match ended {
            Ended::Refused(_) | Ended::Untrusted(_) | Ended::Unsigned => REFUSED_DELAY,
            Ended::Unreachable(_) | Ended::Broke(_) | Ended::Closed | Ended::Silent(_) | Ended::Stuck => {
                delays.next().unwrap_or(REFUSED_DELAY)
            }
        };
        let _ = timeout(delay, is_set(&mut stop)).await;
    }
}

struct Session<'a, Db: Dialect> {
    executor: &'a Executor<Db>,
    coordinator: &'a Coordinator,
    address: &'a str,
}

impl<'a, Db: Dialect> Session<'a, Db> {
    /// Ends well only when the service stops.
    async fn run(
        &self,
        register: &Register,
        registered: &watch::Sender<bool>,
        welcomed: &mut bool,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let (up, from_us) = mpsc::channel(UP_QUEUE);
        let opened = tokio::select! {
            biased;
            () = is_set(stop) => return Ok(()),
            opened = timeout(OPEN_MAX, self.open(register.clone(), &up, from_us)) => opened,
        };
        let (mut down, welcome, mut signing) = opened.unwrap_or(Err(Ended::Silent(OPEN_MAX)))?;
        *welcomed = true;
        self.executor.greet(welcome.now_ms);
        registered.send_replace(true);
        info!(address = self.address, service = register.service, "session registered");
        let mut batches = FuturesUnordered::new();
        let ended = self.serve(&up, (&mut down, &mut signing), &welcome, &mut batches, stop).await;
        // Of a broken session there is nobody to take the replies. What goes on beside batches is not waited for: a
        // database that hangs would keep all the others from their calls.
        while batches.next().await.is_some() {}
        drop(up);
        if ended.is_ok() {
            let drained = async { while let Ok(Some(_)) = down.message().await {} };
            let _ = timeout(CLOSE_MAX, drained).await;
        }
        ended
    }

    async fn open(
        &self,
        mut register: Register,
        up: &mpsc::Sender<OpenRequest>,
        from_us: mpsc::Receiver<OpenRequest>,
    ) -> Result<(Streaming<OpenResponse>, Registered, Option<Signing>), Ended> {
        let Coordinator { target, credentials } = self.coordinator;
        let key = credentials.key();
        if key.is_some() {
            let nonce = random::<NONCE_BYTES>().map_err(|error| Ended::Broke(Status::internal(error.to_string())))?;
            register.nonce = nonce.to_vec().into();
        }
        let (service, nonce) = (register.service.clone(), register.nonce.clone());
        send(up, Up::Register(register))?;
        let channel = target.connect().await.map_err(Ended::Unreachable)?;
        let mut client = SessionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(ReceiverStream::new(from_us));
        credentials.authorize(request.metadata_mut());
        let mut down = client.open(request).await?.into_inner();
        match down.message().await?.and_then(|first| first.message) {
            Some(Down::Registered(registered)) if key.is_some() && registered.nonce.len() != NONCE_BYTES => {
                Err(Ended::Unsigned)
            }
            Some(Down::Registered(registered)) => {
                let signing = key.map(|key| key.session(&service, [&nonce, &registered.nonce], registered.now_ms));
                Ok((down, registered, signing))
            }
            Some(Down::Calls(_) | Down::Heartbeat(_) | Down::Forget(_) | Down::Audit(_) | Down::Signed(_)) => {
                Err(Ended::Broke(Status::internal("the first message is not a welcome")))
            }
            None => Err(Ended::Closed),
        }
    }

    /// From the welcome until the service stops and all batches are answered. What goes on after its answer, in a
    /// database that is late, is rolled back then.
    async fn serve(
        &self,
        up: &mpsc::Sender<OpenRequest>,
        (down, signing): (&mut Streaming<OpenResponse>, &mut Option<Signing>),
        welcome: &Registered,
        batches: &mut FuturesUnordered<BoxFuture<'a, (Up, Rest<'a>)>>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let mut beside = FuturesUnordered::<BoxFuture<'a, Option<Up>>>::new();
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(1)));
        let silence_max = Duration::from_millis(u64::from(welcome.silence_max_ms)).max(beat);
        let mut beats = interval_at(Instant::now() + beat, beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut leaving = false;
        while !leaving || !batches.is_empty() {
            tokio::select! {
                biased;
                () = is_set(stop), if !leaving => {
                    send(up, Up::Leaving(Leaving {}))?;
                    leaving = true;
                }
                Some((replies, rest)) = batches.next(), if !batches.is_empty() => {
                    send(up, replies)?;
                    if !rest.is_empty() {
                        beside.push(rest.for_each(|_| ready(())).map(|()| None).boxed());
                    }
                }
                Some(finished) = beside.next(), if !beside.is_empty() => {
                    if let Some(message) = finished {
                        send(up, message)?;
                    }
                }
                message = down.message() => {
                    heard = Instant::now();
                    match opened(message?.ok_or(Ended::Closed)?, signing)? {
                        Some(Down::Calls(calls)) => batches.push(self.run_batch(calls)),
                        Some(Down::Forget(forget)) => beside.push(self.forget(forget)),
                        Some(Down::Audit(audit)) => beside.push(self.audit(audit)),
                        Some(Down::Heartbeat(heartbeat)) => self.executor.hear(heartbeat.now_ms),
                        Some(Down::Registered(_) | Down::Signed(_)) | None => {}
                    }
                }
                _ = beats.tick() => send(up, Up::Heartbeat(Heartbeat::default()))?,
                () = sleep_until(heard + silence_max) => return Err(Ended::Silent(silence_max)),
            }
        }
        Ok(())
    }

    fn run_batch(&self, Calls { batch, calls }: Calls) -> BoxFuture<'a, (Up, Rest<'a>)> {
        let executor = self.executor;
        async move {
            let (replies, rest) = executor.run_in_time(calls).await;
            (Up::Replies(Replies { batch, replies }), rest)
        }
        .boxed()
    }

    fn audit(&self, audit: Audit) -> BoxFuture<'a, Option<Up>> {
        let executor = self.executor;
        async move { Some(Up::Audited(executor.audit(audit).await)) }.boxed()
    }

    fn forget(&self, Forget { floor_ms, xids }: Forget) -> BoxFuture<'a, Option<Up>> {
        let xids = xids.iter().filter_map(|xid| Xid::from_slice(xid)).collect();
        self.executor.forget(floor_ms, xids).map(|()| None).boxed()
    }
}

/// What is in a message, past its signature where the session has them.
fn opened(message: OpenResponse, signing: &mut Option<Signing>) -> Result<Option<Down>, Ended> {
    match (message.message, signing) {
        (Some(Down::Signed(Signed { number, message, signature })), Some(signing)) => {
            signing.verify(number, &message, &signature)?;
            let inner = OpenResponse::decode(message).map_err(|error| Status::internal(error.to_string()))?;
            Ok(inner.message)
        }
        (Some(Down::Calls(_) | Down::Forget(_) | Down::Heartbeat(_) | Down::Audit(_)), Some(_)) => {
            Err(Refusal::Forged.into())
        }
        (Some(Down::Signed(_)), None) => Err(Ended::Broke(Status::internal("a signature that nobody asked for"))),
        (message, _) => Ok(message),
    }
}

fn send(up: &mpsc::Sender<OpenRequest>, message: Up) -> Result<(), Ended> {
    up.try_send(OpenRequest { message: Some(message) }).map_err(|_| Ended::Stuck)
}

#[cfg(test)]
mod tests;
