//! Which database has which slot, as the databases say themselves. While slots move, their rows are in two: those that
//! arrive somewhere, or were left behind, are nobody's.
//!
//! Databases have no moment in common, so a slot may leave one before it is read there, and come to another after that
//! was read. Rows of a slot count where it was held before and after they were read, once; what was held nowhere for so
//! long is looked for again. Frozen ones count where nobody else serves the slot after they were read.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use tercet_coupon::store::seats::State;
use tercet_shards::{SLOTS, Slot};

use super::{Books, Finding, Suspect};

/// How often all databases are read for slots that were held by none of them while it was read.
const ROUNDS_MAX: u32 = 10;
/// Between two of those.
const PAUSE: Duration = Duration::from_millis(100);

/// What a database has of each slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seats(Vec<Option<State>>);

impl Seats {
    pub(super) fn state(&self, slot: Slot) -> Option<State> {
        self.0.get(slot.number()).copied().flatten()
    }

    /// Whether its rows here are those that count, if another database does not serve it.
    pub(super) fn holds(&self, slot: Slot) -> bool {
        matches!(self.state(slot), Some(State::Served | State::Frozen))
    }

    /// Whether it has no business to have rows of it.
    pub(super) fn is_strange(&self, slot: Slot) -> bool {
        matches!(self.state(slot), None | Some(State::Empty))
    }
}

/// Slots that are still to be read.
pub(super) struct Open {
    slots: BTreeSet<usize>,
    rounds: u32,
}

impl Open {
    pub(super) fn new(slots: impl Iterator<Item = Slot>) -> Self {
        Self { slots: slots.map(Slot::number).collect(), rounds: 0 }
    }

    /// Whether there is anything to be read, in one more round over all databases.
    pub(super) async fn round(&mut self) -> bool {
        if self.slots.is_empty() || self.rounds == ROUNDS_MAX {
            return false;
        }
        if self.rounds > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        self.rounds += 1;
        true
    }

    /// Takes out those that a database held before it was read and holds now.
    fn take(&mut self, before: &Seats, now: &[Seats], database: usize) -> BTreeSet<usize> {
        let held = |slot: &Slot| before.holds(*slot) && home(*slot, now) == Some(database);
        Slot::all().filter(held).map(Slot::number).filter(|number| self.slots.remove(number)).collect()
    }
}

impl Books {
    /// What a database says of itself now.
    pub(super) async fn seats(&mut self, database: usize) -> anyhow::Result<Seats> {
        let rows = self.coupon[database].numbers::<2>("SELECT slot, state FROM slot".to_owned()).await?;
        let mut states = vec![None; SLOTS];
        for row in rows {
            let [slot, state] = row.map(|number| usize::try_from(number.unwrap_or(-1)).unwrap_or(usize::MAX));
            *states.get_mut(slot).context("a slot that there is not")? = State::ALL.get(state).copied();
        }
        Ok(Seats(states))
    }

    /// Looks where slots are now; whether any have moved since.
    pub(super) async fn look_round(&mut self) -> anyhow::Result<bool> {
        let mut all = Vec::with_capacity(self.coupon.len());
        for database in 0..self.coupon.len() {
            all.push(self.seats(database).await?);
        }
        let moved = all != self.seats;
        self.seats = all;
        Ok(moved)
    }

    /// Takes out of `open` the slots that a database held before it was read, and holds now that it was.
    pub(super) async fn seen(
        &mut self,
        open: &mut Open,
        database: usize,
        before: &Seats,
    ) -> anyhow::Result<BTreeSet<usize>> {
        let own = self.seats(database).await?;
        // What is frozen here may be served elsewhere by now, and be out of date.
        if own.0.contains(&Some(State::Frozen)) {
            self.look_round().await?;
        } else {
            self.seats[database] = own;
        }
        Ok(open.take(before, &self.seats, database))
    }

    /// The database that has a slot: serves it, or keeps it frozen while none does.
    pub(super) fn home(&self, slot: Slot) -> Option<usize> {
        home(slot, &self.seats)
    }

    /// The slots of a table.
    pub(super) fn slots_of(&self, table: usize) -> Open {
        Open::new(Slot::all().filter(|slot| self.map.table(*slot) == table))
    }

    /// Whether every slot is in one database.
    pub(super) async fn all_seats(&mut self) -> anyhow::Result<Vec<Finding>> {
        self.look_round().await?;
        Ok(Slot::all().filter_map(|slot| broken(slot, &self.seats)).collect())
    }
}

fn home(slot: Slot, seats: &[Seats]) -> Option<usize> {
    let at = |state| seats.iter().position(|seats| seats.state(slot) == Some(state));
    at(State::Served).or_else(|| at(State::Frozen))
}

fn broken(slot: Slot, seats: &[Seats]) -> Option<Finding> {
    let at = |state| -> Vec<usize> { (0..seats.len()).filter(|at| seats[*at].state(slot) == Some(state)).collect() };
    let number = slot.number();
    let text = match (&at(State::Served)[..], &at(State::Frozen)[..]) {
        ([], []) => format!("no database has slot {number}"),
        ([], [_, _, ..]) => format!("slot {number} is frozen in more than one database"),
        ([_, _, ..], _) => format!("slot {number} is served by more than one database"),
        ([_], _) | ([], [_]) => return None,
    };
    Some(Finding { suspect: Suspect::Slot(number), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(state: Option<State>) -> Seats {
        Seats(vec![state; SLOTS])
    }

    #[test]
    fn a_slot_is_in_one_database_wherever_it_is_on_its_way() {
        use State::{Arriving, Empty, Frozen, Left, Served};
        let slot = Slot::new(7).expect("it is below 1024");
        let sound = |states: [Option<State>; 2]| broken(slot, &states.map(seats)).is_none();
        for states in [
            [Some(Served), None],
            [Some(Served), Some(Arriving)],
            [Some(Frozen), Some(Arriving)],
            [Some(Frozen), Some(Served)],
            [Some(Left), Some(Served)],
            [Some(Empty), Some(Served)],
        ] {
            assert!(sound(states), "{states:?}");
        }
        for states in
            [[None, None], [Some(Left), Some(Arriving)], [Some(Served), Some(Served)], [Some(Frozen), Some(Frozen)]]
        {
            assert!(!sound(states), "{states:?}");
        }
    }

    #[test]
    fn rows_of_a_slot_count_once_and_where_it_was_all_the_time() {
        let all = [State::Served, State::Frozen, State::Left, State::Arriving].map(|state| seats(Some(state)));
        let [served, frozen, left, arriving] = all;
        let take = |before: &Seats, now: [&Seats; 2]| {
            let mut open = Open::new(Slot::all());
            let now = now.map(Seats::clone);
            (open.take(before, &now, 0).len(), open.take(before, &now, 0).len())
        };
        assert_eq!(take(&served, [&served, &arriving]), (SLOTS, 0), "once");
        assert_eq!(take(&served, [&frozen, &arriving]), (SLOTS, 0));
        assert_eq!(take(&served, [&left, &served]), (0, 0), "it left while it was read");
        assert_eq!(take(&frozen, [&frozen, &served]), (0, 0), "it may be out of date");
        assert_eq!(take(&arriving, [&served, &left]), (0, 0), "it came while it was read");
    }
}
