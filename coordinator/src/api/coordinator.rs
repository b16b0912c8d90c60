//! `tercet.coordinator.v1.Coordinator`: what initiators call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::Stream;
use tercet_core::{Event, Xid};
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_server::Coordinator;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::errors;
use super::patience::{patience, within};
use crate::door::Door;
use crate::driver::satisfied;
use crate::limits;
use crate::live::Live;
use crate::plan::{Invalid, Plan};
use crate::request::{Answer, End, Entry, Error, Input, Waits};
use crate::store::{Lookup, Record, Store};

/// How often a watched transaction is looked at.
const WATCH_MS: u64 = 50;

/// How often a stream looks whether the coordinator has caught up.
const BUSY_MS: u64 = 5;

/// Times that a transaction is fetched from the store and handed to the driver before a caller is told to come again.
const ADOPTIONS_MAX: usize = 5;

/// The service. Clones are one.
pub struct Service<S> {
    store: Arc<S>,
    door: Door,
    watches: Arc<AtomicUsize>,
}

impl<S> Clone for Service<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), door: self.door.clone(), watches: Arc::clone(&self.watches) }
    }
}

impl<S: Store> Service<S> {
    /// In front of a driver, behind its door, and its store.
    pub fn new(store: Arc<S>, door: Door) -> Self {
        Self { store, door, watches: Arc::default() }
    }

    /// Of what the door has let in.
    async fn start(&self, plan: Plan, wait: Waits) -> Result<pb::TransactionView, Error> {
        let (sender, receiver) = oneshot::channel();
        self.door.put(Input::Start { plan: Box::new(plan), wait, answer: Answer::One(sender) })?;
        let view = receiver.await.unwrap_or(Err(Error::Stopping))?;
        self.follow(view, wait).await
    }

    /// A repeat of something that rests, or is driven elsewhere, is answered from the store when its moment comes.
    async fn follow(&self, mut view: pb::TransactionView, wait: Waits) -> Result<pb::TransactionView, Error> {
        let repeated = view.repeated;
        while repeated && !satisfied_by(&view, wait) {
            tokio::time::sleep(Duration::from_millis(WATCH_MS)).await;
            if self.door.is_closed() {
                return Err(Error::Stopping);
            }
            let xid = Xid::from_slice(&view.xid).ok_or(Error::NotFound)?;
            let live = self.read(Lookup::Xid(xid)).await?;
            view = pb::TransactionView { repeated, ..live.view() };
            // As the first was told: nobody can say when it goes on.
            if live.tx.rests() {
                break;
            }
        }
        Ok(view)
    }

    async fn read(&self, lookup: Lookup) -> Result<Live, Error> {
        decode(&self.record(lookup).await?)
    }

    async fn record(&self, lookup: Lookup) -> Result<Record, Error> {
        let found = self.store.get(lookup).await;
        found.map_err(|error| Error::Unavailable { reason: error.to_string() })?.ok_or(Error::NotFound)
    }

    /// Commit or roll back, wherever the transaction is.
    async fn finish(&self, xid: Xid, end: End, wait: Waits) -> Result<pb::TransactionView, Error> {
        for _ in 0..ADOPTIONS_MAX {
            let (sender, receiver) = oneshot::channel();
            self.door.put(Input::Finish { xid, end: end.clone(), wait, answer: Answer::One(sender) })?;
            match receiver.await.unwrap_or(Err(Error::Stopping)) {
                Err(Error::NotHere) => {}
                told => return told,
            }
            let live = self.read(Lookup::Xid(xid)).await?;
            if end == End::Commit && !live.tx.manual && !live.tx.asks() {
                return Err(Error::Declared);
            }
            // Decided is decided: what remains has its own way to the end, and the caller is told the truth.
            if live.tx.status.decided() {
                let view = pb::TransactionView { repeated: true, ..live.view() };
                return self.follow(view, wait).await;
            }
            self.door.put(Input::Adopt { live: Box::new(live), event: Event::Woken })?;
        }
        Err(Error::Unavailable { reason: "the transaction keeps moving between coordinators".into() })
    }

    async fn add_branch(
        &self,
        xid: Xid,
        index: Option<u32>,
        branch: pb::Branch,
    ) -> Result<pb::AddBranchResponse, Error> {
        for _ in 0..ADOPTIONS_MAX {
            let (answer, receiver) = oneshot::channel();
            self.door.put(Input::AddBranch { xid, index, branch: Box::new(branch.clone()), answer })?;
            match receiver.await.unwrap_or(Err(Error::Stopping)) {
                Err(Error::NotHere) => {}
                told => {
                    let added = told?;
                    return Ok(pb::AddBranchResponse { branch: added.branch, not_after_ms: added.not_after.0 });
                }
            }
            let live = self.read(Lookup::Xid(xid)).await?;
            if live.tx.status.decided() {
                return Err(Error::AlreadyDecided { status: live.tx.status });
            }
            self.door.put(Input::Adopt { live: Box::new(live), event: Event::Woken })?;
        }
        Err(Error::Unavailable { reason: "the transaction keeps moving between coordinators".into() })
    }

