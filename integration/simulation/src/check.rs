//! The invariants. Each has a name, by which a run says what it broke.
//!
//! Some are held while the run goes on, at the moment that would break them: [`goes_forward`], [`decided_before`],
//! [`told`]. The others look at what is left when everything has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use tercet::action::Request as _;
use tercet_coordinator::live::Live;
use tercet_coordinator::plan::has;
use tercet_coordinator::store::{CompensationQuery, CompensationStatus, ListQuery, Lookup, Store as _};
use tercet_core::{Operation, Parked, Progress, Status, Xid};
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::participant::v1::Call;
use tokio::time::{Instant, sleep};

use crate::database::{Effects, Manner, Order, TOTAL, Units};
use crate::initiator::ATTEMPTS;
use crate::world::World;

/// More than a run has.
const ALL: u32 = 100_000;

/// What is left at the end.
struct End {
    transactions: Vec<Live>,
    /// Of all services: a key is one branch's alone.
    ledger: BTreeMap<u64, Effects>,
    units: BTreeMap<&'static str, Units>,
    told: BTreeMap<Xid, i32>,
    unfinished: Vec<Xid>,
}

type Invariant = fn(&End) -> Vec<String>;

const AT_THE_END: [(&str, Invariant); 7] = [
    ("one outcome", one_outcome),
    ("each effect once", each_effect_once),
    ("effects have a transaction", effects_have_a_transaction),
    ("nothing acknowledged is lost", nothing_is_lost),
    ("units are conserved", units_are_conserved),
    ("parked for the right reason", parked_for_the_right_reason),
    ("everything ends", everything_ends),
];

/// A status never goes back, and a version is written once.
pub(crate) fn goes_forward(world: &World, xid: Xid, version: u64, status: Status) {
    let before = world.lock().written.insert(xid, (version, status));
    let Some((old_version, old)) = before else { return };
    let forward = match (old, status) {
        (Status::Trying, _) => true,
        (Status::Confirming, Status::Confirming | Status::Confirmed)
        | (Status::Cancelling, Status::Cancelling | Status::Cancelled) => true,
        (Status::Confirming | Status::Cancelling | Status::Confirmed | Status::Cancelled, _) => false,
    };
    if !forward {
        world.broken("a status never goes back", format_args!("{} was {old:?}, is {status:?}", world.tx(xid)));
    }
    if version <= old_version {
        let tx = world.tx(xid);
        world.broken("each version is written once", format_args!("{tx} had {old_version}, is given {version}"));
    }
}

/// No participant is called before what the call follows from is durable.
pub(crate) fn decided_before(world: &World, calls: &[Call]) {
    for call in calls {
        let Some(xid) = Xid::from_slice(&call.xid) else { continue };
        let status = stored(world, xid).map(|(_, status)| status);
        let operation = call.operation();
        let durable = match operation.as_str_name() {
            "OPERATION_CONFIRM" => matches!(status, Some(Status::Confirming | Status::Confirmed)),
            "OPERATION_CANCEL" => matches!(status, Some(Status::Cancelling | Status::Cancelled)),
            _ => status.is_some(),
        };
        if !durable {
            let tx = world.tx(xid);
            world.broken("nothing acts before it is durable", format_args!("{operation:?} of {tx}, stored {status:?}"));
        }
    }
}

/// What an initiator is told is durable, and can not become untrue.
pub(crate) fn told(world: &World, who: String, view: &pb::TransactionView) {
    let Some(xid) = Xid::from_slice(&view.xid) else { return };
    let tx = world.tx(xid);
    world.log(who, format_args!("is told that {tx} is {:?}, version {}", view.status(), view.version));
    let version = stored(world, xid).map(|(version, _)| version);
    if version.is_none_or(|version| version < view.version) {
        world.broken("what is told is durable", format_args!("{tx}: told {}, stored {version:?}", view.version));
    }
    let outcome = match view.status() {
        pb::Status::Confirming | pb::Status::Confirmed => 4,
        pb::Status::Cancelling | pb::Status::Cancelled => 5,
        pb::Status::Trying | pb::Status::Unspecified => 0,
    };
    let before = {
        let mut inner = world.lock();
        let known = inner.told.entry(xid).or_default();
        let before = *known;
        *known = outcome.max(before);
        before
    };
    if before > 0 && before != outcome {
        world.broken("what is told stays true", format_args!("{tx}: told {before} and then {outcome}"));
    }
}

