//! What a route is: an address, who may call it, what it takes and gives, and what answers it.
//!
//! All of this is told once, in the table of [`crate::routes`]. The router, the checks before a handler, the OpenAPI
//! document and the labels of metrics are made from it.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use serde::Serialize;
use serde_json::Value;
use tercet_rules::{Code, Fault};

use crate::limits::BODY_BYTES_MAX;
use crate::problem;
use crate::schema::{self, Field, Nothing, Params, Schema, Schemas, Texts};
use crate::services::Context;
use crate::token::{Identity, Role};

/// An answer, or why there is none.
pub(crate) type Answer<A> = Result<Reply<A>, Fault>;

/// An answer that comes in parts, or why there is none.
pub(crate) type Lines<A> = Result<BoxStream<'static, Result<A, Fault>>, Fault>;

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

    /// It will be done.
    pub(crate) const fn accepted(value: A) -> Self {
        Self { status: StatusCode::ACCEPTED, value }
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
    /// Whether it asks for a user, by whose consent.
    const IS_CONSENTED: bool = false;

    /// `None` where it is somebody else.
    fn of(identity: Option<Identity>, consenting: Option<Consent>) -> Option<Self>;
}

/// Whoever it is.
pub(crate) struct Anyone;

/// A user.
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) groups: Vec<String>,
}

/// A person of a shop.
pub(crate) struct Shop {
    /// The shop's number.
    pub(crate) id: i64,
    /// The person's name.
    pub(crate) name: String,
}

/// A person of a shop, by the consent of a user.
pub(crate) struct ShopForUser {
    pub(crate) shop: Shop,
    consent: Consent,
}

impl ShopForUser {
    /// The user whose coupons the shop may use for this order of its own.
    ///
    /// # Errors
    /// [`Code::ConsentOtherOrder`] where he has consented to another one alone, or to one and this one is not named.
    pub(crate) fn user_for(&self, order_id: Option<i64>) -> Result<i64, Fault> {
        match self.consent.order_id {
            Some(only) if order_id != Some(only) => {
                Err(Code::ConsentOtherOrder.fault([("order_id", only.to_string())]))
            }
            Some(_) | None => Ok(self.consent.user_id),
        }
    }
}

/// A user's word that the shop that asks may use his coupons.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consent {
    pub(crate) user_id: i64,
    /// For this order alone; `None`: for any.
    pub(crate) order_id: Option<i64>,
}

/// A person of the platform.
pub(crate) struct Operator {
    pub(crate) name: String,
}

impl Caller for Anyone {
    const ROLE: Option<Role> = None;

    fn of(_: Option<Identity>, _: Option<Consent>) -> Option<Self> {
        Some(Self)
    }
}

impl Caller for User {
    const ROLE: Option<Role> = Some(Role::User);

    fn of(identity: Option<Identity>, _: Option<Consent>) -> Option<Self> {
        match identity? {
            Identity::User { user_id: id, groups } => Some(Self { id, groups }),
            Identity::Consent { .. } | Identity::Shop { .. } | Identity::Operator { .. } => None,
        }
    }
}

impl Caller for Shop {
    const ROLE: Option<Role> = Some(Role::Shop);

    fn of(identity: Option<Identity>, _: Option<Consent>) -> Option<Self> {
        match identity? {
            Identity::Shop { shop_id: id, name } => Some(Self { id, name }),
            Identity::User { .. } | Identity::Consent { .. } | Identity::Operator { .. } => None,
        }
    }
}

impl Caller for ShopForUser {
    const ROLE: Option<Role> = Shop::ROLE;
    const IS_CONSENTED: bool = true;

    fn of(identity: Option<Identity>, consenting: Option<Consent>) -> Option<Self> {
        Some(Self { shop: Shop::of(identity, None)?, consent: consenting? })
    }
}

impl Caller for Operator {
    const ROLE: Option<Role> = Some(Role::Operator);

    fn of(identity: Option<Identity>, _: Option<Consent>) -> Option<Self> {
        match identity? {
            Identity::Operator { name } => Some(Self { name }),
            Identity::Shop { .. } | Identity::User { .. } | Identity::Consent { .. } => None,
        }
    }
}

/// A request past all checks that are alike for all routes.
pub(crate) struct Arrived<'a> {
    pub(crate) identity: Option<Identity>,
    /// Of the user, to what a shop does for him.
    pub(crate) consenting: Option<Consent>,
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
    /// Whether a user has to consent.
    pub(crate) is_consented: bool,
    /// How HTTP calls its answers that are no errors.
    pub(crate) statuses: &'static [u16],
    /// What it fails with, besides what any route does.
    pub(crate) codes: &'static [Code],
    pub(crate) body_bytes_max: usize,
    /// Whether it is a claim, of which a user has only so many.
    pub(crate) is_claim: bool,
    pub(crate) key: Key,
    /// Whether it answers even when everything is busy, and whoever asks however often.
    pub(crate) is_vital: bool,
    pub(crate) params: fn(&mut Schemas) -> Vec<Field>,
    pub(crate) body: Option<fn(&mut Schemas) -> Value>,
    pub(crate) answer: Given,
    pub(crate) handler: Handler,
}

