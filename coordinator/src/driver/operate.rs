//! What operators want of one transaction: the same machine, the same write, and an audit row in it.

use std::collections::hash_map::Entry;

use tercet_core::{Effects, Timestamp, Xid};
use tercet_proto::admin::v1 as admin;
use tokio::sync::oneshot;

use super::Driver;
use super::slot::Slot;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::live::Live;
use crate::operate::Order;
use crate::request::{Error, Waiter};
use crate::store::Store;

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    /// Shows a transaction as it is here.
    pub(super) fn look(&self, xid: Xid, answer: oneshot::Sender<Option<Box<Live>>>) {
        let live = self.slots.get(&xid).map(|slot| Box::new(slot.live.clone()));
        // Whoever looks may have gone.
        drop(answer.send(live));
    }

    /// Carries an order out, or says what it would change. `live`: as stored, should it not be here.
    pub(super) fn operate(
        &mut self,
        xid: Xid,
        live: Option<Box<Live>>,
        order: Order,
        answer: oneshot::Sender<Result<admin::Changed, Error>>,
        now: Timestamp,
    ) {
        // Whoever asked may have gone: then the answers below are nobody's.
        if order.dry_run {
            let here = self.slots.get(&xid).map(|slot| slot.live.clone());
            let read = || live.map(|live| recovered(*live));
            let Some(mut copy) = here.or_else(read) else { return drop(answer.send(Err(Error::NotHere))) };
            let transaction = Some(copy.view());
            let reaches = |service: &str| self.caller.reaches(service);
            let difference = order.carry_out(&mut copy, now, &mut Effects::default(), reaches);
            let changed = difference.map(|difference| admin::Changed { difference: Some(difference), transaction });
            return drop(answer.send(changed));
        }
        let slot = match self.slots.entry(xid) {
            Entry::Occupied(here) => here.into_mut(),
            Entry::Vacant(place) => {
                let Some(live) = live else { return drop(answer.send(Err(Error::NotHere))) };
                self.shares.added(&live.plan);
                place.insert(Box::new(Slot::adopted(recovered(*live), now)))
            }
        };
        self.effects.clear();
        let mut audit = None;
        match order.carry_out(&mut slot.live, now, &mut self.effects, |service| self.caller.reaches(service)) {
            Ok(difference) => {
                audit = Some(Box::new(order.audit(&slot.live, &difference)));
                slot.waiters.push(Waiter::Changed { difference: Box::new(difference), answer });
            }
            Err(error) => drop(answer.send(Err(error))),
        }
        self.follow(xid, false, audit, now);
    }
}

/// What was read from the store, as it is driven from here on.
fn recovered(mut live: Live) -> Live {
    live.tx.recover();
    live
}
