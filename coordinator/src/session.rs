//! Sessions of participants: they connect, register, and are called down the stream that they opened.
//!
//! Calls for a service wait in one queue; whichever of its sessions has room takes the next batch, so load is shared
//! and a lost session's untaken calls are another's. A session never has more calls than it said it takes, and a queue
//! is bounded: a service that answers nothing costs the others nothing. Built as the [`Caller`] of the driver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tercet_core::{Reply, Timestamp, Xid};
use tercet_proto::participant::v1 as pb;
use tercet_proto::participant::v1::open_response::Message;
use tercet_proto::store::v1::Plan;
use tercet_secure::sign::Session as Signing;
use tercet_secure::token::hex;
use tokio::sync::mpsc;
use tonic::Status;

use self::wire::{encode, parse, sealed};
use crate::auditor::Auditor;
use crate::caller::{Caller, Incoming, Outgoing};
use crate::canary;
use crate::clock::{Clock, SystemClock};
use crate::limits;
use crate::metrics::ServiceMetrics;
use crate::store::CANARY_MODE;

mod audits;
mod canaries;
mod health;
mod load;
mod wire;

use canaries::Canary;
pub use health::{Failure, Health, Instance, State};

/// A queue that is shorter is not searched for what nobody waits for any more.
const SWEEP_MIN: usize = 4_096;

/// What goes down a session.
pub type Down = mpsc::Sender<Result<pb::OpenResponse, Status>>;

/// One session among those of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The number of this one.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl From<u64> for SessionId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

struct Session {
    id: SessionId,
    instance: String,
    version: String,
    window: usize,
    /// Most calls without an answer.
    concurrency: usize,
    /// Calls without an answer.
    outstanding: usize,
    leaving: bool,
    down: Down,
    /// Set where the participant takes nothing unsigned.
    signing: Option<Signing>,
    batches: Vec<Batch>,
    /// Number of its last batch.
    last: u64,
    canary: Canary,
    /// What it conserves, and tells the auditor of.
    invariants: Vec<String>,
}

/// A batch that has no answer yet.
struct Batch {
    number: u64,
    sent_at: Duration,
    calls: Vec<Outgoing>,
}

/// A call that no session has taken yet.
struct Queued {
    at: Duration,
    outgoing: Outgoing,
}

struct Service {
    fence_id: Bytes,
    queue: VecDeque<Queued>,
    /// The length at which the queue is next searched for calls that nobody waits for any more.
    sweep_at: usize,
    /// When the oldest of its sessions came.
    back_at: Duration,
    /// When it last answered, or came.
    answered_at: Duration,
    pace: load::Pace,
    sessions: Vec<Session>,
    /// Calls that have waited for longer than they may, and whom nobody has told yet.
    expired: Vec<Outgoing>,
    /// What has ended, by the time after which nobody can begin anything for it.
    forget: BTreeSet<(Timestamp, Xid)>,
    dirty: bool,
    /// Canaries that wait for a place in the window of their session.
    canaries: usize,
    sent: Sent,
    replies: [u64; 4],
    /// What went wrong last.
    failure: Option<Failure>,
    metrics: ServiceMetrics,
}

#[derive(Default)]
struct Inner {
    services: BTreeMap<String, Service>,
    dirty: Vec<String>,
    next: u64,
    /// When the first call since the last flush came.
    now: Duration,
    /// When a participant last answered, or came. It never moves back, whoever leaves.
    heard_at: Duration,
}

/// All sessions. Clones are one.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Mutex<Inner>>,
    auditor: Arc<Mutex<Auditor>>,
    clock: SystemClock,
}

/// What went down to participants since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Batches.
    pub batches: u64,
    /// The calls in them.
    pub calls: u64,
}

/// Why a participant may not register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Instances of one service share their databases.
    #[error("fence_id: {service} is registered with the fence {registered}, this instance has {given}")]
    OtherFence {
        /// Which service.
        service: String,
        /// The fence that its other instances have.
        registered: String,
        /// The fence of the one that is refused.
        given: String,
    },
    /// There are too many.
    #[error("sessions: the limit of {0} is reached")]
    TooMany(usize),
}

