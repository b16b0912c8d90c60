//! Which pages of other origins may call the API (the Fetch standard, 3.3). Tokens are sent by the page itself, so no
//! cookie is ever let along.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use axum::http::{Method, Response, StatusCode};

use crate::limits::PREFLIGHT_AGE;

/// The origins that are let in.
pub(crate) struct Cors {
    origins: Vec<String>,
    any: bool,
}

impl Cors {
    pub(crate) fn new(origins: &[String]) -> Self {
        Self { origins: origins.to_vec(), any: origins.iter().any(|origin| origin == "*") }
    }

    /// The answer to a browser that asks before it sends.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        let origin = headers.get(ORIGIN)?;
        if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        if self.allow(answer, Some(origin)) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT"));
            let allowed =
                "authorization, content-type, idempotency-key, traceparent, x-request-id, x-user-authorization";
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
            answer.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE.as_secs().into());
        }
        Some(response)
    }

    /// Lets the page read the answer, when it is of an origin that may.
    pub(crate) fn allow(&self, answer: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        if self.any {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if self.origins.is_empty() {
            return false;
        } else {
            // A cache may not give one origin's answer to another.
            answer.append(VARY, HeaderValue::from_static("origin"));
            let Some(origin) =
                origin.filter(|origin| self.origins.iter().any(|own| origin.as_bytes() == own.as_bytes()))
            else {
                return false;
            };
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(cors: &Cors, origin: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        assert!(cors.preflight(&Method::GET, &headers).is_none());
        let response = cors.preflight(&Method::OPTIONS, &headers).expect("it is a preflight");
        let answer = response.headers();
        assert_eq!(answer.contains_key(ACCESS_CONTROL_ALLOW_METHODS), answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        answer.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_listed_origins_are_let_in() {
        let cors = Cors::new(&["https://a.example".to_owned(), "https://b.example".to_owned()]);
        assert_eq!(allowed(&cors, "https://b.example").as_deref(), Some("https://b.example"));
        assert_eq!(allowed(&cors, "https://b.example.evil"), None);
        assert_eq!(allowed(&Cors::new(&[]), "https://a.example"), None);
        assert_eq!(allowed(&Cors::new(&["*".to_owned()]), "https://c.example").as_deref(), Some("*"));
    }
}
