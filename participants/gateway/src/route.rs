//! What a route is: an address, who may call it, what it takes and gives, and what answers it.
//!
//! All of this is told once, in the table of [`crate::routes`]. The router, the checks before a handler, the OpenAPI
//! document and the labels of metrics are made from it.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use tercet_rules::{Code, Fault};

use crate::limits::BODY_BYTES_MAX;
use crate::schema::{self, Field, Params, Schema, Schemas, Texts};
use crate::services::Context;
use crate::token::{Identity, Role};

/// An answer, or why there is none.
pub(crate) type Answer<A> = Result<Reply<A>, Fault>;

/// What is answered, and how HTTP calls that.
pub(crate) struct Reply<A> {
    status: StatusCode,
    value: A,
}

impl<A> Reply<A> {
    /// As it is.
    pub(crate) const fn ok(value: A) -> Self {
        Self { status: StatusCode::OK, value }
    }

    /// It is new, or as it was when this was asked before.
    pub(crate) const fn made(value: A, is_new: bool) -> Self {
        Self { status: if is_new { StatusCode::CREATED } else { StatusCode::OK }, value }
    }
}

/// What a handler gets.
pub(crate) struct Call<C, P, B> {
    pub(crate) caller: C,
    pub(crate) params: P,
    pub(crate) body: B,
    pub(crate) context: Context,
}

/// Who calls, as a route knows him: its kind is the role that the route needs.
pub(crate) trait Caller: Sized + Send + 'static {
    const ROLE: Option<Role>;

    /// `None` where it is somebody else.
    fn of(identity: Option<Identity>) -> Option<Self>;
}

/// Whoever it is.
pub(crate) struct Anyone;

/// A user.
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) groups: Vec<String>,
}

/// A person of the platform.
pub(crate) struct Operator {
    pub(crate) name: String,
}

impl Caller for Anyone {
    const ROLE: Option<Role> = None;

    fn of(_: Option<Identity>) -> Option<Self> {
        Some(Self)
    }
}

impl Caller for User {
    const ROLE: Option<Role> = Some(Role::User);

    fn of(identity: Option<Identity>) -> Option<Self> {
        match identity? {
            Identity::User { user_id: id, groups } => Some(Self { id, groups }),
            Identity::Shop { .. } | Identity::Operator { .. } => None,
        }
    }
}

impl Caller for Operator {
    const ROLE: Option<Role> = Some(Role::Operator);

    fn of(identity: Option<Identity>) -> Option<Self> {
        match identity? {
            Identity::Operator { name } => Some(Self { name }),
            Identity::Shop { .. } | Identity::User { .. } => None,
        }
    }
}

/// A request past all checks that are alike for all routes.
pub(crate) struct Arrived<'a> {
    pub(crate) identity: Option<Identity>,
    pub(crate) texts: Texts<'a>,
    pub(crate) body: Bytes,
    pub(crate) context: Context,
}

type Handler = Box<dyn Fn(Arrived<'_>) -> BoxFuture<'static, Result<Response<Body>, Fault>> + Send + Sync>;

/// A line of the table.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// In metrics and in the document.
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    pub(crate) role: Option<Role>,
    /// How HTTP calls its answers that are no errors.
    pub(crate) statuses: &'static [u16],
    /// What it fails with, besides what any route does.
    pub(crate) codes: &'static [Code],
    pub(crate) body_bytes_max: usize,
    /// Whether it is a claim, of which a user has only so many.
    pub(crate) is_claim: bool,
    /// Whether it needs an idempotency key.
    pub(crate) is_keyed: bool,
    /// Whether it answers even when everything is busy.
    pub(crate) is_vital: bool,
    pub(crate) params: fn(&mut Schemas) -> Vec<Field>,
    pub(crate) body: Option<fn(&mut Schemas) -> Value>,
    pub(crate) answer: Given,
    pub(crate) handler: Handler,
}

/// What a route gives.
pub(crate) enum Given {
    /// JSON of this schema.
    Json(fn(&mut Schemas) -> Value),
    /// A document of this kind.
    Document(&'static str),
}

impl Route {
    /// A route with the handler that answers it.
    pub(crate) fn new<C, P, B, A, F>(
        method: Method,
        path: &'static str,
        name: &'static str,
        handler: fn(Call<C, P, B>) -> F,
    ) -> Self
    where
        C: Caller,
        P: Params + Send + 'static,
        B: schema::Body + Schema + Send + 'static,
        A: Schema + Serialize,
        F: Future<Output = Answer<A>> + Send + 'static,
    {
        let answer = move |arrived: Arrived<'_>| {
            let call = call::<C, P, B>(arrived);
            let answering = call.map(handler);
            Box::pin(async move {
                let Reply { status, value } = answering?.await?;
                json(status, &value)
            }) as BoxFuture<'static, _>
        };
        Self {
            method,
            path,
            name,
            says: "",
            role: C::ROLE,
            statuses: &[200],
            codes: &[],
            body_bytes_max: BODY_BYTES_MAX,
            is_claim: false,
            is_keyed: false,
            is_vital: false,
            params: P::fields,
            body: B::EXPECTED.then_some(B::schema as fn(&mut Schemas) -> Value),
            answer: Given::Json(A::schema),
            handler: Box::new(answer),
        }
    }

    /// A route that always gives the same document.
    pub(crate) fn document(path: &'static str, name: &'static str, kind: &'static str, document: Bytes) -> Self {
        let answer = move |_: Arrived<'_>| {
            let mut response = Response::new(Body::from(document.clone()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            Box::pin(std::future::ready(Ok(response))) as BoxFuture<'static, _>
        };
        Self {
            method: Method::GET,
            path,
            name,
            says: "",
            role: None,
            statuses: &[200],
            codes: &[],
            body_bytes_max: BODY_BYTES_MAX,
            is_claim: false,
            is_keyed: false,
            is_vital: true,
            params: |_| Vec::new(),
            body: None,
            answer: Given::Document(kind),
            handler: Box::new(answer),
        }
    }

    /// What it does, for people.
    pub(crate) const fn says(mut self, says: &'static str) -> Self {
        self.says = says;
        self
    }

    /// How HTTP calls its answers that are no errors, where that is not 200 alone.
    pub(crate) const fn answers(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    /// What it may fail with, besides what any route does.
    pub(crate) const fn fails(mut self, codes: &'static [Code]) -> Self {
        self.codes = codes;
        self
    }

    /// Takes bodies of up to so many bytes.
    pub(crate) const fn takes(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }

    /// Needs an idempotency key.
    pub(crate) const fn keyed(mut self) -> Self {
        self.is_keyed = true;
        self
    }

    /// Answers even when everything is busy.
    pub(crate) const fn vital(mut self) -> Self {
        self.is_vital = true;
        self
    }
}

fn call<C: Caller, P: Params, B: schema::Body>(arrived: Arrived<'_>) -> Result<Call<C, P, B>, Fault> {
    let role = C::ROLE.map_or("", Role::name);
    let forbidden = || Code::Forbidden.fault([("role", role.to_owned())]);
    let caller = C::of(arrived.identity).ok_or_else(forbidden)?;
    arrived.texts.only(P::NAMES)?;
    let params = P::read(&arrived.texts)?;
    let body = B::read(&arrived.body)?;
    Ok(Call { caller, params, body, context: arrived.context })
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Fault> {
    let text = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer has no form");
        Code::Internal.fault([])
    })?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