    /// One entry of a stream into the driver; its answer goes to `answers`.
    fn submit_entry(&self, entry: pb::submit_stream_request::Entry, answers: &mpsc::UnboundedSender<Entry>) {
        let id = entry.id;
        let request = entry.request.unwrap_or_default();
        let admitted = self.door.admitted(branches(&request));
        let declared = admitted.and_then(|()| declared(request, Some(&entry.traceparent)));
        let started = declared.and_then(|(plan, wait)| {
            if !plan.idempotency_key.is_empty() {
                // It may be a repeat of something that is not in memory, and has to be followed.
                let (service, answers) = (self.clone(), answers.clone());
                tokio::spawn(async move { drop(answers.send((id, service.start(plan, wait).await))) });
                return Ok(());
            }
            let answer = Answer::Entry(id, answers.clone());
            self.door.put(Input::Start { plan: Box::new(plan), wait, answer })
        });
        if let Err(error) = started {
            // The receiver is gone only when the stream is.
            drop(answers.send((id, Err(error))));
        }
    }
}

/// What a request names, unchecked.
fn branches(request: &pb::SubmitRequest) -> &[pb::Branch] {
    request.transaction.as_ref().map_or(&[], |transaction| &transaction.branches)
}

fn satisfied_by(view: &pb::TransactionView, wait: Waits) -> bool {
    crate::names::status_from(view.status as u32).is_some_and(|status| satisfied(wait, status))
}

fn decode(record: &Record) -> Result<Live, Error> {
    Live::decode(record).map_err(|error| Error::Unstored { reason: error.to_string() })
}

fn declared(request: pb::SubmitRequest, traceparent: Option<&str>) -> Result<(Plan, Waits), Error> {
    let wait = request.wait().into();
    let missing = || Invalid { field: "transaction".into(), limit: "required".into() };
    let mut plan = Plan::declared(request.transaction.ok_or_else(missing)?)?;
    trace(&mut plan, traceparent);
    Ok((plan, wait))
}

fn trace(plan: &mut Plan, traceparent: Option<&str>) {
    // W3C: 55 characters. Anything else is not one, and tracing is no reason to refuse work.
    if let Some(traceparent) = traceparent.filter(|text| text.len() == 55) {
        traceparent.clone_into(&mut plan.record.traceparent);
    }
}