/// What a route does with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing.
    Unused,
    /// The same request again is done once, if it has one.
    Taken,
    /// It is refused without one.
    Needed,
}

/// What a route gives.
pub(crate) enum Given {
    /// JSON of this schema.
    Json(fn(&mut Schemas) -> Value),
    /// JSON of this schema on each line.
    Lines(fn(&mut Schemas) -> Value),
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
            let answering = call(arrived).map(handler);
            Box::pin(async move {
                let Reply { status, value } = answering?.await?;
                json(status, &value)
            }) as BoxFuture<'static, _>
        };
        Self::taking::<C, P, B>(method, path, name, Given::Json(A::schema), Box::new(answer))
    }

    /// A route whose answer comes line by line.
    pub(crate) fn lines<C, P, B, A, F>(
        method: Method,
        path: &'static str,
        name: &'static str,
        handler: fn(Call<C, P, B>) -> F,
    ) -> Self
    where
        C: Caller,
        P: Params + Send + 'static,
        B: schema::Body + Schema + Send + 'static,
        A: Schema + Serialize + Send + 'static,
        F: Future<Output = Lines<A>> + Send + 'static,
    {
        let answer = move |arrived: Arrived<'_>| {
            let context = arrived.context.clone();
            let answering = call(arrived).map(handler);
            Box::pin(async move { lines(answering?.await?, context).await }) as BoxFuture<'static, _>
        };
        Self::taking::<C, P, B>(method, path, name, Given::Lines(A::schema), Box::new(answer))
    }

    /// A route that always gives the same document.
    pub(crate) fn document(path: &'static str, name: &'static str, kind: &'static str, document: Bytes) -> Self {
        let answer = move |_: Arrived<'_>| {
            let response = answered(StatusCode::OK, kind, document.clone());
            Box::pin(std::future::ready(Ok(response))) as BoxFuture<'static, _>
        };
        let given = Given::Document(kind);
        Self::taking::<Anyone, Nothing, Nothing>(Method::GET, path, name, given, Box::new(answer))
    }

    fn taking<C: Caller, P: Params, B: schema::Body + Schema>(
        method: Method,
        path: &'static str,
        name: &'static str,
        answer: Given,
        handler: Handler,
    ) -> Self {
        Self {
            method,
            path,
            name,
            says: "",
            role: C::ROLE,
            is_consented: C::IS_CONSENTED,
            statuses: &[200],
            codes: &[],
            body_bytes_max: BODY_BYTES_MAX,
            is_claim: false,
            key: Key::Unused,
            is_vital: false,
            params: P::fields,
            body: B::EXPECTED.then_some(B::schema as fn(&mut Schemas) -> Value),
            answer,
            handler,
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
        self.key = Key::Needed;
        self
    }

    /// Takes an idempotency key from those who have one.
    pub(crate) const fn takes_key(mut self) -> Self {
        self.key = Key::Taken;
        self
    }

    /// Is a claim, of which a user has only so many.
    pub(crate) const fn claim(mut self) -> Self {
        self.is_claim = true;
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
    let caller = C::of(arrived.identity, arrived.consenting).ok_or_else(forbidden)?;
    arrived.texts.only(P::NAMES)?;
    let params = P::read(&arrived.texts)?;
    let body = B::read(&arrived.body)?;
    Ok(Call { caller, params, body, context: arrived.context })
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Fault> {
    Ok(answered(status, "application/json", form(value)?))
}

/// The first line decides how HTTP calls the answer. An error after it is a line too, the last one.
async fn lines<A: Serialize + Send + 'static>(
    mut lines: BoxStream<'static, Result<A, Fault>>,
    context: Context,
) -> Result<Response<Body>, Fault> {
    let first = lines.next().await.transpose()?;
    let lines = stream::iter(first.map(Ok)).chain(lines).map(move |line| {
        let mut text = match line.and_then(|line| form(&line)) {
            Ok(text) => text,
            Err(fault) => problem::text(&fault, context.language, &context.request_id).into_bytes(),
        };
        text.push(b'\n');
        Ok::<_, Infallible>(text)
    });
    Ok(answered(StatusCode::OK, "application/x-ndjson", Body::from_stream(lines)))
}

fn form(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer has no form");
        Code::Internal.fault([])
    })
}

fn answered(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
