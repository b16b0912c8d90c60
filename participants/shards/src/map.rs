//! Which database and which table a slot is in: at first, or where it is to be moved to. Databases say where it is now.
//!
//! A map is written as `DATABASESxTABLES`, such as `10x100`: slot s is in database s % 10, and there in the table
//! s * 100 / 1024. Every database has tables of the same names, so a slot that moves to another database stays in its
//! table. Where they are not spread evenly, the databases follow one by one:
//! `3x4:0=0-511;1=512-767,1000;2=768-999,1001-1023`.

use std::fmt;
use std::str::FromStr;

use crate::slot::{SLOTS, Slot};

/// The most databases of a map.
pub const DATABASES_MAX: usize = 128;
/// The most tables of a database: names have three digits.
pub const TABLES_MAX: usize = 1_000;

/// Why a text is no map. Mend the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not look like one.
    #[error("{0:?} is not DATABASESxTABLES, with DATABASE=SLOTS;… after a colon where slots are listed")]
    Form(String),
    /// Too few or too many.
    #[error("{count} {what}: there are 1 to {max}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A database's rows would be looked for in two places.
    #[error("slot {0} is in two databases")]
    Twice(usize),
    /// A user's rows would be nowhere.
    #[error("slot {0} is in no database")]
    Missing(usize),
    /// There is no such slot or database.
    #[error("{what} {number}: there are 0 to {last}")]
    Unknown {
        /// A slot or a database.
        what: &'static str,
        /// Which.
        number: usize,
        /// The last that there is.
        last: usize,
    },
}

/// Every slot in exactly one database and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    databases: usize,
    tables: usize,
    /// The database of each slot.
    of: Vec<u8>,
}

impl ShardMap {
    /// Slot s in database s % `databases`. With twice as many, half of each database's slots move, and to one other.
    ///
    /// # Errors
    /// When a number is 0, or above [`DATABASES_MAX`] or [`TABLES_MAX`].
    pub fn even(databases: usize, tables: usize) -> Result<Self, Error> {
        Self::with(databases, tables, |slot| Some(slot % databases))
    }

    /// One table in one database.
    pub fn one() -> Self {
        Self { databases: 1, tables: 1, of: vec![0; SLOTS] }
    }

    fn with(databases: usize, tables: usize, of: impl Fn(usize) -> Option<usize>) -> Result<Self, Error> {
        for (what, count, max) in [("databases", databases, DATABASES_MAX), ("tables", tables, TABLES_MAX)] {
            if !(1..=max).contains(&count) {
                return Err(Error::Count { what, count, max });
            }
        }
        let place = |slot| match of(slot) {
            // At most 128 databases.
            Some(database) if database < databases => Ok(database as u8),
            Some(number) => Err(Error::Unknown { what: "database", number, last: databases - 1 }),
            None => Err(Error::Missing(slot)),
        };
        Ok(Self { databases, tables, of: (0..SLOTS).map(place).collect::<Result<_, _>>()? })
    }

    /// How many databases there are.
    pub const fn databases(&self) -> usize {
        self.databases
    }

    /// How many tables each of them has.
    pub const fn tables(&self) -> usize {
        self.tables
    }

    /// The database of a slot, from 0.
    pub fn database(&self, slot: Slot) -> usize {
        self.of[slot.number()].into()
    }

    /// The table of a slot, from 0, in whatever database.
    pub const fn table(&self, slot: Slot) -> usize {
        slot.number() * self.tables / SLOTS
    }

    /// The slots that are in this database.
    pub fn slots(&self, database: usize) -> impl Iterator<Item = Slot> {
        Slot::all().filter(move |slot| self.database(*slot) == database)
    }

    /// The tables of this database that have a slot, by number.
    pub fn tables_in(&self, database: usize) -> Vec<usize> {
        let mut tables: Vec<usize> = self.slots(database).map(|slot| self.table(slot)).collect();
        tables.dedup();
        tables
    }

    fn is_even(&self) -> bool {
        self.of.iter().enumerate().all(|(slot, database)| usize::from(*database) == slot % self.databases)
    }
}

