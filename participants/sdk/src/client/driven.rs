//! Transactions whose initiator calls the services itself.

use std::marker::PhantomData;

use tercet_proto::coordinator::v1 as pb;

use super::{Client, Error, View, Wait, bytes_of, link};
use crate::context::Context;
use crate::plan::{Branch, InvalidField};
use crate::xid::Xid;

/// A transaction driven by its initiator: add a branch, call the service with the branch's [`Context`], and so on, then
/// commit.
///
/// Dropping it does nothing: a transaction that nobody commits is cancelled at its deadline.
#[derive(Debug)]
pub struct Driven<M> {
    client: Client,
    xid: Xid,
    deadline_at_ms: u64,
    branch_count: u32,
    /// A branch was sent and no answer came: it may be there.
    unsure: bool,
    mode: PhantomData<fn() -> M>,
}

impl<M> Driven<M> {
    pub(super) fn new(client: Client, xid: Xid, deadline_at_ms: u64) -> Self {
        Self { client, xid, deadline_at_ms, branch_count: 0, unsure: false, mode: PhantomData }
    }

    /// The transaction's name.
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// When the coordinator cancels it, in milliseconds since 1970 on the coordinator's clock.
    pub fn deadline_at_ms(&self) -> u64 {
        self.deadline_at_ms
    }

    /// Adds a branch; it is durable when this returns. Only then call the service's try, with the returned context in
    /// its metadata.
    ///
    /// # Errors
    /// [`Error::AlreadyDecided`] when the deadline or somebody else was faster. After [`Error::Unknown`] the branch may
    /// or may not be there: add the same one again, or roll back.
    pub async fn add(&mut self, branch: Branch<M>) -> Result<Context, Error> {
        let index = self.branch_count;
        let request =
            pb::AddBranchRequest { xid: bytes_of(self.xid), branch: Some(branch.into_wire()?), index: Some(index) };
        // Set before the wait, which the caller may give up.
        self.unsure = true;
        let send = |mut to: link::Coordinator, request| async move { to.add_branch(request).await };
        let answer = self.client.link.call(request, None, self.client.options.timeout, send).await;
        let answer: pb::AddBranchResponse = match answer {
            Ok(answer) => answer,
            Err(status) => {
                let error = Error::from_status(status, String::new());
                self.unsure = matches!(error, Error::Unknown { .. });
                return Err(error);
            }
        };
        if answer.branch != index {
            return Err(Error::unreadable("another branch than the one that was added"));
        }
        self.branch_count += 1;
        self.unsure = false;
        Ok(Context { xid: self.xid, branch: index, not_after_ms: answer.not_after_ms })
    }

    /// Confirms every branch. The answer is the outcome that won, which is the deadline's when that was faster.
    ///
    /// # Errors
    /// [`Error::Refused`] while it is open whether a branch was added. [`Error::Unknown`]: safe to repeat.
    pub async fn commit(&self, wait: Wait) -> Result<View, Error> {
        if self.unsure {
            return Err(InvalidField::new("branches", "one has no answer yet: add it again or roll back").into());
        }
        self.client.commit(self.xid, wait).await
    }

    /// Cancels every branch, for this reason. The answer is the outcome that won.
    ///
    /// # Errors
    /// [`Error::Unknown`]: safe to repeat.
    pub async fn rollback(&self, reason: &str, wait: Wait) -> Result<View, Error> {
        self.client.rollback(self.xid, reason, wait).await
    }
}

/// A message that goes out once the sender's own local transaction has committed.
///
/// Dropping it does nothing: the sender is asked, and what its fence says is done.
#[derive(Debug)]
pub struct Prepared {
    client: Client,
    context: Context,
}

impl Prepared {
    pub(super) fn new(client: Client, context: Context) -> Self {
        Self { client, context }
    }

    /// The sender's branch, for the fence row that its local transaction writes.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The sender's local transaction has committed: deliver.
    ///
    /// # Errors
    /// [`Error::Unknown`]: safe to repeat, and to leave to the question that the sender is asked.
    pub async fn commit(&self, wait: Wait) -> Result<View, Error> {
        self.client.commit(self.context.xid, wait).await
    }

    /// The sender's local transaction was rolled back: forget the message.
    ///
    /// # Errors
    /// As [`Prepared::commit`].
    pub async fn rollback(&self, reason: &str, wait: Wait) -> Result<View, Error> {
        self.client.rollback(self.context.xid, reason, wait).await
    }
}
