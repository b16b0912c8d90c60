//! Where a user's rows are, and ids that say so.
//!
//! A user has a [`Slot`], one of 1,024, by a hash of his id that stays for ever. A [`ShardMap`] says which database and
//! which table a slot is in. Every id that [`Ids`] makes for a user carries his slot, so that all of his rows and each
//! of them alone are found in one table without asking anyone.
//!
//! Ids are unique among all processes because each takes a node id on a lease ([`node`]) and writes no time into an id
//! that is outside its lease. Nothing here reads the system's clock: time is the database's.

mod id;
mod map;
pub mod node;
mod slot;

pub use id::{Error as IdError, Ids, Parts};
pub use map::{DATABASES_MAX, Error as MapError, ShardMap, TABLES_MAX};
pub use slot::{SLOTS, Slot};
