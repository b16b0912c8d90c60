//! How a branch is called, whatever kind of endpoint stands behind its service.

use std::sync::Arc;

use tercet_core::{Call, Operation, Reply, Timestamp, Xid};
use tercet_proto::store::v1::Plan;

use crate::live::Words;

/// A call that the driver wants made.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Of which transaction.
    pub xid: Xid,
    /// Where the request, the service and the action are.
    pub plan: Arc<Plan>,
    /// Which branch and operation.
    pub call: Call,
}

/// An answer to a call.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Of which transaction.
    pub xid: Xid,
    /// Which branch.
    pub branch: u8,
    /// Which operation it answers.
    pub operation: Operation,
    /// Which attempt it answers.
    pub attempt: u32,
    /// The answer. No answer is [`Reply::Unknown`].
    pub reply: Reply,
    /// The participant's words.
    pub words: Words,
}

impl Outgoing {
    /// The service to call.
    pub fn service(&self) -> &str {
        self.plan.branches.get(usize::from(self.call.branch)).map_or("", |branch| &branch.service)
    }

    /// An answer to it without words.
    pub fn answered(&self, reply: Reply) -> Incoming {
        let Call { branch, operation, attempt, .. } = self.call;
        Incoming { xid: self.xid, branch, operation, attempt, reply, words: Words::default() }
    }
}

/// Makes calls. Answers come to the driver's inbox, in any order, late, repeatedly or never.
pub trait Caller: Send + 'static {
    /// Takes a call over. `false`: no instance of the service is connected and nothing will be sent; the driver is told
    /// when one is.
    fn call(&mut self, call: Outgoing) -> bool;

    /// Whether an instance of a service is connected.
    fn reaches(&self, service: &str) -> bool;

    /// What was taken over since the last flush may go out: batches form between two of them. Returns, as unreachable,
    /// what has waited for longer than it may: nothing of that was or will be sent.
    fn flush(&mut self) -> Vec<Incoming>;

    /// A transaction has durably ended: its participants may forget it once `not_after` has passed, which no call of it
    /// may outlive.
    fn forget(&mut self, xid: Xid, plan: &Plan, not_after: Timestamp);
}
