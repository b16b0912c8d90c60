//! The global transaction as a pure state machine.
//!
//! Nothing in this crate reads a clock, draws a random number or does IO. A driver feeds [`step()`] with [`Event`]s,
//! makes the new state durable when [`Effects::persist`] says so, and only then makes the calls.
#![no_std]

extern crate alloc;

mod id;
mod next;
mod operate;
mod retry;
#[cfg(test)]
mod rules;
mod step;
mod tx;
#[cfg(test)]
mod walk;

pub use id::{ParseXidError, Timestamp, Xid, XidSource};
pub use next::{Next, What, next};
pub use operate::Act;
pub use retry::RetryPolicy;
pub use step::{Call, Compensation, Effects, Event, Note, Reply, RowStatus, UNREACHABLE_PATIENCE_MS, step};
pub use tx::{BRANCHES_MAX, Branch, Cause, Operation, Operations, Parked, Progress, Status, Tx, acyclic};
