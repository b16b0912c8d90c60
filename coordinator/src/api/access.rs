//! Who may call what: the check in front of every method of a port, made before its request is read.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tercet_proto::admin::v1::admin_server;
use tercet_proto::coordinator::v1::coordinator_server;
use tercet_proto::participant::v1::sessions_server;
use tercet_secure::files::Watched;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response, header};

use super::errors::denied;
use crate::tokens::{Identity, Level, Role, Tokens};

/// The metadata that tells the methods of the admin port who calls.
const OPERATOR: &str = "x-tercet-operator";

/// The tokens that count; `None`: everyone may do everything.
#[derive(Clone, Default)]
pub(crate) struct Access(pub Option<Arc<Watched<Tokens>>>);

impl<S> tower_layer::Layer<S> for Access {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { inner, access: self.clone() }
    }
}

/// What is behind the check.
#[derive(Clone)]
pub(crate) struct Checked<S> {
    inner: S,
    access: Access,
}

impl<S: Service<Request<Body>, Response = Response<Body>>> Service<Request<Body>> for Checked<S> {
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(tokens) = &self.access.0 {
            match check(&tokens.current(), &request) {
                Ok(Some(identity)) => {
                    // Whatever the caller says its name is.
                    let name = HeaderValue::from_str(&identity.name).expect("a token's name is visible ASCII");
                    request.headers_mut().insert(OPERATOR, name);
                    request.extensions_mut().insert(identity);
                }
                Ok(None) => {}
                Err(refusal) => return Either::Right(ready(Ok(refusal.into_http()))),
            }
        }
        Either::Left(self.inner.call(request))
    }
}

fn check(tokens: &Tokens, request: &Request<Body>) -> Result<Option<Arc<Identity>>, Status> {
    let mut parts = request.uri().path().trim_start_matches('/').split('/');
    let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some(needed) = needed(service, method) else { return Ok(None) };
    let missing = || Status::unauthenticated("authorization: a bearer token is required");
    let header = request.headers().get(header::AUTHORIZATION).ok_or_else(missing)?;
    let bearer = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(missing)?;
    let identity = tokens.find(bearer);
    let identity = identity.ok_or_else(|| Status::unauthenticated("authorization: the token is not known"))?;
    let held = match (&identity.role, needed) {
        (Role::Initiator, Needed::Initiator) | (Role::Participant { .. }, Needed::Participant) => true,
        (Role::Operator(level), Needed::Operator(needed)) => *level >= needed,
        (Role::Initiator | Role::Participant { .. } | Role::Operator(_), _) => false,
    };
    if held { Ok(Some(identity)) } else { Err(denied(&identity.name, &format!("{method} needs {}", needed.text()))) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    Initiator,
    Participant,
    Operator(Level),
}

impl Needed {
    const fn text(self) -> &'static str {
        match self {
            Self::Initiator => "the token of an initiator",
            Self::Participant => "the token of a participant",
            Self::Operator(Level::View) => "the token of an operator",
            Self::Operator(Level::Operate) => "the token of an operator with the level operate",
            Self::Operator(Level::Force) => "the token of an operator with the level force",
        }
    }
}

/// What a method needs; `None`: nothing, as health and reflection tell nobody anything.
fn needed(service: &str, method: &str) -> Option<Needed> {
    match service {
        coordinator_server::SERVICE_NAME => Some(Needed::Initiator),
        sessions_server::SERVICE_NAME => Some(Needed::Participant),
        admin_server::SERVICE_NAME => Some(Needed::Operator(level(method))),
        _ => None,
    }
}

/// Who looks changes nothing, who operates hurries or holds up what the machine does anyway, and who forces decides in
/// its place. What has no line here needs the most.
fn level(method: &str) -> Level {
    match method {
        "GetTransaction" | "WatchTransaction" | "ListTransactions" | "ListCompensations" | "GetStatistics"
        | "Explain" | "ListParticipants" | "ListLimits" | "ListAudit" => Level::View,
        "Retry" | "Park" | "Resume" | "SetRetryPolicy" | "RetryCompensations" | "Drain" | "SetLimit" => Level::Operate,
        _ => Level::Force,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_needs_the_most() {
        let admin = |method| needed("tercet.admin.v1.Admin", method).unwrap();
        assert_eq!(admin("ListTransactions"), Needed::Operator(Level::View));
        assert_eq!(admin("Retry"), Needed::Operator(Level::Operate));
        assert_eq!(admin("ForceConfirm"), Needed::Operator(Level::Force));
        assert_eq!(admin("NotThereYet"), Needed::Operator(Level::Force));
        assert_eq!(needed("grpc.health.v1.Health", "Check"), None);
        assert!(Level::View < Level::Operate && Level::Operate < Level::Force);
    }
}
