//! A transaction's changes as they become durable, across lost connections.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tercet_proto::coordinator::v1 as pb;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::link::{Link, is_lost};
use super::{Error, View, bytes_of};
use crate::retry::reconnect_delays;
use crate::xid::Xid;

pub(super) fn watch(link: Arc<Link>, xid: Xid, patience: Duration) -> BoxStream<'static, Result<View, Error>> {
    let watch = Watch { link, xid, patience, answers: None, version: None };
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let next = watch.next().await;
        let last = next.as_ref().map_or(true, View::ended);
        Some((next, (!last).then_some(watch)))
    })
    .boxed()
}

struct Watch {
    link: Arc<Link>,
    xid: Xid,
    patience: Duration,
    answers: Option<Streaming<pb::WatchResponse>>,
    /// Of the last view that was passed on.
    version: Option<u64>,
}

impl Watch {
    /// The next newer view. A coordinator that stays away longer than `patience` is an error.
    async fn next(&mut self) -> Result<View, Error> {
        let mut delays = reconnect_delays();
        let mut lost_since = None;
        loop {
            let (at, status) = match self.answer().await {
                Ok(view) if self.version.is_none_or(|version| view.version > version) => {
                    self.version = Some(view.version);
                    return View::from_answer(Some(view));
                }
                // A new connection begins with the state that was seen already.
                Ok(_) => {
                    lost_since = None;
                    continue;
                }
                Err(lost) => lost,
            };
            self.answers = None;
            let lost_at = *lost_since.get_or_insert_with(Instant::now);
            let delay = delays.next().filter(|_| is_lost(&status) && lost_at.elapsed() < self.patience);
            let Some(delay) = delay else { return Err(Error::from_status(status, String::new())) };
            self.link.leave(at);
            tokio::time::sleep(delay).await;
        }
    }

    async fn answer(&mut self) -> Result<pb::TransactionView, (usize, Status)> {
        let (at, mut coordinator) = self.link.pick();
        let answers = match &mut self.answers {
            Some(answers) => answers,
            empty @ None => {
                let request = self.link.request(pb::WatchRequest { xid: bytes_of(self.xid) });
                let answers = coordinator.watch(request).await.map_err(|status| (at, status))?;
                empty.insert(answers.into_inner())
            }
        };
        match answers.message().await {
            Ok(Some(pb::WatchResponse { transaction: Some(transaction) })) => Ok(transaction),
            Ok(Some(pb::WatchResponse { transaction: None })) => Err((at, Status::internal("no transaction"))),
            // A coordinator that stops ends its streams.
            Ok(None) => Err((at, Status::unavailable("the stream ended before the transaction"))),
            Err(status) => Err((at, status)),
        }
    }
}