/// Version and status as stored.
fn stored(world: &World, xid: Xid) -> Option<(u64, Status)> {
    let record = world.disk().get(Lookup::Xid(xid)).now_or_never()?.ok()??;
    Some((record.version, tercet_coordinator::names::status_from(record.status.into())?))
}

async fn all(world: &World) -> Vec<Live> {
    let records = world.disk().list(ListQuery { limit: ALL, ..ListQuery::default() }).await.expect("memory answers");
    records.iter().map(|record| Live::decode(record).expect("written by this version")).collect()
}

/// How many confirmed and cancelled; and branches that wait for a person.
pub(crate) async fn counts(world: &World) -> ((u64, u64), u64) {
    let all = all(world).await;
    let count = |status| all.iter().filter(|live| live.tx.status == status).count() as u64;
    let failed = Some(CompensationStatus::Failed);
    let query = CompensationQuery { status: failed, limit: ALL, ..CompensationQuery::default() };
    let parked = world.disk().list(query).await.expect("memory answers").len() as u64;
    ((count(Status::Confirmed), count(Status::Cancelled)), parked)
}

/// Waits until nothing goes on; names what still does when the time is over.
pub(crate) async fn wait_for_end(world: &World, limit: Duration) -> Vec<Xid> {
    let start = Instant::now();
    loop {
        let all = all(world).await;
        let goes_on = |live: &&Live| !live.tx.status.ended() && !waits_for_a_person(live);
        let unfinished: Vec<Xid> = all.iter().filter(goes_on).map(|live| live.tx.xid).collect();
        if unfinished.is_empty() || start.elapsed() > limit {
            // Calls that are still on their way may yet arrive, and change nothing.
            sleep(Duration::from_secs(20)).await;
            return unfinished;
        }
        sleep(Duration::from_secs(2)).await;
    }
}

/// Whether only parked branches keep it from its end.
fn waits_for_a_person(live: &Live) -> bool {
    let parked = |progress| matches!(progress, Progress::Parked(_));
    let mut branches = live.tx.branches.iter();
    live.tx.rests()
        && branches.clone().any(|branch| parked(branch.progress))
        && branches.all(|branch| branch.progress != Progress::Logged)
}

/// Writes down everything that does not hold.
pub(crate) async fn at_the_end(world: &World, unfinished: &[Xid]) {
    let databases = world.databases();
    let end = End {
        transactions: all(world).await,
        ledger: databases.values().flat_map(|database| database.ledger()).collect(),
        units: databases.iter().map(|(name, database)| (*name, database.units())).collect(),
        told: world.lock().told.clone(),
        unfinished: unfinished.to_vec(),
    };
    for (name, invariant) in AT_THE_END {
        for what in invariant(&end) {
            world.broken(name, format_args!("{what}"));
        }
    }
    world.log("check", format_args!("{:?}", end.units));
}

/// The order of a branch, and what was done for it.
fn orders<'a>(end: &'a End, live: &'a Live) -> impl Iterator<Item = (usize, Order, Effects)> + 'a {
    live.plan.branches.iter().enumerate().map(|(index, branch)| {
        let order = Order::from_bytes(&branch.request).expect("the simulation's own");
        (index, order, end.ledger.get(&order.key).copied().unwrap_or_default())
    })
}

