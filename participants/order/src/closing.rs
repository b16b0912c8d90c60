//! Orders that were not paid in time, closed by one process at a time.
//!
//! It asks the redemption service to take each of them back, as a refund does: the coupons return as their rules allow
//! and the units are in stock again. The order itself refuses where it was paid meanwhile. Nothing is kept but the time
//! at which an order is looked at next: what can not be done now, or was begun by a process that died, is asked for
//! again [`AGAIN_MS`] later, and what is refused though nobody has paid it later and later. A lease in the database
//! says which process asks; when it dies, another has it [`LEASE`] later. Nothing else hangs on it: two that ask for
//! the same order get one refund.

use std::hash::{BuildHasher as _, RandomState};

use futures_util::StreamExt as _;
use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tercet_proto::coupon::v1::redemption_client::RedemptionClient;
use tercet_proto::coupon::v1::{RefundRequest, RefundState};
use tercet_rules::{Code, Fault};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tracing::{debug, info, warn};

use crate::limits::{AGAIN_MS, AGAIN_MS_MAX, AT_ONCE, CALL_MAX, LEASE, LOOK_MAX, PAGE, TICK};
use crate::metrics;
use crate::store::Key;
use crate::store::unpaid::Unpaid;

/// Why the order is refunded, in the business log.
const REASON: &str = "not paid in time";

/// The job of a process.
#[derive(Debug)]
pub(crate) struct Closing<Db: Unpaid> {
    pool: Pool<Db>,
    redemption: RedemptionClient<Channel>,
    /// Who it is among those that may have the job.
    runner: String,
}

impl<Db: Unpaid> Closing<Db> {
    pub(crate) fn new(pool: Pool<Db>, redemption: Channel) -> Self {
        let runner = format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(0));
        Self { pool, redemption: RedemptionClient::new(redemption), runner }
    }

    /// A round every [`TICK`], until the service stops.
    ///
    /// # Errors
    /// Never.
    pub(crate) async fn run(self, mut stop: Stop) -> Result<(), Failure> {
        while !stop.is_requested() {
            let round = async {
                sleep(TICK).await;
                self.round().await;
            };
            tokio::select! {
                () = stop.requested() => {}
                () = round => {}
            }
        }
        if let Err(error) = self.leave().await {
            warn!(%error, "the lease on unpaid orders ends by itself");
        }
        Ok(())
    }

    async fn round(&self) {
        match self.all().await {
            Ok(None) => {}
            Ok(Some(closed)) => {
                metrics::round("done");
                if closed > 0 {
                    info!(orders = closed, "orders were not paid in time and are closed");
                }
            }
            Err(error) => {
                metrics::round("failed");
                warn!(%error, "orders that were not paid in time wait for the next round");
            }
        }
    }

    /// Closes what is due, and says how much; `None` where another process has the job. Ends where the redemption
    /// service can do nothing of a page now.
    async fn all(&self) -> sqlx::Result<Option<usize>> {
        let mut closed = 0;
        loop {
            let Some(due) = timeout(LOOK_MAX, self.take()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))? else {
                return Ok(None);
            };
            let full = due.len() == PAGE as usize;
            let outcomes = futures_util::stream::iter(due.into_iter().map(|(key, user_id)| self.close(key, user_id)));
            let outcomes: Vec<Outcome> = outcomes.buffer_unordered(AT_ONCE).collect().await;
            closed += outcomes.iter().filter(|outcome| **outcome == Outcome::Closed).count();
            if !full || outcomes.iter().all(|outcome| *outcome == Outcome::Later) {
                return Ok(Some(closed));
            }
        }
    }

    /// Some that are due, to be looked at again after a while.
    async fn take(&self) -> sqlx::Result<Option<Vec<(Key, i64)>>> {
        let mut connection = self.pool.acquire().await?;
        if !Db::lease_job(&mut connection, &self.runner, LEASE.as_millis() as i64).await? {
            return Ok(None);
        }
        let due = Db::unpaid(&mut connection, PAGE).await?;
        if !due.is_empty() {
            let mut keys: Vec<Key> = due.iter().map(|(key, _)| *key).collect();
            keys.sort_unstable();
            Db::look_later(&mut connection, &keys, AGAIN_MS).await?;
        }
        Ok(Some(due))
    }

    async fn leave(&self) -> sqlx::Result<()> {
        let leave = async { Db::leave_job(&mut *self.pool.acquire().await?, &self.runner).await };
        timeout(LOOK_MAX, leave).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn close(&self, key: Key, user_id: i64) -> Outcome {
        let Key { shop_id, order_id } = key;
        let (reason, only_unpaid) = (REASON.to_owned(), true);
        let operator = String::new();
        let mut request = Request::new(RefundRequest { user_id, order_id, shop_id, operator, reason, only_unpaid });
        request.set_timeout(CALL_MAX);
        // The request's own timeout begins once there is a connection.
        let told = timeout(CALL_MAX, self.redemption.clone().refund(request)).await;
        match told.unwrap_or_else(|_| Err(Status::deadline_exceeded("the redemption service says nothing"))) {
            Ok(told) => {
                let done = told.get_ref().state() == RefundState::Done;
                metrics::unpaid(if done { "CLOSED" } else { "SUBMITTED" });
                Outcome::Closed
            }
            Err(status) => {
                // What no service of ours says is that it is not there.
                let code = Fault::from_status(&status).map_or(Code::SystemBusy, |fault| fault.code);
                if matches!(code, Code::NotRefundable | Code::NotFound) {
                    return self.kept(key, code, &status).await;
                }
                metrics::unpaid(code.name());
                warn!(%key, %status, "an order that was not paid in time is closed later");
                Outcome::Later
            }
        }
    }

    /// Of one whose closing was refused: it was paid or taken back meanwhile, or a person has to look.
    async fn kept(&self, key: Key, code: Code, status: &Status) -> Outcome {
        let put_off = async {
            let mut connection = self.pool.acquire().await?;
            Db::put_off(&mut connection, key, AGAIN_MS, AGAIN_MS_MAX).await
        };
        match timeout(LOOK_MAX, put_off).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(true) => {
                metrics::unpaid("STUCK");
                warn!(%key, %status, "an order that nobody has paid in time can not be closed");
            }
            Ok(false) => {
                metrics::unpaid(code.name());
                debug!(%key, "an order was paid, or taken back, when it was to be closed");
            }
            Err(error) => {
                metrics::unpaid(Code::SystemBusy.name());
                warn!(%key, %error, "an order whose closing was refused is looked at later");
            }
        }
        Outcome::Kept
    }
}

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is closed, or will be.
    Closed,
    /// It is not one to be closed.
    Kept,
    /// It could not be done.
    Later,
}

#[cfg(test)]
mod tests;
