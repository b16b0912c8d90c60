//! The network between a coordinator and its participants: loses, repeats, reorders and delays calls and answers, and
//! holds up or breaks the streams that carry them, each way by itself.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use tercet_coordinator::caller::{Caller, Incoming, Outgoing};
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_coordinator::request::Input;
use tercet_coordinator::session::Sessions;
use tercet_core::{Reply, Timestamp, Xid};
use tercet_proto::store::v1::Plan;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Victim;
use crate::faults::Fault;
use crate::world::{Direction, World};

/// A call on a detour, and how long that is.
pub(crate) type Late = (Duration, Outgoing);

/// The [`Caller`] of a simulated coordinator: its sessions, behind faults that befall single calls.
pub(crate) struct Network {
    world: World,
    sessions: Sessions,
    clock: SystemClock,
    late: mpsc::UnboundedSender<Late>,
}

impl Network {
    pub(crate) fn new(world: World, sessions: Sessions, clock: SystemClock) -> (Self, mpsc::UnboundedReceiver<Late>) {
        let (late, calls) = mpsc::unbounded_channel();
        (Self { world, sessions, clock, late }, calls)
    }
}

impl Caller for Network {
    fn call(&mut self, call: Outgoing) -> bool {
        let tx = self.world.tx(call.xid);
        let (branch, operation, attempt) = (call.call.branch, call.call.operation, call.call.attempt);
        let service = call.service().to_owned();
        let what = format_args!("{operation:?} of {tx} branch {branch} to {service}, attempt {attempt}");
        self.world.log(Victim::Coordinator, what);
        self.world.show(|watch| watch.called(self.clock.now(), &call));
        let connected = || self.sessions.connected().contains(&service);
        if self.world.fault(Fault::CallLost, 4) {
            return connected();
        }
        if self.world.fault(Fault::CallLate, 4) {
            // When the driver is gone, so is the call.
            drop(self.late.send((self.world.ms_below(3_000), call)));
            return connected();
        }
        if self.world.fault(Fault::CallRepeated, 4) {
            self.sessions.call(call.clone());
        }
        self.sessions.call(call)
    }

    fn reaches(&self, service: &str) -> bool {
        self.sessions.reaches(service)
    }

    fn flush(&mut self) -> Vec<Incoming> {
        self.sessions.flush()
    }

    fn forget(&mut self, xid: Xid, plan: &Plan, not_after: Timestamp) {
        self.world.log(Victim::Coordinator, format_args!("lets {} be forgotten", self.world.tx(xid)));
        self.sessions.forget(xid, plan, not_after);
    }
}

/// Makes the calls that took a detour.
pub(crate) async fn call_late(mut sessions: Sessions, mut late: mpsc::UnboundedReceiver<Late>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(call) = under_way.next(), if !under_way.is_empty() => {
                // Without a session, or too late for its time, it is lost.
                sessions.call(call);
                drop(sessions.flush());
            }
            next = late.recv() => {
                let Some((time, call)) = next else { return };
                under_way.push(async move {
                    sleep(time).await;
                    call
                });
            }
        }
    }
}

/// Takes what the sessions have for the driver to it. Single answers are lost, repeated, and overtaken by others.
pub(crate) async fn pass_on(world: World, mut from: mpsc::Receiver<Input>, inbox: mpsc::Sender<Input>) {
    while let Some(input) = from.recv().await {
        let input = match input {
            Input::Replies(replies) => {
                Input::Replies(replies.into_iter().flat_map(|reply| befall(&world, reply)).collect())
            }
            Input::Start { .. }
            | Input::AddBranch { .. }
            | Input::Finish { .. }
            | Input::Adopt { .. }
            | Input::Retry { .. }
            | Input::Wake { .. }
            | Input::Operate { .. }
            | Input::Look { .. }
            | Input::Connected { .. }
            | Input::Lease { .. } => input,
        };
        if inbox.send(input).await.is_err() {
            return;
        }
    }
}

/// What becomes of an answer: how often it arrives now.
fn befall(world: &World, reply: Incoming) -> Vec<Incoming> {
    let tx = world.tx(reply.xid);
    let what = format_args!("{:?} of {tx} branch {}: {:?}", reply.operation, reply.branch, reply.reply);
    world.log("answer", what);
    // That nothing was sent is no message.
    if reply.reply == Reply::Unreachable {
        return vec![reply];
    }
    if world.fault(Fault::AnswerLost, 4) {
        return Vec::new();
    }
    let late = if world.fault(Fault::AnswerLate, 4) {
        Some(world.ms_below(3_000))
    } else if world.fault(Fault::AnswerVeryLate, 1) {
        Some(Duration::from_secs(5) + world.ms_below(60_000))
    } else {
        None
    };
    if let Some(time) = late {
        let world = world.clone();
        // To whichever coordinator runs by then, which may know nothing of the call.
        tokio::spawn(async move {
            sleep(time).await;
            if let Some(inbox) = world.inbox() {
                drop(inbox.try_send(Input::Replies(vec![reply])));
            }
        });
        return Vec::new();
    }
    if world.fault(Fault::AnswerRepeated, 4) { vec![reply.clone(), reply] } else { vec![reply] }
}

/// One direction of a connection: everything arrives in order, unless the connection ends before. What the sender had
/// handed over before it went arrives all the same.
pub(crate) async fn carry<T>(
    world: World,
    (instance, direction): (usize, Direction),
    latency: Duration,
    mut from: impl Stream<Item = T> + Unpin,
    to: mpsc::Sender<T>,
) {
    let mut under_way: VecDeque<(Instant, T)> = VecDeque::new();
    let mut open = true;
    let mut latest = Instant::now();
    while open || !under_way.is_empty() {
        let cut = world.cut_until(instance, direction);
        let due = under_way.front().map(|(due, _)| cut.max(*due));
        tokio::select! {
            biased;
            () = to.closed() => return,
            () = sleep_until(due.unwrap_or(latest)), if due.is_some() => {
                if world.cut_until(instance, direction) > Instant::now() {
                    continue;
                }
                let Some((_, message)) = under_way.pop_front() else { continue };
                if to.send(message).await.is_err() {
                    return;
                }
            }
            next = from.next(), if open => match next {
                Some(message) => {
                    let more = if world.fault(Fault::MessageLate, 3) { 400_000 } else { 3_000 };
                    let due = Instant::now() + latency + Duration::from_micros(world.below(more));
                    latest = latest.max(due);
                    under_way.push_back((latest, message));
                }
                None => open = false,
            },
        }
    }
}

/// What befalls processes and connections as a whole, as long as there are faults.
pub(crate) async fn weather(world: World) {
    loop {
        sleep(Duration::from_millis(100 + world.below(1_400))).await;
        if !world.faulty() {
            return;
        }
        let instance = world.below(world.instances().len() as u64) as usize;
        let time = Duration::from_millis(200) + world.ms_below(9_000);
        match world.below(6) {
            0 if world.fault(Fault::LinkBroken, 100) => world.break_link(instance),
            1 if world.fault(Fault::CutDown, 100) => world.cut(instance, Direction::Down, time),
            2 if world.fault(Fault::CutUp, 100) => world.cut(instance, Direction::Up, time),
            3 if world.fault(Fault::ParticipantFrozen, 100) => world.freeze(instance, time * 3),
            _ => world.light(Victim::Participant(instance), world.below(20)),
        }
    }
}
