//! Which database has which slot, as the databases themselves say.
//!
//! A slot that moves is frozen where it was, and then served where it is: by one commit of the database that it came
//! to, so never by two. Whoever writes rows of a slot names the epoch of the database by which he knows that it serves
//! it; a database that is past that epoch refuses, and he looks again. Readers look twice a second: for so long they
//! may see what a slot's rows were when it left.

use std::sync::{Arc, PoisonError, RwLock};

use tercet::participant::Place;
use tercet_shards::{SLOTS, ShardMap, Slot};
use tracing::error;

use crate::store::seats::{Said, State};

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    database: usize,
    /// Else nobody may write its rows: it is frozen.
    served: bool,
    /// Else no database says that it has the slot: it is where one is that can not be heard, or is not named.
    found: bool,
}

/// Where all slots are, as of one look.
#[derive(Debug)]
pub struct View {
    seats: Vec<Seat>,
    /// Of each database.
    epochs: Vec<i64>,
}

impl View {
    /// The database that has a slot, whether anybody may write its rows or not.
    pub fn database(&self, slot: Slot) -> usize {
        self.seats[slot.number()].database
    }

    /// The database to read rows of a slot in. Nowhere while none says that it has the slot: who looked where it was
    /// would take what has moved for what does not exist.
    pub fn reads(&self, slot: Slot) -> Option<usize> {
        let Seat { database, found, .. } = self.seats[slot.number()];
        found.then_some(database)
    }

    /// Whether rows of a slot may be written.
    pub fn is_served(&self, slot: Slot) -> bool {
        self.seats[slot.number()].served
    }

    /// By which epoch a database serves what it does.
    pub fn epoch(&self, database: usize) -> i64 {
        self.epochs[database]
    }

    /// Where to write rows of a slot: nowhere while it is frozen.
    pub fn place(&self, slot: Slot) -> Option<Place> {
        let Seat { database, served, .. } = self.seats[slot.number()];
        let (part, epoch) = (u16::try_from(slot.number()).ok(), Some(self.epochs[database]));
        served.then_some(Place { database, part, epoch })
    }
}

/// Where slots are.
#[derive(Debug)]
pub struct Slots {
    map: ShardMap,
    view: RwLock<Arc<View>>,
}

impl Slots {
    /// As this map spreads them, until the databases have been asked. A service finds them so at its first start.
    pub fn new(map: ShardMap) -> Self {
        let seats = Slot::all().map(|slot| Seat { database: map.database(slot), served: true, found: true }).collect();
        let view = View { seats, epochs: vec![0; map.databases()] };
        Self { map, view: RwLock::new(Arc::new(view)) }
    }

    /// In which table of its database a slot is; and in which database it would be at first.
    pub const fn map(&self) -> &ShardMap {
        &self.map
    }

    /// Where all of them are.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where to write rows of a slot: nowhere while it is frozen.
    pub fn place(&self, slot: Slot) -> Option<Place> {
        self.view().place(slot)
    }

    /// Takes what the databases say of themselves; returns a slot that none of them has, if there is one.
    pub(crate) fn hear(&self, said: &[Said]) -> Option<Slot> {
        let before = self.view();
        let mut seats = Vec::with_capacity(SLOTS);
        let mut missing = None;
        for slot in Slot::all() {
            let in_state = [State::Served, State::Frozen].map(|state| {
                let here = |(_, said): &(usize, &Said)| said.states[slot.number()] == Some(state);
                said.iter().enumerate().filter(here).map(|(at, _)| at).collect::<Vec<usize>>()
            });
            let [served, frozen] = &in_state;
            seats.push(match (&served[..], &frozen[..]) {
                ([database], _) => Seat { database: *database, served: true, found: true },
                ([], [database, ..]) => Seat { database: *database, served: false, found: true },
                ([], []) => {
                    missing = missing.or(Some(slot));
                    Seat { served: false, found: false, ..before.seats[slot.number()] }
                }
                ([_, _, ..], _) => {
                    error!(slot = slot.number(), databases = ?served, "two databases serve a slot: nobody writes");
                    Seat { served: false, found: true, ..before.seats[slot.number()] }
                }
            });
        }
        let epochs = said.iter().map(|said| said.epoch).collect();
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(View { seats, epochs });
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(epoch: i64, states: [State; 2]) -> Said {
        let mut all = vec![Some(State::Served); SLOTS];
        (all[0], all[1]) = (Some(states[0]), Some(states[1]));
        Said { epoch, states: all }
    }

    fn nothing() -> Said {
        Said { epoch: 0, states: vec![None; SLOTS] }
    }

    #[test]
    fn a_slot_is_where_it_is_served_and_nowhere_while_it_is_frozen() {
        let slots = Slots::new("2x4:0=0-1023".parse().expect("it is a map"));
        let [first, second] = [0, 1].map(|number| Slot::new(number).expect("it is below 1024"));
        let mut other = nothing();
        assert_eq!(slots.hear(&[said(3, [State::Served, State::Frozen]), other.clone()]), None);
        assert_eq!(slots.place(first), Some(Place { database: 0, part: Some(0), epoch: Some(3) }));
        assert_eq!((slots.place(second), slots.view().database(second)), (None, 0));
        other = Said { epoch: 8, ..other };
        other.states[1] = Some(State::Served);
        assert_eq!(slots.hear(&[said(3, [State::Served, State::Frozen]), other.clone()]), None);
        assert_eq!(slots.place(second), Some(Place { database: 1, part: Some(1), epoch: Some(8) }));
        assert_eq!(slots.hear(&[said(3, [State::Served, State::Served]), other.clone()]), None);
        assert_eq!(slots.place(second), None, "two say that they serve it");
        assert_eq!(slots.hear(&[said(4, [State::Left, State::Left]), other]), Some(first));
        assert_eq!((slots.place(first), slots.view().reads(first)), (None, None), "nobody has it");
    }

    #[test]
    fn who_hears_that_a_slot_has_left_and_not_where_it_came_to_reads_it_nowhere() {
        let slots = Slots::new("2x4:0=0-1023".parse().expect("it is a map"));
        let first = Slot::new(0).expect("it is below 1024");
        let mut other = nothing();
        other.states[0] = Some(State::Arriving);
        assert_eq!(slots.hear(&[said(1, [State::Frozen, State::Served]), other.clone()]), None);
        assert_eq!(slots.view().reads(first), Some(0));
        assert_eq!(slots.hear(&[said(2, [State::Left, State::Served]), other.clone()]), Some(first));
        assert_eq!(slots.view().reads(first), None);
        other.states[0] = Some(State::Served);
        assert_eq!(slots.hear(&[said(2, [State::Left, State::Served]), other]), None);
        assert_eq!(slots.view().reads(first), Some(1));
    }
}
