//! The network between a coordinator and its participants: loses, repeats, reorders, and keeps messages for a long
//! time.

use std::time::Duration;

use tercet_coordinator::caller::{Caller, Incoming, Outgoing};
use tercet_coordinator::live::Words;
use tercet_coordinator::request::Input;
use tercet_coordinator::scanner::Room;
use tercet_core::{Reply, Timestamp, Xid};
use tercet_proto::store::v1::Plan;
use tokio::time::sleep;

use super::{Planted, World};
use crate::sim::participant::Call;

/// The [`Caller`] of a simulated coordinator.
pub(super) struct Network {
    world: World,
}

impl Network {
    pub(super) fn new(world: World) -> Self {
        Self { world }
    }
}

/// Services that have a session.
pub(super) fn rooms(world: &World) -> Vec<Room> {
    let inner = world.lock();
    let connected = inner.services.iter().filter(|(_, service)| service.connected);
    connected.map(|(name, _)| Room { service: name.clone(), calls: 8, busy: 0 }).collect()
}

/// Every service has a session from now on.
pub(super) fn connect_all(world: &World) {
    let names: Vec<String> = world.lock().services.keys().cloned().collect();
    names.iter().for_each(|name| connect(world, name));
}

fn connect(world: &World, name: &str) {
    if let Some(service) = world.lock().services.get_mut(name) {
        service.connected = true;
    }
    if let Some(inbox) = world.inbox() {
        // Full or gone: then nobody waits for it there.
        drop(inbox.try_send(Input::Connected { service: name.to_owned() }));
    }
}

/// A service loses all its sessions for a while.
fn disconnect(world: &World, name: &str) {
    if let Some(service) = world.lock().services.get_mut(name) {
        service.connected = false;
    }
    let (world, name) = (world.clone(), name.to_owned());
    tokio::spawn(async move {
        sleep(Duration::from_millis(world.below(12_000))).await;
        connect(&world, &name);
    });
}

/// How long one message takes. One in a hundred is kept for longer than any time-out, some for minutes.
fn delay(world: &World) -> Duration {
    if world.fault("message very late", 1) {
        return Duration::from_millis(5_000 + world.below(120_000));
    }
    let ms = if world.fault("message late", 8) { 400 } else { 6 };
    Duration::from_micros(world.below(ms * 1_000))
}

impl Caller for Network {
    fn call(&mut self, call: Outgoing) -> bool {
        let name = call.service().to_owned();
        if self.world.fault("service gone", 1) {
            disconnect(&self.world, &name);
        }
        if !self.world.lock().services.get(&name).is_some_and(|service| service.connected) {
            return false;
        }
        let copies = if self.world.fault("call repeated", 5) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.world.fault("call lost", 5) {
                tokio::spawn(deliver(self.world.clone(), call.clone(), name.clone()));
            } else if self.world.planted == Some(Planted::UnknownIsRefused) {
                let reply = call.answered(Reply::Refused);
                tokio::spawn(answer(self.world.clone(), reply));
            }
        }
        true
    }

    fn flush(&mut self) {}

    fn forget(&mut self, xid: Xid, _plan: &Plan, not_after: Timestamp) {
        tokio::spawn(forget(self.world.clone(), xid, not_after));
    }
}

async fn deliver(world: World, outgoing: Outgoing, name: String) {
    sleep(delay(&world)).await;
    let branch = &outgoing.plan.branches[usize::from(outgoing.call.branch)];
    let call = Call {
        xid: outgoing.xid,
        branch: outgoing.call.branch,
        operation: outgoing.call.operation,
        tried: branch.operations & 1 != 0,
        not_after: outgoing.call.not_after,
    };
    let reply = super::participant::run(&world, &name, &call);
    if world.fault("answer lost", 5) {
        return;
    }
    let copies = if world.fault("answer repeated", 5) { 2 } else { 1 };
    for _ in 0..copies {
        let words = Words { reason: "simulated".into(), ..Words::default() };
        tokio::spawn(answer(world.clone(), Incoming { words, ..outgoing.answered(reply) }));
    }
}

/// To whichever coordinator runs by then, which may know nothing of the call.
async fn answer(world: World, reply: Incoming) {
    sleep(delay(&world)).await;
    world.happened("answer", reply.xid, u64::from(reply.branch) << 8 | reply.operation as u64);
    if let Some(inbox) = world.inbox() {
        // Full or gone: an answer that is lost.
        drop(inbox.try_send(Input::Replies(vec![reply])));
    }
}

/// As a session does it: once no call can begin any more, first the floor is raised, and a round later the rows go.
async fn forget(world: World, xid: Xid, not_after: Timestamp) {
    tercet_coordinator::clock::sleep_until(&world, not_after.after_ms(1)).await;
    for service in world.lock().services.values_mut() {
        service.floor = service.floor.max(not_after);
    }
    sleep(Duration::from_secs(1)).await;
    for service in world.lock().services.values_mut() {
        service.fence.retain(|(of, _), _| *of != xid);
    }
}