impl Sessions {
    /// None yet.
    pub fn new(clock: SystemClock) -> Self {
        Self { inner: Arc::default(), auditor: Arc::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it; if something did, the maps are still maps.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session. The second value: the service had none before, and what waits for it may be woken so much later.
    ///
    /// # Errors
    /// When it has another fence than its siblings, or there is no room.
    pub fn add(
        &self,
        register: &pb::Register,
        down: Down,
        signing: Option<Signing>,
    ) -> Result<(SessionId, Option<Duration>), Refusal> {
        let monotonic = self.clock.monotonic();
        let mut inner = self.lock();
        if inner.services.values().map(|service| service.sessions.len()).sum::<usize>() >= limits::SESSIONS_MAX {
            return Err(Refusal::TooMany(limits::SESSIONS_MAX));
        }
        if !inner.services.contains_key(&register.service) && inner.services.len() >= limits::SERVICES_MAX {
            return Err(Refusal::TooMany(limits::SERVICES_MAX));
        }
        inner.next += 1;
        let id = SessionId(inner.next);
        let service = inner.services.entry(register.service.clone()).or_insert_with(|| Service {
            fence_id: register.fence_id.clone(),
            queue: VecDeque::new(),
            sweep_at: SWEEP_MIN,
            back_at: Duration::ZERO,
            answered_at: Duration::ZERO,
            pace: load::Pace::default(),
            sessions: Vec::new(),
            expired: Vec::new(),
            forget: BTreeSet::new(),
            dirty: false,
            canaries: 0,
            sent: Sent::default(),
            replies: [0; 4],
            failure: None,
            metrics: ServiceMetrics::new(&register.service),
        });
        if service.sessions.is_empty() {
            // Nobody else holds the old one: a service may move to another database while it is down.
            service.fence_id = register.fence_id.clone();
        } else if service.fence_id != register.fence_id {
            return Err(Refusal::OtherFence {
                service: register.service.clone(),
                registered: hex(&service.fence_id),
                given: hex(&register.fence_id),
            });
        }
        let first = service.sessions.is_empty().then(|| {
            // One that comes and goes all the time costs those that wait for it, and the driver, no more than this.
            let flaps = service.back_at > Duration::ZERO;
            let quiet = service.back_at + Duration::from_millis(limits::FLAP_MS);
            (service.back_at, service.answered_at) = (monotonic, monotonic);
            if flaps { quiet.saturating_sub(monotonic) } else { Duration::ZERO }
        });
        let window = register.window.clamp(1, limits::WINDOW_MAX) as usize;
        let concurrency = match register.concurrency as usize {
            0 => window * limits::BATCH_CALLS_MAX,
            calls => calls.min(window * limits::BATCH_CALLS_MAX),
        };
        service.sessions.push(Session {
            id,
            instance: register.instance.clone(),
            version: register.version.clone(),
            window,
            concurrency,
            outstanding: 0,
            leaving: false,
            down,
            signing,
            batches: Vec::new(),
            last: 0,
            canary: Canary::new(monotonic),
            invariants: register.invariants.clone(),
        });
        inner.heard(&register.service, monotonic);
        Ok((id, first))
    }

    /// Takes a session away, which ended for this reason. What it had not answered is unknown; what nobody can take any
    /// more was not sent.
    pub fn remove(&self, name: &str, id: SessionId, why: &str) -> Vec<Incoming> {
        let mut inner = self.lock();
        let Some(service) = inner.services.get_mut(name) else { return Vec::new() };
        let now = self.clock.now();
        let gone: Vec<_> = service.sessions.extract_if(.., |session| session.id == id).collect();
        service.failure = gone.iter().find_map(|session| session.lost(why, now)).or_else(|| service.failure.take());
        let calls = gone.into_iter().flat_map(|session| session.batches).flat_map(|batch| batch.calls);
        let mut replies: Vec<_> = calls.map(|call| call.answered(Reply::Unknown)).collect();
        if service.sessions.is_empty() {
            replies.extend(service.queue.drain(..).map(|call| call.outgoing.answered(Reply::Unreachable)));
        }
        service.dispatch(now, self.clock.monotonic());
        replies.extend(service.unsent());
        replies
    }

    /// Gives a session no further batch.
    pub fn leave(&self, name: &str, id: SessionId) {
        if let Some(service) = self.lock().services.get_mut(name) {
            service.sessions.iter_mut().filter(|session| session.id == id).for_each(|session| session.leaving = true);
        }
    }

    /// Matches the answers to a batch with its calls, and lets the next batch go. `None`: there is no such batch.
    pub fn answer(&self, name: &str, id: SessionId, replies: pb::Replies) -> Option<Vec<Incoming>> {
        let mut inner = self.lock();
        let service = inner.services.get_mut(name)?;
        let session = service.sessions.iter_mut().find(|session| session.id == id)?;
        let at = session.batches.iter().position(|batch| batch.number == replies.batch)?;
        let batch = session.batches.remove(at);
        session.outstanding -= batch.calls.len();
        let now = self.clock.monotonic();
        if !service.queue.is_empty() {
            let since = service.answered_at.max(batch.sent_at);
            service.pace.answered(batch.calls.len(), now.saturating_sub(since));
        }
        service.answered_at = now;
        session.canary.lives(now);
        service.metrics.answered(now.saturating_sub(batch.sent_at));
        let given = replies.replies.into_iter().map(Some).chain(std::iter::repeat(None));
        let incoming = batch.calls.iter().zip(given).map(|(call, reply)| {
            if canary::session_of(call).is_some() {
                session.canary.answered(now);
                // Whatever it says, it has said something.
                return call.answered(Reply::Done);
            }
            let (reply, words) = parse(reply);
            service.metrics.replied(call.call.operation, reply);
            if let Some(text) = health::fault(call, reply, &words) {
                service.failure = Some(Failure { at: self.clock.now(), text });
            }
            service.replies[crate::metrics::reply_column(reply)] += 1;
            Incoming { words, ..call.answered(reply) }
        });
        let mut incoming: Vec<_> = incoming.collect();
        service.dispatch(self.clock.now(), now);
        incoming.extend(service.unsent());
        inner.heard(name, now);
        Some(incoming)
    }

    /// Tells a session the time, and what its service may forget by now. `false`: it has no room for that.
    pub fn beat(&self, name: &str, id: SessionId) -> bool {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(service) = inner.services.get_mut(name) else { return true };
        let Some(session) = service.sessions.iter_mut().find(|session| session.id == id) else { return true };
        let Ok(permit) = session.down.try_reserve() else { return false };
        permit.send(Ok(sealed(&mut session.signing, Message::Heartbeat(pb::Heartbeat { now_ms: now.0 }))));
        if service.forget.first().is_none_or(|(not_after, _)| *not_after >= now) {
            return true;
        }
        let Ok(permit) = session.down.try_reserve() else { return false };
        let mut forget = pb::Forget::default();
        while let Some((not_after, xid)) = service.forget.first().copied() {
            if not_after >= now || forget.xids.len() >= limits::FORGET_BATCH_MAX {
                break;
            }
            service.forget.pop_first();
            forget.floor_ms = forget.floor_ms.max(not_after.0);
            forget.xids.push(Bytes::copy_from_slice(&xid.0));
        }
        permit.send(Ok(sealed(&mut session.signing, Message::Forget(forget))));
        true
    }

    /// What went down to all services.
    pub fn sent(&self) -> Sent {
        let inner = self.lock();
        inner.services.values().fold(Sent::default(), |sum, service| Sent {
            batches: sum.batches + service.sent.batches,
            calls: sum.calls + service.sent.calls,
        })
    }
}

impl Service {
    /// Sends batches while there are calls and sessions with room. The session with the most room takes the next.
    fn dispatch(&mut self, now: Timestamp, monotonic: Duration) {
        if self.canaries > 0 {
            self.send_canaries(monotonic);
        }
        while !self.queue.is_empty() {
            let Some(session) = self.sessions.iter_mut().max_by_key(|session| session.free()) else { return };
            let (batches, calls) = session.free();
            if batches == 0 || calls == 0 {
                return;
            }
            let Ok(permit) = session.down.try_reserve() else {
                // Its stream is closed or stuck; silence or the end of the stream will remove it.
                session.leaving = true;
                continue;
            };
            let calls = next_batch((&mut self.queue, &mut self.expired), calls, now);
            if calls.is_empty() {
                continue;
            }
            self.sent.batches += 1;
            self.sent.calls += calls.len() as u64;
            self.metrics.sent(calls.len());
            permit.send(next_message(
                (&mut session.last, &mut session.outstanding, &mut session.batches),
                &mut session.signing,
                calls,
                monotonic,
            ));
        }
    }

    /// Answers what has waited for too long.
    fn unsent(&mut self) -> impl Iterator<Item = Incoming> {
        self.expired.drain(..).map(|call| call.answered(Reply::Unreachable))
    }
}

/// The next batch of a session, which counts as sent from here on.
fn next_message(
    (last, outstanding, batches): (&mut u64, &mut usize, &mut Vec<Batch>),
    signing: &mut Option<Signing>,
    calls: Vec<Outgoing>,
    sent_at: Duration,
) -> Result<pb::OpenResponse, Status> {
    *last += 1;
    *outstanding += calls.len();
    let message = pb::Calls { batch: *last, calls: calls.iter().map(encode).collect() };
    batches.push(Batch { number: *last, sent_at, calls });
    Ok(sealed(signing, Message::Calls(message)))
}

/// Takes at most so many calls off the queue, within the limits of a batch. What may no longer begin has expired.
fn next_batch(
    (queue, expired): (&mut VecDeque<Queued>, &mut Vec<Outgoing>),
    calls_max: usize,
    now: Timestamp,
) -> Vec<Outgoing> {
    let calls_max = calls_max.min(limits::BATCH_CALLS_MAX);
    let mut batch = Vec::with_capacity(queue.len().min(calls_max));
    let mut bytes = 0;
    while batch.len() < calls_max && bytes < limits::BATCH_BYTES_MAX {
        let Some(Queued { outgoing: call, .. }) = queue.pop_front() else { break };
        if call.call.not_after > now {
            bytes += call.plan.branches[usize::from(call.call.branch)].request.len();
            batch.push(call);
        } else {
            expired.push(call);
        }
    }
    batch
}

impl Caller for Sessions {
    fn call(&mut self, call: Outgoing) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let name = match canary::session_of(&call) {
            Some(id) if inner.ask(id, &call, self.clock.monotonic()) => return true,
            Some(_) => canary::NAME,
            None => call.service(),
        };
        let Some(service) = inner.services.get_mut(name) else { return false };
        if service.sessions.is_empty() {
            return false;
        }
        if inner.dirty.is_empty() {
            inner.now = self.clock.monotonic();
        }
        if !service.dirty {
            service.dirty = true;
            inner.dirty.push(name.to_owned());
        }
        if service.queue.len() >= service.sweep_at {
            service.sweep(self.clock.now());
        }
        service.queue.push_back(Queued { at: inner.now, outgoing: call });
        true
    }

    fn reaches(&self, service: &str) -> bool {
        self.lock().services.get(service).is_some_and(|service| !service.sessions.is_empty())
    }

    fn flush(&mut self) -> Vec<Incoming> {
        let mut inner = self.lock();
        let mut unsent = Vec::new();
        if inner.dirty.is_empty() {
            return unsent;
        }
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        for name in std::mem::take(&mut inner.dirty) {
            if let Some(service) = inner.services.get_mut(&name) {
                service.dirty = false;
                service.dispatch(now, monotonic);
                unsent.extend(service.unsent());
            }
        }
        unsent
    }

    fn forget(&mut self, xid: Xid, plan: &Plan, not_after: Timestamp) {
        if plan.mode == u32::from(CANARY_MODE) {
            return;
        }
        let mut inner = self.lock();
        for (at, branch) in plan.branches.iter().enumerate() {
            // A service with several branches hears of it once.
            if plan.branches[..at].iter().any(|before| before.service == branch.service) {
                continue;
            }
            if let Some(service) = inner.services.get_mut(&branch.service) {
                service.forget.insert((not_after, xid));
                if service.forget.len() > limits::FORGET_MAX {
                    // What has longest to wait goes: what is due soon is most of it.
                    service.forget.pop_last();
                }
            }
        }
    }
}
