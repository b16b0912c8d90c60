//! What the tests and programs of this crate share.

pub mod chaos;
pub mod checker;
pub mod cli;
pub mod host;
pub mod kafka;
pub mod load;
pub mod mariadb;
pub mod noop;
pub mod platform;
pub mod processes;
pub mod servers;
pub mod shop;
