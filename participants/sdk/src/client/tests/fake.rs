//! A coordinator over a real socket whose every answer the test gives by hand.

use std::net::SocketAddr;
use std::time::Duration;

use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_server::{Coordinator, CoordinatorServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::context::Traceparent;

pub(crate) type Reply<A> = oneshot::Sender<Result<A, Status>>;
pub(crate) type Down<A> = mpsc::Sender<Result<A, Status>>;

/// A call that came in, and what answers it.
#[derive(Debug)]
pub(crate) enum Call {
    Submit(pb::SubmitRequest, Option<Traceparent>, Reply<pb::SubmitResponse>),
    Stream(Streaming<pb::SubmitStreamRequest>, Down<pb::SubmitStreamResponse>),
    Begin(pb::BeginRequest, Reply<pb::BeginResponse>),
    AddBranch(pb::AddBranchRequest, Reply<pb::AddBranchResponse>),
    Prepare(pb::PrepareRequest, Reply<pb::PrepareResponse>),
    Commit(pb::CommitRequest, Reply<pb::CommitResponse>),
    Rollback(pb::RollbackRequest, Reply<pb::RollbackResponse>),
    Get(pb::GetRequest, Reply<pb::GetResponse>),
    Watch(pb::WatchRequest, Down<pb::WatchResponse>),
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start_anywhere() -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        let router = tonic::transport::Server::builder().add_service(CoordinatorServer::new(Door(sender)));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, calls, server }
    }

    /// The next call, whatever it is. One that does not come fails the test instead of stopping it.
    pub(crate) async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(Duration::from_secs(10), self.calls.recv()).await;
        call.expect("another call comes").expect("the server runs as long as the fake")
    }

    pub(crate) async fn submit(&mut self) -> (pb::SubmitRequest, Reply<pb::SubmitResponse>) {
        let Call::Submit(request, _, reply) = self.call().await else { panic!("a submit comes next") };
        (request, reply)
    }

    pub(crate) async fn add_branch(&mut self) -> (pb::AddBranchRequest, Reply<pb::AddBranchResponse>) {
        let Call::AddBranch(request, reply) = self.call().await else { panic!("a branch comes next") };
        (request, reply)
    }

    pub(crate) async fn stream(&mut self) -> (Streaming<pb::SubmitStreamRequest>, Down<pb::SubmitStreamResponse>) {
        let Call::Stream(up, down) = self.call().await else { panic!("a stream comes next") };
        (up, down)
    }

    pub(crate) async fn watch(&mut self) -> (pb::WatchRequest, Down<pb::WatchResponse>) {
        let Call::Watch(request, down) = self.call().await else { panic!("a watch comes next") };
        (request, down)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Door(mpsc::UnboundedSender<Call>);

impl Door {
    async fn ask<A>(&self, call: impl FnOnce(Reply<A>) -> Call) -> Result<Response<A>, Status> {
        let (reply, answer) = oneshot::channel();
        self.0.send(call(reply)).map_err(|_| Status::unavailable("the test is over"))?;
        // A reply that is dropped is a call that never gets one.
        match answer.await {
            Ok(answer) => answer.map(Response::new),
            Err(_) => std::future::pending().await,
        }
    }

    fn open<A>(
        &self,
        call: impl FnOnce(Down<A>) -> Call,
    ) -> Result<Response<ReceiverStream<Result<A, Status>>>, Status> {
        let (down, answers) = mpsc::channel(16);
        self.0.send(call(down)).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[tonic::async_trait]
impl Coordinator for Door {
    type SubmitStreamStream = ReceiverStream<Result<pb::SubmitStreamResponse, Status>>;
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitResponse>, Status> {
        let traceparent = Traceparent::from_metadata(request.metadata());
        self.ask(|reply| Call::Submit(request.into_inner(), traceparent, reply)).await
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<pb::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        self.open(|down| Call::Stream(request.into_inner(), down))
    }

    async fn begin(&self, request: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
        self.ask(|reply| Call::Begin(request.into_inner(), reply)).await
    }

    async fn add_branch(
        &self,
        request: Request<pb::AddBranchRequest>,
    ) -> Result<Response<pb::AddBranchResponse>, Status> {
        self.ask(|reply| Call::AddBranch(request.into_inner(), reply)).await
    }

    async fn prepare(&self, request: Request<pb::PrepareRequest>) -> Result<Response<pb::PrepareResponse>, Status> {
        self.ask(|reply| Call::Prepare(request.into_inner(), reply)).await
    }

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Result<Response<pb::CommitResponse>, Status> {
        self.ask(|reply| Call::Commit(request.into_inner(), reply)).await
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Result<Response<pb::RollbackResponse>, Status> {
        self.ask(|reply| Call::Rollback(request.into_inner(), reply)).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        self.ask(|reply| Call::Get(request.into_inner(), reply)).await
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.open(|down| Call::Watch(request.into_inner(), down))
    }
}