impl fmt::Display for ShardMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.databases, self.tables)?;
        if self.is_even() {
            return Ok(());
        }
        let mut before = ':';
        for database in 0..self.databases {
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            for slot in self.slots(database).map(Slot::number) {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == slot => *last = slot,
                    Some(_) | None => ranges.push((slot, slot)),
                }
            }
            let text = |(first, last): &(usize, usize)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            };
            if !ranges.is_empty() {
                write!(f, "{before}{database}={}", ranges.iter().map(text).collect::<Vec<_>>().join(","))?;
                before = ';';
            }
        }
        Ok(())
    }
}

impl FromStr for ShardMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || Error::Form(text.to_owned());
        let number = |digits: &str| digits.parse::<usize>().map_err(|_| form());
        let (counts, lists) = text.split_once(':').map_or((text, None), |(counts, lists)| (counts, Some(lists)));
        let (databases, tables) = counts.split_once('x').ok_or_else(form)?;
        let (databases, tables) = (number(databases)?, number(tables)?);
        let Some(lists) = lists else { return Self::even(databases, tables) };
        let mut of = vec![None; SLOTS];
        for list in lists.split(';') {
            let (database, ranges) = list.split_once('=').ok_or_else(form)?;
            let database = number(database)?;
            for range in ranges.split(',') {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (first, last) = (number(first)?, number(last)?);
                if last >= SLOTS || first > last {
                    return Err(Error::Unknown { what: "slot", number: first.max(last), last: SLOTS - 1 });
                }
                for (at, place) in of.iter_mut().enumerate().take(last + 1).skip(first) {
                    if place.replace(database).is_some() {
                        return Err(Error::Twice(at));
                    }
                }
            }
        }
        Self::with(databases, tables, |slot| of[slot])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ShardMap, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }

    #[test]
    fn a_text_that_is_no_map_is_refused_by_what_is_wrong() {
        for (text, error) in [
            ("10", "\"10\" is not DATABASESxTABLES, with DATABASE=SLOTS;… after a colon where slots are listed"),
            ("0x1", "0 databases: there are 1 to 128"),
            ("1x1001", "1001 tables: there are 1 to 1000"),
            ("2x1:0=0-511", "slot 512 is in no database"),
            ("2x1:0=0-511;1=511-1023", "slot 511 is in two databases"),
            ("2x1:0=0-511;2=512-1023", "database 2: there are 0 to 1"),
            ("1x1:0=0-1024", "slot 1024: there are 0 to 1023"),
            ("1x1:0=9-8", "slot 9: there are 0 to 1023"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn twice_as_many_databases_take_half_of_the_slots_of_one_other_each() {
        let (ten, twenty) = (parse("10x100").unwrap(), parse("20x100").unwrap());
        for slot in Slot::all() {
            let (before, after) = (ten.database(slot), twenty.database(slot));
            assert!(after == before || after == before + 10);
            assert_eq!(ten.table(slot), twenty.table(slot));
        }
        let moved = Slot::all().filter(|slot| ten.database(*slot) != twenty.database(*slot)).count();
        assert_eq!(moved, 510);
    }

    #[test]
    fn every_table_of_ten_databases_is_used() {
        let map = parse("10x100").unwrap();
        for database in 0..10 {
            assert_eq!(map.tables_in(database), (0..100).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn every_slot_is_in_one_place_and_the_text_says_where(
            databases in 1..=DATABASES_MAX,
            tables in 1..=TABLES_MAX,
            moved in proptest::collection::vec(any::<u8>(), SLOTS),
        ) {
            let even = ShardMap::even(databases, tables).unwrap();
            let listed = ShardMap::with(databases, tables, |slot| Some(usize::from(moved[slot]) % databases)).unwrap();
            for map in [even, listed] {
                prop_assert_eq!(&map.to_string().parse::<ShardMap>().unwrap(), &map);
                let mut found = vec![0; SLOTS];
                for database in 0..databases {
                    let tables_in = map.tables_in(database);
                    for slot in map.slots(database) {
                        found[slot.number()] += 1;
                        prop_assert!(map.table(slot) < tables && tables_in.contains(&map.table(slot)));
                    }
                }
                prop_assert!(found.iter().all(|times| *times == 1));
            }
        }
    }
}
