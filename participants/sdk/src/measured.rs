//! Rate, errors and time of every call of a service's own routes, by method.
//!
//! A call ends with the status that its caller is told: in the head of an answer that is nothing but an error, else in
//! the trailers, behind the last message of a stream. One that its caller gives up before is CANCELLED.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http_body::{Body, Frame};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;
use tower_layer::Layer;
use tower_service::Service;

use crate::metrics::OfMethod;

const STATUS: &str = "grpc-status";

/// The same routes, whose calls are counted as those of this service. `descriptors` tell which methods there are: calls
/// of others share one name, so that nobody invents series.
pub(crate) fn measured(
    service: &'static str,
    routes: Routes,
    descriptors: &[u8],
) -> Result<Routes, prost::DecodeError> {
    let set = FileDescriptorSet::decode(descriptors)?;
    let mut methods = Methods { at: HashMap::new(), all: vec![OfMethod::new(service, "other".to_owned())] };
    for file in &set.file {
        for own in &file.service {
            for method in own.method.iter().map(|method| method.name()) {
                let path = format!("/{}.{}/{method}", file.package(), own.name());
                methods.at.insert(path, methods.all.len());
                methods.all.push(OfMethod::new(service, format!("{}/{method}", own.name())));
            }
        }
    }
    Ok(routes.into_axum_router().layer(Counting(Arc::new(methods))).into())
}

struct Methods {
    /// By the path of a request.
    at: HashMap<String, usize>,
    /// The first one is whatever else is asked for.
    all: Vec<OfMethod>,
}

#[derive(Clone)]
struct Counting(Arc<Methods>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, methods: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = self.methods.at.get(request.uri().path()).copied().unwrap_or_default();
        let mut call = Call { methods: Arc::clone(&self.methods), method, began: Instant::now(), is_over: false };
        let answered = self.inner.call(request);
        Box::pin(async move {
            let response = answered.await?;
            call.look(response.headers());
            Ok(response.map(|body| Answer { body, call }))
        })
    }
}

/// A call that has begun.
struct Call {
    methods: Arc<Methods>,
    method: usize,
    began: Instant,
    is_over: bool,
}

impl Call {
    /// Ends it, if these tell its status.
    fn look(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.end(Code::from_bytes(status.as_bytes()));
        }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.methods.all[self.method].answered(code, self.began.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// An answer on its way.
struct Answer<R> {
    body: R,
    call: Call,
}

impl<R: Body + Unpin> Body for Answer<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.look(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tonic::Request;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{FILE_DESCRIPTOR_SET, HealthCheckRequest};

    use super::*;

    async fn call(routes: Routes, path: &'static str) -> tonic::Status {
        let mut any = tonic::client::Grpc::new(routes);
        any.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        any.unary(Request::new(HealthCheckRequest::default()), path, codec).await.unwrap_err()
    }

    #[tokio::test]
    async fn every_call_is_counted_once_by_its_method_and_what_it_came_to() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _here = ::metrics::set_default_local_recorder(&recorder);
        let (_reporter, health) = tonic_health::server::health_reporter();
        let routes = measured("shop", Routes::new(health), FILE_DESCRIPTOR_SET).unwrap();
        let mut client = HealthClient::new(routes.clone());
        let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
        client.check(of("")).await.unwrap();
        client.check(of("")).await.unwrap();
        client.check(of("nobody")).await.unwrap_err();
        // A stream has not ended before its caller is told so, or goes.
        let mut changes = client.watch(of("")).await.unwrap().into_inner();
        changes.message().await.unwrap().unwrap();
        let handle = recorder.handle();
        assert!(!handle.render().contains("Health/Watch"));
        drop(changes);
        for invented in ["/grpc.health.v1.Health/Chec", "/x.y/Z"] {
            assert_eq!(call(routes.clone(), invented).await.code(), Code::Unimplemented);
        }
        let shown = handle.render();
        let of = |name: &str| -> Vec<String> {
            let mut lines: Vec<_> = shown.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let wanted = [
            ("Health/Check", "NOT_FOUND", 1),
            ("Health/Check", "OK", 2),
            ("Health/Watch", "CANCELLED", 1),
            ("other", "UNIMPLEMENTED", 2),
        ];
        let line = |(method, code, count)| {
            format!("tercet_grpc_requests_total{{service=\"shop\",method=\"{method}\",code=\"{code}\"}} {count}")
        };
        assert_eq!(of("tercet_grpc_requests_total"), wanted.map(line), "{shown}");
        let line = |(method, count)| {
            format!("tercet_grpc_request_seconds_count{{service=\"shop\",method=\"{method}\"}} {count}")
        };
        let wanted = [("Health/Check", 3), ("Health/Watch", 1), ("other", 2)];
        assert_eq!(of("tercet_grpc_request_seconds_count"), wanted.map(line), "{shown}");
    }
}
