//! The way of every request, from its head to its answer: the same for all routes.

use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::metrics::Gauge;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, RawPathParams};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use axum::routing::{MethodFilter, MethodRouter};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tercet_rules::{Code, Fault, Invalid, Language, Limit};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower_service::Service as _;

use crate::config::Config;
use crate::cors::Cors;
use crate::limits::{BODIES_BYTES_MAX, FORGET_EVERY, KEY_BYTES_MAX};
use crate::metrics::{self, OfRoute};
use crate::problem;
use crate::rates::Limiter;
use crate::route::{Arrived, Consent, Key, Route};
use crate::schema::Texts;
use crate::services::{Context, Services};
use crate::token::{Identity, Role, Verifier};
use crate::trace::{Ids, REQUEST_ID};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const USER_AUTHORIZATION: HeaderName = HeaderName::from_static("x-user-authorization");

/// What answers requests.
pub(crate) struct Front {
    inner: Arc<Inner>,
    router: Router,
    nowhere: Arc<OfRoute>,
    in_flight: Gauge,
}

/// What the routes share.
struct Inner {
    services: Arc<Services>,
    verifier: Verifier,
    limiter: Limiter,
    cors: Cors,
    ids: Ids,
    places: Semaphore,
    /// A permit for each byte of a body.
    bodies: Semaphore,
    timeout: Duration,
    client_timeout: Duration,
    is_stopping: AtomicBool,
}

/// What is known of a request before its route is.
#[derive(Clone)]
struct Asked {
    request_id: Arc<str>,
    language: Language,
    origin: IpAddr,
}

/// What became of a request, for the way back.
#[derive(Clone)]
struct Outcome {
    metrics: Arc<OfRoute>,
    code: Option<Code>,
}

