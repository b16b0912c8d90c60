//! The coordinator's process: starts as `serve` puts it together, dies between any two awaits, is started again.

use std::sync::Arc;
use std::time::Duration;

use tercet_coordinator::api::sessions;
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_coordinator::config::LEASE_MS;
use tercet_coordinator::driver::{Driver, Settings};
use tercet_coordinator::limits;
use tercet_coordinator::node::Node;
use tercet_coordinator::scanner::Scanner;
use tercet_coordinator::session::Sessions;
use tercet_coordinator::store::{Owner, Store as _};
use tercet_coordinator::writer::lease_end;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Victim;
use crate::faults::Fault;
use crate::network::{self, Network};
use crate::store::FaultyStore;
use crate::world::World;

/// Starts coordinators one after the other.
pub(crate) async fn keep(world: World) {
    let mut older = JoinSet::new();
    loop {
        world.revive(Victim::Coordinator);
        if world.faulty() && world.percent(40) {
            world.light(Victim::Coordinator, world.below(40));
        }
        let mut life = JoinSet::new();
        life.spawn(live(world.clone()));
        tokio::select! {
            biased;
            () = world.crashed(Victim::Coordinator) => {
                world.count(Fault::CoordinatorCrashedAtWrite);
                life.shutdown().await;
            }
            () = lifetime(&world) => {
                if world.fault(Fault::CoordinatorSuperseded, 15) {
                    // The next one starts beside it; its own next beat tells it.
                    older.spawn(async move { while life.join_next().await.is_some() {} });
                } else {
                    world.fault(Fault::CoordinatorCrashed, 100);
                    life.shutdown().await;
                }
            }
            // Superseded, or its store did not answer at the start.
            _ = life.join_next() => world.log(Victim::Coordinator, format_args!("ended")),
        }
        world.serve_no_more();
        sleep(world.restart_delay(1_500)).await;
    }
}

/// Ends when chance ends the coordinator, which it does only while there are faults.
async fn lifetime(world: &World) {
    if world.faulty() {
        sleep(Duration::from_millis(50 + world.below(8_000))).await;
        if world.faulty() {
            return;
        }
    }
    std::future::pending().await
}

/// One life of a coordinator. Everything in it dies with the future.
async fn live(world: World) {
    let number = world.next_start();
    let clock = SystemClock::at(world.system_time());
    let store = Arc::new(FaultyStore::new(world.clone(), world.disk().reopen(clock.clone()), clock.clone(), number));
    let Ok(beat) = store.beat(0, None, LEASE_MS).await else { return };
    clock.raise(beat.now);
    let owner = Owner { node: 0, epoch: beat.epoch };
    let settings = Settings { owner, live_max: 1_000, lease_end: lease_end(beat.now, LEASE_MS) };
    let (inbox, inputs) = mpsc::channel(limits::INBOX_MAX);
    let sessions = Sessions::new(clock.clone());
    let (network, late) = Network::new(world.clone(), sessions.clone(), clock.clone());
    let driver = Driver::new(Arc::clone(&store), network, clock.clone(), settings, inputs);
    let gauges = driver.gauges();
    let tick = Arc::new(Notify::new());
    let rooms = sessions.clone();
    let scanner = Scanner {
        store: Arc::clone(&store),
        clock: clock.clone(),
        services: Box::new(move || rooms.rooms()),
        inbox: inbox.clone(),
        gauges: Arc::clone(&gauges),
        settings,
    };
    let node = Node { store, clock: clock.clone(), inbox: inbox.clone(), gauges, settings };
    let (answers, answered) = mpsc::channel(limits::INBOX_MAX);
    let front = sessions::Service::new(sessions.clone(), answers, clock.clone());
    world.log(Victim::Coordinator, format_args!("{number} starts in epoch {} at {}", beat.epoch, clock.now().0));
    world.show(|watch| watch.started(clock.now(), &inbox));
    world.serve(inbox.clone(), front);
    let (superseded, over) = oneshot::channel();
    let (_stop, stopping) = watch::channel(false);
    let mut work = JoinSet::new();
    work.spawn(scanner.run(Arc::clone(&tick)));
    work.spawn(node.run(superseded));
    work.spawn(network::call_late(sessions, late));
    work.spawn(network::pass_on(world.clone(), answered, inbox));
    work.spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            tick.notify_one();
        }
    });
    tokio::select! {
        biased;
        _ = over => {}
        () = driver.run(stopping) => {}
    }
}
