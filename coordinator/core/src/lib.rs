//! The global transaction as a pure state machine.
//!
//! Nothing in this crate reads a clock, draws a random number or does IO. A driver feeds `step()` with events, makes
//! the new state durable when it is told to, and then carries out the effects.
#![no_std]

extern crate alloc;

mod id;

pub use id::{ParseXidError, Timestamp, Xid, XidSource};