/// Every branch has ended as its transaction did.
fn one_outcome(end: &End) -> Vec<String> {
    let mut faults = Vec::new();
    for live in end.transactions.iter().filter(|live| live.tx.status.ended()) {
        let confirmed = live.tx.status == Status::Confirmed;
        for (index, _, effects) in orders(end, live) {
            let has = |operation| has(&live.plan.branches[index], operation);
            let right = if has(Operation::Ask) {
                // The sender's own commit.
                (effects.tried > 0) == confirmed
            } else if confirmed {
                (effects.tried > 0) == has(Operation::Try)
                    && (effects.confirmed > 0) == has(Operation::Confirm)
                    && effects.cancelled == 0
            } else {
                effects.confirmed == 0 && effects.tried == effects.cancelled
            };
            if !right {
                faults.push(format!("{}: {:?}, and branch {index} has {effects:?}", live.tx.xid, live.tx.status));
            }
        }
    }
    faults
}

fn each_effect_once(end: &End) -> Vec<String> {
    let twice = |effects: &Effects| effects.tried.max(effects.confirmed).max(effects.cancelled) > 1;
    let twice = end.ledger.iter().filter(|(_, effects)| twice(effects));
    twice.map(|(key, effects)| format!("order {key:x} has {effects:?}")).collect()
}

fn effects_have_a_transaction(end: &End) -> Vec<String> {
    let known =
        |key: &u64| end.transactions.iter().any(|live| orders(end, live).any(|(_, order, _)| order.key == *key));
    let lost = end.ledger.iter().filter(|(key, _)| !known(key));
    lost.map(|(key, effects)| format!("order {key:x} has {effects:?}")).collect()
}

/// What an initiator was told is there, and as it was told.
fn nothing_is_lost(end: &End) -> Vec<String> {
    let mut faults = Vec::new();
    for (xid, outcome) in &end.told {
        let found = end.transactions.iter().find(|live| live.tx.xid == *xid).map(|live| live.tx.status);
        let kept = match found {
            Some(Status::Confirmed | Status::Confirming) => matches!(outcome, 0 | 4),
            Some(Status::Cancelled | Status::Cancelling) => matches!(outcome, 0 | 5),
            Some(Status::Trying) => *outcome == 0,
            None => false,
        };
        if !kept {
            faults.push(format!("{xid}: told {outcome}, and is {found:?}"));
        }
    }
    faults
}

fn units_are_conserved(end: &End) -> Vec<String> {
    let wrong = |units: &Units| {
        units.free + units.reserved + units.issued != TOTAL || units.free.min(units.reserved).min(units.issued) < 0
    };
    let wrong = end.units.iter().filter(|(_, units)| wrong(units));
    wrong.map(|(name, units)| format!("{name} has {units:?} of {TOTAL}")).collect()
}

/// Only what a participant is at fault for is parked, and not before its attempts are used up.
fn parked_for_the_right_reason(end: &End) -> Vec<String> {
    let mut faults = Vec::new();
    for live in &end.transactions {
        for (index, order, _) in orders(end, live) {
            let branch = &live.tx.branches[index];
            let right = match branch.progress {
                Progress::Parked(Parked::Refused) => order.manner == Manner::RefusesEnd,
                Progress::Parked(Parked::Exhausted) => order.manner.at_fault() && branch.attempts == ATTEMPTS,
                // No person takes part in these runs.
                Progress::Parked(Parked::ByPerson) => false,
                Progress::Due
                | Progress::Called
                | Progress::Delayed
                | Progress::Unreachable
                | Progress::Done
                | Progress::Logged
                | Progress::Skipped => true,
            };
            if !right {
                let (xid, attempts) = (live.tx.xid, branch.attempts);
                faults.push(format!("{xid} branch {index}: {:?} after {attempts} attempts", branch.progress));
            }
        }
    }
    faults
}

fn everything_ends(end: &End) -> Vec<String> {
    end.unfinished.iter().map(|xid| format!("{xid} goes on, long after the last fault")).collect()
}
