//! What is decided before a transaction begins.

use tokio::sync::oneshot;

use super::*;
use crate::clock::SystemClock;
use crate::session::Sessions;
use crate::store::{ListQuery, MemoryStore};

fn declared(service: &str) -> Plan {
    let branch = pb::Branch { service: service.into(), action: "act".into(), ..pb::Branch::default() };
    let transaction = pb::Transaction { mode: pb::Mode::Tcc.into(), branches: vec![branch], ..Default::default() };
    Plan::declared(transaction).expect("it is within every limit")
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_begun() {
    let clock = SystemClock::start();
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let owner = Owner { node: 0, epoch: 1 };
    let settings = Settings { owner, live_max: 10, lease_end: clock.now().after_ms(LEASE_MS) };
    let (inbox, inputs) = mpsc::channel(10);
    let sessions = Sessions::new(clock.clone());
    let driver = Driver::new(Arc::clone(&store), sessions, clock, settings, inputs);
    // The first two have given up before the driver comes to them: a call and a stream.
    let (given_up, _) = oneshot::channel();
    let (closed, _) = mpsc::unbounded_channel();
    let (waits, answer) = oneshot::channel();
    for answer in [Answer::One(given_up), Answer::Entry(1, closed), Answer::One(waits)] {
        let plan = Box::new(declared("shop"));
        inbox.send(Input::Start { plan, wait: Waits::Accepted, answer }).await.expect("there is room");
    }
    let (_stop, stopping) = watch::channel(false);
    let driven = tokio::spawn(driver.run(stopping));
    let view = answer.await.expect("it is answered").expect("it is accepted");
    let all = store.list(ListQuery { limit: 10, ..ListQuery::default() }).await.expect("the store is there");
    let all: Vec<_> = all.iter().map(|record| record.xid.0.to_vec()).collect();
    assert_eq!(all, [view.xid.to_vec()]);
    drop(inbox);
    driven.await.expect("it ends with its inbox");
}