impl Front {
    pub(crate) fn new(routes: Vec<Route>, services: Services, verifier: Verifier, config: &Config) -> Self {
        let inner = Arc::new(Inner {
            services: Arc::new(services),
            verifier,
            limiter: Limiter::new(&config.rates),
            cors: Cors::new(&config.cors_origin),
            ids: Ids::default(),
            places: Semaphore::new(config.concurrency),
            bodies: Semaphore::new(BODIES_BYTES_MAX),
            timeout: Duration::from_millis(config.timeout_ms),
            client_timeout: Duration::from_millis(config.client_timeout_ms),
            is_stopping: AtomicBool::new(false),
        });
        let router =
            routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, serve(&inner, route)));
        let nowhere = Arc::new(OfRoute::new("none", "any"));
        let (limited, metrics) = (Arc::clone(&inner), Arc::clone(&nowhere));
        let router = router.fallback(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let fault = || Code::NoRoute.fault([("path", path)]);
            ready(refuse(&request, &metrics, limited.counted(&request).err().unwrap_or_else(fault)))
        });
        let (limited, metrics) = (Arc::clone(&inner), Arc::clone(&nowhere));
        let router = router.method_not_allowed_fallback(move |request: Request<Body>| {
            let (path, method) = (request.uri().path().to_owned(), request.method().to_string());
            let fault = || Code::NoMethod.fault([("path", path), ("method", method)]);
            ready(refuse(&request, &metrics, limited.counted(&request).err().unwrap_or_else(fault)))
        });
        Self { inner, router, nowhere, in_flight: metrics::in_flight() }
    }

    /// Takes no further requests.
    pub(crate) fn stop(&self) {
        self.inner.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Keeps keys and limits in order until it is dropped.
    pub(crate) async fn upkeep(&self) {
        let forget = async {
            loop {
                tokio::time::sleep(FORGET_EVERY).await;
                self.inner.limiter.forget();
            }
        };
        tokio::join!(self.inner.verifier.refresh(), forget);
    }

    /// Answers a request.
    pub(crate) async fn call(&self, mut request: Request<Body>, peer: SocketAddr) -> Response<Body> {
        let (inner, started) = (&self.inner, Instant::now());
        let headers = request.headers();
        let from = headers.get(header::ORIGIN).cloned();
        let preflight = inner.cors.preflight(request.method(), headers);
        let forwarded = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let asked = Asked {
            request_id: inner.ids.request(headers.get(REQUEST_ID)),
            language: problem::language(headers),
            origin: inner.limiter.origin(peer.ip(), forwarded),
        };
        let request_id = Arc::clone(&asked.request_id);
        request.extensions_mut().insert(asked);
        let mut response = match preflight {
            Some(response) => match inner.counted(&request) {
                Ok(()) => return response,
                Err(fault) => refuse(&request, &self.nowhere, fault),
            },
            None => {
                self.in_flight.increment(1);
                let answered = self.router.clone().call(request).await;
                self.in_flight.decrement(1);
                match answered {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        tell(&mut response, &request_id, started.elapsed());
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, HeaderValue::from_str(&request_id).expect("it was checked, or made here"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        inner.cors.allow(headers, from.as_ref());
        response
    }
}

/// Leaves a trace of a request in metrics and logs.
fn tell(response: &mut Response<Body>, request_id: &str, took: Duration) {
    let status = response.status();
    let Some(Outcome { metrics, code }) = response.extensions_mut().remove::<Outcome>() else { return };
    metrics.answered(status, took);
    if let Some(code) = code {
        metrics.failed(code);
    }
    let (route, code, took_ms) = (metrics.name(), code.map(Code::name), took.as_millis() as u64);
    if status.is_server_error() {
        tracing::warn!(request_id, route, code, took_ms, "a request failed");
    } else {
        tracing::debug!(request_id, route, code, took_ms, status = status.as_u16(), "answered");
    }
}

/// What axum calls for this route.
fn serve(inner: &Arc<Inner>, route: Route) -> MethodRouter {
    let filter = MethodFilter::try_from(route.method.clone()).expect("the table has methods that there are");
    let metrics = Arc::new(OfRoute::new(route.name, method(&route.method)));
    let (inner, route) = (Arc::clone(inner), Arc::new(route));
    MethodRouter::new().on(filter, move |request: Request<Body>| {
        let (inner, route, metrics) = (Arc::clone(&inner), Arc::clone(&route), Arc::clone(&metrics));
        async move {
            let (mut parts, body) = request.into_parts();
            let asked = parts.extensions.remove::<Asked>().expect("the front puts it there");
            let (mut response, code) = match inner.answer(&route, &mut parts, body, &asked).await {
                Ok(response) => (response, None),
                Err(fault) => (problem::response(&fault, asked.language, &asked.request_id), Some(fault.code)),
            };
            response.extensions_mut().insert(Outcome { metrics, code });
            response
        }
    })
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        _ => "other",
    }
}

fn asked(request: &Request<Body>) -> &Asked {
    request.extensions().get().expect("the front puts it there")
}

fn refuse(request: &Request<Body>, metrics: &Arc<OfRoute>, fault: Fault) -> Response<Body> {
    let asked = asked(request);
    let mut response = problem::response(&fault, asked.language, &asked.request_id);
    response.extensions_mut().insert(Outcome { metrics: Arc::clone(metrics), code: Some(fault.code) });
    response
}

impl Inner {
    /// One more request that leads to no route.
    fn counted(&self, request: &Request<Body>) -> Result<(), Fault> {
        self.limiter.request(asked(request).origin)
    }

    /// Through all checks, the cheap ones first, to the handler.
    async fn answer(
        &self,
        route: &Route,
        parts: &mut Parts,
        body: Body,
        asked: &Asked,
    ) -> Result<Response<Body>, Fault> {
        let busy = || Code::SystemBusy.fault([]);
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(busy());
        }
        if !route.is_vital {
            self.limiter.request(asked.origin)?;
            if self.places.available_permits() == 0 {
                return Err(busy());
            }
        }
        let identity = match route.role {
            Some(role) => Some(self.identity(&parts.headers, role).await?),
            None => None,
        };
        let consenting = match &identity {
            Some(Identity::Shop { shop_id, .. }) if route.is_consented => {
                Some(self.consenting(&parts.headers, *shop_id).await?)
            }
            Some(_) | None => None,
        };
        if let (true, Some(Identity::User { user_id, .. })) = (route.is_claim, &identity) {
            self.limiter.claim(*user_id)?;
        }
        let idempotency_key = idempotency_key(&parts.headers, route.key)?;
        let path = RawPathParams::from_request_parts(parts, &()).await;
        let path = path.map_err(|_| Invalid::new("path", Limit::Text).malformed())?;
        let query = parts.uri.query().unwrap_or_default();
        let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let texts = path.iter().map(|(name, text)| (name, text.into()));
        let texts = Texts(texts.chain(query.iter().map(|(name, text)| (&**name, (&**text).into()))).collect());
        let (body, _room) = match route.body {
            Some(_) => self.body(route, &parts.headers, body).await?,
            None => (Bytes::new(), None),
        };
        // Not before the body is there: slow clients would take the places of others.
        let _place = if route.is_vital { None } else { Some(self.places.try_acquire().map_err(|_| busy())?) };
        let context = Context {
            services: Arc::clone(&self.services),
            request_id: Arc::clone(&asked.request_id),
            trace: self.ids.trace(&parts.headers),
            language: asked.language,
            deadline: Instant::now() + self.timeout,
            idempotency_key,
        };
        let answering = (route.handler)(Arrived { identity, consenting, texts, body, context });
        let answered = tokio::time::timeout(self.timeout, answering).await;
        answered.unwrap_or_else(|_| Err(Code::Timeout.fault([])))
    }

    /// Who calls, when he has this role.
    async fn identity(&self, headers: &HeaderMap, role: Role) -> Result<Identity, Fault> {
        let token = bearer(headers, &header::AUTHORIZATION).ok_or_else(|| Code::Unauthenticated.fault([]))?;
        let identity = self.verifier.verify(token).await?;
        if identity.role() == Some(role) {
            Ok(identity)
        } else {
            Err(Code::Forbidden.fault([("role", role.name().to_owned())]))
        }
    }

    /// The consent that a user has given to this shop. Whether it is for the order that is asked about, who knows that
    /// order asks.
    async fn consenting(&self, headers: &HeaderMap, shop_id: i64) -> Result<Consent, Fault> {
        let needed = || Code::ConsentNeeded.fault([]);
        let token = bearer(headers, &USER_AUTHORIZATION).ok_or_else(needed)?;
        let of_this_header = |fault: Fault| {
            let mut arguments = fault.arguments().clone();
            arguments.insert("header".to_owned(), USER_AUTHORIZATION.to_string());
            Fault::new(fault.code, arguments)
        };
        match self.verifier.verify(token).await.map_err(of_this_header)? {
            Identity::Consent { user_id, shop_id: own, order_id } if own == shop_id => {
                Ok(Consent { user_id, order_id })
            }
            Identity::Consent { .. } => Err(Code::ConsentOtherShop.fault([])),
            Identity::User { .. } | Identity::Shop { .. } | Identity::Operator { .. } => Err(needed()),
        }
    }

    /// The whole body, within the route's limits, and the room that it takes of what there is for all.
    async fn body(
        &self,
        route: &Route,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Fault> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(Code::NotJson.fault([]));
        }
        let too_large = || Code::TooLarge.fault([("limit", route.body_bytes_max.to_string())]);
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        // Nobody has to send what will be refused.
        if told.is_some_and(|length| length > route.body_bytes_max) {
            return Err(too_large());
        }
        let whole = async {
            let mut body = Limited::new(body, route.body_bytes_max);
            let (mut bytes, mut room) = (BytesMut::new(), None::<SemaphorePermit<'_>>);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                    true => too_large(),
                    false => Invalid::new("body", Limit::Complete).malformed(),
                })?;
                let Ok(data) = frame.into_data() else { continue };
                let count = u32::try_from(data.len()).map_err(|_| too_large())?;
                // As it comes: who says that he sends much and does not, takes no room from others.
                let more = self.bodies.try_acquire_many(count).map_err(|_| Code::SystemBusy.fault([]))?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
                bytes.extend_from_slice(&data);
            }
            Ok((bytes.freeze(), room))
        };
        let whole = tokio::time::timeout(self.client_timeout, whole).await;
        whole.unwrap_or_else(|_| Err(Code::TooSlow.fault([])))
    }
}

/// The bearer token that a header has.
fn bearer<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let (scheme, token) = headers.get(name)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The key of a request to a route that takes one; empty where there is none.
fn idempotency_key(headers: &HeaderMap, key: Key) -> Result<String, Fault> {
    let wrong = |limit| Fault::from(Invalid::new("idempotency-key", limit));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = match (key, values.next()) {
        (Key::Unused, _) | (Key::Taken, None) => return Ok(String::new()),
        (Key::Needed, None) => return Err(wrong(Limit::Given)),
        (Key::Taken | Key::Needed, Some(value)) => value,
    };
    if values.next().is_some() {
        return Err(wrong(Limit::Once));
    }
    let text = value.to_str().map_err(|_| wrong(Limit::Ascii))?;
    let fits = (1..=KEY_BYTES_MAX).contains(&text.len());
    if fits { Ok(text.to_owned()) } else { Err(wrong(Limit::Bytes(1, KEY_BYTES_MAX))) }
}
