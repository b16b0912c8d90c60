//! Slots: the unit in which users are spread, and moved.

/// How many slots there are. It is part of every id, so it never changes.
pub const SLOTS: usize = 1 << SLOT_BITS;

pub(crate) const SLOT_BITS: u32 = 10;
const MASK: i64 = (1 << SLOT_BITS) - 1;

/// One of [`SLOTS`] parts of all users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number; `None` where it is not below [`SLOTS`].
    pub const fn new(number: u16) -> Option<Self> {
        if (number as usize) < SLOTS { Some(Self(number)) } else { None }
    }

    /// The slot of a user: the first bits of the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable
    /// pseudorandom number generators", 2014). It is part of the contract: rows are found by it.
    pub const fn of_user(user_id: i64) -> Self {
        let z = user_id.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(((z ^ (z >> 31)) >> (u64::BITS - SLOT_BITS)) as u16)
    }

    /// The slot that an id carries.
    pub const fn of_id(id: i64) -> Self {
        Self((id & MASK) as u16)
    }

    /// An id of this slot that has this number, below 2^53: for rows that are made by hand, such as those of a test.
    /// They are unique where the caller keeps the numbers so, and meet no id of [`Ids`](crate::Ids) below 2^32.
    pub const fn id(self, number: i64) -> i64 {
        number << SLOT_BITS | self.0 as i64
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// All of them, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_it_always_was() {
        let slots = [1, 2, 3, 7, 1_000_000, i64::MAX, i64::MIN, 0, -1].map(|user_id| Slot::of_user(user_id).number());
        assert_eq!(slots, [580, 605, 116, 399, 416, 169, 288, 904, 915]);
    }

    #[test]
    fn users_with_numbers_in_a_row_are_spread_evenly() {
        let mut users = vec![0_u32; SLOTS];
        for user_id in 1..=1_024_000 {
            users[Slot::of_user(user_id).number()] += 1;
        }
        // A thousand each, give or take 5 standard deviations.
        assert!(users.iter().all(|count| (840..=1_160).contains(count)), "{users:?}");
    }

    #[test]
    fn an_id_by_hand_carries_its_slot() {
        for slot in Slot::all() {
            assert_eq!(Slot::of_id(slot.id(77)), slot);
        }
        assert_eq!(Slot::new(1_024), None);
    }
}