fn traceparent<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn parse_xid(bytes: &[u8]) -> Result<Xid, Error> {
    let invalid = || Invalid { field: "xid".into(), limit: "16 bytes".into() };
    Xid::from_slice(bytes).ok_or_else(|| invalid().into())
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Store> Coordinator for Service<S> {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitResponse>, Status> {
        let (traceparent, patience) = (traceparent(&request), patience(&request));
        let submitted = async {
            let request = self.door.admit(request.into_inner(), branches, patience).await?;
            let (plan, wait) = declared(request, traceparent.as_deref())?;
            within(patience, self.start(plan, wait)).await
        };
        let view = submitted.await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(pb::SubmitResponse { transaction: Some(view) }))
    }

    type SubmitStreamStream = Streamed<pb::SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<pb::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let mut entries = request.into_inner();
        let (answers, mut answered) = mpsc::unbounded_channel::<Entry>();
        let (down, responses) = mpsc::channel(4);
        let service = self.clone();
        // What is read and not answered yet; the stream is read no further past its limit.
        let room = Arc::new(Semaphore::new(limits::STREAM_OUTSTANDING_MAX));
        let free = Arc::clone(&room);
        tokio::spawn(async move {
            while let Some(Ok(request)) = entries.next().await {
                for entry in request.entries {
                    match Arc::clone(&room).acquire_owned().await {
                        Ok(permit) => permit.forget(),
                        Err(_) => return,
                    }
                    // Last, so that it still holds when the entry is looked at.
                    while service.door.busy().is_some() && !service.door.is_closed() {
                        tokio::time::sleep(Duration::from_millis(BUSY_MS)).await;
                    }
                    service.submit_entry(entry, &answers);
                }
            }
        });
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(256);
            while answered.recv_many(&mut batch, 256).await > 0 {
                free.add_permits(batch.len());
                let entries = batch.drain(..).map(|(id, result)| pb::submit_stream_response::Entry {
                    id,
                    result: Some(match result {
                        Ok(view) => pb::submit_stream_response::entry::Result::Transaction(view),
                        Err(error) => pb::submit_stream_response::entry::Result::Error(errors::entry(&error)),
                    }),
                });
                let response = pb::SubmitStreamResponse { entries: entries.collect() };
                if down.send(Ok(response)).await.is_err() {
                    free.close();
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn begin(&self, request: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
        let (traceparent, patience) = (traceparent(&request), patience(&request));
        let begun = async {
            let mut plan = Plan::begun(self.door.admit(request.into_inner(), |_| &[], patience).await?)?;
            trace(&mut plan, traceparent.as_deref());
            within(patience, self.start(plan, Waits::Accepted)).await
        };
        let view = begun.await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(pb::BeginResponse { xid: view.xid, deadline_at_ms: view.deadline_at_ms }))
    }

    async fn add_branch(
        &self,
        request: Request<pb::AddBranchRequest>,
    ) -> Result<Response<pb::AddBranchResponse>, Status> {
        let patience = patience(&request);
        let request = request.into_inner();
        let added = async {
            let branch = request.branch.unwrap_or_default();
            self.door.extends(&branch)?;
            self.add_branch(parse_xid(&request.xid)?, request.index, branch).await
        };
        within(patience, added).await.map(Response::new).map_err(|error| errors::status(&error))
    }

    async fn prepare(&self, request: Request<pb::PrepareRequest>) -> Result<Response<pb::PrepareResponse>, Status> {
        let (traceparent, patience) = (traceparent(&request), patience(&request));
        let prepared = async {
            let request = self.door.admit(request.into_inner(), |request| &request.receivers, patience).await?;
            let mut plan = Plan::prepared(request)?;
            trace(&mut plan, traceparent.as_deref());
            within(patience, self.start(plan, Waits::Accepted)).await
        };
        let view = prepared.await.map_err(|error| errors::status(&error))?;
        // The sender's local transaction may take until it is asked; then the question decides.
        Ok(Response::new(pb::PrepareResponse { xid: view.xid, branch: 0, not_after_ms: view.deadline_at_ms }))
    }

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Result<Response<pb::CommitResponse>, Status> {
        let patience = patience(&request);
        let request = request.into_inner();
        let wait = request.wait().into();
        let committed = async { self.finish(parse_xid(&request.xid)?, End::Commit, wait).await };
        let view = within(patience, committed).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(pb::CommitResponse { transaction: Some(view) }))
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Result<Response<pb::RollbackResponse>, Status> {
        let patience = patience(&request);
        let request = request.into_inner();
        let wait = request.wait().into();
        let rolled_back =
            async { self.finish(parse_xid(&request.xid)?, End::Rollback { reason: request.reason }, wait).await };
        let view = within(patience, rolled_back).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(pb::RollbackResponse { transaction: Some(view) }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let patience = patience(&request);
        let found = async {
            let lookup = match request.into_inner().key {
                Some(pb::get_request::Key::Xid(xid)) => Lookup::Xid(parse_xid(&xid)?),
                Some(pb::get_request::Key::IdempotencyKey(key)) => Lookup::IdempotencyKey(key),
                None => return Err(Invalid { field: "key".into(), limit: "required".into() }.into()),
            };
            self.read(lookup).await
        };
        let live = within(patience, found).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(pb::GetResponse { transaction: Some(live.view()) }))
    }

    type WatchStream = Streamed<pb::WatchResponse>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let xid = parse_xid(&request.into_inner().xid).map_err(|error| errors::status(&error))?;
        let first = self.read(Lookup::Xid(xid)).await.map_err(|error| errors::status(&error))?;
        let watches = Arc::clone(&self.watches);
        if watches.fetch_add(1, Ordering::Relaxed) >= limits::WATCHES_MAX {
            watches.fetch_sub(1, Ordering::Relaxed);
            let error = Error::Overloaded { what: "watches", limit: limits::WATCHES_MAX };
            return Err(errors::status(&error));
        }
        let (sender, receiver) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            service.follow_watch(first, xid, sender).await;
            watches.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl<S: Store> Service<S> {
    async fn follow_watch(&self, first: Live, xid: Xid, sender: mpsc::Sender<Result<pb::WatchResponse, Status>>) {
        let mut view = first.view();
        loop {
            let (version, ended) = (view.version, satisfied_by(&view, Waits::Ended));
            if sender.send(Ok(pb::WatchResponse { transaction: Some(view) })).await.is_err() || ended {
                return;
            }
            view = loop {
                tokio::time::sleep(Duration::from_millis(WATCH_MS)).await;
                if sender.is_closed() || self.door.is_closed() {
                    return;
                }
                match self.read(Lookup::Xid(xid)).await {
                    Ok(live) if live.version > version => break live.view(),
                    Ok(_) => {}
                    Err(error) => {
                        // Whoever watches may have gone.
                        drop(sender.send(Err(errors::status(&error))).await);
                        return;
                    }
                }
            };
        }
    }
}
