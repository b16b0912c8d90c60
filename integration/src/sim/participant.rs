//! Participants: a resource of which units are free, reserved or issued, behind a fence as the SDK builds it.

use std::collections::BTreeMap;

use tercet_core::{Operation, Reply, Timestamp, Xid};

use super::{Planted, World};

/// Units that each service has.
pub(super) const TOTAL: i64 = 40;

/// One row of the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Tried,
    Confirmed,
    Cancelled,
    Refused,
}

/// What became of a branch's units. Kept for ever: it is what the check looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) tried: u32,
    pub(super) confirmed: u32,
    pub(super) cancelled: u32,
}

/// A service and its database.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) connected: bool,
    pub(super) free: i64,
    pub(super) reserved: i64,
    pub(super) issued: i64,
    pub(super) fence: BTreeMap<(Xid, u8), Row>,
    pub(super) floor: Timestamp,
    pub(super) effects: BTreeMap<(Xid, u8), Effects>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            connected: true,
            free: TOTAL,
            reserved: 0,
            issued: 0,
            fence: BTreeMap::new(),
            floor: Timestamp(0),
            effects: BTreeMap::new(),
        }
    }
}

/// A call as a participant gets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) xid: Xid,
    pub(super) branch: u8,
    pub(super) operation: Operation,
    pub(super) tried: bool,
    pub(super) not_after: Timestamp,
}

/// Runs a call in one local transaction, and answers.
pub(super) fn run(world: &World, name: &str, call: &Call) -> Reply {
    world.happened("call", call.xid, u64::from(call.branch) << 8 | call.operation as u64);
    if world.fault("participant not ready", 4) {
        return Reply::NotNow { delay_ms: 20 };
    }
    if world.fault("participant answers garbage", 2) {
        return Reply::Unknown;
    }
    let fenced = world.planted != Some(Planted::NoFence);
    let mut inner = world.lock();
    let Some(service) = inner.services.get_mut(name) else { return Reply::Unknown };
    if call.not_after <= service.floor && fenced {
        return Reply::NotNow { delay_ms: 20 };
    }
    let row = service.fence.get(&(call.xid, call.branch)).copied().filter(|_| fenced);
    let (reply, row, effect) = match (call.operation, row) {
        (Operation::Try, None) if service.free > 0 => (Reply::Done, Some(Row::Tried), true),
        (Operation::Try, None) => (Reply::Refused, Some(Row::Refused), false),
        (Operation::Try, Some(Row::Tried | Row::Confirmed)) => (Reply::Done, row, false),
        (Operation::Try, Some(Row::Cancelled | Row::Refused)) => (Reply::Refused, row, false),
        (Operation::Confirm, None) if !call.tried || !fenced => (Reply::Done, Some(Row::Confirmed), true),
        (Operation::Confirm, Some(Row::Tried)) => (Reply::Done, Some(Row::Confirmed), true),
        (Operation::Confirm, Some(Row::Confirmed)) => (Reply::Done, row, false),
        (Operation::Confirm, None | Some(Row::Cancelled | Row::Refused)) => (Reply::Refused, row, false),
        (Operation::Cancel, None) => (Reply::Done, Some(Row::Cancelled), !fenced),
        (Operation::Cancel, Some(Row::Tried)) => (Reply::Done, Some(Row::Cancelled), true),
        (Operation::Cancel, Some(Row::Cancelled | Row::Refused)) => (Reply::Done, row, false),
        (Operation::Cancel, Some(Row::Confirmed)) => (Reply::Refused, row, false),
        (Operation::Ask, None | Some(Row::Cancelled)) => (Reply::Refused, Some(Row::Cancelled), false),
        (Operation::Ask, Some(_)) => (Reply::Done, row, false),
    };
    if let Some(row) = row {
        service.fence.insert((call.xid, call.branch), row);
    }
    if effect {
        service.apply(call);
    }
    reply
}

impl Service {
    fn apply(&mut self, call: &Call) {
        let effects = self.effects.entry((call.xid, call.branch)).or_default();
        match call.operation {
            Operation::Try => {
                effects.tried += 1;
                (self.free, self.reserved) = (self.free - 1, self.reserved + 1);
            }
            Operation::Confirm => {
                effects.confirmed += 1;
                if call.tried {
                    (self.reserved, self.issued) = (self.reserved - 1, self.issued + 1);
                }
            }
            Operation::Cancel => {
                effects.cancelled += 1;
                (self.reserved, self.free) = (self.reserved - 1, self.free + 1);
            }
            Operation::Ask => {}
        }
    }
}

/// The sender of a message commits its own local transaction: its fence row says so, unless it was asked before, or so
/// long ago that the question may be forgotten.
pub(super) fn commit_sender(world: &World, name: &str, xid: Xid, not_after: Timestamp) -> bool {
    let mut inner = world.lock();
    let Some(service) = inner.services.get_mut(name) else { return false };
    if not_after <= service.floor {
        return false;
    }
    let row = *service.fence.entry((xid, 0)).or_insert(Row::Confirmed);
    let committed = row == Row::Confirmed;
    if committed {
        service.effects.entry((xid, 0)).or_default().tried = 1;
    }
    committed
}
