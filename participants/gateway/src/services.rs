//! The services behind the gateway.

use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tercet::context::Traceparent;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::coupon::v1::redemption_client::RedemptionClient;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::log::v1::business_log_client::BusinessLogClient;
use tercet_proto::order::v1::orders_client::OrdersClient;
use tercet_proto::stock::v1::stocks_client::StocksClient;
use tercet_rules::{Code, Fault, Language};
use tercet_secure::client::Credentials;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::transport::{self, Channel};
use tonic::{Request, Response, Status};
use tower_service::Service;

use crate::config::Config;
use crate::limits::CONNECT_MAX;
use crate::terms::Known;

/// Services in the gateway's own process: it calls their routes as they are, on its own thread. Those that are left out
/// it calls at their URLs.
#[derive(Clone, Default)]
pub struct Within {
    /// The template service.
    pub template: Option<Routes>,
    /// The issuing service.
    pub issuing: Option<Routes>,
    /// The business log.
    pub business_log: Option<Routes>,
    /// The redemption service.
    pub redemption: Option<Routes>,
    /// The stock service.
    pub stock: Option<Routes>,
    /// The order service.
    pub order: Option<Routes>,
}

/// The way to a service.
#[derive(Clone)]
pub(crate) enum Way {
    Apart(Channel),
    Within(Routes),
}

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Apart(channel) => channel.poll_ready(cx),
            // Routes are ready at any time.
            Self::Within(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self {
            Self::Apart(channel) => channel.call(request).boxed(),
            Self::Within(routes) => {
                routes.call(request).map(|answered| answered.map_err(|never| match never {})).boxed()
            }
        }
    }
}

/// Clients of all services.
pub(crate) struct Services {
    pub(crate) templates: CouponTemplatesClient<Way>,
    pub(crate) issuing: IssuingClient<Way>,
    pub(crate) log: BusinessLogClient<Way>,
    pub(crate) redemption: RedemptionClient<Way>,
    pub(crate) stock: StocksClient<Way>,
    pub(crate) orders: OrdersClient<Way>,
    /// What they told of what coupons are good for.
    pub(crate) terms: Known,
}

impl Services {
    /// Connects at the first call to each, and again after each loss.
    ///
    /// # Errors
    /// When a URL or a file of the settings can not be used.
    pub(crate) fn new(config: &Config, within: Within) -> Result<Self, tercet_secure::Error> {
        let credentials = Credentials::load(&config.security)?;
        let way = |routes: Option<Routes>, url: &str| {
            if let Some(routes) = routes {
                return Ok(Way::Within(routes.prepare()));
            }
            let target = credentials.target(url)?.with(|endpoint| endpoint.connect_timeout(CONNECT_MAX));
            Ok::<_, tercet_secure::Error>(Way::Apart(target.connect_lazy()))
        };
        Ok(Self {
            templates: CouponTemplatesClient::new(way(within.template, &config.template)?),
            issuing: IssuingClient::new(way(within.issuing, &config.issuing)?),
            log: BusinessLogClient::new(way(within.business_log, &config.business_log)?),
            redemption: RedemptionClient::new(way(within.redemption, &config.redemption)?),
            stock: StocksClient::new(way(within.stock, &config.stock)?),
            orders: OrdersClient::new(way(within.order, &config.order)?),
            terms: Known::default(),
        })
    }
}

/// What goes with a request to the services that it needs.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) services: Arc<Services>,
    pub(crate) request_id: Arc<str>,
    pub(crate) trace: Traceparent,
    /// That the caller would rather read.
    pub(crate) language: Language,
    /// After it nobody waits any more.
    pub(crate) deadline: Instant,
    /// Where the route takes one and the caller has it; else empty.
    pub(crate) idempotency_key: String,
}

impl Context {
    /// For a service, with the trace, the id and the time that is left.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.unhurried(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }

    /// For a service whose answer lasts as long as its work.
    pub(crate) fn unhurried<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.trace.to_metadata(request.metadata_mut());
        let id = self.request_id.parse().expect("it was checked, or made here");
        request.metadata_mut().insert("x-request-id", id);
        request
    }
}

/// What a service told.
pub(crate) trait Told<T> {
    /// # Errors
    /// The service's error. What no service of ours says is [`Code::SystemBusy`] or [`Code::Timeout`]: nothing is known
    /// of the outcome.
    fn told(self) -> Result<T, Fault>;
}

impl<T> Told<T> for Result<Response<T>, Status> {
    fn told(self) -> Result<T, Fault> {
        self.map(Response::into_inner).map_err(|status| fault(&status))
    }
}

/// What a service's error is to the caller.
pub(crate) fn fault(status: &Status) -> Fault {
    use tonic::Code as Grpc;
    if let Some(fault) = Fault::from_status(status) {
        return fault;
    }
    let code = match status.code() {
        // What tonic says of a message that is longer than a service takes.
        Grpc::OutOfRange => Code::TooLarge,
        // The second is what tonic itself says when the time is over.
        Grpc::DeadlineExceeded | Grpc::Cancelled => Code::Timeout,
        // Nobody is there, the connection broke, or what is in between has had enough.
        Grpc::Unavailable | Grpc::Unknown | Grpc::ResourceExhausted | Grpc::Aborted => Code::SystemBusy,
        Grpc::Ok
        | Grpc::InvalidArgument
        | Grpc::NotFound
        | Grpc::AlreadyExists
        | Grpc::PermissionDenied
        | Grpc::FailedPrecondition
        | Grpc::Unimplemented
        | Grpc::Internal
        | Grpc::DataLoss
        | Grpc::Unauthenticated => Code::Internal,
    };
    tracing::warn!(%status, "a service did not answer as it should");
    if code == Code::TooLarge {
        let limit = status.message().rsplit("limit is: ").next().unwrap_or_default();
        return code.fault([("limit", limit.chars().take_while(char::is_ascii_digit).collect())]);
    }
    code.fault([])
}
